"""Every architecture of the table, and what the table refuses."""

import pytest
import torch
from transformers import GPT2Config, LlamaConfig, OPTConfig, Phi3Config, Qwen3MoeConfig

from limbeck.errors import BadModel
from limbeck.models.anatomy import SUPPORTED, Anatomy, resized
from limbeck.models.build import build
from limbeck.students.tally import keep_read
from tests.helpers.zoo import CONFIGS, animal, packed


def test_the_zoo_has_every_supported_architecture():
    assert {config.model_type for config in CONFIGS.values()} == set(SUPPORTED)


@pytest.mark.parametrize("name", CONFIGS)
def test_count_of_the_table_is_the_count_of_the_built_model(name):
    anatomy = Anatomy.of(CONFIGS[name])
    sizes = anatomy.sizes
    count = anatomy.count(
        layers=sizes.layers, hidden=sizes.hidden, heads=sizes.heads, kv_heads=sizes.kv_heads, ffn=sizes.ffn
    )
    assert count == animal(name).parameters_count


@pytest.mark.parametrize("name", CONFIGS)
def test_accessors_give_the_widths_of_the_axes(name):
    animal_ = animal(name)
    anatomy, batch = Anatomy.of(animal_.config), packed()
    seen = []
    modules = anatomy.attention_outs(animal_.model) + anatomy.ffn_outs(animal_.model)
    hooks = [m.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1])) for m in modules]
    hooks += keep_read(anatomy, anatomy.readers(animal_.model), lambda read: seen.append(read.shape[-1]))
    animal_(batch)
    for hook in hooks:
        hook.remove()
    sizes = anatomy.sizes
    reads = 4 * len(anatomy.kind.readers) + 1
    expected = [sizes.heads * sizes.head_dim, sizes.ffn] * 4 + [sizes.hidden] * reads
    assert sorted(seen) == sorted(expected)


def test_lists_with_one_entry_per_layer_follow_their_layers():
    config = CONFIGS["gemma3_text"]
    kept = resized(config, layers=[1, 2], sizes=Anatomy.of(config).sizes)
    assert kept.layer_types == config.layer_types[1:3] == ["full_attention", "sliding_attention"]
    assert build(kept).config.num_hidden_layers == 2


def test_seventy_billion_parameters_are_counted_without_memory_for_them():
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
    )
    anatomy = Anatomy.of(config)
    count = anatomy.count(layers=80, hidden=8192, heads=64, kv_heads=8, ffn=28672)
    assert count == 70_553_706_496  # the count of Llama 3 70B, arXiv 2407.21783
    assert torch.empty(1).device.type == "cpu"  # and the default device is as it was


def test_long_rope_phi3_keeps_width_and_heads_together():
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    config = Phi3Config(
        **{**CONFIGS["phi3"].to_dict(), "rope_parameters": rope, "original_max_position_embeddings": 16}
    )
    assert Anatomy.of(config).kind.square


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (OPTConfig(), "a opt model cannot be pruned: limbeck prunes gemma, "),
        (Qwen3MoeConfig(), "give a smaller model with its tokenizer as --student"),
        (GPT2Config(scale_attn_by_inverse_layer_idx=True), "ties a layer to its number"),
        (GPT2Config(add_cross_attention=True), "add_cross_attention"),
    ],
)
def test_what_is_not_described_is_refused_with_a_reason(config, reason):
    with pytest.raises(BadModel, match=reason):
        Anatomy.of(config)
