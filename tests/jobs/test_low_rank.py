"""`limbeck shrink --low-rank`: a student of factors is made, loaded, trained and described; flags that do not fit are refused."""

import json
from pathlib import Path

import pytest
import torch

import limbeck
from limbeck.errors import BadModel, BadSetting
from limbeck.models.load import load
from limbeck.models.mixers.low_rank import LowRank
from limbeck.models.save import save
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


def test_it_is_trained_as_factors_with_its_places_where_they_were(here, tmp_path):
    limbeck.distil(
        teacher=str(here / "teacher"), student=str(here / "factors"), data=str(here / "text.jsonl"), length=LENGTH,
        tokens=512, batch_tokens=64, baselines="none", threads=1, out=tmp_path / "run",
    )  # fmt: skip
    before, after = load(here / "factors"), load(tmp_path / "run" / "student")
    moved = {
        name: not torch.equal(tensor, dict(after.model.state_dict())[name])
        for name, tensor in before.model.state_dict().items()
    }
    assert all(change != name.endswith("places") for name, change in moved.items()), moved
    assert (after.lineage or {})["low_rank"] == (before.lineage or {})["low_rank"]
    assert "made of low-rank factors" in (tmp_path / "run" / "student" / "README.md").read_text()


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
