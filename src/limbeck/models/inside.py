"""Attention inside documents: in a packed row each document attends to itself alone, and nothing else is computed.

A dense mask makes a row of T tokens pay for T² pairs, and rules out kernels that leave out the later half of them. Here rows are
split at their documents, and causal attention runs on each; documents of equal length run together. A row then costs the sum of
its documents' squared lengths. A document has the same attention as alone in a row.

Transformers' models take it by name (`NAME`) through the attention interface. Instead of a mask, their layers get the documents'
lengths; so they arrive at every layer, and again where a layer is computed twice. Outside `packed` the name means "sdpa". A GPU
takes other kernels (`models/by_document.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.configuration_utils import PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from limbeck.host import on_host, queues, sent
from limbeck.models.by_document import Layout, attend_by_document, attend_masked
from limbeck.models.causal import attend_short

NAME = "inside_documents"
# Model types whose decoder gives its layers the causal mask as it was made, and takes attention from the interface.
_LIKE_LLAMA = {
    "gemma",
    "gemma3_text",
    "glm4",
    "gpt_oss",
    "granite",
    "llama",
    "mistral",
    "olmo",
    "olmo2",
    "olmo3",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
    "stablelm",
    "starcoder2",
}
FAMILIES = frozenset({*_LIKE_LLAMA, "gpt_neox"})

# Tokens of a document up to which plain products compute it in bfloat16. The weights that they keep of a longer one would need
# more memory than the rest of a layer.
SHORT = 1024

_lengths: ContextVar[Tensor | None] = ContextVar("lengths", default=None)


def fits(config: PreTrainedConfig) -> bool:
    """Whether a model's attention is causal over all earlier tokens or a window of them, and can be replaced by name."""
    kinds = set(getattr(config, "layer_types", None) or ())
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    both_ways = bool(getattr(config, "use_bidirectional_attention", None))
    known = kinds <= {"full_attention", "sliding_attention"}
    return config.model_type in FAMILIES and known and not (capped or both_ways)


@contextmanager
def packed(position: Int[Tensor, "B T"]) -> Iterator[Int[Tensor, " n"] | Int[Tensor, "1 1 1 n"]]:
    """While it is open, models with this attention are computed on rows of documents with these positions, without a cache.

    Gives what their layers get; on a device that computes in the background in the shape of a mask, which may be given to them.
    """
    known = lengths(on_host(position))
    if queues(position.device):
        known = sent(known[None, None, None], position.device)
    with documents_of(known):
        yield known


@contextmanager
def documents_of(lengths: Int[Tensor, " n"] | None) -> Iterator[None]:
    """The same for documents of these lengths, row after row; None for masks."""
    token = _lengths.set(lengths)
    try:
        yield
    finally:
        _lengths.reset(token)


def lengths(position: Int[Tensor, "B T"]) -> Int[Tensor, " n"]:
    """The lengths of all documents, row after row. One ends with its row, and where a position is not the previous one + 1."""
    opens = torch.ones_like(position, dtype=torch.bool)
    opens[:, 1:] = position[:, 1:] != position[:, :-1] + 1
    first = opens.flatten().nonzero()[:, 0]
    return torch.diff(first, append=first.new_tensor([position.numel()]))


def attend_inside(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G T K"],
    v: Float[Tensor, "B G T V"],
    lengths: Sequence[int],
    *,
    scale: float | None = None,
    dropout: float = 0.0,
    window: int | None = None,
    sinks: Float[Tensor, " H"] | None = None,
) -> Float[Tensor, "B T H V"]:
    """Causal attention of H query heads on G key heads, where G divides H, inside documents of these lengths (row after row).

    ``scale`` multiplies the scores (default: K^(-1/2)); ``dropout`` is the probability that a weight is dropped. ``window``: a
    token attends to so many tokens, itself and those before it. ``sinks``: one more score of each head, whose share is dropped.
    """
    if torch.is_autocast_enabled(q.device.type):
        q, k, v = (part.to(torch.get_autocast_dtype(q.device.type)) for part in (q, k, v))
    rows, scale = len(q), q.shape[-1] ** -0.5 if scale is None else scale
    if q.device.type != "cpu":
        layout = Layout.of(tuple(lengths), rows, q.device)
        return attend_by_document(q, k, v, layout, scale=scale, dropout=dropout, window=window, sinks=sinks)
    tokens = [part.transpose(1, 2).flatten(0, 1) for part in (q, k, v)]
    plain = q.dtype == torch.bfloat16 and not dropout
    masked = [sinks is not None or (window is not None and length > window) for length in lengths]
    short = [n for n, length in enumerate(lengths) if plain and length <= SHORT and not masked[n]]
    others = [n for n, length in enumerate(lengths) if (not plain or length > SHORT) and not masked[n]]
    kinds: tuple[tuple[Callable[..., Tensor], list[int]], ...] = (
        (partial(attend_short, scale=scale), short),
        (partial(attend_fused, scale=scale, dropout=dropout), others),
        (
            partial(attend_banded, scale=scale, dropout=dropout, window=window, sinks=sinks),
            [n for n in range(len(lengths)) if masked[n]],
        ),
    )
    for attend, numbers in kinds:
        if len(numbers) == len(lengths):
            return attend(*tokens, lengths).unflatten(0, (rows, -1))
    parts = [part.split(list(lengths)) for part in tokens]
    out: dict[int, Tensor] = {}
    for attend, numbers in kinds:
        if not numbers:
            continue
        sizes = [lengths[number] for number in numbers]
        found = attend(*(torch.cat([part[n] for n in numbers]) for part in parts), sizes)
        out |= zip(numbers, found.split(sizes), strict=True)
    return torch.cat([out[number] for number in range(len(lengths))]).unflatten(0, (rows, -1))


