"""AdamW with moments in 8 bits, in blocks of 256 with a scale each (Dettmers et al., arXiv 2110.02861), by torchao.

Tensors of fewer than 4,096 elements, or of a number that blocks do not divide, keep moments in their own format. Weights in
bfloat16 are rounded at random, with random numbers that depend on the number of the step alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from limbeck.errors import BadSetting
from limbeck.packages import require_packages


def adamw_8bit(params: Iterable[Any], *, betas: tuple[float, float]) -> torch.optim.Optimizer:
    """The optimiser. It compiles its update at the first step. Raises BadSetting where torchao is not installed."""
    require_8bit()
    from torchao.optim import AdamW8bit

    optimizer: torch.optim.Optimizer = AdamW8bit(
        params, lr=0.0, betas=betas, weight_decay=0.0, bf16_stochastic_round=True
    )
    optimizer.register_step_pre_hook(_seeded)
    return optimizer


def require_8bit() -> None:
    """Raises BadSetting where torchao is not installed."""
    use = "--optimizer adamw-8bit keeps the optimiser's state in 8 bits, by"
    require_packages(use, "torchao", extra="quant", error=BadSetting)


def _seeded(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Seeds the rounding of a step by its number; the next step of a run seeds its own random numbers."""
    steps = (int(state["step"]) for state in optimizer.state.values() if state)
    torch.manual_seed(1 + max(steps, default=0))


def plain(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A tensor of an optimiser's state as ordinary tensors with names: itself, or its codes, scales and map of 8 bits."""
    sharded = isinstance(value, DTensor)  # which can be flattened too, but not into tensors alone
    if sharded or not hasattr(value, "__tensor_flatten__"):
        yield name, value
        return
    parts, _ = value.__tensor_flatten__()
    for part in parts:
        yield f"{name}.{part}", getattr(value, part)


def joined(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The state of a parameter from what `plain` gave, by name; ``dtype``: the parameter's.

    Raises KeyError where a part of a tensor is missing.
    """
    found = {name: tensor for name, tensor in tensors.items() if "." not in name}
    for name in dict.fromkeys(name.partition(".")[0] for name in tensors if "." in name):
        require_8bit()
        from torchao.optim.subclass_8bit import OptimState8bit

        parts = [tensors[f"{name}.{part}"] for part in OptimState8bit.tensor_attrs]
        found[name] = OptimState8bit(*parts, name == "exp_avg", dtype)  # the mean of squares has no sign
    return found
