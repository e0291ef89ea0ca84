"""What a tuning is worth, in words, on a last screen and in a card: what was learned, what was forgotten, what else it would buy.

Every claim is a difference of two models on the same documents with a 95 % interval, decided as in a report of a distillation
(`report.decision`). Gains are on held-out text of the data; what is forgotten is on held-out text of --replay.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from limbeck.probes.interval import FEWEST_SEEDS
from limbeck.probes.measurements import Measurements
from limbeck.report.adapted import rounded
from limbeck.report.card import front_matter, how_to_load, licence_in, measured_table, plain
from limbeck.report.decision import rule, too_few
from limbeck.report.masked import masked_sentence
from limbeck.report.screen import more_seeds, over_seeds
from limbeck.report.start import BEFORE, Start
from limbeck.report.verdict import (
    Difference,
    Verdict,
    decided,
    gain_over,
    in_a_sentence,
    spoken,
    too_few_documents,
    what_the_interval_covers,
)
from limbeck.report.words import bounded, count, label, share, without_sign
from limbeck.terminal import visible
from limbeck.types import Reading

OTHER = "other"  # before the names of readings and files of other text
FORGOTTEN = "student - cut on other text"  # the difference of the tuned model
ALONE = "data-alone - cut on other text"
ORDER = ("cut", "student", "chosen", "answers", "full", "full@flops", "data-alone", "unmasked", "ce")
_ROWS = (
    ("reward", "reward of sampled answers"),
    ("passed", "sampled answers that pass all checks"),
    ("greedy_passed", "greedy answers that pass all checks"),
    ("answer_tokens", "tokens of a sampled answer"),
    ("unfinished", "sampled answers that were cut off"),
    ("kl_start", "KL from before, nats an answer"),
    ("pair_accuracy", "pairs whose preferred side has the larger reward"),
    ("likelihood_accuracy", "pairs whose preferred side is more probable"),
    ("longer_wins", "pairs whose preferred side is longer"),
    ("pair_margin", "margin of rewards, nats a pair"),
    ("chosen_gain", "gain of the preferred side, nats"),
    ("rejected_gain", "gain of the rejected side, nats"),
    ("held_out", "nats per token"),
    ("bits_per_byte", "bits per byte"),
    ("kl_teacher_student", "KL(before ‖ after), nats per token"),
    (f"{OTHER}_held_out", "other text, nats per token"),
    (f"{OTHER}_kl_teacher_student", "other text, KL(before ‖ after)"),
)
_AGAINST = {  # after "gained over", and as the subject of "is better"
    "cut": (BEFORE.name, BEFORE.name),
    "full": ("tuning all weights for equal tokens", "tuning all weights"),
    "full@flops": ("tuning all weights at equal compute", "tuning all weights at equal compute"),
    "data-alone": ("tuning on the data alone for equal tokens", "tuning on the data alone"),
    "unmasked": ("the same tuning with plain input", "tuning with plain input"),
    "ce": ("the same tuning by cross-entropy", "tuning by cross-entropy"),
}
_SUBJECT = "the tuned model"
_RATE_OF = {"full": "all weights", "adapters": "adapters"}  # by what a trial trained


def tuned_verdict(
    arms: Mapping[str, Sequence[Measurements]],
    other: Mapping[str, Sequence[Measurements]] | None,
    *,
    start: Start,
    used: str,
    plan: Mapping[str, Any],
    trials: Sequence[Mapping[str, Any]] = (),
) -> Verdict:
    """The verdict on ``arms["student"]``, from measurements of each arm on the data by seed, and on other text if there is some.

    ``used``: how far trainings went that could end early, "" where all took all. ``plan``: that of run.json, with FLOPs by arm.
    ``trials``: learning rates that were tried out first.
    """
    gains = {name: gain_over(arms["student"], arms[name], name) for name in _AGAINST if arms.get(name)}
    risen = rises(other) if other else {}
    found = decided(gains | risen)
    main = found["cut"]
    sentences = [in_a_sentence(_SUBJECT, main, _AGAINST["cut"], lament="tuning did not help: ")]
    notes = [used] if used else []
    if FORGOTTEN in risen:
        sentences.append(of_other(found[FORGOTTEN], "tuning"))
    if ALONE in risen:
        notes.append(of_other(found[ALONE], "tuning on the data alone"))
    notes += [in_a_sentence(_SUBJECT, found[name], _AGAINST[name]) for name in gains if name != "cut"]
    notes += rounded(plan) + costs(plan) + tried(trials, _RATE_OF, key="nats", on="documents", unit="nats per token")
    seeds, documents = len(arms["student"]), arms["student"][0].read
    notes.append(what_the_interval_covers(seeds, documents, start))
    notes += [rule([one.seeds for one in found.values()])] if seeds >= FEWEST_SEEDS else []
    notes.append(too_few_documents(documents))
    if other and (few := too_few_documents(other["cut"][0].read)):
        notes.append(f"of the other text, {few}")
    text = " ".join(map(spoken, sentences))
    return Verdict(main.outcome, text, tuple(spoken(note) for note in notes if note), tuple(found.values()))


def rises(other: Mapping[str, Sequence[Measurements]]) -> dict[str, Difference]:
    """By how many nats per token the tuned model, and that of the data alone, are above the model before, on other text.

    As a gain of the model before: one that is "better" than 0 was forgotten.
    """
    found = {}
    for arm, key in (("student", FORGOTTEN), ("data-alone", ALONE)):
        if arm in other:
            less = gain_over(other[arm], other["cut"], "cut")
            rise = replace(less, value=-less.value, low=-less.high, high=-less.low)
            found[key] = replace(rise, name=key, unit="nats/token of other text")
    return found


def of_other(rise: Difference, what: str) -> str:
    """What became of the loss on other text, as a sentence, by what is decided of it."""
    on, moved = f"on {rise.n} documents of other text {what}", "raised" if rise.value > 0 else "lowered"
    moved = f"{on} {moved} the loss by {bounded(*without_sign(rise))} nats per token"
    match rise.outcome:
        case "undecided":
            return f"{moved} ({too_few(rise.seeds)})"
        case "better":
            return f"{moved}: that much was forgotten"
        case "worse":
            return f"{moved}: nothing was forgotten"
    return f"{on} shows no clear change of the loss ({bounded(rise.value, rise.low, rise.high)} nats per token)"


def costs(plan: Mapping[str, Any]) -> list[str]:
    """FLOPs of the trainings relative to the tuned model's, where they differ."""
    flops = plan.get("flops") or {}
    own = flops.get("student")
    others = {name: spent / own for name, spent in flops.items() if own and abs(spent / own - 1) > 0.01}
    if not others:
        return []
    shown = ", ".join(f"{label(name)} {ratio:.2f} times" for name, ratio in others.items())
    return [f"trainings cost, in FLOPs of the tuned model's: {shown}"]


