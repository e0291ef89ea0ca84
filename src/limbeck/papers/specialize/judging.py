"""The criteria of the recipe specialize. All compare greedy answers to the same test problems, paired by seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from limbeck.papers.lab.recipe import ClaimResult, Verdict
from limbeck.papers.lab.right import FLOOR, Right, counted, difference, in_points, learned, verdict_of_more
from limbeck.probes.interval import Interval, bootstrap
from limbeck.report.words import bounded, share

# Set before the first run, and our choices. The paper's gains are of about ten points; it gives no interval.
LEAST = 0.05  # of a gain that matters
PRICE = 0.02  # of a loss that matters
SOFT = 0.01  # of a gain by the teacher's distribution that would matter
REMOVED, COST = 0.8, 0.01  # replay removes the price: so much of the loss, at so much of the target
LITTLE = 0.5  # it does not: less of the loss


@dataclass(frozen=True)
class Paid:
    """Right answers to the skills of a base, its specialisation and that with replay, and of the last two to the target."""

    base: Right
    special: Right
    replayed: Right
    target: Right
    target_replayed: Right

    @property
    def loss(self) -> Interval:
        """How much fewer skills the specialisation answers than its base."""
        return difference(self.base, self.special)

    @property
    def cost(self) -> Interval:
        """How much fewer target problems it answers with replay."""
        return difference(self.target, self.target_replayed)

    @property
    def removed(self) -> Interval:
        """The share of the loss that replay removes."""
        return bootstrap(_removed, np.stack([self.base, self.special, self.replayed], -1))[0]


def judge_solutions(solutions: Right, answers: Right) -> ClaimResult:
    """Judges solutions against answers alone, each asked as it was trained, for equal tokens."""
    return _more(
        solutions,
        answers,
        "A small model that learns solutions answers more problems than one that learns the answers alone, for as many tokens.",
    )


def judge_price(base: Right, special: Right) -> ClaimResult:
    """Judges what specialisation costs: the skills of the base that are lost."""
    found = difference(base, special)
    verdict: Verdict = "inconclusive"
    if float(base.mean()) >= FLOOR:
        if found.low > 0 and found.value > PRICE:
            verdict = "confirmed"
        elif found.high < PRICE:
            verdict = "refuted"
    return ClaimResult(
        "Specialising a small model costs its other skills.",
        f"The skills are asked for the answer alone and for all steps. Confirmed: more than {PRICE * 100:g} points fewer are "
        "answered than before, and the whole 95 % interval over questions and seeds is above 0. Refuted: the whole interval is "
        f"below that many points. Inconclusive otherwise, and where the base answers fewer than {share(FLOOR)}.",
        verdict,
        f"difference {in_points(found)}, of {share(float(base.mean()), digits=1)} before; {counted(base, 'questions')}.",
    )


def judge_replay(paid: Paid) -> ClaimResult:
    """Judges whether a tenth of the base's lines removes the price; no other share is tried."""
    loss, cost, removed = paid.loss, paid.cost, paid.removed
    verdict: Verdict = "inconclusive"
    if loss.low > 0 and loss.value > PRICE:
        if removed.low >= REMOVED and cost.value <= COST:
            verdict = "refuted"
        elif removed.high < LITTLE:
            verdict = "confirmed"
    percent = bounded(100 * removed.value, 100 * removed.low, 100 * removed.high, least=1)
    return ClaimResult(
        "A tenth of replay does not remove the price.",
        "With replay a tenth of the steps have lines of the base, for as many tokens in all. Confirmed: it removes less than "
        f"{share(LITTLE)} of the loss in skills, with the whole 95 % interval over questions and seeds. Refuted: it removes at "
        f"least {share(REMOVED)}, with the whole interval, and costs at most {COST * 100:g} point of the target. Inconclusive "
        f"otherwise, and without a loss of more than {PRICE * 100:g} points whose interval is above 0. Other shares of replay "
        "are not tested.",
        verdict,
        f"{percent} % of the loss of {in_points(loss)} removed; target difference {in_points(cost)}; "
        f"{counted(paid.base, 'questions')}.",
    )


def judge_distribution(soft: Right, hard: Right) -> ClaimResult:
    """Judges the teacher's distribution against its samples; the arrays are means over the same formats."""
    found, full = difference(soft, hard), float(hard.mean()) > 1 - 2 * SOFT
    verdict: Verdict = "inconclusive"
    if found.low > 0:
        verdict = "confirmed"
    elif found.high < SOFT and not full and learned(soft, hard):
        verdict = "refuted"
    return ClaimResult(
        "Learning the teacher's distribution at each token answers more problems than learning its samples, for as many tokens.",
        "Both learn the same sampled solutions in the same formats, of which the mean is taken. Confirmed: the whole 95 % "
        f"interval of the difference in answered problems is above 0. Refuted: the whole interval is below {SOFT * 100:g} "
        f"point. Inconclusive otherwise, where both answer fewer than {share(FLOOR)}, and where samples are answered in more "
        f"than {share(1 - 2 * SOFT)}, which leaves no room.",
        verdict,
        f"difference {in_points(found)}; {counted(soft, 'problems')}.",
    )


def judge_shots(in_context: Right, without: Right) -> ClaimResult:
    """Judges training with shots against training without, asked with shots, for equal FLOPs."""
    return _more(
        in_context,
        without,
        "A model that is tuned without shots loses the use of shots: asked with some it answers fewer problems than one that was "
        "tuned with them, for equal FLOPs.",
    )


def _more(ours: Right, theirs: Right, claim: str) -> ClaimResult:
    """A claim of more right answers."""
    found, room = difference(ours, theirs), 1 - LEAST
    return ClaimResult(
        claim,
        f"Confirmed: more than {LEAST * 100:g} points more test problems are answered, and the whole 95 % interval over problems "
        f"and seeds is above 0. Refuted: the whole interval is below that many points. Inconclusive otherwise, where both answer "
        f"fewer than {share(FLOOR)}, and where the others answer more than {share(room)}, which leaves no room.",
        verdict_of_more(ours, theirs, LEAST, room=room),
        f"difference {in_points(found)}; {counted(ours, 'problems')}.",
    )


def _removed(total: np.ndarray) -> np.ndarray:
    """(replayed - special) / (base - special), of sums in the order base, special, replayed; NaN without a loss."""
    base, special, replayed = (total[..., i : i + 1] for i in range(3))
    with np.errstate(divide="ignore", invalid="ignore"):
        found: np.ndarray = np.where(base > special, (replayed - special) / (base - special), np.nan)
    return found
