"""The figures of a report as inline SVG, drawn by Matplotlib: training and held-out loss, reliability, quality over size.

Matplotlib writes fixed colours; each is replaced by the page's variable of that meaning, so that one figure is right in
light and in dark. Text stays text, in the page's font.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from limbeck.probes.calibration import ReliabilityBin
from limbeck.report.levels import teacher_level
from limbeck.report.rewarded import cut_off
from limbeck.report.start import CUT, Start
from limbeck.report.words import ORDER, Bounded, count, label
from limbeck.types import Reading

# Placeholders for the variables of style.css; any colours would do that appear nowhere else.
_PAGE = {
    "text": "#010203",
    "faint": "#010204",
    "student": "#010205",
    "cut+ce": "#010206",
    "fresh+kd": "#010207",
    "cut+ce@flops": "#010208",
    "teacher": "#010209",
    "cut": "#010211",
    "attention": "#010210",
    "ptq": "#010212",
    "off-policy": "#010213",
    "off-policy@flops": "#010214",
    "layers+kd": "#010215",
    "full": "#010216",
    "full@flops": "#010217",
    "data-alone": "#010218",
    "unmasked": "#010219",
    "ce": "#010224",
    "chosen": "#010225",
    "answers": "#010226",
    "uncorrected": "#010220",
    "uncorrected@flops": "#010221",
    "one-teacher": "#010222",
    "one-teacher@flops": "#010223",
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
_TITLE = 46  # characters above a panel
_SMOOTH = 0.05  # of the run's steps: the width of the moving average

_SUMMED = (
    "rollouts",
    "rollout_tokens",
    "groups",
    "groups_alike",
    "reward_sum",
    "entropy_sum",
    "kl_sum",
)

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Curve:
    """The training loss of one arm and seed: rows of its metrics.jsonl."""

    arm: str
    rows: Rows


def loss_curves(
    curves: Sequence[Curve], *, objective: str, start: Start = CUT, teacher: float | None = None, pairs: bool = False
) -> Markup | None:
    """Training loss by tokens read, raw and smoothed; None without any rows.

    ``pairs``: the objective compares pairs, of which the rows of its arms count as tokens; then all are drawn by step.

    Arms that are trained with the objective and arms that are trained with cross-entropy minimise different quantities, so each
    kind has axes of its own. ``teacher``: its nats per token on held-out text, from which its level in each is computed.
    """
    curves = [curve for curve in curves if len(curve.rows) > 1]
    kinds = [
        (objective, [curve for curve in curves if not _by_cross_entropy(curve.arm)]),
        ("CrossEntropy", [curve for curve in curves if _by_cross_entropy(curve.arm)]),
    ]
    kinds = [(title, members) for title, members in kinds if members]
    if not kinds:
        return None
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8.6, 3.1), layout="constrained")
        all_axes = figure.subplots(1, len(kinds), squeeze=False)[0]
        for axes, (title, members) in zip(all_axes, kinds, strict=True):
            level = None if teacher is None else teacher_level(title, teacher)
            per = "pair" if pairs and title == objective else "token"
            _panel(axes, f"objective: {_short(title)}", members, start, level, by=_by(pairs), per=per)
        return _svg(figure, f"Training loss by {_READ[_by(pairs)]}")


_READ = {"tokens": "tokens read", "step": "step"}


def _by(pairs: bool) -> str:
    """What curves are drawn by."""
    return "step" if pairs else "tokens"


def _by_cross_entropy(arm: str) -> bool:
    """Whether an arm is trained by cross-entropy, whatever the objective of the others."""
    return "ce" in arm.split("@")[0].split("+") or arm in ("chosen", "answers")


def _short(title: str) -> str:
    """An objective that fits above a panel."""
    plain = title.replace("()", "")
    return plain if len(plain) <= _TITLE else plain[: _TITLE - 1] + "…"


@dataclass(frozen=True)
class HeldOutCurve:
    """Held-out nats per token of an arm: (tokens trained on, a reading with its interval), in order of tokens.

    ``watched``: (tokens, nats per token) during the training, on fewer sequences. ``taken``: the tokens of the weights that
    were taken, where those were chosen by what was watched.
    """

    arm: str
    points: Sequence[tuple[float, Reading]]
    watched: Sequence[tuple[float, float]] = ()
    taken: float | None = None


def held_out_curves(
    curves: Sequence[HeldOutCurve], *, teacher: Reading | None, start: Start = CUT, pairs: bool = False
) -> Markup | None:
    """Held-out loss before, during and after training, with the teacher's level; None without any point.

    ``pairs``: as of `loss_curves`; what the curves give as tokens are steps.

    What was measured before and after on all held-out text has 95 % intervals, and is joined by dots where nothing was measured
    in between.
    """
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return None
    unit, name = _unit(max(tokens for curve in curves for tokens, _ in curve.points), by=_by(pairs))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8.6, 3.3), layout="constrained")
        axes = figure.subplots()
        for curve in curves:
            color = _PAGE.get(curve.arm, _PAGE["text"])
            if curve.watched:
                x, y = [tokens / unit for tokens, _ in curve.watched], [nats for _, nats in curve.watched]
                axes.plot(x, y, color=color, linewidth=1.4, marker=".", markersize=4)
                ring = [nats for tokens, nats in curve.watched if tokens == curve.taken]
                if ring and curve.taken is not None:
                    style: dict[str, Any] = {
                        "marker": "o",
                        "markersize": 10,
                        "markerfacecolor": "none",
                        "markeredgewidth": 1.4,
                    }
                    axes.plot([curve.taken / unit], ring[:1], color=color, linestyle="none", **style)
            _bars(
                axes,
                [tokens / unit for tokens, _ in curve.points],
                [reading for _, reading in curve.points],
                curve.arm,
                linestyle="none" if curve.watched else ":",
                label=label(curve.arm, start),
            )
        if teacher is not None:
            _level(axes, teacher.value, label("teacher"))
        axes.set(xlabel=name, ylabel="nats per token, held out")
        _plain(axes)
        figure.legend(loc="outside upper left", ncols=3)
        when = "before, during and after" if any(curve.watched for curve in curves) else "before and after"
        return _svg(figure, f"Held-out loss {when} training")


def optimiser_curves(curves: Sequence[Curve], *, start: Start = CUT, pairs: bool = False) -> Markup | None:
    """Learning rate and gradient norm before clipping by tokens read, of each arm's first seed; None where neither is known."""
    first = {curve.arm: curve for curve in reversed(curves) if len(curve.rows) > 1}
    shown = [curve for arm in [*ORDER, "model"] if (curve := first.get(arm)) is not None and _known(curve.rows, "lr")]
    if not shown:
        return None
    by = _by(pairs)
    unit, name = _unit(max(curve.rows[-1][by] for curve in shown), by=by)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8.6, 2.7), layout="constrained")
        left, right = figure.subplots(1, 2)
        for curve in shown:
            color = _PAGE.get(curve.arm, _PAGE["student"])
            x, y = _column(curve.rows, "lr", by=by)
            left.plot(x / unit, y, color=color, linewidth=1.6, label=label(curve.arm, start))
            x, y = _column(curve.rows, "grad_norm", by=by)
            if len(x):
                right.plot(x / unit, y, color=color, linewidth=0.6, alpha=0.25)
                right.plot(x / unit, _smooth(y), color=color, linewidth=1.6)
        left.set(title="learning rate", xlabel=name, ylim=(0, None))
        right.set(title="gradient norm, before clipping", xlabel=name, yscale="log")
        right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # no math in a text of the page
        right.yaxis.set_minor_formatter(NullFormatter())
        for axes in (left, right):
            _plain(axes)
            axes.margins(x=0.01)
        if len(shown) > 1:
            figure.legend(loc="outside upper left", ncols=4)
        return _svg(figure, f"Learning rate and gradient norm by {_READ[by]}")


