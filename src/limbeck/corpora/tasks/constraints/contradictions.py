"""Pairs of constraints that no answer can follow both.

What a constraint asks of every answer that follows it is written down as `Facts`, and two constraints are compared by theirs. A
pair that is found is impossible; not every impossible pair is found, and none of three constraints that are possible two by two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from limbeck.corpora.tasks.constraints.measures import (
    CASED,
    begins,
    count_text,
    count_word,
    count_words,
    ends,
    letters_of,
    plain,
    strangers,
)

Key = tuple[str, ...]  # of a count: what is counted, and of which text
_FEWER = {  # what there can be no more of than of others
    "sentences": ("words",),
    "paragraphs": ("sentences", "words"),
    "bullets": ("sentences", "words"),
    "headings": ("words",),
}
_HOLDS = {("sentences", "words")}  # what has one of others, several of which may have the same: "好。好。" is one word
_OPENS, _CLOSES = "{[`", "}]`"  # JSON, or a fence around it


@dataclass(frozen=True)
class Text:
    """A text that occurs at least ``times``; ``whole``: not within longer words."""

    text: str
    times: int = 1
    whole: bool = True


@dataclass(frozen=True)
class Facts:
    """What is true of every answer that follows a constraint: bounds of counts, texts, its ends, case and script.

    ``json``: it is a JSON object or list.
    """

    counts: Mapping[Key, tuple[float, float]] = field(default_factory=dict)
    texts: tuple[Text, ...] = ()
    begin: str = ""
    end: str = ""
    case: str = ""
    script: str = ""
    json: bool = False


def contradiction(kind: str, arguments: Mapping[str, Any], other: str, others: Mapping[str, Any]) -> str:
    """Why no answer can follow two constraints, given by their kinds and arguments; "" where none is known."""
    one, two = _facts(kind, arguments), _facts(other, others)
    return next(filter(None, (*_reasons(one, two), *_reasons(two, one))), "")


def _facts(kind: str, arguments: Mapping[str, Any]) -> Facts:
    return _FACTS[kind](**arguments) if kind in _FACTS else Facts()


def _reasons(one: Facts, two: Facts) -> Iterator[str]:
    """Why an answer with the first facts cannot have the second, "" where it can."""
    yield from (_apart(key, least, two) for key, (least, _) in one.counts.items())
    yield from (_too_often(text, two) for text in one.texts)
    if one.begin and two.begin and not begins(one.begin, two.begin) and not begins(two.begin, one.begin):
        yield f"since an answer cannot begin with both {one.begin!r} and {two.begin!r}"
    if one.end and two.end and not ends(one.end, two.end) and not ends(two.end, one.end):
        yield f"since an answer cannot end with both {one.end!r} and {two.end!r}"
    if one.case and two.case and one.case != two.case:
        yield "since a letter is of one case"
    if one.script and two.case and one.script not in CASED:
        yield f"since letters of the script {one.script} have no case"
    if one.script and two.script and one.script != two.script:
        yield "since a letter is of one script"
    if one.json:
        yield _not_json(two)


def _apart(key: Key, least: float, two: Facts) -> str:
    """A count that is at least so large, and at most smaller; also where what it counts is part of something rarer."""
    for name in (key[0], *_FEWER.get(key[0], ())):
        bound = two.counts.get(key if name == key[0] else (name,), (0, inf))[1]
        needed = min(least, 1) if (key[0], name) in _HOLDS else least
        if needed > bound:
            return f"since {least:g} {_named(key)} are more than {bound:g} {_named((name, *key[1:]))}"
    return ""


def _too_often(text: Text, two: Facts) -> str:
    """A text that occurs, against bounds of what is in it and the script of its letters."""
    for key, (_, most) in two.counts.items():
        found = 0
        if key[0] == "text":
            found = text.times * count_text(text.text, key[1])
        elif text.whole and key[0] == "word":
            found = text.times * count_word(text.text, key[1])
        elif text.whole and key[0] == "words":
            found = count_words(text.text)
        if found > most:
            return f"since {text.text!r} has more than {most:g} {_named(key)}"
    if two.script and strangers(letters_of(text.text), two.script):
        return f"since {text.text!r} is not of the script {two.script}"
    return ""


def _not_json(two: Facts) -> str:
    if any(two.counts.get(key, (0, inf))[0] > 0 for key in two.counts if key[0] in ("bullets", "headings")):
        return "since JSON has no bullets and headings"
    if (two.begin and two.begin[0] not in _OPENS) or (two.end and two.end[-1] not in _CLOSES):
        return "since JSON begins and ends with brackets"
    return ""


def _named(key: Key) -> str:
    named = {"text": "times {!r}", "word": "times the word {!r}", "headings": "headings {!r}"}
    return named.get(key[0], key[0]).format(*key[1:])


def _within(at_least: int = 0, at_most: float = inf) -> tuple[float, float]:
    return at_least, at_most


def _related(relation: str, bound: int) -> tuple[float, float]:
    """The bounds of IFEval's relations."""
    return (0, bound - 1) if relation == "less than" else (bound, inf)


