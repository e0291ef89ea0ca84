"""The loss of information by a teacher's stored outcomes, measured on the gradient of a student.

For each objective, the gradient in the output head's weights from the outcomes (encoded and decoded as they are stored) is
compared with that from the whole distribution. One part of its error is the same at every position and stays however many there
are (the *bias*). The other part averages out (the *noise*). Blocks of different rows have only the bias in common. So inner
products across blocks give the bias, without an offset, and those within a block the rest. Both are shares of the true
gradient's norm.

The student of the measurement is simulated: the teacher at temperature 1.5 with Gaussian noise of 1 on its logits, as uncertain
and often wrong as students are. Hidden states enter through eight random directions, and a large vocabulary through a count
sketch (Charikar et al. 2002). Both preserve inner products in expectation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from limbeck.errors import BadObjective, Mismatch
from limbeck.objectives.base import Objective
from limbeck.objectives.fused import value_and_gradient
from limbeck.objectives.spec import ObjectiveSpec
from limbeck.planning.laws.estimate import Estimate
from limbeck.teachers.cache import CELLS, LogitCache, packed_log_p
from limbeck.teachers.codec import Codec, TopK
from limbeck.types import Batch, Chunk, Outputs, Signal, Sparse

OBJECTIVES = ("ForwardKL", "SkewKL", "TAID", "TotalVariation", "ReverseKL", "JensenShannon")
STEP = 16_384  # tokens of the step whose noise is reported
BLOCKS = 32
_DIRECTIONS, _BUCKETS = 8, 8192
_TEMPERATURE, _NOISE = 1.5, 1.0
_STEPS = 10  # 1 / (1 - beta_1)
_DRAWS = 1000


@dataclass(frozen=True)
class Damage:
    """Errors of an objective's gradient from stored outcomes, as shares of its norm. ``noise`` is that of STEP tokens."""

    bias: Estimate
    noise: Estimate

    @property
    def error(self) -> float:
        """The size of both errors in AdamW's momentum, which is a mean over about ten steps.

        Only the certain part of the bias counts, so that a small sample is no disadvantage for unbiased outcomes.
        """
        return math.hypot(self.bias.low, self.noise.value / math.sqrt(_STEPS))


@dataclass(frozen=True)
class Certificate:
    """The information that a codec keeps: means over positions, and the damage to each objective that it can serve.

    ``exact_mass`` is the teacher's mass on outcomes whose probability is stored exactly, ``top1_kept`` the share of positions
    whose most probable outcome is stored, and ``kl`` the KL from the teacher to the decoded distribution, with the rest spread
    evenly (for top-k only, since sampled outcomes are not a distribution).
    """

    codec: str
    bytes: int
    positions: int
    exact_mass: Estimate
    top1_kept: Estimate
    kl: Estimate | None
    damage: Mapping[str, Damage]

    def row(self) -> dict[str, Any]:
        """The certificate as JSON."""
        return asdict(self)