def reward_curves(curves: Sequence[Curve]) -> Markup | None:
    """What the sampled answers of a tuning by a reward show step by step, of its first seed; None where it has no steps."""
    rows = next((curve.rows for curve in curves if len(curve.rows) > 1 and _known(curve.rows, "reward_sum")), None)
    if rows is None:
        return None
    total = {key: np.array([float(row[key]) for row in rows]) for key in _SUMMED}
    answers, tokens = total["rollouts"], total["rollout_tokens"]
    panels = {
        "reward": total["reward_sum"] / answers,
        "prompts without variance": total["groups_alike"] / total["groups"],
        "tokens an answer": tokens / answers,
        "answers cut off": np.array([float(cut_off(row)) for row in rows]) / answers,
        "entropy, nats a token": total["entropy_sum"] / np.maximum(1, tokens),
        "KL from the start, nats an answer": total["kl_sum"] / answers,
    }
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8.6, 4.6), layout="constrained")
        steps = np.array([row["step"] for row in rows])
        for axes, (title, values) in zip(figure.subplots(2, 3).flat, panels.items(), strict=True):
            axes.plot(steps, values, color=_PAGE["student"], linewidth=0.6, alpha=0.3)
            axes.plot(steps, _smooth(values), color=_PAGE["student"], linewidth=1.6)
            axes.set(title=title)
            _plain(axes)
            axes.margins(x=0.01)
        return _svg(figure, "Sampled answers by step")


