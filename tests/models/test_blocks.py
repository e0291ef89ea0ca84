"""Values of GGUF blocks, against the package `gguf`; and models that compute with them."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from transformers import GPT2Config, LlamaConfig

from limbeck.errors import BadModel
from limbeck.models.build import build
from limbeck.models.gguf.blocks import in_blocks
from limbeck.models.gguf.families import family_of
from limbeck.models.gguf.numbers import Numbers
from limbeck.models.gguf.quantiser import KIND_OF, Quantiser
from tests.helpers.models import llama

KINDS = ("q8_0", "q4_0")
ROWS, COLUMNS = 128, 320


def _weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(scale: float = 1.0) -> torch.Tensor:
        return scale * torch.randn(ROWS, COLUMNS, generator=generator)

    uniform = torch.rand(ROWS, COLUMNS, generator=generator)
    few = torch.tensor([-2.0, -1.5, -0.5, 0.0, 0.5, 1.5, 2.0])
    ties = few[(uniform * len(few)).long()]
    return {
        "gaussian": normal(0.05),
        "heavy": normal() / uniform.clamp(min=1e-3),
        "bf16": normal().bfloat16().float(),
        "ties": ties,  # largest ones of both signs, and halves that are rounded
        "mostly zero": torch.where(uniform < 0.97, 0.0, normal()),
        "zero": torch.zeros(ROWS, COLUMNS),
        "tiny": normal(1e-7),  # scales below what half precision holds
        "denormal": normal(1e-41),
        "near a half": torch.where(uniform < 0.1, 127.0, (uniform * 200).floor() + 0.5 - 2**-17),
    }


def _reference(values: torch.Tensor, kind: str) -> np.ndarray:
    kind = GGMLQuantizationType[kind.upper()]
    with np.errstate(all="ignore"):
        return dequantize(quantize(values.numpy(), kind), kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", _weights())
def test_values_are_those_that_gguf_reads_again(kind, name):
    """One for one, and the values of a file stay as they are when they are quantised again."""
    values = _weights()[name]
    found = in_blocks(values, kind)
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), _reference(values, kind))
    assert torch.equal(in_blocks(found, kind), found)
    assert np.array_equal(_reference(found, kind), found.numpy())


def test_the_sum_of_errors_is_that_of_the_format():
    """Relative to Gaussian weights: 0.0053 and 0.086, which other scales (absmax / 7, absmax / 7.5) do not reach."""
    values = torch.randn(256, 1024, generator=torch.Generator().manual_seed(1))
    errors = [float((in_blocks(values, kind) - values).norm() / values.norm()) for kind in KINDS]
    assert errors == pytest.approx([0.0053, 0.086], rel=0.02)


def test_the_extreme_of_a_block_is_minus_eight_and_its_opposite_is_clipped():
    values = torch.zeros(32)
    values[3], values[7] = 4.0, -4.0  # the first of the largest decides: its sign becomes -8
    assert in_blocks(values, "q4_0")[[3, 7]].tolist() == [4.0, -3.5]
    assert in_blocks(-values, "q4_0")[[3, 7]].tolist() == [-4.0, 3.5]


def test_the_types_of_tensors_are_those_of_one_table():
    quantiser = Quantiser.of(llama(hidden=64).config, "q4_0")
    kinds = {name: place.kind for name, place in quantiser.places.items()}
    assert kinds["model.embed_tokens.weight"] == "q8_0"  # it is the head too
    assert set(kinds.values()) == {"q8_0", "q4_0"}
    assert kinds["model.layers.1.mlp.down_proj.weight"] == "q4_0"
    assert not any("norm" in name for name in kinds)
    untied = LlamaConfig(**(llama(hidden=64).config.to_dict() | {"tie_word_embeddings": False}))
    kinds = {name: place.kind for name, place in Quantiser.of(untied, "q4_0").places.items()}
    assert (kinds["model.embed_tokens.weight"], kinds["lm_head.weight"]) == ("q4_0", "q8_0")
    assert Numbers("q4_0", tied=False).of("position_embd.weight", (64, 64)) == "f32"
    assert set(KIND_OF) == {"int8", "int4"}


def test_bytes_are_those_of_the_file():
    config = llama(hidden=64).config
    facts = Quantiser.of(config, "q4_0").facts
    rows, norms = config.vocab_size, 5 * 64
    matrices = 2 * (64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 64 * 128)
    assert facts["bytes"] == rows * 64 // 32 * 34 + matrices // 32 * 18 + 4 * norms
    assert facts["tensors"] == {"f32": 5, "q4_0": 14, "q8_0": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_gpt2_is_quantised_along_the_columns_that_are_stored(kind):
    config = GPT2Config(vocab_size=96, n_embd=64, n_layer=1, n_head=2, n_positions=32)
    model, family = build(config), family_of(config)
    quantiser = Quantiser.of(config, kind)
    assert quantiser.places["transformer.h.0.attn.c_attn.weight"].transposed
    assert not quantiser.places["transformer.wte.weight"].transposed
    assert "transformer.wpe.weight" not in quantiser.places
    own = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with quantiser.values(model):
        for name, place in quantiser.places.items():
            there = family.write(name, own[name].numpy(), config)
            expected = _reference(torch.tensor(np.ascontiguousarray(there)), place.kind)
            found = family.write(name, model.get_parameter(name).detach().numpy(), config)
            assert np.array_equal(found, expected), name


def test_rows_that_no_block_divides_are_refused_by_name():
    config = llama(hidden=64).config
    config.intermediate_size = 40
    with pytest.raises(
        BadModel, match=r"multiple of 32 numbers, got model.layers.0.mlp.down_proj.weight with 40, .*--shape"
    ):
        Quantiser.of(config, "q8_0")


def test_gradients_are_those_at_the_quantised_weights():
    """Straight through: w + (blocks(w) - w) with the bracket held, of which the gradient is that at blocks(w), exactly."""
    model = llama(hidden=64).model.train()
    quantiser = Quantiser.of(model.config, "q4_0")
    own = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    tokens = torch.arange(3, 35)[None]

    def loss(of) -> torch.Tensor:
        return of(input_ids=tokens).logits.log_softmax(-1)[0, :-1].gather(-1, tokens[0, 1:, None]).mean()

    with quantiser.values(model):
        loss(model).backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, own[name]), name  # put back, bit for bit
    model.zero_grad()
    through = {
        name: parameter + (quantiser.places[name].values(parameter) - parameter).detach()
        if name in quantiser.places
        else parameter
        for name, parameter in model.named_parameters()
    }
    loss(lambda **given: torch.func.functional_call(model, through, kwargs=given)).backward()
    for name, parameter in model.named_parameters():
        # x + (y - x) is y up to a rounding, which the exchange of weights does not have
        assert torch.allclose(parameter.grad, found[name], rtol=1e-3, atol=1e-6), name
    model.zero_grad()
    with torch.no_grad():
        for name, place in quantiser.places.items():
            model.get_parameter(name).copy_(place.values(own[name]))
    loss(model).backward()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, found[name]), name


def test_weights_are_put_back_after_an_error():
    model = llama(hidden=64).model
    before = [parameter.data_ptr() for parameter in model.parameters()]
    with pytest.raises(ZeroDivisionError), Quantiser.of(model.config, "q8_0").values(model):
        raise ZeroDivisionError
    assert [parameter.data_ptr() for parameter in model.parameters()] == before
