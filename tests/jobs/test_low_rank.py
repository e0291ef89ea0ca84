"""`limbeck shrink --low-rank`: a student of factors is made, loaded, trained and described; flags that do not fit are refused."""

import json
from pathlib import Path

import pytest
import torch

import limbeck
from limbeck.errors import BadFolder, BadModel, BadSetting, Interrupted
from limbeck.models.load import load
from limbeck.models.mixers.low_rank import LowRank
from limbeck.models.save import save
from limbeck.students.factor import Budget
from limbeck.students.low_rank import planned_config
from tests.helpers.models import llama, tokenizer, write_corpus

LENGTH = 32


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A teacher, a text, and a student of factors with entries kept apart."""
    place = tmp_path_factory.mktemp("low-rank")
    save(llama(layers=2, hidden=48, tok=tokenizer()), place / "teacher")
    write_corpus(place, count=40)
    shrink(place, place / "factors", sparse=0.02)
    return place


def shrink(here: Path, out: Path, **more):
    asked = {"teacher": str(here / "teacher"), "data": str(here / "text.jsonl"), "low_rank": 0.6, "length": LENGTH}
    return limbeck.shrink(**(asked | {"out": out} | more))


def test_a_student_of_factors_is_saved_described_and_loaded(here):
    student = load(here / "factors")
    layer = student.decoder.layers[1]
    assert isinstance(layer.mlp.down_proj, LowRank)
    assert isinstance(layer.mixer.q_proj, LowRank)
    assert layer.mlp.down_proj.values is not None
    card = " ".join((here / "factors" / "README.md").read_text().split())
    assert "made of low-rank factors of its teacher's matrices" in card
    assert "not trained: distil it before use" in card
    assert "trust_remote_code=True" in card
    assert "with 60% of their parameters, 2.0% of their entries apart, fitted by whitened" in card
    assert json.loads((here / "factors" / "lineage.json").read_text())["low_rank"]["keep"] == 0.6


@pytest.fixture(scope="module")
def run(here) -> Path:
    """One command that makes factors and distils them."""
    distil(here, here / "run")
    return here / "run"


def distil(here: Path, out: Path, **more):
    asked = {"teacher": str(here / "teacher"), "data": str(here / "text.jsonl"), "low_rank": 0.6, "sparse": 0.02}
    asked |= {"length": LENGTH, "tokens": 512, "batch_tokens": 64, "baselines": "cut,cut+ce,fresh+kd", "threads": 1}
    return limbeck.distil(**(asked | {"out": out} | more))


@pytest.mark.long
def test_one_command_makes_factors_and_distils_them(here, run):
    cut, student, teacher = load(run / "cut"), load(run / "student"), load(here / "teacher")
    assert cut.config.factors == load(here / "factors").config.factors  # as of shrink
    assert cut.config.factors == planned_config(teacher.config, Budget(0.6, 0.02)).factors
    assert student.lineage == cut.lineage
    assert (student.lineage or {})["low_rank"]["keep"] == 0.6
    before, after = cut.model.state_dict(), student.model.state_dict()
    moved = {name: not torch.equal(tensor, after[name]) for name, tensor in before.items()}
    assert all(change != name.endswith("places") for name, change in moved.items()), moved  # which stay
    card = (run / "student" / "README.md").read_text()
    assert "made of low-rank factors of its teacher's matrices" in card
    page = (run / "report.html").read_text()
    assert "factored, untrained" in page
    assert all(name in page for name in ("factored + cross-entropy", "fresh"))


@pytest.mark.long
def test_a_run_of_factors_continues_with_those_that_it_made(here, run, tmp_path, monkeypatch):
    def stopped(arm, shared, **how):
        raise Interrupted("a kill", 15)

    with monkeypatch.context() as patch:
        patch.setattr("limbeck.jobs.distil.job.train", stopped)
        with pytest.raises(Interrupted):
            distil(here, tmp_path / "out", baselines="none")
    monkeypatch.setattr("limbeck.jobs.pair.low_rank.factored_student", None)  # they are not fitted again
    distil(here, tmp_path / "out", baselines="none")
    name = "student/model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (run / name).read_bytes()
    with pytest.raises(BadFolder, match=r"low_rank: 0\.6 there"):
        distil(here, tmp_path / "out", baselines="none", low_rank=0.5)


def test_the_doctor_looks_at_the_planned_factors(here):
    found = limbeck.doctor(teacher=str(here / "teacher"), data=str(here / "text.jsonl"), low_rank=0.6, length=LENGTH)
    assert found.ok
    with pytest.raises(BadSetting, match="--qat int8: no GGUF file holds low-rank factors"):
        limbeck.doctor(teacher=str(here / "teacher"), data=str(here / "text.jsonl"), low_rank=0.6, qat="int8")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"params": "20k"}, "--low-rank and --params both define the student"),
        ({"student": "teacher"}, "--low-rank and --student both define"),
        ({"mixers": "gdn"}, "--low-rank and --mixers both define"),
        ({"rounds": 2}, "--low-rank and --rounds both define"),
        ({"depths": "1,2"}, "--low-rank and --depths both define"),
        ({"learngene": "linear"}, "--learngene linear: shared layers are for students of several depths"),
        ({"low_rank": None, "params": "20k", "factor": "svd"}, "--factor is about low-rank factors: give --low-rank"),
        ({"method": "random"}, "--method scores what is pruned"),
    ],
)
def test_flags_that_do_not_go_with_factors_are_refused_by_distil(more, said, here, tmp_path, monkeypatch):
    monkeypatch.chdir(here)
    with pytest.raises(BadSetting, match=said):
        distil(here, tmp_path / "out", **more)
    assert not (tmp_path / "out").exists()


def test_the_same_command_makes_the_same_student(here, tmp_path):
    shrink(here, tmp_path / "again", sparse=0.02)
    name = "model.safetensors"
    assert (tmp_path / "again" / name).read_bytes() == (here / "factors" / name).read_bytes()


def test_multiplied_out_it_is_a_model_of_the_teachers_kind(here, tmp_path):
    result = shrink(here, tmp_path / "dense", dense=True)
    assert result.parameters == result.teacher_parameters
    assert load(tmp_path / "dense").config.model_type == "llama"
    assert "as large as its teacher" in (tmp_path / "dense" / "README.md").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"params": "20k"}, "--low-rank and --params both define the student"),
        ({"method": "gradient"}, "--method scores what is pruned"),
        ({"depth": "greedy"}, "--depth scores what is pruned"),
        ({"low_rank": None, "params": "20k", "sparse": 0.1}, "--sparse is about low-rank factors: give --low-rank"),
        ({"sparse": 0.4}, r"give less than 0\.3"),
    ],
)
def test_flags_that_do_not_fit_are_refused(more, message, here, tmp_path):
    with pytest.raises(BadSetting, match=message):
        shrink(here, tmp_path / "out", **more)
    assert not (tmp_path / "out").exists()


def test_a_teacher_larger_than_memory_is_refused(here, tmp_path, monkeypatch):
    monkeypatch.setattr("limbeck.models.within.free_on", lambda device: 100_000.0)
    with pytest.raises(BadSetting, match="larger than the memory that is free"):
        shrink(here, tmp_path / "out")


def test_a_teacher_that_does_not_fit_our_decoder_is_told_of_dense(here, tmp_path, monkeypatch):
    monkeypatch.setattr("limbeck.students.low_rank.obstacle", lambda config: "its layers have biases")
    with pytest.raises(BadModel, match=r"its layers have biases.*--dense"):
        shrink(here, tmp_path / "out")
