"""The statistics of verdicts against values computed by hand: intervals, pairs, fits, and equal compute."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student_t

from limbeck.config import DistilSettings
from limbeck.jobs.distil.job import _arms
from limbeck.jobs.distil.plan import Budget, DistilPlan
from limbeck.jobs.distil.request import DistilRequest
from limbeck.objectives import CTKD, TAID
from limbeck.planning.checks.price import Price
from limbeck.planning.cost.size import Size
from limbeck.planning.laws.estimate import Estimate
from limbeck.planning.laws.fit import _Found, _shaken
from limbeck.planning.laws.ratio import _line
from limbeck.planning.laws.teachers import Model, Task
from limbeck.probes.interval import (
    _t,
    bootstrap,
    difference_interval,
    difference_test,
    holm,
    paired_shares,
    uncertain,
    wilson,
)
from limbeck.probes.likelihood import likelihood
from limbeck.probes.measurements import BINS, Measurements
from limbeck.report.verdict import verdict
from tests.helpers.models import llama, tokenizer

T_1, T_2 = (
    math.tan(0.475 * math.pi),
    0.95 * math.sqrt(2 / (1 - 0.95**2)),
)  # 97.5 % quantiles of Student's t in closed form
TOKENS = np.full(3, 10.0)
# nats per token of three documents: 1, 2, 6 after one training, 3, 4, 8 after another
NATS = 10 * np.array([[1.0, 2.0, 6.0], [3.0, 4.0, 8.0]])


def measured(nats: np.ndarray, tokens: np.ndarray = TOKENS) -> Measurements:
    return Measurements(tokens, np.asarray(nats, dtype=float), np.zeros((len(tokens), BINS, 3)))


# --- intervals --------------------------------------------------------------------------------------------------------


def test_an_interval_of_two_seeds_and_three_documents_is_the_one_worked_out_by_hand():
    """Means over seeds of the documents are 2, 3 and 7, of all 4; the seeds' are 3 and 5.

    One document is sampled three times in 1 of 27 resamples, so the percentiles are 2 and 7: 2 below and 3 above. Of three
    documents that is widened by t_2 / z and sqrt(3/2); the seeds' standard error is 1, times t_1.
    """
    found = difference_interval(NATS, np.zeros_like(NATS), TOKENS)
    widen = T_2 / 1.959964 * math.sqrt(1.5)
    assert (found.value, found.n) == (4.0, 3)
    assert found.value - found.low == pytest.approx(math.hypot(2 * widen, T_1), rel=1e-10)
    assert found.high - found.value == pytest.approx(math.hypot(3 * widen, T_1), rel=1e-10)
    alone = difference_interval(NATS[:1], np.zeros_like(NATS[:1]), TOKENS)  # 1, 2, 6: 2 below 3, 3 above
    assert (alone.low, alone.high) == pytest.approx((3 - 2 * widen, 3 + 3 * widen), rel=1e-10)


def test_the_probability_of_a_difference_is_the_level_at_which_its_interval_ends_at_0():
    """Of seeds alone it is the t-test's."""
    levels = np.array([0.07 - 0.01 * math.sqrt(3), 0.07, 0.07 + 0.01 * math.sqrt(3)])  # standard error 0.01
    nats = levels[:, None] * np.full((3, 40), 100.0)
    found, chance = difference_test(nats, np.zeros_like(nats), np.full(40, 100.0))
    assert chance == pytest.approx(2 * student_t.sf(7.0, 2), rel=1e-9)
    assert found.half == pytest.approx(0.01 * student_t.ppf(0.975, 2), rel=1e-9)
    generator = np.random.default_rng(0)
    for seeds, off in product((1, 2, 3, 5), (0.0, 0.1, 0.2, 0.4)):
        nats = 10 * generator.normal(off, 1, (seeds, 40))
        found, chance = difference_test(nats, np.zeros_like(nats), np.full(40, 10.0))
        assert (chance < 0.05) is found.excludes_zero


@pytest.mark.parametrize(
    ("documents", "seeds", "of_documents", "of_seeds"),
    [
        (8, 1, 0.3, 0.0),
        (171, 1, 0.3, 0.0),
        (25, 3, 0.3, 0.15),
        (25, 5, 0.3, 0.05),
        (25, 2, 0.0, 0.15),
        (25, 3, 0.0, 0.15),
    ],
)
def test_intervals_have_their_stated_coverage(documents, seeds, of_documents, of_seeds):
    """95 % of 2,000 samples, up to 3 standard errors below, and above since two parts are added in squares; also seeds alone."""
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(2000):
        counts = generator.integers(20, 60, documents).astype(float)
        document, seed = generator.normal(0, of_documents, documents), generator.normal(0, of_seeds, seeds)
        sums = counts * (2 + document[None] + seed[:, None])
        found = difference_interval(sums, np.zeros_like(sums), counts)
        held += found.low <= 2 <= found.high
    assert 0.935 <= held / 2000 <= 0.985


