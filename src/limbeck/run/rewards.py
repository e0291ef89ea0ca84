"""Rewards of sampled answers, by the names and options that `limbeck tune --reward` takes."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from limbeck.config import reward_options
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
        return Judged(Rollout(question.prompt, (*found.tokens, *end), ()), reward, passed, found.finished)


def reward_of(text: str, tokenizer: PreTrainedTokenizerBase) -> Reward:
    """The reward that a setting names, for answers in the tokens of a tokenizer."""
    _, options = reward_options(text)
    return ChecksPassed(tokenizer, options["beta"], whole=options["all"])
