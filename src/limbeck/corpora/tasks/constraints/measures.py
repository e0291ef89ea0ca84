"""What is counted and found in an answer: words, sentences, paragraphs, bullets, numbered headings, texts and scripts.

Nothing here is trained, so sentences follow a rule: they end at . ! ? or … before white space, at 。！？, at blank lines and at
bullets, and not after a few abbreviations, initials and the numbers of a list. Texts are compared without case, in Unicode's form
NFC, and with any white space as one space.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_BULLET = re.compile(r"[ \t]*[-*+•][ \t]+(.*)")
_END = re.compile(r"[。！？]+[”’」』）]*|[.!?…]+[\"'”’»)\]*_]*(?=\s|$)")
_BEFORE_A_POINT = re.compile(r"\S*$")
_ABBREVIATIONS = frozenset({"mr", "mrs", "ms", "dr", "prof", "st", "vs", "cf", "e.g", "i.e"})
_FENCES = ("```json", "```Json", "```JSON", "```")
_JAPANESE = "japanese"
_KANA = ("HIRAGANA", "KATAKANA")

SCRIPTS = {  # how Unicode's names of letters begin
    **{
        name: (name.upper(),)
        for name in (
            *("arabic", "armenian", "bengali", "cyrillic", "devanagari", "georgian", "greek", "gujarati", "gurmukhi"),
            *("hangul", "hebrew", "kannada", "latin", "malayalam", "tamil", "telugu", "thai"),
        )
    },
    "han": ("CJK", "IDEOGRAPHIC"),
    _JAPANESE: (*_KANA, "CJK", "IDEOGRAPHIC"),
}
CASED = frozenset({"armenian", "cyrillic", "georgian", "greek", "latin"})  # scripts with capitals


def plain(text: str) -> str:
    """A text as it is compared: NFC, without case, with single spaces and none around it."""
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold()).split())


def count_words(text: str) -> int:
    """The number of runs between white space that have a letter or a digit: "it's" and "well-known" are one each."""
    return sum(map(_says, text.split()))


def count_sentences(text: str) -> int:
    """The number of sentences that have a letter or a digit."""
    return sum(_says(part) for block in _blocks(text) for part in _sentences(block))


def count_paragraphs(text: str) -> int:
    """The number of parts between blank lines that have a letter or a digit."""
    return sum(map(_says, re.split(r"\n[^\S\n]*\n", text)))


def count_bullets(text: str) -> int:
    """The number of lines that begin with -, *, + or •, a space and then something with a letter or a digit."""
    return sum(map(_is_bullet, text.split("\n")))


def heading_numbers(text: str, marker: str) -> list[int]:
    """The numbers after a marker at the beginning of lines, as 1 of "Section 1: ..." or "## Section 1"."""
    heading = re.compile(rf"(?:#+ ?)?[*_]{{0,3}}{re.escape(plain(marker))} (\d{{1,6}})(?!\w)")
    found = (heading.match(plain(line)) for line in text.split("\n"))
    return [int(one[1]) for one in found if one]


def count_text(text: str, piece: str) -> int:
    """How often a piece of text occurs, also within words, without overlaps."""
    return plain(text).count(plain(piece))


def count_word(text: str, word: str) -> int:
    """How often a word or a phrase occurs, not within a longer word."""
    return sum(1 for _ in _places(plain(text), plain(word)))


def first_place(text: str, word: str) -> int | None:
    """Where a word or a phrase occurs first, in characters of the plain text; None where it does not."""
    return next(_places(plain(text), plain(word)), None)


def begins(text: str, phrase: str) -> bool:
    """Whether a text begins with a phrase, which does not end within a word."""
    whole, part = plain(text), plain(phrase)
    return whole.startswith(part) and not _within(whole, len(part))


def ends(text: str, phrase: str) -> bool:
    """Whether a text ends with a phrase, which does not begin within a word."""
    whole, part = plain(text), plain(phrase)
    return whole.endswith(part) and not _within(whole, len(whole) - len(part))


def rest_after(text: str, phrase: str) -> str:
    """The plain text after a phrase that it begins with."""
    return plain(text)[len(plain(phrase)) :]


def letters_of(text: str) -> set[str]:
    """The letters that occur in a text, without variants such as those of full width."""
    return {letter for letter in unicodedata.normalize("NFKC", text) if letter.isalpha()}


def is_of_script(letters: set[str], script: str) -> bool:
    """Whether letters are all of one script, of which there is one at least; of Japanese, one is kana."""
    if script == _JAPANESE and not any(unicodedata.name(letter, "").startswith(_KANA) for letter in letters):
        return False
    return bool(letters) and not strangers(letters, script)


def strangers(letters: set[str], script: str) -> set[str]:
    """The letters that are not of a script."""
    return {letter for letter in letters if not unicodedata.name(letter, "").startswith(SCRIPTS[script])}


def unfenced(text: str) -> str:
    """A text without the fence of code that it stands in, if it does."""
    text = text.strip()
    for fence in _FENCES:
        text = text.removeprefix(fence)
    return text.removesuffix("```").strip()


def _says(text: str) -> bool:
    return any(map(str.isalnum, text))


def _is_bullet(line: str) -> bool:
    found = _BULLET.match(line)
    return found is not None and _says(found[1])


def _blocks(text: str) -> Iterator[str]:
    """The parts between blank lines, and the bullets of each."""
    for part in re.split(r"\n[^\S\n]*\n", text):
        lines: list[str] = []
        for line in part.split("\n"):
            if _is_bullet(line):
                yield "\n".join(lines)
                lines = []
            lines.append(line)
        yield "\n".join(lines)


def _sentences(block: str) -> Iterator[str]:
    start = 0
    for end in _END.finditer(block):
        if end[0] == "." and _goes_on(block, end.start()):
            continue
        yield block[start : end.end()]
        start = end.end()
    yield block[start:]


def _goes_on(block: str, place: int) -> bool:
    """Whether a sentence goes on after a point: of an abbreviation, an initial, or the number of a list."""
    line = block.rfind("\n", 0, place) + 1
    start = max(line, place - 20)
    found = _BEFORE_A_POINT.search(block, start, place)
    word = "" if found is None else found[0].lstrip("(\"'“‘[")
    if word.isdecimal() and not block[line : place - len(word)].strip(" \t-*+•"):
        return True
    return word.lower() in _ABBREVIATIONS or (len(word) == 1 and word.isupper() and word != "I")


def _places(text: str, word: str) -> Iterator[int]:
    """Where a word occurs in a plain text, without overlaps."""
    place = text.find(word) if word else -1
    while place >= 0:
        end = place + len(word)
        whole = not _within(text, place) and not _within(text, end)
        if whole:
            yield place
        place = text.find(word, end if whole else place + 1)


def _within(text: str, place: int) -> bool:
    """Whether a place is between two characters of one word."""
    return 0 < place < len(text) and _of_word(text[place - 1]) and _of_word(text[place])


def _of_word(letter: str) -> bool:
    return letter.isalnum() or letter == "_" or unicodedata.category(letter).startswith("M")
