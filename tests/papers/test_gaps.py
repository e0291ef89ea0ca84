"""The recipes taid-gap and minima: they run, they continue, and their criteria give each verdict where it belongs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

import limbeck
from limbeck.corpora import Rows, build_stores
from limbeck.corpora.document import Document
from limbeck.errors import BadSetting, NonFiniteLoss
from limbeck.jobs.common.task import RESULT
from limbeck.jobs.pilot.grid import Grid, Scale, TeacherPlan
from limbeck.jobs.pilot.tasks import Pilot
from limbeck.papers import recipe
from limbeck.papers.lab.cells import TrainedLadder, train_ladder
from limbeck.papers.lab.instructions import TEMPLATE, conversations, write_instructions
from limbeck.papers.lab.paired import gain, mean, nothing_in, slope
from limbeck.papers.lab.recipe import RecipeContext
from limbeck.papers.lab.search import doubtful
from limbeck.papers.minima import recipe as minima
from limbeck.papers.minima.strategies import LAW, Prices, Strategy, planned_teacher, strategies_of
from limbeck.papers.taid_gap import recipe as taid_gap
from limbeck.papers.taid_gap.judging import (
    INSTRUCTIONS,
    LEAST_CHECKS,
    PRETRAINING,
    Shifts,
    judge_best,
    judge_gap,
    judge_masses,
    judge_ramp,
)
from limbeck.probes.interval import Interval
from limbeck.students.shape import Shape
from tests.helpers.models import tokenizer, write_corpus

SCALE = Scale(12_000, 2.0, 3.0, 259, 32, 256, 1_024, 0.1, 50.0, 8)
TAID = taid_gap.Size(12_000, (18_000, 36_000), (1.0,), 0, 40, 4, 512, 512, SCALE)
MINIMA = minima.Size(12_000, 18_000, (24_000, 45_000, 90_000), 1_024, 512, (1.0,), 40, 4, SCALE)
CLAIMS = {"taid-gap": 7, "minima": 3}


def files(out):
    """What the trainings and tunings came to, with the times they were written."""
    found = [*out.glob(f"trainings/*/*/{RESULT}"), *out.glob("tuning/*/modules.npy"), *out.glob("mass/*/mass.npy")]
    return {path: path.stat().st_mtime_ns for path in found}


def reproduced(name, size, folder):
    """The same reproduction twice: its results, and the files before and after the second."""
    module = {"taid-gap": taid_gap, "minima": minima}[name]
    keys = {"scale": "smoke", "data": str(write_corpus(folder, 300)), "out": folder / "out", "seeds": 2, "workers": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(module.SIZES, "smoke", size)
        first = limbeck.reproduce(name, **keys)
        before = files(folder / "out")
        return first, limbeck.reproduce(name, **keys), before, files(folder / "out")


@pytest.fixture(scope="module")
def taid_twice(tmp_path_factory):
    return reproduced("taid-gap", TAID, tmp_path_factory.mktemp("taid"))


@pytest.fixture(scope="module")
def minima_twice(tmp_path_factory):
    return reproduced("minima", MINIMA, tmp_path_factory.mktemp("minima"))


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.recipe) for name in ("taid-gap", "minima")])
def twice(request):
    return request.param, request.getfixturevalue(f"{request.param.split('-')[0]}_twice")


def test_the_page_has_claim_criterion_verdict_cost_and_differences(twice):
    name, (first, *_) = twice
    page = Path(first["out"], "README.md").read_text()
    chosen = recipe(name)
    assert chosen.claim in page
    assert all(judged["criterion"] in page and judged["seen"] in page for judged in first["judged"])
    assert page.count("**inconclusive**") == len(first["judged"]) == CLAIMS[name]
    assert "**Cost.**" in page
    assert all(said in page for said in chosen.differences)
    assert "seeds)" in page
    assert len(list(Path(first["out"]).glob("*.png"))) == 1


def test_the_same_command_again_repeats_nothing_and_prints_the_same(twice):
    _, (first, again, before, after) = twice
    assert before == after
    assert len(before) > 20
    assert first["judged"] == again["judged"]
    assert first["numbers"] == again["numbers"]


@pytest.mark.recipe
def test_every_objective_has_the_same_trainings_and_its_own_rate(taid_twice):
    numbers = taid_twice[0]["numbers"]
    every = set(taid_gap.OBJECTIVES)
    assert set(numbers["lr_factor"]) == set(numbers["loss_nats_of_largest_teacher"]) == every
    assert set(numbers["loss_nats"]) == set(taid_gap.LADDER)
    assert all(np.shape(losses) == (2, 2) for losses in numbers["loss_nats"].values())
    assert numbers["student"]["tokens"] == 1_024
    tuned = numbers["instructions"]
    assert set(tuned["lr_factor"]) == set(tuned["answers_nats"]) == set(tuned["checks_passed"]) == every
    assert set(tuned["masses"]) == set(numbers["masses"]) == every | {"the teacher"}


@pytest.mark.recipe
def test_equal_flops_are_those_of_a_student_of_the_smallest_teacher(taid_twice):
    tokens = taid_twice[0]["numbers"]["tokens_at_equal_flops"]
    first, second = tokens[taid_gap.TAID]
    assert first == 1_024 > second
    assert tokens[taid_gap.SUPERVISED][0] > 1_024
    losses = taid_twice[0]["numbers"]
    same = [losses[kind]["TAID"] for kind in ("loss_nats", "loss_nats_at_equal_flops")]
    assert [row[0] for row in same[0]] == [row[0] for row in same[1]]  # the same trainings
    assert [row[1] for row in same[0]] != [row[1] for row in same[1]]


@pytest.mark.recipe
def test_a_teacher_beside_itself_has_no_divergence_and_its_mass_on_the_head(taid_twice):
    for masses in (taid_twice[0]["numbers"]["masses"], taid_twice[0]["numbers"]["instructions"]["masses"]):
        own = masses["the teacher"]
        assert own["kl"] == own["reverse_kl"] == 0
        assert own["head"] > 10 / 259  # more than at random, since they are its most probable
        assert 0 < own["tail"] < 1 / 5
        assert all(found["kl"] > 0 for name, found in masses.items() if name != "the teacher")


@pytest.mark.recipe
def test_only_ways_that_cost_no_more_are_on_the_frontiers_other_side(minima_twice):
    numbers = minima_twice[0]["numbers"]
    flops = numbers["flops"]
    assert numbers["plan"]["teacher"] == "t1"
    assert set(numbers["answers_less_law_nats"]) == {
        name for name in flops if name != LAW and flops[name] <= flops[LAW]
    }
    assert "largest teacher" not in numbers["answers_less_law_nats"]
    assert all(
        0.8 < flops[name] / flops[LAW] <= 1 for name in flops if "cross-entropy, equal" in name or "smaller" in name
    )
    assert all(np.isfinite(reading["value"]) for reading in numbers["answers_nats"].values())
    assert numbers["checks_law_less_others"].keys() == numbers["answers_less_law_nats"].keys()
    assert set(numbers["checks_passed"]) == {*flops, f"{LAW}, not tuned"}
    assert all(0 <= reading["value"] <= 1 for reading in numbers["checks_passed"].values())


# --- judging ----------------------------------------------------------------------------------------------------------


def interval(low, high):
    return Interval((low + high) / 2, low, high, 50)


WINS, LOSES, TIES, WIDE = interval(0.03, 0.05), interval(-0.05, -0.03), interval(-0.004, 0.004), interval(-0.2, 0.2)


@pytest.mark.parametrize(
    ("taid", "fkl", "skl", "ramp", "rising", "verdict"),
    [
        (WINS, WINS, WINS, WINS, True, "confirmed"),
        (WINS, WINS, WINS, TIES, True, "refuted"),
        (WINS, WINS, TIES, WINS, True, "refuted"),
        (WINS, LOSES, WINS, WINS, True, "refuted"),
        (LOSES, WINS, WINS, WINS, True, "refuted"),
        (WINS, WIDE, WINS, WINS, True, "inconclusive"),
        (WIDE, WINS, WINS, WINS, True, "inconclusive"),
        (WINS, WINS, WINS, WIDE, True, "inconclusive"),
        (WINS, WINS, WINS, WINS, False, "inconclusive"),
        (WINS, WINS, WINS, TIES, False, "inconclusive"),
    ],
)
def test_the_verdict_on_taid_and_the_size_of_the_teacher(taid, fkl, skl, ramp, rising, verdict):
    gap = judge_gap(taid, {"forward KL": fkl, "skew KL": skl}, ramp, LOSES, rising=rising, seeds=3)
    assert gap.verdict == verdict
    assert "50 documents, 3 seeds" in gap.seen
    assert ("do not get better" in gap.seen) != rising


@pytest.mark.parametrize("scene", [PRETRAINING, INSTRUCTIONS])
@pytest.mark.parametrize(("over", "verdict"), [(WINS, "confirmed"), (TIES, "refuted"), (WIDE, "inconclusive")])
def test_the_verdict_on_the_ramp(over, verdict, scene):
    judged = judge_ramp(over, scene, seeds=3)
    assert judged.verdict == verdict
    assert scene.where in judged.claim
    assert f"50 {scene.noun}, 3 seeds" in judged.seen


@pytest.mark.parametrize(
    ("others", "verdict"),
    [
        ([WINS, WINS], "confirmed"),
        ([WINS, TIES], "refuted"),
        ([LOSES, WIDE], "refuted"),
        ([WINS, WIDE], "inconclusive"),
        ([WINS, interval(-0.001, 2 * LEAST_CHECKS)], "inconclusive"),
        ([WINS, interval(0.001, LEAST_CHECKS / 2)], "confirmed"),  # little, but surely there
    ],
)
def test_the_verdict_on_taid_beside_all_baselines(others, verdict):
    judged = judge_best({str(i): other for i, other in enumerate(others)}, None, INSTRUCTIONS, seeds=3)
    assert judged.verdict == verdict


def test_cross_entropy_at_equal_flops_is_told_and_does_not_decide():
    judged = judge_best({"x": WINS}, LOSES, PRETRAINING, seeds=3)
    assert judged.verdict == "confirmed"
    assert "-0.0400 (-0.0500 to -0.0300) nats better than cross-entropy at equal FLOPs" in judged.seen


@pytest.mark.parametrize(
    ("shifts", "verdict"),
    [
        ((WINS, WINS, WINS, WINS), "confirmed"),
        ((WINS, WINS, WINS, TIES), "inconclusive"),
        ((TIES, WINS, WINS, WINS), "inconclusive"),
        ((WINS, WINS, WINS, LOSES), "refuted"),
        ((LOSES, WINS, WIDE, WINS), "refuted"),
    ],
)
def test_the_verdict_on_mode_averaging_and_collapse(shifts, verdict):
    assert judge_masses(Shifts(*shifts), PRETRAINING, seeds=3).verdict == verdict


def test_masses_are_compared_in_the_direction_of_the_paper():
    def masses(head, tail):
        return np.array(
            [[[head, tail, 0.0, 0.0, 2.0]] * 5] * 3
        )  # seeds, documents, columns; two predictions a document

    found = taid_gap._shifts(
        {"forward KL": masses(1.0, 0.5), "reverse KL": masses(1.5, 0.125), "TAID": masses(1.25, 0.25)}
    )
    assert [one.value for one in vars(found).values()] == [0.25, 0.1875, 0.125, 0.125]
    assert judge_masses(found, PRETRAINING, seeds=3).verdict == "confirmed"


@pytest.mark.parametrize(
    "judged",
    [
        judge_gap(WINS, {"x": WINS}, WINS, WINS, rising=True, seeds=2),
        judge_ramp(WINS, PRETRAINING, seeds=2),
        judge_best({"x": WINS}, None, PRETRAINING, seeds=2),
        judge_masses(Shifts(WINS, WINS, WINS, WINS), PRETRAINING, seeds=2),
        minima.judge_law(WINS, WINS, stronger=True, seeds=2),
        minima.judge_frontier({"x": WINS}, seeds=2),
        minima.judge_chat(WINS, {"x": WINS}, seeds=2),
    ],
)
def test_two_seeds_decide_nothing(judged):
    assert judged.verdict == "inconclusive"
    assert judged.seen.startswith("2 of the 3 seeds that decide; ")


@pytest.mark.parametrize(
    ("over", "verdict"), [(WINS, "confirmed"), (LOSES, "refuted"), (TIES, "refuted"), (WIDE, "inconclusive")]
)
def test_the_verdict_on_the_laws_teacher(over, verdict):
    judged = minima.judge_law(over, WIDE, stronger=True, seeds=3)
    assert judged.verdict == verdict
    weak = minima.judge_law(over, WIDE, stronger=False, seeds=3)
    assert weak.verdict == "inconclusive"
    assert weak.seen.endswith("the largest teacher is not the better model")
    assert "50 documents, 3 seeds" in judged.seen


@pytest.mark.parametrize(
    ("others", "verdict"),
    [
        ([WINS, TIES], "confirmed"),
        ([WINS, LOSES], "refuted"),
        ([LOSES, WIDE], "refuted"),
        ([WINS, WIDE], "inconclusive"),
        ([], "inconclusive"),
    ],
)
def test_the_verdict_on_the_frontier(others, verdict):
    assert minima.judge_frontier({str(i): other for i, other in enumerate(others)}, seeds=3).verdict == verdict


@pytest.mark.parametrize(
    ("raised", "others", "verdict"),
    [
        (WINS, [WINS, WINS], "confirmed"),
        (WINS, [WINS, TIES], "inconclusive"),
        (WINS, [WINS, LOSES], "refuted"),
        (LOSES, [WINS, WINS], "refuted"),
        (WIDE, [WINS, WINS], "inconclusive"),
        (WINS, [], "inconclusive"),
    ],
)
def test_the_verdict_on_the_tuned_student(raised, others, verdict):
    judged = minima.judge_chat(raised, {str(i): other for i, other in enumerate(others)}, seeds=3)
    assert judged.verdict == verdict
    assert "50 modules asked about, 3 seeds" in judged.seen


def test_a_gain_is_nothing_only_if_its_interval_is_below_what_matters():
    assert nothing_in(TIES, 0.01)
    assert nothing_in(LOSES, 0.01)
    assert not nothing_in(WIDE, 0.01)
    assert not nothing_in(interval(0.001, 0.004), 0.01)  # small, but there


def test_a_rate_at_an_end_of_those_tried_is_named():
    assert (
        doubtful({"a": 1.0, "b": 2.0, "c": 0.5}, (0.5, 1.0, 2.0))
        == " The best rate of b, c is at an end of those tried."
    )
    assert doubtful({"a": 1.0}, (0.5, 1.0, 2.0)) == doubtful({"a": 1.0}, (1.0,)) == ""
    assert doubtful({"a": 1.0, "b": 2.0}, (1.0, 2.0)) == ""  # of two each is at an end


# --- what is measured -------------------------------------------------------------------------------------------------


def ladder(slope_nats, *, sizes=(1e5, 2e5, 4e5), seeds=3, documents=40):
    """Losses that fall by so many nats a token for each doubling of the teacher; documents and seeds differ."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(50, 200, documents).astype(float)
    base = 2 + 0.3 * generator.normal(size=documents) + 0.01 * generator.normal(size=(seeds, 1))
    losses = np.stack(
        [base - slope_nats * np.log2(size / sizes[0]) for size in sizes], 1
    )  # (seeds, teachers, documents)
    return np.stack([losses * tokens, np.broadcast_to(tokens, losses.shape)], -1)


