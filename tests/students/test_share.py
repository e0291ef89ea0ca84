"""Shared layers: the published map, one set of weights a stage or line, and students that expand to what was trained."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from limbeck.disk import write_digests
from limbeck.errors import BadModel, BadShape
from limbeck.models.anatomy import Anatomy, elements
from limbeck.models.language_model import LanguageModel
from limbeck.students.share import LINEAGE, Sharing, evenly, expand, from_teacher, share
from limbeck.students.shared_folder import load_shared, save_shared
from tests.helpers.zoo import animal, packed


def logits(model: LanguageModel) -> torch.Tensor:
    model.model.eval()
    with torch.no_grad():
        return model(packed()).logits()


def weight(model: LanguageModel, layer: int, name: str) -> torch.nn.Parameter:
    return model.model.get_parameter(f"model.layers.{layer}.{name}.weight")


def auxiliary(name: str, sharing: Sharing) -> LanguageModel:
    """Shared layers that are no longer those of their teacher: every parameter was moved, as by training."""
    model = from_teacher(animal(name), sharing)
    share(model, sharing)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=g))
    return model


def test_the_map_of_stages_is_the_published_one():
    """Twelve layers of five stages in the authors' code: 0,0,0,1,1,1,2,2,3,3,4,4."""
    assert Sharing(16, 5).stage_of(12) == (0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4)
    assert Sharing(16, 5).stage_of(5) == (0, 1, 2, 3, 4)
    assert Sharing(6, 3).sources(4) == (0, 1, 2, 4)
    assert Sharing(6, 3).sources(6) == (0, 1, 2, 3, 4, 5)
    assert Sharing(4).sources(2) == (0, 3)


def test_evenly_spaced_layers_have_the_first_and_the_last():
    assert evenly(5, 3) == (0, 2, 4)
    assert evenly(5, 1) == (0,)
    assert evenly(8, 8) == tuple(range(8))


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("llama", 2),
        ("gpt2", 2),
        ("gemma2", 3),
        ("olmo3", 2),
        ("gpt_neox", 3),
        ("smollm3", 2),
        ("llama", None),
        ("gpt2", None),
    ],
)
def test_a_student_as_deep_as_the_auxiliary_has_its_logits_bit_by_bit(name, stages):
    sharing = Sharing(4, stages)
    shared = auxiliary(name, sharing)
    student = expand(shared, sharing, 4)
    assert torch.equal(logits(student), logits(shared))
    assert student.parameters_count == animal(name).parameters_count > shared.parameters_count
    assert not torch.equal(logits(student), logits(animal(name)))


def test_a_stage_has_one_set_of_weights_but_norms_of_its_own():
    sharing, teacher = Sharing(4, 2), animal("llama")
    shared = from_teacher(teacher, sharing)
    share(shared, sharing)
    first, second, third = (weight(shared, layer, "mlp.up_proj") for layer in range(3))
    assert first is second is not third
    assert weight(shared, 0, "input_layernorm") is not weight(shared, 1, "input_layernorm")
    assert torch.equal(first, weight(teacher, 0, "mlp.up_proj"))  # evenly spaced: the first and the last
    assert torch.equal(third, weight(teacher, 3, "mlp.up_proj"))
    inside = elements(Anatomy.of(teacher.config).inside, Anatomy.of(teacher.config).sizes)
    norms = 2 * teacher.config.hidden_size
    assert teacher.parameters_count - shared.parameters_count == 2 * (inside - norms)


def test_a_gradient_of_a_stage_is_the_sum_over_its_layers():
    sharing = Sharing(4, 2)
    shared = auxiliary("llama", sharing)
    apart = expand(shared, sharing, 4)
    for model in (shared, apart):
        model(packed()).logits().logsumexp(-1).sum().backward()
    own, one, other = (weight(m, at, "mlp.up_proj").grad for m, at in ((shared, 0), (apart, 0), (apart, 1)))
    assert own is not None
    assert one is not None
    assert other is not None
    assert torch.allclose(own, one + other, atol=1e-5)


