"""Attention where a learned score is among the highest, and nothing elsewhere: Zoology's learned positions, made causal.

y_t = f_t Attention(x)_t with f = σ(w · x + b) (Arora et al., arXiv 2312.04927, sec. 5). In training every token is attended to
by its gate f; otherwise f_t is 0 but for the highest scores. The paper takes the k highest of the whole row, which looks ahead:
whether a token is chosen would hang on those that follow. Here a token is chosen if its score is among the k highest of its
document *up to it*. The first k of a document always are; of L whose scores come in no order, about k (1 + ln(L / k)) are.

Two things of the paper are not here. Its penalty λ relu(mean f - k / L), which drives the gates apart: the loss is a sum over
tokens that is divided once, whatever the micro-batches, and a mean over a row is none. So gates are as sparse as the loss alone
makes them, and what is not chosen is missed. And the saving: attention is computed for all tokens, and those not chosen are
multiplied by 0. The state has the k highest scores besides keys and values.
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
    """Softmax attention of the tokens of the ``k`` highest scores so far; 0 is the root of the longest text, rounded up."""

    OPTIONS: ClassVar = {"k": 0, "rope": True}

    def __init__(self, dims: Dims, *, k: int, rope: bool) -> None:
        super().__init__(dims, rope=rope)
        self.k = k or math.isqrt(dims.length - 1) + 1
        self.score = nn.Linear(dims.width, 1)

    def mix(
        self, x: Float[Tensor, "B T D"], documents: Documents, state: State | None, size: int
    ) -> tuple[Float[Tensor, "B T D"], State | None]:
        y, after = super().mix(x, documents, state, size)
        with exact(x):  # the order of scores must not hang on how they are rounded
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
        """Keys and values, and the scores in float32 at least."""
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
    """How many earlier tokens of its document have a score as high as a token's; from k on perhaps more."""
    earlier = seen(documents, score.shape[1], None).tril(-1)
    count = (earlier & _reaches(score, score)).sum(-1)
    return count if before is None else count + (_reaches(score, before).sum(-1) * documents.continues)


def _reaches(score: Float[Tensor, "B T"], others: Float[Tensor, "B S"]) -> Bool[Tensor, "B T S"]:
    return others[:, None] >= score[..., None]