def test_a_slope_is_what_the_student_gains_as_its_teacher_doubles():
    sizes = [1e5, 2e5, 4e5]
    found = slope(ladder(0.02), sizes)
    assert found.value == pytest.approx(0.02)
    assert found.low == pytest.approx(found.high)
    assert slope(ladder(0.02), sizes, against=ladder(0.05)).value == pytest.approx(-0.03)


def test_a_gain_is_paired_by_seed_and_document():
    better, worse = ladder(0.1)[:, 1], ladder(0.1)[:, 0]
    found = gain(worse, better)
    assert found.value == pytest.approx(0.1)
    assert found.half < 1e-9 < mean(worse).half


# --- ways -------------------------------------------------------------------------------------------------------------

SMALLER, SMALL, LARGE = Shape(1, 16, 2, 2, 32), Shape(2, 16, 2, 2, 32), Shape(3, 24, 3, 3, 48)


@pytest.fixture
def work(tmp_path):
    rungs = tuple(TeacherPlan(f"t{i}", LARGE, 1_000) for i in range(3))
    return TrainedLadder(tmp_path, SCALE, (SMALLER, SMALL), rungs, 259, 1)


def test_equal_flops_are_spent_to_the_last_step(work):
    prices = Prices({SMALLER: 1.0, SMALL: 2.0}, {"t0": 3.0, "t1": 5.0, "t2": 20.0}, SCALE)
    found = strategies_of(work, prices, law="t1", tokens=10_000)
    assert next(iter(found)) == LAW
    first = found[LAW]
    assert first.tokens == 39 * 256  # whole steps
    assert prices.spent(first) == 3 * 5 * 64 * 32 + first.tokens * (3 * 2 + 5)
    for name, way in found.items():
        assert way.tokens % 256 == 0
        if "equal FLOPs" in name:
            more = prices.spent(replace(way, tokens=way.tokens + 256))
            assert prices.spent(way) <= prices.spent(first) < more
        else:
            assert way.tokens == first.tokens
    assert found["cut and cross-entropy, equal FLOPs"].tokens > first.tokens
    assert found["largest teacher, equal FLOPs"].tokens < first.tokens


