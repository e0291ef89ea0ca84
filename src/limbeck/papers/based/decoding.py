"""Measures the generation speed and state size of two decoders after contexts of some length, in turns, in one process.

No context is read. A state of zeros, of the size that the context would leave, takes the same time, and thousands of tokens of
context cost nothing. Turns alternate, so that other load of the machine slows both decoders. Ratios of neighbouring turns are
compared.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from limbeck.models.decoder import LimbeckConfig, LimbeckForCausalLM, MixerCache


@dataclass(frozen=True)
class DecodingCell:
    """Patterns of ``mixers`` compared after ``context`` tokens, in ``turns`` of ``tokens`` tokens with ``rows`` at once."""

    name: str
    mixers: tuple[tuple[str, ...], ...]
    width: int
    layers: int
    heads: int
    vocab: int
    context: int
    rows: int
    tokens: int
    turns: int
    seed: int


def time_decoding(cell: DecodingCell, device: str) -> dict[str, Any]:
    """The tokens/s of each pattern over all rows by turn, and the bytes of its state after the context."""
    models = [new_decoder(cell, pattern).to(device).eval() for pattern in cell.mixers]
    states = [filled(model, cell) for model in models]
    rates: list[list[float]] = [[] for _ in models]
    for turn in range(cell.turns + 1):
        for model, state, found in zip(models, states, rates, strict=True):
            rate = _tokens_per_s(model, copied(state), cell)
            if turn:  # the first turn is a warm-up
                found.append(rate)
    return {"tokens_per_s": rates, "state_bytes": [state.nbytes() for state in states]}


def new_decoder(cell: DecodingCell, mixers: tuple[str, ...]) -> LimbeckForCausalLM:
    """A decoder of untrained weights, which are as fast as trained ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)
        return LimbeckForCausalLM(
            LimbeckConfig(
                vocab_size=cell.vocab,
                hidden_size=cell.width,
                intermediate_size=3 * cell.width,
                mixers=mixers,
                num_hidden_layers=cell.layers,
                num_attention_heads=cell.heads,
                max_position_embeddings=cell.context + cell.tokens,
                tie_word_embeddings=True,
            )
        )


@torch.inference_mode()
def filled(model: LimbeckForCausalLM, cell: DecodingCell) -> MixerCache:
    """The state after ``context`` tokens: that of two tokens, with keys and values repeated to the number a mixer would keep."""
    cache = MixerCache(cell.layers)
    tokens = torch.zeros(cell.rows, 2, dtype=torch.long, device=model.device)
    model(input_ids=tokens, cache=cache, use_cache=True)
    for layer, state in enumerate(cache.states):
        window = getattr(model.model.layers[layer].mixer, "window", None)
        kept = cell.context if window is None else min(cell.context, window - 1)
        for name in {"keys", "values"} & set(state or {}):
            assert state is not None
            state[name] = state[name][:, :, :1].repeat(1, 1, kept, 1)
    cache.seen = cell.context
    return cache


def copied(cache: MixerCache) -> MixerCache:
    """A copy of a cache. Changes to the copy do not change the original."""
    found = MixerCache(len(cache))
    found.states, found.seen = [state and dict(state) for state in cache.states], cache.seen
    return found


@torch.inference_mode()
def _tokens_per_s(model: LimbeckForCausalLM, cache: MixerCache, cell: DecodingCell) -> float:
    tokens = torch.zeros(cell.rows, 1, dtype=torch.long, device=model.device)
    _wait(tokens)
    start = time.perf_counter()
    for _ in range(cell.tokens):
        logits = model(input_ids=tokens, cache=cache, use_cache=True).logits
        tokens = logits[:, -1:].argmax(-1)
    _wait(tokens)
    return cell.rows * cell.tokens / (time.perf_counter() - start)


def _wait(tokens: torch.Tensor) -> None:
    if tokens.is_cuda:
        torch.cuda.synchronize(tokens.device)