def _counted(text: str, bounds: tuple[float, float]) -> Facts:
    times = int(bounds[0])
    return Facts({("text", plain(text)): bounds}, (Text(text, times, whole=False),) if times else ())


def _frequency(word: str, **bounds: int) -> Facts:
    least, most = _within(**bounds)
    return Facts({("word", plain(word)): (least, most)}, (Text(word, int(least)),) if least else ())


def _sections(marker: str, **bounds: int) -> Facts:
    least, most = _within(**bounds)
    texts = (Text(marker, int(least), whole=False),) if least else ()
    return Facts({("headings", plain(marker)): (least, most)}, texts)


def _pieces(texts: list[str]) -> Facts:
    return Facts({("text", plain(text)): (0, 0) for text in texts})


def _no_words(words: list[str]) -> Facts:
    return Facts({("word", plain(word)): (0, 0) for word in words})


def _words(words: list[str]) -> Facts:
    return Facts({("word", plain(word)): (1, inf) for word in words}, tuple(map(Text, words)))


_FACTS: Mapping[str, Callable[..., Facts]] = {
    "length": lambda unit, **bounds: Facts({(unit,): _within(**bounds)}),
    "count": lambda text, **bounds: _counted(text, _within(**bounds)),
    "contains": _words,
    "lacks": lambda texts: _pieces(texts),
    "starts": lambda text: Facts(texts=(Text(text),), begin=plain(text)),
    "ends": lambda text: Facts(texts=(Text(text),), end=plain(text)),
    "case": lambda case: Facts(case=case),
    "bullets": lambda **bounds: Facts({("bullets",): _within(**bounds)}),
    "json": lambda keys=(): Facts(json=True),
    "sections": _sections,
    "forbidden": _no_words,
    "frequency": _frequency,
    "language": lambda script: Facts(script=script),
    "order": _words,
    "repeat": lambda text: Facts(texts=(Text(text),), begin=plain(text)),
    "change_case:english_capital": lambda: Facts(case="upper"),
    "change_case:english_lowercase": lambda: Facts(case="lower"),
    # IFEval finds keywords in longer words too; a prompt with one that is forbidden still contradicts itself
    "keywords:existence": lambda keywords: Facts(texts=tuple(map(Text, keywords))),
    "keywords:forbidden_words": lambda forbidden_words: _no_words(forbidden_words),
    "keywords:frequency": lambda keyword, relation, frequency: _counted(keyword, _related(relation, frequency)),
    "keywords:letter_frequency": lambda letter, let_relation, let_frequency: _counted(
        letter, _related(let_relation, let_frequency)
    ),
    "length_constraints:number_words": lambda num_words, relation: Facts(
        {("runs of letters",): _related(relation, num_words)}
    ),
    "punctuation:no_comma": lambda: _pieces([","]),
    "startend:end_checker": lambda end_phrase: Facts(texts=(Text(end_phrase),)),  # quotation marks may follow
    "startend:quotation": lambda: Facts(begin='"', end='"'),
}