def test_layers_on_a_line_are_base_and_slope_at_any_depth():
    """Layers that are on a line already are found again: of base + l/4 slope a student of two has base and base + slope / 2."""
    sharing, teacher = Sharing(4), animal("llama")
    base, slope = (weight(teacher, at, "mlp.down_proj").clone() for at in (0, 1))
    with torch.no_grad():
        for layer in range(4):
            weight(teacher, layer, "mlp.down_proj").copy_(base + layer / 4 * slope)
    shared = from_teacher(teacher, sharing)
    share(shared, sharing)
    two = expand(shared, sharing, 2)
    for layer in range(2):
        assert torch.allclose(weight(two, layer, "mlp.down_proj"), base + layer / 2 * slope, atol=1e-5)
    inside = elements(Anatomy.of(teacher.config).inside, Anatomy.of(teacher.config).sizes)
    assert teacher.parameters_count - shared.parameters_count == 2 * inside  # two layers' numbers are left of four


def test_what_a_student_was_expanded_from_is_in_its_lineage():
    sharing = Sharing(4, 2)
    lineage = expand(auxiliary("llama", sharing), sharing, 3).lineage or {}
    assert lineage["kept"] == {"layers": [0, 0, 3]}
    assert lineage[LINEAGE] == {"kind": "stages", "layers": 4, "stages": [0, 0, 1]}
    assert lineage["shape"]["layers"] == 3


@pytest.mark.parametrize(
    ("use", "match"),
    [
        (lambda: Sharing(3, 4), "3 layers cannot share weights in 4 stages"),
        (lambda: Sharing(1), "1 layer is no line of layers"),
        (lambda: Sharing(4, 3).stage_of(2), "2 layers cannot be expanded from 4 layers of stages 0 0 1 2: give 3 to 4"),
        (lambda: Sharing(4, 3).stage_of(6), "6 layers cannot be expanded from 4 layers of stages 0 0 1 2: give 3 to 4"),
        (lambda: share(animal("llama"), Sharing(6, 3)), "has 4 layers, the auxiliary 6"),
        (lambda: from_teacher(animal("llama"), Sharing(6, 5)), "has 4 layers, from which 5 cannot be taken"),
    ],
)  # fmt: skip
def test_depths_that_cannot_be_shared_are_errors(use, match):
    with pytest.raises(BadShape, match=match):
        use()


@pytest.mark.parametrize("stages", [2, None])
def test_shared_layers_are_saved_once_and_expand_to_the_same_students(stages, tmp_path):
    """Published: the shared file is at most 1/n of n separate students. Here n = 3, of four layers, three and two."""
    sharing = Sharing(4, stages)
    shared = auxiliary("llama", sharing)
    save_shared(shared, sharing, tmp_path / "shared")
    loaded, again = load_shared(tmp_path / "shared")
    assert again == sharing
    apart = 0
    for layers in (4, 3, 2):
        student, fresh = expand(loaded, again, layers), expand(shared, sharing, layers)
        assert torch.equal(logits(student), logits(fresh))
        assert student.lineage == fresh.lineage
        apart += 4 * student.parameters_count  # bytes of float32
    assert (tmp_path / "shared" / "shared.safetensors").stat().st_size <= apart / 3


def test_a_shared_folder_without_a_weight_is_an_error(tmp_path):
    """Weights that are missing must not stay random."""
    sharing = Sharing(4, 2)
    save_shared(auxiliary("llama", sharing), sharing, tmp_path / "shared")
    file = tmp_path / "shared" / "shared.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.2.mlp.up_proj.weight"]
    save_file(tensors, file)
    write_digests(tmp_path / "shared")
    with pytest.raises(BadModel, match=r"weights of 4 shared layers.*up_proj"):
        load_shared(tmp_path / "shared")
