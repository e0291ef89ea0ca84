"""The recipe specialize: the teacher's distribution, the lines of its arms, equal tokens or FLOPs, and the criteria."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

import limbeck
from limbeck.corpora.tasks.chains import steps_hold
from limbeck.corpora.tasks.spelled import Question
from limbeck.corpora.tasks.strategies import items_of
from limbeck.papers.lab import lines
from limbeck.papers.specialize import training
from limbeck.papers.specialize.judging import (
    Paid,
    judge_distribution,
    judge_price,
    judge_replay,
    judge_shots,
    judge_solutions,
)
from limbeck.papers.specialize.recipe import judged
from limbeck.papers.specialize.teacher import END, Expression, expressions, next_characters, operations
from limbeck.papers.specialize.training import (
    ALL_KL,
    AO,
    ARMS,
    BASE,
    DEARER,
    IC_NLL,
    KL,
    NLL,
    REPLAY,
    SKILLS,
    WORDING,
    Cell,
    Lines,
    Sets,
    base_lines,
    is_right,
    special_lines,
    train_cell,
)

CELL = Cell("one", NLL, 3, 1e-3, 6, 64, 8, 6, 2, 2, 4, 16, 1, 2)


def test_the_teacher_is_right_in_every_derivation_and_its_chances_are_known():
    for one in expressions(np.random.default_rng(5), 40):
        found = one.derivations()
        assert sum(found.values()) == pytest.approx(1)
        a, b, c, d = one.numbers
        ops = {"+": lambda x, y: x + y, "-": lambda x, y: x - y, "*": lambda x, y: x * y}
        left, right, outer = (ops[sign] for sign in one.operators)
        assert one.answer == str(outer(left(a, b) % 10, right(c, d) % 10) % 10)
        for text in found:
            steps, _, answer = text.rpartition("#")
            assert answer == one.answer
            assert all(steps_hold(f"{step};") for step in steps.split(";")[:-1])
    same = Expression((2, 2, 3, 1), ("+", "-", "*")).derivations()
    assert same["2+2=4;3-1=2;4*2=8;#8"] == pytest.approx(
        0.6 * 0.7
    )  # numbers of a sum that are equal have no other order
    assert len(same) == 4


def test_next_characters_are_the_conditionals_of_the_distribution():
    found = Expression((3, 8, 5, 9), ("+", "*", "*")).derivations()
    for text, chance in found.items():
        after = list(next_characters(found, text))
        assert all(sum(one.values()) == pytest.approx(1) for one in after)
        assert np.prod([one[sign] for one, sign in zip(after, text + END, strict=True)]) == pytest.approx(chance)


def test_soft_targets_of_one_derivation_are_the_lines_loss():
    model = lines.new_decoder(CELL)
    questions = [Question("(3+8)*(5-9)~", "3+8=1;5-9=6;1*6=6;#6"), Question("7~", "#7")]
    rows = torch.arange(2)
    hard = Lines.of(questions).loss(model, rows, "cpu")
    soft = Lines.soft(questions, [{one.answer: 1.0} for one in questions]).loss(model, rows, "cpu")
    torch.testing.assert_close(soft, hard)
    mixed = Lines.soft(questions[:1], [{questions[0].answer: 0.5, "5-9=6;3+8=1;1*6=6;#6": 0.5}])
    assert mixed.shares[0].sum(-1)[mixed.rows.weight[0] > 0].tolist() == pytest.approx([1.0] * 21)
    assert mixed.loss(model, rows[:1], "cpu") != Lines.of(questions[:1]).loss(model, rows[:1], "cpu")


def test_no_training_has_a_test_problem_and_tests_are_the_same_for_all_seeds():
    sets = Sets.of(CELL)
    assert Sets.of(replace(CELL, seed=4)) == sets
    assert {one.question for one in sets.target}.isdisjoint(one.question for one in sets.shown)
    texts = [
        lines.text_of([token for token in row.tolist() if token])
        for pool in (*special_lines(replace(CELL, arm=ALL_KL), sets), *base_lines(CELL, sets))
        for row in pool.rows.tokens
    ]
    assert not [text for text in texts for question in sets.questions if question in text]


@pytest.mark.parametrize("arm", [BASE, REPLAY])
def test_a_base_and_replay_draw_others_in_place_of_test_problems(arm):
    cell = replace(CELL, arm=arm)
    items = items_of(np.random.default_rng([cell.seed, training._BASE]), cell.base_items, kinds=SKILLS)
    drawn = [training._problem(item) for item in items]  # what it would learn if nothing was tested
    sets = replace(Sets.of(cell), skills=drawn)
    texts = [
        lines.text_of([token for token in row.tolist() if token])
        for pool in base_lines(cell, sets)
        for row in pool.rows.tokens
    ]
    assert not [text for text in texts for one in drawn if one.question in text]


def test_arms_have_their_formats_and_only_solutions_are_soft():
    sets = Sets.of(CELL)
    for name, arm in ARMS.items():
        found = special_lines(replace(CELL, arm=name), sets)
        assert [pool.ids is not None for pool in found] == [arm.soft and kind.endswith("cot") for kind in arm.kinds]
        assert [len(pool.rows.tokens) for pool in found] == [6 if kind.endswith("ao") else 12 for kind in arm.kinds]
    (hard,), (soft,) = (special_lines(replace(CELL, arm=name), sets) for name in (NLL, KL))
    assert torch.equal(hard.rows.tokens, soft.rows.tokens)


def test_replay_has_one_step_in_ten_and_formats_take_turns():
    one, two, old = (Lines.of([Question("a", text)]) for text in ("b", "c", "d"))
    taken = list(islice(training._pools([one, two], [old]), 40))
    assert [step for step, pool in enumerate(taken, 1) if pool is old] == [10, 20, 30, 40]
    assert sum(pool is one for pool in taken) == sum(pool is two for pool in taken) == 18
    assert not any(pool is old for pool in islice(training._pools([one, two], []), 40))


def test_right_answers_are_read_off_any_text():
    problem = operations(np.random.default_rng(0), 1)[0]
    assert is_right(problem, "zs_ao", problem.answer)
    assert is_right(problem, "zs_cot", problem.solutions[0])
    assert not is_right(problem, "zs_cot", "")
    assert not is_right(problem, "zs_ao", problem.solutions[0])
    assert WORDING.ends("zs_ao") != WORDING.ends("zs_cot")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A base, and three of its specialisations."""
    folder = tmp_path_factory.mktemp("nets")
    names = (BASE, NLL, DEARER, REPLAY)
    cells = {name: replace(CELL, arm=name, name=f"{name}-seed3") for name in names}
    return {name: train_cell(cell, "cpu", folder=folder) for name, cell in cells.items()}


