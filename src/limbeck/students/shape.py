"""The shape of a student: parsing, checking, and the search for one within a parameter budget.

A shape is balanced where every axis shrinks by the same ratio, as for pruning 7B to 3B in arXiv 2311.07052 (about 0.75 on each
axis). Embeddings shrink only with the width, so the ratio for a budget depends on the vocabulary. The search counts parameters
exactly, or bytes of weights in a file, from the table of the anatomy, without building models. Functions of a configuration have
a twin for an anatomy, which `limbeck plan` uses without loading torch.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.errors import BadShape
from limbeck.models.anatomy import Anatomy, resized
from limbeck.models.weight_bytes import in_blocks, weight_bytes

if TYPE_CHECKING:  # seconds to load, for the name of a type
    from transformers.configuration_utils import PreTrainedConfig

# Widths below 1024 go in steps of 8 (a vector register), wider ones of 64 (a tile of a matrix unit).
_FINE, _COARSE, _WIDE = 8, 64, 1024
# Rows of q8_0 and q4_0 weights are in blocks of 32 numbers, matrix units of a GPU work on tiles of 64. A student of at least
# `BLOCKED` channels has rows of whole blocks, above `_TILED` of whole tiles, if that costs under `GIVEN_UP` of the budget and
# deviates little more from the common ratio. In narrower students, steps of a block are too coarse.
BLOCK, _TILED, BLOCKED = 32, 512, 256
GIVEN_UP, _DEVIATES = 0.02, 0.05
# The share of the budget that a shape should use; where a small model's steps are too coarse, the next one applies.
BANDS = (0.95, 0.9, 0.8, 0.6, 0.3)
WINDOW = 2.0  # the factor around the common ratio within which axes are searched first


@dataclass(frozen=True)
class Shape:
    """The shape of a decoder: layers, hidden channels, query heads, key-value heads, FFN neurons per layer."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int

    @classmethod
    def of(cls, config: PreTrainedConfig) -> Shape:
        """The shape of a configuration, of a mixture of experts that of the dense decoder made of it.

        Raises BadModel for an architecture that cannot be pruned.
        """
        return cls.of_anatomy(Anatomy.of_students(config))

    @classmethod
    def of_anatomy(cls, anatomy: Anatomy) -> Shape:
        """The shape of a decoder."""
        return cls(**{axis.name: int(getattr(anatomy.sizes, axis.name)) for axis in fields(cls)})

    def __str__(self) -> str:
        return ",".join(f"{name}={value}" for name, value in asdict(self).items())


BODY = "body"  # the kind of a budget that counts no embeddings


@dataclass(frozen=True)
class Budget:
    """At most so many parameters, or with a ``kind`` something else: parameters without embeddings and head (`BODY`), or bytes of
    weights in a number format of `models.weight_bytes`.
    """

    most: int
    kind: str | None = None

    def count(self, anatomy: Anatomy, *, even: bool = False, **axes: Any) -> Any:
        """What students of these axes, numbers or arrays, use of it; ``even`` as of `weight_bytes`."""
        if self.kind is None:
            return anatomy.count(**axes)
        if self.kind == BODY:
            return anatomy.count_body(**axes)
        return weight_bytes(anatomy, replace(anatomy.sizes, **axes), self.kind, even=even)

    def of(self, anatomy: Anatomy, shape: Shape) -> int:
        """What a student of this shape uses of it."""
        return int(self.count(anatomy, **asdict(shape)))

    def __str__(self) -> str:
        if self.kind == BODY:
            return f"{self.most:,} parameters without embeddings"
        return f"{self.most:,} parameters" if self.kind is None else f"{self.most:,} bytes in {self.kind}"


def parameters(config: PreTrainedConfig, shape: Shape) -> int:
    """Number of parameters, tied ones once, of a student of this shape pruned from a teacher of this configuration."""
    return int(Anatomy.of_students(config).count(**asdict(shape)))


