"""`limbeck distil --adapt-teacher`: what the teacher is before and after, what equal compute counts, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import limbeck
from limbeck.config import DistilSettings, ImportSettings
from limbeck.disk import read_lines
from limbeck.errors import BadSetting
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.distil import correction
from limbeck.jobs.distil.correction import AsGiven, check_correction
from limbeck.jobs.distil.request import DistilRequest
from limbeck.jobs.importing.job import import_model
from limbeck.models.configuration import load_config
from limbeck.planning.cost.size import Size
from limbeck.run.run import Run
from limbeck.run.world import alone
from limbeck.students.adapters import AdapterPlan, adapt, adapted_layers
from tests.helpers.models import batch, llama, write_corpus, write_teacher
from tests.helpers.ranks import on_ranks

LENGTH = 32


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with a teacher and a corpus."""
    folder = tmp_path_factory.mktemp("corrected")
    write_teacher(folder)
    write_corpus(folder)
    return folder


def distil(here: Path, out: Path, **more: Any) -> Any:
    keys: dict[str, Any] = {"teacher": str(here / "teacher"), "data": str(here / "text.jsonl"), "shrink": 2.0}
    keys |= {"tokens": 512, "length": LENGTH, "batch_tokens": 128, "threads": 1, "any_teacher": True}
    return limbeck.distil(**keys | {"out": out} | more)


@pytest.fixture(scope="module")
def done(here) -> Path:
    """A run with a corrected teacher, and both baselines of the teacher as given."""
    distil(here, here / "out", adapt_teacher=1024, baselines="uncorrected,uncorrected@flops")
    return here / "out"


def nats(folder: Path) -> dict[str, float]:
    return {row["model"]: row["value"] for row in read_lines(folder / "readings.jsonl") if row["name"] == "held_out"}


@pytest.mark.long
def test_a_mixture_is_read_by_its_weights(here, tmp_path, monkeypatch):
    other, read = write_corpus(tmp_path, 60), []

    def stops(folder, label, model, teacher, rows, *others):
        read.append(rows)
        raise KeyboardInterrupt

    monkeypatch.setattr(correction, "Run", stops)
    with pytest.raises(KeyboardInterrupt):
        distil(here, tmp_path / "out", data=f"{here / 'text.jsonl'}:9,{other}:1", adapt_teacher=1024, baselines="none")
    (span,) = read[0]._sources.spans
    assert span.shares.tolist() == pytest.approx([0.9, 0.1], abs=0.01)  # of rows, which are not all full


@pytest.mark.long
def test_the_baseline_is_the_distillation_from_the_teacher_as_given_bit_by_bit(done, here, tmp_path):
    distil(here, tmp_path / "plain", baselines="none")
    plain, baseline, student = (
        load_file(folder / "student" / "model.safetensors")
        for folder in (tmp_path / "plain", done / "baselines" / "uncorrected-seed0", done)
    )
    assert all(torch.equal(plain[name], baseline[name]) for name in plain)
    assert not all(torch.equal(plain[name], student[name]) for name in plain)
    found, given = nats(done), nats(tmp_path / "plain")
    assert found["teacher-given"] == given["teacher"]
    assert found["teacher"] < found["teacher-given"]


@pytest.mark.long
def test_equal_compute_counts_the_correction(done, here):
    """By hand, in FLOPs: the student's steps with the teacher's forward pass, and 1,024 tokens of the adapters on the teacher."""
    student, teacher = (Size.of(load_config(folder)) for folder in (done / "cut", here / "teacher"))
    forward = [2 * size.multiplied + 2 * (LENGTH + 1) * size.layers * size.attention for size in (student, teacher)]
    shapes = [w.shape for n, w in load_file(here / "teacher" / "model.safetensors").items() if "_proj" in n]
    numbers = sum(16 * (rows + columns) for rows, columns in shapes)
    tuned = 1024 * (3 * forward[1] - 2 * teacher.multiplied + 6 * numbers)
    taught = 3 * forward[0] + forward[1]
    run = json.loads((done / "run.json").read_text())
    assert run["correction"]["flops"] == pytest.approx(tuned)
    assert run["correction"]["numbers"] == numbers
    assert run["teacher"]["corrected"] == pytest.approx(tuned / 512 / (3 * forward[0]))
    assert run["teacher"]["parameters"] == teacher.parameters
    steps = {arm["name"]: arm["steps"] for arm in run["plan"]["arms"]}
    assert steps["student"] == steps["uncorrected"] == 4
    assert steps["uncorrected@flops"] == round(4 * (512 * taught + tuned) / (512 * taught))


