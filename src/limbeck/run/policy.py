"""The gradient of a reward for what a model samples itself, with the likelihood of a known answer as reward (LaTRO).

For a question x, K rationales z are sampled, and the answer y is known. Of the objective

    J = E_z[ log q(y|x,z) - beta (log q(z|x) - log q0(z|x)) ],    z ~ q(.|x), q0 the frozen start

the gradient has two halves: that of log q(z|x), weighted by the bracket of a sample less the mean of the K - 1 others, and that
of log q(y|x,z) itself (Chen et al., arXiv 2411.04282, eq. 5; the baseline is that of Kool et al. 2019, "Buy 4 REINFORCE samples,
get a baseline for free!"). Neither has a bias. The bracket is a number: its own gradient is the second half, and that of beta
log q(z|x) is 0 in expectation. The published code multiplies the second half by 0, the paper by 1.

With a reward of what was sampled in the place of log q(y|x,z), and without its half, this is the policy gradient with the
leave-one-out baseline (RLOO, Ahmadian et al., arXiv 2402.14740): log-probabilities are summed over a sample, and each sample
counts once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.corpora.tasks.synthetic import Drawing, as_batch
from limbeck.errors import BadSetting
from limbeck.models.language_model import LanguageModel
from limbeck.types import Batch, Slopes

SAMPLED, ANSWER = 1, 2  # what a target of a rollout is of


@dataclass(frozen=True)
class Rollout:
    """The tokens of a prompt, of what was sampled after it, and of the known answer, which is scored after both."""

    prompt: tuple[int, ...]
    sampled: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True)
class Scores:
    """Log-probabilities in nats, summed over tokens: of what was sampled, and of the known answer after it."""

    sampled: Float[Tensor, "questions samples"]
    answer: Float[Tensor, "questions samples"]


@dataclass(frozen=True)
class PolicyWeights:
    """What each part of the gradient counts: ``policy`` (of the sampled), ``answer`` (of the answer), and ``beta`` (KL).

    Raises BadSetting for a negative weight, or if nothing counts.
    """

    policy: float = 1.0
    answer: float = 1.0
    beta: float = 0.05

    def __post_init__(self) -> None:
        if min(self.policy, self.answer, self.beta) < 0 or self.policy == self.answer == 0:
            raise BadSetting(
                f"expected weights of at least 0, of which policy or answer is above, got policy {self.policy}, answer "
                f"{self.answer}, beta {self.beta}"
            )


def scores(model: LanguageModel, rollouts: Sequence[Sequence[Rollout]]) -> Scores:
    """Scores the samples of each question by a model, in one forward pass; each question has as many.

    Only predictions that count pass through the head. Raises BadSetting for a sample without a prompt, or without an answer.
    """
    rows = [one for samples in rollouts for one in samples]
    if not rows or not all(one.prompt and one.answer for one in rows):
        raise BadSetting("expected rollouts with a prompt and an answer of at least one token each")
    batch, parts = rows_of(rows)
    batch = batch.to(model.device)
    counted = batch.counted
    logits = model(batch).logits(counted).float()
    log_q = logits.log_softmax(-1).gather(-1, batch.targets.flatten()[counted, None]).squeeze(-1)
    part = parts.to(model.device).flatten()[counted]
    row = torch.div(counted, batch.tokens.shape[1], rounding_mode="floor")
    sums = [log_q.new_zeros(len(rows)).index_add(0, row, log_q * (part == number)) for number in (SAMPLED, ANSWER)]
    return Scores(*(total.reshape(len(rollouts), -1) for total in sums))


def policy_loss(
    now: Scores,
    start: Float[Tensor, "questions samples"],
    weights: PolicyWeights,
    *,
    reward: Float[Tensor, "questions samples"] | None = None,
) -> Float[Tensor, ""]:
    """A loss in nats per sample whose gradient is minus that of J, for samples of the model's own distribution.

    ``start`` has log q0 of what was sampled, by the frozen start. ``reward`` takes the place of log q(y|x,z), such as whether a
    written answer is right. Raises BadSetting for fewer than two samples of a question, which have no baseline.
    """
    advantage = advantages(now, start, weights, reward=reward)
    return -(advantage * now.sampled + weights.answer * now.answer).mean()


def advantages(
    now: Scores,
    start: Float[Tensor, "questions samples"],
    weights: PolicyWeights,
    *,
    reward: Float[Tensor, "questions samples"] | None = None,
) -> Float[Tensor, "questions samples"]:
    """What log q of each sample counts in `policy_loss`, without a graph: its bracket less the mean of the others, weighted."""
    if not weights.policy:
        return torch.zeros_like(now.sampled)
    value = (now.answer if reward is None else reward) - weights.beta * (now.sampled - start)
    return weights.policy * leave_one_out(value.detach())


def leave_one_out(values: Float[Tensor, "questions samples"]) -> Float[Tensor, "questions samples"]:
    """Each value less the mean of the others of its question. Raises BadSetting for fewer than two."""
    k = values.shape[-1]
    if k < 2:
        raise BadSetting(f"expected at least 2 samples of a question, whose others are the baseline, got {k}")
    return (values - values.mean(-1, keepdim=True)) * (k / (k - 1))


def rows_of(rows: Sequence[Rollout]) -> tuple[Batch, Int[Tensor, "B T"]]:
    """A batch of rollouts, padded on the right, and whether a target is `SAMPLED`, of the `ANSWER` or 0, neither.

    Those of both kinds have the weight 1.
    """
    length = max(len(one.prompt) + len(one.sampled) + len(one.answer) for one in rows)
    tokens, parts = np.zeros((len(rows), length), np.int64), np.zeros((len(rows), length), np.int64)
    for i, one in enumerate(rows):
        whole = [*one.prompt, *one.sampled, *one.answer]
        tokens[i, : len(whole)] = whole
        parts[i, len(one.prompt) : len(whole)] = [SAMPLED] * len(one.sampled) + [ANSWER] * len(one.answer)
    return as_batch(Drawing(tokens[:, :-1], tokens[:, 1:], parts[:, 1:] > 0)), torch.from_numpy(parts[:, 1:])


def sums_of(
    values: Float[Tensor, "B T"], parts: Int[Tensor, "B T"], *, samples: int
) -> tuple[Float[Tensor, "questions samples"], Float[Tensor, "questions samples"]]:
    """Values of positions summed over what was sampled, and over the answer, of each sample; in float64."""
    whole = values.double()
    sampled, answer = ((whole * (parts == kind)).sum(-1).reshape(-1, samples) for kind in (SAMPLED, ANSWER))
    return sampled, answer


def slopes(
    log_q: Float[Tensor, "B T"], parts: Int[Tensor, "B T"], advantage: Float[Tensor, " B"], *, answer: float
) -> tuple[Float[Tensor, "B T"], Slopes]:
    """`policy_loss` as a loss of positions: the weight of each, with which a sample counts 1, and nats and slope in log q.

    ``advantage`` is what log q of a sample counts (`advantages`), ``answer`` what that of the answer does. Weight times slope is
    minus that. Every row needs a position of either kind.
    """
    counted = parts > 0
    tokens = counted.sum(-1, keepdim=True)
    worth = torch.where(parts == SAMPLED, advantage[:, None].to(log_q), answer * (parts == ANSWER))
    slope = -worth * tokens
    return counted.to(log_q) / tokens, Slopes((slope * log_q).flatten(), slope.flatten())
