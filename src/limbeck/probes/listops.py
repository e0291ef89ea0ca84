"""The ListOps probe: whether the most probable of the ten digits after an expression is its value, for flat and nested lists.

Chance is 1/10, but values are not equally frequent (the minimum of several digits is small). The accuracy of the most frequent
value alone is therefore given as well: a model that is no better has learned no more than this value.
"""

from __future__ import annotations

import numpy as np

from limbeck.corpora.tasks.listops import ListOps
from limbeck.corpora.tasks.spelled import require_spelling
from limbeck.models.language_model import LanguageModel
from limbeck.probes.completions import log_likelihood
from limbeck.probes.interval import wilson
from limbeck.probes.named import ProbeContext, probe
from limbeck.types import Reading

EXPRESSIONS = 100  # of each kind
KINDS = {
    "flat": ListOps(depth=2, items=5, shortest=3, longest=8),
    "nested": ListOps(depth=4, items=5, shortest=9, longest=40),
}
_DIGITS = "0123456789"


@probe("listops", reads=("seed",))
def probe_listops(model: LanguageModel, teacher: LanguageModel | None, context: ProbeContext) -> list[Reading]:
    """The readings of `listops` for a model, in the form that `limbeck probe` calls."""
    return listops(model, seed=context.seed)


def listops(model: LanguageModel, *, seed: int = 0) -> list[Reading]:
    """The share of correctly evaluated expressions, by kind. Raises BadTask if the tokenizer cannot encode expressions."""
    readings = []
    for number, (kind, task) in enumerate(KINDS.items()):
        questions = task.questions(np.random.default_rng([seed, number]), EXPRESSIONS)
        require_spelling(model.tokenizer, questions, "listops")
        scores = log_likelihood(model, [(question.prompt, digit) for question in questions for digit in _DIGITS])
        values = np.array([int(question.answer) for question in questions])
        right = scores.reshape(-1, len(_DIGITS)).argmax(1) == values
        commonest = np.bincount(values).max()
        for name, count in ((f"listops_{kind}", right.sum()), (f"listops_{kind}_commonest", commonest)):
            share = wilson(int(count), EXPRESSIONS)
            readings.append(
                Reading(model.name, "listops", name, share.value, "share", share.n, share.low, share.high, seed)
            )
    return readings
