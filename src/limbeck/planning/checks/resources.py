"""The doctor's checks of the machine: number format (mixed precision), memory, disk and time.

In a container the memory limit is that of the control group, not of the host. Memory that this process already holds (the models
are loaded before the checks) is part of the estimate, so it counts as free.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import torch

from limbeck.planning.checks.finding import Finding, Level
from limbeck.planning.cost.machine import measure_rates, multiplies_bfloat16
from limbeck.planning.cost.training import Cost

FULL = 0.8  # share of the free memory above which there is a warning

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


def memory(peak: Mapping[str, int], device: torch.device) -> Iterator[Finding]:
    """Whether the estimated peak, in bytes by part, fits into memory.

    A peak above the total is an error, one above ``FULL`` of the free memory a warning.
    """
    total, free = _gpu_memory(device) if device.type == "cuda" else _memory()
    need = sum(peak.values())
    largest = sorted(peak.items(), key=lambda part: -part[1])[:3]
    message = (
        f"about {_gib(need)} at the peak ({', '.join(f'{name} {_gib(size)}' for name, size in largest)}); "
        f"{device.type} has {_gib(total)}, {_gib(free)} of it free"
    )
    level: Level = "error" if need > total else "warning" if need > FULL * free else "ok"
    yield Finding(
        "memory",
        level,
        message,
        ""
        if level == "ok"
        else "use a smaller teacher, a smaller student, a shorter sequence length (--seq-len), or another machine",
    )


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
    need = (4 + 2 * 12) * cost.student.parameters + 4 * cost.tokens
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


def duration(cost: Cost, *, dtype: torch.dtype, device: torch.device) -> Iterator[Finding]:
    """The estimated time of one training, from rates measured in under a second."""
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
