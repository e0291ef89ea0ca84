"""What a run says while it runs and when it is done: what its loss is, what is left, what it took, what it began with."""

import io
import re
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaForCausalLM

from limbeck.errors import BadShape
from limbeck.jobs.capture import progress as capture_progress
from limbeck.jobs.distil.arms import Arm
from limbeck.jobs.distil.estimate import expected_seconds
from limbeck.jobs.pretrain.job import llama_config, scratch_shape
from limbeck.objectives import parse
from limbeck.objectives.spec import ObjectiveSpec
from limbeck.report.start import CUT, GIVEN, start_of
from limbeck.report.words import label
from limbeck.run import log
from limbeck.terminal import Terminal


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0:00:00"), (65.4, "0:01:05"), (3661, "1:01:01"), (360_000, "100:00:00"), (-1, "0:00:00")],
)
def test_time_as_a_clock_has_it(seconds, said):
    assert log.clock(seconds) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [("KL", "ForwardKL"), ("TAID(start=0.2)", "TAID"), ("0.5*CE + 0.5*KL", "0.5*CrossEntropy+0.5*ForwardKL")],
)
def test_a_loss_has_the_name_of_its_objective(text, said):
    assert parse(text).short == said


def lines_of(monkeypatch, **asked):
    """The lines of a run of four steps, a quarter of a minute each."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(log.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(log.console, "_force_terminal", False, raising=False)
    with log.console.capture() as said, log.progress("student #0", 4, done=0, shown=True, **asked) as reporter:
        for step in range(1, 5):
            clock.now += 30.0
            reporter.step(step, 1.5, 1234.0)
    return said.get().splitlines()


def test_a_progress_line_names_the_loss_and_the_time_left(monkeypatch):
    lines = lines_of(monkeypatch, loss=("training ForwardKL", "nats/token"), after=3600.0)
    assert len(lines) == 4
    assert re.sub(" +", " ", lines[0]) == (
        "student #0 step 1/4 training ForwardKL 1.5000 nats/token 1,234 tokens/s 0:01:30 left, whole run 1:01:30"
    )
    assert lines_of(monkeypatch)[1].endswith("0:01:00 left")


def test_a_line_of_a_capture_has_the_time_left_as_a_clock_has_it(monkeypatch):
    """A row a minute after four that were there before: 64 tokens each, and 6 rows left."""
    clock, file = SimpleNamespace(now=0.0), io.StringIO()
    monkeypatch.setattr(capture_progress.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(capture_progress, "console", Terminal(width=100, force_terminal=False, file=file))
    with capture_progress.progress(12, what="row") as report:
        report(4, 256)
        clock.now = 120.0
        report(6, 256 + 12_000)
    assert file.getvalue() == "row 6 of 12; 100 tokens/s  0:06:00 left\n"


def test_a_bar_shows_loss_step_speed_and_time_left_in_80_columns(monkeypatch):
    """Two lines: what is minimised, and how far it is; beside each other they would not fit."""
    clock, file = SimpleNamespace(now=0.0), io.StringIO()
    shown = Terminal(width=80, force_terminal=True, color_system=None, file=file, get_time=lambda: clock.now)
    monkeypatch.setattr(log, "console", shown)
    monkeypatch.setattr(log.Progress, "start", lambda self: None)
    loss = ("training CrossEntropy", "nats/token")
    with log.progress("cut+ce@flops #0", 1000, done=0, shown=True, loss=loss, after=3600.0) as bar:
        before = lines_on(bar, shown)
        for step in (10, 20):  # half a minute each
            clock.now += 30.0
            bar.step(step, 1.5, 12_345.0)
        after = lines_on(bar, shown)
    assert before[0] == "cut+ce@flops #0"
    assert after[0] == "cut+ce@flops #0: training CrossEntropy 1.5000 nats/token"
    assert after[1].strip() == "step 20/1000 12,345 tokens/s 0:49:00 left, whole run 1:49:00"
    assert len(after[1]) == 80


def lines_on(bar, console):
    with console.capture() as shown:
        for part in bar._progress.get_renderables():
            console.print(part)
    return shown.get().splitlines()


def test_trainings_to_come_are_added_up_by_what_they_are(tmp_path):
    told = {"step_seconds": {"ForwardKL": 2.0, "CrossEntropy": 0.5}}
    kl, ce = ObjectiveSpec.of("ForwardKL"), ObjectiveSpec.of("CrossEntropy")
    arms = [Arm("fresh+kd", 0, tmp_path / "a", kl, 10), Arm("cut+ce", 0, tmp_path / "b", ce, 30)]
    assert expected_seconds(told, arms) == 2.0 * 10 + 0.5 * 30
    arms[0].student.mkdir(parents=True)
    (arms[0].student / "config.json").touch()
    assert expected_seconds(told, arms) == 0.5 * 30
    assert expected_seconds({}, arms) == 0.0


def test_a_student_that_was_given_is_not_called_cut():
    assert start_of({"signature": {"student": None}}) is CUT
    given = start_of({"signature": {"student": "a/folder"}})
    assert given is GIVEN
    assert given.name == "the student before training"
    assert label("cut", given) == "given, untrained"
    assert label("cut+ce@flops", given) == "given + cross-entropy, equal compute"
    assert label("cut+ce@flops") == "pruned + cross-entropy, equal compute"


@pytest.mark.parametrize(
    ("asked", "vocab"),
    [(10**5, 512), (10**6, 512), (10**6, 2048), (10**7, 32_000), (10**8, 512), (10**8, 32_000), (600 * 10**6, 32_000)],
)
def test_a_new_model_has_the_requested_parameters(asked, vocab):
    shape = scratch_shape(asked, vocab=vocab)
    tokens = type(
        "Tokens",
        (),
        {
            "bos_token_id": 0,
            "eos_token_id": 0,
            "pad_token_id": 0,
            "__len__": lambda _: vocab,
            "get_vocab": lambda _: {"x": vocab - 1},
        },
    )()
    with torch.device("meta"):
        made = sum(p.numel() for p in LlamaForCausalLM(llama_config(shape, tokens)).parameters())
    assert made == pytest.approx(asked, rel=0.01)
    assert 4 / 3 <= shape.ffn / shape.hidden <= 4
    assert 24 <= shape.hidden / shape.layers <= 128 or shape.layers == 2


def test_no_model_is_made_where_the_vocabulary_leaves_it_nothing():
    with pytest.raises(BadShape, match="no shape of about 100,000 parameters with a vocabulary of 32,000"):
        scratch_shape(10**5, vocab=32_000)
    # widths of 32 and 64, two layers: 8,224 + 2 (3,136 + 96 x 128) and 16,448 + 2 (12,416 + 192 x 88)
    with pytest.raises(BadShape, match="vocabulary of 256: the nearest have 39,072 and 75,072"):
        scratch_shape(58_000, vocab=256)
