"""Linear attention with one decay a head, computed in chunks. Linear attention, RetNet and Mamba-2 share this code.

    S_t = a_t S_{t-1} + k_t v_tᵀ,   o_t = S_tᵀ q_t

Let c be the running sum of log a in a chunk. Token i reads sum_j exp(c_i - c_j) (q_i · k_j) v_j from its own chunk and
exp(c_i) S_beforeᵀ q_i from earlier chunks. S passes from chunk to chunk (Dao & Gu, arXiv 2405.21060, sec. 6; Sun et al.,
arXiv 2307.08621, eq. 7). Chunks of one token give the recurrence, and one chunk of all tokens gives the parallel form.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.models.mixers.documents import Documents, cut
from limbeck.models.mixers.kernels import decaying_sums_on_gpu, have_kernels
from limbeck.models.mixers.precision import exact, wide


def decaying_sums(
    q: Float[Tensor, "B h T K"],
    k: Float[Tensor, "B h T K"],
    v: Float[Tensor, "B H T V"],
    log_decay: Float[Tensor, "B H T"] | None,
    *,
    documents: Documents,
    before: Float[Tensor, "B H K V"] | None,
    size: int,
) -> tuple[Float[Tensor, "B H T V"], Float[Tensor, "B H K V"]]:
    """The outputs o, and the state S after the last token, computed ``size`` tokens at a time.

    Without ``log_decay``, a = 1. Queries and keys may have one head (h = 1), which all H value heads then share.
    """
    if size > 1 and have_kernels(q):
        return decaying_sums_on_gpu(q, k, v, log_decay, documents=documents, before=before)
    with exact(v):
        return _in_chunks(wide(q), wide(k), wide(v), log_decay, documents, before, size)


def sums_flops(size: int, *, keys: int, values: int, heads: int, asking: int) -> float:
    """FLOPs for each token in chunks of ``size``. Masked products count too, since chunks are multiplied in full.

    The sum covers the scores of ``asking`` query heads, the values of the chunk, and updating and reading the state.
    """
    return 2.0 * (size * keys * asking + (size * values + 2 * keys * values) * heads)


def _in_chunks(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, documents: Documents, before: Tensor | None, size: int
) -> tuple[Tensor, Tensor]:
    length = v.shape[2]
    q, k, v = cut(q, size), cut(k, size), cut(v, size)
    weights, enters, leaves, through = in_chunk(log_decay, documents, size, dtype=v.dtype)
    added = (k * leaves[..., None]).mT @ v  # (B, H, n, K, V)
    held, after = carried(added, through[..., None, None], before)
    out = ((q @ k.mT) * weights) @ v + (q * enters[..., None]) @ held
    return out.flatten(2, 3)[:, :, :length], after


def in_chunk(
    log_decay: Float[Tensor, "B H T"] | None, documents: Documents, size: int, *, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Products of decays in chunks, 0 across documents: from token to token (…, c, c), from the state before the chunk to
    each token (…, c), from each token to the state after the chunk (…, c), and from the state before to the one after (…)."""
    seen = documents.chunks(size)
    weights, enters, leaves, through = (
        part[:, None].to(dtype) for part in (seen.visible, seen.before, seen.last, seen.through)
    )
    if log_decay is not None:
        c = cut(log_decay, size).cumsum(-1)  # (B, H, n, c)
        between = c[..., :, None] - c[..., None, :]
        weights = between.masked_fill(~seen.visible[:, None], -torch.inf).exp()
        enters, leaves = c.exp() * enters, (c[..., -1:] - c).exp() * leaves
        through = c[..., -1].exp() * through
    return weights, enters, leaves, through


def carried(
    added: Float[Tensor, "B H n K V"], through: Float[Tensor, "B H n K 1"], before: Float[Tensor, "B H K V"] | None
) -> tuple[Float[Tensor, "B H n K V"], Float[Tensor, "B H K V"]]:
    """The states before each chunk, and the state after the last, by S ← through S + added."""
    state = torch.zeros_like(added[:, :, 0]) if before is None else before
    held = []
    for step, more in zip(through.unbind(2), added.unbind(2), strict=True):
        held.append(state)
        state = step * state + more
    return torch.stack(held, 2), state
