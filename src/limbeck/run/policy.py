"""The gradient of a reward for what a model samples itself, with the likelihood of a known answer as reward (LaTRO).

For a question x, K rationales z are sampled, and the answer y is known. Of the objective

    J = E_z[ log q(y|x,z) - beta (log q(z|x) - log q0(z|x)) ],    z ~ q(.|x), q0 the frozen start

the gradient has two halves: that of log q(z|x), weighted by the bracket of a sample less the mean of the K - 1 others, and that
of log q(y|x,z) itself (Chen et al., arXiv 2411.04282, eq. 5; the baseline is that of Kool et al. 2019, "Buy 4 REINFORCE samples,
get a baseline for free!"). Neither has a bias. The bracket is a number: its own gradient is the second half, and that of beta
log q(z|x) is 0 in expectation. The published code multiplies the second half by 0, the paper by 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.corpora.tasks.synthetic import Drawing, as_batch
from limbeck.errors import BadSetting
from limbeck.models.language_model import LanguageModel


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
    tokens, parts = _padded(rows)
    batch = as_batch(Drawing(tokens[:, :-1], tokens[:, 1:], parts[:, 1:] > 0)).to(model.device)
    counted = batch.counted
    logits = model(batch).logits(counted).float()
    log_q = logits.log_softmax(-1).gather(-1, batch.targets.flatten()[counted, None]).squeeze(-1)
    part = torch.from_numpy(parts[:, 1:]).to(model.device).flatten()[counted]
    row = torch.div(counted, tokens.shape[1] - 1, rounding_mode="floor")
    sums = [log_q.new_zeros(len(rows)).index_add(0, row, log_q * (part == number)) for number in (1, 2)]
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
    value = (now.answer if reward is None else reward) - weights.beta * (now.sampled - start)
    advantage = leave_one_out(value.detach()) if weights.policy else torch.zeros_like(now.sampled)
    return -(weights.policy * advantage * now.sampled + weights.answer * now.answer).mean()


def leave_one_out(values: Float[Tensor, "questions samples"]) -> Float[Tensor, "questions samples"]:
    """Each value less the mean of the others of its question. Raises BadSetting for fewer than two."""
    k = values.shape[-1]
    if k < 2:
        raise BadSetting(f"expected at least 2 samples of a question, whose others are the baseline, got {k}")
    return (values - values.mean(-1, keepdim=True)) * (k / (k - 1))


def _padded(rows: Sequence[Rollout]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of all rows, padded on the right, and whether each is sampled (1), of the answer (2) or neither (0)."""
    length = max(len(one.prompt) + len(one.sampled) + len(one.answer) for one in rows)
    tokens, parts = np.zeros((len(rows), length), np.int64), np.zeros((len(rows), length), np.int64)
    for i, one in enumerate(rows):
        whole = [*one.prompt, *one.sampled, *one.answer]
        tokens[i, : len(whole)] = whole
        parts[i, len(one.prompt) : len(whole)] = [1] * len(one.sampled) + [2] * len(one.answer)
    return tokens, parts
