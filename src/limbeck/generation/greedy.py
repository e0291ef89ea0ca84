"""Greedy generation from one prompt with a key-value cache.

It is a Python generator and does not use Transformers' `generate`, so that only the model is timed, the caller decides what the
end token does, and rows of the head beyond the tokenizer are never chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from limbeck.models.language_model import LanguageModel


def generate_greedy(model: LanguageModel, prompt: Sequence[int]) -> Iterator[int]:
    """The most probable next tokens, without end: the first after the prompt was read, each further one after one step."""
    cache: Any = None
    tokens = torch.tensor([list(prompt)], device=model.device)
    while True:
        tokens, cache = _step(model, tokens, cache)
        yield int(tokens)


@torch.inference_mode()
def _step(model: LanguageModel, tokens: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
    logits, cache = model.read_on(tokens, cache)
    return logits[:, : model.vocab].argmax(-1, keepdim=True), cache