def test_students_t_is_scipys():
    for freedom in (1, 2, 3, 10, 11, 60, 1000):
        assert _t(freedom) == pytest.approx(student_t.ppf(0.975, freedom), rel=1e-12)


def test_holms_correction_by_hand():
    """0.01 x 4, 0.03 x 3, 0.04 x 2 but not below the one before it, 0.5 x 1."""
    assert holm([0.04, 0.01, math.nan, 0.5, 0.03]) == pytest.approx([0.09, 0.04, math.nan, 0.5, 0.09], nan_ok=True)
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_a_mean_of_surprisals_has_no_bound_below_zero():
    for nats in ([1.0, 2.0, 30.0], [0.1, 0.1, 9.0]):
        for reading in likelihood("student", [measured(10 * np.array(nats))], text_bytes=np.full(3, 40.0)):
            assert 0 < reading.low < reading.value < reading.high
    # as ratios: of 1, 2, 6 the mean 3 may be 1 or 6
    held_out = likelihood("student", [measured(NATS[0])])[0]
    widen = T_2 / 1.959964 * math.sqrt(1.5)
    assert (held_out.low, held_out.high) == pytest.approx((3 * 3**-widen, 3 * 2**widen), rel=1e-9)


def test_bounds_of_shares_are_shares():
    columns = np.array([[[9.0, 10.0], [10.0, 10.0], [10.0, 10.0]]])
    found = bootstrap(lambda total: total[..., :1] / total[..., 1:], columns)[0]
    assert found.high > 1
    assert found.within(0.0, 1.0).high == 1.0
    assert math.isnan(bootstrap(lambda x: x[..., :1], columns[:, :2])[0].within(0.0, 1.0).low)


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_a_seed_is_compared_with_the_same_seed():
    """Seeds differ by 0.5 nats, the arms by 0.1 in each: the difference is certain, and the student has fewer."""
    levels = (1.0, 1.5, 2.0)
    ours = [measured(np.full(40, 100 * level), np.full(40, 100.0)) for level in levels]
    theirs = [measured(np.full(40, 100 * (level + 0.1)), np.full(40, 100.0)) for level in levels]
    (found,) = verdict({"student": ours, "cut+ce": theirs}, None).differences
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.outcome == "better"
    (found,) = verdict({"student": theirs, "cut+ce": ours}, None).differences
    assert (found.value, found.outcome) == (pytest.approx(-0.1), "worse")


def test_what_equal_compute_buys_counts_the_passes():
    """A pass of the teacher of 0.8 steps, each used four times: 0.25 passes a token, 1.2 times the tokens."""
    ours = [measured(np.full(40, 100.0), np.full(40, 100.0))] * 3
    notes = " ".join(verdict({"student": ours}, None, price=Price(0.8, uses=4)).notes)
    assert "each token of KD also cost 0.25 forward passes of the teacher" in notes
    assert "could have read 1.20 times as many tokens" in notes
    assert "could have read 1.80 times as many tokens" in " ".join(
        verdict({"student": ours}, None, price=Price(0.8)).notes
    )


@pytest.mark.parametrize(("uses", "matched"), [(1, 0), (4, 0), (1, 10)])
def test_cross_entropy_at_equal_compute_takes_the_steps_counted_by_hand(uses, matched, tmp_path):
    """A layer of width h has 9 h² weights and 2 x 33 h FLOPs of attention a token in rows of 32; the head has V h weights."""
    tok = tokenizer()
    student, teacher = llama(layers=2, hidden=32, tok=tok), llama(layers=3, hidden=48, tok=tok)
    forward = [2 * (9 * layers * h**2 + len(tok) * h) + 2 * 33 * layers * h for layers, h in ((2, 32), (3, 48))]
    request = DistilRequest.of(DistilSettings(out=tmp_path, baselines=("cut+ce", "cut+ce@flops")))
    plan = DistilPlan(request, None, None, Budget(length=32, rows=4, steps=1000), matched, "wsd")
    price = Price.of(Size.of(student.config), Size.of(teacher.config), length=32, uses=uses)
    arms = {arm.name: arm for arm in _arms(plan, price, None, member="")}
    expected = round((1000 - matched) * (1 + forward[1] / (3 * forward[0]) / uses))
    assert arms["cut+ce@flops"].steps == expected
    assert arms["cut+ce@flops"].taken == matched
    assert arms["cut+ce"].steps == arms["student"].steps == 1000 - matched
    if (uses, matched, len(tok)) == (1, 0, 300):
        assert expected == 1900