def rates_of(plan: Mapping[str, Any]) -> list[str]:
    """Peak learning rates of the tuned model and of baselines, where they differ."""
    rates = plan.get("rates") or {}
    if len(set(rates.values())) < 2:
        return []
    shown = ", ".join(f"{label(name, BEFORE)} {rate:.2g}" for name, rate in rates.items())
    return [f"peak learning rates: {shown}"]


def tried(trials: Sequence[Mapping[str, Any]], names: Mapping[str, str], *, key: str, on: str, unit: str) -> list[str]:
    """Which learning rates were tried out, what they reached (``key``, in a unit), and that no compute here counts them.

    ``names``: what a rate is of, by ``what`` of a trial; ``on``: what was measured, which judges nothing.
    """
    notes = []
    for what in dict.fromkeys(one["what"] for one in trials):
        own = [one for one in trials if one["what"] == what]
        each = ", ".join(f"{o['rate']:.2g} {'diverged' if o[key] is None else format(o[key], '.3f')}" for o in own)
        notes.append(
            f"the learning rate of {names[what]} is the best of {len(own)}, by trainings of a quarter of the steps that no "
            f"compute here counts, on {on} that judge nothing ({unit}: {each})"
        )
    return notes


def tuned_rows(readings: Sequence[Reading], start: Start) -> list[list[str]]:
    """The table of the last screen: models by held-out loss, and by that on other text where it was measured."""
    found = over_seeds(readings)
    columns = [
        ("pair_accuracy", "pairs right"),
        ("held_out", "held out, nats/token"),
        ("kl_teacher_student", "KL from before"),
        ("other_held_out", "other text"),
    ]
    columns = [column for column in columns if any(name == column[0] for _, name in found)]

    def cell(model: str, name: str) -> str:
        reading = found.get((model, name))
        return "" if reading is None else bounded(reading.value, reading.low, reading.high)

    rows = [
        [label(model, start), *(cell(model, name) for name, _ in columns)]
        for model in ORDER
        if (model, "held_out") in found
    ]
    return [["model", *(heading for _, heading in columns)], *rows]


