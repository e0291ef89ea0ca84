"""A model reading on from what it keeps of the tokens before: keys and values, or any other state.

Transformers calls it `past_key_values` up to 5.23 and `cache` from 5.24 on, and a model handed it by a name it does not know may
take each token for a text's first, silently. So the name is read off the model, and once for each model two reads, the second
with what was kept of the first, are compared with one of the same tokens.
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

_ROUNDINGS = 16  # of the largest logit: as much two ways to compute one may differ
_TF32 = 2.0**-10
_checked: WeakSet[nn.Module] = WeakSet()


def read_on(model: nn.Module, tokens: Int[Tensor, "B T"], kept: Any, **others: Any) -> tuple[Float[Tensor, "B V"], Any]:
    """Logits after the last of ``tokens``, and what is kept of all tokens read; ``kept`` is that of those before, or None.

    The first time, raises BadModel where the model does not heed it. ``others`` are handed on to the model.
    """
    if isinstance(model, PreTrainedModel) and not model.training:  # in training what is dropped out is drawn anew
        check_cache(model, lambda: _in_two(model))
    return _read(model, tokens, kept, **others)


def check_cache(model: PreTrainedModel, read: Callable[[], tuple[Tensor, Tensor]]) -> None:
    """Once for each model: raises BadModel unless reading with a cache comes to the same as without.

    ``read`` gives the logits (1, V) after the last of some tokens, which was read with what was kept of the others, and these
    tokens (1, T). What is kept counts as heeded where the result is nearer to all tokens read at once than the last token alone
    is, but for rounding.
    """
    if model in _checked:
        return
    with torch.no_grad():
        found, tokens = read()
        at_once, alone = (model(input_ids=t, use_cache=False).logits[:, -1] for t in (tokens, tokens[:, -1:]))
    apart, lost = (_largest(logits - at_once) for logits in (found, alone))
    if apart > lost / 2 + _ROUNDINGS * _rounding(model, at_once) * _largest(at_once):
        raise BadModel(
            f"{type(model).__name__}: a token read with the cache of those before it should give the logits of all read at once, "
            f"and is {apart:.3g} off ({lost:.3g} without any cache). The installed Transformers "
            f"hands the cache over in another way than this model takes it: install a version that the model was made for, or "
            "generate with use_cache=False"
        )
    _checked.add(model)


def _in_two(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    tokens = torch.tensor([[1, 2, 1]], device=model.device)
    _, kept = _read(model, tokens[:, :2], None)
    return _read(model, tokens[:, 2:], kept)[0], tokens


def _read(model: nn.Module, tokens: Tensor, kept: Any, **others: Any) -> tuple[Tensor, Any]:
    name = _name(type(model).forward)
    outputs = model(input_ids=tokens, use_cache=True, logits_to_keep=1, **{name: kept}, **others)
    return outputs.logits[:, -1], getattr(outputs, name)


@cache
def _name(forward: Callable[..., Any]) -> str:
    """By which name a model takes what it kept; one that takes any is taken to know Transformers' own."""
    takes = inspect.signature(forward).parameters
    return next((name for name in (CACHE, *NAMES) if name in takes), CACHE)


def _largest(logits: Tensor) -> float:
    return float(logits.float().nan_to_num(0.0).abs().max())


def _rounding(model: PreTrainedModel, logits: Tensor) -> float:
    """The coarsest relative step of what the logits were computed with."""
    steps = [torch.finfo(t).eps for t in (model.dtype, logits.dtype) if t.is_floating_point]
    return max([*steps, *([] if logits.device.type == "cpu" else [_TF32])])
