"""int8 by torchao: integers and one scale a row, in safetensors, which Transformers reads again."""

import pytest
import torch
from safetensors import safe_open

from limbeck.errors import BadModel, BadSetting
from limbeck.exporters.named import Format
from limbeck.models.language_model import LanguageModel
from tests.exporters.test_gguf import packed, small
from tests.helpers.gguf import random_model
from tests.helpers.models import tokenizer


def model(**keys) -> LanguageModel:
    return LanguageModel(random_model(small(**keys)), tokenizer(300), "tiny")


@pytest.mark.extras
def test_each_row_is_rounded_to_integers_of_its_own_scale(tmp_path):
    given = model(tie_word_embeddings=True)
    exporter = Format.of("int8").exporter()
    (tmp_path / "out").mkdir()
    exporter.write(given, tmp_path / "out", dtype=None)
    assert {file.suffix for file in (tmp_path / "out").iterdir()} <= {".json", ".safetensors", ".jinja"}
    name = "model.layers.1.mlp.down_proj"
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        integers, scale = (file.get_tensor(f"{name}._weight_{part}") for part in ("qdata", "scale"))
        embedding = file.get_tensor("model.embed_tokens.weight")
    weight = given.model.get_parameter(f"{name}.weight")
    assert integers.dtype == torch.int8
    # a symmetric scale of a row reaches its largest weight with one of 127 steps, or 128 below 0
    steps = weight.abs().amax(1, keepdim=True) / scale.reshape(-1, 1)
    assert ((steps > 126.9) & (steps < 128.1)).all()
    assert ((integers * scale.reshape(-1, 1) - weight).abs() <= 0.51 * scale.reshape(-1, 1)).all()
    assert torch.equal(embedding, given.model.get_parameter("model.embed_tokens.weight"))
    found = exporter.read(tmp_path / "out", given)
    log_p, log_q = (one(packed(300)).logits().log_softmax(-1) for one in (given, found))
    assert 0 < float((log_p.exp() * (log_p - log_q)).sum(-1).mean()) < 0.02


def test_without_torchao_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("limbeck.packages.find_spec", lambda name: None)
    with pytest.raises(BadModel, match=r"pip install 'limbeck\[quant\]'"):
        Format.of("int8").exporter().write(model(), tmp_path, dtype=None)


def test_half_precision_beside_integers_is_refused(tmp_path):
    with pytest.raises(BadSetting, match="--dtype float16: int8 keeps the rest"):
        Format.of("int8").exporter().write(model(), tmp_path, dtype=torch.float16)
