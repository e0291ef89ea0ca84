"""The number format in which a training keeps weights: matrices may be bfloat16, vectors and state-space parameters are exact."""

from __future__ import annotations

import torch
from torch import nn


def slow_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Parameters of the group that modules declare as ``SLOW``: they are trained slowly (`run.optim`), and not in bfloat16."""
    return [
        parameter
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if name in getattr(module, "SLOW", ())
    ]


def exact_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Parameters whose format stays where matrices are in bfloat16: norms, biases and other vectors, and the slow ones."""
    slow = {id(parameter) for parameter in slow_parameters(model)}
    return [parameter for parameter in model.parameters() if parameter.ndim < 2 or id(parameter) in slow]


def set_format(model: nn.Module, dtype: torch.dtype) -> None:
    """Changes the format of a model's matrices between float32 and bfloat16, in place."""
    exact = {id(parameter) for parameter in exact_parameters(model)}
    for parameter in model.parameters():
        if id(parameter) not in exact and parameter.dtype in (torch.float32, torch.bfloat16):
            parameter.data = parameter.data.to(dtype)
