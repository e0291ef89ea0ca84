"""Every ratio of speed, memory and start that limbeck aims at, beside what was measured of it, from the committed files.

usage: goal_rows.py prints the table; tables.py writes it into performance.md. A ratio whose file is not there was not measured.
Of several turns medians are compared with the goal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent / "performance"
Seen = tuple[float, float, float] | None  # a value, and the least and the most of its turns; None where not measured
UNKNOWN = "not measured"


@dataclass(frozen=True)
class Goal:
    """A ratio, the file that it is computed from, and the bound that it should keep: at most or at least ``bound``."""

    what: str
    least: bool
    bound: float
    file: str
    seen: Callable[[Any], Seen]  # from the file's JSON; a KeyError is None too
    unit: str = ""
    digits: int = 2

    @property
    def text(self) -> str:
        """The bound in words."""
        return f"at {'least' if self.least else 'most'} {self.bound:g}{self.unit}"

    def met(self, value: float) -> bool:
        """Whether a value keeps the bound."""
        return value >= self.bound if self.least else value <= self.bound

    def cells(self, folder: Path) -> list[str]:
        """The row of the table."""
        path = folder / f"{self.file}.json"
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        try:
            seen = self.seen(found)
        except KeyError:
            seen = None
        if seen is None:
            return [self.what, self.text, UNKNOWN, "", ""]
        verdict = "met" if self.met(seen[0]) else "missed"
        return [self.what, self.text, self._shown(seen), verdict, machine(found)]

    def _shown(self, seen: tuple[float, float, float]) -> str:
        middle, least, most = (f"{one:,.{self.digits}f}" for one in seen)
        return f"{middle}{self.unit}" + (f" ({least} to {most})" if least != most else "")


def machine(found: dict[str, Any]) -> str:
    """The processor of a file's measurements, and their day."""
    name = found.get("processor") or found.get("hardware") or found.get("machine") or "processor not kept"
    return f"{name}, {found['date'][:10]}"


def over(values: Sequence[float]) -> Seen:
    """The median of some values, the least and the most."""
    return (median(values), min(values), max(values)) if values else None


def times(mine: Sequence[float], other: Sequence[float]) -> Seen:
    """How many times as fast ``mine`` is, from seconds: the ratio of the medians, and of single turns the least and the most."""
    single = [theirs / own for own, theirs in zip(mine, other, strict=True)]
    return median(other) / median(mine), min(single), max(single)


def beside_trl(contender: str, found: Any) -> Seen:
    """Tokens a CPU-second of a contender of the end-to-end or on-policy benchmark, times TRL's."""
    mine, trl = ([1 / r["tokens_per_cpu_s"] for r in found["runs"] if r["contender"] == n] for n in (contender, "trl"))
    return times(mine, trl) if mine and trl else None


def beside_packed(vocab: int, found: Any) -> Seen:
    """A live step beside that of the packed loop."""
    seconds = next((one["seconds"] for one in found["vocabularies"] if one["vocab"] == vocab), None)
    return None if seconds is None else times(seconds["live"], seconds["packed"])


def by_length(length: int, found: Any) -> Seen:
    """Tokens a CPU-second in rows of a length, times those in rows of 256."""
    return times(found["lengths"][str(length)], found["lengths"]["256"])


def folded(found: Any) -> Seen:
    """Forward KL in units of its bare products."""
    seconds = {one["contender"]: one["seconds"] for one in found["results"]}
    return times(seconds["matrix products alone"], seconds["limbeck ForwardKL"])


def captured(kind: str, found: Any) -> Seen:
    """The speed of a capture, times that of the bare forward pass, in the fastest format of the processor."""
    seconds = found["formats"].get("bfloat16") or found["formats"]["float32"]
    return times(seconds[kind], seconds["bare"])


def decoded(found: Any) -> Seen:
    """Millions of tokens a CPU-second that are read, of 12 sampled outcomes."""
    return over([found["reading"]["positions"] / 1e6 / spent for spent in found["reading"]["seconds"]["12 sampled"]])


def tokenised(where: str, found: Any) -> Seen:
    """Megabytes of text a CPU-second that become a store of tokens."""
    return over([found["bytes"] / 1e6 / run["cpu_s"] for run in found["runs"][where]["limbeck"]])


def before_work(found: Any) -> Seen:
    """The percentage of a small job that is estimating and measuring."""
    return over([100 * (one["estimating"] + one["measuring"]) / one["whole"] for one in found["jobs"]])


def help_of(command: str, found: Any) -> Seen:
    """CPU seconds of a command that shows help."""
    return over(found["help"][command])


def largest_error(found: Any) -> Seen:
    """The largest error of an estimated peak in percent, over all ways of computing and all pairs."""
    worst = [100 * error for parts in found["worst"].values() for error in parts.values()]
    return (max(worst), min(worst), max(worst)) if worst else None


def cut_in(found: Any) -> Seen:
    """Peak GiB of cutting the model of 3B parameters layer by layer."""
    return over([one["streamed"]["peak_gib"] for one in found["models"] if one["parameters"] > 2.5e9])


GOALS = (
    Goal("estimated memory off by, any way of computing", False, 10, "memory", largest_error, " %", 1),
    Goal("peak of cutting a model of 3B", False, 4, "cut", cut_in, " GiB"),
    Goal("live training, times TRL's GKD", True, 4.5, "distil", partial(beside_trl, "limbeck")),
    Goal("cached training, times TRL's GKD", True, 8, "distil", partial(beside_trl, "cached")),
    Goal("on-policy training, times TRL's GKD", True, 2, "on-policy", partial(beside_trl, "limbeck")),
    Goal("live step, times a packed loop, vocabulary of 8,192", True, 1.3, "steps", partial(beside_packed, 8192)),
    Goal("live step, times a packed loop, vocabulary of 32,000", True, 1.8, "steps", partial(beside_packed, 32_000)),
    Goal("rows of 2,048, times rows of 256", True, 0.85, "steps", partial(by_length, 2048)),
    Goal("rows of 8,192, times rows of 256", True, 0.85, "steps", partial(by_length, 8192)),
    Goal("ForwardKL, times the bare products", False, 1.15, "losses-limbeck", folded),
    Goal("capture of 12 sampled, times the bare forward", True, 0.6, "capture", partial(captured, "12 sampled")),
    Goal("capture of the top 64, times the bare forward", True, 0.6, "capture", partial(captured, "top-64")),
    Goal("12 sampled outcomes read, tokens a CPU-second", True, 8, "capture", decoded, " M"),
    Goal("text to tokens on one core, a CPU-second", True, 1.7, "tokenising", partial(tokenised, "one core"), " MB"),
    Goal("text to tokens on all cores, a CPU-second", True, 1.7, "tokenising", partial(tokenised, "all cores"), " MB"),
    Goal("estimating and measuring, of a small job", False, 15, "start", before_work, " %", 0),
    *(
        Goal(f"`{command}`", False, 0.4, "start", partial(help_of, command), " CPU-s")
        for command in ("limbeck --help", "limbeck distil --help")
    ),
)


def rows(folder: Path = HERE) -> Iterator[list[str]]:
    """What, goal, measured, verdict, and where: a row for each goal."""
    for goal in GOALS:
        yield goal.cells(folder)


def table(folder: Path = HERE) -> str:
    """The table of all goals."""
    lines = [["what", "goal", "measured", "", "on"], ["---"] * 5, *rows(folder)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    print(table())
