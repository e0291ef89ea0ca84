"""The optimiser and its learning rate over time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

Schedule = Literal["wsd", "cosine", "constant"]


def learning_rate(step: int, *, steps: int, peak: float, schedule: Schedule, warmup: float = 0.05) -> float:
    """The learning rate of a step, counted from 0.

    All schedules rise linearly over the first ``warmup`` of the steps. "wsd" then stays at the peak and falls linearly to
    0 over the last fifth (Hu et al., arXiv 2404.06395, sec. 4); "cosine" falls to a tenth of the peak (Hoffmann et al.,
    arXiv 2203.15556); "constant" stays.
    """
    rise = max(1, round(steps * warmup))
    if step < rise:
        return peak * (step + 1) / rise
    if schedule == "constant":
        return peak
    if schedule == "cosine":
        done = (step - rise) / max(1, steps - rise)
        return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))
    fall = max(1, round(steps * 0.2))
    return peak * min(1.0, (steps - step) / fall)


def suggested_learning_rate(parameters: int, *, knows: bool = False) -> float:
    """A peak learning rate for a model of this size: 0.002 at 1M parameters, falling with the fourth root of the size.

    A third of it for one that ``knows`` already what it is to learn, as the teacher with other mixers does: more would undo it.

    Ours, from small students (0.1M to 3M, where 0.001 to 0.004 lie within noise) and, at 1B, the 3.5e-4 that is usual
    there; a run whose result matters deserves its own search.
    """
    return float(min(4e-3, 2e-3 * (1e6 / max(parameters, 1)) ** 0.25)) / (3 if knows else 1)


def adamw(named: Iterable[tuple[str, Tensor]], others: Iterable[Tensor], *, weight_decay: float) -> torch.optim.AdamW:
    """Fused AdamW with betas (0.9, 0.95). Matrices decay; vectors (norms, biases) and an objective's own do not.

    ``named`` are the student's parameters, ``others`` those of the objective.
    """
    trained = [p for _, p in named if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2] + list(others), "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=(0.9, 0.95), fused=True)
