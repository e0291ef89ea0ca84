"""`limbeck predict`: the score of a model that is not trained yet, and a later comparison with its measurement.

Every prediction is kept in predictions.jsonl beside its results. Models of the predicted size take no part in the fit, so a late
prediction is still one. The file lists the models of the fit.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from limbeck.config import PredictSettings, nearest
from limbeck.disk import locked, read_lines, write_lines
from limbeck.ending import Ending
from limbeck.errors import BadPoints
from limbeck.jobs.common.folder import now
from limbeck.jobs.probe.pass_until import Result, read_results
from limbeck.planning.laws.task import Point, Prediction, TaskLaw, fit, same_size
from limbeck.probes.pass_rate import mean_pass, unbiased

KEPT = "predictions.jsonl"


def predict(settings: PredictSettings) -> dict[str, Any]:
    """Predicts, records and compares; gives ``{"task", "params", "fitted", "law", "predictions", "checks", "warnings"}``.

    Raises BadPoints for a folder without results of the task, for damaged ones, and for too few models.
    """
    results = _of_task(read_results(settings.points), settings)
    fitted = [result for result in results if not same_size(result.parameters, settings.params)]
    law = fit([point_of(result) for result in fitted])
    predictions = law.predict(settings.params)
    kept = _keep(settings.points / KEPT, predictions, fitted)
    checks = [check for row in kept if (check := _check(row, results)) is not None]
    return {
        "task": settings.task,
        "params": settings.params,
        "fitted": [{"model": r.about["model"], "parameters": r.parameters, "file": r.path.name} for r in fitted],
        "law": law_row(law),
        "predictions": [_numbers(p) for p in predictions],
        "checks": checks,
        "warnings": _warnings(law, predictions[0]),
    }


def point_of(result: Result) -> Point:
    """A result as a point of the law."""
    counts = result.counts
    passed, drawn = (np.array([getattr(c, name) for c in counts], dtype=float) for name in ("successes", "samples"))
    return Point(result.parameters, passed, drawn, unbiased(counts))


def show(result: Mapping[str, Any], console: Console) -> None:
    """Prints the predictions, and the comparison of earlier ones with measurements."""
    law = result["law"]
    sizes = ", ".join(f"{size:,}" for size in dict.fromkeys(law["sizes"]))
    console.print(f"{result['task']}: fitted to models of {sizes} parameters", soft_wrap=True)
    console.print(
        f"PU(N) = exp(-{law['c']:.4g} N^-{law['alpha']:.4g}) of the mean; mean exponent of instances "
        f"{law['instance_alpha']:.4g}"
    )
    bend = law["curvature"]
    interval = (
        "" if bend["low"] is None else f" (curvature {bend['value']:.3g}, {bend['low']:.3g} to {bend['high']:.3g})"
    )
    console.print(f"growth: {_MEANING[bend['kind']]}{interval}")
    table = Table("level", "parameters", "predicted", "95 % interval")
    for p in result["predictions"]:
        table.add_row(p["level"], f"{p['parameters']:,}", f"{p['value']:.4g}", f"{p['low']:.4g} to {p['high']:.4g}")
    console.print(table)
    for c in result["checks"]:
        console.print(
            f"check: {c['level']} law said {c['value']:.4g} ({c['low']:.4g} to {c['high']:.4g}) for {c['parameters']:,} on "
            f"{c['made'][:10]}; measured {c['measured']:.4g} ({c['measured_low']:.4g} to {c['measured_high']:.4g}): "
            + ("the interval held" if c["held"] else "the interval did not hold"),
            soft_wrap=True,
        )
    for warning in result["warnings"]:
        console.print(f"note: {warning}")


def ending(result: Mapping[str, Any], settings: PredictSettings) -> Ending:
    """The last screen: the prediction, its file, and the command that measures the model later."""
    first = result["predictions"][0]
    low, high = (first[end] for end in ("low", "high"))
    within = "" if low is None or high is None else f" ({low:.4g} to {high:.4g})"
    return Ending(
        f"{result['task']} at {first['parameters']:,} parameters: a share of {first['value']:.4g}{within} passes, by the "
        f"{first['level']} law",
        places={"predictions": settings.points / KEPT},
        then=shlex.join(
            [
                *("limbeck", "probe", "MODEL", "--probe", "pass-until", "--task", settings.task),
                "--out",
                str(settings.points),
            ]
        ),
    )


_MEANING = {
    "linear": "no bend can be told from the law's line",
    "convex": "slower than the law (sub-scaling)",
    "concave": "faster than the law (accelerated emergence)",
    "undetermined": "too few models to tell a bend",
}


def _of_task(results: Sequence[Result], settings: PredictSettings) -> list[Result]:
    """The results of the task. All must have the same instances."""
    found = [result for result in results if result.about["task"] == settings.task]
    if not found:
        names = sorted({result.about["task"] for result in results})
        raise BadPoints(
            f"{settings.points} holds no result of the task {settings.task!r}{nearest(settings.task, names)} "
            f"There are results of: {', '.join(names)}."
        )
    first = found[0]
    for other in found[1:]:
        if [c.name for c in other.counts] != [c.name for c in first.counts]:
            raise BadPoints(
                f"{other.path.name} and {first.path.name} asked different instances under the name {settings.task!r}: keep "
                "results of one version of the task in a folder"
            )
    return found


def _keep(path: Path, predictions: Iterable[Prediction], fitted: Sequence[Result]) -> list[dict[str, Any]]:
    """Adds new predictions to the file of the folder; gives those of this task."""
    with locked(path.parent, wait=True):  # others add theirs
        return _added(path, predictions, fitted)


def _added(path: Path, predictions: Iterable[Prediction], fitted: Sequence[Result]) -> list[dict[str, Any]]:
    rows = read_lines(path)
    task = fitted[0].about["task_sha256"]
    models = [[r.path.name, r.about["measured"]] for r in fitted]
    for prediction in predictions:
        numbers = _numbers(prediction)
        same = [
            r
            for r in rows
            if r["task_sha256"] == task and r["fitted"] == models and _numbers_of(r) == _numbers_of(numbers)
        ]
        if not same:
            rows.append(
                {"task": fitted[0].about["task"], "task_sha256": task, **numbers, "fitted": models, "made": now()}
            )
    write_lines(path, rows)
    return [row for row in rows if row["task_sha256"] == task]


def _numbers_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["level"], row["parameters"], round(row["value"], 12)


def _check(row: Mapping[str, Any], results: Sequence[Result]) -> dict[str, Any] | None:
    """A prediction compared with the measurement of models of its size; None if there is none.

    ``held``: the predicted interval contains the measured mean. Several models of that size count by the mean of their means.
    """
    there = [r for r in results if same_size(r.parameters, row["parameters"])]
    if not there:
        return None
    means = [mean_pass(r.counts) for r in there]
    value = float(np.mean([m.value for m in means]))
    return {
        **{key: row[key] for key in ("level", "parameters", "value", "low", "high", "made")},
        "measured": value,
        "measured_low": float(np.mean([m.low for m in means])),
        "measured_high": float(np.mean([m.high for m in means])),
        "models": [r.about["model"] for r in there],
        "relative_error": None if value == 0 else row["value"] / value - 1,
        "held": row["low"] <= value <= row["high"],
    }


def law_row(law: TaskLaw) -> dict[str, Any]:
    """A law as JSON."""
    bend = law.curvature
    numbers = {name: _number(getattr(bend, name)) for name in ("value", "low", "high")}
    return {
        "c": law.c,
        "alpha": law.alpha,
        "instance_alpha": law.instance_alpha,
        "sizes": law.sizes,
        "left_out": law.left_out,
        "curvature": {**numbers, "kind": bend.kind},
    }


def _warnings(law: TaskLaw, prediction: Prediction) -> list[str]:
    found = []
    if prediction.below:
        found.append(
            f"{prediction.parameters:,} parameters are fewer than those of the smallest fitted model, {min(law.sizes):,}: "
            "the law was found on larger ones, and that model is cheap to train and measure"
        )
    if law.left_out:
        sizes = ", ".join(f"{size:,}" for size in law.left_out)
        found.append(
            f"no instance passed at {sizes} parameters: the law of the mean leaves them out, those of the instances take "
            "them as censored"
        )
    return found


def _numbers(prediction: Prediction) -> dict[str, Any]:
    return {name: _number(getattr(prediction, name)) for name in prediction.__dataclass_fields__}


def _number(value: Any) -> Any:
    """A number as JSON, which has no NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value
