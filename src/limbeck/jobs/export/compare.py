"""Compares what was written with the model, on the same held-out positions: sums for each document, and their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.divergence import kl
from limbeck.errors import BadCorpus
from limbeck.probes.interval import Interval, difference_interval, mean_interval
from limbeck.types import Batch, CausalLM, Outputs

_CELLS = 2**21  # logits of a chunk
_COLUMNS = ("tokens", "nats", "written_nats", "kl", "same")


@torch.no_grad()
def outputs_of(model: CausalLM, batches: Iterable[Batch]) -> list[tuple[Batch, Outputs]]:
    """Rows, one at a time, with what the model makes of them before its head: computed once for all exports."""
    return [
        (one, model(one))
        for batch in batches
        for row in range(len(batch.tokens))
        for one in [batch.rows(slice(row, row + 1))]
    ]


@torch.no_grad()
def compare(known: Iterable[tuple[Batch, Outputs]], written: CausalLM, *, vocab: int, documents: int) -> dict[str, Any]:
    """How a model that was written differs from it, over the ``vocab`` tokens that it has.

    ``known`` are rows with the model's own outputs. Gives ``largest_difference`` of log-probabilities and ``largest_kl``;
    ``kl`` (model || written), the share of ``same`` greedy tokens, and nats per token of both and their ``difference``, each
    with a 95 % interval over documents; ``tokens`` says of how many. Raises BadCorpus for a text without a prediction.
    """
    sums = np.zeros((len(_COLUMNS), documents))
    apart = largest = 0.0
    for batch, before in known:
        counted = batch.weight.reshape(-1).nonzero().squeeze(1)
        for log_p, log_q, where in _chunks(before, written(batch), counted, vocab):
            # -inf - -inf is no difference
            apart = max(apart, float((log_p - log_q).nan_to_num(nan=0.0).abs().max()))
            divergence = kl(log_p, log_q)
            largest = max(largest, float(divergence.max()))
            targets = batch.targets.reshape(-1)[where, None]
            same = log_p.argmax(-1) == log_q.argmax(-1)
            nats = [-log.gather(-1, targets).squeeze(-1) for log in (log_p, log_q)]
            columns = torch.stack([torch.ones_like(divergence), *nats, divergence, same.float()]).double().cpu().numpy()
            places = batch.document.reshape(-1)[where].cpu().numpy()
            for total, column in zip(sums, columns, strict=True):
                np.add.at(total, places, column)
    if not sums[0].any():
        raise BadCorpus("the text has no token to predict, so nothing can be compared: give more with --data")
    return {"tokens": int(sums[0].sum()), "largest_difference": apart, "largest_kl": largest, **_intervals(sums)}


def _intervals(sums: Float[np.ndarray, "columns documents"]) -> dict[str, Any]:
    read = sums[0] > 0
    tokens, nats, written, divergence, same = sums[:, read]
    found = {
        "kl": mean_interval(divergence, tokens).within(0.0),
        "same": mean_interval(same, tokens).within(0.0, 1.0),
        "nats": mean_interval(nats, tokens),
        "written_nats": mean_interval(written, tokens),
        "difference": difference_interval(written[None], nats[None], tokens),
    }
    return {name: _row(interval, len(tokens)) for name, interval in found.items()}


def _row(interval: Interval, n: int) -> dict[str, Any]:
    """An interval as JSON, which has no NaN.

    A sum of nothing, such as a divergence of 0 everywhere, is of ``n`` documents too.
    """
    ends = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {key: value if math.isfinite(value) else None for key, value in ends.items()} | {"n": n}


def _chunks(
    before: Outputs, after: Outputs, counted: Int[Tensor, " n"], vocab: int
) -> Iterator[tuple[Float[Tensor, "m V"], Float[Tensor, "m V"], Int[Tensor, " m"]]]:
    for where in counted.split(max(1, _CELLS // vocab)):
        log_p, log_q = (outputs.logits(where)[:, :vocab].float().log_softmax(-1) for outputs in (before, after))
        yield log_p, log_q.to(log_p.device), where
