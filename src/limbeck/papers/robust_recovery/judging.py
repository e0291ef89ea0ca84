"""The criteria of the recipe robust-recovery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from limbeck.papers.lab.paired import Losses, gain, mean
from limbeck.papers.lab.recipe import ClaimResult, Verdict
from limbeck.probes.interval import Interval
from limbeck.report.words import interval

SMALL, LARGE, RANK, SQUARE = "small start", "large start", "columns of the rank", "squares"
ERROR, LOST = 1e-3, 0.5  # relative errors: recovered, and not
WORSE = 10.0  # a factor between errors that counts
HELPS = 0.02  # the share of the loss by which robust fitting should be better

Errors = Mapping[float, Mapping[str, Sequence[float]]]  # by the share of outliers, then by fit, one a problem
ByKeep = Mapping[float, Losses]  # by the share of parameters that is kept


def judge_recovery(errors: Errors) -> ClaimResult:
    """Judges whether absolute errors from a small start recover the matrix, where squares do not."""
    found = {share: (median(by[SMALL]), median(by[SQUARE])) for share, by in errors.items()}
    verdict: Verdict = "inconclusive"
    if all(small <= ERROR and square >= LOST for small, square in found.values()):
        verdict = "confirmed"
    elif any(small >= LOST or square <= ERROR for small, square in found.values()):
        verdict = "refuted"
    seen = "; ".join(
        f"{share:.0%} outliers: {small:.1e} by absolute errors, {square:.1e} by squares"
        for share, (small, square) in found.items()
    )
    return ClaimResult(
        "From a small start, sub-gradient steps on absolute errors recover a low-rank matrix despite gross outliers, with more "
        "columns than its rank; steps on squared errors do not.",
        f"Confirmed: at each share of outliers the median relative error is at most {ERROR:g}, and that of squares at least "
        f"{LOST:g}. Refuted: at one of them it is at least {LOST:g}, or squares reach {ERROR:g}. Inconclusive otherwise.",
        verdict,
        f"median relative error with {seen}; n = {_problems(errors)}.",
    )


def judge_columns(errors: Errors) -> ClaimResult:
    """Judges whether more columns than the rank cost nothing."""
    ratios = {share: median(by[SMALL]) / median(by[RANK]) for share, by in errors.items()}
    verdict: Verdict = "inconclusive"
    if all(ratio <= WORSE for ratio in ratios.values()):
        verdict = "confirmed"
    elif all(ratio > WORSE for ratio in ratios.values()):
        verdict = "refuted"
    seen = "; ".join(f"{share:.0%} outliers: {ratio:.3g} times" for share, ratio in ratios.items())
    return ClaimResult(
        "The error after as many steps does not depend on how many columns are fitted.",
        f"Confirmed: with as many columns as rows the median error is at most {WORSE:g} times that with columns of the rank, at "
        f"each share of outliers. Refuted: it is more at each. Inconclusive otherwise.",
        verdict,
        f"error with all columns, of that with columns of the rank, at {seen}; n = {_problems(errors)}.",
    )


def judge_start(errors: Errors) -> ClaimResult:
    """Judges whether the start has to be small."""
    ratios = {share: median(by[LARGE]) / median(by[SMALL]) for share, by in errors.items()}
    verdict: Verdict = "inconclusive"
    if all(ratio >= WORSE for ratio in ratios.values()):
        verdict = "confirmed"
    elif any(ratio <= 1 for ratio in ratios.values()):
        verdict = "refuted"
    seen = "; ".join(f"{share:.0%} outliers: {ratio:.3g} times" for share, ratio in ratios.items())
    return ClaimResult(
        "The start has to be small.",
        f"Confirmed: from a start as large as the matrix the median error is at least {WORSE:g} times that from a small one, at "
        "each share of outliers. Refuted: at one of them it is no larger. Inconclusive otherwise.",
        verdict,
        f"error from a large start, of that from a small one, at {seen}; n = {_problems(errors)}.",
    )


def judge_robust(whitened: ByKeep, robust: Mapping[str, ByKeep]) -> ClaimResult:
    """Judges whether fitting that is robust helps a language model whose calibration text has random tokens."""
    found = {(arm, keep): _share(whitened[keep], losses) for arm, by in robust.items() for keep, losses in by.items()}
    verdict: Verdict = "inconclusive"
    if any(all(found[arm, keep].low > HELPS for keep in by) for arm, by in robust.items()):
        verdict = "confirmed"
    elif all(one.high < HELPS for one in found.values()):
        verdict = "refuted"
    seen = "; ".join(
        f"{arm}: " + ", ".join(f"{interval(found[arm, keep], '+.2%')} at {keep:.0%}" for keep in by)
        for arm, by in robust.items()
    )
    return ClaimResult(
        "Factors of a language model that are fitted robustly are better where the calibration text has random tokens.",
        f"Confirmed: after equal training one robust fit has a held-out loss that is lower than that of whitened factors by more "
        f"than {HELPS:.0%} of it, by the whole 95 % interval over documents and seeds, at each share of parameters. Refuted: "
        "none is by that much at any, by the whole interval. Inconclusive otherwise.",
        verdict,
        f"lower loss, as a share of it, {seen}; {_counted(whitened)}.",
    )


def judge_apart(whitened: ByKeep, apart: ByKeep) -> ClaimResult:
    """Judges whether a few entries kept apart are worth their parameters."""
    return _each(
        {keep: gain(losses, apart[keep]) for keep, losses in whitened.items()},
        "Entries kept apart from whitened factors are worth the parameters that they take.",
        "the student with entries kept apart",
        "whitened factors of as many parameters",
        _counted(whitened),
    )


def judge_cut(cut: ByKeep, apart: ByKeep) -> ClaimResult:
    """Judges whether low rank is better than pruning at equal parameters."""
    return _each(
        {keep: gain(losses, apart[keep]) for keep, losses in cut.items()},
        "A student of factors with entries kept apart is better than one that is pruned to as many parameters.",
        "the student of factors",
        "the pruned one after as many tokens",
        _counted(cut),
    )


def _each(gains: Mapping[float, Interval], claim: str, ours: str, other: str, n: str) -> ClaimResult:
    """A claim about a lower loss at each share of parameters."""
    verdict: Verdict = "inconclusive"
    if all(one.low > 0 for one in gains.values()):
        verdict = "confirmed"
    elif all(one.high < 0 for one in gains.values()):
        verdict = "refuted"
    seen = ", ".join(f"{interval(one, '+.3f')} at {keep:.0%}" for keep, one in gains.items())
    return ClaimResult(
        claim,
        f"Confirmed: {ours} has a lower held-out loss than {other}, by the whole 95 % interval over documents and seeds, at each "
        "share of parameters. Refuted: a higher one, by the whole interval, at each. Inconclusive otherwise.",
        verdict,
        f"difference in nats per token {seen}; {n}.",
    )


def _share(losses: Losses, less: Losses) -> Interval:
    """How much lower the second loss is, as a share of the mean of the first."""
    whole, found = mean(losses).value, gain(losses, less)
    return Interval(found.value / whole, found.low / whole, found.high / whole, found.n)


def _counted(by: ByKeep) -> str:
    losses = next(iter(by.values()))
    return f"n = {losses.shape[1]} documents, {losses.shape[0]} seeds"


def _problems(errors: Errors) -> str:
    return f"{len(next(iter(errors.values()))[SMALL])} matrices at each share"
