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

from limbeck.errors import BadModel

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
    return _read(model, tokens, kept, **others)


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
