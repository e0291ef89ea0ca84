"""The scaling laws: published values, fits that recover the parameters of simulated points, and points without information."""

import math
from functools import partial
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig

from limbeck.errors import BadPoints, BadSetting, NotConverged
from limbeck.planning.cost.gpus import gpu, stand_in
from limbeck.planning.cost.size import Size
from limbeck.planning.laws import fit as fitting
from limbeck.planning.laws.distillation import MEASURED, PUBLISHED
from limbeck.planning.laws.estimate import Estimate
from limbeck.planning.laws.fit import fit_distillation_law, fit_supervised_law
from limbeck.planning.laws.points import Point, read_points, sift, write_points
from limbeck.planning.laws.ratio import fit_ratio_law
from limbeck.planning.laws.teachers import Model, Task, by_loss, by_published_law, by_published_ratio

TEXT = PUBLISHED.supervised
SIZES = (1.5e8, 3e8, 6e8, 1.2e9, 2.4e9)


def valley(*, curvature=0.05, slope=2.5, noise=0.003, tilt=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Point(
            *(s, 20 * s, float(3 + tilt * np.log(r) + curvature * np.log(r / slope) ** 2 + rng.normal(0, noise))),
            *(r * s, 2.0),
            seed=k,
        )
        for s, r, k in product((1e6, 2e6, 4e6), (1.25, 1.67, 2.5, 5, 10), range(3))
    ]


def runs(*, noise=0.002, seed=0):
    rng = np.random.default_rng(seed)
    points = [
        Point(n, m * n, float(TEXT.predict(n, m * n) * np.exp(rng.normal(0, noise))))
        for n, m in product(SIZES, (10, 20, 40, 80, 160))
    ]
    for n, m, t in product(SIZES[:4], (10, 40, 160), (3e8, 6e8, 1.2e9, 2.4e9, 5e9)):
        teacher = float(TEXT.predict(t, 20 * t))
        loss = float(PUBLISHED.predict(n, m * n, teacher) * np.exp(rng.normal(0, noise)))
        points.append(Point(n, m * n, loss, t, teacher, 20 * t))
    return points


def task(student="600M", size=6e8, tokens=1e10, **changes):
    usual = {"paid": True, "epsilon": 0.005, "teacher_tokens": None}
    return Task(Model.of_count(student, size), tokens, **(usual | changes))


def models(*sizes):
    return [Model.of_count(f"{size / 1e9:g}B", size) for size in sizes]


def test_the_published_law_gives_the_papers_own_number():
    loss = PUBLISHED.of_teacher(546e6, 20 * 546e6, 1.82e9, 20 * 1.82e9)
    assert loss == pytest.approx(2.42, abs=0.005)  # arXiv 2502.08606, table of fixed-size students


def test_teachers_of_7_to_70_billion_hardly_differ_for_a_student_of_3():
    losses = [PUBLISHED.of_teacher(3e9, 126e9, size, 2e12) for size in (7e9, 13e9, 70e9)]
    assert max(losses) - min(losses) < 0.003


@given(st.floats(1e4, 1e13), st.floats(1e4, 1e15), st.floats(0.05, 15.0), st.integers(0, 2000), st.floats(0.005, 2))
def test_the_law_is_finite_and_no_student_beats_its_teacher(size, tokens, teacher, c1, f1):
    law = fitting.DistillationLaw(**(vars(PUBLISHED) | {"c1": c1, "f1": f1}))
    loss = law.predict(size, tokens, teacher)
    assert math.isfinite(loss)
    assert loss >= teacher


def test_without_a_gap_a_better_teacher_makes_a_better_student():
    teachers = np.linspace(1.7, 2.4, 20)
    assert (np.diff(PUBLISHED.without_gap().predict(6e8, 1e10, teachers)) != 0).all()
    assert PUBLISHED.without_gap().c1 == 0


def test_derivatives_of_the_fits_are_those_of_their_losses():
    points = runs()
    alone, distilled = [p for p in points if not p.distilled], [p for p in points if p.distilled]
    for residuals, theta in (
        (fitting._supervised_residuals(alone), np.log([3355, 18186, 1.22, 0.408, 0.431, 0.452])),
        (fitting._student_residuals(distilled, TEXT), np.array([7.7, 10.1, -1.1, -0.5, 2.5, 6.3, -2.4])),
    ):
        slopes = residuals(theta)[1]
        for k, step in enumerate(1e-6 * np.eye(len(theta))):
            numeric = (residuals(theta + step)[0] - residuals(theta - step)[0]) / 2e-6
            np.testing.assert_allclose(slopes[:, k], numeric, atol=1e-7)


