"""The figures of a report as inline SVG: loss curves drawn by Matplotlib, coloured by the page.

Matplotlib writes fixed colours; each is replaced by the page's variable of that meaning, so that one figure is right in
light and in dark. Text stays text, in the page's font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from limbeck.report.words import count, label
from limbeck.types import Reading

# Colours that stand for a variable of page.html; any colours would do that appear nowhere else.
_PAGE = {
    "text": "#010203",
    "faint": "#010204",
    "student": "#010205",
    "cut+ce": "#010206",
    "fresh+kd": "#010207",
    "cut+ce@flops": "#010208",
    "teacher": "#010209",
    "attention": "#010210",
}
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "svg.hashsalt": "limbeck",
    "font.size": 9,
    "text.color": _PAGE["text"],
    "axes.labelcolor": _PAGE["text"],
    "axes.edgecolor": _PAGE["faint"],
    "xtick.color": _PAGE["faint"],
    "ytick.color": _PAGE["faint"],
    "xtick.labelcolor": _PAGE["text"],
    "ytick.labelcolor": _PAGE["text"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}
_MARKERS, _LINES = "osD^v", ("-", "--", "-.", ":")  # of several objectives
_SMOOTH = 0.05  # of the run's steps: the width of the moving average

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Curve:
    """The training loss of one arm and seed: rows of its metrics.jsonl."""

    arm: str
    rows: Rows


def loss_curves(curves: Sequence[Curve], *, objective: str) -> Markup | None:
    """Training loss by tokens read, raw and smoothed; None without any rows.

    Arms that learn from the teacher and arms that learn from the text minimise different quantities, so each kind has
    axes of its own.
    """
    curves = [curve for curve in curves if len(curve.rows) > 1]
    kinds = [
        (f"objective: {objective}", [curve for curve in curves if "ce" not in curve.arm.split("@")[0].split("+")]),
        ("objective: cross-entropy", [curve for curve in curves if "ce" in curve.arm.split("@")[0].split("+")]),
    ]
    kinds = [(title, members) for title, members in kinds if members]
    if not kinds:
        return None
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8.6, 3.1), layout="constrained")
        all_axes = figure.subplots(1, len(kinds), squeeze=False)[0]
        for axes, (title, members) in zip(all_axes, kinds, strict=True):
            _panel(axes, title, members)
        return _svg(figure, "Training loss by tokens read")


@dataclass(frozen=True)
class SizeCurve:
    """What an arm reaches by the student's size: (parameters, a reading with its interval).

    ``name`` is which of several objectives it has; ``number`` tells their lines apart.
    """

    arm: str
    points: Sequence[tuple[float, Reading]]
    name: str = ""
    number: int = 0


def size_curves(curves: Sequence[SizeCurve], *, teacher: Reading | None) -> Markup:
    """Held-out nats per token by size, an arm a line, the teacher's a level."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8.6, 3.6), layout="constrained")
        axes = figure.subplots()
        for curve in (curve for curve in curves if curve.points):
            x = [size for size, _ in curve.points]
            y = [reading.value for _, reading in curve.points]
            reach = [
                [reading.value - reading.low for _, reading in curve.points],
                [reading.high - reading.value for _, reading in curve.points],
            ]
            axes.errorbar(
                *(x, y, reach),
                color=_PAGE[curve.arm],
                marker=_MARKERS[curve.number % len(_MARKERS)],
                linestyle=_LINES[curve.number % len(_LINES)],
                markersize=4,
                capsize=2,
                linewidth=1.6,
                label=f"{label(curve.arm)}, {curve.name}" if curve.name else label(curve.arm),
            )
        if teacher is not None:
            axes.axhline(teacher.value, color=_PAGE["teacher"], linewidth=1.2, linestyle="--", label=label("teacher"))
        sizes = sorted({size for curve in curves for size, _ in curve.points})
        axes.set(xscale="log", xlabel="student, parameters", ylabel="nats per token, held out")
        axes.set_xticks(sizes, [count(size) for size in sizes])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(axis="y", color=_PAGE["faint"], alpha=0.25, linewidth=0.6)
        axes.tick_params(which="both", length=0)
        figure.legend(loc="outside upper left", ncols=2)
        return _svg(figure, "Held-out nats per token by the student's size")


def _panel(axes: Axes, title: str, curves: Sequence[Curve]) -> None:
    unit, name = _unit(max(curve.rows[-1]["tokens"] for curve in curves))
    named: set[str] = set()
    smooth: list[float] = []
    for curve in curves:
        color = _PAGE.get(curve.arm, _PAGE["cut+ce"])
        x = np.array([row["tokens"] for row in curve.rows]) / unit
        y = np.array([row["loss_nats"] for row in curve.rows], dtype=float)
        even = _smooth(y)
        axes.plot(x, y, color=color, linewidth=0.6, alpha=0.25)
        axes.plot(x, even, color=color, linewidth=1.6, label=None if curve.arm in named else label(curve.arm))
        named.add(curve.arm)
        smooth.extend(even[np.isfinite(even)])
    _limit(axes, smooth)
    axes.set(title=title, xlabel=f"{name} trained on", ylabel="nats per token")
    axes.grid(axis="y", color=_PAGE["faint"], alpha=0.25, linewidth=0.6)
    axes.tick_params(length=0)
    axes.margins(x=0.01)
    axes.legend(loc="upper right")


def _limit(axes: Axes, smooth: Sequence[float]) -> None:
    """Axes by the smoothed curves, less the steep first steps, which would flatten all that follows."""
    if not len(smooth):
        return
    low, high = float(np.min(smooth)), float(np.percentile(smooth, 97))
    pad = 0.08 * (high - low) + 1e-3
    axes.set_ylim(low - pad, high + 2 * pad)


def _smooth(y: np.ndarray) -> np.ndarray:
    """A centred moving average; shorter at the ends."""
    half = max(1, round(_SMOOTH * len(y) / 2))
    total = np.concatenate([[0.0], np.cumsum(y)])
    at = np.arange(len(y))
    start, stop = np.maximum(0, at - half), np.minimum(len(y), at + half + 1)
    return (total[stop] - total[start]) / (stop - start)


def _unit(tokens: float) -> tuple[float, str]:
    for unit, name in ((1e9, "billion tokens"), (1e6, "million tokens"), (1e3, "thousand tokens")):
        if tokens >= 2 * unit:
            return unit, name
    return 1.0, "tokens"


def _svg(figure: Figure, title: str) -> Markup:
    """The figure as an <svg> that scales with the page and has its colours. Its text was escaped by Matplotlib."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', rf'\1 role="img" aria-label="{title}"', svg, count=1)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # would hold for the whole page
    svg = re.sub(r"font: ([\d.]+px)[^;]*;", r"font-size: \1;", svg)  # Matplotlib up to 3.10
    svg = re.sub(r" font-family: [^;]*;", "", svg)
    for name, color in _PAGE.items():
        svg = svg.replace(color, f"var(--{name.replace('+', '-').replace('@', '-')})")
    return Markup(svg)
