"""Model folders with impossible JSON or headers: an error of one sentence, at once, without memory use."""

import json
import struct
from pathlib import Path

import pytest

from limbeck.errors import BadModel
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.models.weightless import load_without_weights
from tests.helpers.zoo import animal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good model folder to damage."""
    save(animal("llama"), tmp_path / "good")
    return tmp_path / "good"


CONFIGS = [
    ({"num_attention_heads": 0}, "num_attention_heads: expected a number of 1 or more, got 0"),
    ({"num_hidden_layers": 0}, "num_hidden_layers: expected a number of 1 or more, got 0"),
    ({"num_hidden_layers": "four"}, "num_hidden_layers: expected a number of 1 or more, got 'four'"),
    ({"num_hidden_layers": 10**6}, "num_hidden_layers: expected at most 4,096, got 1000000"),
    ({"hidden_size": 2**40}, r"hidden_size: expected at most 1,048,576, got 1099511627776"),
    ({"hidden_size": -32}, "hidden_size: expected a number of 1 or more, got -32"),
    ({"vocab_size": 10**400}, r"vocab_size: expected at most .*, got a number of more than 18 digits \(1329 bits\)"),
    ({"vocab_size": 2**25}, r"do not belong together: model.embed_tokens.weight should be \(33554432, 32\)"),
    ({"intermediate_size": 2**23}, r"do not belong together: .* should be .*8388608"),
    ({"num_key_value_heads": True}, "num_key_value_heads: expected a number of 1 or more, got True"),
    ({"head_dim": 1.5}, "head_dim: expected a number of 1 or more, got 1.5"),
    (
        {"hidden_act": "swish7"},
        "cannot be built from its configuration .*swish7|expected a configuration that Transformers reads",
    ),
    (
        {"rope_parameters": {"rope_type": "spiral", "rope_theta": 1e4}},
        "cannot be built .*spiral|expected a configuration that Transformers reads",
    ),
    ({"rope_parameters": "spiral"}, "cannot be built|expected a configuration that Transformers reads"),
    ({"rms_norm_eps": "small"}, "cannot be|expected a configuration that Transformers reads"),
]


@pytest.mark.parametrize(("change", "message"), CONFIGS, ids=[str(change)[:40] for change, _ in CONFIGS])
def test_values_no_model_can_have(change, message, folder):
    file = folder / "config.json"
    text = json.dumps(
        json.loads(file.read_text()) | {k: v for k, v in change.items() if k != "vocab_size" or v < 2**63}
    )
    if change.get("vocab_size", 0) >= 2**63:
        text = text.replace('"vocab_size": 48', f'"vocab_size": 1{"0" * 400}')
    file.write_text(text)
    _refused(folder, message)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "[" * 100_000, '{"a":' * 3000 + "1" + "}" * 3000])
def test_a_configuration_that_is_no_json_object(text, folder):
    (folder / "config.json").write_text(text)
    _refused(folder, r"config\.json: expected ")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"eos_token_id": "two"}', '{"eos_token_id": [1, "2"]}', '{"bos_token_id": -5}', "[" * 100_000]
)
def test_generation_settings_that_are_none(text, folder):
    (folder / "generation_config.json").write_text(text)
    _refused(folder, r"generation_config\.json: .*expected ")
    with pytest.raises(BadModel, match=r"generation_config\.json: .*expected "):
        load_without_weights(folder, name="x")


def _header(entries: object) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        _header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}) + bytes(8),
        _header({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}) + bytes(8),
        _header({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}}) + bytes(8),
        _header({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 8]}}) + bytes(8),
        _header({"a": {"dtype": "F32", "shape": [1e400], "data_offsets": [0, 8]}}) + bytes(8),
        _header([1, 2]),
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        b"",
    ],
)
def test_headers_that_lie(content, folder):
    (folder / "model.safetensors").write_bytes(content)
    _refused(folder, r"model\.safetensors: expected ")


@pytest.mark.parametrize(
    "index", ['{"weight_map": {}}', "{}", '{"weight_map": {"a": ".."}}', '{"weight_map": {"a": ""}}', "[" * 100_000]
)
def test_an_index_that_names_no_files(index, folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    _refused(folder, r"index\.json: expected ")


def _refused(folder: Path, message: str) -> None:
    with pytest.raises(BadModel, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
