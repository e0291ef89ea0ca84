"""Whether distillation paid, in words: against cross-entropy at equal tokens and equal compute, random init, and no training.

Every claim is a difference of two models on the same documents with a 95 % interval. `decision.py` decides what is better or
worse, over all comparisons of a report; with fewer than three trainings each nothing is decided. A result against the student
is stated as plainly as one for it, and a comparison that was not run is named.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from limbeck.errors import Mismatch
from limbeck.planning.checks.price import Price
from limbeck.probes.interval import FEWEST_SEEDS, Interval, bootstrap, difference_interval, difference_test
from limbeck.probes.measurements import Measurements
from limbeck.report.break_even import BreakEven, break_even
from limbeck.report.decision import by_chance, decisions, rule, too_few
from limbeck.report.start import CUT, Start
from limbeck.report.words import bounded, share, without_sign

WANTED_DOCUMENTS = 30  # with fewer, the t that widens intervals matters, and single documents decide

Documents = Float[np.ndarray, "*documents"]


def _against(start: Start, *, at_most: bool) -> dict[str, tuple[str, str]]:
    """Names of each baseline: after "gained over", and as the subject of "is better"."""
    tokens = "given as many tokens at most" if at_most else "at equal tokens"
    compute = f"cross-entropy given the same compute{' at most' if at_most else ''}"
    return {
        "cut+ce": (f"cross-entropy {tokens}", "cross-entropy"),
        "cut+ce@flops": (compute, compute),
        "fresh+kd": ("the same training from random weights", "the same training from random weights"),
        "cut": (start.name, start.name),
        "attention": ("the same student with attention everywhere", "attention everywhere"),
        "layers+kd": ("layers of the teacher distilled for as many tokens", "pruning layers of the teacher"),
        "ptq": ("the same training quantised afterwards", "quantising after the same training"),
        "uncorrected": (f"the same distillation from the teacher as given {tokens}", "the teacher as given"),
        "uncorrected@flops": (
            f"the same distillation from the teacher as given, with the same compute{' at most' if at_most else ''}",
            "the teacher as given, with the same compute,",
        ),
        "one-teacher": (f"the same distillation from the first teacher alone {tokens}", "the first teacher alone"),
        "one-teacher@flops": (
            f"the same distillation from the first teacher alone, with the same compute{' at most' if at_most else ''}",
            "the first teacher alone, with the same compute,",
        ),
        "full": (f"the same training of all weights {tokens}", "training all weights"),
        "full@flops": (
            f"the same training of all weights given the same compute{' at most' if at_most else ''}",
            "training all weights, given the same compute,",
        ),
        "off-policy": (f"the same distillation on the text alone {tokens}", "distillation on the text alone"),
        "off-policy@flops": (
            f"the same distillation on the text alone given the same compute{' at most' if at_most else ''}",
            "distillation on the text alone, given the same compute,",
        ),
        "unmasked": (f"the same training with plain input {tokens}", "the same training with plain input"),
    }


@dataclass(frozen=True)
class Difference:
    """What the student gained over another arm: nats per token (above 0 it has fewer), or the share of a gap.

    ``chance`` is how likely a difference at least as large is by chance alone, ``holm`` the same corrected over all comparisons
    of the verdict. ``outcome``: "better", "worse", "inconclusive", "undecided" (too few seeds), or "" of a share.
    """

    name: str
    value: float
    unit: str
    n: int
    low: float
    high: float
    seeds: int
    chance: float = math.nan
    holm: float = math.nan
    outcome: str = ""


@dataclass(frozen=True)
class Verdict:
    """The verdict in words, and the differences it rests on.

    ``outcome`` is about cross-entropy at equal tokens: the decision on that difference, or "untested" without it.
    ``uses`` is how often the teacher's logits must be used to win at equal compute, where that was measured.
    """

    outcome: str
    text: str
    notes: tuple[str, ...]
    differences: tuple[Difference, ...]
    uses: BreakEven | None = None

    def row(self) -> dict[str, Any]:
        """The JSON form, with null for NaN."""
        found = asdict(self) | {"uses": None if self.uses is None else self.uses.row()}
        for difference in found["differences"]:
            difference |= {key: None for key, value in difference.items() if value != value}
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
    used: str = "",
) -> Verdict:
    """The verdict on ``arms["student"]``, with whichever of "cut+ce", "cut+ce@flops", "fresh+kd", "cut", "attention", "ptq",
    "off-policy", "off-policy@flops", "layers+kd", "unmasked", "full", "full@flops", "uncorrected", "uncorrected@flops",
    "one-teacher", "one-teacher@flops" there are.

    ``price`` is what the teacher's logits cost, where the objective needs them. Each arm is a list of measurements, one a
    seed; seed k of two arms is compared with seed k. ``text_bytes`` are those of each document that the
    student's tokens, and that the teacher's, stand for, where they are not the same tokens. ``start`` is what "cut" is.
    ``against_attention`` is a sentence that replaces the difference to the arm "attention"; it names no winner. ``used`` says
    what each training used, where they could end early: "equal" is then what each could use at most, and no break-even is given.
    Raises Mismatch where two arms were not measured on the same documents.
    """
    against = _against(start, at_most=bool(used))
    found = decided({name: gain_over(arms["student"], arms[name], name) for name in against if arms.get(name)})
    differences = list(found.values())
    main = found.get("cut+ce")
    outcome = "untested" if main is None else main.outcome
    lament = f"{method} did not help: "
    sentences = [in_a_sentence(method, main, against["cut+ce"], lament=lament) if main else _untested(method)]
    if "cut+ce@flops" in found:
        sentences.append(in_a_sentence("the student", found["cut+ce@flops"], against["cut+ce@flops"]))
    elif price is not None:
        sentences.append("equal compute was not tested")
    if teacher is not None and arms.get("cut"):
        closed, words = _gap_closed(
            arms["cut"], arms["student"], teacher, text_bytes, start, alone=arms.get("cut+ce") or ()
        )
        sentences.append(words)
        differences += [closed] if closed else []
    others = (
        "unmasked",
        "layers+kd",
        "one-teacher",
        "one-teacher@flops",
        "uncorrected",
        "uncorrected@flops",
        "full",
        "full@flops",
        "off-policy",
        "off-policy@flops",
        "ptq",
        "fresh+kd",
        "cut",
        *(() if against_attention else ("attention",)),
    )
    notes = [in_a_sentence("the student", found[name], against[name]) for name in others if name in found]
    uses = None
    if used:
        notes.insert(0, used)
    elif price is not None and not price.generated and main and "cut+ce@flops" in found:
        uses = break_even(arms["student"], arms["cut+ce"], arms["cut+ce@flops"], price)
        notes.insert(0, uses.text)
        notes += _overfits(arms["cut+ce"], arms["cut+ce@flops"])
    elif price is not None and "cut+ce@flops" not in found:
        notes.append(_compute(method, price))
    seeds, documents = main.seeds if main else len(arms["student"]), arms["student"][0].read
    notes.append(what_the_interval_covers(seeds, documents, start))
    notes += [rule([one.seeds for one in differences if one.outcome])] if seeds >= FEWEST_SEEDS else []
    notes.append(too_few_documents(documents))
    text = " ".join(map(spoken, sentences))
    if against_attention:
        notes.insert(
            0, f"{against_attention}: {_in_short(found['attention'])}" if "attention" in found else against_attention
        )
    return Verdict(outcome, text, tuple(spoken(note) for note in notes if note), tuple(differences), uses)


def gain_over(student: Sequence[Measurements], other: Sequence[Measurements], name: str) -> Difference:
    """How many nats per token the other arm is above the student."""
    pairs = _pairs(student, other, name)
    ours, theirs = np.stack([a.nats for a, _ in pairs]), np.stack([b.nats for _, b in pairs])
    gain, chance = difference_test(theirs, ours, student[0].tokens)
    return replace(_difference(f"{name} - student", "nats/token", gain, len(pairs)), chance=chance)


def decided(found: Mapping[str, Difference]) -> dict[str, Difference]:
    """The differences of one table with what is decided of each."""
    decided = decisions([(one.value, one.chance, one.seeds) for one in found.values()])
    return {
        name: replace(one, outcome=outcome, holm=chance)
        for (name, one), (outcome, chance) in zip(found.items(), decided, strict=True)
    }


def _pairs(a: Sequence[Measurements], b: Sequence[Measurements], name: str) -> list[tuple[Measurements, Measurements]]:
    """Seed by seed. All seeds of a student start from one, so that serves them all; otherwise the seeds both have."""
    for run in (*a, *b):
        if run.tokens.shape != a[0].tokens.shape or not np.array_equal(run.tokens, a[0].tokens):
            raise Mismatch(
                f"the student was measured on {a[0].tokens.sum():.0f} tokens of {a[0].read} documents, {name} "
                f"on {run.tokens.sum():.0f} of {run.read}, and not the same: models can only be compared on the "
                "same held-out documents. Measure both again with the same --eval-data and --seq-len."
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
    """(cut - student) / (cut - teacher): the share of the loss at the start that training recovered.

    In nats per token, or per byte where the tokens are not the same. ``alone`` was trained with cross-entropy: its
    share is given beside the student's. No share is given where training passes the teacher: it would grow as the teacher
    gets worse.
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

    def past(trained: Sequence[Measurements]) -> str:
        """By how much a trained model has fewer nats than the teacher on as much text."""
        unit, size = ("bits per byte", math.log(2)) if text_bytes else ("nats per token", 1.0)
        x = bootstrap(lambda x: (lost(x) - (x[..., :1] - x[..., 1:2])) / x[..., 2:3] / -size, columns(trained))[0]
        return f"{bounded(x.value, x.low, x.high)} {unit}"

    gap = bootstrap(lambda x: lost(x) / x[..., 2:3], columns(student))[0]
    if not gap.low > 0:
        return None, f"the teacher is not measurably better than {start.name}, so there is no gap to close"
    taught = won(alone) if alone else None
    if taught is not None and taught.value >= 1:
        return None, (
            f"the teacher is worse on this text than what cross-entropy reaches without it (by {past(alone)}), so no share of "
            "the gap to it is given"
        )
    closed = won(student)
    if closed.value >= 1:
        return None, (
            f"the student has a lower loss on this text than the teacher (by {past(student)}), so no share of the gap is given"
        )
    difference = _difference("gap_closed", "share", closed, len(columns(student)))
    bounds = f" ({_percent(closed)}{', in bits per byte' if text_bytes else ''}"
    if taught is not None:
        bounds += f"; cross-entropy alone: {share(taught.value)}, {_percent(taught)}"
    bounds += ")"
    if closed.value < 0:
        return difference, f"training left the student further from the teacher than {start.name} was"
    return difference, f"{share(closed.value)} of the gap between {start.name} and the teacher is closed{bounds}"


