"""Optimisers for models with state spaces: their A and their step learn slowly and do not decay.

S4D gives these parameters a rate of 0.001 at most (Gu et al., arXiv 2206.11893, app. C), whatever the others have: a small
change of an eigenvalue is a large one of what is remembered hundreds of steps later.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from limbeck.models.mixers.ssm import DiagonalSSM
from limbeck.run.optim import learning_rate

SLOWEST = 1e-3
WARMUP = 0.1  # share of the steps
_SLOW = ("log_step", "A_log", "A_imag")


def adamw_of(model: nn.Module, *, rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW at its peak rates. Matrices decay, vectors do not, and what must learn slowly does."""
    slow = {
        id(p)
        for part in model.modules()
        if isinstance(part, DiagonalSSM)
        for n, p in part.named_parameters()
        if n in _SLOW
    }
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
