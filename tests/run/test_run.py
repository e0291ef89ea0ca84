"""A run killed at any moment ends with the same bits; two ranks make the step that one would."""

import json
import multiprocessing
import os
import signal
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import GPT2Config

from limbeck.corpora import Rows
from limbeck.disk import read_lines, write_json, write_text
from limbeck.errors import BadFolder, Interrupted, NonFiniteLoss
from limbeck.models.build import new_model
from limbeck.models.language_model import LanguageModel
from limbeck.objectives import CTKD, TAID, CrossEntropy, EntropySelect, ForwardKL
from limbeck.run.run import Plan, Run
from limbeck.run.save import checkpoints
from limbeck.run.world import alone, join, leave
from tests.helpers.models import frozen, llama, stores, tokenizer

FORK = multiprocessing.get_context("fork")
STEPS = 24


def objective():
    """Everything that has state: a schedule that adapts, a temperature that is learned, and tokens that are counted."""
    return 0.3 * CrossEntropy() + 0.4 * TAID(alpha=0.1) + 0.2 * CTKD() + 0.1 * EntropySelect()


def with_dropout() -> LanguageModel:
    """A GPT-2 that drops a tenth of everything while it learns."""
    tok = tokenizer()
    config = GPT2Config(vocab_size=len(tok), n_embd=32, n_layer=2, n_head=4, n_positions=128, resid_pdrop=0.1)
    return new_model(config, tok, 2, name="gpt2")


def build(folder: Path, data: Path, *, world=None, make=objective, student=None, slow=0.0, **plan) -> Run:
    tok = tokenizer()
    train, _ = stores(data, tok)
    world = world or alone()
    corpus = Rows(train, length=32, seed=3, ranks=world)
    if slow:
        take = corpus.take
        corpus.take = lambda rows: (time.sleep(slow), take(rows))[1]  # leaves the killer time
    folder.mkdir(exist_ok=True)
    teacher = frozen(llama(layers=3, seed=1, tok=tok, pad=4))
    student = student() if student else llama(seed=2, tok=tok)
    how = Plan(**{"steps": STEPS, "rows": 4, "lr": 5e-3, "save_every": 5} | plan)
    return Run(folder, "test", student, teacher, corpus, make(), how, world)


def weights(run: Run) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.student.model.parameters()])


def wait_for(folder: Path, step: int) -> None:
    deadline = time.monotonic() + 60
    while len(read_lines(folder / "metrics.jsonl")) < step and time.monotonic() < deadline:
        time.sleep(0.005)


def start_and_kill(folder: Path, data: Path, at_step: int, number: int = signal.SIGKILL, **how) -> int:
    """Runs in a process of its own until its metrics reach a step, then sends a signal; gives the exit code."""

    def child():
        torch.set_num_threads(1)
        run = build(folder, data, slow=0.05, **how)
        try:
            run.train()
        except Interrupted as stop:
            os._exit(stop.status)

    process = FORK.Process(target=child)
    process.start()
    wait_for(folder, at_step)
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


@pytest.mark.long
def test_a_killed_run_draws_the_dropout_it_would_have_drawn(whole, tmp_path):
    data, *_ = whole
    runs = [build(tmp_path / name, data, student=with_dropout) for name in ("whole", "other")]
    for run in runs:
        run.train()
    expected, other = map(weights, runs)
    assert torch.equal(expected, other)
    (tmp_path / "killed").mkdir()
    assert start_and_kill(tmp_path / "killed", data, 12, student=with_dropout) == -signal.SIGKILL
    run = build(tmp_path / "killed", data, student=with_dropout)
    run.train()
    assert torch.equal(weights(run), expected)


@pytest.mark.long
def test_a_run_is_saved_by_the_clock_too(whole, tmp_path):
    data, expected, _, _ = whole
    start_and_kill(tmp_path, data, 3, save_every=1000, save_minutes=0.0)
    assert checkpoints(tmp_path)  # long before step 1000
    run = build(tmp_path, data)
    run.train()
    assert torch.equal(weights(run), expected)


@pytest.mark.parametrize(("seconds", "rows", "steps"), [(0.0, 32, 0), (0.15, 32, 2), (1.5, 64, 12)])
def test_the_time_of_a_step_is_that_of_the_whole_batch(whole, tmp_path, monkeypatch, seconds, rows, steps):
    """By a clock that goes on 2 ms for each row that is taken, whatever the machine does: 0.128 s for the 64 of a step."""
    run = build(tmp_path / "run", whole[0], make=CrossEntropy, rows=64)  # two micro-batches of 32
    taken: list[int] = []
    take = run.corpus.take
    run.corpus.take = lambda count: (taken.append(count), take(count))[1]
    monkeypatch.setattr("limbeck.run.moment.time", SimpleNamespace(perf_counter=lambda: 0.002 * sum(taken)))
    assert run.measure(seconds) == pytest.approx(0.128)  # also where only a part of the step was taken
    assert taken == [32, 32] + [rows] * steps
    assert not checkpoints(tmp_path / "run")


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_current_step_and_prints_how_to_continue(whole, tmp_path, number):
    data, expected, _, _ = whole
    assert start_and_kill(tmp_path, data, 8, number) == 128 + number
    done = read_lines(tmp_path / "metrics.jsonl")[-1]["step"]
    assert checkpoints(tmp_path)[-1].name == f"step-{done:06d}"  # not only every fifth
    run = build(tmp_path, data)
    run.train()
    assert torch.equal(weights(run), expected)