def _percent(closed: Interval) -> str:
    return f"{100 * closed.low:.0f} to {share(closed.high)}"


def in_a_sentence(subject: str, gain: Difference, against: tuple[str, str], *, lament: str = "") -> str:
    """A difference to another arm as a sentence, by what is decided of it."""
    long, short = against
    size = bounded(*without_sign(gain))
    more = f"{subject} has a loss {size} nats per token {'lower' if gain.value >= 0 else 'higher'} than {long}"
    if math.isnan(gain.low):
        return f"{more}; of so few documents ({gain.n}) no interval is given: inconclusive"
    match gain.outcome:
        case "undecided":
            return f"{more} ({too_few(gain.seeds)})"
        case "better":
            return f"{subject} gained {size} nats per token over {long}"
        case "worse":
            return f"{lament}{short} is better by {size} nats per token"
    if gain.low <= 0 <= gain.high:
        return (
            f"{subject} shows no clear difference from {long} ({bounded(gain.value, gain.low, gain.high)} nats per "
            "token): inconclusive at this scale"
        )
    return f"{more}: inconclusive, since among these comparisons chance alone would do it ({by_chance(gain.holm)})"


def _in_short(gain: Difference) -> str:
    """The decision alone, for a difference that another sentence gives."""
    if gain.outcome == "undecided":
        return too_few(gain.seeds)
    return {"better": "the student is better", "worse": "attention everywhere is better"}.get(
        gain.outcome, "inconclusive"
    )


