"""How far a training has moved a model from its start: its weights, what it represents, and what it can still learn.

A training is *lazy* where representations and gradients hardly change, and *rich* where they do (Chizat et al., arXiv 1812.07956;
measured as by Liu et al., arXiv 2310.08513). A student that inherited its teacher's features is near its start in all three.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.errors import BadModel, BadSetting
from limbeck.models.language_model import LanguageModel
from limbeck.models.observing import evaluating
from limbeck.probes.interval import FEWEST_DOCUMENTS, RESAMPLES, Interval
from limbeck.probes.named import TEXT, ProbeContext, probe
from limbeck.types import Batch, Reading

CHANGE = "change.json"  # in a run's measurements: how far each kind of matrix moved
ROWS = 64  # of the text
POSITIONS = 1024  # at which representations are compared
OUTPUTS, DIRECTIONS = 128, 64  # logits and random directions of the tangent kernel
_STEP = 1e-3  # length of a step along a direction, as a share of the weights
_ITERATIONS = 30  # of the power method


@dataclass(frozen=True)
class Moved:
    """A kind of matrix, such as up_proj, in all layers: ‖W - W0‖ / ‖W0‖ (Frobenius), and the mean stable rank before and after.

    The stable rank of W is ‖W‖² / σ², with σ its largest singular value: at least 1, at most its rank.
    """

    kind: str
    moved: float
    rank_before: float
    rank_after: float


class MovedRow(TypedDict):
    """A row of the file `CHANGE` in a run's measurements."""

    kind: str
    moved: float
    rank_before: float
    rank_after: float


@probe("change", reads=(*TEXT, "teacher", "seed"))
def probe_change(model: LanguageModel, teacher: LanguageModel | None, context: ProbeContext) -> list[Reading]:
    """How far a model is from the one that its training began with, which is given in the teacher's place.

    Raises BadSetting without it, and BadModel where its matrices have other names or shapes.
    """
    if teacher is None:
        raise BadSetting(
            "--probe change compares a model with the one that its training began with: give that with --teacher, such as "
            "runs/first/cut of the student in runs/first/student"
        )
    if not model.in_one_process:
        raise BadSetting("--probe change needs all weights in one process: leave --mesh out")
    if model.model.dtype != torch.float32:
        raise BadSetting(
            f"--probe change compares small differences, and {str(model.model.dtype).removeprefix('torch.')} rounds them away: "
            "give --dtype float32"
        )
    readings = weight_readings("model", matrices_moved(teacher, model))
    batches = first_rows(context.held_out().batches())
    readings.append(represented("model", teacher, model, batches))
    similar = tangent_alignment(teacher, model, batches, seed=context.seed)
    unknown = math.nan  # how much another sample of positions and directions would differ
    readings.append(Reading("model", "change", "tangent_alignment", similar, "cosine", OUTPUTS, unknown, unknown))
    return readings


def first_rows(batches: Iterable[Batch]) -> list[Batch]:
    """The first batches of a text, as many as have `ROWS` rows: enough for all that is measured here."""
    found: list[Batch] = []
    for batch in batches:
        found.append(batch)
        if sum(len(one.tokens) for one in found) >= ROWS:
            break
    return found


def matrices_moved(start: LanguageModel, end: LanguageModel) -> list[Moved]:
    """How far each kind of matrix has moved, and "all" first. Vectors do not count.

    Raises BadModel where a matrix of one has no partner of its shape in the other.
    """
    before, after = _matrices(start), _matrices(end)
    if unlike := sorted(
        name
        for name in before.keys() | after.keys()
        if name not in before or name not in after or before[name].shape != after[name].shape
    ):
        raise BadModel(
            f"expected {start.name} to be the start of {end.name}, with the same matrices, but {unlike[0]} is not in both in one "
            f"shape, and {len(unlike) - 1} more: give the model that the training began with"
        )
    kinds: dict[str, list[str]] = {}
    for name in before:
        kinds.setdefault(name.removesuffix(".weight").rpartition(".")[2], []).append(name)
    rows = [_row(kind, names, before, after) for kind, names in kinds.items()]
    return [_row("all", list(before), before, after), *rows]