@pytest.mark.long
def test_cells_read_equal_tokens_or_cost_equal_flops(trained):
    plain, dearer = trained[NLL], trained[DEARER]
    assert plain["trained_steps"] == 6
    line = special_lines(CELL, Sets.of(CELL))[0].tokens
    assert plain["tokens"] == round(6 * round(64 / line) * line)
    assert dearer["trained_steps"] >= plain["trained_steps"]
    assert plain["learned"] == 6 * round(64 / line) * 21


@pytest.mark.long
def test_cells_are_measured_on_the_target_with_shots_and_on_all_skills(trained):
    for found in trained.values():
        assert (len(found["target"]), len(found["in_context"]), len(found["skills"])) == (4, 4, 8)
        assert 0 < found["text_nats"] < 6
        assert not found["failed"]


def right(share, seed=0, problems=400):
    """Right answers, other ones for each of three seeds; a larger share has those of a smaller one too."""
    return (np.random.default_rng(seed).random((3, problems)) < share).astype(float)


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [(0.6, 0.4, "confirmed"), (0.5, 0.5, "refuted"), (0.98, 0.97, "inconclusive"), (0.1, 0.1, "inconclusive")],
)
def test_solutions_and_shots_need_five_points_and_room(ours, theirs, verdict):
    assert judge_solutions(right(ours), right(theirs)).verdict == verdict
    assert judge_shots(right(ours), right(theirs)).verdict == verdict


