"""Numbers in words: rounded to the digits that are known, with their unit; and the names of models in reports."""

from __future__ import annotations

import math
from typing import Protocol

from limbeck.report.start import CUT, Start

LABELS = {
    "teacher": "teacher",
    "teacher-given": "teacher as given",
    "student": "student",
    "cut": CUT.label,
    "cut+ce": "pruned + cross-entropy",
    "cut+ce@flops": "pruned + cross-entropy, equal compute",
    "fresh+kd": "random init + KD",
    "attention": "attention everywhere",
    "ptq": "quantised after training",
    "off-policy": "on the text alone",
    "off-policy@flops": "on the text alone, equal compute",
    "layers+kd": "layers of the teacher + KD",
    "one-teacher": "from one teacher",
    "one-teacher@flops": "from one teacher, equal compute",
    "uncorrected": "from the teacher as given",
    "uncorrected@flops": "from the teacher as given, equal compute",
    "full": "all weights",
    "full@flops": "all weights, equal compute",
    "data-alone": "on the data alone",
    "chosen": "cross-entropy on preferred sides",
    "unmasked": "with plain input",
    "ce": "cross-entropy",
    "answers": "cross-entropy on known answers",
}
ORDER = tuple(LABELS)
TEACHER_OF = "teacher-of-"  # before a domain's name: the name of its teacher as a model


class Bounded(Protocol):
    """A value with the bounds of its interval."""

    @property
    def value(self) -> float:
        """What is most likely."""

    @property
    def low(self) -> float:
        """The interval's lower end."""

    @property
    def high(self) -> float:
        """The interval's upper end."""


def label(model: str, start: Start = CUT) -> str:
    """The name of a model in reports; ``start`` is what the student was before training."""
    if model == "cut":
        return start.label
    if model == "student":
        return start.trained
    if model.startswith(TEACHER_OF):
        return f"teacher of {model.removeprefix(TEACHER_OF)}"
    name = LABELS.get(model, model)
    return name.replace("pruned +", f"{start.made} +", 1) if name.startswith("pruned +") else name


def plus_minus(value: float, half: float, *, least: int = 3) -> str:
    """``value ± half``: one digit of the half-width, two where the first is a 1; ``least`` to five decimals."""
    if not math.isfinite(half):
        return f"{value:.{least}f}"
    power = math.floor(math.log10(half)) if half > 0 else -3
    digits = min(5, max(least, -power + (half < 2 * 10**power)))
    return f"{value:.{digits}f} ± {half:.{digits}f}"


def bounded(value: float, low: float, high: float, *, least: int = 3) -> str:
    """``value ± half`` where that gives both ends to a unit of the last digit shown, else ``value (low to high)``."""
    half = (high - low) / 2
    text = plus_minus(value, half, least=least)
    if not math.isfinite(half):
        return text
    digits = len(text.partition(" ")[0].partition(".")[2])
    if max(abs(value - half - low), abs(value + half - high)) <= 1.01 * 10.0**-digits:
        return text
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def without_sign(found: Bounded) -> tuple[float, float, float]:
    """The size of a difference, with the bounds of its size: below 0 where the difference may have the other sign."""
    sign = math.copysign(1, found.value)
    low, high = sorted((sign * found.low, sign * found.high))
    return sign * found.value, low, high


def interval(found: Bounded, digits: str) -> str:
    """``1.25 (0.50 to 2.00)``: a value and its interval. ``digits`` as in a format: ".2f"."""
    return f"{found.value:{digits}} ({found.low:{digits}} to {found.high:{digits}})"


def counted(number: int, noun: str) -> str:
    """``1 step``, ``1,200 steps``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def trainings(count: int) -> str:
    """``1 training``, ``4 trainings``."""
    return counted(count, "training")


def took(seconds: float, *, continued: bool) -> str:
    """``took 3 min in all``; of a continued run only the time since the last start is known."""
    return f"took {duration(seconds)} " + ("since it was last started" if continued else "in all")


def share(value: float, *, digits: int = 0) -> str:
    """A share as per cent, with one digit more below 1 % so that it is not 0; below 0.05 % it is."""
    more = not digits and 0.0005 <= abs(value) < 0.01
    shown = f"{100 * value:.{max(digits, int(more))}f}"
    return f"{shown.removeprefix('-') if float(shown) == 0 else shown} %"


def share_within(value: float, low: float, high: float) -> str:
    """A share with the ends of its interval; alone where there are too few documents for one."""
    return f"{share(value)} ({share(low)} to {share(high)})" if math.isfinite(high - low) else share(value)


def count(value: float) -> str:
    """A count with three digits: 260 k, 1.05 M, 7.24 B."""
    return _scaled(value, 1000.0, ("", " k", " M", " B", " T"))


def size(value: float) -> str:
    """Bytes with three digits: 512 B, 1.02 MB. Powers of 1000."""
    return _scaled(value, 1000.0, (" B", " kB", " MB", " GB", " TB"))


def duration(seconds: float) -> str:
    """1 h 04 min, 3 min 20 s, 12 s."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def _scaled(value: float, step: float, units: tuple[str, ...]) -> str:
    power = 0
    while round(abs(value), 0) >= step and power < len(units) - 1:
        value, power = value / step, power + 1
    if power == 0:
        return f"{value:,.0f}{units[0]}"
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}{units[power]}"
