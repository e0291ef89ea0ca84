"""What a tuning by a reward is worth, in words: how rewarded its answers are, and what its own samples show of the training.

The headline is the reward of sampled answers to held-out prompts, which is what the training raises, and beside it how many
greedy answers pass, which is what a user gets. Both are compared with the model before, and with cross-entropy on known answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from limbeck.config import ANSWERS, LATENT, reward_options
from limbeck.probes.interval import FEWEST_SEEDS
from limbeck.probes.rewarded import Rewarded, gained, rewarded
from limbeck.report.adapted import rounded
from limbeck.report.decision import by_chance, rule, too_few
from limbeck.report.screen import over_seeds
from limbeck.report.start import BEFORE
from limbeck.report.tuned import ORDER, costs, rates_of, tried
from limbeck.report.verdict import (
    Difference,
    Verdict,
    decided,
    spoken,
    too_few_documents,
    what_the_interval_covers,
)
from limbeck.report.words import bounded, label, share, share_within
from limbeck.types import Reading

RATE_OF = {"student": "the tuning by the reward", "answers": label("answers")}  # by the name of a training
MOST_CUT = 0.5  # of answers cut off, from which on they grow to the limit rather than end
GROWN = (
    "half of the answers or more are cut off at --rollout-tokens, and more than at first: a model whose answers grow to the "
    "limit no longer learns to end (length explosion). Give a larger --rollout-tokens, a larger beta, or a lower --lr"
)
APART = (
    "rewards are not compared with cross-entropy on known answers, which does not learn to write the mark that this reward "
    "counts: greedy answers are"
)
_COLUMNS = (  # heading, reading
    ("reward", "reward"),
    ("greedy passes", "greedy_passed"),
    ("tokens", "answer_tokens"),
    ("cut off", "unfinished"),
    ("entropy", "answer_entropy"),
    ("KL from before", "kl_start"),
)
_WITH_INTERVAL = ("reward", "greedy_passed")
_AGAINST = {"cut": "what it was before tuning", "answers": "that of cross-entropy on as many known answers"}
_KINDS = {"": ("reward", "samples"), "greedy ": ("greedy_passed", "prompts")}  # of differences: what, for each of what
_PART = 10  # the first and the last tenth of the steps are told apart


@dataclass(frozen=True)
class Means:
    """Means of sampled answers: reward, share that pass all checks, tokens, share cut off at the limit, KL from the start.

    ``alike`` is the share of prompts whose answers have equal rewards, which teach nothing, ``entropy`` in nats a token, ``kl``
    in nats an answer, ``unmarked`` the share of rationales without the mark, None where samples are no rationales.
    """

    reward: float
    passed: float
    tokens: float
    cut: float
    alike: float
    entropy: float
    kl: float
    unmarked: float | None


def means(rows: Sequence[Mapping[str, Any]]) -> Means:
    """The means over the answers of some steps, rows of metrics.jsonl, which have at least one."""

    def total(name: str) -> float:
        return float(sum(row[name] for row in rows))

    answers, tokens = total("rollouts"), total("rollout_tokens")
    return Means(
        reward=total("reward_sum") / answers,
        passed=total("passed") / answers,
        tokens=tokens / answers,
        cut=sum(map(cut_off, rows)) / answers,
        alike=total("groups_alike") / total("groups"),
        entropy=total("entropy_sum") / max(1.0, tokens),
        kl=total("kl_sum") / answers,
        unmarked=1 - total("rollouts_ended") / answers if "contain_answer" in rows[0] else None,
    )


def cut_off(row: Mapping[str, Any]) -> float:
    """How many samples of a step, a row of metrics.jsonl, the limit ended; an older row has those that came to an end alone."""
    found: float = row.get("rollouts_cut", row["rollouts"] - row["rollouts_ended"])
    return found


def grows(first: Means, last: Means) -> bool:
    """Whether answers grow to the limit: most are cut off, and more than at first."""
    return last.cut >= MOST_CUT and last.cut > first.cut


def rewarded_verdict(
    arms: Mapping[str, Sequence[Rewarded]],
    steps: Sequence[Mapping[str, Any]],
    *,
    reward: str,
    plan: Mapping[str, Any],
    trials: Sequence[Mapping[str, Any]] = (),
) -> Verdict:
    """The verdict on ``arms["student"]``, from what held-out prompts show of each arm by seed, and the ``steps`` of its training.

    ``reward``: its name. ``plan``: that of run.json, with FLOPs and rates by arm. ``trials``: learning rates that were tried out
    first.
    """
    runs = arms["student"]
    pairs = [(kind, name) for name in _AGAINST if arms.get(name) for kind in _KINDS if kind or not _apart(name, reward)]
    found = decided({f"{kind}{name}": _gain(runs, arms[name], name, kind) for kind, name in pairs})
    by_name, prompts = {one.name: one for one in rewarded("student", runs)}, len(runs[0].samples)
    value, right = by_name["reward"], by_name["greedy_passed"]
    sentences = [
        f"sampled answers to {prompts} held-out prompts have a reward ({reward}) of "
        f"{bounded(value.value, value.low, value.high)}{_beside(found['cut'], 'cut', _plain)}",
        f"the share of prompts whose greedy answer passes all checks is {share_within(right.value, right.low, right.high)}"
        f"{_beside(found['greedy cut'], 'cut', share_within)}",
    ]
    notes = []
    if "answers" in found:
        notes.append(
            f"the reward of sampled answers is {bounded(value.value, value.low, value.high)}"
            f"{_beside(found['answers'], 'answers', _plain)}"
        )
    if "greedy answers" in found:
        notes.append(
            f"the share of greedy answers that pass is {share_within(right.value, right.low, right.high)}"
            f"{_beside(found['greedy answers'], 'answers', share_within)}"
        )
        notes += [APART] if "answers" not in found else []
    notes += [
        *through(steps),
        *rounded(plan),
        *costs(plan),
        *rates_of(plan),
        *tried(trials, RATE_OF, key="reward", on="held-out prompts", unit="reward of sampled answers"),
    ]
    notes.append(what_the_interval_covers(len(runs), prompts, BEFORE, what="held-out prompts"))
    notes += [rule([one.seeds for one in found.values()])] if len(runs) >= FEWEST_SEEDS else []
    notes.append(too_few_documents(prompts, what="prompt"))
    text = " ".join(map(spoken, sentences))
    return Verdict(found["cut"].outcome, text, tuple(spoken(note) for note in notes if note), tuple(found.values()))


def through(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the samples of a training show, in its first and its last steps; nothing without steps."""
    if not steps:
        return []
    part = max(1, len(steps) // _PART)
    first, last = means(steps[:part]), means(steps[-part:])
    text = (
        f"from the first to the last steps the reward of samples went from {first.reward:.3f} to {last.reward:.3f}, tokens an "
        f"answer from {first.tokens:.1f} to {last.tokens:.1f}, answers cut off from {share(first.cut)} to "
        f"{share(last.cut)}, prompts whose answers have one reward, and teach nothing, from {share(first.alike)} to "
        f"{share(last.alike)}, entropy from {first.entropy:.2f} to {last.entropy:.2f} nats a token; KL from the start came to "
        f"{last.kl:.2f} nats an answer"
    )
    rationales = [*_unmarked(first, last), *_contained(steps[:part], steps[-part:])]
    return [text, *rationales, *([GROWN] if grows(first, last) else [])]


def _unmarked(first: Means, last: Means) -> list[str]:
    """How many rationales have no mark, whether they ended by themselves or were cut off."""
    if first.unmarked is None or last.unmarked is None:
        return []
    return [f"rationales without the mark went from {share(first.unmarked)} to {share(last.unmarked)}"]


def _contained(first: Sequence[Mapping[str, Any]], last: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many rationales have the known answer in them; nothing where samples are no rationales."""
    if "contain_answer" not in first[0]:
        return []
    before, after = (
        sum(row["contain_answer"] for row in rows) / sum(row["rollouts"] for row in rows) for rows in (first, last)
    )
    return [
        f"rationales that have the known answer in them went from {share(before)} to {share(after)}: a derivation may end with "
        "it, but a model may also learn to list what the answer could be"
    ]


def rewarded_rows(readings: Sequence[Reading]) -> list[list[str]]:
    """A table of the models: their answers to held-out prompts."""
    found = over_seeds(readings)

    def cell(model: str, name: str) -> str:
        one = found.get((model, name))
        if one is None:
            return ""
        if name not in _WITH_INTERVAL:
            return share(one.value) if one.unit == "share" else f"{one.value:.3g}"
        return (share_within if one.unit == "share" else _plain)(one.value, one.low, one.high)

    models = [model for model in ORDER if (model, "reward") in found]
    rows = [[label(model, BEFORE), *(cell(model, name) for _, name in _COLUMNS)] for model in models]
    return [["model", *(heading for heading, _ in _COLUMNS)], *rows]


def _apart(name: str, reward: str) -> bool:
    """Whether the reward says nothing of an arm: that of a rationale counts a mark, which `ANSWERS` is not trained on."""
    return name == ANSWERS and reward_options(reward)[0] == LATENT


def _gain(ours: Sequence[Rewarded], theirs: Sequence[Rewarded], name: str, kind: str) -> Difference:
    what, over = _KINDS[kind]
    gain, chance = gained(ours, theirs, what, over)
    seeds = len(ours) if name == "cut" else min(len(ours), len(theirs))
    unit = "share of prompts" if kind else "reward"
    found = Difference(f"{kind}student - {name}", gain.value, unit, gain.n, gain.low, gain.high, seeds)
    return replace(found, chance=chance)


def _beside(gain: Difference, name: str, shown: Any) -> str:
    """How a value stands beside that of another arm, by what is decided of it; it follows the value's subject."""
    against = _AGAINST[name]
    size, less = shown(gain.value, gain.low, gain.high), shown(-gain.value, -gain.high, -gain.low)
    match gain.outcome:
        case "better":
            return f", {size} above {against}"
        case "worse":
            return f", {less} below {against}"
        case "undecided":
            return f"; the difference from {against} is {size} ({too_few(gain.seeds)})"
    why = f"; {by_chance(gain.holm)}" if by_chance(gain.holm) else ""
    return f", with no clear difference from {against} ({size}{why})"


def _plain(value: float, low: float, high: float) -> str:
    return bounded(value, low, high)
