"""A model writing on from several beginnings at once, by tokens, each of them drawn by random numbers of its own.

`generate` of Transformers draws all rows of a batch from one stream of random numbers, so what it writes to a prompt hangs on
what else is in the batch. Here a row's tokens are decided by that row's numbers alone: a batch can be put together anew, or a
part of it be written later, and what is written stays the same, but for rounding where a batch has another shape. Beginnings are
padded on the left, which position ids and the mask make up for; rows that have ended leave the batch. Rows of the head beyond the
tokenizer are never chosen.
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

from limbeck.models.cached import read_on
from limbeck.models.language_model import LanguageModel
from limbeck.types import tempered


@dataclass(frozen=True)
class Continuation:
    """The tokens that were written on, without the one that ended them; ``ended``: there was such a one."""

    tokens: tuple[int, ...]
    ended: bool


@torch.inference_mode()
def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    uniforms: Float[np.ndarray, "B max_new_tokens"],
) -> list[Continuation]:
    """What follows each beginning, up to an end token or ``max_new_tokens`` tokens; at ``temperature`` 0 the likeliest each time.

    ``uniforms`` in [0, 1) decide the tokens of each row. A beginning has at least one token, and the context room for it and
    ``max_new_tokens`` more: that is for the caller to see to.
    """
    stops = np.array(sorted(stop_tokens(model)))
    tokens, mask = _padded(prompts, device=model.device)
    position = (mask.cumsum(-1) - 1).clamp(min=0)
    row = np.arange(len(prompts))  # of each row that is left, which beginning's it is
    written: list[list[int]] = [[] for _ in prompts]
    ended = np.zeros(len(prompts), dtype=bool)
    cache: Any = None
    for step in range(max_new_tokens):
        logits, cache = read_on(model.model, tokens, cache, attention_mask=mask, position_ids=position)
        logits = logits[:, : model.vocab]
        if temperature == 0:
            chosen = logits.argmax(-1).cpu().numpy()
        else:
            chosen = draw_tokens(tempered(logits, temperature), np.arange(len(row)), uniforms[row, step])
        still = ~np.isin(chosen, stops)
        ended[row[~still]] = True
        for i, token in zip(row[still].tolist(), chosen[still].tolist(), strict=True):
            written[i].append(token)
        if not still.any():
            break
        if not still.all():
            left = torch.from_numpy(np.flatnonzero(still)).to(model.device)
            cache.batch_select_indices(left)
            mask, position, row = mask[left], position[left], row[still]
        tokens = torch.from_numpy(chosen[still][:, None]).to(model.device)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], -1)
        position = position[:, -1:] + 1
    return [Continuation(tuple(ids), bool(end)) for ids, end in zip(written, ended, strict=True)]


def stop_tokens(model: LanguageModel) -> set[int]:
    """Ids of all tokens that end a text: those of its generation settings, and the one that closes documents."""
    generation = model.model.generation_config
    given = generation.eos_token_id if generation is not None else None
    listed = given if isinstance(given, list) else [given]
    return {token for token in [*listed, model.end] if token is not None}


def draw_tokens(
    logits: Float[Tensor, "rows V"], row: Int[np.ndarray, " samples"], uniforms: Float[np.ndarray, " samples"]
) -> Int[np.ndarray, " samples"]:
    """A token for each sample from the distribution of its row: the first whose cumulated probability exceeds its number."""
    reached = logits.double().softmax(-1).cumsum(-1)
    reached /= reached[:, -1:].clone()  # rounding leaves the last not quite 1
    # One rising line through all rows, the first from 0 to 1, the next from 1 to 2: all samples are looked up at once.
    reached += torch.arange(len(reached), device=logits.device)[:, None]
    marks = np.minimum(row + uniforms, np.nextafter(row + 1.0, 0.0))  # which a number near 1 would round up to
    found = torch.searchsorted(reached.reshape(-1), torch.from_numpy(marks).to(logits.device), right=True)
    chosen: np.ndarray = found.cpu().numpy() - row * logits.shape[1]
    return chosen


def decoded_completion(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], tokens: Sequence[int], *, special: bool = False
) -> str:
    """The text that tokens add to a beginning's, with the space between; with or without ``special`` tokens.

    Half a character that a later token would complete is left out.
    """

    def text_of(ids: Sequence[int]) -> str:
        return tokenizer.decode(list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False)

    before, whole = text_of(prompt), text_of([*prompt, *tokens])
    return (whole[len(before) :] if whole.startswith(before) else text_of(tokens)).rstrip("\ufffd")


def _padded(prompts: Sequence[Sequence[int]], *, device: torch.device) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """(tokens, mask) with all beginnings at the right; which token stands before them does not matter."""
    longest = max(map(len, prompts))
    tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, longest - len(prompt) :] = 1
    return tokens.to(device), mask.to(device)