def test_a_strategy_defines_its_training():
    assert Strategy("Of X, twice", SMALL, None, "ce", 512).cell(3, 2.0).name == "of-x-twice-seed3"
    fresh, cut = (Strategy("x", SMALL, teacher, "ce", 512).cell(0) for teacher in (None, "t1"))
    assert (fresh.arm, cut.arm, cut.teacher, cut.objective) == ("fresh", "cut", "t1", "CrossEntropy")


def test_a_ladder_whose_end_the_rule_names_is_refused(work, monkeypatch):
    said = {"planners": [{"planner": "ratio rule, published", "best": str(work.folder / "teachers" / "t2" / "model")}]}
    monkeypatch.setattr("limbeck.papers.minima.strategies.plan", lambda settings: said)
    with pytest.raises(BadSetting, match=r"the ratio rule names t2 for a student of .*, an end"):
        planned_teacher(work, tokens=1_000)


@pytest.fixture
def ended(tmp_path):
    """A bench, and what writes how a training of it ended, as if it had been done."""
    ground = RecipeContext(tmp_path, "smoke", str(write_corpus(tmp_path)), 0, 1, 1, "cpu")
    found = train_ladder(ground, SCALE, students=[12_000], teachers=[18_000])

    def end(kind, name, **facts):
        folder = found.folder / kind / name
        folder.mkdir(parents=True)
        (folder / RESULT).write_text(json.dumps({"cpu_seconds": 1.0} | facts))

    Pilot(Grid(found.teachers, ()), SCALE, "ForwardKL").write(found.folder)  # as every ladder with results has one
    end("teachers", "t0")
    return found, end


