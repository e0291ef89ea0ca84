"""Pairs of completions of one prompt, of which one is preferred: the forms that preference data come in, and their tokens.

A record has ``chosen`` and ``rejected``, each a text or messages, and usually a ``prompt``, a text or messages (TRL's formats).
Conversations may repeat the prompt, if both do, and so may texts, of a prompt of four words or more. Without a ``prompt`` it is
the messages that both begin with. Of texts it ends where the last turn of an assistant begins that both share (`TURNS`); of texts
without one it is all words that both begin with, those of their answers among them.

A pair is one document of a store: the tokens of the preferred conversation, then those of the rejected one, whose first token is
at ``second``. Each side has its own frame and is read without the other. Pairs are split by their prompts, so that no prompt is
both trained on and held out; texts of one question without a prompt and without turns can be on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from limbeck.corpora.document import Document, Message
from limbeck.errors import BadRecord

FORM = "preference pair"
FORM_WITHOUT = f"{FORM} of texts without a prompt, for which all words that both begin with are taken"
_SIDES = ("chosen", "rejected")
TURNS = (  # what an assistant's turn begins with, in texts of conversations
    *("\nAssistant:", "\n### Response:", "<|im_start|>assistant\n", "<|assistant|>", "[/INST]"),
    *("<|start_header_id|>assistant<|end_header_id|>", "<start_of_turn>model\n"),
)
_WORDS = 4  # of a prompt that both completions may repeat


def split_pair(record: Mapping[str, Any], where: str) -> tuple[Any, Any, Any]:
    """(prompt, preferred completion, rejected completion) of a record, all texts or all lists of messages.

    Raises BadRecord where a prompt is not the beginning of a conversation, and for two completions that are the same.
    """
    prompt, sides = record.get("prompt"), [record[name] for name in _SIDES]
    texts = all(isinstance(part, str) for part in sides)
    if prompt in (None, "", []):
        prompt = _common_text(*sides) if texts else _common(sides, where)
        sides = [side[len(prompt) :] for side in sides]
        if texts and record.get("system"):
            raise BadRecord(
                f"{where}: expected a 'prompt' beside 'system', which belongs to messages, got none: repair it"
            )
    elif texts and isinstance(prompt, str):
        # a greeting may be answered by the same words, a long prompt is repeated only where a record has the whole text
        sides = _without(prompt, sides, where) if len(prompt.split()) >= _WORDS else sides
        if "system" in record:  # of a system prompt, which may be empty in some records, a template makes a text
            prompt, sides = _conversations(prompt, sides, where)
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


def _common_text(first: str, second: str) -> str:
    """The prompt of two texts: up to the last turn of an assistant that both begin, else what both begin with, in whole words."""
    same = takewhile(lambda both: both[0] == both[1], zip(first, second, strict=False))
    shared = first[: sum(1 for _ in same)]
    if marked := max((shared.rfind(mark) + len(mark) for mark in TURNS if mark in shared), default=0):
        return shared[:marked]
    rests = [text[len(shared) :] for text in (first, second)]
    inside = any(rest[:1].strip() for rest in rests) and not shared[-1:].isspace()
    if shared.split() and (inside or not all(rest.strip() for rest in rests)):
        shared = shared.rstrip()[: -len(shared.split()[-1])]  # not in the middle of a word, and a word for each side
    return shared.rstrip(" ")


def _common(sides: list[Any], where: str) -> Any:
    """The messages that both sides begin with; an answer that is all of one side, and the other goes on, is of neither prompt."""
    if any(not isinstance(side, list) for side in sides):
        raise BadRecord(
            f"{where}: expected 'chosen' and 'rejected' to be two texts or two lists of messages: repair it"
        )
    first, second = sides
    same = takewhile(lambda both: both[0] == both[1], zip(first, second, strict=False))
    shared = [message for message, _ in same]
    ends = len(shared) in (len(first), len(second))
    return shared[:-1] if ends and _role(shared) == "assistant" else shared


def _role(messages: list[Any]) -> Any:
    """The role of the last message, None without one."""
    return messages[-1].get("role") if messages and isinstance(messages[-1], Mapping) else None


def _without(prompt: Any, sides: list[Any], where: str) -> list[Any]:
    """The completions without a prompt that both repeat; as they are where neither does. All texts, or all messages."""
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


def form_of(record: Mapping[str, Any], prompt: str) -> str:
    """The form of a record of texts, of which ``prompt`` was found: another one where no field and no turn says where it ends."""
    return FORM if record.get("prompt") or prompt.endswith(TURNS) else FORM_WITHOUT


def unlearned(messages: Sequence[Message]) -> list[Message]:
    """The messages of a prompt, of which nothing is learned."""
    return [{**message, "weight": 0} for message in messages]


def sides(document: Document) -> tuple[Document, Document]:
    """The preferred and the rejected conversation of a pair, as documents of their own."""
    assert document.rejected is not None, "a pair has a rejected side"
    return replace(document, rejected=None), document.rejected
