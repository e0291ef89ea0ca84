"""Optimisers for models with state spaces: their A and their step learn slowly and do not decay.

Which they are is declared by the mixers, and the rate that they have at most is that of every training here (`run.optim`).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from limbeck.run.optim import SLOWEST, learning_rate, slow_parameters

WARMUP = 0.1  # share of the steps


def adamw_of(model: nn.Module, *, rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW at its peak rates. Matrices decay, vectors do not, and what must learn slowly does."""
    slow = {id(p) for p in slow_parameters(model)}
    others = [p for p in model.parameters() if id(p) not in slow]
    groups = [
        {"params": [p for p in model.parameters() if id(p) in slow], "lr": min(rate, SLOWEST), "weight_decay": 0.0},
        {"params": [p for p in others if p.ndim >= 2], "lr": rate, "weight_decay": weight_decay},
        {"params": [p for p in others if p.ndim < 2], "lr": rate, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)


def schedule_of(optimizer: torch.optim.Optimizer, steps: int) -> LambdaLR:
    """All rates up in a line, then down to a tenth as a cosine."""
    return LambdaLR(
        optimizer, lambda step: learning_rate(step, steps=steps, peak=1.0, schedule="cosine", warmup=WARMUP)
    )