def next_of_tune(run: Mapping[str, Any], student: Path) -> str:
    """The command that follows: with the seeds that a decision needs, or a talk with the tuned model."""
    return more_seeds(run, "tune") or f"limbeck chat {shlex.quote(str(student))}"


def tuned_card(run: Mapping[str, Any], readings: Sequence[Reading], notes: Sequence[str]) -> str:
    """README.md of a tuned model: what it was tuned from and on, and its readings."""
    student, plan, signature = run["student"], run["plan"], run["signature"]
    stated = student.get("stated") or {}
    licence = licence_in(stated)
    which = f" (its README.md names: {plain(licence)})" if licence else ""
    body = [
        *("---", "", f"# {plain(str(student['name']))}, tuned", "", plain(_origin(run, student, plan, signature)), ""),
        *(plain(str(run["verdict"])), ""),
        *(f"- {plain(note)}" for note in notes),
        *("", f"## Measured on held-out {'prompts' if signature.get('reward') else 'text'}", ""),
        *measured_table(readings, BEFORE, shown=_ROWS, order=ORDER, what=_held_out(signature, readings)),
        *("", "## Made by", "", "```sh", plain(shlex.join(run["command"])), "```", ""),
        *how_to_load(ours=False),
        f"The licences of the model before{which} and of the text apply to this model too.",
        "",
    ]
    return visible("\n".join(front_matter(str(signature["student"]), stated) + body))


def _held_out(signature: Mapping[str, Any], readings: Sequence[Reading]) -> str:
    """What the readings of a card are over."""
    if signature.get("reward"):
        return "prompts"
    of_pairs = any(reading.name == "pair_accuracy" for reading in readings)
    return "prompts of pairs, or documents" if of_pairs else "documents"


def _origin(
    run: Mapping[str, Any], student: Mapping[str, Any], plan: Mapping[str, Any], signature: Mapping[str, Any]
) -> str:
    """What was trained, on what, and in which number format."""
    what = "all weights"
    if signature.get("trained") != "full":
        what = f"adapters of rank {signature['rank']}, {count(student['trained'])} numbers, merged into the weights"
        what += ", which were rounded to 4 bits (NF4)" if signature["trained"] == "qlora" else ""
    text = (
        f"{student['name']} ({count(student['parameters'])} parameters), tuned with {run['objective']} on "
        f"{count(plan['tokens'])} tokens{' of its own answers' if signature.get('reward') else ''}: {what}."
    )
    if signature.get("replay"):
        _, _, part = str(signature["replay"]).rpartition(":")
        stay = f", which kept it near the model before ({signature['stay']})" if signature.get("stay") else ""
        text += f" {share(float(part))} of the rows were other text{stay}."
    text += masked_sentence(run)
    dtype = student.get("dtype")
    return text + (
        "" if dtype in (None, "float32") else f" The weights are rounded to {dtype}; measured is the rounded model."
    )
