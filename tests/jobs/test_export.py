"""`limbeck export`: everything is written or nothing, compared with the model, and what was not run is said."""

import errno
import json

import numpy as np
import pytest
import torch

import limbeck
from limbeck.errors import BadFolder, BadModel, BadSetting
from limbeck.exporters.gguf import runtime
from limbeck.exporters.given import given
from limbeck.jobs.export import job, speed
from limbeck.jobs.export.compare import compare, outputs_of
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.types import Batch
from tests.helpers.models import llama, texts

pytest.importorskip("gguf", reason="the package gguf is not installed")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(job, "_ROWS", (2, 2))
    monkeypatch.setattr(speed, "PROMPT", 8)
    monkeypatch.setattr(speed, "NEW", 2)
    monkeypatch.setattr(speed, "_TIMES", 1)


@pytest.fixture
def place(tmp_path):
    save(llama(), tmp_path / "student", dtype=torch.bfloat16, card="---\nlibrary_name: transformers\n---\n\n# Mine\n")
    lines = [json.dumps({"text": text}) for text in texts(80)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def exported(place, to: str, out: str = "out", **keys):
    given = {"model": str(place / "student"), "data": str(place / "text.jsonl"), "threads": 1, "device": "cpu"}
    return limbeck.export(**given | keys, to=to, out=place / out)


def test_several_formats_have_a_folder_each(place, monkeypatch):
    monkeypatch.setattr(runtime, "library", lambda: None)
    result = exported(place, "folder,gguf:q8_0")
    folder, gguf = result.exports
    assert sorted(file.name for file in (place / "out").iterdir()) == ["folder", "gguf-q8_0"]
    assert (folder.format, gguf.format) == ("folder", "gguf:q8_0")
    assert gguf.compared is None
    assert gguf.reason == "llama.cpp is not installed: pip install 'limbeck[llamacpp]'"
    assert gguf.files == ("Modelfile", "student-q8_0.gguf")
    assert gguf.bytes == sum((place / "out" / "gguf-q8_0" / name).stat().st_size for name in gguf.files)
    # the folder holds the same bfloat16 numbers as the model
    assert folder.compared.largest_difference == 0
    assert (folder.compared.kl.value, folder.compared.same.value, folder.compared.difference.value) == (0, 1, 0)
    assert folder.compared.tokens > 100
    assert [one.threads for one in folder.speeds] == [1]
    assert json.loads((place / "out" / "folder" / "config.json").read_text())["dtype"] == "bfloat16"


def test_the_record_and_the_card_name_no_folder_of_this_machine(place, monkeypatch):
    monkeypatch.setattr(runtime, "library", lambda: None)
    exported(place, "gguf:f32")
    for name in ("export.json", "README.md", "Modelfile"):
        assert str(place) not in (place / "out" / name).read_text()
    card = (place / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: gguf\n---\n\n# Mine\n")
    assert "Not verified: llama.cpp is not installed" in card
    assert "llama-cli -m student-f32.gguf" in card


@pytest.mark.extras
def test_llama_cpp_is_compared_and_timed(place):
    result = exported(place, "gguf:f32,gguf:q4_0")
    exact, rough = result.exports
    assert 0 <= exact.compared.kl.value < 1e-4 < rough.compared.kl.value
    assert exact.compared.same.value > 0.99
    assert exact.compared.difference.low <= exact.compared.difference.value <= exact.compared.difference.high
    assert all(one.prefill > 0 and one.generation > 0 for export in result.exports for one in export.speeds)


def test_a_full_disk_leaves_nothing(place, monkeypatch):
    from gguf import GGUFWriter

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(GGUFWriter, "write_tensor_data", full)
    with pytest.raises(BadFolder, match="the disk is full"):
        exported(place, "folder,gguf")
    assert sorted(file.name for file in place.iterdir()) == ["student", "text.jsonl"]


def test_one_format_that_cannot_hold_the_model_leaves_nothing(place):
    model = llama()
    model.config.hidden_act = "relu"
    save(model, place / "student")
    with pytest.raises(BadModel, match="hidden_act = 'relu' has no place in a GGUF file"):
        exported(place, "folder,gguf")
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("", "expected a format"),
        ("folder,folder", "folder is there twice"),
        ("gguf:q3", "unknown variant 'q3' of gguf"),
        ("onyx", "unknown exporter 'onyx'"),
    ],
)
def test_formats_that_are_not_there(place, to, message):
    with pytest.raises(BadSetting, match=message):
        exported(place, to)


def test_a_folder_with_something_in_it_is_left_alone(place):
    (place / "out").mkdir()
    (place / "out" / "mine").write_text("x")
    with pytest.raises(BadFolder, match="is not empty"):
        exported(place, "folder")


class Tilted:
    """A model whose logits are another's, with the first token ``by`` nats more probable before the norm."""

    name = "tilted"

    def __init__(self, model: LanguageModel, by: float) -> None:
        self.model, self.by, self.vocab = model, by, model.vocab

    def __call__(self, batch: Batch):
        logits = self.model(batch).logits().reshape(*batch.tokens.shape, -1).clone()
        logits[..., 0] += self.by
        return given(logits, self.vocab)


def test_what_is_compared_is_what_the_formulas_say(place):
    model = load(place / "student")
    tokens = torch.randint(model.vocab, (2, 12), generator=torch.Generator().manual_seed(0))
    position, document = torch.arange(11).expand(2, -1), torch.arange(2)[:, None].expand(2, 11)
    batch = Batch(tokens[:, :-1], tokens[:, 1:], torch.ones(2, 11), position, document, torch.arange(2))
    found = compare(outputs_of(model, [batch]), Tilted(model, 0.7), vocab=model.vocab, documents=2)
    log_p = model(batch).logits().double().log_softmax(-1)
    norm = torch.log1p(log_p[:, 0].exp() * np.expm1(0.7))
    log_q = log_p - norm[:, None]
    log_q[:, 0] += 0.7
    assert found["tokens"] == 22
    assert found["kl"]["value"] == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum(-1).mean()), rel=1e-4)
    assert found["largest_difference"] == pytest.approx(float((log_p - log_q).abs().max()), rel=1e-4)
    nats = -log_q.gather(-1, batch.targets.reshape(-1, 1)).mean()
    assert found["written_nats"]["value"] == pytest.approx(float(nats), rel=1e-5)
    assert found["difference"]["value"] == pytest.approx(
        found["written_nats"]["value"] - found["nats"]["value"], rel=1e-4
    )


def test_folders_of_this_machine_are_taken_out_of_a_text():
    text = "the 5 documents of /home/me/x.jsonl that the run in ../runs/a kept, hf:owner/name/train, http://h:1/v1"
    expected = "the 5 documents of x.jsonl that the run in a kept, hf:owner/name/train, http://h:1/v1"
    assert job.without_folders(text) == expected
