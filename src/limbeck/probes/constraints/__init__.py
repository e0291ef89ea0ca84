"""Constraints on answers that a program can check: those of IFEval (arXiv 2311.07911), without a judge.

A prompt asks for something and says what the answer must look like: no commas, at least 300 words, a title in double angular
brackets. Whether an answer is any good is not measured.
"""

from limbeck.probes.constraints.answers import answered
from limbeck.probes.constraints.items import Constraint, Item, constraints_of, read_items
from limbeck.probes.constraints.score import by_chance, followed

__all__ = ["Constraint", "Item", "answered", "by_chance", "constraints_of", "followed", "read_items"]
