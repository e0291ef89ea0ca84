"""The results of the public functions: frozen values with typed parts, which are also read-only mappings of their JSON form.

``result["out"]`` is what `--json` prints under that name, ``result.out`` the same as a `Path`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limbeck.errors import BadSetting

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Measured:
    """One measured number. ``low`` and ``high`` bound a 95 % interval; ``n`` is how many documents, tokens or runs it is of."""

    value: float
    low: float
    high: float
    unit: str
    n: int

    @classmethod
    def of(cls, row: Row) -> Measured:
        """From a row of readings; JSON has no NaN, so a number that is null was one."""
        value, low, high = (math.nan if row[name] is None else float(row[name]) for name in ("value", "low", "high"))
        return cls(value, low, high, row["unit"], row["n"])


@dataclass(frozen=True, eq=False)
class Result(Mapping[str, Any]):
    """A result. Its JSON form is a mapping of text, numbers, lists and mappings; empty on ranks other than the first."""

    row: Row = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form as a dictionary of its own."""
        found: dict[str, Any] = json.loads(json.dumps(dict(self.row)))
        return found

    def json(self, *, indent: int | None = None) -> str:
        """The JSON form as text."""
        return json.dumps(dict(self.row), indent=indent)

    def __getitem__(self, key: str) -> Any:
        return self.row[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.row)

    def __len__(self) -> int:
        return len(self.row)

    __hash__ = None  # type: ignore[assignment]  # like every mapping that compares by what it holds


@dataclass(frozen=True, eq=False)
class DistilResult(Result):
    """A distillation.

    ``out`` is the run's folder. ``readings`` are by model ("student", "teacher", each baseline) and name. ``verdict`` compares
    the student with its baselines, in words. ``members`` are the students of a sweep, by name; then the others are empty.
    """

    out: Path
    readings: Mapping[str, Mapping[str, Measured]]
    verdict: str
    members: Mapping[str, DistilResult]

    @classmethod
    def of(cls, row: Row, out: Path) -> DistilResult:
        """From the JSON form. ``out`` is the folder in the settings, since other ranks than 0 have an empty form."""
        members = {name: cls.of(member, Path(member["out"])) for name, member in row.get("members", {}).items()}
        readings = {model: _readings(rows) for model, rows in row.get("readings", {}).items()}
        return cls(row, out, readings, row.get("verdict", ""), members)

    @property
    def student(self) -> Path:
        """The folder of the student. Raises BadSetting for a sweep, which has one in each of its ``members``."""
        if self.members:
            raise BadSetting(
                f"this run has several students: take .members[NAME].student, of {', '.join(self.members)}"
            )
        return self.out / "student"

    @property
    def report(self) -> Path:
        """The report, an HTML file."""
        return self.out / "report.html"


@dataclass(frozen=True, eq=False)
class TuneResult(Result):
    """A tuned model.

    ``out`` is the run's folder, ``student`` the model's. ``readings`` are by model ("cut" is the model before tuning, "student"
    the tuned one, then each baseline) and name; those of other text begin with "other_". ``verdict`` says what was gained and
    forgotten, in words.
    """

    out: Path
    student: Path
    readings: Mapping[str, Mapping[str, Measured]]
    verdict: str

    @classmethod
    def of(cls, row: Row, out: Path) -> TuneResult:
        """From the JSON form."""
        readings = {model: _readings(rows) for model, rows in row.get("readings", {}).items()}
        return cls(row, out, out / "student", readings, row.get("verdict", ""))

    @property
    def report(self) -> Path:
        """The report, an HTML file."""
        return self.out / "report.html"


@dataclass(frozen=True, eq=False)
class CaptureResult(Result):
    """Captured logits, or with ``text`` generated completions, with ``pairs`` preference pairs.

    ``rows`` are the sequences whose logits are kept, ``bytes`` their size on disk; ``tokens`` were read, or generated, None where
    a server does not say. ``certificate`` is the measured bias and variance of what is kept, None for shards other than the
    first. ``text`` is the JSONL file of ``samples`` completions, ``pairs`` that of ``samples`` preference pairs.
    """

    out: Path
    tokens: int | None
    rows: int
    bytes: int
    certificate: Any
    text: Path | None
    samples: int
    pairs: Path | None = None

    @classmethod
    def of(cls, row: Row, out: Path) -> CaptureResult:
        """From the JSON form."""
        text, pairs = (Path(row[name]) if name in row else None for name in ("text", "pairs"))
        numbers = (row.get("rows", 0), row.get("bytes", 0), row.get("certificate"))
        return cls(row, out, row.get("tokens"), *numbers, text, row.get("samples", 0), pairs)


