"""An answer without sense that follows given constraints: it proves that they can be followed together.

Words that the constraints name are put into sentences of random ones, and sentences into lines, paragraphs, bullets, sections or
JSON. The result is checked; where it fails, another is tried.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from limbeck.corpora.tasks.constraints.constraint import Constraint
from limbeck.corpora.tasks.constraints.families import UNITS
from limbeck.corpora.tasks.constraints.measures import count_text, count_word
from limbeck.corpora.tasks.constraints.vocabulary import KEYS, LATIN, WORDS

_TRIES = 4
_SENTENCE = 7  # words of one, about
_MARKS = "!?"

Given = Mapping[str, Mapping[str, Any]]  # the arguments of each family


def answer_to(constraints: Sequence[Constraint], generator: np.random.Generator) -> str | None:
    """An answer that follows all constraints, which are of different families; None where none was found."""
    given = {one.kind: one.arguments for one in constraints}
    for _ in range(_TRIES):
        answer = _of_length(given, generator)
        if answer is not None and all(one.follows(answer) for one in constraints):
            return answer
    return None


@dataclass(frozen=True)
class _Plan:
    """How many words there are that nothing asks for, sentences, paragraphs, bullets among the sentences, and headings."""

    words: int
    sentences: int
    paragraphs: int
    bullets: int
    headings: int


def _of_length(given: Given, generator: np.random.Generator) -> str | None:
    """An answer of the length that is asked for; None where what else is asked for makes it longer."""
    bullets, headings = (_within(given[one], generator) if one in given else 0 for one in ("bullets", "sections"))
    sentences = max(bullets, headings, int(generator.integers(1, 5)))
    plan = _Plan(_SENTENCE * sentences, sentences, 1, bullets, headings)
    seed = int(generator.integers(2**32))
    if "length" not in given:
        return _assembled(given, plan, np.random.default_rng(seed))
    unit, wanted = given["length"]["unit"], _within(given["length"], generator)
    for _ in range(_TRIES):  # what is asked for besides has words and sentences of its own
        answer = _assembled(given, plan, np.random.default_rng(seed))
        away = wanted - UNITS[unit](answer)
        if not away:
            return answer
        plan = _longer(plan, unit, away)
    return None


def _longer(plan: _Plan, unit: str, more: int) -> _Plan:
    """A plan of more words, sentences or paragraphs, or of fewer."""
    if unit == "words":
        return replace(plan, words=max(0, plan.words + more))
    if unit == "sentences":
        number = max(1, plan.bullets, plan.headings, plan.sentences + more)
        return replace(plan, sentences=number, words=max(plan.words, number))
    number = max(1, plan.paragraphs + more)
    return replace(plan, paragraphs=number, sentences=max(plan.sentences, number))


def _within(bounds: Mapping[str, Any], generator: np.random.Generator) -> int:
    """A number within bounds; one a little above the lower one where there is no other."""
    least = int(bounds.get("at_least", 0))
    most = int(bounds.get("at_most", least + 2))
    return int(generator.integers(max(least, min(1, most)), most + 1))


def _assembled(given: Given, plan: _Plan, generator: np.random.Generator) -> str:
    words = [*_asked(given, generator), *_others(given, plan.words, generator)]
    marks = _marks(given, generator)
    places = np.array_split(np.arange(len(words)), plan.sentences)
    sentences = [
        _sentence([words[place] for place in part], marks.pop() if marks else ".") for part in places if len(part)
    ]
    if "json" in given:
        text = _as_json(sentences, given["json"].get("keys", ()), generator)
    else:
        text = "\n".join(_opening(given)) + _laid_out(sentences, plan, given.get("sections", {}).get("marker", ""))
        text += f" {given['ends']['text']}" if "ends" in given else ""
    case = given.get("case", {}).get("case")
    return text.upper() if case == "upper" else text.lower() if case == "lower" else text


def _opening(given: Given) -> Iterator[str]:
    for family in ("starts", "repeat"):
        if family in given:
            yield given[family]["text"] + "\n"


def _sentence(words: Sequence[str], mark: str) -> str:
    text = " ".join(words)
    return text[0].upper() + text[1:] + mark


def _as_json(sentences: Sequence[str], keys: Sequence[str], generator: np.random.Generator) -> str:
    keys = keys or [KEYS[int(place)] for place in generator.choice(len(KEYS), 2, replace=False)]
    return json.dumps(dict.fromkeys(keys, "") | {keys[0]: " ".join(sentences)}, ensure_ascii=False)


def _laid_out(sentences: Sequence[str], plan: _Plan, marker: str) -> str:
    """A line for each sentence: the last ones are bullets, the first ones have headings, and blank lines part paragraphs."""
    text = ""
    for place, sentence in enumerate(sentences):
        if place:
            text += "\n\n" if place < plan.paragraphs else "\n"
        if place < plan.headings:
            text += f"{marker} {place + 1}\n"
        text += f"- {sentence}" if place >= len(sentences) - plan.bullets else sentence
    return text


def _asked(given: Given, generator: np.random.Generator) -> list[str]:
    """The words that constraints name, those with an order first."""
    found = list(given.get("order", {}).get("words", ()))
    found += [word for word in given.get("contains", {}).get("words", ()) if word not in found]
    fixed = [given[family]["text"] for family in ("starts", "repeat", "ends") if family in given]
    if "frequency" in given:
        word = given["frequency"]["word"]
        there = sum(count_word(text, word) for text in (*found, *fixed))
        found += [word] * (_within(given["frequency"], generator) - there)
    if "count" in given and given["count"]["text"] not in _MARKS:
        text = given["count"]["text"]
        with_it = [word for word in _allowed(given) if count_text(word, text) == 1]
        there = sum(count_text(one, text) for one in (*found, *fixed))
        missing = max(0, _within(given["count"], generator) - there) if with_it else 0
        found += [with_it[int(place)] for place in generator.integers(len(with_it) or 1, size=missing)]
    return found


def _others(given: Given, number: int, generator: np.random.Generator) -> list[str]:
    """Words that no constraint names or counts."""
    words = _allowed(given)
    if "count" in given:
        words = [word for word in words if not count_text(word, given["count"]["text"])]
    return [words[int(place)] for place in generator.integers(len(words), size=number)] if words else []


def _allowed(given: Given) -> list[str]:
    named = {*given.get("forbidden", {}).get("words", ()), *given.get("order", {}).get("words", ())}
    named.add(given.get("frequency", {}).get("word", ""))
    lacks = given.get("lacks", {}).get("texts", ())
    words = WORDS[given.get("language", {}).get("script", LATIN)]
    return [word for word in words if word not in named and not any(count_text(word, text) for text in lacks)]


def _marks(given: Given, generator: np.random.Generator) -> list[str]:
    """The marks that sentences end with where marks are counted, less those of the end that is asked for."""
    if "count" not in given or given["count"]["text"] not in _MARKS:
        return []
    mark = given["count"]["text"]
    there = given.get("ends", {}).get("text", "").count(mark)
    return [mark] * (_within(given["count"], generator) - there)
