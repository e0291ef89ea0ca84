"""Adapters: an adapted model begins as it was, its merged weights compute what it does, and files go both ways."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from limbeck.errors import BadModel, BadSetting
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.students.adapter_files import CONFIG, WEIGHTS, merge_file, read_adapters, write_adapters
from limbeck.students.adapters import AdapterPlan, adapt, adapted_layers, hold_in_half, linear_layers, merge
from tests.helpers.zoo import CONFIGS, animal, packed

PLAN = AdapterPlan(rank=2, alpha=3.0)
KINDS = ("llama", "gpt2", "gpt_neox", "phi3", "gemma2")


def logits(model: LanguageModel) -> torch.Tensor:
    model.model.eval()
    with torch.no_grad():
        return model(packed()).logits()


def drawn(model: LanguageModel, *, seed: int = 1) -> None:
    """Gives the adapters' B, which begins at 0, random numbers."""
    generator = torch.Generator().manual_seed(seed)
    for layer in adapted_layers(model).values():
        layer.lora_B.data.copy_(torch.randn(layer.lora_B.shape, generator=generator) * 0.1)


@pytest.mark.parametrize("name", [n if n in KINDS else pytest.param(n, marks=pytest.mark.long) for n in CONFIGS])
def test_an_adapted_model_begins_as_it_was_and_merges_into_what_it_is(name):
    model = animal(name)
    before, names = logits(model), {name for name, _ in model.model.named_parameters()}
    adapt(model, PLAN, seed=0)
    assert torch.equal(logits(model), before)
    trained = {name for name, parameter in model.model.named_parameters() if parameter.requires_grad}
    assert trained == {f"{layer}.{matrix}" for layer in adapted_layers(model) for matrix in ("lora_A", "lora_B")}
    drawn(model)
    adapted = logits(model)
    assert (adapted - before).abs().max() > 1e-3
    merge(model)
    torch.testing.assert_close(logits(model), adapted, rtol=0, atol=2e-5)
    assert {name for name, _ in model.model.named_parameters()} == names
    assert not adapted_layers(model)
    assert all(parameter.requires_grad for parameter in model.model.parameters())


@pytest.mark.parametrize("name", [n if n in KINDS else pytest.param(n, marks=pytest.mark.long) for n in CONFIGS])
def test_frozen_weights_in_two_bytes_change_no_bit_of_a_training_in_mixed_precision(name):
    """Weights that are stored in bfloat16 are the same numbers in both formats, and products take them in bfloat16 anyway."""
    found = []
    for held in (False, True):
        model = animal(name)
        for parameter in model.model.parameters():
            parameter.data = parameter.data.bfloat16().float()
        adapt(model, PLAN, seed=0)
        drawn(model)
        hold_in_half(model, bf16=held)
        layers = adapted_layers(model).values()
        assert {layer.weight.dtype for layer in layers} == {torch.bfloat16 if held else torch.float32}
        assert {layer.lora_A.dtype for layer in layers} == {torch.float32}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(packed()).logits()
            logits.float().square().mean().backward()
        gradients = [layer.lora_B.grad for layer in layers]
        merge(model)
        found.append([logits.detach(), *gradients, *(p.detach() for p in model.model.parameters())])
        assert {parameter.dtype for parameter in model.model.parameters()} == {torch.float32}
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_weights_that_are_no_numbers_of_bfloat16_stay_as_they_are():
    """Whatever a configuration declares: a format of files is decided tensor by tensor."""
    model = animal("llama")
    model.stored = torch.bfloat16
    first = next(layer for _, layer in linear_layers(model.model))
    first.weight.data = first.weight.data.bfloat16().float()
    adapt(model, PLAN, seed=0)
    hold_in_half(model, bf16=True)
    formats = [layer.weight.dtype for layer in adapted_layers(model).values()]
    assert formats == [torch.bfloat16, *[torch.float32] * (len(formats) - 1)]


def test_a_product_is_scaled_by_alpha_over_rank():
    model = animal("llama")
    weights = {name: layer.weight.detach().clone() for name, layer in linear_layers(model.model)}
    adapt(model, PLAN, seed=0)
    drawn(model)
    expected = {
        name: weights[name] + 1.5 * (layer.lora_B @ layer.lora_A).detach()
        for name, layer in adapted_layers(model).items()
    }
    merge(model)
    for name, layer in linear_layers(model.model):
        torch.testing.assert_close(layer.weight, expected[name])


def test_the_seed_decides_the_adapters():
    first, again, other = animal("llama"), animal("llama"), animal("llama")
    for model, seed in ((first, 0), (again, 0), (other, 1)):
        adapt(model, PLAN, seed=seed)
    a, b, c = (adapted_layers(model)["model.layers.0.mlp.up_proj"].lora_A for model in (first, again, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert a.abs().max() <= 1 / math.sqrt(a.shape[1])


def test_a_rank_above_a_matrix_is_refused_with_its_name():
    with pytest.raises(BadSetting, match=r"--rank 500: the matrix model\.layers\.0\.self_attn\.q_proj has"):
        adapt(animal("llama"), AdapterPlan(500, 1.0), seed=0)


def test_a_layer_whose_weights_are_used_in_another_way_is_refused(monkeypatch):
    model = animal("llama")
    mlp = type(model.model.model.layers[0].mlp)
    monkeypatch.setattr(mlp, "forward", lambda self, x: x @ self.up_proj.weight.t() @ self.down_proj.weight.t())
    with pytest.raises(
        BadModel, match=r"12 of them have weights that are used in another way \(model\.layers\.0\.mlp\.gate"
    ):
        adapt(model, PLAN, seed=0)


@pytest.fixture
def written(tmp_path):
    """(folder of a base, folder of adapters, the adapted model's logits)."""
    base = animal("llama")
    save(base, tmp_path / "base")
    model = load(tmp_path / "base", train=True)
    adapt(model, PLAN, seed=0)
    drawn(model)
    write_adapters(model, PLAN, tmp_path / "adapter", base="a/base", base_folder=tmp_path / "base")
    return tmp_path / "base", tmp_path / "adapter", logits(model)


def changed(folder, **fields) -> None:
    (folder / "digests.json").unlink(missing_ok=True)
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | fields))


