"""The doctor's checks of the machine: number format (mixed precision), memory, disk and time.

In a container the memory limit is that of the control group, not of the host. Memory that this process already holds (the models
are loaded before the checks) is part of the estimate, so it counts as free.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import psutil
import torch

from limbeck.planning.checks.finding import Finding, Level
from limbeck.planning.cost.fitting import FULL, Asked, Peak, chosen, flags, needed, remedy, smallest
from limbeck.planning.cost.machine import measure_rates, multiplies_bfloat16
from limbeck.planning.cost.training import Cost
from limbeck.products import tf32_products

_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def number_format(dtype: torch.dtype, device: torch.device) -> Iterator[Finding]:
    """Whether the device has fast matrix products in this number format."""
    name = str(dtype).removeprefix("torch.")
    if dtype.itemsize == 2 and device.type == "cpu" and multiplies_bfloat16(device) is False:
        yield Finding(
            "dtype",
            "warning",
            f"{name} on a processor without AMX or AVX512-BF16: measured about 4 times slower than float32",
            "use --dtype float32",
        )
    elif dtype == torch.bfloat16 and device.type == "cuda" and not multiplies_bfloat16(device):
        yield Finding(
            "dtype", "warning", f"{name} is emulated on {torch.cuda.get_device_name(device)}", "use --dtype float32"
        )
    else:
        yield Finding("dtype", "ok", f"{name} on {device.type}")


def memory(asked: Asked, peak: Peak, device: torch.device) -> Iterator[Finding]:
    """Whether the estimated peak fits into memory, in the way that the run would choose of those that are left open.

    A peak above the total is an error, one above ``FULL`` of the free memory a warning. The remedy is computed: the fastest way
    that fits, else the longest rows that do.
    """
    total, free = _gpu_memory(device) if device.type == "cuda" else _memory()
    use = chosen(asked, peak, FULL * free)
    parts = peak(use, asked.length)
    need = sum(parts.values())
    shown = sorted((part for part in parts.items() if part[1] >= need / 200), key=lambda part: -part[1])
    message = (
        f"about {_gib(need)} at the peak ({', '.join(f'{name} {_gib(size)}' for name, size in shown)}); "
        f"{device.type} has {_gib(total)}, {_gib(free)} of it free"
    )
    if use != asked.use:
        message += f"; computed with {flags(use, asked)}, since {_gib(needed(peak, asked.use, asked))} would be needed otherwise"
    level: Level = "error" if need > total else "warning" if need > FULL * free else "ok"
    yield Finding(
        "memory",
        level,
        message,
        "" if level == "ok" else what_fits(asked, peak, FULL * free),
    )


def what_fits(asked: Asked, peak: Peak, limit: float) -> str:
    """What a user can do where a training does not fit into ``limit`` bytes: the fastest setting that does, or why none does."""
    if (use := remedy(asked, peak, limit)) is not None and flags(use, asked):
        slower = asked.slowdown(use) / asked.slowdown(asked.use) - 1
        time = f", and takes about {slower:.0%} longer" if slower > 0.005 else ""
        other = (use.optimizer, use.weights) != (asked.optimizer, asked.weights)
        return f"use {flags(use, asked)}: it needs about {_gib(needed(peak, use, asked))}{time}" + (
            "; the result is another" if other else ""
        )
    least = smallest(asked.any(), asked, peak)
    found = f"the least is about {_gib(needed(peak, least, asked))}, with {flags(least, asked) or 'these settings'}"
    for length in _shorter(asked.length):
        if (size := sum(peak(least, length).values())) <= limit:
            return f"{found}; a shorter sequence length fits: with --seq-len {length} also, {_gib(size)}"
    return f"{found}; a shorter sequence length is not enough: use a smaller teacher, a smaller student, or another machine"


def _shorter(length: int) -> Iterator[int]:
    """Half as many tokens each time, down to 64."""
    while (length := length // 2) >= 64:
        yield length


def free_memory(device: torch.device) -> int:
    """Bytes of free memory for this process on the device, or on the machine for a CPU."""
    return (_gpu_memory(device) if device.type == "cuda" else _memory())[1]


def _memory() -> tuple[int, int]:
    """(total, free) bytes of this machine or container; memory of this process counts as free."""
    found = psutil.virtual_memory()
    own = psutil.Process().memory_info().rss
    limits = [int(text) for path in _CGROUP_LIMITS if path.is_file() and (text := path.read_text().strip()).isdigit()]
    total = min([found.total, *limits])
    return total, min(total, found.available + own)


def _gpu_memory(device: torch.device) -> tuple[int, int]:
    free, total = torch.cuda.mem_get_info(device)
    return total, free + torch.cuda.memory_reserved(device)


def disk(cost: Cost, out: Path) -> Iterator[Finding]:
    """Whether a run's files fit on the disk: the student, two checkpoints (the last and the next), the tokens."""
    checkpoint = sum(cost.bytes[name] for name in ("student's weights", "AdamW's moments"))
    need = 4 * cost.student.parameters + 2 * checkpoint + 4 * cost.tokens
    folder = out.absolute()
    while not folder.exists():
        folder = folder.parent
    free = psutil.disk_usage(str(folder)).free
    level: Level = "error" if need > free else "warning" if 2 * need > free else "ok"
    yield Finding(
        "disk",
        level,
        f"about {_gib(need)} for the student and its checkpoints; {out} has {_gib(free)} free",
        "" if level == "ok" else "free space, or give --out on another disk",
    )


def duration(cost: Cost, *, dtype: torch.dtype, device: torch.device, tf32: bool = False) -> Iterator[Finding]:
    """The estimated time of one training, from rates measured in under a second, in ``tf32`` as the training's layers."""
    with tf32_products() if tf32 else nullcontext():
        rates = measure_rates(cost.student, dtype=dtype, device=device)
    yield Finding(
        "time",
        "ok",
        f"roughly {_time(cost.seconds(rates))} for each training of {cost.tokens:,} tokens: "
        f"{cost.flops_per_token / 1e6:,.1f} MFLOP a token at {rates.flops / 1e9:,.0f} GFLOP/s, measured now, and everything "
        "but the matrix products",
    )


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _time(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