def weight_readings(model: str, moved: Sequence[Moved]) -> list[Reading]:
    """The readings of the row of all matrices."""
    whole = moved[0]
    found = {
        "weights_moved": (whole.moved, "share"),
        "stable_rank_before": (whole.rank_before, "ranks"),
        "stable_rank_after": (whole.rank_after, "ranks"),
    }
    return [Reading(model, "change", name, value, unit, 1, value, value) for name, (value, unit) in found.items()]


def represented(model: str, start: LanguageModel, end: LanguageModel, batches: Sequence[Batch]) -> Reading:
    """The alignment of what two models represent, as a reading with its interval over documents."""
    rows, chosen = _chosen(batches, POSITIONS)
    document = torch.cat([batch.document.flatten() for batch in rows])[chosen]
    before, after = (_hidden(one, rows, chosen) for one in (start, end))
    found = alignment(before, after, document.cpu().numpy())
    return Reading(model, "change", "representation_alignment", found.value, "cosine", found.n, found.low, found.high)


def alignment(before: Float[Tensor, "S D"], after: Float[Tensor, "S E"], document: Int[np.ndarray, " S"]) -> Interval:
    """The cosine of the Gram matrices H Hᵀ of two representations of S tokens, with its interval over documents.

    It is 1 if one is the other turned or scaled, and does not need as many channels in both (arXiv 2310.08513, sec. 3.3).
    """
    grams = [part.double() @ part.double().T for part in (before, after)]
    _, number = np.unique(document, return_inverse=True)
    documents = int(number.max()) + 1
    member = torch.zeros(documents, len(number), dtype=torch.float64, device=before.device)
    member[torch.from_numpy(number), torch.arange(len(number))] = 1.0
    sums = [
        (member @ (grams[a] * grams[b]) @ member.T).cpu().numpy() for a, b in ((0, 1), (0, 0), (1, 1))
    ]  # each sum of products over pairs of documents

    def cosine(counts: Float[np.ndarray, "draws documents"]) -> Float[np.ndarray, " draws"]:
        both, first, second = (np.einsum("ni,ij,nj->n", counts, part, counts) for part in sums)
        found: np.ndarray = both / np.sqrt(np.maximum(first * second, 1e-300))
        return found

    value = float(cosine(np.ones((1, documents)))[0])
    if documents < FEWEST_DOCUMENTS:
        return Interval(value, math.nan, math.nan, documents)
    draws = np.random.default_rng(0).multinomial(documents, [1 / documents] * documents, RESAMPLES).astype(float)
    low, high = np.percentile(cosine(draws), [2.5, 97.5])
    return Interval(value, min(float(low), value), max(float(high), value), documents)


def tangent_alignment(
    start: LanguageModel, end: LanguageModel, batches: Sequence[Batch], *, seed: int = 0, outputs: int = OUTPUTS
) -> float:
    """The cosine of the tangent kernels J Jᵀ of two models, of the logits of the right tokens at some positions.

    J v along `DIRECTIONS` random directions v, the same for both, is a central difference: 2 passes each. The mean of
    (J v)(J v)ᵀ over v is J Jᵀ; with as few directions as here the cosine is too high where the kernels have many directions of
    like size. The memory of one more copy of the weights is needed.
    """
    rows, chosen = _chosen(batches, outputs)
    grams = []
    for model in (start, end):
        slopes = torch.stack(list(_slopes(model, rows, chosen, seed)), 1)  # (outputs, directions)
        grams.append(slopes @ slopes.T)
    return float((grams[0] * grams[1]).sum() / (grams[0].norm() * grams[1].norm()).clamp_min(1e-300))


