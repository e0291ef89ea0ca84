"""Cross-entropy of some tokens: those whose loss is large beside what the student's own entropy would let expect (Light-IF).

"Light-IF: Endowing LLMs with Generalizable Reasoning via Preview and Self-Checking" (Wang et al., arXiv 2508.03178) ranks the
tokens of a micro-batch by cross-entropy less weighted entropy and learns the first of them. A share of a micro-batch depends on
how rows are cut into micro-batches and ranks. Ours is a threshold: the one that would have kept that share of the tokens of the
last steps, on all ranks together.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.objectives.base import ClosedForm, Pair, in_range, objective
from limbeck.types import Chunk, Signal

# Margins are counted in bins that are narrow near 0, where tokens that the student is sure of are, and wide far from it.
_BINS, _LARGEST, _NARROW = 4096, 32.0, 1e-4  # nats
_SPAN = math.asinh(_LARGEST / _NARROW)
_DECAY = 0.9  # of what was counted, with each step


@objective
class EntropySelect(ClosedForm):
    """Cross-entropy in nats of the share ``keep`` of tokens with the largest margin, times 1 / keep; 0 at the others.

    The margin of a token is its cross-entropy less ``weight`` times the entropy of the student's distribution there. Left out are
    tokens where the student is uncertain and yet right, which training would make more certain than the text is. The margin that
    a token must have follows those of the last ten or so steps; in the first step all tokens count. A constant share of a
    micro-batch, as published, would depend on its size (arXiv 2508.03178).

    Raises BadObjective for a parameter out of range.
    """

    needs_teacher = False
    takes_queued = True
    threshold: Tensor
    seen: Tensor
    tally: Tensor

    def __init__(self, *, keep: float = 0.8, weight: float = 0.8) -> None:
        super().__init__()
        in_range("EntropySelect: keep", keep, 0, 1)
        in_range("EntropySelect: weight", weight, 0, 1, closed=True)
        self.keep, self.weight = float(keep), float(weight)
        self.register_buffer("threshold", torch.tensor(-math.inf, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(_BINS, dtype=torch.float64))
        self.register_buffer("tally", torch.zeros(_BINS, dtype=torch.float64), persistent=False)

    def forward(self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk) -> Float[Tensor, " n"]:
        """-log q of the targets (n,) over ``keep``, 0 where they are left out; in nats. Nothing is counted."""
        log_q = logits.log_softmax(-1)
        nats = -log_q.gather(-1, chunk.targets[:, None]).squeeze(-1)
        with torch.no_grad():
            worth = self._worth(self._margin(nats, log_q, log_q.exp()))
        return torch.where(worth > 0, nats * worth, 0.0)

    def closed_form(self, pair: Pair, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Nats (n,) and gradient (n, V): where a token is kept that of cross-entropy over ``keep``. Counts the margins."""
        targets = chunk.targets[:, None]
        nats = -pair.log_q.gather(-1, targets).squeeze(-1)
        log_q = pair.own("log_q")
        q = log_q.exp()
        margin = self._margin(nats, log_q, q)
        self._count(margin, chunk.weight)
        worth = self._worth(margin)
        gradient = q.scatter_add_(-1, targets, q.new_full(targets.shape, -1.0)).mul_(worth[:, None])
        return torch.where(worth > 0, nats * worth, 0.0), gradient

    def begin(self, steps: int) -> None:
        """Forgets all margins: the first step keeps all tokens."""
        self.threshold.fill_(-math.inf)
        self.seen.zero_()

    def advance(self, loss: float) -> None:
        """Moves the threshold to where it would have kept the share of the margins seen, the last step's most."""
        self.seen.mul_(_DECAY).add_(self.tally)
        below = self.seen.cumsum(0)
        dropped = (1 - self.keep) * below[-1]
        place = torch.searchsorted(below, dropped).clamp(max=_BINS - 1).view(1)  # no number that a host would wait for
        inside = self.seen.gather(0, place)
        found = place + 1 - (below.gather(0, place) - dropped) / inside
        margin = _NARROW * torch.sinh((found / _BINS * 2 - 1) * _SPAN).squeeze()
        self.threshold.copy_(torch.where(below[-1] > 0, margin, self.threshold))

    def _margin(self, nats: Tensor, log_q: Tensor, q: Tensor) -> Tensor:
        """Cross-entropy less weighted entropy in nats, (n,). An impossible token, of log-probability -inf, adds no entropy."""
        possible = log_q.clamp(min=torch.finfo(log_q.dtype).min)
        return nats + self.weight * torch.linalg.vecdot(q, possible)

    def _worth(self, margin: Tensor) -> Tensor:
        """What each token counts, (n,): 1 / keep or 0, and 1 before a threshold is known. A margin of NaN counts, to be seen."""
        kept = ~(margin < self.threshold.to(margin.dtype))
        return kept / torch.where(self.threshold.isfinite(), self.keep, 1.0).to(margin.dtype)

    def _count(self, margin: Tensor, weight: Tensor) -> None:
        """Adds tokens to the step's tally of margins, each by its weight."""
        place = (torch.asinh(margin.double() / _NARROW) / _SPAN + 1) / 2 * _BINS
        place = place.nan_to_num(nan=_BINS - 1).clamp(0, _BINS - 1).long()
        self.tally.index_add_(0, place, weight.double())
