"""What is wanted of a student: losses per token, how they add up, and how they reach the head."""

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
from limbeck.objectives.fused import fused_backward, fused_nats, walk

__all__ = [
    "CrossEntropy",
    "ForwardKL",
    "JensenShannon",
    "Objective",
    "ReverseKL",
    "SkewKL",
    "SkewReverseKL",
    "Sum",
    "TotalVariation",
    "fused_backward",
    "fused_nats",
    "walk",
]
