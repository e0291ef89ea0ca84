"""Figures of a pilot: the students' loss by the size and by the loss of their teacher, and the best teacher's size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from limbeck.disk import replacing
from limbeck.planning.laws.points import Point, longest, usual
from limbeck.planning.laws.ratio import RatioFit
from limbeck.report.words import count

_COLORS = ("#1d4ed8", "#c2410c", "#047857", "#7c3aed", "#b45309", "#0e7490")
_STYLE = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 9, "legend.frameon": False}
_ARMS = {"cut": "pruned from the teacher", "fresh": "one random initialisation"}


def draw_ladder(points: Sequence[Point], fits: Mapping[str, RatioFit], file: Path) -> None:
    """Writes a PNG: a row for each arm; error bars are a seed's standard deviation around the mean of seeds."""
    points = longest(points)
    arms = [arm for arm in _ARMS if any(point.arm == arm and point.distilled for point in points)]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11.5, 3.4 * len(arms)), layout="constrained", dpi=110)
        panels = figure.subplots(len(arms), 3, squeeze=False)
        for row, arm in zip(panels, arms, strict=True):
            taught = [point for point in points if point.arm == arm and point.distilled]
            _losses(row[0], usual(taught), points, by="teacher_params", title=f"{_ARMS[arm]}: by the teacher's size")
            _losses(row[1], taught, points, by="teacher_loss", title="by the teacher's own loss")
            _optima(row[2], fits.get(arm))
        with replacing(file) as beside:
            figure.savefig(beside, format="png")


def _losses(axes: Axes, taught: Sequence[Point], points: Sequence[Point], *, by: str, title: str) -> None:
    for number, student in enumerate(sorted({point.student_params for point in taught})):
        color = _COLORS[number % len(_COLORS)]
        own = [point for point in taught if point.student_params == student]
        places = sorted({getattr(point, by) for point in own})
        groups = [np.array([p.student_loss for p in own if getattr(p, by) == place]) for place in places]
        mean, spread = [g.mean() for g in groups], [g.std(ddof=1) if len(g) > 1 else 0.0 for g in groups]
        axes.errorbar(
            places,
            mean,
            yerr=spread,
            color=color,
            marker="o",
            markersize=4,
            capsize=2,
            label=f"student {count(student)}",
        )
        alone = [p.student_loss for p in points if not p.distilled and p.student_params == student]
        if alone:
            axes.axhline(float(np.mean(alone)), color=color, linestyle=":", linewidth=1)
    axes.set(title=title, ylabel="nats per token (dotted: text alone, random init)")
    if by == "teacher_params":
        axes.set(xscale="log", xlabel="teacher, parameters without embeddings")
        sizes = sorted({point.teacher_params for point in taught if point.teacher_params})
        axes.set_xticks(sizes, [count(size).replace(" ", "") for size in sizes])
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set(xlabel="teacher, nats per token (better to the right)")
        axes.invert_xaxis()
    axes.legend(fontsize=8)


def _optima(axes: Axes, fit: RatioFit | None) -> None:
    axes.set(title="best teacher by student size", xlabel="student, parameters", ylabel="best teacher, parameters")
    found = [valley for valley in fit.valleys if valley.ratio is not None] if fit else []
    if not fit or not found:
        kinds = ", ".join(sorted({valley.kind for valley in fit.valleys})) if fit else "no fit"
        axes.text(0.5, 0.5, f"no optimum inside\n({kinds})", ha="center", va="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return
    for valley in found:
        assert valley.ratio is not None
        best = valley.ratio.value * valley.student
        reach = [[best - valley.ratio.low * valley.student], [valley.ratio.high * valley.student - best]]
        axes.errorbar([valley.student], [best], yerr=reach, color=_COLORS[0], marker="o", capsize=3)
    sizes = np.array([v.student for v in fit.valleys])
    axes.plot(sizes, 2.5 * sizes, color="grey", linestyle="--", linewidth=1, label="2.5 times (published)")
    if len(found) > 1 and fit.slope is not None and fit.intercept is not None:
        axes.plot(sizes, fit.slope.value * sizes + fit.intercept.value, color=_COLORS[0], label="fitted line")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda x, _: count(x)))
    axes.legend(fontsize=8)
