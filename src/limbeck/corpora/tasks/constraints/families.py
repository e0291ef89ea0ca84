"""Fifteen families of constraints on the text of an answer, which a program checks without anything trained.

Words and phrases are found without case and never within a longer word; only ``count`` and ``lacks`` look within words too.
Bounds ``at_least`` and ``at_most`` are included; one of them, or both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NoReturn

from limbeck.corpora.tasks.constraints.kind import BOUNDS, Kind, bounded, bounds_fault
from limbeck.corpora.tasks.constraints.measures import (
    SCRIPTS,
    begins,
    count_bullets,
    count_paragraphs,
    count_sentences,
    count_text,
    count_word,
    count_words,
    ends,
    first_place,
    heading_numbers,
    is_of_script,
    letters_of,
    plain,
    rest_after,
    unfenced,
)

UNITS = {"words": count_words, "sentences": count_sentences, "paragraphs": count_paragraphs}
CASES = {"upper": str.isupper, "lower": str.islower}


def _length(answer: str, unit: str, **bounds: int) -> bool:
    return bounded(UNITS[unit](answer), **bounds)


def _count(answer: str, text: str, **bounds: int) -> bool:
    return bounded(count_text(answer, text), **bounds)


def _contains(answer: str, words: Sequence[str]) -> bool:
    return all(count_word(answer, word) for word in words)


def _lacks(answer: str, texts: Sequence[str]) -> bool:
    return not any(count_text(answer, text) for text in texts)


def _case(answer: str, case: str) -> bool:
    return CASES[case](answer)


def _bullets(answer: str, **bounds: int) -> bool:
    return bounded(count_bullets(answer), **bounds)


def _json(answer: str, keys: Sequence[str] = ()) -> bool:
    """Whether the whole answer, or what its fence of code holds, is a JSON object, with these keys, or without keys a list."""
    try:
        value = json.loads(unfenced(answer), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return value.keys() >= set(keys) if isinstance(value, dict) else isinstance(value, list) and not keys


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _sections(answer: str, marker: str, **bounds: int) -> bool:
    """Headings are numbered from 1 in their order."""
    numbers = heading_numbers(answer, marker)
    return numbers == list(range(1, len(numbers) + 1)) and bounded(len(numbers), **bounds)


def _forbidden(answer: str, words: Sequence[str]) -> bool:
    return not any(count_word(answer, word) for word in words)


def _frequency(answer: str, word: str, **bounds: int) -> bool:
    return bounded(count_word(answer, word), **bounds)


def _language(answer: str, script: str) -> bool:
    return is_of_script(letters_of(answer), script)


def _order(answer: str, words: Sequence[str]) -> bool:
    """Each word occurs, first after the first place of the word before it."""
    places = [first_place(answer, word) for word in words]
    found = [place for place in places if place is not None]
    return len(found) == len(words) and all(one < other for one, other in pairwise(found))


def _order_fault(words: Sequence[str]) -> str:
    if len({plain(word) for word in words}) < max(2, len(words)):
        return "expected 'words' to be two or more different ones, whose order is checked"
    return ""


def _repeat(answer: str, text: str) -> bool:
    """The answer begins with the text, and goes on."""
    return begins(answer, text) and any(map(str.isalnum, rest_after(answer, text)))


FAMILIES: Mapping[str, Kind] = {
    "length": Kind(_length, {"unit": str}, BOUNDS, {"unit": tuple(UNITS)}, bounds_fault),
    "count": Kind(_count, {"text": str}, BOUNDS, fault=bounds_fault),
    "contains": Kind(_contains, {"words": list}),
    "lacks": Kind(_lacks, {"texts": list}),
    "starts": Kind(lambda answer, text: begins(answer, text), {"text": str}),
    "ends": Kind(lambda answer, text: ends(answer, text), {"text": str}),
    "case": Kind(_case, {"case": str}, choices={"case": tuple(CASES)}),
    "bullets": Kind(_bullets, {}, BOUNDS, fault=bounds_fault),
    "json": Kind(_json, {}, {"keys": list}),
    "sections": Kind(_sections, {"marker": str}, BOUNDS, fault=bounds_fault),
    "forbidden": Kind(_forbidden, {"words": list}),
    "frequency": Kind(_frequency, {"word": str}, BOUNDS, fault=bounds_fault),
    "language": Kind(_language, {"script": str}, choices={"script": tuple(SCRIPTS)}),
    "order": Kind(_order, {"words": list}, fault=_order_fault),
    "repeat": Kind(_repeat, {"text": str}),
}