def test_what_is_written_is_read_again(written):
    base, folder, expected = written
    found, model = read_adapters(folder), load(base)
    assert found.base == "a/base"
    assert json.loads((folder / CONFIG).read_text())["target_modules"] == [
        *("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
    ]
    merge_file(model, found, base_folder=base)
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("fields", "scale"),
    [
        ({"use_rslora": True}, 3 / math.sqrt(2)),
        ({"alpha_pattern": {"up_proj": 8}}, 4.0),
        ({"alpha_pattern": {"^model.layers.0.mlp.up_proj": 8}}, 4.0),
        ({"alpha_pattern": {"^up_proj": 8, "proj": 5}}, 1.5),
    ],
)
def test_scales_are_those_of_the_file(written, fields, scale):
    _, folder, _ = written
    changed(folder, **fields)
    *_, found = read_adapters(folder).layers["model.layers.0.mlp.up_proj"]
    assert found == pytest.approx(scale)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_dora": True}, "use_dora is True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"peft_type": "IA3"}, "of the kind LORA, found IA3"),
        ({"some_new_field": 3}, "some_new_field is 3"),
        ({"init_lora_weights": "pissa"}, "began as 'pissa', which changes the base's weights"),
    ],
)
def test_what_is_not_computed_here_is_refused_by_name(written, fields, message):
    _, folder, _ = written
    changed(folder, **fields)
    with pytest.raises(BadModel, match=message):
        read_adapters(folder)


def test_adapters_of_another_model_are_refused(written, tmp_path):
    base, folder, _ = written
    save(animal("llama", seed=5), tmp_path / "other")
    with pytest.raises(BadModel, match="belong to other weights than those of other"):
        merge_file(load(tmp_path / "other"), read_adapters(folder), base_folder=tmp_path / "other")
    tensors = load_file(folder / WEIGHTS)
    save_file({name.replace("layers.1", "layers.9"): tensor for name, tensor in tensors.items()}, folder / WEIGHTS)
    with pytest.raises(BadModel, match=r"base has no linear layer model\.layers\.9"):
        merge_file(load(base), read_adapters(folder), base_folder=base)
    save_file(
        {name: tensor[:, :5].contiguous() if "lora_A" in name else tensor for name, tensor in tensors.items()},
        folder / WEIGHTS,
    )
    with pytest.raises(BadModel, match=r"makes \(\d+, 5\), and base has"):
        merge_file(load(base), read_adapters(folder), base_folder=base)


@pytest.mark.parametrize(
    "fields",
    [
        {"lora_alpha": None},
        {"lora_alpha": "many"},
        {"alpha_pattern": ["q_proj"]},
        {"alpha_pattern": {"(q_proj": 8}},
        {"alpha_pattern": {"(a+)+b": 8}},
        {"alpha_pattern": {"q_proj": None}},
        {"r": 0},
    ],
)
def test_a_damaged_configuration_is_no_traceback(written, fields):
    _, folder, _ = written
    changed(folder, **fields)
    with pytest.raises(BadModel):
        read_adapters(folder)


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(2), torch.zeros(2, 2, 2), torch.full((2, 32), torch.nan), torch.zeros(2, 32, dtype=torch.int8)],
)
def test_what_is_no_matrix_of_finite_numbers_is_refused(written, tensor):
    _, folder, _ = written
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
    save_file(load_file(folder / WEIGHTS) | {name: tensor}, folder / WEIGHTS)
    with pytest.raises(BadModel, match=r"expected a matrix of finite numbers for base_model\.model\.model\.layers\.0"):
        read_adapters(folder)


def test_layers_as_narrow_as_a_gate_get_no_adapter():
    model = animal("llama")
    model.model.model.layers[0].gate = torch.nn.Linear(32, 4)
    assert not any(name.endswith(".gate") for name, _ in linear_layers(model.model))


@pytest.mark.parametrize("name", ["lora_embedding_A", "modules.weight", "q_proj.lora_magnitude_vector"])
def test_other_tensors_are_refused(written, name):
    _, folder, _ = written
    save_file(load_file(folder / WEIGHTS) | {f"base_model.model.{name}": torch.zeros(2, 2)}, folder / WEIGHTS)
    with pytest.raises(BadModel, match=f"found base_model.model.{name}, which is not computed here"):
        read_adapters(folder)


def test_pickled_adapters_are_not_read(written):
    _, folder, _ = written
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(BadModel, match=r"adapter_model\.bin alone, and unpickling can run any code"):
        read_adapters(folder)
