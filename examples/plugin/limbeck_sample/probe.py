"""How often the next token is among the five likeliest, as a probe."""

from collections.abc import Iterator

import numpy as np
import torch

from limbeck import Reading
from limbeck.models.language_model import LanguageModel
from limbeck.probes import mean_interval
from limbeck.probes.named import TEXT, ProbeContext, probe


@probe("top5", reads=TEXT)
@torch.no_grad()
def top5(model: LanguageModel, teacher: LanguageModel | None, context: ProbeContext) -> Iterator[Reading]:
    """The share of held-out tokens among the model's five likeliest, with an interval over documents."""
    text = context.held_out()
    hits, tokens = np.zeros((2, text.store.documents))
    for batch in text.batches():
        counted = batch.weight.flatten() > 0
        guesses = model(batch).logits(counted.nonzero()[:, 0]).topk(5).indices
        hit = (guesses == batch.targets.flatten()[counted][:, None]).any(-1)
        document = batch.document.flatten()[counted].cpu().numpy()
        np.add.at(hits, document, hit.cpu().numpy())
        np.add.at(tokens, document, 1)
    found = mean_interval(hits, tokens)
    yield Reading("", "top5", "top5_accuracy", found.value, "share", found.n, found.low, found.high)
