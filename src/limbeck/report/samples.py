"""Rows of samples.json as a report shows them: each continuation begins with a whole word."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_LONGEST = 30  # characters of a word that is moved; in text without spaces a "word" is a sentence
_BLANK = re.compile(r"\n{3,}")
_NOT_GENERATED = ("document", "prompt")


def in_whole_words(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows, with the prompt's last word moved to its continuations if one of them continues within it.

    Prompts end after a number of tokens, often within a word: "wanted to ma" and "ke a box" become "wanted to" and "make a box".
    """
    return [{key: _BLANK.sub(_counted, text) for key, text in _whole(row).items()} for row in rows]


def _counted(blank: re.Match[str]) -> str:
    """Many line breaks as their number: a model that generates nothing else would fill the page."""
    return f" ⏎×{len(blank[0])} "


def _whole(row: Mapping[str, Any]) -> dict[str, Any]:
    texts = {key: text for key, text in row.items() if key not in _NOT_GENERATED}
    split = re.fullmatch(r"(.*\S)\s+(\S+)", row["prompt"], re.DOTALL)
    within = any(text[:1].isalnum() for text in texts.values())
    if not within or split is None or len(split[2]) > _LONGEST:
        return dict(row)
    return {**row, "prompt": split[1], **{key: split[2] + text for key, text in texts.items()}}
