"""The values declared by a config.json are those of the model that Transformers builds from it, or unknown."""

import json
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.models.anatomy import Anatomy
from limbeck.models.configuration import load_config
from limbeck.models.declared import declared, read_anatomy
from limbeck.planning.cost.size import Size
from limbeck.students.shape import Shape
from tests.helpers.zoo import CONFIGS


def written(config) -> dict:
    """The keys of the config.json that Transformers writes, with the model's own class."""
    architecture = {"gpt2": "GPT2LMHeadModel"}.get(config.model_type, type(config).__name__[:-6] + "ForCausalLM")
    architecture = architecture.replace("TextForCausalLM", "ForCausalLM")
    return json.loads(config.to_json_string()) | {"architectures": [architecture]}


def assert_equal_to_built(keys: dict, config) -> None:
    ours, built = declared(keys), Anatomy.of(config)
    assert ours == built
    assert asdict(Size.of_anatomy(ours)) == asdict(Size.of(config))
    assert ours.count(**asdict(Shape.of_anatomy(ours))) == Size.of(config).parameters


@pytest.mark.parametrize("name", CONFIGS)
def test_every_supported_architecture_is_declared(name):
    assert_equal_to_built(written(CONFIGS[name]), CONFIGS[name])


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=6)
@given(
    changes=st.fixed_dictionaries(
        {},
        optional={
            "tie_word_embeddings": st.booleans(),
            "attention_bias": st.booleans(),
            "mlp_bias": st.booleans(),
            "num_key_value_heads": st.sampled_from([1, 2, 4]),
            "head_dim": st.sampled_from([8, 24]),
            "intermediate_size": st.sampled_from([24, 96]),
            "n_inner": st.sampled_from([None, 24]),
            "sliding_window": st.sampled_from([None, 3]),
            "num_hidden_layers": st.just(4),
        },
    ),
)
def test_variants_are_declared_as_they_are_built(name, changes):
    keys = written(CONFIGS[name])
    keys |= {key: value for key, value in changes.items() if key in keys}
    assert_equal_to_built(keys, type(CONFIGS[name]).from_dict(keys))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_missing_key_is_filled_in_as_the_class_does_or_not_at_all(name):
    whole = written(CONFIGS[name])
    answered = []
    for key in whole.keys() - {"model_type"}:
        keys = {k: v for k, v in whole.items() if k != key}
        ours = declared(keys)
        if ours is not None:
            assert ours == Anatomy.of(type(CONFIGS[name]).from_dict(keys)), key
            answered.append(key)
    assert {"tie_word_embeddings", "architectures", "initializer_range"} <= set(answered)
    assert not {"vocab_size", "hidden_size", "n_embd", "num_attention_heads", "n_head"} & set(answered)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("key", ["head_dim", "num_key_value_heads", "n_inner", "tie_word_embeddings", "attention_bias"])
def test_a_null_is_read_as_the_class_does_or_not_at_all(name, key):
    keys = written(CONFIGS[name])
    if key in keys and (ours := declared(keys | {key: None})) is not None:
        assert ours == Anatomy.of(type(CONFIGS[name]).from_dict(keys | {key: None}))


LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16", "rope_theta": 1e4}
# config.json as the hub has them, cut to what is not neutral; the numbers of parameters are those of their model cards' weights
PUBLISHED = {
    "SmolLM2-135M": (134_515_008, LLAMA | {"hidden_size": 576, "intermediate_size": 1536, "is_llama_config": True,
        "max_position_embeddings": 8192, "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
        "rope_interleaved": False, "rope_scaling": None, "tie_word_embeddings": True, "vocab_size": 49152}),
    "Llama-3.2-1B": (1_235_814_400, LLAMA | {"attention_bias": False, "head_dim": 64, "hidden_size": 2048,
        "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": False, "num_attention_heads": 32,
        "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1, "tie_word_embeddings": True,
        "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"}, "vocab_size": 128256}),
    "Mistral-7B-v0.1": (7_241_732_096, {"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "sliding_window": 4096, "tie_word_embeddings": False, "vocab_size": 32000}),
    "Qwen2.5-0.5B": (494_032_768, {"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864,
        "max_position_embeddings": 32768, "max_window_layers": 24, "num_attention_heads": 14, "num_hidden_layers": 24,
        "num_key_value_heads": 2, "tie_word_embeddings": True, "use_mrope": False, "vocab_size": 151936}),
    "Qwen3-0.6B": (596_049_920, {"model_type": "qwen3", "attention_bias": False, "head_dim": 128, "hidden_size": 1024,
        "intermediate_size": 3072, "max_position_embeddings": 40960, "num_attention_heads": 16, "num_hidden_layers": 28,
        "num_key_value_heads": 8, "rope_scaling": None, "tie_word_embeddings": True, "vocab_size": 151936}),
    "gemma-2-2b": (2_614_341_888, {"model_type": "gemma2", "attention_bias": False, "attn_logit_softcapping": 50.0,
        "cache_implementation": "hybrid", "head_dim": 256, "hidden_size": 2304, "intermediate_size": 9216,
        "max_position_embeddings": 8192, "num_attention_heads": 8, "num_hidden_layers": 26, "num_key_value_heads": 4,
        "pad_token_id": 0, "query_pre_attn_scalar": 256, "sliding_window": 4096, "vocab_size": 256000}),
    "gpt2": (124_439_808, {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_ctx": 1024, "n_embd": 768,
        "n_head": 12, "n_layer": 12, "n_positions": 1024, "summary_type": "cls_index", "vocab_size": 50257,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}}),
    "pythia-70m": (70_426_624, {"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "hidden_size": 512,
        "intermediate_size": 2048, "max_position_embeddings": 2048, "num_attention_heads": 8, "num_hidden_layers": 6,
        "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False, "use_parallel_residual": True,
        "vocab_size": 50304}),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_known_models_have_their_published_parameters(name):
    parameters, keys = PUBLISHED[name]
    anatomy = declared(keys)
    assert anatomy is not None
    assert Size.of_anatomy(anatomy).parameters == parameters


def test_real_folders_are_declared(test_data):
    for file in sorted((test_data / "models").glob("*/config.json")):
        assert read_anatomy(file) == Anatomy.of(load_config(file.parent)), file


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama", {"model_type": "opt"}),
        ("llama", {"model_type": ["llama"]}),
        ("llama", {"auto_map": {"AutoModelForCausalLM": "modeling.Mine"}}),
        ("llama", {"quantization_config": {"bits": 4}}),
        ("llama", {"text_config": {"hidden_size": 8}}),
        ("llama", {"architectures": ["LlamaForSequenceClassification"]}),
        ("llama", {"a_key_of_tomorrow": True}),
        ("llama", {"hidden_size": 30}),
        ("llama", {"hidden_size": 32.0}),
        ("llama", {"num_hidden_layers": 0}),
        ("llama", {"num_hidden_layers": True}),
        ("llama", {"num_key_value_heads": 3}),
        ("llama", {"tie_word_embeddings": "yes"}),
        ("llama", {"pad_token_id": 48}),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}),
        ("llama", {"rope_parameters": "default"}),
        ("phi3", {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0] * 4}}),
        ("qwen3", {"layer_types": ["full_attention"]}),
        ("qwen2", {"layer_types": ["chunked_attention"] * 4}),
        ("gemma3_text", {"use_bidirectional_attention": True}),
        ("gpt2", {"add_cross_attention": True}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("gpt2", {"head_dim": 8}),
        ("gpt2", {"hidden_size": 32}),
    ],
)
def test_what_is_unusual_is_not_answered(name, changes):
    keys = written(CONFIGS[name])
    assert declared(keys) is not None
    assert declared(keys | changes) is None


@pytest.mark.parametrize("text", ["{", "[]", "1", "\udce9"])
def test_what_is_no_configuration_is_not_answered(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert read_anatomy(tmp_path / "config.json") is None