# --- fits -------------------------------------------------------------------------------------------------------------


def test_residuals_are_widened_for_what_the_fit_took_and_for_the_noise_that_it_leaves_unsure():
    """Five residuals of mean 0, two parameters: times sqrt(5/3), and t_3 over the normal."""
    left = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    found = _Found(lambda theta: (left, np.zeros((5, 2))), np.zeros(2), 1.0, ("a", "b"))
    resampled = _shaken(found, np.random.default_rng(0), 200) - left
    factor = math.sqrt(5 / 3) * student_t.ppf(0.975, 3) / norm.ppf(0.975)
    np.testing.assert_allclose(np.unique(resampled.round(9)), (left * factor).round(9))


def test_an_interval_taken_both_ways_reaches_as_far_as_either():
    """Draws 0 to 100, of which percentiles give 2 and 98; the value 30 mirrors them to 60 - 98 and 60 - 2."""
    found = Estimate.both_ways(30.0, np.arange(101.0))
    assert (found.value, found.low, found.high) == (30.0, -38.0, 98.0)
    found = Estimate.both_ways(70.0, np.arange(101.0))
    assert (found.low, found.high) == (2.0, 138.0)


def test_a_line_through_optima_weighs_their_squares_by_one_over_the_size_squared():
    """Weights 16, 4, 1 of 21; of sizes 1, 2, 4 and optima 1, 3, 4 the slope is 40/32, the intercept -1/7."""
    slope, intercept, _ = _line(np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 4.0]))
    assert (float(slope), float(intercept)) == pytest.approx((1.25, -1 / 7))


# --- schedules --------------------------------------------------------------------------------------------------------


def test_the_reversal_of_ctkd_grows_along_half_a_cosine():
    """Over the first 40 of 400 steps: a quarter of the way it is (1 - cos 45°) / 2."""
    objective = CTKD(ramp=0.1)
    objective.begin(400)
    found = {}
    for step in range(1, 42):
        objective.advance(1.0)
        found[step] = float(objective.reversal)
    assert [found[step] for step in (10, 20, 30, 40, 41)] == pytest.approx(
        [0.14644660940672624, 0.5, 0.8535533905932737, 1, 1]
    )


def test_t_of_taid_goes_on_by_a_share_of_what_is_left_to_one():
    """Not of what is left to its end, 0.8 here: a loss that stands still adds alpha / 2 of it."""
    objective = TAID(start=0.2, end=0.8, alpha=0.5)
    objective.begin(1000)
    objective.advance(2.0)
    first = 0.2 + 0.6 / 1000
    assert float(objective.t) == pytest.approx(first)
    objective.advance(2.0)
    assert float(objective.t) == pytest.approx(first + 0.25 * (1 - first))


def test_a_plan_counts_the_flops_that_a_run_is_compared_by():
    """One accounting: of configurations, what equal compute buys is the same in `limbeck plan` and in a run's verdict."""
    tok = tokenizer()
    student, teacher = (Size.of(llama(layers=n, hidden=h, tok=tok).config) for n, h in ((2, 32), (3, 48)))
    task = Task(Model.of_size("student", student), 1e6, True, 0.005, None)
    planned = task.flops(Model.of_size("teacher", teacher), 1e6) / task.flops(None, 1e6)
    assert planned == pytest.approx(Price.of(student, teacher, length=task.length).ratio)
    numbers = Task(Model.of_count("1B", 1e9), 1e6, True, 0.005, None)
    assert numbers.flops(Model.of_count("7B", 7e9), 1e6) == 6e9 * 1e6 + 2 * 7e9 * 1e6


def test_a_difference_that_all_items_have_alike_is_not_certain():
    """Of three items that one model has right and the other wrong, chance alone gives as much in one of four draws."""
    ones, none = np.ones(3), np.zeros(3)
    found = paired_shares(ones, none, ones)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(wilson(3, 3).low)
    assert paired_shares(none, ones, ones).low == -1.0
    assert uncertain(*difference_test(ones[None], none[None], ones))[1] == pytest.approx(0.25)
    some = np.array([1.0, 0, 1, 1, 0])
    usual = difference_interval(some[None], np.zeros((1, 5)), np.ones(5))
    assert uncertain(usual, 0.01) == (usual, 0.01)