def _known(rows: Rows, name: str) -> bool:
    return any(row.get(name) is not None for row in rows)


def _column(rows: Rows, name: str, *, by: str) -> tuple[np.ndarray, np.ndarray]:
    """(tokens or steps, values) of the rows in which a value is known."""
    known = [(row[by], row[name]) for row in rows if row.get(name) is not None and math.isfinite(row[name])]
    found = np.array(known, dtype=float).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def reliability_plot(models: Mapping[str, Sequence[ReliabilityBin]], *, start: Start = CUT) -> Markup | None:
    """Accuracy by confidence of the likeliest token, with 95 % intervals, beside how often each confidence occurs; or None."""
    models = {name: bins for name, bins in models.items() if bins}
    if not models:
        return None
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8.6, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot([0, 1], [0, 1], color=_PAGE["faint"], linewidth=1, linestyle="--", label="calibrated")
        for name, bins in models.items():
            x = [one.confidence for one in bins]
            _bars(left, x, [one.accuracy for one in bins], name, label=label(name, start))
            right.plot(
                x,
                [100 * one.share for one in bins],
                color=_PAGE.get(name, _PAGE["text"]),
                marker="o",
                markersize=3,
                linewidth=1.4,
            )
        left.set(xlabel="confidence of the likeliest token", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        right.set(xlabel="confidence of the likeliest token", ylabel="% of the predictions", xlim=(0, 1))
        right.set_ylim(bottom=0)
        for axes in (left, right):
            _plain(axes)
        figure.legend(loc="outside upper left", ncols=3)
        return _svg(figure, "Reliability: accuracy by confidence")


def task_points(
    tasks: Sequence[tuple[str, Mapping[str, Reading], float | None]], *, start: Start = CUT
) -> Markup | None:
    """Accuracy of each task by model, with 95 % intervals and the accuracy of guessing, a row a task; None without tasks."""
    if not tasks:
        return None
    models = list(dict.fromkeys([*ORDER, *(model for _, found, _ in tasks for model in found)]))
    models = [model for model in models if any(model in found for _, found, _ in tasks)]  # as in the table
    step = 0.7 / max(1, len(models) - 1)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8.6, 1.1 + 0.22 * len(tasks) * (1 + len(models) / 2)), layout="constrained")
        axes = figure.subplots()
        for number, model in enumerate(models):
            there = [(row, found[model]) for row, (_, found, _) in enumerate(tasks) if model in found]
            y = [row + 0.7 * (len(models) > 1) * -0.5 + number * step for row, _ in there]
            values = [reading.value for _, reading in there]
            ends = [(max(0.0, r.value - r.low), max(0.0, r.high - r.value)) for _, r in there]
            reach = [[end if math.isfinite(end) else 0.0 for end in side] for side in zip(*ends, strict=True)]
            color = _PAGE.get(model, _PAGE["text"])
            style: dict[str, Any] = {"fmt": "o", "color": color, "markersize": 4, "capsize": 2, "linewidth": 1.4}
            axes.errorbar(values, y, xerr=reach, label=label(model, start), **style)
        for row, (_, _, chance) in enumerate(tasks):
            if chance is not None:
                axes.plot([chance, chance], [row - 0.45, row + 0.45], color=_PAGE["faint"], linewidth=1.4)
        axes.set_yticks(range(len(tasks)), [task for task, _, _ in tasks])
        axes.invert_yaxis()
        axes.set(xlabel="accuracy", xlim=(0, 1))
        axes.grid(axis="x", color=_PAGE["faint"], alpha=0.25, linewidth=0.6)
        axes.tick_params(which="both", length=0)
        figure.legend(loc="outside upper left", ncols=min(5, len(models)))
        return _svg(figure, "Standard tasks: accuracy by model")


