"""Teachers with quantised weights have the logits of unquantised ones, and cannot be pruned, trained or streamed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GptOssConfig, LlamaConfig

from limbeck.config import CaptureSettings, ImportSettings
from limbeck.errors import BadModel
from limbeck.jobs.capture.job import capture
from limbeck.jobs.importing.job import import_model
from limbeck.models.anatomy import Anatomy
from limbeck.models.build import new_model
from limbeck.models.configuration import is_quantised, load_config
from limbeck.models.dequantise import dequantised
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.models.streamed import load_streamed
from limbeck.planning.cost.size import Size
from limbeck.students.convert import check_family
from tests.helpers.models import write_corpus
from tests.helpers.zoo import packed, words

_IDS = {"vocab_size": 48, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 64}
_HEADS = {"num_hidden_layers": 2, "num_attention_heads": 4}
FP8 = LlamaConfig(**_IDS, **_HEADS, hidden_size=128, intermediate_size=128, num_key_value_heads=4)
MXFP4 = GptOssConfig(
    **(_IDS | _HEADS | {"hidden_size": 32, "intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 8}),
    num_local_experts=4,
    num_experts_per_tok=2,
    sliding_window=4,
)
_WHOLE = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]


def _written(folder: Path, config, tensors: dict[str, torch.Tensor], quantisation: dict[str, object]) -> None:
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    if quantisation:
        written = json.loads((folder / "config.json").read_text()) | {"quantization_config": quantisation}
        (folder / "config.json").write_text(json.dumps(written))


def _fp8(folder: Path) -> None:
    """A Llama in ``folder/quantised`` with projections in FP8 with one scale, and in ``folder/plain`` with their values."""
    model = new_model(FP8, words(), 0)
    for name in ("quantised", "plain"):
        save(model, folder / name)
    small = load_file(folder / "plain" / "model.safetensors")
    plain = dict(small)
    for name in [name for name in small if "_proj" in name]:
        scale = small[name].abs().max() / 448
        small[name] = (small[name] / scale).to(torch.float8_e4m3fn)
        plain[name], small[f"{name}_scale_inv"] = small[name].float() * scale, scale.reshape(1, 1)
    kind = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    _written(folder / "quantised", FP8, small, kind)
    _written(folder / "plain", FP8, plain, {})


def _mxfp4(folder: Path) -> None:
    """As `_fp8`, for a GPT-OSS with experts in MXFP4."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    model = new_model(MXFP4, words(), 0)
    for name in ("quantised", "plain"):
        save(model, folder / name)
    small = load_file(folder / "plain" / "model.safetensors")
    plain = dict(small)
    generator = torch.Generator().manual_seed(0)
    for name in [name for name in small if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, inputs, outputs = small.pop(name).shape
        blocks = torch.randint(256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8, generator=generator)
        scales = torch.randint(120, 124, (experts, outputs, inputs // 32), dtype=torch.uint8, generator=generator)
        small |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        plain[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).contiguous()
    _written(folder / "quantised", MXFP4, small, {"quant_method": "mxfp4", "modules_to_not_convert": _WHOLE})
    _written(folder / "plain", MXFP4, plain, {})


@pytest.mark.parametrize("write", [_fp8, _mxfp4], ids=["fp8", "mxfp4"])
def test_a_quantised_teacher_has_the_logits_of_its_unquantised_weights(write, tmp_path):
    pytest.importorskip("accelerate", reason="Transformers runs these kinds with accelerate alone")
    write(tmp_path)
    batch = packed()
    ours, plain = load(tmp_path / "quantised")(batch).logits(), load(tmp_path / "plain")(batch).logits()
    torch.testing.assert_close(ours, plain)
    assert float(plain.std()) > 0.01
    settings = CaptureSettings(
        teacher=str(tmp_path / "quantised"),
        data=str(write_corpus(tmp_path)),
        length=8,
        tokens=64,
        out=tmp_path / "answers",
    )
    assert capture(settings)["rows"] == 8


def test_what_needs_whole_weights_is_refused_with_a_reason(tmp_path):
    _fp8(tmp_path)
    folder = tmp_path / "quantised"
    config = load_config(folder)
    for refused, message in (
        (
            lambda: load(folder, train=True),
            "expected full-precision weights, because the model is trained, got quantised ones; de-quantise it first",
        ),
        (
            lambda: load_streamed(folder, length=8, spill=tmp_path),
            r"because layers are read one by one, got quantised ones; it has to be in memory \(without --stream\)",
        ),
        (
            lambda: Anatomy.of(config),
            r"a llama model with quantised weights cannot be pruned: de-quantise it first \(limbeck import",
        ),
        (lambda: check_family(config), "a llama model cannot be converted: its weights are quantised; limbeck import"),
    ):
        with pytest.raises(BadModel, match=message):
            refused()
    assert Size.of(config).parameters == Size.of(load_config(tmp_path / "plain")).parameters


@pytest.mark.parametrize("write", [_fp8, _mxfp4], ids=["fp8", "mxfp4"])
def test_import_de_quantises_to_the_numbers_that_the_format_holds(write, tmp_path):
    pytest.importorskip("accelerate", reason="Transformers runs these kinds with accelerate alone")
    write(tmp_path)
    (tmp_path / "quantised" / "README.md").write_text("---\nlicense: mit\n---\n")
    result = import_model(ImportSettings(model=str(tmp_path / "quantised"), out=tmp_path / "whole"))
    assert (result["dtype"], result["licence"], result["architecture"]) == (
        "bfloat16",
        "mit",
        load_config(tmp_path / "plain").model_type,
    )
    assert not is_quantised(load_config(tmp_path / "whole"))
    batch = packed()
    whole, plain = load(tmp_path / "whole"), load(tmp_path / "plain")
    plain.model.bfloat16().float()
    torch.testing.assert_close(whole(batch).logits(), plain(batch).logits(), rtol=1e-3, atol=1e-3)
    if write is _fp8:
        Anatomy.of(whole.config)  # a student can be cut out of it


def test_kinds_that_transformers_does_not_de_quantise_are_named(tmp_path):
    _fp8(tmp_path)
    file = tmp_path / "quantised" / "config.json"
    written = json.loads(file.read_text())
    for kind in ("gptq", "awq", "torchao"):
        file.write_text(json.dumps(written | {"quantization_config": {"quant_method": kind}}))
        with pytest.raises(BadModel, match=rf"quantised as {kind}, and Transformers de-quantises fp8, mxfp4"):
            dequantised(tmp_path / "quantised")
    with pytest.raises(BadModel, match=r"are not quantised, so it is an ordinary model already"):
        import_model(ImportSettings(model=str(tmp_path / "plain"), out=tmp_path / "whole"))
    assert not (tmp_path / "whole").exists()
