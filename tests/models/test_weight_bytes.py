"""Bytes of weights are those of the files that are written: safetensors of a folder, tensors of a GGUF file."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, LlamaConfig, Qwen3Config

from limbeck.config.values import STORED_AS
from limbeck.models.anatomy import Anatomy
from limbeck.models.build import build
from limbeck.models.gguf.numbers import size_of
from limbeck.models.language_model import LanguageModel
from limbeck.models.save import save
from limbeck.models.weight_bytes import _OF_BLOCK, FOLDER, FORMATS, bytes_of, weight_bytes
from tests.helpers.models import tokenizer
from tests.helpers.zoo import CONFIGS, words

_IDS = {"vocab_size": 400, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_WIDE = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
WIDE = {  # one whose rows are all whole blocks, one with some that are not, one whose matrices are transposed in the file
    "llama": LlamaConfig(**_IDS, **_WIDE, intermediate_size=352, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**_IDS, **_WIDE, head_dim=32, intermediate_size=300, tie_word_embeddings=False),
    "gpt2": GPT2Config(
        vocab_size=400, n_positions=64, n_embd=128, n_layer=4, n_head=4, n_inner=500, bos_token_id=1, eos_token_id=2
    ),
}


def test_the_formats_are_those_that_a_command_reads():
    assert set(FORMATS) == set(STORED_AS)
    assert {kind: size_of(kind, (32,)) for kind in _OF_BLOCK} == _OF_BLOCK


@given(
    st.sampled_from(sorted(CONFIGS)), st.sampled_from(FORMATS), st.integers(1, 4), st.integers(1, 6), st.integers(1, 9)
)
def test_bytes_are_counted_from_arrays_as_one_by_one(name, kind, layers, blocks, eighths):
    anatomy = Anatomy.of(CONFIGS[name])
    hidden, ffn = np.array([[8 * eighths, 32 * blocks]]), np.array([[8], [32 * blocks]])
    found = weight_bytes(anatomy, replace(anatomy.sizes, layers=layers, hidden=hidden, ffn=ffn), kind)
    for row in range(2):
        for column in range(2):
            axes = {"layers": layers, "hidden": int(hidden[0, column]), "ffn": int(ffn[row, 0])}
            assert found[row, column] == bytes_of(replace(anatomy, sizes=replace(anatomy.sizes, **axes)), kind)
    if kind in FOLDER:
        count = anatomy.count(
            layers=layers, hidden=hidden, ffn=ffn, heads=anatomy.sizes.heads, kv_heads=anatomy.sizes.kv_heads
        )
        assert np.array_equal(found, FOLDER[kind] * count)


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_a_saved_folder_has_as_many_bytes_and_one_percent_for_its_header(name, kind, tmp_path):
    model = LanguageModel(build(WIDE[name]), words(), name)
    save(model, tmp_path / "saved", dtype=getattr(torch, kind))
    counted = bytes_of(Anatomy.of(WIDE[name]), kind)
    assert counted <= sum(file.stat().st_size for file in (tmp_path / "saved").glob("*.safetensors")) <= 1.01 * counted


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("kind", ["f32", "bf16", "q8_0", "q4_0"])
def test_a_gguf_file_holds_as_many_bytes_of_tensors(name, kind, tmp_path):
    gguf = pytest.importorskip("gguf")
    from limbeck.exporters.gguf.writer import write_gguf

    config = WIDE[name]
    tok = tokenizer()
    assert len(tok) <= config.vocab_size
    write_gguf(LanguageModel(build(config), tok, name), tmp_path / "file.gguf", kind)
    tensors = gguf.GGUFReader(tmp_path / "file.gguf").tensors
    counted = bytes_of(Anatomy.of(config), kind)
    assert sum(int(tensor.n_bytes) for tensor in tensors) == counted
    beside = (tmp_path / "file.gguf").stat().st_size - counted  # keys, tokenizer, and where each tensor begins
    assert 0 < beside < 40_000
