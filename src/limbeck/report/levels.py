"""The training loss that a student equal to its teacher would have: 0 of any divergence, the teacher's own of cross-entropy."""

from __future__ import annotations

import torch

from limbeck.errors import LimbeckError
from limbeck.objectives import parse
from limbeck.objectives.fused import value_and_gradient
from limbeck.types import Chunk, Signal

_TOKENS = 5  # of a small vocabulary on which an objective is evaluated


def teacher_level(objective: str, teacher_nats: float) -> float | None:
    """The value of an objective (as text) for student = teacher, where the teacher has ``teacher_nats`` nats per token.

    The objective is evaluated on equal logits: what then depends on the token of the text is cross-entropy, with its weight.
    None for an objective of the user's own module, which a report does not run, and for one that is not such a sum.
    """
    if ":" in objective:
        return None
    try:
        term = parse(objective)
        term.begin(1)
        logits = torch.linspace(0.0, 1.0, _TOKENS).expand(_TOKENS, -1).contiguous()
        chunk = Chunk(torch.arange(_TOKENS), torch.ones(_TOKENS))
        values = value_and_gradient(term, logits.clone(), Signal(logits.clone()), chunk)[0].detach().double()
    except (LimbeckError, NotImplementedError, ValueError, AssertionError):
        return None
    nats = -logits[0].double().log_softmax(-1)
    weight = (values[0] - values[-1]) / (nats[0] - nats[-1])
    offset = values - weight * nats
    if not bool((offset - offset[0]).abs().max() < 1e-4):
        return None
    return float(offset[0] + weight * teacher_nats)
