"""Students of a teacher that does not fit in memory: scored layer by layer and cut from its files, the same as in memory."""

import json
import os
import signal
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import limbeck
from limbeck.corpora.opening import begin_with
from limbeck.errors import BadSetting
from limbeck.jobs.distil.teacher import RunTeacher
from limbeck.jobs.pair.student import OnDisk
from limbeck.models import within
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.models.streamed import StreamedModel
from limbeck.students import prune
from limbeck.teachers.ref import LocalRef
from tests.helpers.models import llama, tokenizer, write_corpus

LENGTH = 16


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A bfloat16 teacher and a text."""
    place = tmp_path_factory.mktemp("shrink")
    save(llama(layers=3, hidden=48, tok=tokenizer()), place / "teacher", dtype=torch.bfloat16)
    write_corpus(place, count=40)
    return place


@pytest.fixture
def little(monkeypatch) -> None:
    """Free memory for a part of the teacher alone."""
    monkeypatch.setattr(within, "free_on", lambda device: 100_000.0)


def shrink(here: Path, out: Path, **more) -> Path:
    asked = {"teacher": str(here / "teacher"), "data": str(here / "text.jsonl"), "params": "30k", "length": LENGTH}
    limbeck.shrink(**(asked | {"out": out} | more))
    return out


def assert_same_student(a: Path, b: Path) -> None:
    """All files but the card, which names the folder."""
    names = {path.name for path in a.iterdir()} - {"README.md"}
    assert names == {path.name for path in b.iterdir()} - {"README.md"}
    for name in names:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


@pytest.mark.long
@pytest.mark.parametrize("more", [{}, {"method": "gradient", "depth": "angular"}, {"vocab": 275, "params": "15k"}])
def test_a_student_of_a_teacher_larger_than_memory_is_the_same(more, here, tmp_path, monkeypatch, capsys):
    shrink(here, tmp_path / "resident", **more)
    assert "layer by layer" not in capsys.readouterr().err
    monkeypatch.setattr(within, "free_on", lambda device: 100_000.0)
    monkeypatch.setattr(within, "load", None)
    shrink(here, tmp_path / "streamed", **more)
    said = " ".join(capsys.readouterr().err.split())
    assert "in float32, 97.66 KiB of memory is free: it is read from disk layer by layer" in said
    assert_same_student(tmp_path / "resident", tmp_path / "streamed")
    assert json.loads((tmp_path / "streamed" / "config.json").read_text())["dtype"] == "bfloat16"
    lineage = json.loads((tmp_path / "streamed" / "lineage.json").read_text())
    scored = {"method": "activation", "depth": "influence"} | {
        name: more[name] for name in ("method", "depth") if name in more
    }
    assert {name: lineage[name] for name in scored} == scored
    card = (tmp_path / "streamed" / "README.md").read_text()
    assert "Units to keep were scored by {method}, layers by {depth}.".format(**scored) in card
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resident", "streamed"]


def test_greedy_needs_the_teacher_in_memory(here, tmp_path, little):
    with pytest.raises(BadSetting, match="greedy runs it again for each layer that may go"):
        shrink(here, tmp_path / "out", depth="greedy")
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.long
def test_a_student_is_not_rounded_to_the_format_that_its_teacher_computes_in(tmp_path, monkeypatch):
    monkeypatch.setattr("limbeck.jobs.common.environment._automatic", lambda *given: True)
    save(llama(layers=2, hidden=48, tok=tokenizer()), tmp_path / "teacher")
    write_corpus(tmp_path, count=40)
    shrink(tmp_path, tmp_path / "student", params=None, shape="layers=1")
    teacher, student = load(tmp_path / "teacher"), load(tmp_path / "student")
    assert torch.equal(student.model.model.embed_tokens.weight, teacher.model.model.embed_tokens.weight)


def _killed_while_writing(here: Path, out: Path) -> None:
    parts: list[str] = []
    read = prune._Pruning.part

    def part(self, name, theirs):
        parts.append(name)
        if len(parts) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, name, theirs)

    prune._Pruning.part = part
    shrink(here, out)


@pytest.mark.long
def test_a_command_that_is_killed_leaves_no_half_student_and_can_be_repeated(here, tmp_path, little):
    process = get_context("fork").Process(target=_killed_while_writing, args=(here, tmp_path / "out"))
    process.start()
    process.join()
    assert process.exitcode == -9
    assert not [path for path in (tmp_path / "out").iterdir() if path.suffix in (".json", ".safetensors")]
    assert len(list(tmp_path.iterdir())) == 2  # what was written is beside it
    shrink(here, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    shrink(here, tmp_path / "again")
    assert_same_student(tmp_path / "out", tmp_path / "again")


@pytest.mark.long
def test_a_capture_layer_by_layer_cuts_students_too(here, tmp_path):
    asked = {"teacher": str(here / "teacher"), "data": str(here / "text.jsonl"), "params": "30k", "length": LENGTH}
    asked |= {"kind": "drawn", "threads": 1, "tokens": "1k"}
    limbeck.capture(**asked, out=tmp_path / "resident")
    limbeck.capture(**asked, out=tmp_path / "streamed", stream=True)
    assert_same_student(tmp_path / "resident" / "cut" / "30k", tmp_path / "streamed" / "cut" / "30k")


@pytest.mark.long
@pytest.mark.parametrize("mixers", [None, "gdn"])
def test_captured_logits_need_no_teacher_in_memory_for_their_student(mixers, here, tmp_path, monkeypatch):
    limbeck.capture(
        teacher=str(here / "teacher"), data=str(here / "text.jsonl"), length=LENGTH, kind="drawn", threads=1,
        out=tmp_path / "logits",
    )  # fmt: skip
    asked = {"teacher": str(tmp_path / "logits"), "tokens": "512", "batch_tokens": 128, "threads": 1, "baselines": ()}
    asked |= {"mixers": mixers, "match": "none"} if mixers else {"params": "30k"}
    limbeck.distil(**asked, out=tmp_path / "resident")
    monkeypatch.setattr(within, "free_on", lambda device: 100_000.0)
    monkeypatch.setattr(within, "load", None)
    limbeck.distil(**asked, out=tmp_path / "streamed")
    assert_same_student(tmp_path / "resident" / "cut", tmp_path / "streamed" / "cut")
    if mixers is None:
        live = {"data": str(here / "text.jsonl"), "length": LENGTH, "teacher": str(here / "teacher")}
        limbeck.distil(**(asked | live), out=tmp_path / "live")
        assert_same_student(tmp_path / "live" / "cut", tmp_path / "streamed" / "cut")


def test_quantised_weights_are_never_read_layer_by_layer(here, tmp_path, monkeypatch, little):
    calls = []
    monkeypatch.setattr(within, "is_quantised", lambda config: True)
    monkeypatch.setattr(within, "load", lambda *args, **keys: calls.append(args))
    keys = {"device": torch.device("cpu"), "dtype": torch.float32, "length": LENGTH, "spill": tmp_path}
    within.load_within(here / "teacher", **keys)
    assert calls == [(here / "teacher",)]
    monkeypatch.setattr(within, "is_quantised", lambda config: False)
    said = []
    assert isinstance(within.load_within(here / "teacher", **keys, say=said.append), StreamedModel)
    assert len(said) == 1


def test_the_first_rank_of_a_sharded_mesh_cuts_from_the_files(here, tmp_path):
    whole = load(here / "teacher")
    teacher = RunTeacher(whole, whole, local=LocalRef(str(here / "teacher")))
    begin_with(whole, whole.tokenizer.eos_token)

    def cut(**world: bool) -> LanguageModel | OnDisk:
        place = SimpleNamespace(device=torch.device("cpu"), **world)
        return teacher.to_cut(SimpleNamespace(world=place, dtype=torch.float32), length=LENGTH, spill=tmp_path)

    assert cut(sharded=False, first=True) is whole
    assert cut(sharded=True, first=False) is whole
    found = cut(sharded=True, first=True)
    assert found.stored.about.tokenizer.bos_token == whole.tokenizer.eos_token
    name = "model.layers.2.mlp.up_proj.weight"
    assert torch.equal(found.stored.tensor(name, torch.float32), whole.model.get_parameter(name))
    assert torch.equal(found.run().model.get_parameter(name), whole.model.get_parameter(name))
