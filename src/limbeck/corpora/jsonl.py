"""Reads JSON of other programs: one record a line, or a list of records. Datasets, tasks and facts use it.

A record is one object. Only line feeds end a line, no other Unicode character; a byte order mark is ignored. Values that Python
cannot represent, or that readers interpret differently, become an `Unreadable`, which no check accepts as a text, list or
object. The rest of the record stays usable, so a faulty field that is not needed causes no error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from limbeck.corpora.streams import BOM, File, lines_of, whole_text
from limbeck.errors import BadRecord

DEPTH = 100  # the largest depth of nested lists and objects that is read
_DIGITS = 4300  # Python's own bound for a number written out
_SHOWN = 60  # characters of a record in a message
_STRUCTURE = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},:]', re.DOTALL)


@dataclass(frozen=True)
class Unreadable:
    """A value that cannot be read; ``reason`` describes it."""

    reason: str


Record = dict[str, Any]


def records_of(path: File) -> Iterator[tuple[int, Record | BadRecord]]:
    """(line number from 1, record) for each line of a JSON-lines file. A faulty line gives a BadRecord instead of a record.

    Blank lines are ignored, but counted in line numbers. Raises BadCorpus where the file cannot be read.
    """
    for number, line in lines_of(path):
        if isinstance(line, BadRecord):
            yield number, line
        elif line.strip():
            yield number, parsed(line, where=f"{path}:{number}")


def records_of_json(path: File) -> Iterator[tuple[int, Record | BadRecord]]:
    """(number from 1, record) for each record of a file that is a list of objects, one object, or JSON lines.

    A list is read into memory. Raises BadCorpus where the file cannot be read or is too long.
    """
    for _, line in lines_of(path):
        if isinstance(line, BadRecord) or not line.strip():
            continue
        if line.lstrip().startswith("{") and isinstance(parsed(line, where=""), dict):
            yield from records_of(path)
            return
        break
    text = whole_text(path).removeprefix(BOM).strip()
    if not text.startswith("["):
        record = parsed(text, where=str(path))
        lines = text.split("\n", 2)
        second = lines[1] if len(lines) > 1 else ""  # of JSON lines an object, which is not indented
        if isinstance(record, BadRecord) and second.startswith("{") and isinstance(parsed(second, where=""), dict):
            yield from records_of(path)  # of which the first is faulty
            return
        yield 1, record
        return
    for number, element in enumerate(_elements(text), 1):
        yield number, parsed(element, where=f"{path}, record {number}")


def parsed(text: str, *, where: str) -> Record | BadRecord:
    """The object in a text, or a BadRecord. ``where`` locates the text in the message."""
    try:
        record = json.loads(_shallow(text), object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        return BadRecord(
            f"{where}: expected one JSON object, got {text.strip()[:_SHOWN]!r} ({reason}): repair or remove it"
        )
    if not isinstance(record, dict):
        return BadRecord(f"{where}: expected one JSON object, got {text.strip()[:_SHOWN]!r}: repair or remove it")
    return _without_marks(record)


def _object(pairs: list[tuple[str, Any]]) -> Record:
    found = dict(pairs)
    if len(found) < len(pairs):  # readers differ in which of the two they take
        keys = [key for key, _ in pairs]
        found |= {key: Unreadable("a key that occurs twice") for key in found if keys.count(key) > 1}
    return found


def _integer(digits: str) -> int | Unreadable:
    return int(digits) if len(digits) <= _DIGITS else Unreadable(f"a number of {len(digits):,} digits")


def _constant(name: str) -> Unreadable:
    return Unreadable(f"{name}, which is not JSON")


_MARK = "limbeck: too deep \x00"


def _without_marks(record: Record) -> Record:
    deep = Unreadable(f"a value nested more than {DEPTH} deep")
    return {key: deep if value == _MARK else value for key, value in record.items()}


def _shallow(text: str) -> str:
    """The text of a record with a mark in place of values nested too deep; nearly always the same text."""
    if text.count("[") + text.count("{") <= DEPTH:
        return text
    spans: list[tuple[int, int]] = []
    depth = start = 0
    deep = False
    for found in _STRUCTURE.finditer(text):
        sign = found[0]
        if sign in "[{":
            depth += 1
            if depth == 2:
                start, deep = found.start(), False
            deep |= depth > DEPTH
        elif sign in "]}":
            depth -= 1
            if depth == 1 and deep:
                spans.append((start, found.end()))
    if depth > DEPTH:
        raise ValueError(f"lists or objects nested more than {DEPTH} deep that do not end")
    for first, last in reversed(spans):
        text = text[:first] + json.dumps(_MARK) + text[last:]
    return text


def _elements(text: str) -> Iterator[str]:
    """The texts of a list's elements. Text after the list is one more, so that a message names it."""
    depth, start = 0, 1
    for found in _STRUCTURE.finditer(text):
        sign = found[0]
        depth += (sign in "[{") - (sign in "]}")
        if (sign == "," and depth == 1) or depth == 0:
            element = text[start : found.start()].strip()
            if element or sign == ",":
                yield element
            start = found.end()
        if depth == 0:
            break
    if rest := text[start:].strip():
        yield rest
