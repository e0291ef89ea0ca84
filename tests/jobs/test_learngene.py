"""`limbeck distil --depths --learngene`: what is shared, its cost, the control, going on after a stop, and what is refused."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

import limbeck
from limbeck.config import DistilSettings
from limbeck.disk import read_lines
from limbeck.errors import BadSetting, BadShape, Interrupted
from limbeck.jobs.common.folder import signature_of
from limbeck.jobs.distil import arms
from limbeck.models.load import load
from limbeck.report.before import expanded_from
from limbeck.run.run import Run
from limbeck.run.step import train_step
from limbeck.students.share import expand
from limbeck.students.shared_folder import load_shared
from tests.helpers.models import write_corpus, write_teacher


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("learngene")
    write_teacher(folder)
    write_corpus(folder)
    return folder


def distil(here: Path, out: str, **keys):
    usual = {"teacher": str(here / "teacher"), "data": str(here / "text.jsonl"), "length": 32, "batch_tokens": 128}
    usual |= {"tokens": "1k", "threads": 1, "out": here / out, "depths": "2,3", "learngene": "stages=2"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "measure", lambda self, seconds: 0.0)
        return limbeck.distil(**(usual | keys))


@pytest.fixture(scope="module")
def done(here):
    distil(here, "whole", baselines="cut,layers+kd")
    return here / "whole"


def steps(folder: Path) -> int:
    return len(read_lines(folder / "metrics.jsonl"))


@pytest.mark.long
def test_each_student_costs_the_tokens_of_one_that_shares_nothing(done):
    """1k tokens are 8 steps: 4 of a student's own, 4 of each of the two in the auxiliary's training."""
    assert steps(done / "shared") == 2 * 4
    for member in ("3-layers", "2-layers"):
        assert steps(done / member) == 4
        assert steps(done / member / "baselines" / "layers+kd-seed0") == 8


@pytest.mark.long
def test_students_are_expanded_from_what_was_trained_once(done, here):
    auxiliary, sharing = load_shared(done / "shared" / "layers")
    assert (sharing.layers, sharing.stages) == (3, 2)
    for layers in (3, 2):
        cut, own = load(done / f"{layers}-layers" / "cut"), expand(auxiliary, sharing, layers)
        ours, theirs = (dict(model.model.named_parameters()) for model in (cut, own))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert load(done / f"{layers}-layers" / "student").config.num_hidden_layers == layers
    assert not list(done.rglob("step-*"))


@pytest.mark.long
def test_shared_layers_are_expanded_later(done, tmp_path, monkeypatch):
    layers = str(done / "shared" / "layers")
    made = limbeck.grow(model=layers, shape="layers=2", seq_len=32, threads=1, out=tmp_path / "out")
    ours, theirs = load(tmp_path / "out"), load(done / "2-layers" / "cut")
    assert all(map(torch.equal, ours.model.state_dict().values(), theirs.model.state_dict().values()))
    assert (ours.lineage or {})["learngene"] == {"kind": "stages", "layers": 3, "stages": [0, 1]}
    assert made.readings["after"].n == made.readings["before"].n  # the documents that the family kept from training
    assert made.readings["kl"].value > 0
    card = " ".join((tmp_path / "out" / "README.md").read_text().split())
    assert "# Student of teacher" in card
    assert "expanded from layers of its teacher that a family shares" in card
    assert f"limbeck distil --teacher {done.parent / 'teacher'} --student {tmp_path / 'out'} --data" in card
    assert f"--data {done.parent / 'text.jsonl'}" in card
    whole = limbeck.grow(model=layers, shape="layers=3", seq_len=32, threads=1, out=tmp_path / "whole")
    assert whole.readings["kl"].value == pytest.approx(0, abs=1e-7)  # as deep as they were trained
    for more, error, said in (
        ({}, BadSetting, "expected --shape layers=INT, got no --shape"),
        ({"shape": "layers=2,hidden=64"}, BadSetting, "got --shape layers=2,hidden=64"),
        ({"shape": "layers=2", "op": "stack"}, BadSetting, "--op is for models"),
        ({"shape": "layers=4"}, BadShape, "4 layers cannot be expanded from 3 layers of stages 0 0 1: give 2 to 3"),
    ):
        with pytest.raises(error, match=said):
            limbeck.grow(model=layers, threads=1, out=tmp_path / "no", **more)
        assert not (tmp_path / "no").exists()


@pytest.mark.long
def test_the_cost_of_shared_layers_is_said_whole_and_by_student(done):
    lineage = json.loads((done / "2-layers" / "student" / "lineage.json").read_text())
    shared = lineage["learngene"]
    assert shared["stages"] == [0, 1]
    assert shared["tokens"] == 2 * 4 * 128
    assert shared["own_tokens"] == 4 * 128
    assert shared["flops"] / shared["tokens"] > shared["own_flops"] / shared["own_tokens"]  # three layers against two
    said = expanded_from(lineage)
    assert "1.02 k tokens" in said
    assert "Of 2 students each is charged 512 tokens" in said
    for file in (done / "2-layers" / "report.html", done / "2-layers" / "student" / "README.md"):
        assert said in file.read_text().replace("&nbsp;", " ")


@pytest.mark.long
def test_the_control_is_the_teachers_layers_at_equal_tokens(done):
    verdict = json.loads((done / "2-layers" / "verdict.json").read_text())
    assert "layers+kd - student" in {one["name"] for one in verdict["differences"]}
    assert load(done / "2-layers" / "layers+kd").lineage["kept"]["layers"] in ([0, 2], [0, 1], [1, 2])
    page = (done / "report.html").read_text()
    assert "layers of the teacher + KD" in page


@pytest.mark.long
@pytest.mark.parametrize("how", ["stages=2", "linear"])
def test_a_family_stopped_while_its_layers_are_trained_ends_with_the_same_bits(here, monkeypatch, how):
    count = []

    def stopping(*args, **keys):
        count.append(1)
        if len(count) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(*args, **keys)

    name = how.replace("=", "")
    distil(here, f"{name}-whole", baselines="none", learngene=how)
    with monkeypatch.context() as patch:
        patch.setattr(arms, "train_step", stopping)
        with pytest.raises(Interrupted):
            distil(here, name, baselines="none", learngene=how)
    assert not (here / name / "3-layers" / "cut").exists()
    distil(here, name, baselines="none", learngene=how)
    shutil.rmtree(here / name / "2-layers" / "student")  # as if it had been killed before it was saved
    distil(here, name, baselines="none", learngene=how)
    for member in ("3-layers", "2-layers"):
        whole, again = (
            folder / member / "student" / "model.safetensors" for folder in (here / f"{name}-whole", here / name)
        )
        assert again.read_bytes() == whole.read_bytes()


def test_settings_of_depths_are_those_of_a_later_version():
    assert "depths" not in signature_of(DistilSettings(), "distil")
    found = signature_of(DistilSettings(depths="3,4,6", learngene="stages = 3"), "family")
    assert (found["depths"], found["learngene"]) == ([6, 4, 3], "stages=3")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learngene": "stages=3"}, "--learngene stages=3 with --depths 2,3: the student of 2 layers has fewer layers"),
        ({"depths": "2,9"}, "--depths 2,9: the teacher has 3 layers"),
        ({"depths": "1", "learngene": "linear"}, "--learngene linear with --depths 1: 1 layer is no line of layers"),
        ({"depths": None}, "needs --depths|--depths"),
        ({"params": "40k"}, "--params and --depths both define the student"),
        ({"shape": "hidden=32"}, "--shape and --depths both define the student"),
        ({"mixers": "gdn"}, "--learngene and --mixers: shared layers are expanded to the teacher's own"),
        ({"rounds": 2}, "--learngene and --rounds: both train before"),
        ({"rollouts": "0.5"}, "--learngene and --rollouts: the shared layers are trained on the text alone"),
        ({"objective": "ForwardKL, ReverseKL"}, "shared layers are trained once, with one objective"),
        ({"tokens": "128"}, "1 step cannot be shared by two trainings"),
        ({"learngene": "stages"}, "expected stages=3 .* or linear"),
        ({"depths": "2,x"}, "expected numbers of layers between commas"),
        ({"learngene": None, "baselines": "layers+kd"}, r"--baselines layers\+kd .* give --learngene"),
    ],
)  # fmt: skip
def test_what_cannot_be_shared_is_an_error_before_anything_is_written(here, changes, said):
    with pytest.raises(BadSetting, match=said):
        distil(here, "refused", **changes)
    assert not (here / "refused" / "shared").exists()


@pytest.mark.long
def test_depths_without_shared_layers_are_pruned_one_by_one(here):
    distil(here, "plain", depths="2", learngene=None, baselines="none")
    assert load(here / "plain" / "2-layers" / "student").config.num_hidden_layers == 2
    assert not (here / "plain" / "shared").exists()
