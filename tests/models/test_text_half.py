"""The text half of a multimodal Gemma 3: loaded, read layer by layer, and pruned as any decoder."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma3Config, Gemma3ForConditionalGeneration, SiglipVisionConfig

from limbeck.errors import BadModel
from limbeck.models.load import load
from limbeck.models.stored import StoredModel
from limbeck.models.streamed import load_streamed
from limbeck.planning.cost.size import Size
from limbeck.students.prune import prune, prune_stored
from limbeck.students.shape import Shape
from tests.helpers.zoo import CONFIGS, packed, words
from tests.students.test_prune import eval_logits, random_scores, smaller

NAME = "gemma3_text"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny multimodal model, as Transformers saves it."""
    place = tmp_path_factory.mktemp("multimodal") / "gemma3"
    encoder = SiglipVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=4, patch_size=2
    )
    config = Gemma3Config(text_config=CONFIGS[NAME].to_dict(), vision_config=encoder, mm_tokens_per_image=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Gemma3ForConditionalGeneration(config).save_pretrained(place)
    words().save_pretrained(place)
    return place


@pytest.fixture(params=["of the hub", "of Transformers 5"])
def named(request, folder, tmp_path) -> Path:
    """The same folder with either names of tensors."""
    if request.param == "of the hub":
        return folder
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    assert any(name.startswith("language_model.model.layers.0.") for name in tensors)
    renamed = {
        name.replace("language_model.model.", "model.language_model.").replace(
            "vision_tower.", "model.vision_tower."
        ): t
        for name, t in tensors.items()
    }
    save_file(renamed, tmp_path / "model.safetensors", {"format": "pt"})
    return tmp_path


def test_its_logits_are_those_of_the_whole_without_images(named):
    model, batch = load(named), packed(rows=3)
    assert model.config.model_type == NAME
    assert model.packs
    whole = AutoModelForCausalLM.from_pretrained(named).eval()
    assert isinstance(whole, Gemma3ForConditionalGeneration)
    tokens = batch.tokens[:1, :6]
    with torch.no_grad():
        expected, ours = whole(input_ids=tokens).logits, model.model(input_ids=tokens).logits
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    streamed = load_streamed(named, length=12, spill=named.parent)
    torch.testing.assert_close(streamed(batch).logits(), model(batch).logits(), rtol=0, atol=1e-5)


def test_a_student_of_it_has_no_other_half(named, tmp_path):
    teacher, shape = load(named), smaller(NAME)
    assert Size.of(teacher.config).parameters == teacher.parameters_count
    scores = random_scores(Shape.of(teacher.config))
    student = prune(teacher, shape=shape, scores=scores)
    prune_stored(StoredModel.open(named), shape=shape, scores=scores).save(tmp_path / "student")
    plain, report = AutoModelForCausalLM.from_pretrained(tmp_path / "student", output_loading_info=True)
    assert not any(report.values())
    assert plain.config.model_type == NAME
    assert torch.equal(eval_logits(load(tmp_path / "student"), packed()), eval_logits(student, packed()))


def test_a_missing_tensor_of_the_text_half_is_noticed(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    del tensors["language_model.model.norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        BadModel, match=r"the weights lack 1 tensors the configuration asks for, model.norm.weight first"
    ):
        load(tmp_path)
