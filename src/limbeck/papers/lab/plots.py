"""The figures of recipes: PNG files in one style, written atomically."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from limbeck.disk import replacing
from limbeck.probes.interval import Interval
from limbeck.report.words import count

_COLORS = ("#1d4ed8", "#c2410c", "#047857", "#7c3aed", "#ca8a04", "#0e7490", "#475569", "#db2777")
_EQUAL, _ASIDE = 0.01, 0.02  # what is equal on an axis, and how far apart its points are drawn, as shares
_MARKERS = "os^vDPX*<"  # one more than colours, so that few have both alike
_LABEL = 14  # characters in a line of an arm's name
_STYLE = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 9, "legend.frameon": False}


def draw_by_teacher(
    losses: Mapping[str, Float[np.ndarray, "seeds teachers"]], sizes: Sequence[float], file: Path
) -> None:
    """A student's loss by the size of its teacher, a line for each objective. Bars are the standard deviation of seeds."""
    with _drawn(file) as axes:
        for color, (name, found) in zip(_COLORS, losses.items(), strict=False):
            spread = found.std(0, ddof=1) if len(found) > 1 else None
            axes.errorbar(
                sizes, found.mean(0), yerr=spread, color=color, marker="o", markersize=3, capsize=2, label=name
            )
        axes.set(
            xscale="log", xlabel="teacher, parameters without embeddings", ylabel="student, nats per token held out"
        )
        axes.set_xticks(sizes, [count(size).replace(" ", "") for size in sizes])
        axes.set_xticks([], minor=True)
        axes.legend(fontsize=8)


def draw_frontier(
    quality: Mapping[str, Interval],
    flops: Mapping[str, float],
    file: Path,
    *,
    axis: str = "FLOPs, teacher's passes and tuning counted",
) -> None:
    """Nats by FLOPs, a point for each strategy or shape. Bars are 95 % intervals; ``axis`` says what the FLOPs are.

    Points of equal FLOPs stand beside one another.
    """
    names = list(quality)
    equal = {name: [other for other in names if abs(flops[other] / flops[name] - 1) < _EQUAL] for name in names}
    aside = {name: _ASIDE * (same.index(name) - (len(same) - 1) / 2) for name, same in equal.items()}
    with _drawn(file) as axes:
        for number, (name, found) in enumerate(quality.items()):
            axes.errorbar(
                [flops[name] * (1 + aside[name])],
                [found.value],
                yerr=[[found.value - found.low], [found.high - found.value]],
                color=_COLORS[number % len(_COLORS)],
                marker=_MARKERS[number % len(_MARKERS)],
                markersize=5 if number else 9,
                capsize=2,
                linestyle="none",
                label=name,
            )
        axes.set(xscale="log", xlabel=axis, ylabel="nats per token held out")
        axes.legend(fontsize=7)


def draw_recall_by_state(points: Mapping[str, tuple[float, Interval]], *, guess: float, file: Path) -> None:
    """Accuracy by bytes of state, a point for each kind of model. ``guess`` is the chance level."""
    with _drawn(file) as axes:
        for number, (name, (size, found)) in enumerate(points.items()):
            axes.errorbar(
                [size],
                [found.value],
                yerr=[[max(0.0, found.value - found.low)], [max(0.0, found.high - found.value)]],
                color=_COLORS[number % len(_COLORS)],
                marker="os^vDPX*<>p"[number % 11],
                markersize=6,
                capsize=2,
                linestyle="none",
                label=name,
            )
        axes.axhline(guess, color="#94a3b8", linestyle=":")
        _recall_by_bytes(axes)
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


def draw_recall_by_bytes(points: Mapping[str, Sequence[tuple[float, Interval]]], *, guess: float, file: Path) -> None:
    """Accuracy by bytes of state, a line for each family from its smallest member to its largest."""
    with _drawn(file) as axes:
        for number, (name, row) in enumerate(points.items()):
            found = [one for _, one in row]
            axes.errorbar(
                [size for size, _ in row],
                [one.value for one in found],
                yerr=[
                    [max(0.0, one.value - one.low) for one in found],
                    [max(0.0, one.high - one.value) for one in found],
                ],
                color=_COLORS[number % len(_COLORS)],
                marker="os^vDPX*"[number % 8],
                markersize=5,
                capsize=2,
                label=name,
            )
        axes.axhline(guess, color="#94a3b8", linestyle=":")
        _recall_by_bytes(axes)
        axes.legend(fontsize=7)


