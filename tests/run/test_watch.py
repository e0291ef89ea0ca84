"""Held-out loss during a training: measured at fixed points, with no effect on what is trained."""

import signal

import pytest
import torch

from limbeck.corpora import Rows
from limbeck.disk import read_lines
from limbeck.probes.measurements import measure
from limbeck.run.watch import Watch, watched_sequences, watched_steps
from tests.helpers.models import stores, tokenizer
from tests.run.test_run import FORK, STEPS, build, wait_for, weights, with_dropout


def watch(data):
    """Three sequences of the held-out text, by a corpus of their own."""
    _, held_out = stores(data, tokenizer())
    rows = Rows(held_out, length=32)
    return Watch(lambda: [rows.rows_of(torch.arange(3).numpy())], held_out.documents, watched_steps(STEPS))


def watched(folder, data, **how):
    run = build(folder, data, **how)
    run.watch = watch(data)
    return run


def without_time(folder):
    return [{key: row[key] for key in row if key != "seconds"} for row in read_lines(folder / "held_out.jsonl")]


@pytest.mark.long
@pytest.mark.parametrize("student", [None, with_dropout])
def test_the_weights_have_the_same_bits_with_and_without_it(tmp_path, student):
    data = tmp_path / "data"
    data.mkdir()
    alone, seen = build(tmp_path / "a", data, student=student), watched(tmp_path / "b", data, student=student)
    before = measure(seen.student, None, seen.watch.batches(), documents=seen.watch.documents) if not student else None
    alone.train()
    seen.train()
    assert torch.equal(weights(alone), weights(seen))
    rows = without_time(tmp_path / "b")
    assert [row["step"] for row in rows] == [0, 3, 6, 12, 18, 24]
    after = measure(seen.student, None, seen.watch.batches(), documents=seen.watch.documents)
    for found, row in ((before, rows[0]), (after, rows[-1])):
        if found is not None:
            assert row["loss_nats"] == pytest.approx(found.nats.sum() / found.tokens.sum(), rel=1e-12)
            assert (row["n"], row["predictions"]) == (found.read, round(found.tokens.sum()))
    assert rows[-1]["loss_nats"] < rows[0]["loss_nats"]
    assert not (tmp_path / "a" / "held_out.jsonl").exists()


@pytest.mark.long
@pytest.mark.parametrize("at_step", [1, 7])
def test_a_killed_run_measures_what_it_would_have_measured(tmp_path, at_step):
    data, whole, killed = tmp_path / "data", tmp_path / "whole", tmp_path / "killed"
    data.mkdir()
    watched(whole, data).train()

    def child():
        torch.set_num_threads(1)
        watched(killed, data, slow=0.05).train()

    process = FORK.Process(target=child)
    process.start()
    wait_for(killed, at_step)
    process.kill()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    again = watched(killed, data)
    again.train()
    assert without_time(killed) == without_time(whole)


def test_six_points_cost_less_than_a_fiftieth_of_the_training():
    """A forward pass is a third of a training step: six points on a 150th of the sequences are 1.33 % of the work."""
    assert [watched_sequences(trained) for trained in (0, 149, 150, 1_000_000)] == [0, 0, 1, 6666]
    assert watched_steps(400) == {0, 50, 100, 200, 300, 400}
    assert watched_steps(3) == {0, 1, 2, 3}
    assert max(6 * watched_sequences(n) / (3 * n) for n in range(1, 2000)) <= 0.0134


def test_a_longer_arm_is_measured_at_the_same_points_and_at_its_end():
    shared = Watch(list, 5, watched_steps(400))
    assert shared.until(700).steps == {0, 50, 100, 200, 300, 400, 700}
    assert shared.until(360).steps == {0, 50, 100, 200, 300, 360}
