"""`--to onnx`: a graph with its weights, configuration and tokenizer, and what onnxruntime-genai reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from limbeck.errors import BadModel, BadSetting
from limbeck.exporters.named import exporter
from limbeck.exporters.onnx.graph import GRAPH, kept_shapes, write_graph
from limbeck.exporters.onnx.runtime import OnnxRuntime
from limbeck.generation.local import stop_tokens
from limbeck.models.language_model import LanguageModel
from limbeck.models.quiet import quiet_transformers
from limbeck.packages import require_packages

_OWN = "limbeck"  # model type of decoders with limbeck's own mixers


@exporter("onnx")
class OnnxExporter:
    """model.onnx in float32: one graph that reads a prompt and, with what it kept, each further token."""

    def write(self, model: LanguageModel, folder: Path, *, dtype: torch.dtype | None) -> list[str]:
        """Writes the graph, the tokenizer, config.json, and genai_config.json for onnxruntime-genai."""
        if dtype not in (None, torch.float32):
            raise BadSetting(
                f"--dtype {str(dtype).removeprefix('torch.')}: the ONNX graph is written in float32; leave it out"
            )
        require_packages("ONNX is written with", "onnx", "onnxscript", extra="onnx", error=BadModel)
        if model.config.model_type == _OWN:
            raise BadModel(
                f"{model.name}: layers of limbeck's own mixers keep another state than keys and values, which neither "
                f"ONNX nor GGUF has; "
                "export it with --to folder, which carries its code"
            )
        shapes = write_graph(model.model, folder)
        with quiet_transformers():
            model.tokenizer.save_pretrained(folder)
            model.config.save_pretrained(folder)
        text = json.dumps(_genai(model, shapes), indent=2)
        (folder / "genai_config.json").write_text(text + "\n", encoding="utf-8")
        return ["genai_config.json was not run: onnxruntime-genai is no package of limbeck's"]

    def read(self, folder: Path, like: LanguageModel) -> OnnxRuntime:
        """The graph in onnxruntime."""
        return OnnxRuntime(folder, vocab=like.vocab, shapes=kept_shapes(like.model))


def _genai(model: LanguageModel, shapes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """What onnxruntime-genai reads. Buffers are not shared, which only its own attention nodes allow."""
    heads, size = shapes[0]
    stops = sorted(stop_tokens(model))
    ids = {"bos_token_id": model.tokenizer.bos_token_id, "pad_token_id": model.tokenizer.pad_token_id}
    names = ("input_ids", "attention_mask", "position_ids")
    past = {f"past_{kind}_names": f"past_key_values.%d.{kind}" for kind in ("key", "value")}
    present = {f"present_{kind}_names": f"present.%d.{kind}" for kind in ("key", "value")}
    decoder = {
        "filename": GRAPH,
        "head_size": size,
        "hidden_size": model.config.hidden_size,
        "num_attention_heads": model.config.num_attention_heads,
        "num_key_value_heads": heads,
        "num_hidden_layers": len(shapes),
        "inputs": {**{name: name for name in names}, **past},
        "outputs": {"logits": "logits", **present},
    }
    about = {
        "type": model.config.model_type,
        "vocab_size": model.config.vocab_size,
        "context_length": model.context,
        "eos_token_id": stops if len(stops) != 1 else stops[0],
        **{key: value for key, value in ids.items() if value is not None},
        "decoder": decoder,
    }
    return {
        "model": about,
        "search": {"max_length": model.context, "do_sample": False, "past_present_share_buffer": False},
    }
