"""A teacher's log-probabilities of the tokens of a text itself, from a model in memory or one on a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float64
from numpy import isfinite, ndarray

from limbeck.teachers.logprobs import LOG_P, logprobs_of
from limbeck.teachers.remote.served import ServedTeacher
from limbeck.types import Batch, CausalLM, each


def own_log_p(
    teacher: CausalLM | ServedTeacher, rows: Sequence[Batch]
) -> Iterator[tuple[Float64[ndarray, " n"], Bool[ndarray, " n"]]]:
    """For each batch log p of its targets in nats, and which of the n = B x T positions count; a server may not return all.

    Raises BadServer if another model responds.
    """
    if isinstance(teacher, ServedTeacher):
        yield from ((found, isfinite(found)) for found in teacher.own(rows))
        return
    with torch.no_grad():
        for batch, outputs in each(teacher, rows):
            log_p = logprobs_of(batch, outputs, LOG_P)["log_p"].double().cpu().numpy()
            yield log_p, batch.weight.flatten().cpu().numpy() > 0
