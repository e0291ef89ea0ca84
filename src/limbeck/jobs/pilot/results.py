"""The results of a pilot: points.parquet for the fits, rates.parquet for the checks of the learning rate, the fits, figures.

The learning rate is checked at the ends of the ladder: half and twice the rate must not be better by more than seeds differ.
Otherwise, a rate that suits one end could look like a capacity gap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import stdev
from typing import Any

from limbeck.disk import sums, write_json
from limbeck.errors import BadPoints
from limbeck.jobs.common.task import Task
from limbeck.jobs.pilot.tasks import result_of
from limbeck.planning.laws.points import Point, read_points, usual, write_parquet
from limbeck.planning.laws.ratio import RatioFit, fit_ratio_law
from limbeck.report.ladder import draw_ladder


def write_results(out: Path, tasks: Sequence[Task]) -> dict[str, Any]:
    """Writes the tables; gives their paths and counts. A failed training has no loss."""
    found: dict[str, dict[str, dict[str, Any]]] = {task.kind: {} for task in tasks}
    for task in tasks:
        if task.done:
            found[task.kind][task.name] = result_of(task.folder)
    rows = [_row(cell, found["teacher"]) for cell in found["cell"].values()]
    points = [row for row in rows if row["lr_factor"] == 1]
    write_parquet(points, out / "points.parquet")
    write_parquet([row for row in rows if row["lr_factor"] != 1], out / "rates.parquet")
    found_points = read_points(out / "points.parquet")
    fits = ratio_fits(found_points.points)
    if any(point.distilled for point in found_points.points):
        draw_ladder(
            found_points.points,
            {arm: fit for arm, fit in fits.items() if isinstance(fit, RatioFit)},
            out / "ladder.png",
        )
    said = {arm: [str(v) for v in fit.valleys] if isinstance(fit, RatioFit) else [fit] for arm, fit in fits.items()}
    files = sums(out, [name for name in ("points.parquet", "rates.parquet", "ladder.png") if (out / name).exists()])
    growth = saved(list(found["teacher"].values()))
    grown = {"growth": growth} if growth else {}
    facts = {"valleys": said, "rates": _rates(rows), "skipped": list(found_points.skipped), "files": files} | grown
    write_json(out / "fits.json", facts)
    failed = [cell["name"] for kind in found.values() for cell in kind.values() if "failed" in cell]
    return {
        "points": str(out / "points.parquet"),
        "teachers": [{key: t[key] for key in ("name", "parameters", "loss")} for t in found["teacher"].values()],
        "students": len(points),
        "valleys": said,
        "failed": failed,
    } | grown


def saved(teachers: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What growth saved: FLOPs of the teachers' trainings, of the same from random weights, their ratio, and of each rung.

    None where none was grown, or one is not trained yet.
    """
    if not any(one.get("start") for one in teachers) or any("flops" not in one for one in teachers):
        return None
    rungs = [
        {"name": one["name"], "start": one.get("start"), "tokens": one["tokens"], "loss": one["loss"]}
        | {
            "flops": one["flops"],
            "scratch_flops": one["flops"] * one.get("scratch_tokens", one["tokens"]) / one["tokens"],
        }
        for one in teachers
    ]
    flops, scratch = (sum(rung[key] for rung in rungs) for key in ("flops", "scratch_flops"))
    return {"flops": flops, "scratch_flops": scratch, "share": flops / scratch, "rungs": rungs}


def ratio_fits(points: Sequence[Point]) -> dict[str, RatioFit | str]:
    """The fit of the ratio rule for each arm, or the reason why there is none."""
    fits: dict[str, RatioFit | str] = {}
    points = usual(points)
    for arm in ("cut", "fresh"):
        try:
            fits[arm] = fit_ratio_law([point for point in points if point.arm == arm and point.distilled])
        except BadPoints as error:
            fits[arm] = str(error)
    return fits


def _rates(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The gain of other learning rates over the used one at each end, and the difference of its seeds."""
    checks = []
    for row in rows:
        if row["lr_factor"] == 1:
            continue
        same = ("student_params", "student_tokens", "teacher", "arm")
        usual = [r for r in rows if r["lr_factor"] == 1 and all(r[key] == row[key] for key in same)]
        losses = [r["student_loss"] for r in usual]
        first = next((r["student_loss"] for r in usual if r["seed"] == row["seed"]), None)
        gain = None if first is None or math.isnan(first - row["student_loss"]) else first - row["student_loss"]
        spread = None if len(losses) < 2 or any(map(math.isnan, losses)) else stdev(losses)
        checks.append({**{key: row[key] for key in (*same, "lr_factor")}, "gain_nats": gain, "seed_sd_nats": spread})
    return checks


def _row(cell: dict[str, Any], teachers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The result of a student, with the names of `limbeck.planning.laws.points.Point` and further measurements."""
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
        # those of a grown teacher are not what a law of trainings from random weights asks for
        "teacher_tokens": None if teacher.get("start") else teacher.get("tokens") and float(teacher["tokens"]),
        "arm": cell["arm"],
        "seed": cell["seed"],
        "lr": cell["lr"],
        "lr_factor": cell["lr_factor"],
        "cpu_seconds": cell["cpu_seconds"],
    }
