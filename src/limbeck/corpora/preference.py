"""Pairs of completions of one prompt, of which one is preferred: the forms that preference data come in, and their tokens.

A record has ``chosen`` and ``rejected``, each a text or messages, and usually a ``prompt``, a text or messages (TRL's formats).
Conversations may repeat the prompt, if both do, and so may texts, of a prompt of four words or more. Without a ``prompt`` it is
what both begin with.

A pair is one document of a store: the tokens of the preferred conversation, then those of the rejected one, whose first token is
at ``second``. Each side has its own frame and is read without the other. Pairs are split by their prompts, so that no prompt is
both trained on and held out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from limbeck.corpora.document import Document, Message
from limbeck.errors import BadRecord

FORM = "preference pair"
_SIDES = ("chosen", "rejected")
_WORDS = 4  # of a prompt that both completions may repeat


def split_pair(record: Mapping[str, Any], where: str) -> tuple[Any, Any, Any]:
    """(prompt, preferred completion, rejected completion) of a record, all texts or all lists of messages.

    Raises BadRecord where a prompt is not the beginning of a conversation, and for two completions that are the same.
    """
    prompt, sides = record.get("prompt"), [record[name] for name in _SIDES]
    if prompt in (None, "", []):
        prompt = _common(sides, where)
        sides = [side[len(prompt) :] for side in sides]
    elif all(isinstance(part, str) for part in (prompt, *sides)):
        # a greeting may be answered by the same words, a long prompt is repeated only where a record has the whole text
        repeated = len(prompt.split()) >= _WORDS and all(side.startswith(prompt) for side in sides)
        sides = [side[len(prompt) :] for side in sides] if repeated else sides
    else:
        prompt, sides = _conversations(prompt, sides, where)
    for name, side in zip(_SIDES, sides, strict=True):
        if not (side.strip() if isinstance(side, str) else side):
            raise BadRecord(
                f"{where}: expected a completion in '{name}', got none beside the prompt: remove the record"
            )
    if sides[0] == sides[1]:
        raise BadRecord(
            f"{where}: expected two completions, got the same in 'chosen' and 'rejected': remove the record"
        )
    return prompt, *sides


def _common(sides: list[Any], where: str) -> Any:
    """What both sides begin with: whole messages, or a text up to a word's end."""
    if all(isinstance(side, str) for side in sides):
        same = takewhile(lambda both: both[0] == both[1], zip(*sides, strict=False))
        shared = sides[0][: sum(1 for _ in same)]
        if any(side[len(shared) :][:1].strip() for side in sides) and not shared[-1:].isspace():
            shared = shared[: -len(shared.split()[-1])] if shared.split() else shared  # not in the middle of a word
        return shared.rstrip(" ")
    if any(not isinstance(side, list) for side in sides):
        raise BadRecord(
            f"{where}: expected 'chosen' and 'rejected' to be two texts or two lists of messages: repair it"
        )
    first, second = sides
    same = takewhile(lambda both: both[0] == both[1], zip(first, second, strict=False))
    return [message for message, _ in same]


def _without(prompt: list[Any], sides: list[list[Any]], where: str) -> list[list[Any]]:
    """The completions without a prompt that both repeat; as they are where neither does."""
    begins = [side[: len(prompt)] == prompt for side in sides]
    if any(begins) and not all(begins):
        other = _SIDES[begins.index(False)]
        raise BadRecord(
            f"{where}: expected completions that both begin with the prompt, or neither, but '{other}' alone does not: repair "
            "or remove the record"
        )
    return [side[len(prompt) :] for side in sides] if all(begins) else sides


def _conversations(prompt: Any, sides: list[Any], where: str) -> tuple[list[Any], list[Any]]:
    """Prompt and completions as lists of messages, a text as one message of its role."""
    question = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    answers = [[{"role": "assistant", "content": side}] if isinstance(side, str) else side for side in sides]
    if not isinstance(question, list) or not all(isinstance(answer, list) for answer in answers):
        raise BadRecord(
            f"{where}: expected 'prompt', 'chosen' and 'rejected' to be texts or lists of messages: repair or remove it"
        )
    if isinstance(prompt, str):  # a system prompt may come before it
        system = _system(answers)
        question = [*system, *question]
    rest = _without(question, answers, where)
    for name, answer in zip(_SIDES, rest, strict=True):
        if answer and isinstance(answer[0], Mapping) and answer[0].get("role") in ("user", "system"):
            raise BadRecord(
                f"{where}: expected '{name}' to begin with the prompt, or with an assistant turn, got a turn of the "
                f"{answer[0]['role']}: repair or remove the record"
            )
    return question, rest


def _system(answers: list[list[Any]]) -> list[Any]:
    """The system message that both conversations begin with."""
    first = [answer[0] if answer else None for answer in answers]
    is_system = isinstance(first[0], Mapping) and first[0].get("role") == "system"
    return [first[0]] if is_system and first[0] == first[1] else []


def unlearned(messages: Sequence[Message]) -> list[Message]:
    """The messages of a prompt, of which nothing is learned."""
    return [{**message, "weight": 0} for message in messages]


def sides(document: Document) -> tuple[Document, Document]:
    """The preferred and the rejected conversation of a pair, as documents of their own."""
    assert document.rejected is not None, "a pair has a rejected side"
    return replace(document, rejected=None), document.rejected
