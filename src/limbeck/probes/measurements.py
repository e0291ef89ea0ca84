"""Measures a student, and its teacher, in one pass over held-out batches: sums for each document.

Every reading of likelihood, fidelity and calibration is computed from these sums, and so are differences between
models: keeping them by document is what makes intervals possible. Positions of weight 0 are left out before the head is
applied, and logits exist for one chunk of positions at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.disk import load_arrays, parsed, require_type, save_arrays
from limbeck.divergence import both_ways
from limbeck.errors import BadCorpus, BadFolder, Mismatch
from limbeck.probes.largest_kl import KLExample, LargestKL, largest_of
from limbeck.products import full_products
from limbeck.types import Batch, CausalLM, Gathering, Outputs, Sparse, Teacher, each

BINS = 15
AGAIN = "remove it; the next run measures it again"  # the remedy for a damaged file of measurements
_AXES = {
    "tokens": 1,
    "nats": 1,
    "bins": 3,
    "teacher_nats": 1,
    "kl": 1,
    "reverse_kl": 1,
    "total_variation": 1,
    "agreement": 1,
}
_CELLS = {"cpu": 2**21, "cuda": 2**26}  # logits of one chunk: a few buffers of 8 MB stay near a CPU's cache


@dataclass(frozen=True)
class Measurements:
    """A model's results on held-out text: sums over the predictions of each document, each prediction times its weight.

    ``nats`` is the negative log-likelihood; ``bins`` the [weight, confidence, correct] of the most probable token in 15 equal
    bins of its confidence. The others compare with a teacher p, and are None without one: its ``nats``, KL(p || q), KL(q || p),
    total variation, and whether both have the same most probable token. With captured logits of sampled outcomes, KL(p || q) and
    total variation are unbiased, and the teacher's nats and KL(q || p) are unknown; with top-k outcomes only the agreement is
    known. ``surprises`` are the predictions of largest KL.
    """

    tokens: Float[np.ndarray, " documents"]
    nats: Float[np.ndarray, " documents"]
    bins: Float[np.ndarray, "documents 15 3"]
    teacher_nats: Float[np.ndarray, " documents"] | None = None
    kl: Float[np.ndarray, " documents"] | None = None
    reverse_kl: Float[np.ndarray, " documents"] | None = None
    total_variation: Float[np.ndarray, " documents"] | None = None
    agreement: Float[np.ndarray, " documents"] | None = None
    surprises: tuple[KLExample, ...] = ()

    @property
    def read(self) -> int:
        """How many documents have a prediction of weight > 0."""
        return int((self.tokens > 0).sum())

    def save(self, path: Path) -> None:
        """Writes the sums as safetensors, atomically, with the predictions of largest KL as JSON in its metadata.

        Raises BadFolder if the file cannot be written.
        """
        arrays = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        save_arrays(path, arrays, surprises=json.dumps([asdict(surprise) for surprise in self.surprises]))

    @classmethod
    def load(cls, path: Path) -> Measurements:
        """Reads what `save` wrote. Raises BadFolder if it is missing or damaged."""
        arrays, metadata, _ = load_arrays(path, _AXES, needs=("tokens", "nats", "bins"), remedy=AGAIN)
        found = parsed(path, metadata.get("surprises", "[]"), error=BadFolder, remedy=AGAIN)
        rows = require_type(path, found, list[KLExample], remedy=AGAIN)
        return cls(**arrays, surprises=tuple(KLExample.of(row) for row in rows))


@torch.no_grad()
@full_products()
def measure(
    student: CausalLM,
    teacher: Teacher | None,
    batches: Iterable[Batch],
    *,
    documents: int,
    cells: int | None = None,
    ranks: Gathering | None = None,
) -> Measurements:
    """Measures sums over the predictions of each of ``documents`` documents, and the predictions of largest KL.

    The batches are on the models' device. At most ``cells`` logits exist at a time (None for a default by device). With
    ``ranks`` all of them call it, each with its own batches, equally many, and each gets the sums over all batches. Raises
    Mismatch if the models have different vocabularies or a teacher's target is missing, BadCorpus if no prediction has weight.
    """
    if teacher is not None and teacher.vocab != student.vocab:
        raise Mismatch(
            f"the teacher {teacher.name} has a vocabulary of {teacher.vocab} tokens, {student.name} one of {student.vocab}: they "
            "can only be compared token by token with one tokenizer. Probe them separately, without --teacher, and compare "
            "bits per byte."
        )
    sums = _Sums(documents)
    surprises = LargestKL()
    for batch, outputs in each(student, batches):
        counted = batch.weight.reshape(-1).nonzero().squeeze(1)
        q = _at(outputs, counted)
        signal = None if teacher is None else teacher(batch)
        p = signal.part(counted) if isinstance(signal, Sparse) else None if signal is None else _at(signal, counted)
        for part in _chunks(len(counted), q, cells):
            where = counted[part]
            log_q = q.logits(part).float().log_softmax(-1)
            columns = _likelihood(log_q, batch.targets.reshape(-1)[where])
            if isinstance(p, Sparse):
                columns |= _fidelity_to_outcomes(p.part(part), log_q)
            elif p is not None:
                log_p = p.logits(part).float().log_softmax(-1)
                columns |= _fidelity(log_p, log_q, batch.targets.reshape(-1)[where])
                surprises.add(columns["kl"], log_p, log_q, batch, where)
            sums.add(columns, batch.document.reshape(-1)[where], batch.weight.reshape(-1)[where])
        del outputs, q
    found = sums.arrays(), surprises.largest()
    parts = [found] if ranks is None else ranks.gather(found)
    arrays = added([arrays for arrays, _ in parts])
    if not arrays:
        raise BadCorpus(
            f"the held-out text has no token of weight > 0, so {student.name} cannot be measured: give more text, or "
            "held-out text with --eval-data"
        )
    return Measurements(**arrays, surprises=largest_of(example for _, examples in parts for example in examples))


def added(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The sums of arrays of the same name; a part that lacks one counts 0."""
    total: dict[str, np.ndarray] = {}
    for part in parts:
        for name, array in part.items():
            total[name] = total[name] + array if name in total else array
    return total