def _bars(axes: Axes, x: Sequence[float], found: Sequence[Bounded], arm: str, **style: Any) -> None:
    """A line through values with their intervals; a bound that is not known is left out."""
    y = [one.value for one in found]
    reach = [
        [max(0.0, one.value - one.low) if math.isfinite(one.low) else 0.0 for one in found],
        [max(0.0, one.high - one.value) if math.isfinite(one.high) else 0.0 for one in found],
    ]
    style = {"marker": "o"} | style
    axes.errorbar(x, y, reach, color=_PAGE.get(arm, _PAGE["text"]), markersize=4, capsize=2, linewidth=1.6, **style)


def _level(axes: Axes, value: float, name: str) -> None:
    axes.axhline(value, color=_PAGE["teacher"], linewidth=1.2, linestyle="--", label=name)


def _plain(axes: Axes) -> None:
    axes.grid(axis="y", color=_PAGE["faint"], alpha=0.25, linewidth=0.6)
    axes.tick_params(which="both", length=0)


@dataclass(frozen=True)
class SizeCurve:
    """Held-out loss of an arm by the student's size: (parameters, a reading with its interval).

    ``name``: its objective, where there are several; ``number`` gives each of them its marker.
    """

    arm: str
    points: Sequence[tuple[float, Reading]]
    name: str = ""
    number: int = 0


def size_curves(curves: Sequence[SizeCurve], *, teacher: Reading | None, start: Start = CUT) -> Markup:
    """Held-out nats per token by the student's size: one line per arm, and the teacher's level."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8.6, 3.6), layout="constrained")
        axes = figure.subplots()
        for curve in (curve for curve in curves if curve.points):
            name = label(curve.arm, start)
            _bars(
                axes,
                [size for size, _ in curve.points],
                [reading for _, reading in curve.points],
                curve.arm,
                marker=_MARKERS[curve.number % len(_MARKERS)],
                linestyle=_LINES[curve.number % len(_LINES)],
                label=f"{name}, {curve.name}" if curve.name else name,
            )
        if teacher is not None:
            _level(axes, teacher.value, label("teacher"))
        sizes = sorted({size for curve in curves for size, _ in curve.points})
        axes.set(xscale="log", xlabel="student, parameters", ylabel="nats per token, held out")
        axes.set_xticks(sizes, [count(size) for size in sizes])
        axes.xaxis.set_minor_formatter(NullFormatter())
        _plain(axes)
        figure.legend(loc="outside upper left", ncols=2)
        return _svg(figure, "Held-out nats per token by the student's size")


def objective_points(
    students: Mapping[str, Reading], others: Mapping[str, Reading], *, teacher: Reading | None, start: Start = CUT
) -> Markup | None:
    """Held-out nats per token of students by objective, and of baselines, with 95 % intervals, and the teacher's level."""
    if not students:
        return None
    rows = [(_short(name), "student", reading) for name, reading in students.items()]
    rows += [(label(arm, start), arm, reading) for arm, reading in others.items()]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8.6, 1.1 + 0.36 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for place, (_, arm, reading) in enumerate(rows):
            reach = [[max(0.0, reading.value - reading.low)], [max(0.0, reading.high - reading.value)]]
            reach = reach if math.isfinite(reading.low) else [[0.0], [0.0]]
            color = _PAGE.get(arm, _PAGE["text"])
            axes.errorbar([reading.value], [place], xerr=reach, color=color, marker="o", markersize=5, capsize=3)
        if teacher is not None:
            axes.axvline(teacher.value, color=_PAGE["teacher"], linewidth=1.2, linestyle="--", label=label("teacher"))
            figure.legend(loc="outside upper left")
        axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
        axes.set(xlabel="nats per token, held out", ylim=(len(rows) - 0.5, -0.5))
        axes.grid(axis="x", color=_PAGE["faint"], alpha=0.25, linewidth=0.6)
        axes.tick_params(which="both", length=0)
        return _svg(figure, "Held-out nats per token by objective")