def test_a_student_that_came_to_no_end_ends_the_recipe(ended):
    found, end = ended
    cell = Strategy("x", found.students[0], None, "ce", 512).cell(0)
    end("cells", cell.name, loss=None, failed="loss nan nats")
    with pytest.raises(NonFiniteLoss, match=r"x-seed0: loss nan nats"):
        found.train([cell])


def test_the_rate_of_each_kind_is_that_of_the_lowest_loss_and_never_one_that_diverged(ended):
    found, end = ended
    kinds = {name: Strategy(name, found.students[0], None, "ce", 512).cell(7) for name in ("x", "y")}
    for name, factor, loss in [("x", 1, 2.5), ("x", 2, 2.4), ("y", 1, 2.5), ("y", 2, None)]:
        end("cells", f"{name}-seed7-rate{factor}", loss=loss)
    assert found.rates(kinds, (1.0, 2.0)) == {"x": 2.0, "y": 1.0}
    assert found.rates(kinds, (0.5,)) == {"x": 0.5, "y": 0.5}


# --- instructions -----------------------------------------------------------------------------------------------------

SOURCE = '''
"""A module."""
def join(a, *p, sep="/"):
    """Join the parts. Empty ones go."""
class Part:
    """A part of it"""
    def cut(self): "Cuts."
    def _hidden(self): """Not shown to anyone."""
def bare(): pass
'''