@torch.no_grad()
def certify(
    outputs_of: Iterable[tuple[Batch, Outputs]],
    codecs: Sequence[Codec],
    *,
    objectives: Sequence[str],
    seed: int,
    stored: LogitCache | None = None,
    cells: int = CELLS,
) -> list[Certificate]:
    """The certificates of several codecs on the same logits of a teacher, or of the ``stored`` ones.

    Objectives that a codec cannot serve are left out of its damage. The cost is two softmaxes for each codec and objective, of
    ``cells`` logits at a time.
    """
    tallies = [_Tally(codec, objectives) for codec in codecs]
    number = 0  # no enumerate: it would hold an answer, and so the head, until it has the next
    for batch, outputs in outputs_of:
        rng = np.random.default_rng([seed, number])
        positions = batch.weight.reshape(-1).nonzero().squeeze(-1)
        kept = None if stored is None else stored(batch)
        for part in positions.split(max(1, cells // outputs.vocab)):
            _look(tallies, batch, outputs, part, rng, None if kept is None else kept.part(part))
        del outputs
        number += 1  # noqa: SIM113
        for tally in tallies:
            tally.close()
    return [tally.certificate(seed) for tally in tallies]


def kept_bytes(vocab: int) -> int:
    """Bytes that `certify` holds for all blocks until its end, for one codec: sketches in float64."""
    return BLOCKS * 2 * len(OBJECTIVES) * _DIRECTIONS * min(vocab, _BUCKETS) * 8


def _look(
    tallies: list[_Tally],
    batch: Batch,
    outputs: Outputs,
    part: Tensor,
    rng: np.random.Generator,
    stored: Sparse | None,
) -> None:
    """Adds some positions to the sums of all codecs."""
    logits = outputs.logits(part).float()
    log_p = logits.log_softmax(-1)
    unlike = torch.from_numpy(rng.standard_normal(logits.shape, np.float32)).to(logits.device)
    student = logits / _TEMPERATURE + _NOISE * unlike
    features = _features(outputs, part)
    chunk = Chunk(batch.targets.reshape(-1)[part], torch.ones_like(log_p[:, 0]))
    true: dict[str, tuple[Tensor, np.ndarray]] = {}
    uniform = rng.random(len(part))
    for tally in tallies:
        kept = stored or tally.codec.decode(packed_log_p(log_p, tally.codec, uniform)).to(log_p.device)
        tally.add_mass(log_p, kept)
        for name, objective in tally.objectives.items():
            if name not in true:
                gradient = value_and_gradient(objective, student.clone(), Signal(logits), chunk)[1]
                true[name] = gradient, _sketch(gradient, features)
            seen = value_and_gradient(objective, student.clone(), kept, chunk)[1]
            tally.add(f"true {name}", true[name][1])
            tally.add(f"error {name}", _sketch(seen - true[name][0], features))


def _features(outputs: Outputs, part: Tensor) -> Float[Tensor, "n directions"]:
    hidden = outputs.hidden.reshape(-1, outputs.hidden.shape[-1])[part].float()
    return hidden @ _directions(hidden.shape[-1]).to(hidden.device)


@cache
def _directions(width: int) -> Float[Tensor, "width directions"]:
    found = np.random.default_rng(0).standard_normal((width, _DIRECTIONS)).astype(np.float32) / math.sqrt(_DIRECTIONS)
    return torch.from_numpy(found)


def _sketch(gradient: Float[Tensor, "n V"], features: Float[Tensor, "n directions"]) -> Float64[np.ndarray, " sketch"]:
    """The gradient of the head's weights, reduced to a size that can be stored."""
    found = (features.T @ gradient).double().cpu().numpy()
    vocab = found.shape[1]
    if vocab > _BUCKETS:
        bucket, sign = _buckets(vocab)
        found = np.stack([np.bincount(bucket, weights=row * sign, minlength=_BUCKETS) for row in found])
    return found.reshape(-1)


@cache
def _buckets(vocab: int) -> tuple[np.ndarray, np.ndarray]:
    """The bucket of each token, and its sign."""
    rng = np.random.default_rng(1)
    return rng.integers(_BUCKETS, size=vocab), rng.choice([-1.0, 1.0], size=vocab)


class _Tally:
    """The sums for one codec: over positions, one block (a batch) at a time."""

    def __init__(self, codec: Codec, objectives: Sequence[str]) -> None:
        self.codec = codec
        parsed = {name: ObjectiveSpec.of(name).objective for name in objectives}
        self.objectives = {name: objective for name, objective in parsed.items() if not why_not(codec, objective)}
        self._block: dict[str, np.ndarray] = {}
        self._blocks: list[dict[str, np.ndarray]] = []

    def add(self, key: str, value: np.ndarray) -> None:
        """Adds to the current block."""
        self._block[key] = self._block[key] + value if key in self._block else value

    def add_mass(self, log_p: Float[Tensor, "n V"], kept: Sparse) -> None:
        """Adds positions, exact mass, stored most probable outcomes, and KL to the decoded distribution."""
        if kept.rest is None:
            known = kept.weight <= kept.log_p.exp() * (1 + 1e-4)
            divergence = torch.zeros_like(log_p[:, 0])
        else:
            known = torch.ones_like(kept.weight, dtype=torch.bool)
            others = max(1, log_p.shape[-1] - kept.ids.shape[-1])
            evenly = (kept.rest - math.log(others))[:, None].expand_as(log_p)
            divergence = (log_p.exp() * (log_p - evenly.scatter(-1, kept.ids, kept.log_p))).sum(-1)
        at_ids = log_p.gather(-1, kept.ids)
        mass = (at_ids.exp() * known).sum(-1)
        top = at_ids.amax(-1) == log_p.amax(-1)
        self.add("mass", np.array([len(mass), *(float(x.double().sum()) for x in (mass, top, divergence))]))

    def close(self) -> None:
        """Ends a block."""
        if self._block:
            self._blocks.append(self._block)
        self._block = {}

    def certificate(self, seed: int) -> Certificate:
        """The certificate of the sums, with intervals from resampled blocks."""
        sums = {key: np.array([block[key] for block in self._blocks]) for key in self._blocks[0]}
        counts, *means = sums["mass"].T
        chosen = np.random.default_rng(seed).integers(len(counts), size=(_DRAWS, len(counts)))
        total = counts[chosen].sum(1)
        mass, top, kl = (Estimate.of(x.sum() / counts.sum(), x[chosen].sum(1) / total) for x in means)
        damage = {
            name: _damage(sums[f"true {name}"], sums[f"error {name}"], counts, chosen) for name in self.objectives
        }
        evened = kl if isinstance(self.codec, TopK) else None
        return Certificate(str(self.codec), self.codec.bytes, int(counts.sum()), mass, top, evened, damage)


def _damage(true: np.ndarray, error: np.ndarray, counts: np.ndarray, chosen: np.ndarray) -> Damage:
    """Bias and noise from the blocks' gradients (blocks, sketch), and from resampled blocks."""
    true_products, products = true @ true.T, error @ error.T

    def of(blocks: np.ndarray) -> tuple[float, float]:
        apart = blocks[:, None] != blocks[None]  # a block that was sampled twice gives no pair
        pairs = (np.outer(counts[blocks], counts[blocks]) * apart).sum()
        square = (true_products[np.ix_(blocks, blocks)] * apart).sum() / pairs
        bias = (products[np.ix_(blocks, blocks)] * apart).sum() / pairs
        within = (np.diag(products)[blocks] / counts[blocks] - counts[blocks] * bias).mean()
        if square <= 0:
            return np.nan, np.nan
        return float(np.sqrt(max(0.0, bias) / square)), float(np.sqrt(max(0.0, within) / STEP / square))

    values = of(np.arange(len(true)))
    drawn = np.array([of(blocks) for blocks in chosen if len(set(blocks.tolist())) > 1])
    return Damage(*(Estimate.of(value, drawn[:, i]) for i, value in enumerate(values)))


def why_not(codec: Codec, objective: Objective) -> str:
    """The reason why an objective cannot be computed from the outcomes of a codec; "" if it can."""
    log_p = torch.zeros(1, codec.vocab).log_softmax(-1)
    kept = codec.decode(packed_log_p(log_p, codec, np.zeros(1)))
    chunk = Chunk(torch.zeros(1, dtype=torch.int64), torch.ones(1))
    try:
        value_and_gradient(objective, torch.zeros(1, codec.vocab), kept, chunk)
    except (BadObjective, Mismatch) as error:
        return str(error)
    return ""
