"""Every legal shape of a student within some bytes is counted; the few that a person would choose among are shown.

Shown are shapes that fill the budget and whose axes are within a factor of two of the common ratio (`students.shape`): the
corners beyond, such as one layer or one head, are counted too, and shown only where nothing else fills it. The front is over
FLOPs and KV-cache bytes, fewer of which are better, and parameters without embeddings, more of which are: of bytes, FLOPs and
KV-cache bytes alone the smallest student would be best in all three. Shapes that differ by under two percent in each count as
one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from limbeck.errors import BadShape
from limbeck.jobs.plan.device import BFLOAT16
from limbeck.models.anatomy import Anatomy
from limbeck.planning.cost.size import Size
from limbeck.students.shape import (
    BANDS,
    WINDOW,
    Budget,
    Grid,
    Shape,
    Widths,
    anatomy_of,
    balanced_within,
    common_ratio,
    deviation,
    near,
    widths_of,
)

_STEP = 0.02  # shapes that differ by less are one on the front
Points = dict[str, Any]  # arrays of one length, an element a shape
_EXTREMES: Mapping[str, Callable[[Points], Any]] = {  # what is least, to name a shape
    "widest": lambda points: -points["hidden"],
    "deepest": lambda points: -points["layers"],
    "fewest FLOPs": lambda points: points["flops"],
    "most FLOPs": lambda points: -points["flops"],
    "smallest KV cache": lambda points: points["kv_bytes"],
}


@dataclass(frozen=True)
class Candidate:
    """A shape with its vocabulary, and its exact cost. ``names`` say in what it is first among those that were counted."""

    shape: Shape
    vocab: int
    parameters: int
    embedding_share: float
    bytes: int
    flops: float
    kv_bytes: int
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, teacher: Anatomy, shape: Shape, budget: Budget, length: int, *names: str) -> Candidate:
        """The candidate of a shape; FLOPs a token are of a forward pass in rows of ``length`` tokens, as are KV bytes."""
        size = Size.of_anatomy(anatomy_of(shape, teacher))
        return cls(
            shape,
            size.rows,
            size.parameters,
            (size.embedding + size.head) / size.parameters,
            budget.of(teacher, shape),
            size.forward_flops(length),
            size.state_bytes(length, BFLOAT16),
            names,
        )

    def row(self) -> dict[str, Any]:
        """As JSON."""
        found = {name: getattr(self, name) for name in ("vocab", "parameters", "embedding_share", "bytes", "flops")}
        return {"shape": str(self.shape), **found, "kv_bytes": self.kv_bytes, "names": list(self.names)}


@dataclass(frozen=True)
class Found:
    """What a search found: numbers of shapes, the balanced one of each vocabulary and the extremes, and the front.

    ``skipped`` says of the vocabularies without a student in the budget why there is none.
    """

    budget: Budget
    length: int
    legal: int
    within: int
    chosen: tuple[Candidate, ...]
    front: tuple[Candidate, ...] = field(repr=False)
    skipped: tuple[str, ...] = ()

    def row(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "budget_bytes": self.budget.most,
            "format": self.budget.kind,
            "length": self.length,
            "legal": self.legal,
            "within": self.within,
            "rows": [one.row() for one in self.chosen],
            "front": [one.row() for one in self.front],
            "skipped": list(self.skipped),
        }


def search(teachers: Sequence[Anatomy], budget: Budget, length: int) -> Found:
    """All shapes of students within a budget of bytes, of a teacher with each of several vocabularies.

    The balanced shapes are first, in the order of ``teachers``. Raises BadShape where no vocabulary has a student in the budget.
    """
    legal = within = 0
    parts: list[Points] = []
    chosen: list[tuple[Anatomy, Shape, str]] = []
    skipped: list[str] = []
    for place, teacher in enumerate(teachers):
        counted = count_all(teacher, budget)
        legal, within = legal + counted[0], within + counted[1]
        try:
            shape = balanced_within(teacher, budget)
        except BadShape as error:
            if len(teachers) == 1:
                raise
            skipped.append(f"no student with {teacher.sizes.vocab:,} tokens: {error}")
            continue
        chosen.append((teacher, shape, "balanced"))
        parts += [
            chunk | {"place": np.full(chunk["layers"].shape, place)} for chunk in _like(teacher, budget, shape, length)
        ]
    if not chosen:
        raise BadShape(skipped[-1])
    points = _joined(parts)
    for name, least in _EXTREMES.items() if points["layers"].size else ():
        first = int(np.lexsort((points["deviation"], least(points)))[0])
        chosen.append((teachers[int(points["place"][first])], _shape(points, first), name))
    front = [(teachers[int(points["place"][i])], _shape(points, i)) for i in _front(points)]
    return Found(
        budget,
        length,
        legal,
        within,
        tuple(_named(chosen, budget, length)),
        tuple(Candidate.of(teacher, shape, budget, length) for teacher, shape in front),
        tuple(skipped),
    )


def count_all(teacher: Anatomy, budget: Budget) -> tuple[int, int]:
    """(legal shapes of students, those within the budget), each counted exactly."""
    widths, full = Widths(), Shape.of_anatomy(teacher).ffn
    grid = Grid.of(teacher, 1.0, float("inf"), widths)
    each, inside = int(np.count_nonzero(grid.legal)), 0
    lengths = widths.up_to(full)
    for ffn in lengths:
        inside += int(np.count_nonzero(grid.legal & (budget.count(teacher, **grid.axes, ffn=ffn) <= budget.most)))
    return each * len(lengths), inside


def _like(teacher: Anatomy, budget: Budget, shape: Shape, length: int) -> list[Points]:
    """Shapes that use the budget as well as the balanced one does, or 95 % of it.

    They are those near the common ratio; where the steps of a small model are too coarse for one to be there, all.
    """
    for window in (WINDOW, float("inf")):
        found = list(_around(teacher, budget, shape, length, window))
        if any(chunk["layers"].size for chunk in found):
            return found
    raise AssertionError(f"{shape} is within {budget}")


def _around(teacher: Anatomy, budget: Budget, shape: Shape, length: int, window: float) -> Iterator[Points]:
    """Those within a factor ``window`` of the common ratio."""
    ratio, widths, full = common_ratio(teacher, budget), widths_of(teacher, budget, shape), Shape.of_anatomy(teacher)
    grid = Grid.of(teacher, ratio, window, widths)
    least = min(BANDS[0] * budget.most, budget.of(teacher, shape))
    for ffn in near(widths.up_to(full.ffn), ratio * full.ffn, window):
        count = budget.count(teacher, **grid.axes, ffn=ffn)
        usable = np.nonzero(grid.legal & (count <= budget.most) & (count >= least))
        axes = grid.among(usable) | {"ffn": np.full(usable[0].shape, ffn)}
        size = Size.of_anatomy(replace(teacher, sizes=replace(teacher.sizes, **axes)))
        costs = {"body": size.body, "flops": size.forward_flops(length), "kv_bytes": size.state_bytes(length, BFLOAT16)}
        like = deviation(full, ratio, Shape(**axes), axes["ffn"])
        found = axes | {name: np.broadcast_to(cost, usable[0].shape) for name, cost in costs.items()}
        yield _spread(found | {"deviation": like})


def _spread(points: Points) -> Points:
    """One of the points that differ by little in all costs, the most balanced, besides the extremes."""
    if not points["layers"].size:
        return points
    cells = [np.floor(np.log(points[cost]) / np.log1p(_STEP)) for cost in ("body", "flops", "kv_bytes")]
    order = np.lexsort((points["deviation"], *cells))
    new = np.any([np.diff(cell[order], prepend=-1) != 0 for cell in cells], axis=0)
    extremes = [int(np.lexsort((points["deviation"], least(points)))[0]) for least in _EXTREMES.values()]
    kept = np.unique([*order[new], *extremes])
    return {name: values[kept] for name, values in points.items()}


def _joined(parts: Sequence[Points]) -> Points:
    names = parts[0] if parts else ("layers",)
    return {name: np.concatenate([part[name] for part in parts]) if parts else np.zeros(0) for name in names}


def _front(points: Points) -> list[int]:
    """The points of which no other has as few FLOPs and KV bytes and as many parameters without embeddings."""
    if not points["layers"].size:
        return []
    points = _spread(points | {"index": np.arange(points["layers"].size)})
    costs = np.stack([points["flops"], points["kv_bytes"], -points["body"]], axis=1).astype(float)
    left = np.lexsort((costs[:, 2], costs[:, 1], costs[:, 0]))
    found: list[int] = []
    while left.size:
        found.append(int(points["index"][left[0]]))
        left = left[(costs[left] < costs[left[0]]).any(axis=1)]
    return found


def _shape(points: Points, index: int) -> Shape:
    return Shape(**{name: int(points[name][index]) for name in ("layers", "hidden", "heads", "kv_heads", "ffn")})


def _named(found: Sequence[tuple[Anatomy, Shape, str]], budget: Budget, length: int) -> Iterator[Candidate]:
    """Each shape once, with all its names."""
    names: dict[tuple[int, Shape], list[str]] = {}
    teachers = {int(teacher.sizes.vocab): teacher for teacher, _, _ in found}
    for teacher, shape, name in found:
        names.setdefault((int(teacher.sizes.vocab), shape), []).append(name)
    for (vocab, shape), called in names.items():
        yield Candidate.of(teachers[vocab], shape, budget, length, *called)
