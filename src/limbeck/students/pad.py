"""Pads a decoder with new channels, heads and neurons of random weights, which change no logit at first.

What is written to a new channel, and what a new head or neuron writes, is multiplied by zeros, which training moves; what reads
them is random, so that all of them get gradients (the zeros of arXiv 2401.02415, sec. 3.2, for widths). A norm divides by the
root mean square over all channels, those of zeros among them, so that its weights are multiplied by sqrt(old / new), and its
epsilon by old / new. Unlike in `students.widen` any number of channels may be added.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from limbeck.errors import BadModel, BadShape
from limbeck.models.anatomy import HEAD, Anatomy
from limbeck.models.build import build
from limbeck.models.language_model import LanguageModel
from limbeck.students.deepen import writers
from limbeck.students.shape import Shape
from limbeck.students.shape import config_of as config_of_shape
from limbeck.students.widen import check_kind, check_larger

# Norms without a mean, which zeros leave alone; each head a norm of its own, or none; no matrices fused over heads.
FAMILIES = ("granite", "llama", "mistral", "qwen2", "qwen3", "smollm3")


def check_padding(anatomy: Anatomy, model_type: str, shape: Shape) -> None:
    """Raises BadModel for an architecture that cannot be padded, BadShape for the widths of a shape that it is not padded to."""
    now = Shape.of_anatomy(anatomy)
    check_larger(now, shape)
    if model_type not in FAMILIES:
        raise BadModel(
            f"a {model_type} model cannot be padded: limbeck pads {', '.join(FAMILIES)} models; give one, or --op widen with a "
            "multiple of its channels"
        )
    if shape.heads * now.kv_heads != shape.kv_heads * now.heads:
        raise BadShape(
            f"heads={shape.heads} do not fit kv_heads={shape.kv_heads}: padding leaves each key-value head the model's "
            f"{now.heads // now.kv_heads} query heads; give kv_heads={shape.heads * now.kv_heads // now.heads}, or other heads"
        )
    check_kind(anatomy, model_type, shape)


@torch.no_grad()
def pad(model: LanguageModel, shape: Shape, *, seed: int) -> PreTrainedModel:
    """A decoder with the widths of ``shape`` and the model's layers that gives the model's logits, to rounding.

    ``seed`` draws the new weights. The model is not changed. Raises as `check_padding`.
    """
    anatomy = Anatomy.of(model.config)
    check_padding(anatomy, model.config.model_type, shape)
    now = Shape.of_anatomy(anatomy)
    config = config_of_shape(shape, model.config)
    config.rms_norm_eps *= now.hidden / shape.hidden
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wide = build(config, dtype=model.model.dtype).to(model.device)
    theirs, silent = dict(model.model.named_parameters()), writers(anatomy)
    for name, parameter in wide.named_parameters():
        inside = name.startswith(f"{anatomy.kind.layers}.")
        local = name.removeprefix(f"{anatomy.kind.layers}.").partition(".")[2] if inside else name
        axes = (anatomy.inside if inside else anatomy.outside)[local]
        if local in silent or (axes == ("vocab", "hidden") and local != HEAD):
            parameter.zero_()
        scale = (now.hidden / shape.hidden) ** 0.5 if axes == ("hidden",) and "norm" in local else 1.0
        _corner(parameter, theirs[name]).copy_(theirs[name] * scale)
    return wide


def _corner(wide: Float[Tensor, "..."], small: Tensor) -> Float[Tensor, "..."]:
    """The part of a wide tensor whose units are the old ones, which come first."""
    return wide[tuple(slice(length) for length in small.shape)]
