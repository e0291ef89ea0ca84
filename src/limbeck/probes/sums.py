"""Accuracy on sums with greedy generation: by the digits of the longer number, and by the number of carries.

The prompt is a+b= and nothing else, as a line of a text; the first number of the completion is the answer. The sums of a length
are balanced by their carries, so that all numbers of carries are equally frequent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from limbeck.corpora.tasks.arithmetic import Arithmetic, Sum, carries, question
from limbeck.corpora.tasks.spelled import Question, require_spelling
from limbeck.generation.local import decoded_completion, generate
from limbeck.models.language_model import LanguageModel
from limbeck.probes.interval import wilson
from limbeck.probes.named import ProbeContext, probe
from limbeck.probes.pass_until import spelled
from limbeck.types import Reading

DIGITS = (1, 2, 3, 4)
SUMS = 100  # of each length
_TOGETHER = 50
_MORE = 3  # tokens generated beyond the digits: a space before, and one that ends the number


@probe("arithmetic", reads=("seed",))
def probe_sums(model: LanguageModel, teacher: LanguageModel | None, context: ProbeContext) -> list[Reading]:
    """The readings of `sums` for a model, in the form that `limbeck probe` calls."""
    return sums(model, seed=context.seed)


def sums(model: LanguageModel, *, seed: int = 0) -> list[Reading]:
    """The share of correct sums by digits, and by carries over all of them. Raises BadTask as `require_spelling` does."""
    a, b = (np.concatenate(side) for side in zip(*(_drawn(digits, seed) for digits in DIGITS), strict=True))
    questions = [Sum(int(x), int(y)) for x, y in zip(a, b, strict=True)]
    require_spelling(model.tokenizer, [Question(*_texts(sum_)) for sum_ in questions], "arithmetic")
    right = _right(model, questions)
    digits, carried = np.repeat(DIGITS, SUMS), carries(a, b)
    readings = [_reading(model, f"sums_{d}_digits", right[digits == d], seed) for d in DIGITS]
    return readings + [_reading(model, f"sums_{c}_carries", right[carried == c], seed) for c in np.unique(carried)]


def _drawn(digits: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return Arithmetic(digits=digits, balance="carries").sums(np.random.default_rng([seed, digits]), SUMS)


def _right(model: LanguageModel, questions: Sequence[Sum]) -> Bool[np.ndarray, " n"]:
    found = []
    most = max(DIGITS) + 1 + _MORE
    for start in range(0, len(questions), _TOGETHER):
        part = questions[start : start + _TOGETHER]
        prompts = [spelled(model, *_texts(sum_))[0] for sum_ in part]
        continuations = generate(
            model, prompts, max_new_tokens=most, temperature=0.0, uniforms=np.zeros((len(part), most))
        )
        for sum_, prompt, continuation in zip(part, prompts, continuations, strict=True):
            text = decoded_completion(model.tokenizer, prompt, continuation.tokens, special=True)
            number = re.match(r"\s*(\d+)", text)
            found.append(number is not None and int(number[1]) == sum_.a + sum_.b)
    return np.array(found)


def _texts(sum_: Sum) -> tuple[str, str]:
    """A sum's prompt and its answer, without the line break."""
    plain = question(sum_, "plain")
    return plain.prompt, plain.answer.rstrip("\n")


def _reading(model: LanguageModel, name: str, right: Bool[np.ndarray, " n"], seed: int) -> Reading:
    share = wilson(int(right.sum()), len(right))
    return Reading(model.name, "arithmetic", name, share.value, "share", share.n, share.low, share.high, seed)
