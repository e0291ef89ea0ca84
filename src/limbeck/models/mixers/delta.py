"""The delta rule with one decay a head, computed in chunks. DeltaNet and Gated DeltaNet share this code.

    S_t = a_t (I - b_t k_t k_tᵀ) S_{t-1} + b_t k_t v_tᵀ,   o_t = S_tᵀ q_t

A value replaces the value stored under its key instead of being added to it. Within a chunk, the replacements depend on each
other through a triangular system. Let c be the running sum of log a and D_ij = exp(c_i - c_j). Then
T = (I + tril₋₁(diag(b) (D ⊙ K Kᵀ)))⁻¹ diag(b) gives U = T (V - diag(e^c) K S_before), and U is added to the state as ordinary
values (Yang et al., arXiv 2406.06484, sec. 3.2, and arXiv 2412.06464, sec. 3.3).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.models.mixers.decay import in_chunk
from limbeck.models.mixers.documents import Documents, cut
from limbeck.models.mixers.kernels import delta_rule_on_gpu, have_kernels
from limbeck.models.mixers.precision import exact, wide


class Gates(NamedTuple):
    """The gates of the delta rule at each token: ``strength`` is b, from 0 to 1; ``log_decay`` is log a, None for a = 1."""

    strength: Float[Tensor, "B H T"]
    log_decay: Float[Tensor, "B H T"] | None


def delta_rule(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B H T K"],
    v: Float[Tensor, "B H T V"],
    gates: Gates,
    *,
    documents: Documents,
    before: Float[Tensor, "B H K V"] | None,
    size: int,
) -> tuple[Float[Tensor, "B H T V"], Float[Tensor, "B H K V"]]:
    """The outputs o, and the state S after the last token, computed ``size`` tokens at a time."""
    if size > 1 and have_kernels(q):
        return delta_rule_on_gpu(q, k, v, gates.strength, gates.log_decay, documents=documents, before=before)
    with exact(v):
        return _in_chunks(wide(q), wide(k), wide(v), gates, documents, before, size)


def delta_flops(size: int, *, keys: int, values: int, heads: int) -> float:
    """FLOPs for each token in chunks of ``size``: k · k and q · k, the triangular system, new values, and the state.

    Masked products count too, since squares are multiplied in full. The system takes c² for each of its K + V columns.
    """
    squares = 4 * keys + 2 * values + (keys + values)
    return float(heads * (size * squares + 6 * keys * values))


def _in_chunks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Gates,
    documents: Documents,
    before: Tensor | None,
    size: int,
) -> tuple[Tensor, Tensor]:
    length = v.shape[2]
    q, k, v, b = (cut(part, size) for part in (q, k, v, gates.strength))
    weights, enters, leaves, through = in_chunk(gates.log_decay, documents, size, dtype=v.dtype)
    system = (b[..., None] * weights * (k @ k.mT)).tril(-1)  # its diagonal is taken as 1
    solved = torch.linalg.solve_triangular(
        system, torch.cat([v, k * enters[..., None]], -1) * b[..., None], upper=False, unitriangular=True
    )
    new, read = solved.split([v.shape[-1], k.shape[-1]], -1)
    state = torch.zeros_like(v[:, :, 0, :1].mT @ k[:, :, 0, :1]).mT if before is None else before  # (B, H, K, V)
    scores, asking, leaving = (q @ k.mT) * weights, q * enters[..., None], (k * leaves[..., None]).mT
    out = []
    for i in range(v.shape[2]):
        values = new[:, :, i] - read[:, :, i] @ state
        out.append(scores[:, :, i] @ values + asking[:, :, i] @ state)
        state = through[:, :, i, None, None] * state + leaving[:, :, i] @ values
    return torch.cat(out, 2)[:, :, :length], state
