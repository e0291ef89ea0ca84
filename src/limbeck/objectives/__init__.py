"""Distillation losses: objectives per token, their sums, and the fused head that computes them in bounded memory."""

from limbeck.objectives.adaptive import AdaptiveKL
from limbeck.objectives.alm import ALM
from limbeck.objectives.base import Objective, Sum
from limbeck.objectives.basic import (
    CrossEntropy,
    ForwardKL,
    JensenShannon,
    ReverseKL,
    SkewKL,
    SkewReverseKL,
    TotalVariation,
)
from limbeck.objectives.ctkd import CTKD
from limbeck.objectives.dkd import DKD
from limbeck.objectives.fused import fused_backward, fused_nats, walk
from limbeck.objectives.parse import parse
from limbeck.objectives.preference import DPO, APODown, APOZero
from limbeck.objectives.ramp import Ramp
from limbeck.objectives.select import EntropySelect
from limbeck.objectives.taid import TAID
from limbeck.objectives.uld import ULD

__all__ = [
    "ALM",
    "CTKD",
    "DKD",
    "DPO",
    "TAID",
    "ULD",
    "APODown",
    "APOZero",
    "AdaptiveKL",
    "CrossEntropy",
    "EntropySelect",
    "ForwardKL",
    "JensenShannon",
    "Objective",
    "Ramp",
    "ReverseKL",
    "SkewKL",
    "SkewReverseKL",
    "Sum",
    "TotalVariation",
    "fused_backward",
    "fused_nats",
    "parse",
    "walk",
]
