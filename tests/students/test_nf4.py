"""Weights in 4 bits under adapters: the format, products and gradients of it, and what is merged."""

import copy

import pytest
import torch
from torch import nn

from limbeck.errors import BadModel
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.students.adapter_files import WEIGHTS, merge_file, read_adapters, write_adapters
from limbeck.students.adapters import (
    AdapterPlan,
    adapt,
    adapted_layers,
    hold_in_half,
    linear_layers,
    merge,
    require_used,
    without_adapters,
)
from limbeck.students.nf4 import _LEVELS, BYTES, Nf4Linear, from_nf4, through_nf4, to_nf4
from tests.helpers.zoo import CONFIGS, animal
from tests.students.test_adapters import drawn, logits

PLAN = AdapterPlan(rank=2, alpha=3.0, four_bit=True)
SHAPES = [(64, 64), (128, 96), (5, 13), (100,), (3, 160)]  # blocks within rows, across rows, and one that is not full


@pytest.mark.parametrize("shape", SHAPES)
def test_each_number_becomes_its_nearest_level_times_the_scale_of_its_block(shape):
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    codes, scales = to_nf4(numbers)
    blocks = nn.functional.pad(numbers.flatten(), (0, -numbers.numel() % 64)).view(-1, 64).double()
    assert torch.equal(scales, blocks.float().abs().amax(1).bfloat16())
    assert codes.numel() + 2 * scales.numel() == len(blocks) * 64 * BYTES
    levels = scales.double()[:, None, None] * torch.tensor(_LEVELS).double()
    nearest = levels.expand(len(blocks), 64, 16).gather(2, (blocks[:, :, None] - levels).abs().argmin(2, keepdim=True))
    found = from_nf4(codes, scales, numbers.shape, torch.float32)
    torch.testing.assert_close(found.double(), nearest.flatten()[: numbers.numel()].view(shape), rtol=1e-6, atol=0)


def test_the_levels_are_those_of_the_paper():
    """Quantiles of the normal distribution: 8 at and below zero, 9 at and above it, zero once, scaled to 1 (appendix E)."""
    normal, offset = torch.distributions.Normal(0.0, 1.0), 0.9677083
    above = normal.icdf(torch.linspace(offset, 0.5, 9)[:-1].double())
    below = -normal.icdf(torch.linspace(offset, 0.5, 8)[:-1].double())
    levels = torch.cat([below, torch.zeros(1), above]).sort().values
    torch.testing.assert_close(torch.tensor(_LEVELS).double(), levels / levels.max(), rtol=0, atol=2e-6)


def test_what_is_in_the_format_stays_as_it_is():
    once = through_nf4(torch.randn(64, 80))
    assert torch.equal(through_nf4(once), once)
    assert not through_nf4(torch.zeros(2, 64)).any()
    tiny = torch.full((64,), 1e-42)
    assert through_nf4(tiny).isfinite().all()


@pytest.mark.parametrize("autocast", [False, True])
def test_a_layer_computes_as_the_ordinary_one_of_its_numbers_and_so_does_its_gradient(autocast):
    plain = nn.Linear(96, 64)
    layer = Nf4Linear(plain)
    ordinary = layer.plain()
    assert torch.equal(ordinary.weight, through_nf4(plain.weight))
    x = torch.randn(3, 5, 96, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found, expected = layer(x), ordinary(x)
    assert found.dtype == expected.dtype == (torch.bfloat16 if autocast else torch.float32)
    tolerance = (
        {"rtol": 0.02, "atol": 0.02} if autocast else {"rtol": 1e-5, "atol": 1e-5}
    )  # bias before rounding, and after it
    torch.testing.assert_close(found, expected, **tolerance)
    up = torch.randn_like(found)
    (mine,), (theirs,) = (torch.autograd.grad(one, x, up) for one in (found, expected))
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_no_weights_out_of_their_4_bits_are_kept_for_the_backward_pass():
    layer, kept = Nf4Linear(nn.Linear(64, 64)), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(torch.randn(2, 64, requires_grad=True))
    assert {one.dtype for one in kept} == {torch.uint8, torch.bfloat16}


@pytest.mark.parametrize("name", ["llama", "phi3", *(pytest.param(n, marks=pytest.mark.long) for n in CONFIGS)])
def test_an_adapted_model_has_rounded_weights_and_merges_into_what_it_is(name):
    if name.startswith("gpt2"):
        with pytest.raises(
            BadModel, match="expected linear layers of torch for weights in 4 bits, found those of GPT-2"
        ):
            adapt(animal(name), PLAN, seed=0)
        return
    model = animal(name)
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for _, layer in linear_layers(rounded.model):
            layer.weight.copy_(through_nf4(layer.weight))
    names = {name for name, _ in model.model.named_parameters()}
    adapt(model, PLAN, seed=0)
    hold_in_half(model, bf16=True)
    torch.testing.assert_close(logits(model), logits(rounded), rtol=0, atol=2e-5)
    trained = {name for name, parameter in model.model.named_parameters() if parameter.requires_grad}
    assert trained == {f"{layer}.{matrix}" for layer in adapted_layers(model) for matrix in ("lora_A", "lora_B")}
    drawn(model)
    adapted = logits(model)
    with without_adapters(model):
        torch.testing.assert_close(logits(model), logits(rounded), rtol=0, atol=2e-5)
    merge(model)
    torch.testing.assert_close(logits(model), adapted, rtol=0, atol=2e-5)
    assert {name for name, _ in model.model.named_parameters()} == names
    assert {parameter.dtype for parameter in model.model.parameters()} == {torch.float32}
    assert not any(isinstance(module, Nf4Linear) for module in model.model.modules())


def test_a_model_that_uses_weights_in_another_way_is_refused():
    model = animal("llama")
    adapt(model, PLAN, seed=0)
    layer = model.model.model.layers[0].mlp.down_proj
    layer.forward = lambda x: x @ layer.weight.t()
    with pytest.raises(BadModel, match=r"but weights in 4 bits are used in another way .*: give --trained lora"):
        require_used(model)


def test_files_are_merged_into_the_weights_that_they_were_trained_on(tmp_path):
    save(animal("llama"), tmp_path / "base")
    model = load(tmp_path / "base", train=True)
    adapt(model, PLAN, seed=0)
    drawn(model)
    write_adapters(model, PLAN, tmp_path / "adapter", base="base", base_folder=tmp_path / "base")
    merge(model)
    found = read_adapters(tmp_path / "adapter")
    assert found.four_bit
    other = load(tmp_path / "base", train=True)
    merge_file(other, found, base_folder=tmp_path / "base")
    assert torch.equal(logits(other), logits(model))


def test_a_format_of_another_version_is_refused(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    save(animal("llama"), tmp_path / "base")
    model = load(tmp_path / "base", train=True)
    adapt(model, PLAN, seed=0)
    write_adapters(model, PLAN, tmp_path / "adapter", base="base", base_folder=tmp_path / "base")
    file = tmp_path / "adapter" / WEIGHTS
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    save_file(load_file(file), file, metadata=metadata | {"base_held_in": "nf3"})
    with pytest.raises(BadModel, match="expected adapters on weights as they are or in nf4, found 'nf3'"):
        read_adapters(tmp_path / "adapter")