@pytest.fixture(scope="module")
def fitted():
    return fit_distillation_law(runs(), draws=20)


def test_a_fit_recovers_the_law_that_made_its_points(fitted):
    for size, tokens, teacher in ((4e8, 1.2e10, 2.2), (8e8, 4.8e10, 2.05), (2e9, 8e10, 2.0)):
        truth = PUBLISHED.predict(size, tokens, teacher)
        found = fitted.predict(size, tokens, teacher)
        assert found.value == pytest.approx(truth, rel=0.01)
        assert found.low < found.value < found.high
    assert fitted.noise == pytest.approx(0.002, rel=0.5)
    assert fitted.intervals["c0"].holds(PUBLISHED.c0)
    best = fitted.best_teacher(6e8, 5e10)
    assert best.low < PUBLISHED.best_teacher(6e8, 5e10) < best.high


def test_held_out_cells_are_predicted_better_with_a_capacity_gap(fitted):
    assert fitted.held_out.gap_helps
    assert fitted.held_out.error < 0.005
    assert fitted.held_out.cells == 12


def test_the_supervised_fit_recovers_its_law():
    found = fit_supervised_law(runs(), draws=5)
    assert found.predict(5e8, 2e10).value == pytest.approx(TEXT.predict(5e8, 2e10), rel=0.003)
    assert found.points == 25


def test_a_fit_of_too_few_points_names_what_is_missing():
    with pytest.raises(BadPoints, match=r"8 points without a teacher, of 3 sizes.*there are 4"):
        fit_distillation_law(runs()[:4])
    with pytest.raises(BadPoints, match=r"9 distilled points.*3 teachers; there are 5, of 1, 1 and 5"):
        fit_distillation_law(runs()[:30])


def test_a_fit_that_does_not_converge_brings_the_best_it_saw(monkeypatch):
    monkeypatch.setattr(fitting, "_EVALUATIONS", 1)
    stopped = partial(fitting.minimize, options={"maxiter": 1})  # far from an optimum, on any processor
    monkeypatch.setattr(fitting, "minimize", lambda *given, options=None, **named: stopped(*given, **named))
    with pytest.raises(NotConverged, match="no optimum from 8 starts") as stop:
        fit_supervised_law(runs(), draws=2)
    assert set(stop.value.best) == {"A", "B", "E", "alpha", "beta", "gamma"}
    assert stop.value.status == 1


def test_a_ratio_fit_recovers_the_line_of_its_optima():
    found = fit_ratio_law(valley())
    assert [v.kind for v in found.valleys] == ["optimum"] * 3
    assert found.slope.holds(2.5)
    assert found.slope.high - found.slope.low < 0.6
    assert found.r2 > 0.98
    assert found.best_teacher(3e6).value == pytest.approx(7.5e6, rel=0.1)
    assert found.predict(3e6, 30e6) == pytest.approx(0.05 * math.log(4) ** 2, rel=0.3)


def test_a_flat_valley_is_called_flat_with_the_dip_that_it_excludes():
    found = fit_ratio_law(valley(curvature=0.0))
    assert found.flat
    assert found.slope is None
    assert found.best_teacher(1e6) is None
    assert found.predict(1e6, 2e6) is None
    for one in found.valleys:
        assert 0.001 < one.detectable_nats < 0.01
        assert "flat, any teacher will do; a dip of" in str(one)


def test_a_dip_of_the_detectable_depth_is_found_in_four_of_five_fits():
    flat = [fit_ratio_law(valley(curvature=0.0, seed=100 + seed), draws=10) for seed in range(20)]
    limit = np.mean([v.detectable_nats for found in flat for v in found.valleys])
    half = math.log(10 / 1.25) / 2
    seen = [
        v.curvature.low > 0
        for seed in range(40)
        for v in fit_ratio_law(valley(curvature=limit / half**2, slope=3.5, seed=seed), draws=10).valleys
    ]
    assert 0.6 < np.mean(seen) < 0.97


