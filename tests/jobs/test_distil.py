"""The main job as its users see it: the contract of flags, files and rows, continuing, seeds, and two processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import limbeck
from limbeck import cli
from limbeck.config import DistilSettings
from limbeck.disk import read_lines, read_rows
from limbeck.errors import BadFolder, BadSetting, OutOfMemory
from limbeck.jobs.common import rates
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.distil.arms import CE, Arm
from limbeck.jobs.distil.estimate import shown_after, training_seconds
from limbeck.jobs.distil.plan import check_mesh
from limbeck.models.load import load
from limbeck.probes import Measurements
from limbeck.probes.change import matrices_moved
from limbeck.run.world import alone
from tests.helpers.models import write_corpus, write_teacher

METRICS = {"step", "tokens", "loss_nats", "lr", "grad_norm", "tokens_per_s", "peak_rss_gib"}
READINGS = {"model", "probe", "name", "value", "unit", "n", "low", "high", "seed"}
MODELS = {"teacher", "student", "cut", "cut+ce", "fresh+kd"}


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with a teacher and a corpus."""
    folder = tmp_path_factory.mktemp("distil")
    write_teacher(folder)
    write_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def done(here):
    """A whole run through the Python API: its folder and its result."""
    result = limbeck.distil(
        teacher=str(here / "teacher"),
        data=str(here / "text.jsonl"),
        shrink=2.0,
        tokens="3k",
        length=32,
        batch_tokens=128,
        objective="0.5*CrossEntropy + 0.5*TAID(start=0.2)",
        seeds=2,
        out=here / "out",
        threads=1,
    )
    return here / "out", result


def rows(file: Path) -> list[dict]:
    return read_lines(file)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def command(here: Path, out: str, *more: str) -> list[str]:
    flags = ("--teacher", here / "teacher", "--data", here / "text.jsonl", "--shrink", 2, "--length", 32)
    size = ("--tokens", "4k", "--batch-tokens", 128, "--threads", 1, "--any-teacher")
    return [sys.executable, "-m", "limbeck", "distil", *map(str, (*flags, *size, "--out", here / out, *more))]


def test_a_run_leaves_what_is_promised(done):
    out, result = done
    assert {"run.json", "metrics.jsonl", "readings.jsonl", "student", "report.html"} <= {p.name for p in out.iterdir()}
    metrics = rows(out / "metrics.jsonl")
    assert all(set(row) == METRICS for row in metrics)
    assert [row["step"] for row in metrics] == list(range(1, len(metrics) + 1))
    readings = rows(out / "readings.jsonl")
    assert all(set(row) == READINGS for row in readings)
    assert {row["model"] for row in readings} >= MODELS
    assert {row["seed"] for row in readings if row["model"] == "student"} == {0, 1, None}
    assert set(result) == {"out", "student", "readings", "verdict"}
    assert result["readings"]["student"]["held_out"]["low"] < result["readings"]["student"]["held_out"]["high"]
    report = (out / "report.html").read_text()
    assert "How far the student moved from its start" in report
    assert result["verdict"][:40] in report.replace("&nbsp;", " ")
    assert "http://" not in report.replace("http://www.w3.org", "")  # one file, no network


def test_the_time_of_a_comparison_is_estimated_from_its_own_steps(done):
    out, _ = done
    told = json.loads((out / "run.json").read_text())["estimate"]
    assert len(told["step_seconds"]) == 2  # of the objective and of cross-entropy
    folders = [path.parent for path in out.rglob("metrics.jsonl")]
    steps = sum(len(rows(folder / "metrics.jsonl")) for folder in folders)
    assert min(told["step_seconds"].values()) * steps <= told["seconds"] <= max(told["step_seconds"].values()) * steps
    arms = [Arm(folder.name, 0, folder, CE, 0) for folder in folders]
    took = training_seconds(arms)
    assert took == pytest.approx(
        sum(128 / row["tokens_per_s"] for f in folders for row in rows(f / "metrics.jsonl")), rel=0.2
    )
    assert "GiB estimated" in shown_after(told, arms, Environment(alone(), bf16=False))


