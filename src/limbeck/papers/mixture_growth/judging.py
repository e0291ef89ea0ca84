"""The criteria of the recipe mixture-growth."""

from __future__ import annotations

from collections.abc import Mapping

from limbeck.papers.lab.paired import Losses, gain, nothing_in, with_interval
from limbeck.papers.lab.recipe import ClaimResult, Verdict
from limbeck.probes.interval import Interval

# Set before the first run. Our choice: 0.01 nats is one per cent of perplexity, too little to grow in a certain way for.
LEAST = 0.01
CLOSE = 0.05  # nats by which a grown model may be behind one that was trained at full width, and be close to it


def judge_mixtures(zero: Losses, mixed: Losses, which: str) -> ClaimResult:
    """Judges whether new mixtures off the diagonal are better than nothing there."""
    found = gain(zero, mixed)
    verdict: Verdict = "inconclusive"
    if found.low > 0 and found.value >= LEAST:
        verdict = "confirmed"
    elif nothing_in(found, LEAST):
        verdict = "refuted"
    return ClaimResult(
        "New mixtures of two seeds' layers off the diagonal make a better grown model than zeros there.",
        f"Confirmed: after the same training the held-out loss is lower by at least {LEAST:g} nats, and the whole 95 % interval "
        f"over documents and seeds is above zero. Refuted: the whole interval is below {LEAST:g}, and its lower end not above "
        "zero. Inconclusive otherwise. Of two sizes of mixtures the one is judged that was better with the seed of the rates.",
        verdict,
        f"{with_interval(found)} nats lower with {which}; {_counted(zero)}.",
    )


def judge_flops(mixed: Losses, controls: Mapping[str, Losses]) -> ClaimResult:
    """Judges whether growing two seeds is a better use of as many FLOPs than what needs no second seed, or no growth."""
    found = {name: gain(losses, mixed) for name, losses in controls.items()}
    return ClaimResult(
        "At equal FLOPs, with all that trained the two seeds counted, a model grown from two seeds is better than others.",
        "Confirmed: its held-out loss is lower, by the whole 95 % interval over documents and seeds, than that of each: a model "
        "of that width from random weights, one seed that trained twice as long and was widened, and the average of the two "
        "seeds trained on. Refuted: it is higher than that of one of them, by the whole interval. Inconclusive otherwise.",
        _each(found),
        f"lower by {_listed(found)} nats; {_counted(mixed)}.",
    )


def judge_tokens(mixed: Losses, controls: Mapping[str, Losses]) -> ClaimResult:
    """Judges whether the grown model is close to the best use of as many tokens."""
    found = {name: gain(losses, mixed) for name, losses in controls.items()}
    verdict: Verdict = "inconclusive"
    if all(one.low > -CLOSE for one in found.values()):
        verdict = "confirmed"
    elif any(one.high < -CLOSE for one in found.values()):
        verdict = "refuted"
    return ClaimResult(
        "At equal tokens, a model grown from two seeds is close to one that was trained at full width throughout.",
        f"Confirmed: its held-out loss is less than {CLOSE:g} nats higher, by the whole 95 % interval over documents and seeds, "
        "than that of a model of that width from random weights, and than that of the average of the two seeds trained on, all "
        "on as many tokens. Refuted: it is higher by more than that than one of them, by the whole interval. Inconclusive "
        "otherwise.",
        verdict,
        f"lower by {_listed(found)} nats; {_counted(mixed)}.",
    )


def judge_average(zero: Losses, average: Losses) -> ClaimResult:
    """Judges whether the joint training of two seeds with zeros between them is better than that of each alone."""
    found = gain(average, zero)
    verdict: Verdict = "confirmed" if found.low > 0 else "refuted" if found.high < 0 else "inconclusive"
    return ClaimResult(
        "Two seeds that are joined by zeros and trained on together are better than the average of both, trained on apart.",
        "Confirmed: at equal FLOPs the held-out loss is lower, by the whole 95 % interval over documents and seeds. Refuted: "
        "higher, by the whole interval. Inconclusive otherwise.",
        verdict,
        f"{with_interval(found)} nats lower together; {_counted(zero)}.",
    )


def _each(found: Mapping[str, Interval]) -> Verdict:
    if all(one.low > 0 for one in found.values()):
        return "confirmed"
    return "refuted" if any(one.high < 0 for one in found.values()) else "inconclusive"


def _listed(found: Mapping[str, Interval]) -> str:
    return ", ".join(f"{with_interval(one)} than {name}" for name, one in found.items())


def _counted(losses: Losses) -> str:
    return f"n = {losses.shape[1]} documents, {losses.shape[0]} seeds"
