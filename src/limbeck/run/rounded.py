"""AdamW with moments in bfloat16, and weights too if they are: rounded up or down at random, so that means stay.

Rounding to nearest loses every update below about 1/256 of what it is added to; at random it is kept on average (Zamirai et al.,
arXiv 2010.06192, sec. 4). Arithmetic is float32. The random numbers of a step depend on its number alone, so every rank draws the
same, and a run that continues ends with the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import BFloat16, Float, Float32, Int32
from torch import Tensor

_AT_ONCE = {"cpu": 2**18, "cuda": 2**24}  # elements: temporary tensors are a few times as large


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
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self._state_of(parameter)
                state["step"] += 1
                if parameter.device not in generators:
                    generators[parameter.device] = torch.Generator(parameter.device).manual_seed(number)
                _update(parameter, state, group, generators[parameter.device])

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        """The moments of a parameter, 0 before its first update; its count of steps is on the host."""
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros(parameter.shape, dtype=torch.bfloat16, device=parameter.device)
        state["step"] = state["step"].cpu()
        return state


def _update(parameter: Tensor, state: dict[str, Tensor], group: dict[str, Any], generator: torch.Generator) -> None:
    """AdamW's update of one parameter, a few of its elements at a time."""
    (beta1, beta2), step, lr = group["betas"], int(state["step"]), float(group["lr"])
    shrink, scale = 1 - lr * group["weight_decay"], math.sqrt(1 - beta2**step)
    assert parameter.grad is not None
    flat = [t.view(-1) for t in (parameter.data, state["exp_avg"], state["exp_avg_sq"])]
    flat.insert(1, parameter.grad.reshape(-1))
    size = _AT_ONCE["cuda" if parameter.device.type == "cuda" else "cpu"]
    for weight, gradient, exp_avg, exp_avg_sq in zip(*(t.split(size) for t in flat), strict=True):
        gradient = gradient.float()
        mean = exp_avg.float().lerp_(gradient, 1 - beta1)
        square = exp_avg_sq.float().mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        noise = _noise(weight, generator)
        exp_avg.copy_(rounded(mean, noise & 0xFFFF))
        exp_avg_sq.copy_(rounded(square, (noise >> 16) & 0xFFFF))
        wide = weight.float()  # the weight itself if it is float32
        wide.mul_(shrink).addcdiv_(mean, square.sqrt_().div_(scale).add_(group["eps"]), value=-lr / (1 - beta1**step))
        if weight.dtype == torch.bfloat16:
            weight.copy_(rounded(wide, _noise(weight, generator) & 0xFFFF))


def rounded(x: Float32[Tensor, " n"], noise: Int32[Tensor, " n"]) -> BFloat16[Tensor, " n"]:
    """``x`` rounded to one of its two neighbours in bfloat16, with the probability that keeps the mean.

    ``noise``: random whole numbers from 0 to 65,535. What is not finite stays.
    """
    bits = (x.view(torch.int32) + noise) & -0x10000
    return torch.where(x.isfinite(), bits.view(torch.float32), x).bfloat16()


def _noise(like: Float[Tensor, " n"], generator: torch.Generator) -> Int32[Tensor, " n"]:
    """32 random bits for each element."""
    return torch.randint(-(2**31), 2**31, like.shape, dtype=torch.int32, generator=generator, device=like.device)
