"""Likelihood of held-out text: nats per token, bits per byte, perplexity."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped

from limbeck.probes.interval import bootstrap
from limbeck.probes.measurements import Measurements
from limbeck.types import Reading


def likelihood(
    model: str,
    runs: Sequence[Measurements],
    *,
    text_bytes: Shaped[np.ndarray, " documents"] | None = None,
    seed: int | None = None,
) -> list[Reading]:
    """Nats per token, perplexity and, if the bytes of each document's text are given, bits per byte.

    ``runs`` are one model trained with several seeds. Only bits per byte can be compared between tokenizers.
    """
    sizes = np.zeros(len(runs[0].tokens)) if text_bytes is None else np.asarray(text_bytes, dtype=np.float64)
    # The bytes of documents that were not read must not count.
    columns = np.stack([np.stack([run.nats, run.tokens, sizes * (run.tokens > 0)], -1) for run in runs])

    def statistic(total: np.ndarray) -> np.ndarray:
        nats, tokens, size = total[..., 0], total[..., 1], total[..., 2]
        bits = nats / math.log(2) / np.where(size > 0, size, np.nan)
        return np.stack([nats / tokens, bits, np.exp(nats / tokens)], -1)

    names = (("held_out", "nats/token"), ("bits_per_byte", "bits/byte"), ("perplexity", "tokens"))
    readings = [
        Reading(model, "likelihood", name, x.value, unit, x.n, x.low, x.high, seed)
        for (name, unit), x in zip(names, bootstrap(statistic, columns, positive=True), strict=True)
    ]
    return [reading for reading in readings if text_bytes is not None or reading.name != "bits_per_byte"]
