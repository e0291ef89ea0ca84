"""What a user may get wrong: each gives one message that names the thing and the remedy, exit status 2, and no traceback."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from limbeck import cli
from limbeck.models.save import save
from tests.helpers.models import llama, texts, tokenizer, write_corpus


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "model"
    save(llama(layers=3, tok=tokenizer()), folder)
    return folder


@pytest.fixture
def data(tmp_path) -> Path:
    return write_corpus(tmp_path)


@pytest.fixture
def limbeck(monkeypatch, capsys, tmp_path):
    """Runs the command line in this process; gives (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        monkeypatch.setattr(sys, "argv", ["limbeck", *map(str, argv)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return run


DEFAULTS = {"--shrink": 2, "--tokens": 2000, "--seq-len": 32, "--lr": 0.001, "--threads": 1}


def distil(limbeck, teacher, data, *more, out="out"):
    usual = [word for flag, value in DEFAULTS.items() if flag not in more for word in (flag, value)]
    return limbeck("distil", "--teacher", teacher, "--data", data, "--out", out, *usual, *more)


def refused(answer, *words):
    """One message on stderr with all the words, status 2."""
    status, _, err = answer
    assert status == 2, err
    assert "Traceback" not in err
    message = err[err.index("limbeck: ") :] if "limbeck: " in err else err
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ("ForwadKL", ("ForwadKL", "ForwardKL")),
        ("__import__('os').system('touch pwned')", ()),
        ("SkewKL(alpha=1.5)", ("alpha", "1.5")),
        ("TAID(strat=0.2)", ("strat", "start")),
        ("my_loss:MyLoss", ("my_loss",)),
    ],
)
def test_an_objective_is_parsed_never_run(limbeck, teacher, data, objective, words, tmp_path):
    refused(distil(limbeck, teacher, data, "--objective", objective), *words)
    assert not (tmp_path / "pwned").exists()
    assert not (tmp_path / "out").exists()  # before any work


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--tokns", "3"), ("--tokns", "--tokens")),
        (("--tokens", "many"), ("--tokens", "many", "6M")),
        (("--baselines", "cut+cee"), ("cut+cee", "cut+ce")),
        (("--params", "10k"), ("--shrink", "--params", "one of them")),
        (("--seq-len", "4096"), ("4096", "128")),
        (("--device", "gpu"), ("--device gpu",)),
    ],
)
def test_a_wrong_flag_is_named_with_what_is_allowed(limbeck, teacher, data, flags, words):
    refused(distil(limbeck, teacher, data, *flags), *words)


def test_an_unknown_command_is_named(limbeck):
    refused(limbeck("distill"), "distill", "distil")


def test_an_unknown_key_of_a_run_file_names_the_nearest(limbeck, tmp_path):
    (tmp_path / "run.toml").write_text('tokns = "2M"\n')
    refused(limbeck("distil", "run.toml"), "run.toml", "tokns", "tokens")


@pytest.mark.parametrize(
    ("params", "words"), [("1B", ("1,000,000,000", "more than the teacher")), ("10", ("smallest",))]
)
def test_a_budget_outside_what_the_teacher_gives_is_refused(limbeck, teacher, data, params, words):
    flags = ("--teacher", teacher, "--data", data, "--params", params, "--out", "out")
    refused(limbeck("distil", *flags), *words)


BROKEN_TEXT = {
    "missing": (lambda f: None, ("text.jsonl", "does not exist")),
    "empty": (lambda f: f.write_text(""), ("text.jsonl", "empty")),
    "no json": (lambda f: f.write_text('{"text": "a"}\n{"text": oops}\n'), ("text.jsonl:2",)),
    "no text": (lambda f: f.write_text('{"text": "a"}\n{"story": "b"}\n'), ("text.jsonl:2", "'text'", "'story'")),
    "bytes": (lambda f: f.write_bytes(b'{"text": "a"}\n{"text": "\xff\xfe"}\n'), ("text.jsonl", "byte")),
}


@pytest.mark.parametrize("kind", BROKEN_TEXT)
def test_broken_text_is_located(limbeck, teacher, tmp_path, kind):
    breaks, words = BROKEN_TEXT[kind]
    file = tmp_path / "text.jsonl"
    breaks(file)
    refused(distil(limbeck, teacher, file), *words)


def test_all_faulty_records_are_reported_at_once_and_some_may_be_skipped(limbeck, teacher, tmp_path):
    file = tmp_path / "text.jsonl"
    rows = [{"text": f"the cat sat on the mat {i} times " * 20} for i in range(30)]
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"text": 1}, {"body": "b"}]))
    refused(
        distil(limbeck, teacher, file), "2 records cannot be read", "text.jsonl:31", "text.jsonl:32", "--skip-bad 2"
    )
    refused(distil(limbeck, teacher, file, "--skip-bad", 1), "--skip-bad 1 lets 1 be skipped")
    refused(distil(limbeck, teacher, file, "--columns", "txt=body"), "unknown field 'txt'", "text=body")
    refused(distil(limbeck, teacher, file, "--columns", "text=story"), "expected 'story' (--columns)")


