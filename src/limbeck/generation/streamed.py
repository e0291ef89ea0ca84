"""One completion, token by token as it comes, for a person who waits for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from limbeck.generation.local import draw_tokens, stop_tokens
from limbeck.models.cached import read_on
from limbeck.models.language_model import LanguageModel
from limbeck.types import tempered


def streamed(
    model: LanguageModel, prompt: Sequence[int], *, temperature: float, random: np.random.Generator
) -> Iterator[int]:
    """The tokens after a prompt up to one that ends a text, which is not given; greedy at ``temperature`` 0.

    ``prompt`` has at least one token. Rows of the head beyond the tokenizer are never chosen.
    """
    stops = stop_tokens(model)
    cache: Any = None
    token, ids = -1, torch.tensor([list(prompt)], device=model.device)
    while True:
        with torch.inference_mode():
            logits, cache = read_on(model.model, ids, cache)
            logits = logits[:, : model.vocab].float()
            if temperature == 0:
                token = int(logits.argmax(-1))
            else:
                token = int(draw_tokens(tempered(logits, temperature), np.zeros(1, np.int64), random.random(1))[0])
        if token in stops:
            return
        yield token
        ids = torch.tensor([[token]], device=model.device)
