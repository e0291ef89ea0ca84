"""Whether distilling paid, in words: against cross-entropy at equal tokens and at equal compute, a fresh start, and the cut.

Every claim is a difference of two models on the same documents with a 95 % interval. A difference whose interval holds
0 is called inconclusive, one against the student is said as plainly as one for it, and what was not run is named.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from limbeck.errors import Mismatch
from limbeck.plan.price import Price
from limbeck.probes.interval import Interval, bootstrap, difference_interval
from limbeck.probes.measurements import Measurements
from limbeck.report.break_even import BreakEven, break_even
from limbeck.report.start import CUT, Start
from limbeck.report.words import bounded, plus_minus, share

Documents = Float[np.ndarray, "*documents"]


def _against(start: Start) -> dict[str, tuple[str, str]]:
    """What each arm that the student is compared with is called: behind "gains over", and as the subject of "is better"."""
    return {
        "cut+ce": ("cross-entropy at equal tokens", "cross-entropy"),
        "cut+ce@flops": ("cross-entropy given the same compute", "cross-entropy given the same compute"),
        "fresh+kd": ("the same training from a fresh init", "a fresh init"),
        "cut": (start.name, start.name),
        "attention": ("the same student with attention everywhere", "attention everywhere"),
    }


@dataclass(frozen=True)
class Difference:
    """What the student gained over another arm: nats per token (above 0 it is better), or the share of a gap."""

    name: str
    value: float
    unit: str
    n: int
    low: float
    high: float
    seeds: int


@dataclass(frozen=True)
class Verdict:
    """The verdict in words, and the differences it rests on.

    ``outcome`` is about cross-entropy at equal tokens: "better", "worse", "inconclusive", or "untested" without it.
    ``uses`` is how often the teacher's logits must be used to win at equal compute, where that was measured.
    """

    outcome: str
    text: str
    notes: tuple[str, ...]
    differences: tuple[Difference, ...]
    uses: BreakEven | None = None

    def row(self) -> dict[str, Any]:
        """As verdict.json holds it; NaN as null."""
        found = asdict(self) | {"uses": None if self.uses is None else self.uses.row()}
        for difference in found["differences"]:
            difference |= {key: None for key in ("value", "low", "high") if difference[key] != difference[key]}
        return found


def verdict(
    arms: Mapping[str, Sequence[Measurements]],
    teacher: Measurements | None,
    *,
    method: str = "KD",
    price: Price | None = None,
    text_bytes: tuple[Documents, Documents] | None = None,
    start: Start = CUT,
    against_attention: str = "",
) -> Verdict:
    """The verdict on ``arms["student"]``, with whichever of "cut+ce", "cut+ce@flops", "fresh+kd", "cut", "attention" there are.

    ``price`` is what the teacher's logits cost, where the objective needs them. Each arm is a list of measurements, one a
    seed; seed k of two arms is compared with seed k. ``text_bytes`` are those of each document that the
    student's tokens, and that the teacher's, stand for, where they are not the same tokens. ``start`` is what "cut" is.
    ``against_attention`` is a sentence that says more of the arm "attention" than the difference does, in whose place it stands.
    Raises Mismatch where two arms were not measured on the same documents.
    """
    against = _against(start)
    found = {name: _gain(arms["student"], arms[name], name) for name in against if arms.get(name)}
    differences = [difference for difference, _ in found.values()]
    main = found.get("cut+ce")
    outcome = "untested" if main is None else _outcome(main[1])
    lament = f"{method} did not help: "
    sentences = [_sentence(method, main[1], against["cut+ce"], lament=lament) if main else _untested(method)]
    if "cut+ce@flops" in found:
        sentences.append(_sentence("the student", found["cut+ce@flops"][1], against["cut+ce@flops"]))
    elif price is not None:
        sentences.append("equal compute was not tested")
    if teacher is not None and arms.get("cut"):
        closed, words = _gap_closed(
            arms["cut"], arms["student"], teacher, text_bytes, start, alone=arms.get("cut+ce") or ()
        )
        sentences.append(words)
        differences += [closed] if closed else []
    others = ("fresh+kd", "cut", *(() if against_attention else ("attention",)))
    notes = [_sentence("the student", found[name][1], against[name]) for name in others if name in found]
    uses = None
    if price is not None and main and "cut+ce@flops" in found:
        uses = break_even(arms["student"], arms["cut+ce"], arms["cut+ce@flops"], price)
        notes.insert(0, uses.text)
    elif price is not None and "cut+ce@flops" not in found:
        notes.append(_compute(method, price))
    seeds = main[0].seeds if main else len(arms["student"])
    notes.append(_what_the_interval_covers(seeds, _documents(arms["student"][0]), start))
    text = _first_upper("; ".join(sentences)) + "."
    before = (against_attention,) if against_attention else ()
    return Verdict(outcome, text, (*before, *(_first_upper(note) + "." for note in notes)), tuple(differences), uses)


def _gain(student: Sequence[Measurements], other: Sequence[Measurements], name: str) -> tuple[Difference, Interval]:
    """How many nats per token the other arm is above the student."""
    pairs = _pairs(student, other, name)
    ours, theirs = np.stack([a.nats for a, _ in pairs]), np.stack([b.nats for _, b in pairs])
    gain = difference_interval(theirs, ours, student[0].tokens)
    return _difference(f"{name} - student", "nats/token", gain, len(pairs)), gain


def _pairs(a: Sequence[Measurements], b: Sequence[Measurements], name: str) -> list[tuple[Measurements, Measurements]]:
    """Seed by seed. All seeds of a student start from one, so that serves them all; otherwise the seeds both have."""
    for run in (*a, *b):
        if run.tokens.shape != a[0].tokens.shape or not np.array_equal(run.tokens, a[0].tokens):
            raise Mismatch(
                f"the student was measured on {a[0].tokens.sum():.0f} tokens of {_documents(a[0])} documents, {name} "
                f"on {run.tokens.sum():.0f} of {_documents(run)}, and not the same: models can only be compared on the "
                "same held-out documents. Measure both again with the same --eval-data and --length."
            )
    if len(b) == 1 and name in ("cut", "teacher"):
        return [(run, b[0]) for run in a]
    return list(zip(a, b, strict=False))


def _gap_closed(
    cut: Sequence[Measurements],
    student: Sequence[Measurements],
    teacher: Measurements,
    text_bytes: tuple[Documents, Documents] | None,
    start: Start,
    *,
    alone: Sequence[Measurements],
) -> tuple[Difference | None, str]:
    """(cut - student) / (cut - teacher): how much of what was lost at the start, training won back.

    In nats per token, or per byte where the tokens are not the same. ``alone`` was trained with cross-entropy: how much that
    won back is said beside it.
    """
    if text_bytes is None:
        _pairs(student, [teacher], "teacher")
    ours, theirs = text_bytes or (teacher.tokens, teacher.tokens)

    def columns(trained: Sequence[Measurements]) -> Documents:
        pairs = _pairs(trained, cut, "cut")
        return np.stack([np.stack([c.nats, s.nats, ours, teacher.nats, theirs], -1) for s, c in pairs])

    def lost(x: Documents) -> Documents:
        """Nats of the cut above what the teacher has on as much text."""
        return x[..., :1] - x[..., 3:4] * (x[..., 2:3] / x[..., 4:])

    def won(trained: Sequence[Measurements]) -> Interval:
        return bootstrap(lambda x: (x[..., :1] - x[..., 1:2]) / lost(x), columns(trained))[0]

    gap = bootstrap(lambda x: lost(x) / x[..., 2:3], columns(student))[0]
    if not gap.low > 0:
        return None, f"the teacher is not measurably better than {start.name}, so there is no gap to close"
    closed = won(student)
    difference = _difference("gap_closed", "share", closed, len(columns(student)))
    bounds = f" ({_percent(closed)}{', in bits per byte' if text_bytes else ''}"
    if alone:
        taught = won(alone)
        bounds += f"; cross-entropy alone: {share(taught.value)}, {_percent(taught)}"
    bounds += ")"
    if closed.value > 1:
        return (
            difference,
            f"the student is past the teacher: {share(closed.value)} of the gap between {start.name} and the teacher "
            f"closed{bounds}",
        )
    if closed.value < 0:
        return difference, f"training left the student further from the teacher than {start.name} was"
    return difference, f"{share(closed.value)} of the gap between {start.name} and the teacher closed{bounds}"


def _percent(closed: Interval) -> str:
    return f"{100 * closed.low:.0f} to {share(closed.high)}"


def _outcome(gain: Interval) -> str:
    return ("better" if gain.low > 0 else "worse") if gain.excludes_zero else "inconclusive"


def _sentence(subject: str, gain: Interval, against: tuple[str, str], *, lament: str = "") -> str:
    """What a gain over another arm says; the interval decides which of four sentences."""
    long, short = against
    if math.isnan(gain.half):
        return f"{subject}: {gain.value:+.3f} nats over {long} on 1 document, which gives no interval: inconclusive"
    match _outcome(gain):
        case "better":
            return f"{subject} gained {bounded(gain.value, gain.low, gain.high)} nats over {long}"
        case "worse":
            return f"{lament}{short} is better by {bounded(-gain.value, -gain.high, -gain.low)} nats"
        case _:
            return (
                f"{subject} made no difference we can see against {long} ({plus_minus(gain.value, gain.half)} nats): "
                "inconclusive at this scale"
            )


def _untested(method: str) -> str:
    return (
        f"whether {method} helped was not tested: no baseline was trained with cross-entropy (--baselines cut+ce does)"
    )


def _compute(method: str, price: Price) -> str:
    """The arithmetic of equal compute, where no arm was trained for it."""
    paid = "a forward pass" if price.uses == 1 else f"{1 / price.uses:.2f} forward passes"
    return (
        f"equal tokens are not equal compute: each token of {method} also cost {paid} of the teacher, with "
        f"which cross-entropy could have read {price.ratio:.2f} times as many tokens"
    )


def _what_the_interval_covers(seeds: int, documents: int, start: Start) -> str:
    if seeds == 1:
        return f"1 seed: the 95 % intervals cover the choice of {documents} held-out documents, not training noise"
    if start.shared:
        return (
            f"{seeds} seeds: {start.shared}, so the 95 % intervals cover the choice of {documents} held-out documents and the "
            "noise of what was trained after it, not that of the start"
        )
    return f"{seeds} seeds: the 95 % intervals cover training noise and the choice of {documents} held-out documents"


def _difference(name: str, unit: str, interval: Interval, seeds: int) -> Difference:
    return Difference(name, interval.value, unit, interval.n, interval.low, interval.high, seeds)


def _documents(run: Measurements) -> int:
    return int((run.tokens > 0).sum())


def _first_upper(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