def test_a_corpus_shorter_than_a_row_is_an_error_with_its_length(limbeck, teacher, tmp_path):
    file, other = tmp_path / "short.jsonl", tmp_path / "other.jsonl"
    file.write_text(json.dumps({"text": "the cat sat"}))
    other.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts(3)))
    refused(distil(limbeck, teacher, file, "--eval-data", other), "32 + 1 tokens", "--seq-len")


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def another_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))


def not_a_number(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


BROKEN_TEACHERS = {
    without_weights: ("weights",),
    pickle_only: ("pytorch_model.bin", "safetensors"),
    truncated: ("model.safetensors", "bytes"),
    another_shape: ("config.json", "64"),
    not_a_number: ("model.norm.weight", "NaN"),
}


@pytest.mark.parametrize("breaks", BROKEN_TEACHERS)
def test_a_broken_teacher_is_refused_with_the_reason(limbeck, teacher, data, tmp_path, breaks):
    folder = tmp_path / "broken"
    shutil.copytree(teacher, folder)
    (folder / "digests.json").unlink()  # as in folders that limbeck did not write
    breaks(folder)
    refused(distil(limbeck, folder, data), "broken", *BROKEN_TEACHERS[breaks])


def test_a_teacher_that_is_not_there_is_named(limbeck, data):
    refused(distil(limbeck, "no/such/teacher", data), "no/such/teacher")


def test_a_student_of_another_vocabulary_is_refused(limbeck, teacher, data, tmp_path):
    student = tmp_path / "student"
    save(llama(layers=1, tok=tokenizer(vocab=280)), student)
    answer = limbeck(
        "distil", "--teacher", teacher, "--student", student, "--data", data, "--out", "out", "--length", 32
    )
    refused(answer, "vocabular")


def test_real_models_of_two_languages_are_refused(limbeck, test_data, data):
    models = test_data / "models"
    flags = ("--teacher", models / "tangpoem-llama-750k", "--student", models / "stories-llama-260k", "--data", data)
    status, out, _ = limbeck("doctor", *flags)
    assert status == 2
    assert "vocabular" in out


def test_a_folder_of_another_run_is_left_alone(limbeck, teacher, data, tmp_path):
    flags = ("--baselines", "none")
    assert distil(limbeck, teacher, data, *flags)[0] == 0
    before = (tmp_path / "out" / "run.json").read_bytes()
    refused(distil(limbeck, teacher, data, *flags, "--seed", 7), "another run's state", "seed: 0 there, 7 now", "--out")
    assert (tmp_path / "out" / "run.json").read_bytes() == before


def test_a_folder_of_somebody_else_is_left_alone(limbeck, teacher, data, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    refused(distil(limbeck, teacher, data), "not empty", "thesis.tex", "--out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_written_is_the_first_error(limbeck, teacher, data, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    refused(distil(limbeck, teacher, data, out="file/out"), "cannot write", "--out")


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc").exists(), reason="root may write anywhere")
def test_a_read_only_folder_is_the_first_error(limbeck, teacher, data, tmp_path):
    if os.geteuid() == 0:
        folder = Path("/proc/limbeck")  # what even root may not write
    else:
        folder = tmp_path / "locked" / "out"
        folder.parent.mkdir(mode=0o500)
    refused(distil(limbeck, teacher, data, out=folder), "cannot write", "--out")


def test_an_empty_chat_has_nothing_to_learn(limbeck, teacher, tmp_path):
    file = tmp_path / "chat.jsonl"
    file.write_text("".join(json.dumps({"messages": [{"role": "user", "content": t}]}) + "\n" for t in texts(40)))
    refused(distil(limbeck, teacher, file), "chat template")


def test_a_fault_of_ours_is_a_traceback_and_status_1(monkeypatch, teacher, data, tmp_path):
    """The other side: what is not the user's mistake is not dressed up as one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("limbeck.jobs.distil.job.make_student", lambda *a, **k: 1 / 0)
    monkeypatch.setattr(
        sys, "argv", ["limbeck", "distil", "--teacher", str(teacher), "--data", str(data), "--length", "32"]
    )
    with pytest.raises(ZeroDivisionError):
        cli.main()
    torch.set_num_threads(1)


def test_names_are_shown_as_they_are_and_command_no_terminal(limbeck, teacher, data, tmp_path):
    """Rich's markup in a folder's name ended a run, and an escape sequence reached the terminal."""
    out = tmp_path / "o[/x]\x1b[2J[red]"
    status, printed, err = limbeck(
        "capture", "--teacher", teacher, "--data", data, "--length", 32, "--tokens", 300, "--out", out
    )
    assert status == 0, err
    assert "o[/x]\\x1b[2J[red]" in printed
    assert "\x1b[2J" not in printed + err
    (out / "answers").rename(tmp_path / "gone")
    status, _, err = limbeck("cache", "inspect", out)
    assert status == 2
    assert "\\x1b[2J[red]" in err
    assert "\x1b[2J" not in err
