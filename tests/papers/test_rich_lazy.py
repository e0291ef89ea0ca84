"""The recipe rich-lazy: networks and starts are what they claim, criteria give each verdict."""

import pytest
import torch

import limbeck
from limbeck.models.build import new_model
from limbeck.papers.lab.paired import t_interval
from limbeck.papers.rich_lazy.judging import judge_moved, judge_selector, judge_tangent
from limbeck.papers.rich_lazy.networks import CHOICE, MATCH, NetworkCell, change, start_of, trials
from limbeck.papers.rich_lazy.starts import averaged
from limbeck.students.prune import prune
from limbeck.students.score import score
from limbeck.students.shape import Shape
from tests.helpers.zoo import animal, packed


def cell(rank, seed=0):
    return NetworkCell("a network", CHOICE, rank, 12, 0.3, 5, 20, seed)


def test_starts_have_their_rank_and_one_size():
    starts = {rank: start_of(cell(rank), torch.Generator().manual_seed(0)) for rank in (2, 12)}
    for rank, weights in starts.items():
        assert int(torch.linalg.matrix_rank(weights["recurrent"])) == rank
    assert torch.allclose(starts[2]["recurrent"].norm(), starts[12]["recurrent"].norm())
    assert torch.equal(starts[2]["input"], starts[12]["input"])


@pytest.mark.parametrize("task", [CHOICE, MATCH])
def test_trials_can_be_answered_from_their_inputs(task):
    inputs, answers = trials(task, 400, torch.Generator().manual_seed(0))
    if task == CHOICE:
        guessed = inputs.sum(1).argmax(-1)
    else:
        guessed = (inputs[:, :2].sum(1).argmax(-1) != inputs[:, -2:].sum(1).argmax(-1)).long()
    assert float((guessed == answers).float().mean()) > 0.95


def test_a_network_that_did_not_move_is_aligned():
    weights = start_of(cell(5), torch.Generator().manual_seed(1))
    found = change(weights, weights, trials(CHOICE, 16, torch.Generator().manual_seed(2))[0])
    assert found == pytest.approx({"moved": 0.0, "representation": 1.0, "tangent": 1.0})


def test_averaged_layers_are_means_of_their_part():
    teacher = animal("llama")
    full = Shape.of(teacher.config)
    shape = Shape(2, full.hidden, full.heads, full.kv_heads, full.ffn)
    student = averaged(prune(teacher, shape=shape, scores=score(teacher, [packed()])), teacher)
    theirs = [layer.mlp.up_proj.weight for layer in teacher.decoder.layers]
    parts = torch.arange(len(theirs)).tensor_split(2)
    for layer, part in zip(student.decoder.layers, parts, strict=True):
        torch.testing.assert_close(layer.mlp.up_proj.weight, sum(theirs[int(i)] for i in part) / len(part))
    fresh = new_model(student.config, teacher.tokenizer, 0)
    assert fresh.parameters_count == student.parameters_count


def by_task(low, high):
    spread = [-0.01, 0.0, 0.01, 0.02]
    return {task: {2: [low + x for x in spread], 100: [high - x for x in spread]} for task in (CHOICE, MATCH)}


def test_claims_about_networks():
    assert judge_tangent(by_task(0.2, 0.8)).verdict == "confirmed"
    assert judge_tangent(by_task(0.8, 0.2)).verdict == "refuted"
    assert judge_tangent(by_task(0.5, 0.5)).verdict == "inconclusive"
    assert judge_moved(by_task(3.0, 2.0)).verdict == "confirmed"
    assert judge_moved(by_task(2.0, 3.0)).verdict == "refuted"


def test_a_selector_has_to_order_starts():
    nats = {name: [level, level + 0.1, level + 0.2] for name, level in zip("abcde", range(1, 6), strict=True)}
    assert judge_selector("it", nats, nats).verdict == "confirmed"
    mixed = {"a": [3, 2, 4], "b": [1, 4, 2], "c": [5, 5, 3], "d": [2, 1, 5], "e": [4, 3, 1]}
    assert judge_selector("it", mixed, nats).verdict in ("inconclusive", "refuted")


def test_students_interval():
    found = t_interval([1.0, 2.0, 3.0])
    assert (found.value, found.half) == pytest.approx((2.0, 4.3027 / 3**0.5), rel=1e-4)


@pytest.mark.recipe
def test_the_recipe_runs_and_continues(tmp_path):
    keys = {"scale": "smoke", "out": tmp_path / "out", "seeds": 2, "workers": 1}
    first = limbeck.reproduce("rich-lazy", **keys)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("result.json")}
    assert {one["verdict"] for one in first.judged} == {"inconclusive"}
    again = limbeck.reproduce("rich-lazy", **keys)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert again.judged == first.judged