def _untested(method: str) -> str:
    return (
        f"whether {method} helped was not tested: no baseline was trained with cross-entropy (--baselines cut+ce does)"
    )


def _overfits(alone: Sequence[Measurements], longer: Sequence[Measurements]) -> list[str]:
    """By how much more compute harmed cross-entropy, where its interval is above 0: then equal compute flatters the student.

    Not one of the comparisons that are decided together, so it decides nothing.
    """
    pairs = _pairs(longer, alone, "cut+ce")
    more, fewer = (np.stack([run.nats for run in of]) for of in zip(*pairs, strict=True))
    lost = difference_interval(more, fewer, alone[0].tokens)
    if len(pairs) < FEWEST_SEEDS or not lost.low > 0:
        return []
    return [
        f"cross-entropy given the same compute has a loss {bounded(lost.value, lost.low, lost.high)} nats per token higher than "
        "at equal tokens, which is no part of the comparisons above: a sign that it overfits this text, so that equal compute "
        "flatters the student (--objective CrossEntropy with fewer --tokens shows which number of epochs serves it best)"
    ]


def _compute(method: str, price: Price) -> str:
    """The arithmetic of equal compute, where no arm was trained for it."""
    passes = 1 / price.uses + price.judged
    paid = "a forward pass" if passes == 1 else f"{passes:.2f} forward passes"
    return (
        f"equal tokens are not equal compute: each token of {method} also cost {paid} of the teacher"
        + (f" and {price.generated:.2f} of the student, to generate it," if price.generated else ",")
        + f" with which cross-entropy could have read {price.ratio:.2f} times as many tokens"
    )


