"""Changes to the statistics core that tests must notice: where, what it says, what it would say, and which tests must then fail.

A refactoring that moves a line moves it here too; `test_mutants.py` says which one is no longer there.
"""

from __future__ import annotations

from dataclasses import dataclass

_STATISTICS = "tests/probes/test_statistics.py::test_"
_INTERVAL = f"{_STATISTICS}an_interval_of_two_seeds_and_three_documents_is_the_one_worked_out_by_hand"
_COVERAGE = f"{_STATISTICS}intervals_have_their_stated_coverage"


@dataclass(frozen=True)
class Mutant:
    """A change to one file of the package, and the tests that must fail of it (of a parametrized one any case)."""

    name: str
    file: str
    original: str
    mutated: str
    tests: tuple[str, ...]


MUTANTS = (
    Mutant(
        "seeds by the normal instead of t",
        "probes/interval.py",
        "math.hypot(side, _t(self.seeds - 1) * self.error)",
        "math.hypot(side, _Z * self.error)",
        (_INTERVAL, f"{_COVERAGE}[25-3-0.0-0.15]"),
    ),
    Mutant(
        "documents by the normal instead of t",
        "probes/interval.py",
        "widen = _t(n - 1) / _Z * math.sqrt(n / (n - 1))",
        "widen = math.sqrt(n / (n - 1))",
        (_INTERVAL, f"{_COVERAGE}[8-1-0.3-0.0]"),
    ),
    Mutant(
        "the documents of the first seed alone",
        "probes/interval.py",
        "statistic(counts @ runs).mean(0) for counts",
        "statistic(counts @ runs)[0] for counts",
        (_INTERVAL,),
    ),
    Mutant(
        "no correction over the comparisons of a table",
        "probes/interval.py",
        "min(1.0, (len(order) - rank) * chances[i])",
        "min(1.0, chances[i])",
        (
            f"{_STATISTICS}holms_correction_by_hand",
            "tests/report/test_report.py::test_a_difference_that_four_comparisons_bring_by_chance_is_not_called_one",
        ),
    ),
    Mutant(
        "a winner of one training each",
        "report/decision.py",
        "enough = [seeds >= FEWEST_SEEDS for",
        "enough = [seeds >= 1 for",
        ("tests/report/test_report.py::test_one_or_two_trainings_each_decide_nothing_however_far_apart",),
    ),
    Mutant(
        "seeds paired in reverse",
        "report/verdict.py",
        "return list(zip(a, b, strict=False))",
        "return list(zip(a, b[::-1], strict=False))",
        (f"{_STATISTICS}a_seed_is_compared_with_the_same_seed",),
    ),
    Mutant(
        "the student and the other arm the wrong way round",
        "report/verdict.py",
        "return list(zip(a, b, strict=False))",
        "return list(zip(b, a, strict=False))",
        (f"{_STATISTICS}a_seed_is_compared_with_the_same_seed",),
    ),
    Mutant(
        "equal compute without the passes",
        "planning/checks/price.py",
        "return self.ratio_at(self.uses)",
        "return self.ratio_at(1)",
        (
            f"{_STATISTICS}what_equal_compute_buys_counts_the_passes",
            f"{_STATISTICS}cross_entropy_at_equal_compute_takes_the_steps_counted_by_hand",
        ),
    ),
    Mutant(
        "a training step of two forward passes",
        "planning/cost/size.py",
        "return 2.0 * self.forward_flops(length)",
        "return self.forward_flops(length)",
        (f"{_STATISTICS}cross_entropy_at_equal_compute_takes_the_steps_counted_by_hand",),
    ),
    Mutant(
        "steps at equal compute that forget what matching took",
        "jobs/distil/job.py",
        "flops_steps=round(steps * ratio)",
        "flops_steps=round(plan.budget.steps * ratio)",
        (f"{_STATISTICS}cross_entropy_at_equal_compute_takes_the_steps_counted_by_hand",),
    ),
    Mutant(
        "residuals without t",
        "planning/laws/fit.py",
        "* _inflation(points, parameters) * unsure",
        "* _inflation(points, parameters)",
        (f"{_STATISTICS}residuals_are_widened_for_what_the_fit_took_and_for_the_noise_that_it_leaves_unsure",),
    ),
    Mutant(
        "percentiles alone",
        "planning/laws/estimate.py",
        "return cls(one.value, min(one.low, 2 * value - one.high), max(one.high, 2 * value - one.low))",
        "return one",
        (f"{_STATISTICS}an_interval_taken_both_ways_reaches_as_far_as_either",),
    ),
    Mutant(
        "optima weighted by 1/S",
        "planning/laws/ratio.py",
        "w = sizes**-2.0 / (sizes**-2.0).sum()",
        "w = sizes**-1.0 / (sizes**-1.0).sum()",
        (f"{_STATISTICS}a_line_through_optima_weighs_their_squares_by_one_over_the_size_squared",),
    ),
    Mutant(
        "a reversal that grows along a line",
        "objectives/ctkd.py",
        "return 0.5 * (1 - math.cos(math.pi * done))",
        "return done",
        (f"{_STATISTICS}the_reversal_of_ctkd_grows_along_half_a_cosine",),
    ),
    Mutant(
        "TAID by what is left to its end",
        "objectives/taid.py",
        "return t + alpha * (1 - t) *",
        "return t + alpha * (self.end - t) *",
        (f"{_STATISTICS}t_of_taid_goes_on_by_a_share_of_what_is_left_to_one",),
    ),
)
