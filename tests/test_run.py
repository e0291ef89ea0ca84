"""A run killed at any moment ends with the same bits; two ranks make the step that one would."""

import json
import multiprocessing
import os
import signal
import socket
import time
from pathlib import Path

import pytest
import torch

from limbeck.corpora import Rows
from limbeck.disk import read_lines, write_json, write_text
from limbeck.errors import BadFolder, Interrupted, NonFiniteLoss
from limbeck.objectives import CTKD, TAID, CrossEntropy, ForwardKL
from limbeck.run.run import Plan, Run
from limbeck.run.save import checkpoints
from limbeck.run.world import alone, join, leave
from tests.models import frozen, llama, stores, tokenizer

FORK = multiprocessing.get_context("fork")
STEPS = 24


def objective():
    """Everything that has state: a schedule that adapts, and a temperature that is learned."""
    return 0.4 * CrossEntropy() + 0.4 * TAID(alpha=0.1) + 0.2 * CTKD()


def build(folder: Path, data: Path, *, world=None, make=objective, slow: float = 0.0, save_every: int = 5) -> Run:
    tok = tokenizer()
    train, _ = stores(data, tok)
    world = world or alone()
    corpus = Rows(train, length=32, seed=3, rank=world.rank, ranks=world.size)
    if slow:
        take = corpus.take
        corpus.take = lambda rows: (time.sleep(slow), take(rows))[1]  # leaves the killer time
    folder.mkdir(exist_ok=True)
    plan = Plan(steps=STEPS, rows=4, lr=5e-3, save_every=save_every)
    teacher = frozen(llama(layers=3, seed=1, tok=tok, pad=4))
    return Run(folder, "test", llama(seed=2, tok=tok), teacher, corpus, make(), plan, world)


def weights(run: Run) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.student.model.parameters()])


def start_and_kill(folder: Path, data: Path, at_step: int, number: int = signal.SIGKILL) -> int:
    """Runs in a process of its own until its metrics reach a step, then sends a signal; gives the exit code."""

    def child():
        torch.set_num_threads(1)
        run = build(folder, data, slow=0.05)
        try:
            run.train()
        except Interrupted as stop:
            os._exit(stop.status)

    process = FORK.Process(target=child)
    process.start()
    deadline = time.monotonic() + 60
    while len(read_lines(folder / "metrics.jsonl")) < at_step and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, number)
    process.join(60)
    return process.exitcode


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: its data, weights and metrics."""
    data, folder = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("whole")
    run = build(folder, data)
    run.train()
    return data, weights(run), read_lines(folder / "metrics.jsonl"), run.objective.state_dict()


@pytest.mark.parametrize("at_step", [1, 7, 17])
def test_a_killed_run_continues_to_the_same_bits(whole, tmp_path, at_step):
    data, expected, rows, state = whole
    assert start_and_kill(tmp_path, data, at_step) == -signal.SIGKILL
    run = build(tmp_path, data)
    run.train()
    assert torch.equal(weights(run), expected)
    assert all(torch.equal(run.objective.state_dict()[name], tensor) for name, tensor in state.items())
    again = read_lines(tmp_path / "metrics.jsonl")
    same = ("step", "tokens", "loss_nats", "lr", "grad_norm")
    assert [[row[k] for k in same] for row in again] == [[row[k] for k in same] for row in rows]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_step_in_hand_and_says_how_to_go_on(whole, tmp_path, number):
    data, expected, _, _ = whole
    assert start_and_kill(tmp_path, data, 8, number) == 128 + number
    done = read_lines(tmp_path / "metrics.jsonl")[-1]["step"]
    assert checkpoints(tmp_path)[-1].name == f"step-{done:06d}"  # not only every fifth
    run = build(tmp_path, data)
    run.train()
    assert torch.equal(weights(run), expected)


def test_a_checkpoint_cut_short_is_not_taken_for_one(whole, tmp_path):
    data, expected, _, _ = whole
    start_and_kill(tmp_path, data, 12)
    (tmp_path / ".step-000020.999").mkdir()
    (tmp_path / ".step-000020.999" / "tensors.safetensors").write_bytes(b"half")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "tok')  # a line that was being written
    run = build(tmp_path, data)
    run.train()
    assert torch.equal(weights(run), expected)


def test_a_loss_that_is_no_number_names_step_and_documents_and_keeps_the_last_checkpoint(whole, tmp_path):
    data, _, _, _ = whole
    run = build(tmp_path, data, make=ForwardKL)
    take, taken = run.corpus.take, []

    def poison(rows):
        taken.append(rows)
        if len(taken) == 13:
            run.teacher.model.get_input_embeddings().weight.data[:] = float("nan")
        return take(rows)

    run.corpus.take = poison
    with pytest.raises(NonFiniteLoss) as error:
        run.train()
    message = str(error.value)
    assert "at step 13 of 24. Nothing was updated. Its documents: text.jsonl:" in message
    assert f"The last good checkpoint is {tmp_path / 'step-000010'}" in message
    assert len(read_lines(tmp_path / "metrics.jsonl")) == 12


def rank_main(rank: int, port: int, folder: Path, data: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    world = join("cpu")
    run = build(folder, data, world=world)
    run.train()
    state = {name: tensor.tolist() for name, tensor in run.objective.state_dict().items()}
    write_json(folder / f"rank{rank}.json", {"weights": weights(run).tolist(), "state": state})
    leave()


def test_two_ranks_make_the_same_training_as_one(whole, tmp_path):
    data, expected, rows, _ = whole
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [FORK.Process(target=rank_main, args=(rank, port, tmp_path, data)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first == second  # to the bit: weights, and the schedule's state
    losses = [row["loss_nats"] for row in read_lines(tmp_path / "metrics.jsonl")]
    assert losses == pytest.approx([row["loss_nats"] for row in rows], rel=2e-3)
    torch.testing.assert_close(torch.tensor(first["weights"]), expected, rtol=0, atol=5e-3)


def test_a_full_disk_says_so_and_keeps_what_was_saved(whole, tmp_path):
    data, _, _, _ = whole

    def child():
        import resource

        torch.set_num_threads(1)
        run = build(tmp_path, data, save_every=5)
        size = (run.folder / "limit").stat().st_size if (run.folder / "limit").exists() else 0
        assert size == 0
        take = run.corpus.take

        def fill(rows):
            if run.corpus.state_dict()["row"] == 4 * 7:  # after the first checkpoint: files may not grow beyond 64 kB
                resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))
            return take(rows)

        run.corpus.take = fill
        try:
            run.train()
        except BadFolder as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            write_text(tmp_path / "said", str(error))
            os._exit(7)

    process = FORK.Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == 7
    said = (tmp_path / "said").read_text()
    assert "the disk is full: " in said
    assert "run the same command again to continue" in said
    assert [p.name for p in checkpoints(tmp_path)] == ["step-000005"]
    assert not list(tmp_path.glob(".step*"))
