"""Attention at the tokens with the highest learned scores only: Zoology's learned positions, made causal.

y_t = f_t Attention(x)_t with f = σ(w · x + b) (Arora et al., arXiv 2312.04927, sec. 5). In training, the gate f applies to every
token. In evaluation, f_t is 0 except at the highest scores. The paper selects the k highest scores of the whole row, so the
selection of a token depends on later tokens. Here, a token is selected if its score is among the k highest of its document *up
to it*. The first k tokens of a document are always selected. Of L tokens with scores in random order, about k (1 + ln(L / k))
are selected.

Two parts of the paper are missing here. The first is its penalty λ relu(mean f - k / L), which makes gates sparse. A mean over
a row does not fit a loss that is a sum over tokens, divided once for all micro-batches. The gates are therefore only as sparse
as the loss makes them, and unselected tokens lose their attention output in evaluation. The second is the saving of compute:
attention is computed at all tokens and multiplied by 0 at the unselected ones. The state holds the k highest scores besides
keys and values.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.models.mixers.attention import Attention, seen
from limbeck.models.mixers.documents import Documents
from limbeck.models.mixers.mixer import Dims, State, mixer
from limbeck.models.mixers.precision import exact, wide


@mixer("topk")
class TopKAttention(Attention):
    """Softmax attention at the tokens whose score is among the ``k`` highest so far; other outputs are 0.

    In training, all tokens are gated instead. A ``k`` of 0 means the square root of the longest text, rounded up.
    """

    OPTIONS: ClassVar = {"k": 0, "rope": True}

    def __init__(self, dims: Dims, *, k: int, rope: bool) -> None:
        super().__init__(dims, rope=rope)
        self.k = k or math.isqrt(dims.length - 1) + 1
        self.score = nn.Linear(dims.width, 1)

    def mix(
        self, x: Float[Tensor, "B T D"], documents: Documents, state: State | None, size: int
    ) -> tuple[Float[Tensor, "B T D"], State | None]:
        y, after = super().mix(x, documents, state, size)
        with exact(x):  # the order of scores must not depend on rounding
            score = F.linear(wide(x), wide(self.score.weight), wide(self.score.bias))[..., 0]
        before = None if state is None else state["scores"]
        gate = score.sigmoid()
        if not self.training:
            gate = gate * (_higher(score.detach(), documents, before) < self.k)
        y = y * gate[..., None].to(y.dtype)
        return y, None if after is None else after | {"scores": self._highest(score.detach(), documents, before)}

    def fresh(self, x: Float[Tensor, "B T D"]) -> State:
        return super().fresh(x) | {"scores": wide(x).new_full((x.shape[0], self.k), -torch.inf)}

    def state_bytes(self, length: int) -> int:
        """Bytes of keys and values, plus the scores in float32 or wider."""
        return super().state_bytes(length) + self.k * max(4, self.score.weight.element_size())

    def _highest(
        self, score: Float[Tensor, "B T"], documents: Documents, before: Float[Tensor, "B k"] | None
    ) -> Float[Tensor, "B k"]:
        """The k highest scores of the last token's document."""
        back = torch.arange(score.shape[1] - 1, -1, -1, device=score.device)
        own = score.masked_fill(back > documents.reach[:, -1:], -torch.inf)
        held = own.new_full((len(own), self.k), -torch.inf) if before is None else before
        return torch.cat([held.masked_fill(~documents.continues[:, -1:], -torch.inf), own], 1).topk(self.k).values


def _higher(
    score: Float[Tensor, "B T"], documents: Documents, before: Float[Tensor, "B k"] | None
) -> Int[Tensor, "B T"]:
    """The number of earlier tokens of the document whose score is at least as high. Counts of k or more may be too low."""
    earlier = seen(documents, score.shape[1], None).tril(-1)
    count = (earlier & _reaches(score, score)).sum(-1)
    return count if before is None else count + (_reaches(score, before).sum(-1) * documents.continues)


def _reaches(score: Float[Tensor, "B T"], others: Float[Tensor, "B S"]) -> Bool[Tensor, "B T S"]:
    return others[:, None] >= score[..., None]
