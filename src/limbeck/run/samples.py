"""A model's own samples as the rows of its training, with what each counts: the corpus and the teacher of a policy gradient.

In each step some questions are taken, and of each several answers are sampled with the weights that the model has then. A reward
judges them, log-probabilities by the model and by its frozen start give the divergence, and both the advantage of each sample.
With these as slopes in log q (`policy.slopes`) the step is an ordinary one (`run.step`). A question's samples depend on the
weights, the seed, the place of the question and their number, so a stopped training continues to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.corpora.pack import ALONE, Ranks
from limbeck.generation.local import Continuation
from limbeck.generation.rollouts import continued
from limbeck.host import on_host, sent
from limbeck.models.language_model import LanguageModel
from limbeck.models.observing import evaluating
from limbeck.objectives.fused import walk
from limbeck.run.micro import micro_batches
from limbeck.run.policy import PolicyWeights, Rollout, Scores, advantages, rows_of, slopes, sums_of
from limbeck.run.questions import Order, Question
from limbeck.types import Batch, Slopes

_STREAM = 0x72657764  # apart from other random numbers of a run's seed


@dataclass(frozen=True)
class Judged:
    """A sample as it is learned. ``reward`` None stands for log q of the rollout's answer. ``passed``: whether all is right.

    ``ended``: whether it came to its end, of a rationale the mark. ``cut``: whether the limit on tokens ended it before.
    ``contains``: whether a rationale has the known answer in it, None where samples are no rationales.
    """

    rollout: Rollout
    reward: float | None
    passed: bool
    ended: bool
    cut: bool
    contains: bool | None = None


class Reward(Protocol):
    """What samples are worth, and how much each part of the gradient counts. All samples have a reward of one kind."""

    @property
    def weights(self) -> PolicyWeights: ...

    def judged(self, question: Question, found: Continuation) -> Judged: ...


@dataclass(frozen=True)
class Sampling:
    """How a model is sampled: ``samples`` of each question, of at most ``tokens`` each, from its own distribution.

    ``bf16``: it computes in mixed precision, as it is trained.
    """

    samples: int
    tokens: int
    bf16: bool = False


@dataclass(frozen=True)
class Sampled:
    """Judged samples of questions, and what a model and its start make of them.

    ``batch`` has a row for each sample, ``parts`` says what its targets are of (`policy.rows_of`), ``log_q`` what the model makes
    of them. By question and sample there are rewards, ``now`` and ``before``, log-probabilities by model and start, and
    entropies of the model, summed over what was sampled. All in nats.
    """

    judged: Sequence[Sequence[Judged]]
    batch: Batch
    parts: Int[Tensor, "B T"]
    log_q: Float[Tensor, "B T"]
    reward: Float[Tensor, "questions samples"]
    now: Scores
    before: Float[Tensor, "questions samples"]
    entropy: Float[Tensor, "questions samples"]

    @property
    def kl(self) -> Float[Tensor, "questions samples"]:
        """log q - log q0 of each sample, whose mean is the divergence from the start."""
        return self.now.sampled - self.before

    def facts(self) -> dict[str, float]:
        """Sums over all samples, for a step's row of metrics.jsonl; ``groups_alike`` are questions of equal rewards."""
        every = [one for samples in self.judged for one in samples]
        rationales = every[0].contains is not None
        return {
            "rollouts": len(every),
            "rollout_tokens": sum(len(one.rollout.sampled) for one in every),
            "rollouts_ended": sum(one.ended for one in every),
            "rollouts_cut": sum(one.cut for one in every),
            "row_tokens": sum(len(one.rollout.prompt) + len(one.rollout.answer) for one in every),
            "passed": sum(one.passed for one in every),
            "groups": len(self.judged),
            "groups_alike": int((self.reward.amax(-1) == self.reward.amin(-1)).sum()),
            "reward_sum": float(self.reward.sum()),
            "kl_sum": float(self.kl.sum()),
            "entropy_sum": float(self.entropy.sum()),
            **({"contain_answer": sum(bool(one.contains) for one in every)} if rationales else {}),
        }


def sample(
    model: LanguageModel,
    start: LanguageModel,
    questions: Sequence[Question],
    reward: Reward,
    how: Sampling,
    random: Callable[[int, int], np.random.Generator],
    *,
    temperature: float = 1.0,
) -> Sampled:
    """Samples answers of some questions, judges them, and scores them by the model and its start.

    ``random`` gives the random numbers of a sample by the place of its question among these, and its number.
    """
    prompts = [one.prompt for one in questions for _ in range(how.samples)]
    found = continued(
        model,
        prompts,
        lambda number: random(*divmod(number, how.samples)),
        max_new_tokens=how.tokens,
        temperature=temperature,
        bf16=how.bf16,
    )
    judged = [
        [reward.judged(one, text) for text in found[place * how.samples : (place + 1) * how.samples]]
        for place, one in enumerate(questions)
    ]
    batch, parts = rows_of([one.rollout for samples in judged for one in samples])
    log_q, entropy = position_scores(model, batch, bf16=how.bf16)
    log_p, _ = position_scores(start, batch, bf16=how.bf16)
    now = Scores(*sums_of(log_q, parts, samples=how.samples))
    return Sampled(
        judged,
        batch,
        parts,
        log_q,
        _rewards(judged, now),
        now,
        sums_of(log_p, parts, samples=how.samples)[0],
        sums_of(entropy, parts, samples=how.samples)[0],
    )


