"""A student cut from a teacher on disk is that of the same teacher in memory, byte by byte, and no more is in memory."""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from limbeck.errors import BadModel, BadSetting
from limbeck.models import memory
from limbeck.models.build import new_model
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.models.stored import StoredModel
from limbeck.models.streamed import StreamedModel, load_streamed
from limbeck.models.trim.model import Vocabulary, trim
from limbeck.models.trim.tokenizer import trimmed_tokenizer
from limbeck.students.prune import prune, prune_stored
from limbeck.students.score import score
from limbeck.students.shape import Shape
from limbeck.students.tally import Scores
from limbeck.types import Batch
from tests.helpers.alive import alive
from tests.helpers.zoo import CONFIGS, animal, packed, words
from tests.students.test_prune import random_scores, smaller

LENGTH = 12


def on_disk(name: str, place: Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """A model of the zoo in many files."""
    model = animal(name)
    model.model.to(dtype).save_pretrained(place / name, max_shard_size="20KB")
    model.tokenizer.save_pretrained(place / name)
    return place / name


def streamed(folder: Path, *, memory: float | None = None, dtype: torch.dtype = torch.float32) -> StreamedModel:
    return load_streamed(folder, memory=memory, dtype=dtype, length=LENGTH, spill=folder.parent)


def sample() -> list[Batch]:
    """Five rows in two batches, one row of which has no weight."""
    batch = packed(rows=5, length=LENGTH)
    batch.weight[2] = 0
    return [batch.rows(slice(0, 3)), batch.rows(slice(3, 5))]


def assert_same(ours: Scores, theirs: Scores) -> None:
    for field in fields(Scores):
        a, b = getattr(ours, field.name), getattr(theirs, field.name)
        assert a == b if isinstance(a, str) else torch.equal(a, b), field.name


@pytest.mark.parametrize("method", ["activation", "gradient"])
@pytest.mark.parametrize("name", CONFIGS)
def test_scores_are_those_of_the_teacher_in_memory_bit_by_bit(name, method, tmp_path):
    folder = on_disk(name, tmp_path)
    assert_same(score(streamed(folder), sample(), method=method), score(load(folder), sample(), method=method))
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_student_has_the_same_files(name, tmp_path):
    folder, shape = on_disk(name, tmp_path), smaller(name)
    scores = random_scores(Shape.of(CONFIGS[name]))
    save(prune(load(folder), shape=shape, scores=scores), tmp_path / "a", card="x")
    student = prune_stored(StoredModel.open(folder), shape=shape, scores=scores)
    student.save(tmp_path / "b", card="x")
    assert_same_files(tmp_path / "a", tmp_path / "b")


def assert_same_files(a: Path, b: Path) -> None:
    names = sorted(path.name for path in a.iterdir())
    assert names == sorted(path.name for path in b.iterdir())
    for name in names:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_blocks_and_hidden_states_on_disk_change_no_score(name, tmp_path, monkeypatch):
    folder = on_disk(name, tmp_path)
    expected = score(load(folder), sample())
    monkeypatch.setitem(memory.BLOCK_TOKENS, "cpu", 2 * LENGTH)  # three passes over the weights
    small = streamed(folder)
    small.budget = replace(small.budget, spill=True)
    assert_same(score(small, sample()), expected)
    gradients = score(small, sample(), method="gradient")
    assert_same(gradients, score(load(folder), sample(), method="gradient"))


@pytest.mark.long
@pytest.mark.parametrize("name", ["gpt2", "olmo2"])
def test_weighted_inputs_and_angles_over_layers_are_the_same_too(name, tmp_path, monkeypatch):
    folder = on_disk(name, tmp_path)
    monkeypatch.setitem(memory.BLOCK_TOKENS, "cpu", 2 * LENGTH)  # three passes over the weights
    running, resident = streamed(folder), load(folder)
    for method, keep in (("wanda", 2), ("gradient", 1), ("random", 3)):
        ours, theirs = (
            score(model, sample(), method=method, depth="angular", keep=keep) for model in (running, resident)
        )
        assert_same(ours, theirs)
    assert_same(score(running, [], method="random"), score(resident, [], method="random"))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(BadSetting, match="greedy runs it again for each layer that may go"):
        score(running, sample(), depth="greedy")


@pytest.mark.parametrize("computed", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama", "phi3"])
def test_a_bfloat16_teachers_student_is_bfloat16_and_the_same(name, computed, tmp_path):
    folder, shape = on_disk(name, tmp_path, dtype=torch.bfloat16), smaller(name)
    resident = load(folder, dtype=computed)
    scores = score(resident, sample())
    assert_same(score(streamed(folder, dtype=computed), sample()), scores)
    save(prune(resident, shape=shape, scores=scores), tmp_path / "a", dtype=torch.bfloat16)
    prune_stored(StoredModel.open(folder, dtype=computed), shape=shape, scores=scores).save(tmp_path / "b")
    assert_same_files(tmp_path / "a", tmp_path / "b")
    assert json.loads((tmp_path / "b" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("name", ["gemma", "gemma3_text"])
def test_scaled_embeddings_of_a_narrower_gemma_are_rounded_once(name, tmp_path):
    folder, shape = on_disk(name, tmp_path, dtype=torch.bfloat16), smaller(name)
    scores = random_scores(Shape.of(CONFIGS[name]))
    stored = prune_stored(StoredModel.open(folder), shape=shape, scores=scores)
    for out, dtype in (("float32", None), ("bfloat16", torch.bfloat16)):
        save(prune(load(folder), shape=shape, scores=scores), tmp_path / "a", dtype=dtype)
        stored.save(tmp_path / "b", dtype=dtype)
        assert_same_files(tmp_path / "a", tmp_path / "b")
        assert json.loads((tmp_path / "b" / "config.json").read_text())["dtype"] == out


def test_weights_outside_the_range_of_a_format_are_kept_in_float32(tmp_path):
    model = animal("llama")
    model.model.model.layers[3].mlp.up_proj.weight.mul_(1e6)
    save(model, tmp_path / "teacher")
    shape, scores = smaller("llama"), random_scores(Shape.of(CONFIGS["llama"]))
    save(prune(load(tmp_path / "teacher"), shape=shape, scores=scores), tmp_path / "a", dtype=torch.float16)
    prune_stored(StoredModel.open(tmp_path / "teacher"), shape=shape, scores=scores).save(
        tmp_path / "b", dtype=torch.float16
    )
    assert_same_files(tmp_path / "a", tmp_path / "b")
    assert json.loads((tmp_path / "b" / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize("name", ["llama", "llama-bias-untied", "gpt_neox", "gemma2"])
def test_a_trimmed_vocabulary_gives_the_same_student(name, tmp_path):
    folder, shape = on_disk(name, tmp_path), smaller(name)
    kept = np.array([0, 1, 2, 3, 5, 8, 13, 21, 34, 39])
    whole = load(folder)
    vocabulary = Vocabulary(kept, trimmed_tokenizer(whole.tokenizer, kept, name=name), 40, name)
    stored = StoredModel.open(folder).trimmed(vocabulary)
    running = streamed(folder).trimmed(vocabulary, stored.about)
    batch = packed(rows=3, length=LENGTH, vocab=len(kept))
    teacher = trim(whole, vocabulary)
    scores = score(teacher, [batch])
    assert_same(score(running, [batch]), scores)
    for method in ("gradient", "wanda"):
        assert_same(score(running, [batch], method=method), score(teacher, [batch], method=method))
    save(prune(teacher, shape=shape, scores=scores), tmp_path / "a")
    prune_stored(stored, shape=shape, scores=scores).save(tmp_path / "b")
    assert_same_files(tmp_path / "a", tmp_path / "b")
    assert load(tmp_path / "b").head.weight.shape[0] == len(kept)


def test_nan_among_the_weights_is_an_error_even_if_nothing_is_computed(tmp_path):
    model = animal("llama")
    model.model.model.layers[1].mlp.up_proj.weight[:] = float("nan")
    model.model.save_pretrained(tmp_path / "teacher")
    model.tokenizer.save_pretrained(tmp_path / "teacher")
    full = Shape.of(CONFIGS["llama"])
    student = prune_stored(StoredModel.open(tmp_path / "teacher"), shape=full, scores=random_scores(full))
    with pytest.raises(BadModel, match=r"1280 of the 1280 values of model.layers.1.mlp.up_proj.weight are NaN"):
        student.save(tmp_path / "student")
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]


@pytest.mark.long
@pytest.mark.parametrize("method", ["activation", "gradient"])
def test_about_a_layer_is_in_memory_when_a_deep_model_is_scored_and_a_tensor_when_it_is_cut(method, tmp_path):
    config = LlamaConfig(
        **{
            **CONFIGS["llama"].to_dict(),
            "num_hidden_layers": 24,
            "hidden_size": 64,
            "head_dim": 16,
            "intermediate_size": 512,
        }
    )
    save(new_model(config, words(), 0), tmp_path / "deep")
    resident = load(tmp_path / "deep")
    expected = score(resident, sample(), method=method)
    whole = sum(parameter.nbytes for parameter in resident.model.parameters())
    layer = sum(parameter.nbytes for parameter in resident.model.model.layers[0].parameters())
    largest = max(parameter.nbytes for parameter in resident.model.parameters())
    states = 5 * LENGTH * 64 * 4
    # beside two layers: the sums of all layers, a row inside a layer, and its gradients
    beside = {"activation": 20, "gradient": 40}[method] * states
    assert whole > 20 * layer
    with alive() as counted:
        running = load_streamed(tmp_path / "deep", length=LENGTH, spill=tmp_path)
        scores = score(running, sample(), method=method)
    assert_same(scores, expected)
    assert layer <= counted.peak <= 2 * layer + beside < whole / 5
    with alive() as counted:
        shape = Shape(layers=12, hidden=32, heads=2, kv_heads=1, ffn=64)
        prune_stored(StoredModel.open(tmp_path / "deep"), shape=shape, scores=scores).save(tmp_path / "student")
    assert largest <= counted.peak <= 2 * largest < layer