@pytest.mark.long
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
    assert "at step 13 of 24. The weights were not updated. The step's documents: text.jsonl:" in message
    assert f"The last checkpoint is {tmp_path / 'step-000010'}" in message
    assert len(read_lines(tmp_path / "metrics.jsonl")) == 12


def rank_main(rank: int, port: int, folder: Path, data: Path, slow: float = 0.0) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    world = join("cpu")
    run = build(folder, data, world=world, slow=slow)
    run.train()
    state = {name: tensor.tolist() for name, tensor in run.objective.state_dict().items()}
    write_json(folder / f"rank{rank}.json", {"weights": weights(run).tolist(), "state": state})
    leave()


def two_ranks(folder: Path, data: Path, slow: float = 0.0) -> list[multiprocessing.Process]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [FORK.Process(target=rank_main, args=(rank, port, folder, data, slow)) for rank in range(2)]
    for process in processes:
        process.start()
    return processes


def finish(processes: list[multiprocessing.Process]) -> list[int]:
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


def test_two_ranks_make_the_same_training_as_one(whole, tmp_path):
    data, expected, rows, state = whole
    assert finish(two_ranks(tmp_path, data)) == [0, 0]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first == second  # to the bit: weights, and the schedule's state
    (seen,) = (name for name in state if name.endswith("seen"))
    assert sum(first["state"][seen]) == pytest.approx(float(state[seen].sum()))  # the tokens of both ranks
    losses = [row["loss_nats"] for row in read_lines(tmp_path / "metrics.jsonl")]
    assert losses == pytest.approx([row["loss_nats"] for row in rows], rel=2e-3)
    torch.testing.assert_close(torch.tensor(first["weights"]), expected, rtol=0, atol=5e-3)


@pytest.mark.long
def test_two_ranks_that_are_killed_continue_to_the_same_bits(whole, tmp_path):
    data, *_ = whole
    once, again = tmp_path / "whole", tmp_path / "killed"
    once.mkdir()
    again.mkdir()
    assert finish(two_ranks(once, data)) == [0, 0]
    killed = two_ranks(again, data, slow=0.05)
    wait_for(again, 8)
    for process in killed:
        process.kill()
    assert finish(killed) == [-signal.SIGKILL, -signal.SIGKILL]
    assert checkpoints(again)
    assert finish(two_ranks(again, data)) == [0, 0]
    for rank in range(2):
        assert json.loads((again / f"rank{rank}.json").read_text()) == json.loads(
            (once / f"rank{rank}.json").read_text()
        )


def test_a_full_disk_is_an_error_and_keeps_what_was_saved(whole, tmp_path):
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


@pytest.mark.parametrize(("device", "expected"), [("auto", 0), ("cuda", 0), ("cuda:1", 1)])
def test_a_cuda_device_always_has_its_number(device, expected, monkeypatch):
    """Torch sets no device without one, and tensors on "cuda" and on "cuda:0" would not be on one device."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert join(device).device == torch.device("cuda", expected)
    assert chosen == [torch.device("cuda", expected)]


@pytest.mark.parametrize(("backend", "host"), [("cuda:nccl", "gloo"), ("cpu:gloo,cuda:nccl", None)])
def test_numbers_of_the_host_have_a_group_beside_nccl_alone(backend, host, monkeypatch):
    """As a program leaves it that calls init_process_group("nccl"); its group stays after the job."""
    used, ended, whole = [], [], object()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name, value in {
        "is_initialized": lambda: True,
        "get_rank": lambda: 0,
        "get_world_size": lambda: 2,
        "get_backend_config": lambda group: backend,
        "new_group": lambda *, backend, timeout: backend,
        "all_reduce": lambda tensor, *, group: used.append((tensor.device.type, group)),
        "destroy_process_group": lambda: ended.append(True),
    }.items():
        monkeypatch.setattr(torch.distributed, name, value)
    monkeypatch.setattr(torch.distributed, "group", SimpleNamespace(WORLD=whole))
    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "set_device": lambda device: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    world = join("cuda")
    assert world.device == torch.device("cuda", 0)
    world.sum(1.0)
    world.any(True)
    world.sum_tensor(torch.ones((), device="meta"))  # in the place of one on the device
    assert used == [("cpu", host), ("cpu", host), ("meta", None)]
    used.clear()
    join("cpu").sum_gradients([torch.ones(2, requires_grad=True)])
    assert used == [("cpu", host)]
    leave()
    assert not ended