def test_questions_are_about_public_names_with_docstrings():
    asked = {
        row["messages"][0]["content"]: row["messages"][1]["content"]
        for row in conversations(Document("os.path", SOURCE))
    }
    assert asked == {
        "What does os.path.join do?": "Join the parts.",
        "How is os.path.join called?": "join(a, *p, sep='/')",
        "What does os.path.Part do?": "A part of it",
    }


@pytest.mark.long
def test_instructions_are_the_same_again_and_only_their_answers_are_learned(tmp_path):
    learn, held_out = write_instructions(tmp_path / "a", modules=40)
    again = write_instructions(tmp_path / "b", modules=40)
    assert [file.read_bytes() for file in again] == [learn.read_bytes(), held_out.read_bytes()]
    about = [
        {json.loads(line)["module"].split(".")[0] for line in file.read_text().splitlines()}
        for file in (learn, held_out)
    ]
    assert not about[0] & about[1]
    speaks: PreTrainedTokenizerFast = tokenizer()
    speaks.chat_template = TEMPLATE
    train, _ = build_stores(str(learn), speaks, tmp_path / "data", eval_source=str(held_out))
    batch = Rows(train, length=train.tokens - 1).take(1)
    first = json.loads(learn.read_text().splitlines()[int(train.name_of(0).rpartition(":")[2]) - 1])
    inside = (batch.document[0] == 0) & (batch.weight[0] > 0)
    assert speaks.decode(batch.targets[0][inside]) == f" {first['messages'][1]['content']}<|eos|>"
