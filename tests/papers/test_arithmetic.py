"""The recipe arithmetic: what it draws, writes and completes; its trainer; each verdict from made-up numbers."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

import limbeck
from limbeck.corpora.tasks.arithmetic import FORMATS, Sum, question
from limbeck.errors import BadSetting
from limbeck.papers.arithmetic import recipe as arithmetic
from limbeck.papers.arithmetic import sums
from limbeck.papers.arithmetic.completion import by_rank_two, by_sums
from limbeck.papers.arithmetic.recipe import SCALES, Jump, Scale
from limbeck.papers.arithmetic.sums import Cell, answer_of, questions_of, training_pairs, unseen_pairs
from limbeck.papers.lab import lines, trainings
from limbeck.papers.lab.recipe import RecipeContext
from limbeck.papers.lab.trainings import Trainings
from tests.helpers.reproduced import here, reproduced_twice

CELL = Cell("tiny", "plain", 40, (6, 12), 3e-3, 0, width=16, heads=2, step_tokens=200, digits=2, tested=20)


# Sums


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("a", "b"), [(0, 0), (7, 5), (128, 367), (999, 999), (4321, 8)])
def test_a_generated_sum_is_read_as_its_number(form, a, b):
    assert answer_of(question(Sum(a, b, 3), form).answer, form) == a + b


@pytest.mark.parametrize("text", ["", "\n", "12x\n", "²\n", "A->1 , C->0.\n"])
def test_what_is_no_number_is_none(text):
    assert answer_of(text, "simplified") is None


def test_fewer_sums_of_a_seed_are_the_first_of_more():
    many = training_pairs(3, 6000, digits=3)
    assert len(np.unique(many, axis=0)) == 6000
    assert np.array_equal(training_pairs(3, 700, digits=3), many[:700])
    assert not np.array_equal(training_pairs(4, 700, digits=3), many[:700])


def test_test_sums_are_in_training_in_neither_order():
    known = training_pairs(0, 3000, digits=2)
    asked = unseen_pairs(0, known, digits=2, n=500)
    told = {tuple(pair) for pair in known.tolist()} | {tuple(pair[::-1]) for pair in known.tolist()}
    assert not told & {tuple(pair) for pair in asked.tolist()}
    assert len(np.unique(asked, axis=0)) == 500


@pytest.mark.parametrize("form", FORMATS)
def test_answers_and_their_end_are_targets(form):
    pairs = np.array([[3, 4], [98, 7]])
    questions = questions_of(pairs, replace(CELL, form=form))
    batch = lines.lines_of(questions)
    for row, (a, b) in enumerate(pairs.tolist()):
        said = batch.targets[row][batch.weight[row] > 0].tolist()
        assert bytes(said) == question(Sum(a, b, 2), form).answer.encode() + b"\0"
    whole = lines.lines_of(questions, whole_line=True)
    text = question(Sum(3, 4, 2), form)
    assert whole.weight[0].sum() == len(text.prompt) + len(text.answer)  # all but the first, and the end


def test_generation_is_greedy_after_the_whole_text():
    model = lines.new_decoder(CELL)
    prompts = ["11+2=", "3+4=", "1+12="]
    for prompt, text in zip(prompts, lines.greedy(model, prompts, most=5), strict=True):
        tokens = torch.tensor([list((prompt + text).encode())])
        logits = model.model(input_ids=tokens).logits[0, len(prompt) - 1 :].argmax(-1).tolist()
        assert logits[: len(text)] == list(text.encode())


# Training


def test_the_same_cell_ends_with_the_same_numbers():
    first = sums.train(CELL)
    assert first == sums.train(CELL)
    assert first["nats"] != sums.train(replace(CELL, seed=1))["nats"]
    assert set(first["by_steps"]) == {"6", "12"}


def test_a_longer_training_holds_the_shorter():
    short = sums.train(replace(CELL, steps=(6,)))
    assert sums.train(CELL)["by_steps"]["6"] == short["by_steps"]["6"]


def test_training_learns():
    nats = [sums.train(replace(CELL, samples=1000, steps=(steps,), rate=1e-2))["nats"] for steps in (1, 80)]
    assert nats[1] < 0.7 * nats[0]


def test_solved_sums_end_a_training(monkeypatch):
    monkeypatch.setattr(lines, "SOLVED", 0.0)
    monkeypatch.setattr(lines, "LOOK", 4)
    found = sums.train(replace(CELL, digits=1, samples=20))
    assert found["trained_steps"] == 4
    assert set(found["by_steps"]) == {"6", "12"}


def test_a_loss_that_is_no_number_ends_a_training():
    found = sums.train(replace(CELL, rate=1e30))
    assert found["failed"]
    assert found["trained_steps"] < 12
    assert set(found["by_steps"]) == {"6", "12"}


def test_formats_train_on_as_many_tokens():
    plain, simplified = (
        sums.train(replace(CELL, form=form, step_tokens=2000, steps=(1,), tested=2)) for form in ("plain", "simplified")
    )
    for found in (plain, simplified):
        assert found["rows"] * found["tokens"] / 40 == pytest.approx(2000, rel=0.1)
    assert plain["rows"] > 4 * simplified["rows"]


# Completion


def every(size):
    return np.array(list(product(range(size), repeat=2)))


def closure(known, size):
    """By hand: every 3 x 3 block with eight entries gets its ninth, until none is left."""
    have = {tuple(pair) for pair in known.tolist()}
    lines = [(i, j, k) for i, j, k in product(range(size), repeat=3) if i < j < k]
    while True:
        blocks = [set(product(rows, columns)) for rows, columns in product(lines, repeat=2)]
        new = set().union(*(block - have for block in blocks if len(block - have) == 1))
        if not new:
            return have
        have |= new


def test_two_rows_and_two_columns_give_all_of_a_table_of_rank_two():
    cross = np.array([pair for pair in every(6).tolist() if min(pair) < 2])
    assert by_rank_two(cross, every(6)) == 36
    assert by_rank_two(cross[:-1], every(6)) == 31  # the last row keeps one entry, which is not enough


@pytest.mark.parametrize("seed", range(6))
def test_rank_two_finds_no_more_than_all_blocks_give_and_all_that_one_grows_to(seed):
    generator = np.random.default_rng(seed)
    known = every(6)[generator.random(36) < 0.6]
    found, most = by_rank_two(known, every(6)), len(closure(known, 6))
    assert len(known) <= found <= most
    assert found == most or most < 36


def test_sums_follow_from_one_row_and_one_column():
    tree = np.array([pair for pair in every(6).tolist() if min(pair) == 0])
    assert by_sums(tree, every(6)) == 36
    assert by_sums(tree[tree[:, 0] != 3], every(6)) == 30
    assert by_rank_two(tree, every(6)) == len(tree)


# The whole

TINY = Scale(("plain", "simplified"), (20, 40), (10,), (60,), 2, (1e-3, 1e-2), 20, 2, replace(CELL, tested=6))


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arithmetic")
    lost = "trainings/cells/plain-n40-seed1/result.json"
    return reproduced_twice("arithmetic", folder / "out", scales=SCALES, tiny=TINY, lost=lost)


@pytest.mark.long
def test_a_page_has_claims_and_criteria(twice):
    page = (twice[3] / "README.md").read_text()
    assert page.count("Confirmed: ") == len(twice[0]["judged"]) == 3
    assert all(one["verdict"] == "inconclusive" for one in twice[0]["judged"])
    assert (twice[3] / "samples.png").stat().st_size > 0
    assert (twice[3] / "tokens.png").stat().st_size > 0
    assert page.count("With fewer than 3 seeds: inconclusive.") == len(twice[0]["judged"])


@pytest.mark.long
def test_a_lost_cell_alone_is_trained_again(twice):
    first, again, kept, _ = twice
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert [one["seen"] for one in again["judged"]] == [one["seen"] for one in first["judged"]]


@pytest.mark.long
def test_plain_is_read_twice_and_scratchpads_after_as_many_steps(twice):
    formats = twice[0]["numbers"]["formats"]
    assert set(formats["plain"]["20"][0]["by_steps"]) == {"2", "4"}
    assert set(formats["simplified"]["20"][0]["by_steps"]) == {"4"}
    assert set(formats["simplified"]) == {"20", "40"}
    assert set(twice[0]["numbers"]["rates"]) == {"plain", "simplified"}


@pytest.mark.long
def test_plain_alone_is_trained_on_fewer_sums_and_read_once(twice):
    numbers, seen = twice[0]["numbers"], [one["seen"] for one in twice[0]["judged"]]
    assert set(numbers["formats"]["plain"]) == {"10", "20", "40"}
    assert all(set(one["by_steps"]) == {"2"} for one in numbers["formats"]["plain"]["10"])
    assert set(numbers["completed"]["rank two"]) == {"10", "20", "40", "60"}
    assert " at 10," not in seen[0]  # the formats are compared where all are trained
    assert seen[1].count(" at 10,") == 2


def test_cells_of_the_scale_small_stay_what_they_were():
    small = SCALES["small"]
    names = [arithmetic._cell(small, "plain", n, 1e-3, 100).name for n in arithmetic.samples_of(small, "plain")]
    assert names == [f"plain-n{n}-seed100" for n in (500, 1000, 2000, 4000)]
    assert arithmetic._cell(small, "plain", 2000, 1e-3, 100).steps == (1400, 2800)
    assert arithmetic._cell(small, "plain", 500, 1e-3, 100).steps == (1400,)
    assert arithmetic.samples_of(small, "reverse") == (2000, 4000)


def _tuned(cell, device):
    nats = {1e-3: math.nan, 1e-2: 0.5}[cell.rate]  # a loss that is no number is null where it is kept
    return {"failed": False, "nats": nats}


def test_a_rate_that_ends_in_no_number_is_the_worst(tmp_path, monkeypatch):
    monkeypatch.setattr(trainings, "run_here", here)
    bench = Trainings(RecipeContext(tmp_path, "smoke", None, 0, 1, 1, "cpu"), _tuned)
    assert arithmetic._rates(bench, TINY, 0) == {"plain": 1e-2, "simplified": 1e-2}


def _diverged(cell, device):
    tested = {"right": 0, "longer_right": 0, "n": 6}
    found = {"parameters": 1, "tokens": 100, "rows": 1, "trained_steps": 1, "nats": 1.0}
    return found | {"failed": cell.form == "plain", "by_steps": {str(at): tested for at in cell.steps}}


def test_where_plain_diverged_nothing_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(trainings, "run_here", here)
    monkeypatch.setattr(arithmetic, "train", _diverged)
    monkeypatch.setitem(SCALES, "smoke", TINY)
    judged = arithmetic.run(RecipeContext(tmp_path, "smoke", None, 0, 3, 1, "cpu")).judged
    assert [one.verdict for one in judged] == ["inconclusive"] * 3
    assert all("all trainings of one of the kinds diverged" in one.criterion for one in judged)
    told = [one.seen.partition("Diverged, and judged by the weights before that: ")[2] for one in judged]
    assert told == ["plain 6 of 6, plain, twice the steps 6 of 6.", "plain 9 of 9.", "plain 3 of 3."]


@pytest.mark.recipe
def test_the_recipe_runs(tmp_path):
    found = limbeck.reproduce("arithmetic", scale="smoke", out=tmp_path / "out", seeds=2, workers=1, device="cpu")
    assert found["cpu_seconds"] < 60


def test_text_is_refused(tmp_path):
    with pytest.raises(BadSetting, match="arithmetic draws its own sums"):
        limbeck.reproduce("arithmetic", scale="smoke", data="x.txt", out=tmp_path / "out")


# Judging

NEVER, LATE, SOON = ({1000: [x] * 3, 2000: [y] * 3, 4000: [z] * 3} for x, y, z in
                     [(0.1, 0.3, 0.6), (0.1, 0.6, 0.97), (0.4, 0.97, 0.99)])  # fmt: skip
AT_ONCE = {n: [0.99] * 3 for n in NEVER}


@pytest.mark.parametrize(
    ("found", "plain", "twice_the_steps", "verdict"),
    [
        (SOON, LATE, LATE, "confirmed"),
        (SOON, NEVER, NEVER, "confirmed"),
        (SOON, LATE, SOON, "refuted"),  # plain catches up
        (LATE, LATE, LATE, "refuted"),
        (NEVER, LATE, LATE, "refuted"),
        (AT_ONCE, AT_ONCE, AT_ONCE, "inconclusive"),  # half of the fewest was not tried
        (AT_ONCE, LATE, AT_ONCE, "inconclusive"),
        (LATE, {n: [LATE[n][0], LATE[n][0], 0.99] for n in LATE}, LATE, "inconclusive"),  # one seed is enough
        (LATE, NEVER, NEVER, "inconclusive"),  # plain might be next
        (NEVER, NEVER, NEVER, "inconclusive"),
        ({n: [SOON[n][0], SOON[n][0], LATE[n][0]] for n in SOON}, LATE, LATE, "inconclusive"),  # seeds differ
    ],
)
def test_a_format_is_judged_by_the_samples_it_takes(found, plain, twice_the_steps, verdict):
    assert arithmetic.judge_samples("reverse", found, plain, twice_the_steps, tokens="").verdict == verdict


SMALL, EARLY = {1000: [0.0] * 3, 4000: [0.1] * 3}, {1000: [0.9] * 3, 4000: [1.0] * 3}
LATER = {1000: [0.0] * 3, 4000: [0.0] * 3, 6000: [0.9] * 3}
FAR = {1000: [0.0] * 3, 5000: [0.0] * 3, 8000: [0.9] * 3}
MIXED = {1000: [0.0] * 3, 4000: [0.9, 0.9, 0.1]}


@pytest.mark.parametrize(
    ("plain", "completed", "verdict"),
    [
        (LATE, LATE, "confirmed"),
        (LATE, SOON, "confirmed"),
        (SOON, NEVER, "inconclusive"),  # 1,000 to 2,000 beside 2,000 to 4,000: a factor of one to four
        (SOON, FAR, "refuted"),
        (FAR, SOON, "refuted"),
        (NEVER, EARLY, "refuted"),
        (NEVER, MIXED, "inconclusive"),
        (SMALL, SMALL, "inconclusive"),
        (EARLY, EARLY, "inconclusive"),  # both are below, nobody knows where
        (EARLY, SOON, "inconclusive"),  # perhaps just below
        (LATER, SMALL, "inconclusive"),  # perhaps just above
        (EARLY, SMALL, "refuted"),  # at most 1,000 and more than 4,000
    ],
)
def test_plain_is_judged_beside_completion(plain, completed, verdict):
    assert arithmetic.judge_completion(plain, completed).verdict == verdict


def test_a_jump_is_between_two_neighbours_of_what_was_tried():
    first, second = arithmetic.jump_at({500: [0.0, 0.0], 1000: [0.0, 0.5], 4000: [1.0, 0.2]})
    assert (first, second) == (Jump(1000, 4000), Jump(500, 1000))
    assert str(first) == "1,000 to 4,000"


def test_a_jump_outside_of_what_was_tried_has_one_bound():
    below, above = arithmetic.jump_at({1000: [0.9, 0.0], 4000: [1.0, 0.4]})
    assert below == Jump(0, 1000)
    assert above == Jump(4000, math.inf)
    assert [str(below), str(above)] == ["at most 1,000", "more than 4,000"]
    assert "plain at most 1,000 / at most" in arithmetic.judge_completion(EARLY, SMALL).seen


@pytest.mark.parametrize(
    ("right", "same", "verdict"),
    [
        ([0, 0, 0], 0.9, "confirmed"),
        ([200, 200, 200], 0.9, "refuted"),
        ([50, 50, 50], 0.9, "inconclusive"),
        ([0, 0, 0], 0.2, "inconclusive"),
        ([0, 0, 200], 0.9, "inconclusive"),  # 6.7 % of all, by one seed alone
        ([0, 0, 60], 0.9, "inconclusive"),  # 2 % of all, and one seed may answer more
    ],
)
def test_longer_sums_are_judged_seed_by_seed_beside_those_of_training(right, same, verdict):
    found = arithmetic.judge_length({"plain": [(n, 1000) for n in right]}, {"plain": [same] * 3})
    assert found.verdict == verdict
    assert ("not counted" in found.seen) == (same < 0.5)
