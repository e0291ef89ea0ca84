"""Constraints on answers that a program checks: fifteen families, and the kinds of IFEval (arXiv 2311.07911), without a judge.

A prompt asks for something and says what the answer must look like: no commas, at least 300 words, an end that is given. Whether
an answer is any good is not measured. A blank answer follows no constraint, so a model that writes nothing has no score.

    >>> from limbeck.corpora.tasks.constraints import constraints_of
    >>> short, lower = constraints_of(["length", "case"], [{"unit": "words", "at_most": 3}, {"case": "lower"}], "here")
    >>> short.follows("Never mind."), lower.follows("Never mind."), short.follows("")
    (True, False, False)
"""

from limbeck.corpora.tasks.constraints.constraint import KINDS, Constraint, constraints_of, trained_of

__all__ = ["KINDS", "Constraint", "constraints_of", "trained_of"]