def attend_fused(
    q: Float[Tensor, "N H K"],
    k: Float[Tensor, "N G K"],
    v: Float[Tensor, "N G V"],
    lengths: Sequence[int],
    *,
    scale: float,
    dropout: float,
) -> Float[Tensor, "N H V"]:
    """PyTorch's attention inside consecutive documents of these lengths."""
    if q.shape[1] > k.shape[1]:  # repeating once would copy as well
        k, v = (part.repeat_interleave(q.shape[1] // part.shape[1], 1) for part in (k, v))

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scale).transpose(1, 2)

    return _by_length(attend, q, k, v, lengths)


def attend_banded(
    q: Float[Tensor, "N H K"],
    k: Float[Tensor, "N G K"],
    v: Float[Tensor, "N G V"],
    lengths: Sequence[int],
    *,
    scale: float,
    dropout: float,
    window: int | None,
    sinks: Float[Tensor, " H"] | None,
) -> Float[Tensor, "N H V"]:
    """Attention inside consecutive documents of these lengths, over a window, with sinks, under a mask of each length."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen = torch.ones(2 * (q.shape[2],), dtype=torch.bool).tril()
        seen = seen if window is None else seen.triu(1 - window)
        return attend_masked(q, k, v, seen, scale=scale, dropout=dropout, sinks=sinks)

    return _by_length(attend, q, k, v, lengths)


def _by_length(
    attend: Callable[[Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]
) -> Tensor:
    """Attention of documents (n, heads, L, channels), which gives (n, L, heads, channels), of each length together."""
    parts = [part.split(list(lengths)) for part in (q, k, v)]
    out: dict[int, Tensor] = {}
    alike = defaultdict(list)
    for number, length in enumerate(lengths):
        alike[length].append(number)
    for numbers in alike.values():
        found = attend(*(_together([part[number] for number in numbers]) for part in parts))
        out |= zip(numbers, found.unbind(), strict=True)
    return torch.cat([out[number] for number in range(len(lengths))])


def _together(documents: Sequence[Float[Tensor, "L H K"]]) -> Float[Tensor, "n H L K"]:
    """Documents of equal length as one batch; a single one is not copied."""
    return (documents[0][None] if len(documents) == 1 else torch.stack(list(documents))).transpose(1, 2)


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """The documents' lengths where rows are packed, else the mask of "sdpa"."""
    inside = _lengths.get()
    return sdpa_mask(*args, **kwargs) if inside is None else inside


def _attention(
    module: nn.Module,
    query: Float[Tensor, "B H T K"],
    key: Float[Tensor, "B G S K"],
    value: Float[Tensor, "B G S V"],
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    s_aux: Float[Tensor, " H"] | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "B T H V"], None]:
    """Attention with the signature of Transformers' interface; with a mask or none, that of "sdpa"."""
    if attention_mask is not None and not (attention_mask.is_floating_point() or attention_mask.dtype == torch.bool):
        lengths = on_host(attention_mask).tolist()
        while isinstance(lengths[0], list):  # in the shape of a mask
            (lengths,) = lengths
        return attend_inside(
            *(query, key, value, lengths), scale=scaling, dropout=dropout, window=sliding_window, sinks=s_aux
        ), None
    if s_aux is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    mask = _seen(query, key) if attention_mask is None else attention_mask
    return attend_masked(query, key, value, mask, scale=scale, dropout=dropout, sinks=s_aux), None


def _seen(query: Tensor, key: Tensor) -> Tensor:
    """The causal mask of the last tokens of a text, where Transformers leaves it out."""
    queries, keys = query.shape[2], key.shape[2]
    return torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)