@pytest.mark.long
def test_the_correction_is_spread_over_the_steps_that_it_taught(here, tmp_path):
    """Those after a conversion, in which layers are matched to the teacher's own."""
    how: dict[str, Any] = {"mixers": "based", "tokens": 1024, "any_teacher": True}
    distil(here, tmp_path / "out", adapt_teacher=1024, baselines="uncorrected@flops", **how)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    steps = {arm["name"]: arm["steps"] for arm in run["plan"]["arms"]}
    assert 0 < steps["student"] < 1024 // 128
    teacher = Size.of(load_config(here / "teacher")).forward_flops(LENGTH)
    spread = run["correction"]["flops"] / teacher / (steps["student"] * 128)
    assert run["teacher"]["corrected"] == pytest.approx(run["teacher"]["price"] * spread)


@pytest.mark.long
def test_a_run_says_what_the_correction_changed(done, tmp_path):
    page = (done / "report.html").read_text().replace("&nbsp;", " ")
    for words in ("teacher as given", "from the teacher as given, equal compute", "The teacher was corrected first"):
        assert words in page
    assert "Its teacher was tuned on 1.02 k tokens" in (done / "student" / "README.md").read_text()
    differences = {one["name"] for one in json.loads((done / "verdict.json").read_text())["differences"]}
    assert {"uncorrected - student", "uncorrected@flops - student"} <= differences
    import_model(ImportSettings(model=str(done / "teacher" / "adapter"), out=tmp_path / "merged"))
    assert not list((done / "teacher").glob("step-*"))


def test_a_corrected_teacher_as_given_has_the_bits_of_its_weights():
    teacher, rows = llama(hidden=48), batch()
    before = teacher(rows).hidden
    adapt(teacher, AdapterPlan(2, 4.0), seed=0)
    for layer in adapted_layers(teacher).values():
        torch.nn.init.ones_(layer.lora_B)
    after, given = teacher(rows).hidden, AsGiven(teacher)(rows).hidden
    assert torch.equal(given, before)
    assert not torch.allclose(after, before)
    assert torch.equal(teacher(rows).hidden, after)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"adapt_teacher": None, "baselines": "uncorrected"},
            "--baselines uncorrected queries the teacher as it was given",
        ),
        ({"objective": "CrossEntropy"}, "--adapt-teacher 1,000: no objective queries the teacher"),
        ({"cache_logits": True}, "does not go with --cache-logits"),
        ({"rounds": 2}, "does not go with --rounds"),
        ({"params": "40k,30k"}, "does not go with several students"),
        ({"tokenizer_align": "bytes"}, "does not go with --tokenizer-align"),
        (
            {"teacher": "http://127.0.0.1:9/v1", "tokenizer": "t"},
            "cannot be tuned, since it is on a server. Tune the model itself with limbeck tune",
        ),
    ],
)
def test_what_does_not_go_with_a_correction_is_refused_with_its_reason(given, message, here):
    keys = {"teacher": str(here / "teacher"), "adapt_teacher": "1k"} | given
    with pytest.raises(BadSetting, match=message):
        check_correction(DistilRequest.of(DistilSettings(**keys)), Environment(alone(), bf16=False))


@pytest.mark.long
@pytest.mark.parametrize("stop", [3, 5])  # in the correction, and in the student's training
def test_a_stopped_run_continues_to_the_same_bits(stop, here, tmp_path, monkeypatch):
    how: dict[str, Any] = {"adapt_teacher": 512, "baselines": "none"}
    distil(here, tmp_path / "whole", **how)
    step, taken = Run._step, []

    def stopping(self, number, *given):
        if self.folder.parts[-1] in ("teacher", "parts") and number:
            taken.append(number)
            if len(taken) == stop:
                raise KeyboardInterrupt
        return step(self, number, *given)

    monkeypatch.setattr(Run, "_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        distil(here, tmp_path / "parts", save_every=1, **how)
    monkeypatch.setattr(Run, "_step", step)
    distil(here, tmp_path / "parts", save_every=1, **how)
    for file in ("student/model.safetensors", "teacher/adapter/adapter_model.safetensors"):
        whole, parts = (load_file(tmp_path / name / file) for name in ("whole", "parts"))
        assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert len(read_lines(tmp_path / "parts" / "teacher" / "metrics.jsonl")) == 4


@pytest.mark.long
def test_two_processes_correct_the_teacher_of_one(here, tmp_path):
    how: dict[str, Any] = {"adapt_teacher": 512, "baselines": "none"}
    distil(here, tmp_path / "one", **how)

    def work(_: Any) -> bool:
        distil(here, tmp_path / "two", **how)
        return True

    assert on_ranks(2, work, mesh="replicate") == [True, True]
    for file in ("student/model.safetensors", "teacher/adapter/adapter_model.safetensors"):
        one, two = (load_file(tmp_path / name / file) for name in ("one", "two"))
        assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)
