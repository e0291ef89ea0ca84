"""Reading a value out of real text: names with their values, as documents have them, and one name again after them.

An entry is a definition that some document has: a function or class of Python with the first words of its docstring, or the
subject of a sentence such as "Anarchism is a political philosophy" with what it is. What does not name a thing is no entry
(`corpora.tasks.names`), nor is one whose value repeats a word of its name, since the question has it. Rows show entries in one of
three forms:
*fields* are lines ``name: value``, *tables* lines ``| name | value |``, and *definitions* the text of the document itself. The
last line repeats the beginning of one of the entries, and its value, of three words, is the answer. It is recall in real text, as
in the tasks of Based (arXiv 2402.18668, sec. 5), with values that a program can take out of any text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from limbeck.corpora.tasks.names import has_content, names_a_definition, names_a_thing, share_a_word
from limbeck.corpora.tasks.spelled import Question

FORMS = ("fields", "definitions", "tables")
WORDS = 3  # of a value
_HEADS = {"tables": "| name | meaning |\n| --- | --- |\n"}  # what a row of a form begins with

_CODE = re.compile(
    r'^[ \t]*(?P<kind>def|class) (?P<name>\w+)(?P<given>\([^()\n]*\))?:\n\s+[rR]?"""(?P<said>[^\n"]+)', re.MULTILINE
)
_SENTENCE = re.compile(
    r"(?:^|(?<=[.!?])\s*)(?P<name>(?:The )?[A-Z][\w'’-]*(?: [\w'’-]+){0,3}?) (?P<verb>is|was|are|were) "
    r"(?P<said>(?:an?|the|one) [^.!?\n]+)[.!?]",
    re.MULTILINE,
)
_WORD = r"[^\W_][\w'’-]*"
_VALUE = re.compile(rf"{_WORD}(?: {_WORD}){{{WORDS - 1}}}(?=[\s,;:]|\.(?:\s|$)|$)")


@dataclass(frozen=True)
class Entry:
    """A name and its value. ``opening``: the text before the value in its document; ``rest``: what follows the value there.

    ``document`` is the number of that document, since entries of one are not independent of each other.
    """

    name: str
    value: str
    opening: str
    rest: str
    document: int = 0

    def shown(self, form: str) -> str:
        """The entry as a line of a row, or several."""
        return self.asked(form) + self.answer(form) + (" |" if form == "tables" else self.rest)

    def asked(self, form: str) -> str:
        """The beginning of the entry, up to its value."""
        return {"fields": f"{self.name}:", "tables": f"| {self.name} |", "definitions": self.opening}[form]

    def answer(self, form: str) -> str:
        """The value as it follows, with a space where one is between."""
        return self.value if form == "definitions" and self.opening.endswith('"""') else f" {self.value}"


def entries_of(texts: Iterable[str]) -> list[Entry]:
    """The entries of documents in their order, each name and each value once, the first of them."""
    found: list[Entry] = []
    names, values = set[str](), set[str]()
    for document, text in enumerate(texts):
        for name, said, opening in _definitions(text):
            value = _value_of(said, name)
            if value is not None and name.casefold() not in names and value.casefold() not in values:
                found.append(Entry(name, value, opening, said[len(value) :], document))
                names.add(name.casefold())
                values.add(value.casefold())
    return found


def _definitions(text: str) -> Iterator[tuple[str, str, str]]:
    """(name, what it is, the text before that) of all definitions of a document whose name is one: of code, then of prose."""
    for pattern, is_name, opening in ((_CODE, names_a_definition, _of_code), (_SENTENCE, names_a_thing, _of_sentence)):
        for match in pattern.finditer(text):
            if is_name(match["name"]):
                yield match["name"], match["said"].strip(), opening(match)


def _value_of(said: str, name: str) -> str | None:
    """The first words of what is said of a name, if they are words with content, and none of them is in the name."""
    words = _VALUE.match(said)
    return words[0] if words and has_content(words[0]) and not share_a_word(words[0], name) else None


def _of_code(match: re.Match[str]) -> str:
    return f'{match["kind"]} {match["name"]}{match["given"] or ""}:\n    """'


def _of_sentence(match: re.Match[str]) -> str:
    return f"{match['name']} {match['verb']}"


@dataclass(frozen=True)
class Row:
    """A row as a question, and the same without the asked entry, which alone has the answer.

    ``entries``: how many the whole row shows; ``document``: that of the asked one.
    """

    question: Question
    without: Question
    entries: int
    document: int


def sample_rows(
    entries: Sequence[Entry],
    form: str,
    tokens_of: Callable[[str], int],
    *,
    length: int,
    rows: int,
    generator: np.random.Generator,
) -> list[Row]:
    """Rows of a form of at most ``length`` tokens with their answers, each of as many random entries as fit.

    ``tokens_of`` counts the tokens of a text. The asked entry is any of a row's, all equally likely. Rows with fewer than two
    entries are left out, and those in which another entry has the answer too, so there may be fewer rows, or none.
    """
    found = []
    for _ in range(rows):
        shown = _fitting([entries[i] for i in generator.permutation(len(entries))], form, tokens_of, length)
        if len(shown) >= 2:
            asked = int(generator.integers(len(shown)))
            whole, less = (question(some, form, shown[asked]) for some in (shown, shown[:asked] + shown[asked + 1 :]))
            if shown[asked].value.casefold() not in less.prompt.casefold():
                found.append(Row(whole, less, len(shown), shown[asked].document))
    return found


def question(shown: Sequence[Entry], form: str, asked: Entry) -> Question:
    """A row that shows entries and then asks for one."""
    lines = "".join(f"{entry.shown(form)}\n" for entry in shown)
    return Question(f"{_HEADS.get(form, '')}{lines}{asked.asked(form)}", asked.answer(form))


def _fitting(order: Sequence[Entry], form: str, tokens_of: Callable[[str], int], length: int) -> list[Entry]:
    """The first entries, as many as leave room for the longest question about one of them."""
    shown: list[Entry] = []
    used, longest = tokens_of(_HEADS.get(form, "")), 0
    for entry in order:
        used += tokens_of(f"{entry.shown(form)}\n")
        longest = max(longest, tokens_of(entry.asked(form) + entry.answer(form)))
        if used + longest + 2 > length:  # 2: the token that opens a document, and one that tokenizing in parts may save
            break
        shown.append(entry)
    return shown
