"""Subspaces of LoRA-XS: what R learns is the weight's gradient seen from inside, and where each kind begins."""

import pytest
import torch

from limbeck.jobs.tune.subspace import gradients
from limbeck.objectives import CrossEntropy
from limbeck.objectives.fused import fused_backward
from limbeck.students.adapter_files import merge_file, read_adapters, write_adapters
from limbeck.students.adapters import AdapterPlan, adapt, adapted_layers, linear_layers, merge
from limbeck.students.subspaces import KINDS, OF_DATA, subspaces
from tests.helpers.zoo import animal, packed
from tests.students.test_adapters import logits

RANK, STEP = 3, 0.01


def made(name, kind, *, double=False):
    """(model, its subspaces, gradients of the data in its linear layers)."""
    model = animal(name)
    if double:
        model.model.double()
    model.model.requires_grad_(True)
    slopes = gradients(model, packed(), CrossEntropy(), None) if kind in OF_DATA else {}
    return model, subspaces(model, kind, RANK, gradients=slopes, step=STEP, seed=2), slopes


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_begins_as_it_was_but_for_sb_and_trains_r_alone(name, kind):
    model, found, _ = made(name, kind)
    before = logits(model)
    adapt(model, AdapterPlan(RANK, RANK, kind), seed=0, subspaces=found)
    assert torch.equal(logits(model), before) == (kind != "sb")
    trained = [name for name, parameter in model.model.named_parameters() if parameter.requires_grad]
    assert trained == [f"{layer}.lora_R" for layer in adapted_layers(model)]


@pytest.mark.parametrize("kind", ["gradient", "update", "random"])
def test_directions_are_orthonormal(kind):
    _, found, _ = made("llama", kind)
    for one in found.values():
        torch.testing.assert_close(one.b.t() @ one.b, torch.eye(RANK), atol=1e-5, rtol=0)
        torch.testing.assert_close(one.a @ one.a.t(), torch.eye(RANK), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_gradient_of_r_is_that_of_the_weight_seen_from_inside(name):
    """``dL/dR = s B^T (dL/dW) A^T``, with W of outputs by inputs."""
    model, found, slopes = made(name, "gradient", double=True)
    adapt(model, AdapterPlan(RANK, 2 * RANK, "gradient"), seed=0, subspaces=found)
    model.model.double()
    batch = packed()
    fused_backward(CrossEntropy(), model(batch), None, batch, scale=1 / batch.total)
    for layer_name, layer in adapted_layers(model).items():
        slope = slopes[layer_name].double()
        slope = slope.t() if name == "gpt2" else slope
        expected = 2 * layer.lora_B.t() @ slope @ layer.lora_A.t()
        torch.testing.assert_close(layer.lora_R.grad, expected, rtol=1e-6, atol=1e-12)


def test_sb_begins_after_the_first_step_cut_to_the_rank():
    model, found, slopes = made("llama", "sb")
    weights = {name: layer.weight.detach().clone() for name, layer in linear_layers(model.model)}
    adapt(model, AdapterPlan(RANK, RANK, "sb"), seed=0, subspaces=found)
    merge(model)
    for name, layer in linear_layers(model.model):
        u, s, vt = torch.linalg.svd(-STEP * slopes[name].sign(), full_matrices=False)
        torch.testing.assert_close(
            layer.weight.detach() - weights[name], (u[:, :RANK] * s[:RANK]) @ vt[:RANK], atol=1e-6, rtol=0
        )


def test_subspaces_of_weights_are_their_leading_singular_vectors():
    model, found, _ = made("llama", "weights")
    for name, layer in linear_layers(model.model):
        u, s, vt = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
        best = (u[:, :RANK] * s[:RANK]) @ vt[:RANK]
        torch.testing.assert_close(found[name].b @ found[name].a, best, atol=1e-5, rtol=0)


def test_files_hold_a_plain_lora(tmp_path):
    from limbeck.models.load import load
    from limbeck.models.save import save

    save(animal("llama"), tmp_path / "base")
    model = load(tmp_path / "base", train=True)
    plan = AdapterPlan(RANK, RANK, "random")
    adapt(model, plan, seed=0, subspaces=subspaces(model, "random", RANK, gradients={}))
    for number, layer in enumerate(adapted_layers(model).values()):
        layer.lora_R.data.copy_(torch.randn(RANK, RANK, generator=torch.Generator().manual_seed(number)) * 0.1)
    write_adapters(model, plan, tmp_path / "adapter", base="base", base_folder=tmp_path / "base")
    other = load(tmp_path / "base")
    merge_file(other, read_adapters(tmp_path / "adapter"), base_folder=tmp_path / "base")
    torch.testing.assert_close(logits(other), logits(model), atol=2e-5, rtol=0)
