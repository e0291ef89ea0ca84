"""Batched generation with a local model, where each row has its own random numbers.

Transformers' `generate` samples all rows of a batch from one random stream, so a completion depends on the other prompts of its
batch. Here a row's tokens depend on that row's numbers alone: batches can be formed anew, or part of a batch generated later,
with the same completions, apart from rounding between batches of different shapes. Prompts are padded on the left, with position
ids and a mask to match. Finished rows leave the batch. Rows of the head beyond the tokenizer are never chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from limbeck.models.cached import select_rows
from limbeck.models.language_model import LanguageModel
from limbeck.types import tempered


@dataclass(frozen=True)
class Continuation:
    """The generated tokens of one prompt, without the stop token that ended them, ``stop``; None where none did."""

    tokens: tuple[int, ...]
    stop: int | None

    @property
    def finished(self) -> bool:
        """Whether there was a stop token."""
        return self.stop is not None


@torch.inference_mode()
def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float | Sequence[float] = 1.0,
    uniforms: Float[np.ndarray, "B max_new_tokens"],
) -> list[Continuation]:
    """Generates a completion of each prompt, up to a stop token or ``max_new_tokens`` tokens; greedy at ``temperature`` 0.

    ``temperature`` is one for all prompts, or one for each.
    ``uniforms`` (B, max_new_tokens) are random numbers in [0, 1) that decide the tokens of each row. Every prompt must have at
    least one token, and fit the model's context together with ``max_new_tokens`` more; this is not checked.
    """
    stops = np.array(sorted(stop_tokens(model)))
    tokens, mask = _padded(prompts, device=model.device)
    position = (mask.cumsum(-1) - 1).clamp(min=0)
    row = np.arange(len(prompts))  # the prompt of each remaining row
    generated: list[list[int]] = [[] for _ in prompts]
    ended: list[int | None] = [None] * len(prompts)
    temperatures = np.broadcast_to(np.asarray(temperature, dtype=float), len(prompts))
    cache: Any = None
    for step in range(max_new_tokens):
        logits, cache = model.read_on(tokens, cache, attention_mask=mask, position_ids=position)
        chosen = _chosen(logits[:, : model.vocab], temperatures[row], uniforms[row, step])
        continues = ~np.isin(chosen, stops)
        for i, token in zip(row[~continues].tolist(), chosen[~continues].tolist(), strict=True):
            ended[i] = token
        for i, token in zip(row[continues].tolist(), chosen[continues].tolist(), strict=True):
            generated[i].append(token)
        if not continues.any():
            break
        if not continues.all():
            left = torch.from_numpy(np.flatnonzero(continues)).to(model.device)
            select_rows(cache, left)
            mask, position, row = mask[left], position[left], row[continues]
        tokens = torch.from_numpy(chosen[continues][:, None]).to(model.device)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], -1)
        position = position[:, -1:] + 1
    return [Continuation(tuple(ids), stop) for ids, stop in zip(generated, ended, strict=True)]


def _chosen(
    logits: Float[Tensor, "rows V"], temperatures: Float[np.ndarray, " rows"], uniforms: Float[np.ndarray, " rows"]
) -> Int[np.ndarray, " rows"]:
    """The next token of each row: the most probable one at temperature 0, else one that is drawn."""
    chosen = np.zeros(len(temperatures), dtype=np.int64)
    for temperature in np.unique(temperatures):
        (rows,) = np.nonzero(temperatures == temperature)
        some = logits if len(rows) == len(logits) else logits[torch.from_numpy(rows).to(logits.device)]
        if temperature == 0:
            chosen[rows] = some.argmax(-1).cpu().numpy()
        else:
            chosen[rows] = draw_tokens(tempered(some, float(temperature)), np.arange(len(rows)), uniforms[rows])
    return chosen


def stop_tokens(model: LanguageModel) -> set[int]:
    """Ids of all tokens that end a text: those in the model's generation settings, and the end-of-document token."""
    generation = model.model.generation_config
    given = generation.eos_token_id if generation is not None else None
    listed = given if isinstance(given, list) else [given]
    return {token for token in [*listed, model.end] if token is not None}


def draw_tokens(
    logits: Float[Tensor, "rows V"], row: Int[np.ndarray, " samples"], uniforms: Float[np.ndarray, " samples"]
) -> Int[np.ndarray, " samples"]:
    """Samples a token for each of the samples: the first whose cumulative probability in its row exceeds its uniform number.

    ``row`` is the row of ``logits`` that each sample is from.
    """
    reached = logits.double().softmax(-1).cumsum(-1)
    reached /= reached[:, -1:].clone()  # by rounding the last is not exactly 1
    # One increasing sequence over all rows, the first from 0 to 1, the next from 1 to 2: one search finds all samples.
    reached += torch.arange(len(reached), device=logits.device)[:, None]
    marks = np.minimum(
        row + uniforms, np.nextafter(row + 1.0, 0.0)
    )  # a number near 1 must not round up to the next row
    found = torch.searchsorted(reached.reshape(-1), torch.from_numpy(marks).to(logits.device), right=True)
    chosen: np.ndarray = found.cpu().numpy() - row * logits.shape[1]
    return chosen


def decoded_completion(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], tokens: Sequence[int], *, special: bool = False
) -> str:
    """The text that generated ``tokens`` add to that of a prompt, with the space between; with or without ``special`` tokens.

    An incomplete character at the end is left out.
    """

    def text_of(ids: Sequence[int]) -> str:
        return tokenizer.decode(list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False)

    before, whole = text_of(prompt), text_of([*prompt, *tokens])
    return (whole[len(before) :] if whole.startswith(before) else text_of(tokens)).rstrip("\ufffd")


def _padded(prompts: Sequence[Sequence[int]], *, device: torch.device) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """(tokens, mask) with all prompts padded on the left; the padding token does not matter."""
    longest = max(map(len, prompts))
    tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, longest - len(prompt) :] = 1
    return tokens.to(device), mask.to(device)