def choose(config: PreTrainedConfig, *, parameters: int, multiple: int = 1) -> Shape:
    """The balanced shape with at most ``parameters``, and at least 95 % of them where the teacher's steps permit.

    Among the legal shapes in that band it is the one whose axes are nearest to a common ratio of the teacher's (smallest sum of
    squared log-deviations); among equals the larger. Raises BadShape where the teacher is smaller than the budget, or the
    smallest legal student is larger. Channels, neurons, and heads x channels a head are of a ``multiple``. Without one, from 256
    channels on, they are multiples of 32, and of 64 above 512, where that costs under 2 % of the budget.
    """
    return balanced(Anatomy.of_students(config), parameters=parameters, multiple=multiple)


def choose_unblocked(config: PreTrainedConfig, *, parameters: int) -> Shape:
    """As `choose`, without regard to blocks: the choice of earlier versions, whose students are still in folders."""
    return _balanced(Anatomy.of_students(config), Budget(parameters), Widths())


def choose_within(config: PreTrainedConfig, budget: Budget, *, multiple: int = 1) -> Shape:
    """As `choose`, for a budget of parameters or of bytes."""
    return balanced_within(Anatomy.of_students(config), budget, multiple=multiple)


def balanced(anatomy: Anatomy, *, parameters: int, multiple: int = 1) -> Shape:
    """As `choose`, from a teacher's anatomy. Raises BadShape in the same cases."""
    return balanced_within(anatomy, Budget(parameters), multiple=multiple)


def balanced_within(anatomy: Anatomy, budget: Budget, *, multiple: int = 1) -> Shape:
    """As `choose_within`, from a teacher's anatomy. Raises BadShape as `choose` does.

    Bytes of q8_0 and q4_0 hold nearly twice to four times as many numbers in rows of whole blocks as in others. So there are two
    shapes, one with whole blocks alone and one without regard to them, of which the larger in parameters is given.
    """
    found = _in_any_rows(anatomy, budget, multiple)
    if multiple > 1 or budget.kind is None or not in_blocks(budget.kind):
        return found
    try:
        whole = _balanced(anatomy, budget, Widths(BLOCK))
    except BadShape:  # the smallest student of whole blocks is larger than the budget
        return found
    return max((whole, found), key=lambda shape: int(anatomy.count(**asdict(shape))))


def widths_of(anatomy: Anatomy, budget: Budget, shape: Shape) -> Widths:
    """The legal widths of students like one that was chosen for a budget: whole blocks alone where that one has them."""
    whole = Widths(BLOCK)
    blocked = budget.kind is not None and in_blocks(budget.kind) and _within(shape, anatomy, whole)
    return whole if blocked else Widths()


def _in_any_rows(anatomy: Anatomy, budget: Budget, multiple: int) -> Shape:
    found = _balanced(anatomy, budget, Widths(multiple))
    if multiple > 1 or found.hidden < BLOCKED or _within(found, anatomy, _TILES):
        return found
    return _in_tiles(anatomy, budget, found) or found


def row_widths(anatomy: Anatomy) -> dict[str, int]:
    """Lengths of the rows of a decoder's matrices, by axis: hidden channels, heads x channels a head, FFN neurons."""
    sizes = anatomy.sizes
    return {"hidden": int(sizes.hidden), "heads x channels": int(sizes.heads * sizes.head_dim), "ffn": int(sizes.ffn)}


def _in_tiles(anatomy: Anatomy, budget: Budget, found: Shape) -> Shape | None:
    """The balanced shape whose rows are whole blocks and tiles, if it has nearly the size and balance of ``found``; else None."""
    ratio, teacher = common_ratio(anatomy, budget), Shape.of_anatomy(anatomy)
    least = budget.of(anatomy, found) - GIVEN_UP * budget.most
    tiled = _nearest(anatomy, budget, ratio, WINDOW, _TILES, least=least)
    if tiled is None or not _within(tiled, anatomy, _TILES):
        return None
    further = deviation(teacher, ratio, tiled, tiled.ffn) - deviation(teacher, ratio, found, found.ffn)
    return tiled if further <= _DEVIATES else None


