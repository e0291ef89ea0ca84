"""Checkpoints that are written while the training goes on are those of a training that waits for them."""

import os
import signal
import threading

import pytest
import torch

from limbeck.disk import read_json
from limbeck.errors import BadFolder
from limbeck.run import save, saver
from limbeck.run.save import checkpoints
from tests.run.test_run import FORK, build, weights

HOW = {"steps": 8, "save_every": 3}


def trained(folder, data, *, background):
    run = build(folder, data, **HOW)
    run.background = background
    run.train()
    return run


@pytest.fixture
def written(monkeypatch):
    """The checksums of each checkpoint that is written, by its name."""
    found = {}
    write = saver.save_checkpoint

    def watched(*given, **more):
        final = write(*given, **more)
        found[final.name] = read_json(final / "state.json", dict, remedy="")["files"]
        return final

    monkeypatch.setattr(saver, "save_checkpoint", watched)
    return found


def test_a_checkpoint_holds_the_weights_of_its_step_while_later_ones_change_them(tmp_path, written, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    expected = weights(trained(tmp_path / "between", data, background=False))
    between = dict(written)
    assert sorted(between) == ["step-000003", "step-000006", "step-000008"]
    written.clear()
    run, later = build(tmp_path / "background", data, **HOW), threading.Event()
    write, take, taken = saver.save_checkpoint, run.corpus.take, []

    def late(folder, step, *given, **more):
        assert step == HOW["steps"] or later.wait(60)
        return write(folder, step, *given, **more)

    def watched(rows):
        taken.append(rows)
        if len(taken) % 3 == 2:  # a whole step after each checkpoint but the last
            later.set()
        elif len(taken) % 3 == 0:
            later.clear()
        return take(rows)

    monkeypatch.setattr(saver, "save_checkpoint", late)
    run.corpus.take = watched
    run.background = True
    run.train()
    assert torch.equal(weights(run), expected)
    assert written == between
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint")]


@pytest.mark.long
def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    expected = weights(trained(tmp_path / "whole", data, background=False))
    out, write = tmp_path / "killed", save.write_json

    def killed(path, value):
        if path.name == "state.json" and value["step"] == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, value)

    monkeypatch.setattr(save, "write_json", killed)
    process = FORK.Process(target=lambda: (torch.set_num_threads(1), trained(out, data, background=True)))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    monkeypatch.undo()
    assert [one.name for one in checkpoints(out)] == ["step-000003"]
    assert torch.equal(weights(trained(out, data, background=True)), expected)


def test_a_checkpoint_that_could_not_be_written_ends_the_training_at_its_next_step(tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    run = build(tmp_path / "out", data, **HOW)
    take, failed, taken = run.corpus.take, threading.Event(), []

    def full(*given, **more):
        failed.set()
        raise BadFolder("the disk is full")

    def watched(rows):
        taken.append(rows)
        assert len(taken) != 5 or failed.wait(60)
        return take(rows)

    monkeypatch.setattr(saver, "save_checkpoint", full)
    run.corpus.take, run.background = watched, True
    with pytest.raises(BadFolder, match="the disk is full"):
        run.train()
    assert len(taken) in (4, 5)
    assert not run.complete