def _at(outputs: Outputs, positions: Int[Tensor, " n"]) -> Outputs:
    """The outputs at some of the flat positions."""
    hidden = outputs.hidden.reshape(-1, outputs.hidden.shape[-1])[positions]
    return replace(outputs, hidden=hidden[None])


def _chunks(n: int, outputs: Outputs, cells: int | None) -> Iterator[slice]:
    usual = _CELLS.get(outputs.hidden.device.type, _CELLS["cpu"])
    size = max(8, usual // outputs.vocab) if cells is None else max(1, min(usual, cells) // outputs.vocab)
    return (slice(start, min(n, start + size)) for start in range(0, n, size))


def _likelihood(log_q: Float[Tensor, "n V"], targets: Int[Tensor, " n"]) -> dict[str, Tensor]:
    top, guess = log_q.max(-1)
    confidence = top.exp()
    # A confidence of exactly 1 belongs to the last bin.
    into = torch.nn.functional.one_hot((confidence * BINS).long().clamp(0, BINS - 1), BINS)
    triple = torch.stack([torch.ones_like(confidence), confidence, (guess == targets).float()], -1)
    return {
        "tokens": torch.ones_like(confidence),
        "nats": -log_q.gather(-1, targets[:, None]).squeeze(-1),
        "bins": into[:, :, None] * triple[:, None, :],  # (n, BINS, 3)
    }


def _fidelity(
    log_p: Float[Tensor, "n V"], log_q: Float[Tensor, "n V"], targets: Int[Tensor, " n"]
) -> dict[str, Tensor]:
    forward, reverse, variation = both_ways(log_p, log_q)
    return {
        "teacher_nats": -log_p.gather(-1, targets[:, None]).squeeze(-1),
        "kl": forward,
        "reverse_kl": reverse,
        "total_variation": variation,
        "agreement": (log_p.argmax(-1) == log_q.argmax(-1)).float(),
    }


def _fidelity_to_outcomes(p: Sparse, log_q: Float[Tensor, "n V"]) -> dict[str, Tensor]:
    """Fidelity from captured outcomes, among which the most probable one always is.

    Sums over top-k outcomes would omit the others, so from those only the agreement is known.
    """
    p.require_known()
    top = p.ids.gather(-1, p.log_p.argmax(-1, keepdim=True)).squeeze(-1)
    agreement = {"agreement": (top == log_q.argmax(-1)).float()}
    if p.rest is not None:
        return agreement
    ratio = log_q.gather(-1, p.ids) - p.log_p
    return agreement | {
        "kl": -(p.weight * ratio).sum(-1),
        "total_variation": (p.weight * (1 - ratio.exp()).clamp(min=0)).sum(-1),
    }


class _Sums:
    """Sums by document, in float64 on the models' device."""

    def __init__(self, documents: int) -> None:
        self._documents = documents
        self._totals: dict[str, Tensor] = {}

    def add(self, columns: dict[str, Tensor], document: Int[Tensor, " n"], weight: Float[Tensor, " n"]) -> None:
        for name, column in columns.items():
            if name not in self._totals:
                shape = (self._documents, *column.shape[1:])
                self._totals[name] = torch.zeros(shape, dtype=torch.float64, device=column.device)
            weighted = column.double() * weight.double().reshape(-1, *[1] * (column.ndim - 1))
            self._totals[name].index_add_(0, document, weighted)

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: total.cpu().numpy() for name, total in self._totals.items()}