def draw_gaps(gaps: Mapping[str, Mapping[str, Mapping[float, Interval]]], file: Path) -> None:
    """Gaps in nats per token by the number of parameters, a colour for each arm and a dashing for each slice.

    ``gaps`` are by arm, slice and parameters. Bars are 95 % intervals. Points of one size stand side by side.
    """
    lines = sum(map(len, gaps.values()))
    with _drawn(file) as axes:
        aside = iter((1 + _ASIDE) ** (place - (lines - 1) / 2) for place in range(lines))
        for number, (arm, slices) in enumerate(gaps.items()):
            for dashing, (name, found) in zip(("-", "--", ":"), slices.items(), strict=False):
                times = next(aside)
                axes.errorbar(
                    [times * size for size in found],
                    [one.value for one in found.values()],
                    yerr=[
                        [one.value - one.low for one in found.values()],
                        [one.high - one.value for one in found.values()],
                    ],
                    color=_COLORS[number % len(_COLORS)],
                    linestyle=dashing,
                    marker="os^vDPX*"[number % 8],
                    markersize=4,
                    fillstyle="full" if dashing == "-" else "none",
                    capsize=2,
                    label=f"{arm}, {name}",
                )
        axes.axhline(0, color="#94a3b8", linestyle=":")
        sizes = sorted({size for slices in gaps.values() for found in slices.values() for size in found})
        axes.set(xscale="log", xlabel="parameters without embeddings", ylabel="nats per token more than attention")
        axes.set_xticks(sizes, [count(size).replace(" ", "") for size in sizes])
        axes.set_xticks([], minor=True)
        axes.legend(fontsize=7, handlelength=4.5)  # long enough to tell one dashing from another


def draw_delays(explained: Mapping[str, Mapping[int, Interval]], file: Path) -> None:
    """The share of explained variance by delay, a line for each kind of layer. Bars are 95 % intervals."""
    with _drawn(file) as axes:
        _lines(axes, explained)
        axes.axhline(0, color="#94a3b8", linestyle=":")
        axes.set(xscale="log", xlabel="delay, steps", ylabel="variance explained")
        _at_places(axes, explained)
        axes.legend(fontsize=8)


def draw_recall_map(cells: Mapping[str, Mapping[tuple[int, int], float]], file: Path) -> None:
    """Accuracy of each kind of model by (width, length), as a table of colours with numbers."""
    sizes = sorted({size for found in cells.values() for size in found}, key=lambda size: (size[1], size[0]))
    values = np.array([[found.get(size, math.nan) for size in sizes] for found in cells.values()])
    with _drawn(file) as axes:
        axes.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        for row, column in np.argwhere(np.isfinite(values)):
            value = values[row, column]
            axes.text(
                column, row, f"{100 * value:.1f}", ha="center", va="center", color="black" if value > 0.6 else "white"
            )
        axes.set_yticks(range(len(cells)), list(cells))
        axes.set_xticks(range(len(sizes)), [f"width {width}\nlength {length}" for width, length in sizes])


@dataclass(frozen=True)
class Line:
    """Shares at places of an axis, with those of all seeds at each."""

    places: Sequence[float]
    values: Sequence[Sequence[float]]
    dashed: bool = False


def draw_by_samples(lines: Mapping[str, Line], axis: str, file: Path) -> None:
    """Accuracy by training samples: a line through the means of the seeds, and a point for each seed."""
    with _drawn(file) as axes:
        for number, (name, line) in enumerate(lines.items()):
            color = _COLORS[number % len(_COLORS)]
            means = [sum(found) / len(found) for found in line.values]
            axes.plot(line.places, means, color=color, linestyle="--" if line.dashed else "-", label=name)
            points = [(place, value) for place, found in zip(line.places, line.values, strict=True) for value in found]
            axes.plot(*zip(*points, strict=True), color=color, marker="o", markersize=3, linestyle="none")
        axes.set(xscale="log", ylim=(-0.03, 1.03), xlabel=axis, ylabel="answered right")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda number, place: f"{number:,.0f}")
        axes.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)


