"""Attention inside documents: in a packed row each document attends to itself alone, and nothing else is computed.

A dense mask makes a row of T tokens pay for T² pairs, and rules out kernels that leave out the later half of them. Here rows are
split at their documents, and PyTorch's causal attention runs on each; documents of equal length run together. A row then costs
the sum of its documents' squared lengths. A document has the same attention as alone in a row.

Transformers' models take it by name (`NAME`) through the attention interface. Instead of a mask, their layers get the documents'
lengths; so they arrive at every layer, and again where a layer is computed twice. Outside `packed` the name means "sdpa". Masks
are used on other devices than a CPU: their kernels need other means.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.configuration_utils import PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "inside_documents"
# Model types whose decoder gives its layers the causal mask as it was made, and takes attention from the interface.
_LIKE_LLAMA = {
    "gemma",
    "granite",
    "llama",
    "mistral",
    "olmo",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
    "starcoder2",
}
FAMILIES = frozenset({*_LIKE_LLAMA, "gpt_neox"})

# Up to this length a CPU's fused attention in float32 is faster than in bfloat16, with its gradient 1.3 times at 200 tokens.
SHORT = 512

_lengths: ContextVar[Tensor | None] = ContextVar("lengths", default=None)


def fits(config: PreTrainedConfig) -> bool:
    """Whether a model's attention is causal over all earlier tokens in every layer, and can be replaced by name."""
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return config.model_type in FAMILIES and kinds <= {"full_attention"} and window is None


@contextmanager
def packed(position: Int[Tensor, "B T"]) -> Iterator[None]:
    """While it is open, models with this attention are computed on rows of documents with these positions, without a cache."""
    token = _lengths.set(lengths(position) if position.device.type == "cpu" else None)
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
) -> Float[Tensor, "B T H V"]:
    """Causal attention of H query heads on G key heads, where G divides H, inside documents of these lengths (row after row).

    ``scale`` multiplies the scores (default: K^(-1/2)); ``dropout`` is the probability that a weight is dropped.
    """
    if q.shape[1] > k.shape[1]:  # repeating once would copy as well
        k, v = (part.repeat_interleave(q.shape[1] // part.shape[1], 1) for part in (k, v))
    parts = [part.transpose(1, 2).flatten(0, 1).split(list(lengths)) for part in (q, k, v)]  # (length, H, K) each
    alike = defaultdict(list)
    for number, length in enumerate(lengths):
        alike[length].append(number)
    out: dict[int, Tensor] = {}
    for length, numbers in alike.items():
        kind = torch.promote_types(q.dtype, torch.float32) if length <= SHORT else q.dtype
        queries, keys, values = (_together([part[n] for n in numbers], kind) for part in parts)
        found = F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout, is_causal=True, scale=scale)
        out |= zip(numbers, found.to(q.dtype).transpose(1, 2).unbind(), strict=True)
    return torch.cat([out[number] for number in range(len(lengths))]).unflatten(0, (q.shape[0], -1))


def _together(documents: Sequence[Float[Tensor, "L H K"]], kind: torch.dtype) -> Float[Tensor, "n H L K"]:
    """Documents of equal length as one batch in this number format; a single one is not copied."""
    batch = documents[0][None] if len(documents) == 1 else torch.stack(list(documents))
    return batch.transpose(1, 2).to(kind)


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
    **kwargs: Any,
) -> tuple[Float[Tensor, "B T H V"], None]:
    """Attention with the signature of Transformers' interface; with a mask or none, that of "sdpa"."""
    if attention_mask is None or attention_mask.ndim > 1:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    return attend_inside(query, key, value, attention_mask.tolist(), scale=scaling, dropout=dropout), None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)