def _slopes(
    model: LanguageModel, rows: Sequence[Batch], chosen: Int[Tensor, " S"], seed: int
) -> Iterator[Float[Tensor, " S"]]:
    """The derivatives of the chosen logits along each direction. Weights are as they were afterwards."""
    weights = list(model.model.parameters())
    kept = [weight.detach().clone() for weight in weights]
    size = math.sqrt(sum(float(weight.double().square().sum()) for weight in kept))
    count = sum(weight.numel() for weight in kept)
    step = _STEP * size / math.sqrt(count)
    generator = torch.Generator(weights[0].device)
    try:
        for number in range(DIRECTIONS):
            ends = []
            for sign in (1, -1):
                generator.manual_seed(
                    DIRECTIONS * seed + number
                )  # the same direction, of which one tensor is in memory
                for weight, old in zip(weights, kept, strict=True):
                    direction = torch.randn(weight.shape, generator=generator, device=weight.device)
                    torch.add(old, direction, alpha=sign * step, out=weight.data)
                ends.append(_logits(model, rows, chosen))
            yield (ends[0] - ends[1]) / (2 * step)
    finally:
        for weight, old in zip(weights, kept, strict=True):
            weight.data.copy_(old)


def _chosen(batches: Sequence[Batch], most: int) -> tuple[list[Batch], Int[Tensor, " S"]]:
    """Rows, and the places of at most ``most`` positions of weight among theirs, evenly spread over no more rows than needed."""
    rows = [batch.rows(slice(row, row + 1)) for batch in batches for row in range(len(batch.tokens))]
    taken: list[Batch] = []
    weighted = 0
    for row in rows[:: max(1, len(rows) // 16)]:
        taken.append(row)
        weighted += int((row.weight > 0).sum())
        if weighted >= 8 * most:
            break
    places = torch.cat([row.weight.flatten() for row in taken]).nonzero().flatten()
    spread = torch.linspace(0, len(places) - 1, min(most, len(places))).round().long()
    return taken, places[spread.to(places.device)]


@torch.no_grad()
def _hidden(model: LanguageModel, rows: Sequence[Batch], chosen: Int[Tensor, " S"]) -> Float[Tensor, "S D"]:
    with evaluating(model.model):
        return torch.cat([model(row).hidden.flatten(0, 1) for row in rows])[chosen]


@torch.no_grad()
def _logits(model: LanguageModel, rows: Sequence[Batch], chosen: Int[Tensor, " S"]) -> Float[Tensor, " S"]:
    """The logits of the right tokens at the chosen places, in float64."""
    with evaluating(model.model):
        found = [model(row).logits().double().gather(1, row.targets.flatten()[:, None])[:, 0] for row in rows]
    return torch.cat(found)[chosen]


def _matrices(model: LanguageModel) -> dict[str, Tensor]:
    """Parameters with at least two dimensions, by name."""
    return {name: weight.detach() for name, weight in model.model.named_parameters() if weight.ndim >= 2}


def _row(kind: str, names: Sequence[str], before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Moved:
    moved = sum(float((after[name].double() - before[name].double()).square().sum()) for name in names)
    size = sum(float(before[name].double().square().sum()) for name in names)
    ranks = [[stable_rank(weights[name]) for name in names] for weights in (before, after)]
    return Moved(kind, math.sqrt(moved / max(size, 1e-300)), *(sum(found) / len(found) for found in ranks))


@torch.no_grad()
def stable_rank(weight: Float[Tensor, "m n"]) -> float:
    """‖W‖² / σ² with the largest singular value σ, by the power method; 0 of a matrix of zeros."""
    wide = weight.detach().flatten(1).float()
    whole = float(wide.double().square().sum())
    if whole == 0:
        return 0.0
    vector = torch.randn(wide.shape[1], generator=torch.Generator().manual_seed(0)).to(wide.device)
    for _ in range(_ITERATIONS):
        vector = wide.T @ (wide @ (vector / vector.norm()))
    return whole / float((wide @ (vector / vector.norm())).double().square().sum())