def draw_by_share(lines: Mapping[str, Mapping[float, Interval]], axis: str, file: Path) -> None:
    """Nats by a share, a line for each arm. Bars are 95 % intervals."""
    with _drawn(file) as axes:
        _lines(axes, lines)
        axes.xaxis.set_major_formatter(lambda share, place: f"{share:.0%}")
        axes.set(xlabel=axis, ylabel="nats per token held out")
        axes.legend(fontsize=7)


def draw_by_depth(lines: Mapping[str, Mapping[int, Interval]], file: Path) -> None:
    """Nats by the number of layers, a line for each arm. Bars are 95 % intervals."""
    with _drawn(file) as axes:
        _lines(axes, lines)
        axes.set(xlabel="layers of the student", ylabel="nats per token held out")
        _at_places(axes, lines)
        axes.legend(fontsize=7)


def draw_learned_and_forgotten(arms: Mapping[str, tuple[Interval, Interval]], file: Path) -> None:
    """Nats on the text of a tuning, and on the text before, a point for each arm. Bars are 95 % intervals."""
    with _drawn(file) as axes:
        for number, (name, (learned, kept)) in enumerate(arms.items()):
            axes.errorbar(
                [learned.value],
                [kept.value],
                xerr=[[learned.value - learned.low], [learned.high - learned.value]],
                yerr=[[kept.value - kept.low], [kept.high - kept.value]],
                color=_COLORS[number % len(_COLORS)],
                marker=_MARKERS[number % len(_MARKERS)],
                markersize=5,
                capsize=2,
                linestyle="none",
                label=name,
            )
        axes.set(
            xlabel="nats per token held out, of the text that was tuned on",
            ylabel="nats per token held out, of the text before",
        )
        axes.legend(fontsize=7)


def draw_by_rank(lines: Mapping[str, Mapping[int, Interval]], file: Path) -> None:
    """An alignment by the rank of a start, a line for each task. Bars are 95 % intervals."""
    with _drawn(file) as axes:
        _lines(axes, lines)
        axes.set(xscale="log", xlabel="rank of the start", ylabel="alignment with the start")
        _at_places(axes, lines)
        axes.legend(fontsize=8)


def draw_by_width(lines: Mapping[str, Mapping[int, Sequence[float]]], samples: int, file: Path) -> None:
    """Test errors by the number of features: a line through the medians of the seeds for each stop, and a point for each seed."""
    with _drawn(file) as axes:
        for number, (name, found) in enumerate(lines.items()):
            color, marker = _COLORS[number % len(_COLORS)], "os^v"[number % 4]
            axes.plot([*found], [float(np.median(errors)) for errors in found.values()], color=color, label=name)
            points = [(width, error) for width, errors in found.items() for error in errors]
            axes.plot(*zip(*points, strict=True), color=color, marker=marker, markersize=4, linestyle="none")
        axes.axvline(samples, color="#475569", linestyle=":", linewidth=1)
        axes.set(xscale="log", yscale="log", xlabel="random features", ylabel="test error (mean square)")
        _at_places(axes, lines)
        axes.legend(fontsize=8)


