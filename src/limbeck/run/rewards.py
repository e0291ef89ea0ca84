"""Rewards of sampled answers, by the names and options that `limbeck tune --reward` takes."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from limbeck.config import LATENT, reward_options
from limbeck.corpora.tasks.final import matches_after, stated_at
from limbeck.generation.local import Continuation, decoded_completion
from limbeck.run.policy import PolicyWeights, Rollout
from limbeck.run.questions import Question
from limbeck.run.samples import Judged, Reward


@dataclass(frozen=True)
class ChecksPassed:
    """The share of a question's checks that an answer passes, or with ``whole`` 1 where it passes all, else 0.

    One that was cut off passes none: what else it would have become is not known, and a model learns to end. ``beta`` weighs the
    divergence from the start.
    """

    tokenizer: PreTrainedTokenizerBase
    beta: float
    whole: bool = False

    @property
    def weights(self) -> PolicyWeights:
        """The policy gradient alone: there is no known answer to learn."""
        return PolicyWeights(1.0, 0.0, self.beta)

    def judged(self, question: Question, found: Continuation) -> Judged:
        """The sample with its reward, from 0 to 1. Its end is learned as it was sampled."""
        assert question.check is not None, "questions without a check are left out"
        end = () if found.stop is None else (found.stop,)
        parts: tuple[bool, ...] = ()
        if found.finished:
            parts = question.check.check(decoded_completion(self.tokenizer, question.prompt, found.tokens))
        passed = bool(parts) and all(parts)
        reward = float(passed) if self.whole else sum(parts) / len(question.check.parts)
        rollout = Rollout(question.prompt, (*found.tokens, *end), ())
        return Judged(rollout, reward, passed, found.finished, not found.finished)


@dataclass(frozen=True)
class AnswerLikelihood:
    """log q of the known answer after a sampled rationale, in nats (LaTRO, arXiv 2411.04282); ``answer`` is the paper's weight.

    A rationale ends at the first ``mark``. One that has none, or was cut off before, is followed by it, so that what does not
    lead to an answer makes it improbable; in the published code its reward is twice the mean. What was sampled after the mark is
    not learned, nor is the stop token of one that has no mark: the answer is scored as if the text went on there, so the estimate
    leaves out the probability of ending.
    """

    tokenizer: PreTrainedTokenizerBase
    beta: float
    answer: float
    mark: str

    @property
    def weights(self) -> PolicyWeights:
        """Both halves of the gradient."""
        return PolicyWeights(1.0, self.answer, self.beta)

    def judged(self, question: Question, found: Continuation) -> Judged:
        """The rationale, and the known answer after it.

        It passes if it ended and what follows the mark is the known answer, without a mark if its final answer is.
        """
        end = self._end(question, found)
        rationale = found.tokens if end is None else found.tokens[:end]
        answer = question.answer if end is None else question.after
        text = decoded_completion(self.tokenizer, question.prompt, found.tokens)
        passed = found.finished and matches_after(self.mark, text, (question.known,))
        thought = decoded_completion(self.tokenizer, question.prompt, rationale)
        rollout, cut = Rollout(question.prompt, rationale, answer), end is None and not found.finished
        return Judged(rollout, None, passed, end is not None, cut, stated_at(thought, question.known) is not None)

    def _end(self, question: Question, found: Continuation) -> int | None:
        """After how many tokens the mark is whole, and nothing follows it; None where that is never so."""

        def text(end: int) -> str:
            return decoded_completion(self.tokenizer, question.prompt, found.tokens[:end])

        ends = range(len(found.tokens) + 1)
        end = bisect_left(ends, True, key=lambda end: self.mark in text(end))
        return end if end < len(ends) and not text(end).partition(self.mark)[2].strip() else None


def reward_of(text: str, tokenizer: PreTrainedTokenizerBase) -> Reward:
    """The reward that a setting names, for answers in the tokens of a tokenizer."""
    name, options = reward_options(text)
    if name == LATENT:
        return AnswerLikelihood(tokenizer, options["beta"], options["answer"], options["mark"])
    return ChecksPassed(tokenizer, options["beta"], whole=options["all"])
