"""How fast a model reads a prompt and writes tokens, by the number of threads.

The numbers are of this machine, as busy as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil
import torch

from limbeck.exporters.named import Seconds, Timed
from limbeck.generation.greedy import generate_greedy
from limbeck.models.language_model import LanguageModel
from limbeck.types import CausalLM

PROMPT, NEW = 128, 32  # tokens that are read, and written after them
_TIMES, _ENOUGH = 3, 5.0  # repetitions, unless they take longer than so many seconds together


def threads_of(asked: int | None) -> tuple[int, ...]:
    """With how many threads time is taken: what was asked for, or one and all cores."""
    return (asked,) if asked else tuple(sorted({1, psutil.cpu_count(logical=False) or 1}))


def speeds(model: CausalLM, prompt: Sequence[int], threads: Sequence[int]) -> list[dict[str, Any]]:
    """Tokens per second of reading and of writing, the best of several times; empty for a model that cannot write."""
    found = []
    for number in threads:
        timed = _timed(model)
        if timed is not None:
            best = _best(lambda: timed(prompt, NEW, number))  # noqa: B023 (called at once)
            rates = {"prefill": len(prompt) / best.prefill, "generation": NEW / best.generation}
            found.append({"threads": number, **rates})
    return found


def _timed(model: CausalLM) -> Callable[[Sequence[int], int, int], Seconds] | None:
    if isinstance(model, LanguageModel):
        return lambda prompt, new, threads: _of_torch(model, prompt, new, threads)
    return model.seconds if isinstance(model, Timed) else None


def _best(measure: Callable[[], Seconds]) -> Seconds:
    start, found = time.perf_counter(), [measure()]
    while len(found) < _TIMES and time.perf_counter() - start < _ENOUGH:
        found.append(measure())
    return Seconds(min(one.prefill for one in found), min(one.generation for one in found))


def _of_torch(model: LanguageModel, prompt: Sequence[int], new: int, threads: int) -> Seconds:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        tokens = generate_greedy(model, prompt)
        start = time.perf_counter()
        next(tokens)
        read = time.perf_counter()
        for _ in range(new):
            next(tokens)
        return Seconds(read - start, time.perf_counter() - read)
    finally:
        torch.set_num_threads(before)