def _balanced(anatomy: Anatomy, budget: Budget, widths: Widths) -> Shape:
    """The balanced shape of these widths. Raises BadShape as `choose` does."""
    largest = budget.of(anatomy, Shape.of_anatomy(anatomy))
    if budget.most > largest:
        raise BadShape(
            f"the budget of {budget} is more than the teacher's {largest:,}; give fewer, or a larger teacher"
        )
    smallest = _smallest(anatomy, widths)
    least = budget.of(anatomy, smallest)
    if budget.most < least:
        raise BadShape(
            f"the budget of {budget} is less than the smallest student of this teacher has, {least:,} "
            f"({smallest}); give more, or a teacher with a smaller vocabulary or fewer channels per head"
        )
    ratio = common_ratio(anatomy, budget)
    for window in (WINDOW, 8.0):
        found = _nearest(anatomy, budget, ratio, window, widths)
        if found is not None and budget.of(anatomy, found) >= BANDS[0] * budget.most:
            return found
    return _nearest(anatomy, budget, ratio, float("inf"), widths) or smallest


def budget_of_shrink(config: PreTrainedConfig, factor: float) -> int:
    """The budget, in parameters, that makes the teacher ``factor`` times smaller. Raises BadShape unless ``factor`` > 1."""
    return shrunk_budget(Anatomy.of_students(config), factor)


def shrunk_budget(anatomy: Anatomy, factor: float) -> int:
    """As `budget_of_shrink`, from a teacher's anatomy. Raises BadShape unless 1 < ``factor`` < infinity."""
    if not 1 < factor < float("inf"):
        raise BadShape(
            f"a shrink factor is how many times smaller the student is, so it must be above 1; got {factor:g}"
        )
    return int(anatomy.count(**asdict(Shape.of_anatomy(anatomy))) / factor)


def parse_shape(text: str, config: PreTrainedConfig) -> Shape:
    """A shape from `layers=4,hidden=48,heads=6,kv_heads=3,ffn=128`; a missing axis is the teacher's.

    Raises BadShape for an unknown or repeated axis, a value that is not a number, and a shape that `check` refuses.
    """
    given = shape_axes(text)
    if "heads" in given and "kv_heads" not in given and "kv_heads" not in Anatomy.of_students(config).kind.fields:
        given["kv_heads"] = given["heads"]
    shape = Shape(**{**asdict(Shape.of(config)), **given})
    check(config, shape)
    return shape


def shape_axes(text: str) -> dict[str, int]:
    """Axis → length, from a text such as `layers=4,hidden=48`. Raises BadShape where it cannot be parsed."""
    names = [axis.name for axis in fields(Shape)]
    given: dict[str, int] = {}
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise BadShape(f"a shape is {', '.join(f'{axis}=N' for axis in names)}; got {part.strip()!r}{hint}")
        if name in given:
            raise BadShape(f"the shape {text!r} gives {name} twice; give it once")
        if not re.fullmatch(r"[1-9][0-9]*", value):
            raise BadShape(f"the shape {text!r} needs a whole number above 0 for {name}, got {value!r}; write {name}=4")
        given[name] = int(value)
    return given


def check(config: PreTrainedConfig, shape: Shape) -> None:
    """Raises BadShape unless a teacher of this configuration can be pruned to this shape."""
    anatomy = Anatomy.of_students(config)
    teacher = Shape.of_anatomy(anatomy)
    for axis in fields(Shape):
        ours, theirs = getattr(shape, axis.name), getattr(teacher, axis.name)
        if not 1 <= ours <= theirs:
            raise BadShape(
                f"{axis.name}={ours} cannot be pruned from the teacher's {axis.name}={theirs}; give 1 to {theirs}"
            )
    group = teacher.heads // teacher.kv_heads
    if shape.heads % shape.kv_heads or shape.heads // shape.kv_heads > group:
        options = ", ".join(str(shape.kv_heads * n) for n in range(1, group + 1))
        raise BadShape(
            f"heads={shape.heads} do not fit kv_heads={shape.kv_heads}: each keeps the same number of the teacher's "
            f"{group} query heads; give heads one of {options}"
        )
    head_dim = anatomy.sizes.head_dim
    if anatomy.kind.square and shape.hidden != shape.heads * head_dim:
        raise BadShape(
            f"in {config.model_type} models hidden is heads x {head_dim}, got hidden={shape.hidden} with "
            f"heads={shape.heads}; give hidden={shape.heads * head_dim}, or other heads"
        )
    if anatomy.kind.divides and shape.hidden % shape.heads:
        raise BadShape(
            f"in {config.model_type} models hidden is a multiple of heads, got hidden={shape.hidden} with "
            f"heads={shape.heads}; give hidden={shape.hidden // shape.heads * shape.heads or shape.heads}, "
            "or other heads"
        )


