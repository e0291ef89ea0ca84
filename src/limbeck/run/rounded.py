"""AdamW with moments in bfloat16, and weights too if they are: rounded up or down at random, so that means stay.

Rounding to nearest loses every update below about 1/256 of what it is added to; at random it is kept on average (Zamirai et al.,
arXiv 2010.06192, sec. 4). Arithmetic is float32. The random numbers of an element depend on the step's number and the element's
place alone: every rank draws the same for the same element, also where each holds a part of a sharded weight, and a run that
continues ends with the same bits.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import BFloat16, Float32, Int32
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

_BLOCK = {"cpu": 2**18, "cuda": 2**22}  # elements whose random numbers are drawn, and which are updated, together


class RoundedAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) with moments in bfloat16; takes weights in float32 or bfloat16."""

    def __init__(self, params: Iterable[Any], *, betas: tuple[float, float], eps: float = 1e-8) -> None:
        super().__init__(params, {"lr": 0.0, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        assert closure is None, "the gradient is there"
        number = 1 + max((int(state["step"]) for state in self.state.values() if state), default=0)
        generators: dict[torch.device, torch.Generator] = {}
        groups = [(parameter, group) for group in self.param_groups for parameter in group["params"]]
        for place, (parameter, group) in enumerate(groups):
            if parameter.grad is None:
                continue
            state = self._state_of(parameter)
            state["step"] += 1
            if parameter.device not in generators:
                generators[parameter.device] = torch.Generator(parameter.device)
            _update(parameter, state, group, _Noise(number, place, generators[parameter.device]))

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        """The moments of a parameter, sharded as it is, 0 before its first update; its count of steps is on the host."""
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(parameter, dtype=torch.bfloat16, memory_format=torch.contiguous_format)
        state["step"] = state["step"].cpu()
        return state


@dataclass(frozen=True)
class _Noise:
    """The random numbers of a step for the parameter at a ``place`` among all, by blocks of its elements."""

    step: int
    place: int
    generator: torch.Generator

    def of(self, block: int, size: int, *, draws: int) -> list[Int32[Tensor, " size"]]:
        """So many draws of 32 random bits for each element of a block."""
        name = f"{self.step} {self.place} {block}".encode()
        self.generator.manual_seed(int.from_bytes(hashlib.blake2b(name, digest_size=4).digest()))
        how: dict[str, Any] = {"dtype": torch.int32, "generator": self.generator, "device": self.generator.device}
        return [torch.randint(-(2**31), 2**31, (size,), **how) for _ in range(draws)]


def _update(parameter: Tensor, state: dict[str, Tensor], group: dict[str, Any], noise: _Noise) -> None:
    """AdamW's update of this process's part of a parameter, a few of its elements at a time."""
    (beta1, beta2), step, lr = group["betas"], int(state["step"]), float(group["lr"])
    shrink, scale = 1 - lr * group["weight_decay"], math.sqrt(1 - beta2**step)
    assert parameter.grad is not None
    first, weights = _part(parameter.detach())
    flat = [
        weights.view(-1),
        *(_part(t)[1].reshape(-1) for t in (parameter.grad, state["exp_avg"], state["exp_avg_sq"])),
    ]
    narrow = weights.dtype == torch.bfloat16
    for block, start, size, mine in _blocks(first, weights.numel(), parameter.numel(), weights.device):
        bits = [drawn[mine] for drawn in noise.of(block, size, draws=1 + narrow)]
        stop = start + len(bits[0])
        weight, gradient, exp_avg, exp_avg_sq = (t[start:stop] for t in flat)
        gradient = gradient.float()
        mean = exp_avg.float().lerp_(gradient, 1 - beta1)
        square = exp_avg_sq.float().mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        exp_avg.copy_(rounded(mean, bits[0] & 0xFFFF))
        exp_avg_sq.copy_(rounded(square, (bits[0] >> 16) & 0xFFFF))
        wide = weight.float()  # the weight itself if it is float32
        wide.mul_(shrink).addcdiv_(mean, square.sqrt_().div_(scale).add_(group["eps"]), value=-lr / (1 - beta1**step))
        if narrow:
            weight.copy_(rounded(wide, bits[1] & 0xFFFF))


def _part(tensor: Tensor) -> tuple[int, Tensor]:
    """What this process holds of a tensor, rows of it where it is sharded, and the place of its first element in the whole."""
    if not isinstance(tensor, DTensor):
        return 0, tensor
    _, (row, *_) = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return row * math.prod(tensor.shape[1:]), tensor.to_local()


def _blocks(first: int, count: int, total: int, device: torch.device) -> Iterator[tuple[int, int, int, slice]]:
    """The blocks of a tensor of ``total`` elements that hold some of ``count`` from the ``first`` on.

    Of each: its number, where its elements begin among these, its size, and which of its elements are among these.
    """
    most = _BLOCK["cuda" if device.type == "cuda" else "cpu"]
    for block in range(first // most, -(-(first + count) // most) if count else 0):
        begin, end = block * most, min((block + 1) * most, total)
        mine = slice(max(first - begin, 0), min(first + count, end) - begin)
        yield block, begin + mine.start - first, end - begin, mine


def rounded(x: Float32[Tensor, " n"], noise: Int32[Tensor, " n"]) -> BFloat16[Tensor, " n"]:
    """``x`` rounded to one of its two neighbours in bfloat16, with the probability that keeps the mean.

    ``noise``: random whole numbers from 0 to 65,535. What is not finite stays.
    """
    bits = (x.view(torch.int32) + noise) & -0x10000
    return torch.where(x.isfinite(), bits.view(torch.float32), x).bfloat16()
