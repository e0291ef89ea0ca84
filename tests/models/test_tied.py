"""An output head of its own although the configuration ties it to the embedding: the file decides, everywhere."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from limbeck.models.anatomy import Anatomy
from limbeck.models.configuration import load_config
from limbeck.models.declared import read_anatomy
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.models.streamed import load_streamed
from limbeck.models.tied import has_own_head
from limbeck.planning.cost.size import Size
from limbeck.students.convert import convert
from limbeck.students.prune import prune
from limbeck.students.score import score
from limbeck.students.shape import parse_shape
from tests.helpers.zoo import animal, packed

NAMES = ["llama", "gpt2"]
_ELEMENTS = 48 * 32


@pytest.fixture(params=NAMES)
def folder(request, tmp_path: Path) -> Path:
    """A model saved as tied, with another head in its file."""
    path = tmp_path / request.param
    save(animal(request.param), path)
    tensors = load_file(path / "model.safetensors")
    assert "lm_head.weight" not in tensors
    tensors["lm_head.weight"] = torch.randn(48, 32, generator=torch.Generator().manual_seed(5))
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


def _head(folder: Path) -> torch.Tensor:
    return load_file(folder / "model.safetensors")["lm_head.weight"]


def test_the_file_decides_whether_head_and_embedding_are_one(folder):
    assert has_own_head(folder)
    assert load_config(folder).tie_word_embeddings is False
    tied = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(tied))
    model = load(folder)
    assert torch.equal(model.head.weight, _head(folder))
    anatomy = Anatomy.of(load_config(folder))
    declared = read_anatomy(folder / "config.json")
    assert declared is not None
    assert not anatomy.tied
    assert not declared.tied
    assert Size.of(load_config(folder)).head == Size.of_anatomy(declared).head == _ELEMENTS
    assert Size.of_anatomy(declared).parameters == model.parameters_count


def test_the_head_goes_through_a_cut_a_stream_and_a_saved_copy(folder, tmp_path):
    teacher, batch = load(folder), packed()
    shape = parse_shape("layers=2", teacher.config)
    student = prune(teacher, shape=shape, scores=score(teacher, [batch], method="activation", seed=0))
    for model, name in ((student, "cut"), (teacher, "copy")):
        save(model, tmp_path / name)
        assert torch.equal(load(tmp_path / name).head.weight, _head(folder))
        assert json.loads((tmp_path / name / "config.json").read_text())["tie_word_embeddings"] is False
    streamed = load_streamed(folder, memory=64e6, length=12, spill=tmp_path)
    torch.testing.assert_close(streamed(batch).logits(), teacher(batch).logits())


def test_the_head_goes_through_a_conversion(folder):
    if folder.name != "llama":
        pytest.skip("only llama and mistral are converted")
    teacher, batch = load(folder), packed()
    student = convert(teacher, ["attention"] * 4)
    assert student.config.tie_word_embeddings is False
    torch.testing.assert_close(student(batch).logits(), teacher(batch).logits(), rtol=1e-4, atol=1e-4)


def test_a_head_that_is_stored_twice_is_still_the_embedding(folder):
    tensors = load_file(folder / "model.safetensors")
    embedding = next(tensor for name, tensor in tensors.items() if name.endswith(("embed_tokens.weight", "wte.weight")))
    tensors["lm_head.weight"] = embedding.clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert not has_own_head(folder)
    assert load(folder).config.tie_word_embeddings is True
    shutil.copy(folder / "config.json", folder.parent / "config.json")
    assert not has_own_head(folder.parent)  # no weights: the configuration decides
