"""Traces a model as one ONNX graph: tokens and what was kept of those before them -> logits and what to keep.

Inputs ``input_ids, attention_mask, position_ids, past_key_values.I.key|value``, outputs ``logits, present.I.key|value``, as
optimum and onnxruntime-genai name them. Keys and values are (batch, heads, length, channels), and the mask is over past and
new tokens. A past of length 0 is the start of a text.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from limbeck.errors import BadModel, first_line
from limbeck.models.cached import cache_argument
from limbeck.models.quiet import quiet_transformers

GRAPH = "model.onnx"
_BATCH, _NEW, _PAST, _ALL = "batch_size", "sequence_length", "past_sequence_length", "total_sequence_length"


class _Step(nn.Module):
    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model, self._name = model, cache_argument(type(model).forward)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: list[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, ...]:
        kept = {self._name: DynamicCache(past)}
        found = self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=True, **kept
        )
        layers = getattr(found, self._name).layers
        return (found.logits, *(tensor for layer in layers for tensor in (layer.keys, layer.values)))


def kept_shapes(model: PreTrainedModel) -> list[tuple[int, int]]:
    """(heads, channels) of keys of each layer. Raises BadModel for a model that keeps something else than keys and values."""
    tokens = torch.tensor([[0, 1]], device=model.device)
    name = cache_argument(type(model).forward)
    try:
        with torch.no_grad():
            kept = getattr(model(input_ids=tokens, use_cache=True, **{name: DynamicCache()}), name)
        shapes = [(tuple(layer.keys.shape), tuple(layer.values.shape)) for layer in kept.layers]
    except Exception as error:  # of whatever kind: a recurrent layer takes no such cache
        raise _other_state(model) from error
    same = all(keys == values and keys[0] == 1 and keys[2] == 2 for keys, values in shapes)
    if not same or len(shapes) != model.config.num_hidden_layers:
        raise _other_state(model)
    return [(keys[1], keys[3]) for keys, _ in shapes]


def _other_state(model: PreTrainedModel) -> BadModel:
    return BadModel(
        f"a {model.config.model_type} model keeps another state of a text than keys and values of each layer, which "
        f"the ONNX graph "
        "has no inputs for; export another format, such as folder"
    )


@torch.no_grad()
def write_graph(model: PreTrainedModel, folder: Path) -> list[tuple[int, int]]:
    """Writes model.onnx with its weights beside it, and gives the shapes of what it keeps. Raises BadModel where it cannot."""
    shapes = kept_shapes(model)
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with warnings.catch_warnings(), quiet_transformers():
            warnings.simplefilter("ignore")
            program = _traced(model, shapes)
            # a name of a dimension in every place where it is
            _name_dimensions(program.model, len(shapes))
            program.save(folder / GRAPH, external_data=True)
    finally:
        model.set_attn_implementation(before)
    return shapes


def _traced(model: PreTrainedModel, shapes: Sequence[tuple[int, int]]) -> Any:
    new, past, rows = 3, 4, 2  # sizes of 0 and 1 would become constants of the graph
    device = model.device
    kept = [tuple(torch.zeros(rows, heads, past, size, device=device) for _ in range(2)) for heads, size in shapes]
    example = (
        torch.ones(rows, new, dtype=torch.long, device=device),
        torch.ones(rows, past + new, dtype=torch.long, device=device),
        torch.arange(past, past + new, device=device).expand(rows, new).contiguous(),
        kept,
    )
    free = torch.export.Dim.DYNAMIC
    dynamic = ({0: free, 1: free}, {0: free, 1: free}, {0: free, 1: free}, [({0: free, 2: free},) * 2] * len(shapes))
    names = [f"{{}}.{layer}.{kind}" for layer in range(len(shapes)) for kind in ("key", "value")]
    try:
        program = torch.onnx.export(
            _Step(model).eval(),
            example,
            dynamo=True,
            input_names=["input_ids", "attention_mask", "position_ids", *(n.format("past_key_values") for n in names)],
            output_names=["logits", *(n.format("present") for n in names)],
            dynamic_shapes=dynamic,
            verbose=False,
        )
    except Exception as error:  # of whatever kind: each operator that cannot be said in ONNX fails in its own way
        raise BadModel(
            f"a {model.config.model_type} model cannot be traced as an ONNX graph here ({first_line(error)}); export "
            f"another format, "
            "such as gguf or folder"
        ) from error
    return program


def _name_dimensions(graph: Any, layers: int) -> None:
    """Gives the free dimensions of inputs and outputs the names that others know."""
    named: dict[str, tuple[str | None, ...]] = {
        **dict.fromkeys(("input_ids", "position_ids", "logits"), (_BATCH, _NEW)),
        "attention_mask": (_BATCH, _ALL),
    }
    for layer in range(layers):
        for kind in ("key", "value"):
            named[f"past_key_values.{layer}.{kind}"] = (_BATCH, None, _PAST)
            named[f"present.{layer}.{kind}"] = (_BATCH, None, _ALL)
    import onnx_ir

    for value in (*graph.graph.inputs, *graph.graph.outputs):
        wanted = named.get(value.name)
        if wanted is not None and value.shape is not None:
            dims = [new or old for new, old in zip((*wanted, *[None] * 4), value.shape, strict=False)]
            value.shape = onnx_ir.Shape(dims)
