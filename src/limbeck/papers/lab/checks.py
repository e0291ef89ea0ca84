"""Checks of answers to the questions of `instructions`: what a program can decide, in place of a judge's mark.

An answer ends, has the form that its question wants, is about the function it was asked for, and is the right one. Each check is
yes or no, and none needs a model.
"""

from __future__ import annotations

import ast
import re

_CALL = re.compile(r"How is (\S+) called\?")
_WORDS = 3  # the fewest of a sentence


def checks_of(question: str, answer: str, right: str, *, ended: bool) -> dict[str, bool]:
    """The checks of an answer by name. ``ended``: it has an end-of-text token; ``right`` is the answer of the library itself.

    A question about a call wants ``name(parameters)`` as Python writes it, any other a sentence.
    """
    found = _CALL.fullmatch(question)
    answer = answer.strip()
    checks = {"ends": ended and bool(answer), "right": answer == right.strip()}
    if found is None:
        return checks | {"sentence": _is_sentence(answer)}
    name = found[1].rpartition(".")[2]
    return checks | {"call": _is_call(answer), "name": answer.startswith(f"{name}(")}


def _is_sentence(answer: str) -> bool:
    """Whether an answer is one line of three words or more, from a capital letter to a full stop."""
    return len(answer.split()) >= _WORDS and answer[0].isupper() and answer[-1] in ".!?" and "\n" not in answer


def _is_call(answer: str) -> bool:
    """Whether an answer is a function's name with its parameters, written as `ast.unparse` writes them."""
    try:
        (node,) = ast.parse(f"def {answer}: pass").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return isinstance(node, ast.FunctionDef) and f"{node.name}({ast.unparse(node.args)})" == answer
