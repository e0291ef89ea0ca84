"""ONNX graphs with a past: the same logits in onnxruntime, in one part and in several."""

import json
import re
import subprocess
import sys

import pytest
import torch
from transformers import Gemma2Config, GPT2Config, LlamaConfig

from limbeck.errors import BadModel, BadSetting
from limbeck.exporters.named import Format
from limbeck.models.language_model import LanguageModel
from limbeck.models.save import save
from tests.exporters.test_gguf import packed, small
from tests.helpers.gguf import random_model
from tests.helpers.models import texts, tokenizer

GEMMA2 = Gemma2Config(
    vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    head_dim=16, query_pre_attn_scalar=16, sliding_window=6, max_position_embeddings=64, initializer_range=0.2,
    bos_token_id=0, eos_token_id=1, pad_token_id=2,
)  # fmt: skip
GPT2 = GPT2Config(vocab_size=300, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2)


@pytest.mark.extras
@pytest.mark.parametrize("config", [small(), GEMMA2, GPT2], ids=["llama", "gemma2", "gpt2"])
def test_the_graph_computes_the_same_with_and_without_a_past(config, tmp_path):
    model = LanguageModel(random_model(config), tokenizer(300), "tiny")
    exporter = Format.of("onnx").exporter()
    exporter.write(model, tmp_path, dtype=None)
    found = exporter.read(tmp_path, model)
    batch = packed(300)
    torch.testing.assert_close(found(batch).logits(), model(batch).logits(), atol=1e-4, rtol=1e-4)
    genai = json.loads((tmp_path / "genai_config.json").read_text())["model"]["decoder"]
    assert (genai["num_hidden_layers"], genai["num_key_value_heads"]) == (2, getattr(config, "num_key_value_heads", 4))
    names = [one.name for one in found._session.get_inputs()]
    assert names[:3] == ["input_ids", "attention_mask", "position_ids"]
    assert names[3:5] == ["past_key_values.0.key", "past_key_values.0.value"]
    assert [one.name for one in found._session.get_outputs()][:2] == ["logits", "present.0.key"]
    assert found._session.get_inputs()[1].shape == ["batch_size", "total_sequence_length"]


@pytest.mark.extras
def test_the_command_says_nothing_of_other_machines_kernels(tmp_path):
    """torchao and torch's exporter warn of what is not there while they are imported and used."""
    save(LanguageModel(random_model(small()), tokenizer(300), "tiny"), tmp_path / "m")
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in texts(8)))
    asked = ["--to", "onnx", "--data", tmp_path / "text.jsonl", "--threads", "1", "--out", tmp_path / "out"]
    command = [sys.executable, "-m", "limbeck", "export", tmp_path / "m", *asked]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    assert [
        line for line in done.stderr.splitlines() if re.search("Failed to load|torchvision|pytree|Enum", line)
    ] == []
    assert "onnx: compared with the model" in done.stdout + done.stderr


def test_another_number_format_is_refused(tmp_path):
    model = LanguageModel(random_model(LlamaConfig(**small().to_dict())), tokenizer(300), "tiny")
    with pytest.raises(BadSetting, match="--dtype float16: the ONNX graph is written in float32"):
        Format.of("onnx").exporter().write(model, tmp_path, dtype=torch.float16)


def test_without_the_packages_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("limbeck.packages.find_spec", lambda name: None)
    model = LanguageModel(random_model(small()), tokenizer(300), "tiny")
    with pytest.raises(BadModel, match=r"pip install 'limbeck\[onnx\]'"):
        Format.of("onnx").exporter().write(model, tmp_path, dtype=None)
