"""The cost of a model, measured on this machine: parameters, bytes on disk, generation speed, peak memory.

Speeds are medians of repeats at batch size 1; their bounds are the slowest and the fastest repeat, not an interval.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import psutil
import torch
from transformers import PreTrainedModel

from limbeck.garbage import unsearched
from limbeck.generation.greedy import generate_greedy
from limbeck.models.cached import read_on
from limbeck.models.language_model import LanguageModel
from limbeck.models.observing import evaluating
from limbeck.models.parts import give_back
from limbeck.types import Reading

PROMPT, NEW, REPEATS = 192, 16, 5
SPREAD = "its weights are spread over processes, and each token would gather all of them"  # why speed is left out
_LEAST, _SECONDS = 3, 0.3  # repeats for a median; seconds after which no further one is begun
_WARM = 8  # tokens
_MOST_SECONDS = 20.0  # after which none is begun even for that


def cost(model: str, language_model: LanguageModel, *, folder: Path | None = None) -> list[Reading]:
    """Parameters (all, and of the embeddings), bytes of the weights in ``folder``, prefill and generation tokens/s, peak bytes.

    Of a model that is spread over processes only the first two: a token would gather all of its weights.

    Peak memory is the weights in memory plus the increase during prefill and generation; it is left out on systems that do not
    report it. The measurement resets the process's own high-water mark (VmHWM).
    """
    module = language_model.model
    readings = counted(model, language_model)
    if folder is not None:
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        readings.append(_exact(model, "weights_on_disk", size, "bytes"))
    if not language_model.in_one_process:
        return readings
    with evaluating(module):
        return readings + _running(model, language_model)


def counted(model: str, language_model: LanguageModel) -> list[Reading]:
    """The part of a model's cost that is known without its weights: parameters, all and of the embeddings."""
    return [
        _exact(model, "parameters", language_model.parameters_count, "parameters"),
        _exact(model, "embedding_parameters", _embedding_parameters(language_model), "parameters"),
    ]


def _running(model: str, language_model: LanguageModel) -> list[Reading]:
    new = min(NEW, language_model.context // 4)
    prompt = min(PROMPT, language_model.context - new)
    tokens = torch.randint(language_model.vocab, (prompt,), generator=torch.Generator().manual_seed(0)).tolist()
    with _peak(language_model.device) as peak:
        times = list(_times(language_model, tokens, new))
    prefill = _rate(model, "prefill", [prompt / first for first, _ in times])
    decode = _rate(model, "decode", [(new - 1) / rest for _, rest in times])
    if not peak:
        return [prefill, decode]
    weights = sum(tensor.nbytes for tensor in [*language_model.model.parameters(), *language_model.model.buffers()])
    return [prefill, decode, _exact(model, "peak_memory", weights + peak[0], "bytes")]


def _times(model: LanguageModel, tokens: list[int], new: int) -> Iterator[tuple[float, float]]:
    """(seconds until the first token, seconds for the others) of each repeat after a short one for warm-up."""
    begin = time.perf_counter()
    for repeat in range(1 + REPEATS):
        start = time.perf_counter()
        writer = generate_greedy(model, tokens)
        next(writer)
        first = time.perf_counter()
        for _ in islice(writer, new - 1 if repeat else min(new - 1, _WARM)):
            pass
        end = time.perf_counter()
        if repeat:
            yield first - start, end - first
            if end - begin > (_SECONDS if repeat >= _LEAST else _MOST_SECONDS):
                return


@torch.inference_mode()
def token_seconds(model: PreTrainedModel) -> float:
    """Median seconds of one token after a prompt of 192 tokens, or what the context allows, at batch size 1.

    Weights do not matter. Repeats follow one for warm-up, unless that takes long.
    """
    context, vocab = int(model.config.max_position_embeddings), int(model.config.vocab_size)
    new = max(1, min(NEW, context // 4))
    prompt = torch.randint(vocab, (1, max(1, min(PROMPT, context - new))), generator=torch.Generator().manual_seed(0))
    times: list[float] = []
    for _ in range(1 + _LEAST):
        logits, cache = read_on(model, prompt, None)
        start = time.perf_counter()
        for _ in range(new):
            logits, cache = read_on(model, logits.argmax(-1, keepdim=True), cache)
        times.append((time.perf_counter() - start) / new)
        if sum(times) * new > _SECONDS:
            break
    return statistics.median(times[1:] or times)


@contextmanager
def _peak(device: torch.device) -> Iterator[list[int]]:
    """A list that holds, after the block, its peak of additional bytes; empty if the system does not report it."""
    found: list[int] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        found.append(torch.cuda.max_memory_allocated(device) - before)
        return
    with unsearched():  # old garbage that is freed in the block would make room for what should show as growth
        known = _forget_peak()
        before = psutil.Process().memory_info().rss
        yield found
    if known:
        found.append(max(0, _high_water() - before))


def _forget_peak() -> bool:
    """Resets the kernel's peak of resident memory; False where that is not possible.

    Memory that was freed but is still held by the process is returned first: reused, it would not show as growth.
    """
    gc.collect(1)  # what became garbage of late
    give_back()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _high_water() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _embedding_parameters(model: LanguageModel) -> int:
    """Parameters of the input and output embeddings, counted once if they are tied."""
    tables = [model.model.get_input_embeddings(), model.model.get_output_embeddings()]
    return sum(weight.numel() for weight in {id(table.weight): table.weight for table in tables}.values())


def _rate(model: str, name: str, rates: list[float]) -> Reading:
    value = statistics.median(rates)
    return Reading(model, "cost", name, value, "tokens/s", len(rates), min(rates), max(rates))


def _exact(model: str, name: str, value: float, unit: str) -> Reading:
    return Reading(model, "cost", name, float(value), unit, 1, float(value), float(value))