def _rewards(judged: Sequence[Sequence[Judged]], now: Scores) -> Float[Tensor, "questions samples"]:
    given = [[one.reward for one in samples] for samples in judged]
    return now.answer if given[0][0] is None else torch.tensor(given, dtype=torch.float64)


@torch.no_grad()
def position_scores(
    model: LanguageModel, batch: Batch, *, bf16: bool
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """log q of the targets that have weight, and the entropy of their distributions, in nats and host memory; 0 elsewhere."""
    found: list[Tensor] = []
    autocast = torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=bf16)
    with evaluating(model.model), autocast:
        for part in micro_batches(batch, model.device):
            values = torch.zeros(2, part.tokens.numel(), device=model.device)
            positions = part.counted
            for which, logits, _, chunk in walk(model(part), None, part, positions=positions):
                log_q = logits.float().log_softmax(-1)
                values[0, positions[which]] = log_q.gather(-1, chunk.targets[:, None]).squeeze(-1)
                values[1, positions[which]] = -(log_q.exp() * log_q.clamp(min=-1e4)).sum(-1)
            found.append(values.view(2, *part.tokens.shape).cpu())
    log_q, entropy = torch.cat(found, 1)
    return log_q, entropy


@dataclass
class Samples:
    """A `Corpus` of answers that ``student`` samples, and the teacher of these rows for the objective `PolicyGradient`.

    ``start`` is the model before training, frozen. A row is a sample, and each rank takes all samples of a question.
    """

    student: LanguageModel
    start: LanguageModel
    questions: Sequence[Question]
    reward: Reward
    how: Sampling
    seed: int
    ranks: Ranks = ALONE
    name: str = field(default="samples", init=False)
    length: int = field(init=False)
    last: Sampled | None = field(default=None, init=False)
    _next: int = field(default=0, init=False)  # the place of the next question
    _taken: tuple[Tensor, Slopes] | None = field(default=None, init=False)  # the numbers of rows, and their slopes

    def __post_init__(self) -> None:
        self._order = Order(self.questions, self.seed)
        self.length = longest_row(self.questions, self.how.tokens)

    def take(self, rows: int) -> Batch:
        """This rank's part of the next ``rows`` rows, all samples of the next questions."""
        count = self.how.samples
        places = range(self._next, self._next + rows // count)[self.ranks.rank :: self.ranks.size]
        self._next += rows // count
        asked = [self._order.at(place) for place in places]

        def random(place: int, number: int) -> np.random.Generator:
            return np.random.default_rng([_STREAM, self.seed, places[place], number])

        self.last = found = sample(self.student, self.start, asked, self.reward, self.how, random)
        weights = self.reward.weights
        advantage = advantages(found.now, found.before, weights, reward=found.reward)
        weight, worth = slopes(found.log_q, found.parts, advantage.flatten(), answer=weights.answer)
        numbers = torch.tensor([place * count + k for place in places for k in range(count)])
        self._taken = numbers, worth
        return replace(found.batch, weight=weight, row=numbers)

    def __call__(self, batch: Batch) -> Slopes:
        """The slopes of rows that were taken last."""
        assert self._taken is not None, "rows are taken first"
        numbers, worth = self._taken
        index = torch.searchsorted(numbers, on_host(batch.row))

        def of_rows(values: Tensor) -> Tensor:
            return sent(values.view(len(numbers), -1)[index].flatten(), batch.weight.device)

        return Slopes(of_rows(worth.nats), of_rows(worth.slope))

    def documents(self, rows: int) -> list[str]:
        """Names of the questions of the last ``rows`` rows."""
        return [self._order.at(place).name for place in range(self._next - rows // self.how.samples, self._next)]

    def state_dict(self) -> dict[str, Any]:
        """The position: the number of global rows taken."""
        return {"row": self._next * self.how.samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues at a saved position."""
        self._next = int(state["row"]) // self.how.samples

    def facts(self) -> Mapping[str, float]:
        """Sums over this rank's samples of the last step."""
        assert self.last is not None, "rows are taken first"
        return self.last.facts()


def longest_row(questions: Sequence[Question], tokens: int) -> int:
    """The most tokens of a row: of a prompt, what is sampled after it, and the known answer."""
    return max(len(one.prompt) + tokens + len(one.answer) for one in questions)
