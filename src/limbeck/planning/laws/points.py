"""Points: measured losses of students in a pilot or a published table, one row per run, read from and written to a table.

A table is a Parquet or JSON file whose columns are the fields of `Point`. A failed run has no loss, or NaN. Fits leave it out
and reports list it, because *which* runs failed is part of a result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import pyarrow
import pyarrow.parquet

from limbeck.disk import parsed, replacing, require_type, write_json
from limbeck.errors import BadPoints

NAMES = ("points.parquet", "points.json")
_WRITE = "write it with limbeck.planning.laws.points.write_points"


@dataclass(frozen=True)
class Point:
    """The result of one run. Parameters are counted without embeddings; losses are in nats per token on held-out text.

    A student trained on text alone has no teacher: the three fields of the teacher are None. ``arm`` is the student's
    initialisation: "cut" (pruned from its teacher) or "fresh" (random). A pilot needs both, since the loss by pruning looks like
    a capacity gap otherwise.
    """

    student_params: float
    student_tokens: float
    student_loss: float
    teacher_params: float | None = None
    teacher_loss: float | None = None
    teacher_tokens: float | None = None
    arm: Literal["cut", "fresh"] = "fresh"
    seed: int = 0
    lr: float | None = None
    objective: str = "ForwardKL"

    @property
    def distilled(self) -> bool:
        """Whether the student had a teacher."""
        return self.teacher_params is not None or self.teacher_loss is not None

    @property
    def cell(self) -> tuple[Any, ...]:
        """All fields but the seed and the loss, which the repetitions of a cell share."""
        row = asdict(self)
        return tuple(value for name, value in row.items() if name not in {"seed", "student_loss"})


@dataclass(frozen=True)
class Table:
    """The points of a table that have a loss, and one sentence for each skipped row."""

    points: tuple[Point, ...]
    skipped: tuple[str, ...]


def read_points(place: str | Path) -> Table:
    """The points of a file, or of a folder that contains points.parquet or points.json.

    Raises BadPoints if the table is missing, cannot be read, lacks a column, or contains a value that is not a number.
    """
    file = _file(Path(place))
    try:
        rows = _json_rows(file) if file.suffix == ".json" else pyarrow.parquet.read_table(file).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise BadPoints(f"{file}: expected a table of points in Parquet or JSON ({error}); {_WRITE}") from error
    return sift(rows, name=str(file))


def _json_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a table in JSON. A missing loss may be NaN."""
    how: dict[str, Any] = {"error": BadPoints, "remedy": _WRITE}
    rows: list[dict[str, Any]] = require_type(file, parsed(file, file.read_bytes(), **how), list[dict[str, Any]], **how)
    return rows


def write_points(points: Iterable[Point], file: str | Path) -> None:
    """Writes a table atomically, as JSON if the name ends in .json, else as Parquet."""
    file, rows = Path(file), [asdict(point) for point in points]
    if file.suffix == ".json":
        write_json(
            file, [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows]
        )
        return
    write_parquet(rows, file)


def write_parquet(rows: list[dict[str, Any]], file: Path) -> None:
    """Writes rows as a Parquet table, atomically."""
    with replacing(file) as temporary:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), temporary)


def sift(rows: Sequence[Mapping[str, Any]], *, name: str) -> Table:
    """Converts rows to points and separates rows without a loss. ``name`` is the name of the table in errors.

    Raises BadPoints if a row lacks a column or has a value of the wrong kind.
    """
    known = {field.name: field for field in fields(Point)}
    needed = [field.name for field in fields(Point) if field.default is MISSING]
    points, skipped = [], []
    for number, row in enumerate(rows, start=1):
        absent = [column for column in needed if column not in row]
        if absent:
            raise BadPoints(f"{name}: row {number} has no {', '.join(absent)}; a point needs {', '.join(needed)}")
        values = {column: row[column] for column in known if row.get(column) is not None}
        values |= {column: math.nan for column in needed if row[column] is None}
        _check_row(values, f"{name}: row {number}")
        point = Point(**values)
        reason = _missing(point)
        if reason:
            skipped.append(f"row {number}: {reason} ({_described(point)})")
        else:
            points.append(point)
    return Table(tuple(points), tuple(skipped))


def longest(points: Iterable[Point]) -> list[Point]:
    """For each student size, the points with the most training tokens."""
    points = list(points)
    most: dict[float, float] = {}
    for point in points:
        most[point.student_params] = max(point.student_tokens, most.get(point.student_params, 0.0))
    return [point for point in points if point.student_tokens == most[point.student_params]]


def usual(points: Iterable[Point]) -> list[Point]:
    """The points of `longest` with the least trained teacher of each size: one teacher per size, as a ratio rule needs."""
    points = longest(points)
    least: dict[float | None, float] = {}
    for point in points:
        least[point.teacher_params] = min(point.teacher_tokens or math.inf, least.get(point.teacher_params, math.inf))
    return [p for p in points if (p.teacher_tokens or math.inf) == least[p.teacher_params]]


def with_teachers(points: Iterable[Point]) -> list[Point]:
    """The points, with a further point for each teacher, as a model trained on text alone."""
    points = list(points)
    teachers = {(p.teacher_params, p.teacher_tokens, p.teacher_loss) for p in points if p.distilled}
    alone = [Point(n, d, loss) for n, d, loss in teachers if n is not None and d is not None and loss is not None]
    return [*points, *sorted(alone, key=lambda p: (p.student_params, p.student_tokens))]


def _file(place: Path) -> Path:
    if place.is_file():
        return place
    if not place.is_dir():
        raise BadPoints(
            f"{place}: no such table; --points takes a pilot's folder, or its points.parquet or points.json"
        )
    for name in NAMES:
        if (place / name).is_file():
            return place / name
    raise BadPoints(f"{place}: expected {' or '.join(NAMES)} in it, found neither; give the folder of a pilot")


def _check_row(values: Mapping[str, Any], where: str) -> None:
    for column, value in values.items():
        if column == "arm":
            if value not in ("cut", "fresh"):
                raise BadPoints(f"{where}: arm is cut or fresh, got {value!r}")
        elif column != "objective" and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise BadPoints(f"{where}: {column} is a number, got {value!r}")
        elif column in ("student_params", "student_tokens", "teacher_params", "teacher_tokens") and not value > 0:
            raise BadPoints(f"{where}: {column} is above 0, got {value!r}")


def _missing(point: Point) -> str:
    for column, value in (("student_loss", point.student_loss), ("teacher_loss", point.teacher_loss)):
        if value is not None and not (math.isfinite(value) and value > 0):
            return f"{column} is {'missing' if math.isnan(value) else value}"
    return ""


def _described(point: Point) -> str:
    teacher = "" if point.teacher_params is None else f", teacher {point.teacher_params:,.0f}"
    return f"student {point.student_params:,.0f}{teacher}, {point.arm}, seed {point.seed}"
