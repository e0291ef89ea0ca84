"""Further contents of a student's folder: for older readers and converters, and its licence."""

import json
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, Gemma3TextConfig, GPTNeoXConfig, LlamaConfig, Phi3Config, Qwen2Config

from limbeck.config import DistilSettings, ShrinkSettings
from limbeck.jobs.distil.job import distil
from limbeck.jobs.shrink.job import shrink
from limbeck.models.load import load
from limbeck.models.save import round_to, save
from limbeck.models.sidecar import for_older_readers, licence_of, stored_dtype
from limbeck.report.card import model_card
from tests.helpers.models import llama, write_corpus
from tests.helpers.zoo import animal

_LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
_FACTORS = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
OLDER = {
    "default": (
        LlamaConfig(rope_parameters={"rope_type": "default", "rope_theta": 5e5}),
        {"rope_theta": 5e5},
    ),
    "llama3": (
        LlamaConfig(rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **_LLAMA3}),
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **_LLAMA3}},
    ),
    "yarn": (
        Qwen2Config(
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 1e6,
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        ),
        {
            "rope_theta": 1e6,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        },
    ),
    "phi3": (
        Phi3Config(
            hidden_size=32,
            num_attention_heads=4,
            pad_token_id=0,
            max_position_embeddings=64,
            original_max_position_embeddings=16,
            rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, **_FACTORS},
        ),
        {"rope_theta": 1e4, "rope_scaling": {"type": "longrope", **_FACTORS}},
    ),
    "gemma3": (
        Gemma3TextConfig(
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            }
        ),
        {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    ),
    "gpt_neox": (GPTNeoXConfig(), {"rotary_emb_base": 10000.0, "rotary_pct": 0.25}),
}


@pytest.mark.parametrize("name", OLDER)
def test_rotary_settings_stand_where_older_readers_look(name, tmp_path):
    config, expected = OLDER[name]
    written = json.loads(config.to_json_string())
    found = for_older_readers(written | {"dtype": "bfloat16"}, config)
    assert {key: found[key] for key in expected} == expected
    assert found["torch_dtype"] == "bfloat16"
    (tmp_path / "config.json").write_text(json.dumps(found))
    again = AutoConfig.from_pretrained(tmp_path).rope_parameters
    assert {k: v for k, v in again.items() if k != "type"} == {
        k: v for k, v in config.rope_parameters.items() if k != "type"
    }


def test_rotary_settings_without_older_names_are_unchanged():
    config = Phi3Config(hidden_size=32, num_attention_heads=4, pad_token_id=0)
    config.rope_parameters = {"rope_type": "longrope", "rope_theta": 1e4, "attention_factor": 2.0, **_FACTORS}
    assert "rope_scaling" not in for_older_readers(json.loads(config.to_json_string()), config)


def test_files_are_readable_and_the_tokenizers_own_come_along(tmp_path):
    save(animal("llama"), tmp_path / "a")
    (tmp_path / "a" / "tokenizer.model").write_bytes(b"pieces")
    save(load(tmp_path / "a"), tmp_path / "b")
    assert (tmp_path / "b" / "tokenizer.model").read_bytes() == b"pieces"
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "b").iterdir()} == {0o644}


def test_files_and_models_in_memory_have_the_requested_format(tmp_path):
    model = animal("gemma2")
    exact = {name: p.clone() for name, p in model.model.named_parameters()}
    inv_freq = model.model.model.rotary_emb.inv_freq.clone()
    save(model, tmp_path / "half", dtype=torch.bfloat16)
    assert {t.dtype for t in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.bfloat16}
    assert stored_dtype(tmp_path / "half") == "bfloat16"
    config = json.loads((tmp_path / "half" / "config.json").read_text())
    assert (config["dtype"], config["torch_dtype"]) == ("bfloat16", "bfloat16")
    for name, parameter in model.model.named_parameters():
        assert torch.equal(parameter, exact[name].bfloat16().float())
    assert torch.equal(model.model.model.rotary_emb.inv_freq, inv_freq)  # no weight
    again = load(tmp_path / "half")
    assert all(torch.equal(p, q) for p, q in zip(again.model.parameters(), model.model.parameters(), strict=True))