@dataclass(frozen=True, eq=False)
class PretrainResult(Result):
    """A model trained from scratch: the run's folder, the model's, and what was measured on held-out text, by name."""

    out: Path
    model: Path
    readings: Mapping[str, Measured]

    @classmethod
    def of(cls, row: Row, out: Path) -> PretrainResult:
        """From the JSON form."""
        return cls(row, out, out / "model", _readings({one["name"]: one for one in row.get("readings", ())}))


@dataclass(frozen=True, eq=False)
class ShrinkResult(Result):
    """A pruned student: its folder, its parameters, those of its teacher, and its shape as text."""

    out: Path
    parameters: int
    teacher_parameters: int
    shape: str

    @classmethod
    def of(cls, row: Row, out: Path) -> ShrinkResult:
        """From the JSON form."""
        return cls(row, out, row.get("parameters", 0), row.get("teacher_parameters", 0), row.get("shape", ""))


@dataclass(frozen=True, eq=False)
class GrowResult(Result):
    """A grown model: its folder, its parameters, those of what it was grown from, its shape as text, and measurements by name.

    They are nats a token before and after, and KL(small || grown).
    """

    out: Path
    parameters: int
    grown_from: int
    shape: str
    readings: Mapping[str, Measured]

    @classmethod
    def of(cls, row: Row, out: Path) -> GrowResult:
        """From the JSON form."""
        return cls(row, out, row["parameters"], row["grown_from"], row["shape"], _readings(row["readings"]))


@dataclass(frozen=True, eq=False)
class ProbeResult(Result):
    """The measurements of a model, by name. Only pass-until sets ``parameters`` and ``file``.

    A process that measured for another one has none.
    """

    model: str
    readings: Mapping[str, Measured]
    task: str | None
    parameters: int | None
    file: Path | None

    @classmethod
    def of(cls, row: Row) -> ProbeResult:
        """From the JSON form."""
        file = Path(row["file"]) if row.get("file") else None
        readings = _readings(row.get("readings", {}))
        return cls(row, row.get("model", ""), readings, row.get("task"), row.get("parameters"), file)


@dataclass(frozen=True, eq=False)
class PilotResult(Result):
    """A ladder of small models: its folder, the table of points, its teachers, and for each arm where the best teacher lies."""

    out: Path
    points: Path
    teachers: tuple[Row, ...]
    students: int
    valleys: Row
    failed: tuple[Any, ...]

    @classmethod
    def of(cls, row: Row, out: Path) -> PilotResult:
        """From the JSON form."""
        found = (tuple(row["teachers"]), row["students"], row["valleys"], tuple(row["failed"]))
        return cls(row, out, Path(row["points"]), *found)


@dataclass(frozen=True, eq=False)
class PlanResult(Result):
    """An answer of the planner.

    ``planners`` are the answers by rule, ``costs`` those of each teacher, ``assumptions`` what was taken for granted, in words,
    ``device`` what fits a device, where one was named, ``shapes`` those that were compared for a budget of bytes. Of a mixture of
    layers, ``mixture`` is all and the others are empty; so is ``overtraining`` of the question when to stop.
    """

    student: Row
    tokens: int | None
    planners: tuple[Row, ...]
    costs: tuple[Row, ...]
    assumptions: tuple[Any, ...]
    device: Row | None
    mixture: Row | None
    shapes: Row | None
    overtraining: Row | None = None

    @classmethod
    def of(cls, row: Row) -> PlanResult:
        """From the JSON form."""
        planners, costs, assumed = (tuple(row.get(name, ())) for name in ("planners", "costs", "assumptions"))
        device, shapes, overtraining = (row.get(name) for name in ("device", "shapes", "overtraining"))
        mixture = None if "student" in row or overtraining is not None else row
        student, tokens = row.get("student", {}), row.get("tokens")
        return cls(row, student, tokens, planners, costs, assumed, device, mixture, shapes, overtraining)


