"""Figures of a task's law: bias and coverage of two estimators, and measured pass rates beside two laws' predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from limbeck.disk import replacing
from limbeck.planning.laws.task import TaskLaw
from limbeck.probes.simulated import Trial
from limbeck.report.words import count

_STYLE = {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
_ESTIMATORS = {"r/K": "#c2410c", "(r-1)/(K-1)": "#1d4ed8"}
_LEVELS = {"dataset": ("#c2410c", "law of the mean"), "instance": ("#1d4ed8", "law of the instances")}
_DARK = "#222222"


def draw_estimators(models: Sequence[Sequence[Trial]], file: Path) -> None:
    """Writes a PNG: bias of the mean and coverage of exact intervals by the passes sampled until, a line style for each model."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8.4, 3.2), layout="constrained", dpi=110)
        left, right = figure.subplots(1, 2)
        for trials, style in zip(models, ("-", "--", ":", "-."), strict=False):
            mean = f"mean rate {trials[0].exact_mean:.2g}"
            for name, color in _ESTIMATORS.items():
                rows = [trial for trial in trials if trial.estimator == name]
                _line(left, rows, [100 * row.bias.value for row in rows], style, color, f"{name}, {mean}")
            rows = [trial for trial in trials if trial.estimator == "r/K"]
            _line(right, rows, [100 * row.coverage.value for row in rows], style, "#444444", mean)
        left.axhline(0, color="#999999", lw=0.8)
        left.set(title="Bias of the mean pass rate", ylabel="% of the exact rate", yscale="symlog")
        right.axhline(95, color="#999999", lw=0.8)
        right.set(title="Exact intervals that hold the truth", ylabel="%", ylim=(90, 100))
        ticks = sorted({trial.successes for trials in models for trial in trials})
        for axes in (left, right):
            axes.set(xlabel="passes sampled until, r", xscale="log")
            _ticks(axes, ticks, [str(r) for r in ticks])
            axes.legend(fontsize=7)
        _write(figure, file)


def draw_task_law(law: TaskLaw, measured: Sequence[tuple[int, float]], held_out: int, file: Path) -> None:
    """Writes a PNG: both laws, their predictions for ``held_out`` parameters, and (parameters, pass rate) as measured."""
    sizes = sorted({size for size, _ in measured} | {held_out})
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained", dpi=110)
        axes = figure.subplots()
        along = np.geomspace(0.9 * sizes[0], 1.1 * sizes[-1], 30)
        curves: Mapping[str, list[float]] = {level: [] for level in _LEVELS}
        for size in along:
            for p in law.predict(round(float(size))):
                curves[p.level].append(p.value)
        for p, shift in zip(law.predict(held_out), (0.97, 1.03), strict=True):
            color, name = _LEVELS[p.level]
            axes.plot(along, curves[p.level], color=color, lw=1.2, label=name)
            axes.plot([p.parameters * shift] * 2, [max(p.low, 1e-5), p.high], color=color, lw=1)
            axes.plot(p.parameters * shift, p.value, "D", ms=5, color=color)
        for held, name, face in ((False, "measured, fitted", _DARK), (True, "measured, held out", "white")):
            chosen = [(size, rate) for size, rate in measured if (size == held_out) == held and rate > 0]
            axes.plot([s for s, _ in chosen], [r for _, r in chosen], "o", ms=6, mfc=face, mec=_DARK, ls="", label=name)
        axes.set(xscale="log", yscale="log", ylim=(1e-4, 2), xlabel="parameters", ylabel="pass rate")
        _ticks(axes, sizes, [count(size).replace(" ", "") for size in sizes])
        axes.legend(fontsize=8, loc="lower right")
        _write(figure, file)


def _line(axes: Axes, rows: Sequence[Trial], values: list[float], style: str, color: str, label: str) -> None:
    axes.plot([row.successes for row in rows], values, style, marker="o", ms=4, color=color, label=label)


def _ticks(axes: Axes, places: Sequence[int], names: Sequence[str]) -> None:
    axes.set_xticks(places, names)
    axes.minorticks_off()


def _write(figure: Figure, file: Path) -> None:
    with replacing(file) as beside:
        figure.savefig(beside, format="png")
