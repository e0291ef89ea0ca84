"""What this machine computes fast: its number format by its processor, its rates measured in under a second."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable

import torch

from limbeck.planning.cost.size import Size
from limbeck.planning.cost.training import Rates


def multiplies_bfloat16(device: torch.device) -> bool | None:
    """Whether a device has units for matrix products in bfloat16; None for a processor of which that is not known.

    A CPU without them multiplies bfloat16 four times slower than float32 (measured).
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return None
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def measure_rates(size: Size, *, dtype: torch.dtype, device: torch.device, seconds: float = 0.2) -> Rates:
    """The best FLOP/s and bytes/s of ``device`` in ``seconds`` of measurement each, for matrices of a model of this size."""
    m, k, n = 4096, size.hidden, size.ffn
    if device.type != "cuda":  # larger products would only take longer
        m, k, n = 512, min(k, 1024), min(n, 2048)
    a, b = torch.ones(m, k, dtype=dtype, device=device), torch.ones(k, n, dtype=dtype, device=device)
    # The tensor exceeds the caches. The output is allocated beforehand, since the cost of new pages varies.
    x = torch.ones(2**26 if device.type == "cuda" else 2**22, dtype=dtype, device=device)
    y = torch.empty_like(x)
    flops = 2.0 * m * k * n * _best_rate(lambda: a @ b, device, seconds)
    return Rates(flops, x.numel() * x.element_size() * _best_rate(lambda: torch.mul(x, x, out=y), device, seconds))


def _best_rate(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Calls per second at the speed of the fastest call, since other processes can only slow calls down."""
    work()  # the first call allocates pages and loads kernels
    best, calls, begun = 0.0, 0, time.perf_counter()
    while calls < 5 or time.perf_counter() - begun < seconds:
        calls, start = calls + 1, time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 1 / (time.perf_counter() - start))
    return best