@dataclass(frozen=True)
class Speed:
    """Tokens per second of reading a prompt and of writing after it, in so many threads of the machine that measured them."""

    threads: int
    prefill: float
    generation: float


@dataclass(frozen=True)
class Compared:
    """An export beside its model, on the same ``tokens`` of held-out text.

    ``kl`` is KL(model || export), ``same`` the share of equal greedy tokens, ``nats`` and ``written_nats`` what model and export
    lose per token, ``difference`` the second less the first, with a paired interval. ``largest_difference`` is of
    log-probabilities.
    """

    tokens: int
    kl: Measured
    same: Measured
    nats: Measured
    written_nats: Measured
    difference: Measured
    largest_kl: float
    largest_difference: float

    @classmethod
    def of(cls, row: Row) -> Compared:
        """From the JSON form."""
        units = dict.fromkeys(("kl", "nats", "written_nats", "difference"), "nats/token") | {"same": "share"}
        measured = {name: Measured.of({**row[name], "unit": unit}) for name, unit in units.items()}
        return cls(
            tokens=row["tokens"],
            largest_kl=row["largest_kl"],
            largest_difference=row["largest_difference"],
            **measured,
        )


@dataclass(frozen=True)
class Exported:
    """One format: its files and bytes, ``notes`` in words, and how it compares; None with a ``reason`` where it was not run."""

    format: str
    files: tuple[str, ...]
    bytes: int
    notes: tuple[str, ...]
    compared: Compared | None
    reason: str
    speeds: tuple[Speed, ...]

    @classmethod
    def of(cls, row: Row) -> Exported:
        """From the JSON form."""
        compared = None if row["compared"] is None else Compared.of(row["compared"])
        speeds = tuple(Speed(**one) for one in row["speeds"])
        files, notes = tuple(row["files"]), tuple(row["notes"])
        return cls(row["format"], files, row["bytes"], notes, compared, row["reason"], speeds)


@dataclass(frozen=True, eq=False)
class ExportResult(Result):
    """A model in other formats: the folder, and each of the ``exports``.

    The others are of the first: its format and size, ``kl_nats`` and ``largest_kl_nats``, the mean and the largest
    KL(model || written) of ``n`` positions of held-out text; the three are None where it was not run.
    """

    out: Path
    exports: tuple[Exported, ...]
    format: str
    bytes: int
    kl_nats: float | None
    largest_kl_nats: float | None
    n: int | None

    @classmethod
    def of(cls, row: Row) -> ExportResult:
        """From the JSON form."""
        exports = tuple(Exported.of(one) for one in row["exports"])
        compared = (row["kl_nats"], row["largest_kl_nats"], row["n"])
        return cls(row, Path(row["out"]), exports, row["format"], row["bytes"], *compared)


@dataclass(frozen=True, eq=False)
class PredictResult(Result):
    """Predictions of a task's score with intervals, the law behind them, and checks of earlier predictions."""

    task: str
    params: int
    predictions: tuple[Row, ...]
    checks: tuple[Row, ...]
    law: Row
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, row: Row) -> PredictResult:
        """From the JSON form."""
        parts = (tuple(row["predictions"]), tuple(row["checks"]), row["law"], tuple(row["warnings"]))
        return cls(row, row["task"], row["params"], *parts)


@dataclass(frozen=True, eq=False)
class DoctorResult(Result):
    """The findings about a pair and its data; ``ok`` if none of them is an error."""

    ok: bool
    findings: tuple[Row, ...]

    @classmethod
    def of(cls, row: Row) -> DoctorResult:
        """From the JSON form."""
        return cls(row, row["ok"], tuple(row["findings"]))


@dataclass(frozen=True, eq=False)
class ReproduceResult(Result):
    """A reproduction: its folder, and for each claim the criterion, the verdict and what was seen."""

    out: Path
    recipe: str
    scale: str
    judged: tuple[Row, ...]
    numbers: Row

    @classmethod
    def of(cls, row: Row) -> ReproduceResult:
        """From the JSON form."""
        return cls(row, Path(row["out"]), row["recipe"], row["scale"], tuple(row["judged"]), row["numbers"])


def _readings(rows: Mapping[str, Row]) -> dict[str, Measured]:
    return {name: Measured.of(row) for name, row in rows.items()}