@pytest.mark.parametrize(
    ("base", "special", "verdict"),
    [(0.9, 0.5, "confirmed"), (0.9, 0.9, "refuted"), (0.9, 0.95, "refuted"), (0.2, 0.1, "inconclusive")],
)
def test_a_price_is_two_points_of_skills_that_were_there(base, special, verdict):
    assert judge_price(right(base), right(special)).verdict == verdict


@pytest.mark.parametrize(
    ("replayed", "target", "verdict"),
    [
        (0.88, 0.8, "refuted"),  # nearly all of the loss is removed, at no cost
        (0.6, 0.8, "confirmed"),  # a quarter is removed
        (0.69, 0.8, "inconclusive"),  # the interval has half in it
        (0.78, 0.8, "inconclusive"),  # 70 % is removed, neither all of it nor little
        (0.82, 0.8, "inconclusive"),
        (0.88, 0.7, "inconclusive"),  # nearly all is removed, and the target pays for it
    ],
)
def test_replay_removes_the_price_or_little_of_it_or_neither_is_sure(replayed, target, verdict):
    found = judge_replay(Paid(right(0.9), right(0.5), right(replayed), right(0.8), right(target)))
    assert found.verdict == verdict


def test_without_a_price_nothing_is_said_of_it():
    same = right(0.9)
    assert judge_replay(Paid(same, same, same, right(0.8), right(0.8))).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("soft", "hard", "verdict"),
    [
        (0.7, 0.6, "confirmed"),
        (0.6, 0.7, "refuted"),
        (0.6, 0.6, "refuted"),
        (0.99, 0.99, "inconclusive"),
        (0.1, 0.1, "inconclusive"),
    ],
)
def test_the_distribution_needs_any_gain_that_is_sure(soft, hard, verdict):
    assert judge_distribution(right(soft), right(hard)).verdict == verdict


def test_each_claim_is_judged_by_its_arms():
    shares = {arm: {"target": 0.7, "in_context": 0.7, "skills": 0.5} for arm in ARMS} | {
        BASE: {"target": 0, "in_context": 0}
    }
    shares[BASE] |= {"skills": 0.9}
    shares[AO]["target"] = shares[DEARER]["in_context"] = 0.3
    shares[REPLAY]["skills"] = 0.89
    for arm in (KL, ALL_KL, REPLAY):
        shares[arm]["target"] = 0.75
    found = {
        arm: [
            {test: right(share)[seed].tolist() for test, share in tests.items()} | {"failed": False}
            for seed in range(3)
        ]
        for arm, tests in shares.items()
    }
    assert [one.verdict for one in judged(found)] == ["confirmed", "confirmed", "refuted", "confirmed", "confirmed"]
    found[IC_NLL] = [{**one, "failed": True} for one in found[IC_NLL]]
    assert [one.verdict for one in judged(found)][-1] == "inconclusive"


@pytest.mark.recipe
def test_the_recipe_runs_whole_and_again_from_its_cells(tmp_path):
    keys = {"out": tmp_path, "scale": "smoke", "seeds": 1, "workers": 1, "device": "cpu"}
    first = limbeck.reproduce("specialize", **keys)
    made = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("result.json")}
    assert len(made) == 1 + len(ARMS)
    again = limbeck.reproduce("specialize", **keys)
    assert {file: file.stat().st_mtime_ns for file in made} == made
    assert first.judged == again.judged
    assert "| all KL, replay |" in (tmp_path / "README.md").read_text(encoding="utf-8")
