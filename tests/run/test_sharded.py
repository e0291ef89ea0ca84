"""Processes with a part of all weights each make the training that one process makes, and continue one another's."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from limbeck.disk import read_lines
from limbeck.errors import BadFolder, OtherRankStopped
from limbeck.models.language_model import whole
from limbeck.run.run import Run
from limbeck.run.save import TrainState, checkpoints, load_checkpoint
from limbeck.run.sharded import layout_of
from limbeck.run.world import World, alone
from tests.helpers.models import batch, llama, tokenizer
from tests.helpers.ranks import on_ranks, results, started
from tests.run.test_run import build, wait_for, weights


def sharded_run(folder: Path, data: Path, world: World, **how) -> Run:
    run = build(folder, data, world=world, **how)
    world.place(run.student, train=True)
    world.place(run.teacher, train=False)
    return run


def state_of(run: Run) -> dict[str, list]:
    """All tensors of a run's train state, whole, after its last checkpoint was read into new ones."""
    train_state = TrainState(run.student.model, run._begin(), run.objective)
    load_checkpoint(checkpoints(run.folder)[-1], train_state)
    return {name: whole(tensor).tolist() for name, tensor in train_state.tensors().items()}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A whole training in one process: its data and folder."""
    data, folder = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("one")
    build(folder, data).train()
    return data, folder


def losses(folder: Path) -> list[float]:
    return [row["loss_nats"] for row in read_lines(folder / "metrics.jsonl")]


@pytest.mark.parametrize(
    ("count", "mesh"), [(2, "shard"), pytest.param(4, "shard=2,replicate=2", marks=pytest.mark.long)]
)
def test_shards_make_the_training_of_one_process(one, tmp_path, count, mesh):
    """Three rows a step on two ranks: one of them has a row without weight. The objective learns a temperature of its own."""
    data, folder = one

    def work(world):
        run = sharded_run(tmp_path, data, world)
        local = sum(p.to_local().numel() for p in run.student.model.parameters())
        run.train()
        return local, torch.cat([whole(p).flatten() for p in run.student.model.parameters()]).tolist()

    answers = on_ranks(count, work, mesh=mesh)
    expected = build(tmp_path / "as", data)
    load_checkpoint(checkpoints(folder)[-1], TrainState(expected.student.model, expected._begin(), expected.objective))
    assert losses(tmp_path) == pytest.approx(losses(folder), rel=1e-5)
    for local, found in answers:
        assert local <= 0.6 * len(found)
        torch.testing.assert_close(torch.tensor(found), weights(expected), rtol=0, atol=1e-4)


def test_a_checkpoint_is_continued_by_another_number_of_processes(one, tmp_path):
    """Every tensor of the train state has the same bits after the switch, in both directions."""
    data, folder = one
    before = state_of(build(folder, data))
    after = on_ranks(2, lambda world: state_of(sharded_run(folder, data, world)))
    assert after == [before, before]

    def work(world):
        run = sharded_run(tmp_path, data, world)
        run.train()
        return {name: whole(p).tolist() for name, p in run.student.model.named_parameters()}

    ended = on_ranks(2, work)
    found = state_of(build(tmp_path, data))
    assert ended == [{name: found[f"model.{name}"] for name in ended[0]}] * 2
    (checkpoint,) = checkpoints(tmp_path)[-1:]
    (lost, *_) = sorted(checkpoint.glob("shard-00002*"))
    lost.unlink()
    with pytest.raises(BadFolder, match=r"expected SHA-256 .* got no file: it is missing or damaged: remove"):
        state_of(build(tmp_path, data))


@pytest.mark.long
def test_a_rank_that_is_killed_ends_the_others_and_the_run_continues(one, tmp_path):
    data, _ = one
    expected = on_ranks(2, lambda world: (sharded_run(tmp_path / "whole", data, world).train(), "done")[1])
    assert expected == ["done", "done"]

    def work(world):
        try:
            sharded_run(tmp_path / "killed", data, world, slow=0.05).train()
        except OtherRankStopped as stopped:
            return str(stopped)
        return "done"

    begun = started(2, work)
    wait_for(tmp_path / "killed", 8)
    os.kill(begun[1][0].pid, signal.SIGKILL)
    message, code = results(begun)
    assert "another process of this run stopped" in message
    assert code == -signal.SIGKILL
    assert on_ranks(2, work) == ["done", "done"]
    assert state_of(build(tmp_path / "killed", data)) == state_of(build(tmp_path / "whole", data))


def test_a_rank_with_fewer_rows_gets_one_without_weight():
    def work(world):
        rows = world.even(batch(2 - world.rank), 2)
        return rows.tokens.shape[0], rows.weight.sum(-1).tolist()

    (first, weighed), (second, again) = on_ranks(2, work)
    assert first == second == 2
    assert min(weighed) > 0
    assert again[0] > 0
    assert again[1] == 0
    rows = batch(1)
    assert alone().even(rows, 2) is rows


def test_a_mesh_is_read_and_must_fit_the_processes():
    assert layout_of("replicate", 4) == (4, 1)
    assert layout_of("shard", 4) == (1, 4)
    assert layout_of("shard=2,replicate=2", 4) == (2, 2)
    assert layout_of("shard=4", 4) == (1, 4)
    with pytest.raises(ValueError, match="3 shards x 1 replicas are 3 processes, and torchrun started 4"):
        layout_of("shard=3", 4)
    for text in ("shards", "shard=0", "shard=two", "shard=2,tensor=2", ""):
        with pytest.raises(ValueError, match="expected replicate, shard, or numbers"):
            layout_of(text, 4)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_gathered_in_bfloat16_train_as_under_autocast(one, tmp_path, tied):
    """The gradients are summed in float32 and the weights stay in it; the loss differs by what bfloat16 rounds."""
    data, _ = one

    def student():
        model = llama(seed=2, tok=tokenizer())
        if not tied:
            head = model.model.get_output_embeddings()
            head.weight = torch.nn.Parameter(head.weight.detach().clone())
        return model

    how = {"student": student, "bf16": True, "steps": 12}
    build(tmp_path / "one", data, **how).train()

    def work(world):
        run = sharded_run(tmp_path / "two", data, replace(world, dtype=torch.bfloat16), **how)
        run.train()
        return sorted({str(p.dtype) for p in run.student.model.parameters()})

    assert on_ranks(2, work) == [["torch.float32"]] * 2
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-2)


def test_a_gathered_copy_computes_as_the_whole_model():
    """Its weights are back in one place, and what no file holds too, such as the frequencies of positions."""
    rows, model = batch(2), llama(seed=5, tok=tokenizer())

    def work(world):
        parts = llama(seed=5, tok=tokenizer())
        world.place(parts, train=False)
        copy = world.gathered(parts)
        with torch.no_grad():
            together = parts(rows).logits().tolist()
            return together, None if copy is None else copy(rows).logits().tolist()

    (first, copied), (second, none) = on_ranks(2, work)
    expected = model(rows).logits()
    torch.testing.assert_close(torch.tensor(first), expected, rtol=0, atol=1e-5)
    assert first == second
    assert copied == expected.tolist()
    assert none is None