def config_of(shape: Shape, config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of a student of this shape, with the first layers of a teacher of this configuration."""
    return resized(config, layers=range(shape.layers), sizes=anatomy_of(shape, Anatomy.of_students(config)).sizes)


def anatomy_of(shape: Shape, teacher: Anatomy) -> Anatomy:
    """The anatomy of a student of this shape, pruned from a teacher."""
    return replace(teacher, sizes=replace(teacher.sizes, **asdict(shape)))


@dataclass(frozen=True)
class Widths:
    """The legal widths of a search: of a ``multiple`` and, if ``tiled``, whole tiles where they are large."""

    multiple: int = 1
    tiled: bool = False

    def has(self, width: int) -> bool:
        """Whether a row may be this long."""
        return width % (_COARSE if self.tiled and width > _TILED else self.multiple) == 0

    def up_to(self, full: int) -> list[int]:
        """Legal lengths of an axis of channels or neurons, and the teacher's own if it is one; only that if none is."""
        step = math.lcm(_COARSE if full >= _WIDE else _FINE, self.multiple)
        return [one for one in sorted({*range(step, full + 1, step), full}) if self.has(one)] or [full]


_TILES = Widths(BLOCK, tiled=True)


def _within(shape: Shape, teacher: Anatomy, widths: Widths) -> bool:
    """Whether a student of this shape has only legal rows."""
    return all(widths.has(width) for width in row_widths(anatomy_of(shape, teacher)).values())


def _heads(anatomy: Anatomy, widths: Widths) -> list[tuple[int, int]]:
    """Legal (heads, kv_heads): every group keeps the same number of its query heads, whose channels are a legal width."""
    teacher = Shape.of_anatomy(anatomy)
    group = teacher.heads // teacher.kv_heads
    pairs = [(kv * queries, kv) for kv in range(1, teacher.kv_heads + 1) for queries in range(1, group + 1)]
    return [pair for pair in pairs if widths.has(pair[0] * anatomy.sizes.head_dim)] or pairs


def _smallest(anatomy: Anatomy, widths: Widths) -> Shape:
    teacher, kind = Shape.of_anatomy(anatomy), anatomy.kind
    heads, kv_heads = min(_heads(anatomy, widths))
    hidden = heads * anatomy.sizes.head_dim if kind.square else widths.up_to(teacher.hidden)[0]
    return Shape(layers=1, hidden=hidden, heads=heads, kv_heads=kv_heads, ffn=widths.up_to(teacher.ffn)[0])


def common_ratio(anatomy: Anatomy, budget: Budget) -> float:
    """The ratio r with count(r x every axis) = budget, by bisection: the count rises with r."""
    teacher = Shape.of_anatomy(anatomy)
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        axes = {name: middle * value for name, value in asdict(teacher).items()}
        low, high = (middle, high) if budget.count(anatomy, even=True, **axes) <= budget.most else (low, middle)
    return low


@dataclass(frozen=True)
class Grid:
    """Candidates along three axes that broadcast (layers, hidden, heads with their kv heads), and a mask of legal ones."""

    layers: Any
    hidden: Any
    heads: Any
    kv_heads: Any
    legal: Any

    @classmethod
    def of(cls, anatomy: Anatomy, ratio: float, window: float, widths: Widths) -> Grid:
        """The candidates within a factor ``window`` of the common ratio."""
        teacher = Shape.of_anatomy(anatomy)
        pairs = _heads(anatomy, widths)
        close = set(near(sorted({pair[0] for pair in pairs}), ratio * teacher.heads, window))
        pairs = [pair for pair in pairs if pair[0] in close]
        layers = np.array(near(list(range(1, teacher.layers + 1)), ratio * teacher.layers, window))[:, None, None]
        hidden = np.array(near(widths.up_to(teacher.hidden), ratio * teacher.hidden, window))[None, :, None]
        if anatomy.kind.square:
            hidden = np.array([pair[0] * anatomy.sizes.head_dim for pair in pairs])[None, None, :]
        heads, kv_heads = (np.array([pair[i] for pair in pairs])[None, None, :] for i in (0, 1))
        legal = np.ones(np.broadcast_shapes(layers.shape, hidden.shape, heads.shape), dtype=bool)
        if anatomy.kind.divides:
            legal &= hidden % heads == 0
        return cls(layers, hidden, heads, kv_heads, legal)

    @property
    def axes(self) -> dict[str, Any]:
        """The axes by name."""
        return {"layers": self.layers, "hidden": self.hidden, "heads": self.heads, "kv_heads": self.kv_heads}

    def at(self, index: tuple[int, ...], ffn: int) -> Shape:
        """The shape at an index of the broadcast grid."""
        found = {name: int(axis[index]) for name, axis in self._whole().items()}
        return Shape(**found, ffn=ffn)

    def among(self, index: tuple[Any, ...]) -> dict[str, Any]:
        """The axes of the shapes at arrays of indices, each an array."""
        return {name: axis[index] for name, axis in self._whole().items()}

    def _whole(self) -> dict[str, Any]:
        return {name: np.broadcast_to(axis, self.legal.shape) for name, axis in self.axes.items()}


def near(values: list[int], wanted: float, window: float) -> list[int]:
    """The values within a factor ``window`` of the wanted one, or the nearest where there are none."""
    inside = [value for value in values if 1 / window <= value / wanted <= window]
    return inside or [min(values, key=lambda value: abs(np.log(value / wanted)))]


def _nearest(
    anatomy: Anatomy, budget: Budget, ratio: float, window: float, widths: Widths, *, least: float = 0.0
) -> Shape | None:
    """The legal shape in the fullest band with the smallest deviation from the common ratio.

    None where none uses from ``least`` to all of the budget.
    """
    teacher = Shape.of_anatomy(anatomy)
    grid = Grid.of(anatomy, ratio, window, widths)
    best: tuple[tuple[int, float, int], Shape] | None = None
    for ffn in near(widths.up_to(teacher.ffn), ratio * teacher.ffn, window):
        count = budget.count(anatomy, **grid.axes, ffn=ffn)
        usable = np.nonzero(grid.legal & (count <= budget.most) & (count >= least))
        if not usable[0].size:
            continue
        filled = count[usable]
        band = np.sum([filled < floor * budget.most for floor in BANDS], axis=0)
        deviations = deviation(teacher, ratio, grid, ffn)[usable].round(9)
        first = np.lexsort((-filled, deviations, band))[0]
        key = (int(band[first]), float(deviations[first]), -int(filled[first]))
        if best is None or key < best[0]:
            best = (key, grid.at(tuple(int(index[first]) for index in usable), ffn))
    return None if best is None else best[1]


def deviation(teacher: Shape, ratio: float, grid: Grid | Shape, ffn: Any) -> Any:
    """Sum over the axes of (log of the axis' ratio - log of the common one) squared.

    Query and key-value heads count half each: they are one axis in most models. A single key-value head cannot shrink.
    """

    def squared(value: Any, full: int) -> Any:
        return np.log(value / (ratio * full)) ** 2

    attention = squared(grid.heads, teacher.heads)
    if teacher.kv_heads > 1:
        attention = (attention + squared(grid.kv_heads, teacher.kv_heads)) / 2
    return (
        squared(grid.layers, teacher.layers)
        + squared(grid.hidden, teacher.hidden)
        + attention
        + squared(ffn, teacher.ffn)
    )
