"""What came out of a pilot, as tables: points.parquet for the fits, rates.parquet for the checks of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from limbeck.disk import read_json, writing
from limbeck.jobs.pilot.tasks import RESULT, Task


def write_results(out: Path, tasks: Sequence[Task]) -> dict[str, Any]:
    """Writes the tables; gives their place, and how many there are of what. A training that failed has no loss."""
    found: dict[str, dict[str, dict[str, Any]]] = {task.kind: {} for task in tasks}
    for task in tasks:
        if task.done:
            found[task.kind][task.name] = read_json(task.folder / RESULT)
    rows = [_row(cell, found["teacher"]) for cell in found["cell"].values() if "arm" in cell]
    points = [row for row in rows if row["lr_factor"] == 1]
    _write(points, out / "points.parquet")
    _write([row for row in rows if row["lr_factor"] != 1], out / "rates.parquet")
    failed = [cell["name"] for kind in found.values() for cell in kind.values() if "failed" in cell]
    return {
        "points": str(out / "points.parquet"),
        "teachers": [{key: t[key] for key in ("name", "parameters", "loss")} for t in found["teacher"].values()],
        "students": len(points),
        "failed": failed,
    }


def _row(cell: dict[str, Any], teachers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A student's end, with the names of `limbeck.plan.points.Point` and what else was measured."""
    teacher = teachers.get(cell["teacher"] or "", {})
    return {
        "student_params": float(cell["inside"]),
        "student_tokens": float(cell["tokens"]),
        "student_loss": math.nan if cell["loss"] is None else cell["loss"],
        "student_low": cell.get("low"),
        "student_high": cell.get("high"),
        "student_all_params": cell["parameters"],
        "loss_before": cell["loss_before"],
        "kl": cell["kl"],
        "teacher": cell["teacher"],
        "teacher_params": teacher.get("inside") and float(teacher["inside"]),
        "teacher_all_params": teacher.get("parameters"),
        "teacher_loss": teacher.get("loss"),
        "teacher_tokens": teacher.get("tokens") and float(teacher["tokens"]),
        "arm": cell["arm"],
        "seed": cell["seed"],
        "lr": cell["lr"],
        "lr_factor": cell["lr_factor"],
        "cpu_seconds": cell["cpu_seconds"],
    }


def _write(rows: list[dict[str, Any]], file: Path) -> None:
    beside = file.with_name(f".{file.name}.partial")
    with writing(file):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), beside)
        beside.replace(file)
