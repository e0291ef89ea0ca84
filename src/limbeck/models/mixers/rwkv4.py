"""RWKV-4's time mixing: a weighted mean of the past. The weights decay with time, at one rate for each channel.

wkv_t = (sum_{i<t} e^{k_i - (t-1-i) w} v_i + e^{u + k_t} v_t) / (the same without v), and y = W_o (σ(r) ⊙ wkv). r, k and v come
from a blend of the token and the one before it (Peng et al., arXiv 2305.13048, sec. 3.1). Sums are stored divided by e^p, where
p is their largest exponent. The quotient does not depend on p, so p needs no gradient.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from limbeck.models.mixers.documents import Documents
from limbeck.models.mixers.mixer import Dims, Mixer, State, linear, mixer
from limbeck.models.mixers.precision import wide
from limbeck.models.mixers.scan import scan


@mixer("rwkv4")
class RWKV4(Mixer):
    """The time mixing of RWKV-4 (arXiv 2305.13048), with as many channels as the model is wide."""

    def __init__(self, dims: Dims) -> None:
        super().__init__(dims)
        self.r_proj, self.k_proj, self.v_proj, self.o_proj = (linear(dims.width, dims.width) for _ in range(4))
        names = ("r_blend", "k_blend", "v_blend", "decay", "first")
        self.r_blend, self.k_blend, self.v_blend, self.decay, self.first = (
            nn.Parameter(torch.empty(dims.width)) for _ in names
        )
        self.initialise()

    def initialise(self) -> None:
        """Sets decays, first weights and blends, which vary by channel and layer (arXiv 2305.13048, app. D and E)."""
        width = self.dims.width
        through = self.dims.layer / max(1, self.dims.layers - 1)
        share = torch.arange(width, dtype=torch.float64, device="cpu") / width
        rising = (torch.arange(width, dtype=torch.float64, device="cpu") / max(1, width - 1)) ** (0.7 + 1.3 * through)
        zigzag = (torch.arange(width, device="cpu") + 1) % 3 - 1
        left = 1 - self.dims.layer / self.dims.layers
        for parameter, values in (
            (self.decay, -5 + 8 * rising),
            (self.first, math.log(0.3) + 0.5 * zigzag),
            (self.k_blend, share**left),
            (self.v_blend, share**left + 0.3 * through),
            (self.r_blend, share ** (0.5 * left)),
        ):
            init.copy_(parameter, values.to(parameter.dtype))

    def mix(
        self, x: Float[Tensor, "B T D"], documents: Documents, state: State | None, size: int
    ) -> tuple[Float[Tensor, "B T D"], State | None]:
        state = {} if state is None else state
        previous = _previous(x, state.get("input"), 0.0, documents)
        r, k, v = (
            project(x * blend + previous * (1 - blend))
            for project, blend in (
                (self.r_proj, self.r_blend),
                (self.k_proj, self.k_blend),
                (self.v_proj, self.v_blend),
            )
        )
        y, after = wkv(
            wide(k), wide(v), wide(self.decay).exp(), wide(self.first), documents=documents, before=state.get("sums")
        )
        y = self.o_proj(r.sigmoid() * y.to(x.dtype))
        return y, {"input": x[:, -1], "sums": after} if state else None

    def fresh(self, x: Float[Tensor, "B T D"]) -> State:
        rows, width = x.shape[0], self.dims.width
        sums = wide(x).new_zeros(rows, 3, width)
        sums[:, 2] = -torch.inf
        return {"input": x.new_zeros(rows, width), "sums": sums}

    def mixing_flops(self, length: int) -> float:
        """8 FLOPs a channel: numerator and denominator each decay, grow by the token, and add the token's own term."""
        return 8.0 * self.dims.width


def wkv(
    k: Float[Tensor, "B T D"],
    v: Float[Tensor, "B T D"],
    w: Float[Tensor, " D"],
    u: Float[Tensor, " D"],
    *,
    documents: Documents,
    before: Float[Tensor, "B 3 D"] | None,
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B 3 D"]]:
    """The means wkv, and the state (numerator, denominator, p) after the last token.

    ``w`` is the decay of each channel and ``u`` the extra weight of the current token.
    """
    with torch.no_grad():
        p = _largest(k, w, documents, None if before is None else before[:, 2])
        p_before = _previous(p, None if before is None else before[:, 2], -torch.inf, documents)
        top = torch.maximum(p_before, u + k)
    own = (k - p).exp()
    kept = (p_before - w - p).exp()
    sums = scan(
        kept[:, :, None].expand(-1, -1, 2, -1),
        torch.stack([own * v, own], 2),
        None if before is None else before[:, :2],
    )
    past = _previous(sums.flatten(2), None if before is None else before[:, :2].flatten(1), 0.0, documents)
    past = past.unflatten(2, (2, -1)) * (p_before - top).exp()[:, :, None]
    new = (u + k - top).exp()
    y = (past[:, :, 0] + new * v) / (past[:, :, 1] + new)
    return y, torch.cat([sums[:, -1], p[:, -1:]], 1)


def _largest(
    k: Float[Tensor, "B T D"], w: Float[Tensor, " D"], documents: Documents, before: Float[Tensor, "B D"] | None
) -> Float[Tensor, "B T D"]:
    """The maximum of k_i - (t - i) w over the document's tokens i <= t, computed with shifts by 1, 2, 4, ... tokens."""
    p = k.clone()
    if before is not None:
        p[:, 0] = torch.where(documents.continues[:, :1], torch.maximum(p[:, 0], before - w), p[:, 0])
    back = 1
    while back < k.shape[1]:
        reached = (documents.reach[:, back:] >= back)[..., None]
        p[:, back:] = torch.maximum(p[:, back:], torch.where(reached, p[:, :-back] - back * w, -torch.inf))
        back *= 2
    return p


def _previous(
    x: Float[Tensor, "B T D"], before: Float[Tensor, "B D"] | None, nothing: float, documents: Documents
) -> Float[Tensor, "B T D"]:
    """``x`` shifted by one token, with ``nothing`` at the start of each document."""
    shifted = F.pad(x[:, :-1], (0, 0, 1, 0), value=nothing)
    if before is not None:
        shifted = torch.cat([before[:, None], x[:, :-1]], 1)
    return torch.where((documents.reach > 0)[..., None], shifted, nothing)