_COLUMNS = 2  # panels beside each other


def sweep_curves(curves: Mapping[str, Sequence[tuple[str, Curve]]], *, teacher: float | None) -> Markup | None:
    """Training loss of a sweep's students: a panel for each objective, a line for each size, the teacher's level; or None."""
    curves = {text: kept for text, of in curves.items() if (kept := [one for one in of if len(one[1].rows) > 1])}
    if not curves:
        return None
    with mpl.rc_context(_STYLE):
        wide = min(_COLUMNS, len(curves))
        high = -(-len(curves) // wide)
        figure = Figure(figsize=(8.6, 2.9 * high), layout="constrained")
        panels = figure.subplots(high, wide, squeeze=False).reshape(-1)
        for axes, (text, members) in zip(panels, curves.items(), strict=False):
            smooth: list[float] = []
            unit, name = _unit(max(curve.rows[-1]["tokens"] for _, curve in members), by="tokens")
            for number, (size, curve) in enumerate(members):
                y = _smooth(np.array([row["loss_nats"] for row in curve.rows], dtype=float))
                x = np.array([row["tokens"] for row in curve.rows]) / unit
                axes.plot(
                    x, y, color=_PAGE["student"], linestyle=_LINES[number % len(_LINES)], linewidth=1.6, label=size
                )
                smooth.extend(y[np.isfinite(y)])
            level = None if teacher is None else teacher_level(text, teacher)
            _limit(axes, smooth, level)
            if level is not None:
                _level(axes, level, label("teacher"))
            axes.set(title=f"objective: {_short(text)}", xlabel=name, ylabel="nats per token")
            _plain(axes)
            axes.legend(loc="best")
        for axes in panels[len(curves) :]:
            axes.set_axis_off()
        return _svg(figure, "Training loss of the students")


def _panel(
    axes: Axes, title: str, curves: Sequence[Curve], start: Start, level: float | None, *, by: str, per: str
) -> None:
    unit, name = _unit(max(curve.rows[-1][by] for curve in curves), by=by)
    named: set[str] = set()
    smooth: list[float] = []
    for curve in curves:
        color = _PAGE.get(curve.arm, _PAGE["cut+ce"])
        x = np.array([row[by] for row in curve.rows]) / unit
        y = np.array([row["loss_nats"] for row in curve.rows], dtype=float)
        even = _smooth(y)
        axes.plot(x, y, color=color, linewidth=0.6, alpha=0.25)
        axes.plot(x, even, color=color, linewidth=1.6, label=None if curve.arm in named else label(curve.arm, start))
        named.add(curve.arm)
        smooth.extend(even[np.isfinite(even)])
    _limit(axes, smooth, level)
    if level is not None:
        _level(axes, level, label("teacher"))
    axes.set(title=title, xlabel=name, ylabel=f"nats per {per}")
    _plain(axes)
    axes.margins(x=0.01)
    axes.legend(loc="best")


def _limit(axes: Axes, smooth: Sequence[float], level: float | None) -> None:
    """Axes by the smoothed curves without the steep first steps, which would flatten the rest, and by the teacher's level."""
    if not len(smooth):
        return
    low, high = float(np.min(smooth)), float(np.percentile(smooth, 97))
    low, high = (low, high) if level is None else (min(low, level), max(high, level))
    pad = 0.08 * (high - low) + 1e-3
    axes.set_ylim(low - pad, high + 2 * pad)


def _smooth(y: np.ndarray) -> np.ndarray:
    """A centred moving average; shorter at the ends."""
    half = max(1, round(_SMOOTH * len(y) / 2))
    total = np.concatenate([[0.0], np.cumsum(y)])
    at = np.arange(len(y))
    start, stop = np.maximum(0, at - half), np.minimum(len(y), at + half + 1)
    return (total[stop] - total[start]) / (stop - start)


def _unit(most: float, *, by: str) -> tuple[float, str]:
    """(what numbers up to ``most`` are divided by, the axis in words)."""
    if by == "step":
        return 1.0, "steps"
    for unit, name in ((1e9, "billion tokens"), (1e6, "million tokens"), (1e3, "thousand tokens")):
        if most >= 2 * unit:
            return unit, f"{name} trained on"
    return 1.0, "tokens trained on"


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
