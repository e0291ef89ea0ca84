"""Checks on a few tokens that limbeck can run an architecture: head, causality, and documents packed in a row.

`Outputs` computes logits from hidden states, and packed rows rely on positions to separate documents. Neither holds for
every architecture of Transformers, so both are measured when a model is loaded. A model that fails is refused.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.errors import BadModel, first_line
from limbeck.models.inside import packed
from limbeck.models.language_model import LanguageModel
from limbeck.models.observing import evaluating
from limbeck.models.rope import lengths_named
from limbeck.products import full_products
from limbeck.types import Batch

# Relative L2 differences that are rounding in half precision: of one computation done twice, and of two kernels of attention,
# which were up to 0.053 apart in students of 16 layers, each 0.02 to 0.04 from float32. A scale that is wrong by 2 makes 0.14 or
# more.
_HALF, _HALF_KERNELS = 0.05, 0.12

# Why an architecture is refused.
OTHER_HEAD = (
    "its logits are not head(hidden) with a known scale and soft cap, so chunked losses would be those of another model"
)
OTHER_ATTENTION = (
    "its attention inside documents has other logits than its own, so packed rows would be those of another model"
)
NOT_CAUSAL = "its tokens attend to later tokens, so it is not a causal language model"
ACROSS_DOCUMENTS = "documents packed in one row attend to one another"
NOT_FINITE = (
    "its logits are NaN or infinite on a few tokens: its weights are damaged, or overflow in this number format; copy it "
    "again, or choose another --dtype"
)


@torch.no_grad()
def verify(model: LanguageModel) -> None:
    """Checks that the logits are head(hidden) and that a token attends only to earlier tokens; sets ``model.packs``.

    ``packs`` becomes false where documents packed in a row attend to one another; then each runs alone.

    Raises BadModel with the reason where `Outputs` does not describe the architecture, or logits are not finite.
    """
    try:
        with evaluating(model.model), full_products():  # kernels of attention take TF32 in other places
            tokens = _some_tokens(model, 8)
            whole = _verify_head(model, _alone(tokens))
            start = _verify_order(model, tokens, whole)
            model.packs = not model.chunked and all(
                _packs(model, tokens, start, first) for first in (4, *_long_positions(model))
            )
    except (TypeError, AttributeError, ValueError, RuntimeError, LookupError, NotImplementedError) as error:
        raise refused(
            model, f"its decoder cannot be run on tokens and their positions ({first_line(error)})"
        ) from error


def _verify_head(model: LanguageModel, batch: Batch) -> Float[Tensor, "1 T D"]:
    """Checks the logits of a document; gives its hidden states."""
    outputs = model(batch)
    ours = outputs.logits()
    with packed(batch.position):  # the attention of `ours`: what differs is the head
        theirs = _own_logits(model, batch)
    plain = _own_logits(model, batch)
    if not all(torch.isfinite(logits).all() for logits in (ours, theirs, plain)):
        raise refused(model, NOT_FINITE)
    if differ(model, ours, theirs):
        raise refused(model, OTHER_HEAD)
    if differ(model, theirs, plain, half=_HALF_KERNELS):
        raise refused(model, OTHER_ATTENTION)
    return outputs.hidden


def _own_logits(model: LanguageModel, batch: Batch) -> Float[Tensor, "N V"]:
    arguments = model.forward_arguments(batch.tokens, batch.position)
    logits: Tensor = model.model(**arguments).logits
    return logits.flatten(0, 1)[:, : model.vocab]


def _verify_order(
    model: LanguageModel, tokens: Int[Tensor, "1 T"], whole: Float[Tensor, "1 T D"]
) -> Float[Tensor, "1 half D"]:
    """Checks that the first half of a document, whose hidden states are ``whole``, has the same alone; gives what it has."""
    half = tokens.shape[1] // 2
    start = model(_alone(tokens[:, :half])).hidden
    if differ(model, whole[:, :half], start):
        raise refused(model, NOT_CAUSAL)
    return start


def _packs(model: LanguageModel, tokens: Int[Tensor, "1 T"], alone: Float[Tensor, "1 half D"], first: int) -> bool:
    """Whether two documents in a row have the hidden states of each alone, ``alone`` those of the first.

    The second one's positions begin at ``first``, or at 0 where that is the length of the first.
    """
    half = tokens.shape[1] // 2
    start = torch.arange(half, device=tokens.device)
    later = start if first == half else start + first
    packed = model(_batch(tokens, torch.cat([start, later])[None])).hidden
    second = model(_batch(tokens[:, half:], later[None])).hidden
    return not differ(model, packed, torch.cat([alone, second], 1))


def _long_positions(model: LanguageModel) -> list[int]:
    """First positions for four tokens that straddle each length that the configuration names."""
    return [length - 2 for length in lengths_named(model.config) if 6 < length < model.context - 1]


def differ(
    model: LanguageModel, a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"], *, half: float = _HALF
) -> bool:
    """Whether two results that should be equal differ by more than the rounding of the model's number format.

    The relative L2 difference may be 0.001 in float32 and float64, and ``half`` in other formats. NaN and infinite results
    differ from everything, and so do results of different shapes.
    """
    tolerance = 1e-3 if model.model.dtype in (torch.float32, torch.float64) else half
    return a.shape != b.shape or not _relative_difference(a, b) <= tolerance


def refused(model: LanguageModel, reason: str) -> BadModel:
    """The error to raise for an architecture that limbeck cannot use."""
    return BadModel(f"{model.name}: architecture {model.config.model_type} is refused: {reason}")


def _some_tokens(model: LanguageModel, count: int) -> Int[Tensor, "1 T"]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(model.vocab, (1, count), generator=generator).to(model.device)


def _alone(tokens: Int[Tensor, "B T"]) -> Batch:
    return _batch(tokens, torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens))


def _batch(tokens: Int[Tensor, "B T"], position: Int[Tensor, "B T"]) -> Batch:
    nowhere = torch.full_like(tokens, -1)
    return Batch(tokens, tokens, torch.ones(tokens.shape, device=tokens.device), position, nowhere, nowhere[:, 0])


def _relative_difference(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"]) -> float:
    return float((a - b).double().norm() / b.double().norm().clamp_min(1e-30))