@pytest.mark.parametrize(("tilt", "kind"), [(-0.05, "falling"), (0.05, "rising")])
def test_a_slope_from_end_to_end_has_no_optimum(tilt, kind):
    found = fit_ratio_law(valley(curvature=0.001, tilt=tilt, noise=0.001))
    assert {v.kind for v in found.valleys} == {kind}
    assert found.slope is None


def test_a_ratio_fit_refuses_mixtures_and_too_little():
    points = valley()
    with pytest.raises(BadPoints, match="one arm"):
        fit_ratio_law([*points, Point(1e6, 2e7, 3.0, 2e6, 2.0, arm="cut")])
    with pytest.raises(BadPoints, match="different numbers of tokens"):
        fit_ratio_law([*points, Point(1e6, 4e7, 3.0, 2e6, 2.0)])
    with pytest.raises(BadPoints, match="5 distilled points of 3 teachers"):
        fit_ratio_law(points[:4])


def test_a_bound_that_is_not_there_is_infinite():
    one = Estimate.of(3.0, np.array([1.0, 2.0, np.inf, np.inf]))
    assert one.high == np.inf
    assert one.holds(1e30)


@pytest.mark.parametrize("name", ["points.parquet", "points.json"])
def test_a_table_of_points_comes_back_and_failed_runs_are_listed(tmp_path, name):
    points = runs()[20:40]
    failed = Point(1e6, 2e7, math.nan, 5e6, 2.0, seed=7)
    write_points([*points, failed], tmp_path / name)
    table = read_points(tmp_path)
    assert list(table.points) == points
    assert table.skipped == ("row 21: student_loss is missing (student 1,000,000, teacher 5,000,000, fresh, seed 7)",)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"student_params": 1e6}, "row 1 has no student_tokens, student_loss"),
        ({"student_params": "1M", "student_tokens": 1, "student_loss": 1}, "student_params is a number, got '1M'"),
        ({"student_params": -1, "student_tokens": 1, "student_loss": 1}, "student_params is above 0"),
        ({"student_params": 1, "student_tokens": 1, "student_loss": 1, "arm": "new"}, "arm is cut or fresh, got 'new'"),
    ],
)
def test_a_bad_row_is_named(row, message):
    with pytest.raises(BadPoints, match=message):
        sift([row], name="pilot")


def test_a_missing_table_or_other_file_is_an_error(tmp_path):
    with pytest.raises(BadPoints, match="no such table"):
        read_points(tmp_path / "nothing")
    with pytest.raises(BadPoints, match=r"expected points\.parquet or points\.json in it"):
        read_points(tmp_path)
    (tmp_path / "points.parquet").write_text("no parquet")
    with pytest.raises(BadPoints, match="expected a table of points in Parquet"):
        read_points(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'[{"seed": 1}', "expected JSON"),
        (b"[" * 100_000, "expected JSON"),
        (b"\xff", "expected JSON"),
        (b'{"seed": 1}', "expected `array`, got `object`"),
        (b"[1]", r"expected `object`, got `int` - at `\$\[0\]`"),
    ],
)
def test_json_that_is_not_a_table_is_an_error(text, message, tmp_path):
    (tmp_path / "points.json").write_bytes(text)
    with pytest.raises(BadPoints, match=rf"points\.json: {message}.*write it with limbeck"):
        read_points(tmp_path)


def test_the_cheapest_teacher_within_epsilon_is_the_answer():
    answer = by_published_law(task("3B", 3e9, 126e9, paid=False, teacher_tokens=2e12), models(7e9, 13e9, 70e9))
    assert (answer.verdict, answer.cheapest) == ("any", "7B")
    assert answer.best == "13B"


def test_where_the_teacher_is_paid_cross_entropy_sees_more_tokens_and_may_win():
    paid = by_published_law(task("3B", 3e9, 126e9, teacher_tokens=2e12), models(7e9, 70e9))
    assert paid.verdict == "cross-entropy"
    assert "distilling does not pay here: train with cross-entropy" in paid.said
    row = paid.rows[1]
    assert row.flops == pytest.approx(4.03e21, rel=0.002)  # 6 N_S D + 2 N_T D, as in arXiv 2311.07052's table
    assert row.alone_tokens == pytest.approx(126e9 * (1 + 7 / 9))
    free = by_published_law(task("3B", 3e9, 126e9, paid=False, teacher_tokens=2e12), models(7e9, 70e9))
    assert all(r.alone_tokens == 126e9 for r in free.rows)