def what_the_interval_covers(seeds: int, documents: int, start: Start, *, what: str = "held-out documents") -> str:
    """What intervals over so many seeds and documents (or ``what``) stand for, and from how many seeds on a winner is named."""
    if seeds < FEWEST_SEEDS:
        return (
            f"{seeds} seed{'s' if seeds > 1 else ''}: the 95 % intervals cover the choice of {documents} {what}, and "
            f"training noise {'not at all' if seeds == 1 else 'hardly'}, so that no winner is named; the same command with "
            f"--seeds {FEWEST_SEEDS} trains the seeds that are missing, and decides"
        )
    if start.shared:
        return (
            f"{seeds} seeds: {start.shared}, so the 95 % intervals cover the choice of {documents} {what} and the "
            "noise of what was trained after it, not that of the start"
        )
    return f"{seeds} seeds: the 95 % intervals cover training noise and the choice of {documents} {what}"


def too_few_documents(documents: int, *, what: str = "document") -> str:
    """A warning about so few held-out documents, or ``what`` else; "" where there are enough."""
    if documents >= WANTED_DOCUMENTS:
        return ""
    return (
        f"{_counted(documents, what)} held out: too few to stand for other text, whatever their interval; {WANTED_DOCUMENTS} or "
        "more are wanted (--eval-data, or more --data)"
    )


def _counted(documents: int, what: str = "document") -> str:
    return f"{documents} {what}{'' if documents == 1 else 's'}"


def _difference(name: str, unit: str, interval: Interval, seeds: int) -> Difference:
    return Difference(name, interval.value, unit, interval.n, interval.low, interval.high, seeds)


def spoken(sentence: str) -> str:
    """A sentence with a capital and a full stop."""
    return f"{sentence[:1].upper()}{sentence[1:]}."
