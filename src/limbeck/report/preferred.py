"""What a tuning on preference pairs is worth, in words: which completions it prefers, and what that is compared with.

The headline is the share of held-out pairs whose preferred completion has the larger implicit reward, against chance. Beside it
stand cross-entropy on the preferred side alone (what many a user needs), and the rule that the longer completion wins. What is
better is decided as in every report, by intervals over prompts and trainings (`report.decision`): pairs of one prompt are right
or wrong together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Int

from limbeck.probes.interval import FEWEST_SEEDS, difference_test, uncertain
from limbeck.probes.measurements import Measurements
from limbeck.probes.preference import (
    PairValues,
    by_prompt,
    longer,
    pairs_read,
    preference,
    prompts_read,
    read_pairs,
    right,
    share_right,
)
from limbeck.report.adapted import rounded
from limbeck.report.decision import by_chance, rule, too_few
from limbeck.report.start import Start
from limbeck.report.tuned import ALONE, FORGOTTEN, costs, of_other, rates_of, rises
from limbeck.report.verdict import (
    Difference,
    Verdict,
    decided,
    spoken,
    too_few_documents,
    what_the_interval_covers,
)
from limbeck.report.words import bounded, share_within
from limbeck.types import Reading

_AGAINST = {
    "chance": "chance",
    "longer": "the rule that the longer completion is the better one",
    "chosen": "cross-entropy on the preferred completions alone, for equal tokens",
    "full": "tuning all weights for equal tokens",
    "full@flops": "tuning all weights at equal compute",
    "data-alone": "the pairs alone for equal tokens",
}


def preferred_verdict(
    pairs: Mapping[str, Sequence[Measurements]],
    other: Mapping[str, Sequence[Measurements]] | None,
    *,
    prompts: Int[np.ndarray, " pairs"],
    start: Start,
    plan: Mapping[str, Any],
) -> Verdict:
    """The verdict on ``pairs["student"]``, from measurements by side of each arm by seed, and of other text if there is some.

    ``prompts``: the number of each pair's prompt. ``plan``: that of run.json, with FLOPs by arm.
    """
    before, runs = pairs["cut"][0], pairs["student"]
    there = read_pairs(before)
    ours = [right(run, before) for run in runs]
    theirs = {"chance": [there / 2] * len(runs), "longer": [longer(before)] * len(runs)}
    theirs |= {arm: [right(run, before) for run in pairs[arm]] for arm in _AGAINST if pairs.get(arm)}
    found = {name: _gain(ours, values, there, name, prompts) for name, values in theirs.items()}
    found = decided(found | (rises(other) if other else {}))
    accuracy = share_right(ours, there, prompts)
    n, asked = pairs_read(before), prompts_read(before, prompts)
    main = found["chance"]
    sentences = [
        f"the tuned model prefers the better completion in {share_within(accuracy.value, accuracy.low, accuracy.high)} of {n} "
        f"held-out pairs{f' of {asked} prompts' if asked < n else ''}, by its implicit reward{_than_chance(main)}"
    ]
    if "chosen" in found:
        sentences.append(_sentence(found["chosen"], "chosen"))
    if FORGOTTEN in found:
        sentences.append(of_other(found[FORGOTTEN], "tuning"))
    notes = [
        _sentence(one, name) for name, one in found.items() if name in _AGAINST and name not in ("chance", "chosen")
    ]
    notes += _moved(preference("student", runs, before, prompts))
    notes += [of_other(found[ALONE], "tuning on the pairs alone")] if ALONE in found else []
    notes += rounded(plan) + costs(plan) + rates_of(plan)
    notes.append(what_the_interval_covers(len(runs), asked, start, what="held-out prompts"))
    notes += [rule([one.seeds for one in found.values()])] if len(runs) >= FEWEST_SEEDS else []
    notes.append(too_few_documents(asked, what="prompt"))
    if other and (few := too_few_documents(other["cut"][0].read)):
        notes.append(f"of the other text, {few}")
    text = " ".join(map(spoken, sentences))
    return Verdict(main.outcome, text, tuple(spoken(note) for note in notes if note), tuple(found.values()))


def _gain(
    ours: Sequence[PairValues],
    theirs: Sequence[PairValues],
    there: np.ndarray,
    name: str,
    prompts: Int[np.ndarray, " pairs"],
) -> Difference:
    """By how much more of the pairs are right than of another arm, seed by seed."""
    count = min(len(ours), len(theirs))
    won, other = (np.stack([by_prompt(run, prompts) for run in runs[:count]]) for runs in (ours, theirs))
    gain, chance = uncertain(*difference_test(won, other, by_prompt(there.astype(float), prompts)))
    most = 0.5 if name == "chance" else 1.0
    gain = gain.within(-most, most)
    found = Difference(f"student - {name}", gain.value, "share of pairs", gain.n, gain.low, gain.high, count)
    return replace(found, chance=chance)


def _than_chance(gain: Difference) -> str:
    match gain.outcome:
        case "better":
            return ", more than by chance"
        case "worse":
            return ", fewer than by chance: it learned the opposite"
        case "undecided":
            return f" ({too_few(gain.seeds)})"
    return ", which is not clearly more than by chance"


def _sentence(gain: Difference, name: str) -> str:
    """A difference in the share of pairs as a sentence, by what is decided of it."""
    size = share_within(gain.value, gain.low, gain.high)
    against = _AGAINST[name]
    match gain.outcome:
        case "better":
            return f"it is right in {size} more of the pairs than {against}"
        case "worse":
            return f"{against} is right in {share_within(-gain.value, -gain.high, -gain.low)} more of the pairs"
        case "undecided":
            return f"against {against} the difference is {size} of the pairs ({too_few(gain.seeds)})"
    why = f", {by_chance(gain.holm)}" if by_chance(gain.holm) else ""
    return f"there is no clear difference from {against} ({size} of the pairs{why})"


def _moved(readings: Sequence[Reading]) -> list[str]:
    """How log-probabilities moved, and what the margin has to do with length."""
    by_name = {one.name: one for one in readings}
    chosen, rejected = by_name["chosen_gain"], by_name["rejected_gain"]
    notes = [
        f"log-probability moved by {bounded(chosen.value, chosen.low, chosen.high)} nats for a preferred completion, and by "
        f"{bounded(rejected.value, rejected.low, rejected.high)} for a rejected one"
        + (": the preferred ones became less probable too" if chosen.high < 0 else "")
    ]
    if (length := by_name.get("margin_length_correlation")) is not None:
        notes.append(
            "the margin's correlation with how many tokens longer the preferred completion is: "
            f"{bounded(length.value, length.low, length.high)}"
        )
    return notes