def test_the_cheapest_teacher_is_the_one_that_costs_least_not_the_smallest():
    """Of a mixture of experts a token is multiplied with few of the weights."""
    shapes = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256, "head_dim": 16}
    experts = {"num_experts": 32, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "intermediate_size": 64}
    mixed = Size.of(AutoConfig.for_model("qwen3_moe", num_hidden_layers=4, **experts, **shapes))
    dense = Size.of(AutoConfig.for_model("qwen3", num_hidden_layers=8, intermediate_size=256, **shapes))
    models = [Model.of_size("dense", dense), Model.of_size("mixed", mixed)]
    assert dense.parameters < mixed.parameters
    assert dense.multiplied > mixed.multiplied
    answer = by_loss("law", task("1M", 1e6, 1e8), models, LogLaw(), {"mixed": 2.0, "dense": 2.0}, None, ())
    assert answer.cheapest == "mixed"


class LogLaw:
    """A law: cross-entropy gains a nat for each e-fold of tokens, and a student of any teacher is 0.4 nats better."""

    def predict(self, parameters, tokens, teacher_loss):
        return Estimate(40 - math.log(tokens) - 0.4, 0, 0)

    def predict_alone(self, parameters, tokens):
        return Estimate(40 - math.log(tokens), 0, 0)


def test_a_plan_has_the_number_of_uses_from_which_a_pass_pays():
    """0.4 nats are worth exp(0.4) = 1.49 times the tokens; a teacher of 3 times the student costs a step a pass."""
    teachers = [Model.of_count(name, size) for name, size in (("3B", 3e9), ("1B", 1.2e9))]

    def rows(**changes):
        answer = by_loss("law", task("1B", 1e9, 1e10, **changes), teachers, LogLaw(), {"3B": 2.0, "1B": 2.0}, None, ())
        return {row.teacher: row for row in answer.rows}

    once = rows()
    assert once["3B"].break_even == pytest.approx(1 / (math.exp(0.4) - 1), rel=1e-9)
    assert once["1B"].break_even == 1  # 1.4 times the tokens are worth less
    assert once[None].break_even is None
    assert once["3B"].gain == pytest.approx(0.4 - math.log(2))
    often = rows(uses=10.0)
    assert often["3B"].gain == pytest.approx(0.4 - math.log(1.1))
    assert often["3B"].flops == pytest.approx(1e10 * (6 * 1e9 + 2 * 3e9 / 10))
    assert often["3B"].break_even == once["3B"].break_even
    assert rows(paid=False)["3B"].break_even is None


def test_no_number_of_uses_is_enough_for_a_teacher_that_does_not_help():
    alone = LogLaw()
    alone.predict = lambda parameters, tokens, teacher_loss: Estimate(41 - math.log(tokens), 0, 0)
    answer = by_loss("law", task("1B", 1e9, 1e10), [Model.of_count("3B", 3e9)], alone, {"3B": 2.0}, None, ())
    assert answer.rows[1].break_even == math.inf


def test_what_the_published_runs_did_not_have_is_called_extrapolated():
    assert any("extrapolated" in note for note in by_published_law(task(), models(32e9)).notes)
    assert not any("extrapolated" in note for note in by_published_law(task(), models(MEASURED[1])).notes)
    assert "0.6B" not in by_published_ratio(task(), models(0.6e9, 1.5e9, 4e9)).said
    assert by_published_ratio(task(), models(0.6e9, 1.5e9, 4e9)).best == "1.5B"


def test_gpus_are_found_by_name_and_by_memory():
    assert gpu("rtx 4090") is gpu("RTX-4090") is gpu("NVIDIA RTX4090")
    assert gpu("h200").memory == 141e9
    assert stand_in(24e9).name == "L4"
    with pytest.raises(BadSetting, match="unknown GPU 'h100'; it may be H100-SXM or H100-PCIe"):
        gpu("h100")
    with pytest.raises(BadSetting, match="it may be L40S"):
        gpu("L40")