def test_the_student_is_an_ordinary_model_within_its_budget(done, here):
    out, _ = done
    student, report = AutoModelForCausalLM.from_pretrained(out / "student", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    teacher = AutoModelForCausalLM.from_pretrained(here / "teacher")
    count = [sum(p.numel() for p in model.parameters()) for model in (teacher, student)]
    assert 0.8 <= 2 * count[1] / count[0] <= 1
    text = AutoTokenizer.from_pretrained(out / "student")("the cat", return_tensors="pt")
    assert student.generate(**text, max_new_tokens=3, do_sample=False).shape[1] > text["input_ids"].shape[1]
    assert (out / "student" / "README.md").read_text().startswith("---\nlibrary_name: transformers")


@pytest.mark.long
def test_a_finished_run_is_not_done_again(done, here):
    out, result = done
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    again = limbeck.distil(
        teacher=str(here / "teacher"),
        data=str(here / "text.jsonl"),
        shrink=2.0,
        tokens="3k",
        length=32,
        batch_tokens=128,
        objective="0.5*CrossEntropy + 0.5*TAID(start=0.2)",
        seeds=2,
        out=out,
        threads=1,
    )
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")} == before
    assert again["verdict"] == result["verdict"]


@pytest.mark.long
def test_seeds_are_added_to_a_run_that_had_fewer(done, here, monkeypatch):
    """What is there stays, the new seed is the one of a run that had it from the start, and fewer are refused.

    So it is with baselines. The learning rate stays that of the run, even where another would be suggested by now.
    """
    whole, _ = done
    keys = {
        "teacher": str(here / "teacher"),
        "data": str(here / "text.jsonl"),
        "shrink": 2.0,
        "tokens": "3k",
        "length": 32,
    }
    keys |= {
        "batch_tokens": 128,
        "objective": "0.5*CrossEntropy + 0.5*TAID(start=0.2)",
        "out": here / "more",
        "threads": 1,
    }
    keys |= {"baselines": ("cut",)}
    first = limbeck.distil(**keys)
    monkeypatch.setattr(rates, "suggested_learning_rate", lambda *_, **__: 1.0)
    before = {p: p.stat().st_mtime_ns for p in (here / "more").rglob("*.safetensors")}
    second = limbeck.distil(**keys, seeds=2)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert weights(here / "more" / "seeds/seed1/student") == weights(whole / "seeds/seed1/student")
    said = [" ".join(json.loads((here / "more" / "verdict.json").read_text())["notes"]), first["verdict"]]
    assert "2 seeds: " in said[0]
    assert second["readings"]["student"]["held_out"] != first["readings"]["student"]["held_out"]
    with pytest.raises(BadFolder, match="seeds: 2 there, 1 now"):
        limbeck.distil(**keys)
    third = limbeck.distil(**keys | {"baselines": ("cut+ce", "cut")}, seeds=2)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    for seed in (0, 1):
        name = f"baselines/cut+ce-seed{seed}/student"
        assert weights(here / "more" / name) == weights(whole / name)
    assert "no baseline was trained with cross-entropy" in second["verdict"]
    assert "no baseline was trained with cross-entropy" not in third["verdict"]
    with pytest.raises(BadFolder, match=r"baselines: \['cut\+ce', 'cut'\] there, \['cut'\] now"):
        limbeck.distil(**keys, seeds=2)


@pytest.fixture(scope="module")
def plain(here) -> Path:
    """An uninterrupted run of the command line."""
    answer = subprocess.run(command(here, "plain", "--baselines", "cut+ce", "--json"), capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert set(json.loads(answer.stdout.splitlines()[-1])) == {"out", "student", "readings", "verdict"}
    return here / "plain"


def stop_after(command: list[str], file: Path, steps: int, number: int) -> tuple[int, str]:
    """Starts a command and sends it a signal once a run's metrics have so many rows; gives its exit status and words."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if file.exists() and file.read_text().count("\n") >= steps:
            break
        time.sleep(0.002)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    return process.returncode, said


@pytest.mark.long
def test_a_killed_command_given_again_ends_with_the_same_bits(plain, here):
    """Killed inside the student's training, stopped inside a baseline's, where it has a report of its student."""
    out, again = here / "killed", command(here, "killed", "--baselines", "cut+ce")
    status, _ = stop_after(again, out / "metrics.jsonl", 3, signal.SIGKILL)
    assert status == -signal.SIGKILL
    status, said = stop_after(again, out / "baselines" / "cut+ce-seed0" / "metrics.jsonl", 3, signal.SIGTERM)
    assert status == 143, said
    assert "stopped by SIGTERM" in said.splitlines()[-1]
    assert {"teacher", "cut", "student"} == {row["model"] for row in rows(out / "readings.jsonl")}
    assert "was not tested" in json.loads((out / "verdict.json").read_text())["text"]
    assert "was not tested" in (out / "report.html").read_text()
    last = subprocess.run(again, capture_output=True, text=True)
    assert last.returncode == 0
    assert "since it was last started" in " ".join(last.stderr.split())
    assert "seconds" not in json.loads((out / "run.json").read_text())
    for student in ("student", "baselines/cut+ce-seed0/student"):
        assert weights(out / student) == weights(plain / student)


@pytest.mark.long
def test_another_text_of_a_users_objective_is_another_run(here, tmp_path):
    file = tmp_path / "mine.py"
    head = "from limbeck.objectives import ForwardKL\n\n\nclass Mine(ForwardKL):\n    def forward(self, *a):\n"
    text = head + "        return super().forward(*a)\n"
    file.write_text(text)
    keys = {
        "teacher": str(here / "teacher"),
        "data": str(here / "text.jsonl"),
        "shrink": 2.0,
        "tokens": "1k",
        "length": 32,
    }
    keys |= {"batch_tokens": 128, "objective": f"{file}:Mine", "baselines": (), "out": here / "mine", "threads": 1}
    limbeck.distil(**keys)
    file.write_text(text.replace("super()", "2 * super()"))
    with pytest.raises(BadFolder, match=r"another run's state \(objective_code: "):
        limbeck.distil(**keys)


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_one_of_several_ranks_prints_an_error(rank, lines, monkeypatch, capsys):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("LOCAL_RANK", "0")  # the first of its machine
    monkeypatch.setattr(sys, "argv", ["limbeck", "distil", "--data", "nowhere.jsonl"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("limbeck: nowhere.jsonl: ") == lines


def test_a_rank_whose_memory_runs_out_says_so(monkeypatch, capsys):
    """The others know only that it stopped."""

    def app():
        raise OutOfMemory("a step needs more memory than there is")

    monkeypatch.setenv("RANK", "3")
    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == OutOfMemory("").status
    assert capsys.readouterr().err == "limbeck: process 3: a step needs more memory than there is\n"


def on_two_ranks(one: list[str]) -> subprocess.CompletedProcess[str]:
    """A command of one process, started by torchrun in two."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([*launch, *one[1:]], capture_output=True, text=True, env=environment)


@pytest.mark.long
def test_a_refusal_on_two_ranks_is_one_sentence(here):
    """Only the first rank finds the folder taken; the other, which waits for it, ends without a traceback of its own."""
    (here / "taken").mkdir()
    (here / "taken" / "notes.txt").write_text("mine")
    answer = on_two_ranks(command(here, "taken", "--baselines", "none"))
    assert answer.returncode == 1
    assert answer.stderr.count("limbeck: ") == 1
    assert "is not empty and holds no run" in answer.stderr
    assert answer.stderr.count("Traceback") == 1  # torchrun's own, of a process that ended with a status
    assert "Connection closed by peer" not in answer.stderr


@pytest.mark.long
def test_two_processes_of_torchrun_train_as_one(plain, here):
    answer = on_two_ranks(command(here, "ranks", "--baselines", "none"))
    assert answer.returncode == 0, answer.stderr[-3000:]
    one, two = (
        torch.cat([p.flatten() for p in AutoModelForCausalLM.from_pretrained(f / "student").parameters()])
        for f in (plain, here / "ranks")
    )
    torch.testing.assert_close(two, one, rtol=0, atol=5e-3)
    losses = [[row["loss_nats"] for row in rows(f / "metrics.jsonl")] for f in (plain, here / "ranks")]
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)


@pytest.mark.long
def test_two_processes_with_a_part_of_the_weights_each_train_as_one(plain, here):
    """The student of the same command is the same to rounding, and so is what all ranks measured together."""
    answer = on_two_ranks(command(here, "parts", "--baselines", "none", "--mesh", "shard"))
    assert answer.returncode == 0, answer.stderr[-3000:]
    one, two = (AutoModelForCausalLM.from_pretrained(f / "student").state_dict() for f in (plain, here / "parts"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=5e-3)
    losses = [[row["loss_nats"] for row in rows(f / "metrics.jsonl")] for f in (plain, here / "parts")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    measured = [Measurements.load(f / "measurements" / "teacher-seed0.safetensors") for f in (plain, here / "parts")]
    np.testing.assert_array_equal(measured[1].tokens, measured[0].tokens)
    np.testing.assert_allclose(measured[1].nats, measured[0].nats, rtol=1e-5)
    samples = [read_rows(f / "samples.json") for f in (plain, here / "parts")]
    theirs = [[(row["prompt"], row["teacher"], row["teacher_sampled"]) for row in rows] for rows in samples]
    assert theirs[1] == theirs[0] != []


def test_processes_that_a_job_cannot_have_are_refused(here, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadSetting, match="shrink runs in one process: start it without torchrun"):
        limbeck.shrink(teacher=str(here / "teacher"), shrink=2.0, out=here / "s")
    monkeypatch.delenv("WORLD_SIZE")
    message = "--mesh shard=3: 3 shards x 1 replicas are 3 processes, and torchrun started 1"
    with pytest.raises(BadSetting, match=message):
        limbeck.distil(teacher=str(here / "teacher"), data=str(here / "text.jsonl"), shrink=2.0, mesh="shard=3")


def test_what_needs_all_weights_in_one_process_is_refused_on_shards(here):
    environment = SimpleNamespace(world=SimpleNamespace(sharded=True))
    for changed in ({"mixers": "gdn*3"}, {"qat": "int4"}, {"tasks": ("piqa",)}, {"tokenizer_align": "bytes"}):
        (name,) = changed
        settings = DistilSettings(mesh="shard", **changed)
        with pytest.raises(BadSetting, match=f"--{name.replace('_', '-')} needs all weights in one process"):
            check_mesh(settings, environment)
    check_mesh(DistilSettings(mesh="shard"), environment)


@pytest.mark.long
def test_shrink_probe_and_doctor_speak_json(here, monkeypatch, capsys):
    def run(*argv):
        monkeypatch.setattr(sys, "argv", ["limbeck", *map(str, argv)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    text, teacher, small = here / "text.jsonl", here / "teacher", here / "small"
    cut = run("shrink", "--teacher", teacher, "--params", "30k", "--data", text, "--out", small, "--json")
    assert cut["parameters"] <= 30_000
    AutoModelForCausalLM.from_pretrained(small)
    probed = run("probe", small, "--data", text, "--teacher", teacher, "--length", 32, "--json")["readings"]
    assert probed["kl_teacher_student"]["value"] > 0
    assert probed["acceptance"]["value"] < 1
    same = run("probe", teacher, "--data", text, "--teacher", teacher, "--length", 32, "--json")["readings"]
    assert abs(same["kl_teacher_student"]["value"]) < 1e-6
    assert same["top1_agreement"]["value"] == 1
    found = run("doctor", "--teacher", teacher, "--student", small, "--data", text, "--json")
    assert found["ok"]
    assert {"check", "level", "message", "remedy"} == set(found["findings"][0])


@pytest.mark.parametrize("name", ["distil", "pretrain", "shrink", "doctor", "probe", "report", "selftest"])
def test_each_command_has_help(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["limbeck", name, "--help"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert f"limbeck {name}" in text
    options = [line for line in text.splitlines() if line.strip().startswith("--")]
    assert all(len(line.split("  ")) > 1 for line in options)


def test_a_run_says_how_far_its_student_moved_from_its_start(done):
    out, _ = done
    start, end = load(out / "cut"), load(out / "student")
    found = {row["name"]: row["value"] for row in rows(out / "readings.jsonl") if row["probe"] == "change"}
    whole = matrices_moved(start, end)[0]
    assert found["weights_moved"] == pytest.approx(whole.moved)
    assert whole.moved > 0
    assert 0 < found["representation_alignment"] < 1


@pytest.mark.long
@pytest.mark.parametrize(
    ("objective", "arms"), [("EntropySelect", ["student", "cut+ce"]), ("CrossEntropy", ["student"])]
)
def test_an_objective_without_a_teacher_is_compared_with_cross_entropy(here, tmp_path, objective, arms):
    keys = {
        "teacher": str(here / "teacher"),
        "data": str(here / "text.jsonl"),
        "shrink": 2.0,
        "length": 32,
        "threads": 1,
    }
    keys |= {"tokens": "1k", "batch_tokens": 128, "baselines": ("cut+ce", "cut+ce@flops"), "objective": objective}
    limbeck.distil(**keys, out=tmp_path / "run")
    plan = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["plan"]
    assert [arm["name"] for arm in plan["arms"]] == arms