def test_what_float16_cannot_hold_stays_in_float32():
    model = animal("llama")
    model.model.model.norm.weight.data[0] = 1e6
    assert round_to(model, torch.float16) == torch.float32
    assert float(model.model.model.norm.weight[0]) == 1e6


def test_formats_of_folders(tmp_path):
    save(animal("llama"), tmp_path / "a")
    assert stored_dtype(tmp_path / "a") == "float32"
    (tmp_path / "a" / "model.safetensors").unlink()
    for stated, expected in (("bfloat16", "bfloat16"), (None, "float32"), ("float8", "float32")):
        (tmp_path / "a" / "config.json").write_text(json.dumps({"torch_dtype": stated}))
        assert stored_dtype(tmp_path / "a") == expected
    (tmp_path / "a" / "config.json").write_text("[]")
    assert stored_dtype(tmp_path / "a") == "float32"


@pytest.mark.long
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\nlicense: mit\nbase_model: a/b\ntags: [x]\n---\n# A\n", {"license": "mit", "base_model": "a/b"}),
        ("---\nlicense: other\nlicense_name: own\nbase_model:\n- a/b\n---\n", {"license": "other", "license_name": "own",
          "base_model": "a/b"}),
        ("# no front matter\n", {}),
        ("---\n{: broken\n---\n", {}),
        ("---\n- a list\n---\n", {}),
        ("---\nlicense: [mit, x]\nbase_model: 3\n---\n", {}),
        ("---\n" + "[" * 5000 + "\n---\n", {}),
    ],
)  # fmt: skip
def test_a_readme_states_licence_and_origin(text, expected, tmp_path):
    assert licence_of(tmp_path) == {}
    (tmp_path / "README.md").write_text(text)
    assert licence_of(tmp_path) == expected


def test_a_card_carries_licence_and_base():
    teacher = {"name": "mine", "parameters": 10, "stated": {"license": "apache-2.0", "base_model": "a/b"}}
    card = model_card({"teacher": teacher, "student": {"parameters": 5}, "lineage": {"teacher": "mine"}}, [])
    assert '\nbase_model: "a/b"\nlicense: "apache-2.0"\n---\n' in card
    assert "(the teacher's README.md names: apache-2.0)" in card
    assert "pruned from its teacher (10), and not trained since pruning: distil it before use." in card


@pytest.fixture
def half_teacher(tmp_path: Path) -> Path:
    """A teacher in bfloat16, with a licence."""
    save(llama(layers=2, hidden=32), tmp_path / "teacher", dtype=torch.bfloat16, card="---\nlicense: mit\n---\n")
    return tmp_path / "teacher"


@pytest.mark.long
def test_the_teachers_format_and_licence_are_the_students(half_teacher, tmp_path):
    corpus = str(write_corpus(tmp_path))
    common = {"teacher": str(half_teacher), "data": corpus, "length": 16, "shape": "layers=1"}
    shrink(ShrinkSettings(**common, out=tmp_path / "cut"))
    shrink(ShrinkSettings(**common, out=tmp_path / "whole", student_dtype="float32"))
    assert (stored_dtype(tmp_path / "cut"), stored_dtype(tmp_path / "whole")) == ("bfloat16", "float32")
    assert 'license: "mit"' in (tmp_path / "cut" / "README.md").read_text()
    run = tmp_path / "run"
    distil(DistilSettings(**common, tokens=256, batch_tokens=64, baselines="none", out=run))
    assert stored_dtype(run / "student") == "bfloat16"
    card = (run / "student" / "README.md").read_text()
    assert 'license: "mit"' in card
    assert "trained in float32 and rounded to bfloat16 at the end" in card
