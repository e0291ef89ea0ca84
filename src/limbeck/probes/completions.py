"""Log-likelihoods of given completions of prompts, without generation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Float

from limbeck.errors import Mismatch
from limbeck.models.cached import last_places
from limbeck.models.language_model import LanguageModel
from limbeck.probes.pass_until import spelled


def log_likelihood(
    model: LanguageModel, pairs: Sequence[tuple[str, str]], *, rows: int = 32
) -> Float[np.ndarray, " pairs"]:
    """log p in nats of each completion given its prompt, for (prompt, completion) pairs: the sum over its usual tokens.

    What follows the completion does not count. Pairs of the same lengths form batches of ``rows``, without padding. Raises
    Mismatch if a pair is longer than the model's context.
    """
    tokens = [(i, *spelled(model, prompt, answer)) for i, (prompt, answer) in enumerate(pairs)]
    for i, prompt, answer in tokens:
        if len(prompt) + len(answer) > model.context:
            raise Mismatch(
                f"the prompt {pairs[i][0][:60]!r} takes {len(prompt) + len(answer)} tokens with its answer, and the context of "
                f"{model.name} is {model.context}: use a model with a longer context"
            )
    found = np.zeros(len(pairs))
    tokens.sort(key=lambda one: (len(one[1]), len(one[2])))
    for _, same in groupby(tokens, key=lambda one: (len(one[1]), len(one[2]))):
        group = list(same)
        for start in range(0, len(group), rows):
            part = group[start : start + rows]
            found[[i for i, _, _ in part]] = _batch(model, [(prompt, answer) for _, prompt, answer in part])
    return found


@torch.inference_mode()
def _batch(model: LanguageModel, pairs: Sequence[tuple[list[int], list[int]]]) -> Float[np.ndarray, " pairs"]:
    tokens = torch.tensor([[*prompt, *answer] for prompt, answer in pairs], device=model.device)
    completions = tokens[:, len(pairs[0][0]) :]
    places = last_places(model.model, tokens, completions.shape[1] + 1)
    outputs = model.model(input_ids=tokens, use_cache=False, logits_to_keep=places)
    log_q = outputs.logits[:, :-1, : model.vocab].double().log_softmax(-1)
    log_p = log_q.gather(-1, completions[..., None]).squeeze(-1).sum(-1)
    return np.asarray(log_p.cpu().numpy())
