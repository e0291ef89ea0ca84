"""Preference objectives: losses of pairs of completions of one prompt, of which one is preferred, by DPO and APO.

The implicit reward of a completion y of a prompt x is r = beta (log q(y|x) - log p(y|x)), with p the model before tuning, the
reference, and log-probabilities summed over the completion's tokens. These are losses of a pair, not of a token: the fused head
sums log q over both completions, and gives each token the slope of the loss in that sum (`objectives.pairs`).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import NoReturn

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from limbeck.errors import BadObjective
from limbeck.objectives.base import Objective, in_range, objective
from limbeck.types import Chunk, Signal


@dataclass(frozen=True)
class Pairs:
    """Both completions of each pair, the preferred one first: summed log q and log p (nats), and numbers of ``tokens``."""

    log_q: Float[Tensor, "pairs 2"]
    log_p: Float[Tensor, "pairs 2"]
    tokens: Float[Tensor, "pairs 2"]


class Preference(Objective):
    """A loss of the implicit rewards of a pair. ``beta`` scales the rewards: a higher one keeps the model nearer the reference.

    ``per_token`` divides each reward by the number of its completion's tokens, so that longer ones have no larger rewards.
    ``sft`` times the preferred completion's nats per token are added, so that its probability does not fall (RPO, arXiv
    2404.19733). Raises BadObjective unless beta > 0 and sft >= 0.
    """

    compares_pairs = True

    def __init__(self, *, beta: float = 0.1, per_token: bool = False, sft: float = 0.0) -> None:
        super().__init__()
        in_range(f"{type(self).__name__}: beta", beta, 0, math.inf)
        if sft != 0:
            in_range(f"{type(self).__name__}: sft", sft, 0, math.inf)
        if not isinstance(per_token, bool):
            raise BadObjective(f"{type(self).__name__}: per_token must be true or false, got {per_token!r}")
        self.beta, self.per_token, self.sft = beta, per_token, sft

    @abstractmethod
    def of_rewards(self, chosen: Float[Tensor, " pairs"], rejected: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
        """The loss of each pair from the implicit rewards of its completions."""

    def of_pairs(self, pairs: Pairs) -> Float[Tensor, " pairs"]:
        """The loss of each pair, differentiable in ``pairs.log_q``."""
        reward = self.beta * (pairs.log_q - pairs.log_p)
        reward = reward / pairs.tokens if self.per_token else reward
        loss = self.of_rewards(*reward.unbind(-1))
        return loss - self.sft * (pairs.log_q / pairs.tokens)[:, 0] if self.sft else loss

    def forward(self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk) -> NoReturn:
        """Raises BadObjective: single positions do not have this loss."""
        raise single(self)


def single(objective: Objective) -> BadObjective:
    """The error that an objective of pairs is used without pairs."""
    return BadObjective(
        f"{objective}: it compares two completions of one prompt, so it needs pairs of them: limbeck tune --data pairs.jsonl "
        f"--objective '{objective.short}'"
    )


@objective
class DPO(Preference):
    """-log sigmoid(r chosen - r rejected), ln 2 at the start (Rafailov et al., arXiv 2305.18290, eq. 7)."""

    def of_rewards(self, chosen: Float[Tensor, " pairs"], rejected: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
        """The loss of each pair, in nats."""
        return -logsigmoid(chosen - rejected)


@objective
class APOZero(Preference):
    """1 - sigmoid(r chosen) + sigmoid(r rejected), 1 at the start, no nats (D'Oosterlinck et al., arXiv 2408.06266, sec. 4).

    It raises the probability of the preferred completion and lowers the other's. It is for preferred completions that are better
    than the model's own.
    """

    def of_rewards(self, chosen: Float[Tensor, " pairs"], rejected: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
        """The loss of each pair, from 0 to 2."""
        return 1 - chosen.sigmoid() + rejected.sigmoid()


@objective
class APODown(Preference):
    """sigmoid(r chosen) + 1 - sigmoid(r chosen - r rejected), 1 at the start, no nats (arXiv 2408.06266, sec. 4).

    It lowers the probability of both completions, that of the rejected one more; at the start the preferred one has no gradient.
    It is for models that are better than both completions.
    """

    def of_rewards(self, chosen: Float[Tensor, " pairs"], rejected: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
        """The loss of each pair, from 0 to 2."""
        return chosen.sigmoid() + 1 - (chosen - rejected).sigmoid()
