"""A model writing on from a prompt, the likeliest token each time, with a key-value cache.

A generator rather than `generate`: what is timed is the model and nothing else, the end token is ours to heed or not,
and rows of the head beyond the tokenizer are never chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from limbeck.models.cached import read_on
from limbeck.models.language_model import LanguageModel


def generate_greedy(model: LanguageModel, prompt: Sequence[int]) -> Iterator[int]:
    """The tokens that follow, without end. The first comes after the prompt is read, each further one after a step."""
    cache: Any = None
    tokens = torch.tensor([list(prompt)], device=model.device)
    while True:
        tokens, cache = _step(model, tokens, cache)
        yield int(tokens)


@torch.inference_mode()
def _step(model: LanguageModel, tokens: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
    logits, cache = read_on(model.model, tokens, cache)
    return logits[:, : model.vocab].argmax(-1, keepdim=True), cache
