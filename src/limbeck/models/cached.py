"""Forward passes with a cache of the previous tokens: keys and values, or another state.

Transformers names it `past_key_values` up to 5.23 and `cache` from 5.24 on. A model that receives it under an unknown name may
silently treat each token as the first of a text. So the name is taken from the model's signature, and once for each model two
passes, the second with the cache of the first, are compared with one pass over the same tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from typing import Any
from weakref import WeakSet

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from limbeck.errors import BadModel, Mismatch

NAMES = ("cache", "past_key_values")
CACHE = next(name for name in NAMES if name in {field.name for field in fields(BaseModelOutputWithPast)})

_ROUNDINGS = 16  # rounding steps of the largest logit by which two ways to compute it may differ
_TF32 = 2.0**-10
_checked: WeakSet[nn.Module] = WeakSet()


def read_on(model: nn.Module, tokens: Int[Tensor, "B T"], kept: Any, **others: Any) -> tuple[Float[Tensor, "B V"], Any]:
    """Logits after the last of ``tokens``, and the cache of all tokens so far. ``kept`` is the cache before them, or None.

    ``others`` are further arguments of the model. The first call raises BadModel where the model ignores the cache.
    """
    if isinstance(model, PreTrainedModel) and not model.training:  # in training, dropout differs between passes
        check_cache(model, lambda: _in_two(model))
        _check_one_rotation(model, tokens, kept, others.get("position_ids"))
    return _read(model, tokens, kept, **others)


def select_rows(kept: Any, rows: Int[Tensor, " n"]) -> None:
    """Leaves some rows of a cache, in place. Of a state of linear attention Transformers cannot select rows, but reorder them."""
    layers = getattr(kept, "layers", None)
    if layers is None or not any(hasattr(layer, "recurrent_states") for layer in layers):
        kept.batch_select_indices(rows)
        return
    for layer in layers:
        (layer.reorder_cache if hasattr(layer, "recurrent_states") else layer.batch_select_indices)(rows)


def _check_one_rotation(model: PreTrainedModel, tokens: Tensor, kept: Any, positions: Tensor | None) -> None:
    """Raises Mismatch where a text of a model with LongRoPE (arXiv 2402.13753) would be read with two sets of factors.

    Beyond its original length such a model turns all positions by others than before, also of what a cache holds; and of several
    rows the longest decides.
    """
    limit = original_length(model.config)
    if limit is None:
        return
    if positions is None:
        before = 0 if kept is None else int(kept.get_seq_length())
        positions = torch.tensor([[before + tokens.shape[1] - 1]])
    last = positions.amax(-1)
    crossed = kept is not None and int(last.max()) - tokens.shape[1] < limit <= int(last.max())
    if crossed or int(last.min()) < limit <= int(last.max()):
        raise Mismatch(
            f"{type(model).__name__}: beyond {limit:,} tokens this model turns positions by other factors (LongRoPE), so a text "
            "cannot go on from below to above, and texts of both sides not be read together: keep prompts and what is generated "
            f"within {limit:,} tokens, or give only prompts that are longer"
        )


def original_length(config: Any) -> int | None:
    """The tokens beyond which a model with LongRoPE takes its other factors; None for any other model."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    for one in (rope, *(part for part in rope.values() if isinstance(part, dict))):
        if one.get("rope_type", one.get("type")) == "longrope" and one.get("short_factor") != one.get("long_factor"):
            found = one.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", None
            )
            return None if found is None else int(found)
    return None


def check_cache(model: PreTrainedModel, read: Callable[[], tuple[Tensor, Tensor]]) -> None:
    """Checks once for each model that a pass with a cache gives the logits of a pass without.

    ``read`` returns logits (1, V) after the last of some tokens, which was read with the cache of the others, and these tokens
    (1, T). The check passes where, apart from rounding, the logits are nearer to those of all tokens at once than the logits
    of the last token alone.

    Raises BadModel where they are not.
    """
    if model in _checked:
        return
    with torch.no_grad():
        found, tokens = read()
        at_once, alone = (model(input_ids=t, use_cache=False).logits[:, -1] for t in (tokens, tokens[:, -1:]))
    apart, lost = (_largest(logits - at_once) for logits in (found, alone))
    if apart > lost / 2 + _ROUNDINGS * _rounding(model, at_once) * _largest(at_once):
        raise BadModel(
            f"{type(model).__name__}: expected a token read with the cache of the previous ones to give the logits of one pass, "
            f"got a difference of {apart:.3g} ({lost:.3g} without any cache). The installed Transformers passes the cache in "
            "another way than this model accepts; install a version that the model was made for, or generate with "
            "use_cache=False"
        )
    _checked.add(model)


def _in_two(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    tokens = torch.tensor([[1, 2, 1]], device=model.device)
    _, kept = _read(model, tokens[:, :2], None)
    return _read(model, tokens[:, 2:], kept)[0], tokens


def _read(model: nn.Module, tokens: Tensor, kept: Any, **others: Any) -> tuple[Tensor, Any]:
    name = cache_argument(type(model).forward)
    outputs = model(
        input_ids=tokens, use_cache=True, logits_to_keep=last_places(model, tokens, 1), **{name: kept}, **others
    )
    if not hasattr(outputs, name):
        raise BadModel(
            f"{type(model).__name__}: expected a forward pass that gives its cache ({name}), so that a text can go on token by "
            "token, got none: this architecture generates no text here; take another model, or train and measure it on text"
        )
    return outputs.logits[:, -1], getattr(outputs, name)


def last_places(model: nn.Module, tokens: Int[Tensor, "B T"], count: int) -> int | Int[Tensor, " count"]:
    """What Transformers' ``logits_to_keep`` is to be for the logits of the last ``count`` of ``tokens``.

    A number makes models multiply a slice of the hidden states. Of several rows it is not contiguous, and the product in half
    precision on a CPU then copies the head once a row (torch 2.13): 57 MB each of a head of 576 x 49,152, longer than all layers
    take. Places make it a contiguous copy, with the same logits.
    """
    rows, length = tokens.shape
    half = getattr(model, "dtype", torch.float32).itemsize < torch.float32.itemsize
    if rows == 1 or count == length or not half or tokens.device.type != "cpu":
        return count
    return torch.arange(length - count, length)


@cache
def cache_argument(forward: Callable[..., Any]) -> str:
    """The name of a model's cache argument; the installed Transformers' own where the model accepts any."""
    takes = inspect.signature(forward).parameters
    return next((name for name in (CACHE, *NAMES) if name in takes), CACHE)


def _largest(logits: Tensor) -> float:
    return float(logits.float().nan_to_num(0.0).abs().max())


def _rounding(model: PreTrainedModel, logits: Tensor) -> float:
    """The coarsest relative rounding step of the number formats that the logits were computed in."""
    steps = [torch.finfo(t).eps for t in (model.dtype, logits.dtype) if t.is_floating_point]
    return max([*steps, *([] if logits.device.type == "cpu" else [_TF32])])