def draw_by_arm(
    right: Mapping[str, Mapping[str, Sequence[float]]], *, guess: float, file: Path, axis: str = "answered right"
) -> None:
    """Accuracy of each series by arm: a point for each seed and a bar at their mean. The first series has all arms.

    ``guess`` is the chance level, ``axis`` what is accurate.
    """
    arms = [*next(iter(right.values()))]
    with _drawn(file) as axes:
        for number, (series, found) in enumerate(right.items()):
            aside = 0.16 * (number - (len(right) - 1) / 2)
            places = [arms.index(arm) + aside for arm in found]
            means = [sum(values) / len(values) for values in found.values()]
            for place, mean in zip(places, means, strict=True):
                axes.hlines(mean, place - 0.07, place + 0.07, _COLORS[number])
            points = [(place, value) for place, values in zip(places, found.values(), strict=True) for value in values]
            axes.plot(
                *zip(*points, strict=True), color=_COLORS[number], marker="os"[number % 2], markersize=3.5, linestyle="none",
                label=series,
            )  # fmt: skip
        axes.axhline(guess, color="#94a3b8", linestyle=":")
        axes.set(ylim=(0, None), ylabel=axis)
        axes.set_xticks(range(len(arms)), [fill(arm, _LABEL) for arm in arms], fontsize=7)
        axes.legend(fontsize=7)


def draw_reversals(ranks: Mapping[str, tuple[Interval, Interval]], *, chance: float, file: Path) -> None:
    """Mean reciprocal ranks of training facts and reversed ones by kind of model. ``chance`` is the chance level reversed."""
    with _drawn(file) as axes:
        for number, label in enumerate(("as told", "reversed")):
            found = [pair[number] for pair in ranks.values()]
            axes.errorbar(
                np.arange(len(found)) + 0.12 * (2 * number - 1),
                [one.value for one in found],
                yerr=[[one.value - one.low for one in found], [one.high - one.value for one in found]],
                color=_COLORS[number],
                marker="os"[number],
                capsize=2,
                linestyle="none",
                label=label,
            )
        axes.axhline(chance, color="#94a3b8", linestyle=":")
        axes.set(ylim=(-0.03, 1.03), ylabel="mean reciprocal rank")
        axes.set_xticks(range(len(ranks)), [name.replace(", ", ",\n") for name in ranks])
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _lines(axes: Axes, lines: Mapping[str, Mapping[Any, Interval]]) -> None:
    """Draws a line for each name through values at places, with their intervals as bars."""
    for number, (name, found) in enumerate(lines.items()):
        axes.errorbar(
            [*found],
            [one.value for one in found.values()],
            yerr=[
                [one.value - one.low for one in found.values()],
                [one.high - one.value for one in found.values()],
            ],
            color=_COLORS[number % len(_COLORS)],
            marker="os^vDPX*"[number % 8],
            markersize=4,
            capsize=2,
            label=name,
        )


def _at_places(axes: Axes, lines: Mapping[str, Mapping[int, Any]]) -> None:
    """Labels the places of the first line, and no others."""
    places = [*next(iter(lines.values()))]
    axes.set_xticks(places, [str(place) for place in places])
    axes.set_xticks([], minor=True)


def _recall_by_bytes(axes: Axes) -> None:
    """Labels the axes. Bytes are at powers of 2, each with its own label."""
    axes.set(ylim=(-0.03, 1.03), xlabel="state of a row", ylabel="questions answered right")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda size, place: f"{size / 1024:g} KiB")


@contextmanager
def _drawn(file: Path) -> Iterator[Axes]:
    """Axes to plot on. The figure is written afterwards."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained", dpi=110)
        yield figure.subplots()
        with replacing(file) as beside:
            figure.savefig(beside, format="png")


def draw_gain_by_overlap(points: Mapping[str, Sequence[tuple[float, float]]], file: Path) -> None:
    """The gain in accuracy by the overlap of student and teacher before, a colour for each kind of teacher."""
    with _drawn(file) as axes:
        for number, (kind, found) in enumerate(points.items()):
            axes.plot(
                *zip(*found, strict=True),
                color=_COLORS[number],
                marker="os^vD"[number % 5],
                linestyle="none",
                label=kind,
            )
        axes.axhline(0, color="#94a3b8", linestyle=":")
        axes.set(xlabel="overlap of the most probable tokens before", ylabel="gain in accuracy")
        axes.xaxis.set_major_formatter(lambda value, place: f"{value:.0%}")
        axes.yaxis.set_major_formatter(lambda value, place: f"{value:+.0%}")
        axes.legend(title="derivations", fontsize=8)
