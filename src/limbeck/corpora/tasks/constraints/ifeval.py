"""The kinds of constraints of IFEval that a program can check, with its names and arguments (arXiv 2311.07911, app. A).

Three kinds of IFEval need something trained, and are named in `TRAINED`: the language of an answer, its sentences, and its words
as a tokenizer for English splits them. Two differ a little: all capitals and all lower case do not ask besides that the text is
recognised as English. Keywords are taken literally, not as regular expressions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from limbeck.corpora.tasks.constraints.kind import Kind
from limbeck.corpora.tasks.constraints.measures import unfenced

RELATIONS = ("less than", "at least")
TRAINED = {
    "language:response_language": "a language detector",
    "length_constraints:number_sentences": "a sentence splitter",
    "change_case:capital_word_frequency": "a word tokenizer",
}

_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_POSTSCRIPTS = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}  # of a text in lower case
_MARKS = frozenset(".,?!'\"")


def _compared(count: int, relation: str, bound: int) -> bool:
    return count < bound if relation == "less than" else count >= bound


def _occurrences(word: str, answer: str) -> int:
    return len(re.findall(re.escape(word.strip()), answer, flags=re.IGNORECASE))


def _words(answer: str, num_words: int, relation: str) -> bool:
    return _compared(len(re.findall(r"\w+", answer)), relation, num_words)


def _keyword(answer: str, keyword: str, relation: str, frequency: int) -> bool:
    return _compared(_occurrences(keyword, answer), relation, frequency)


def _letter(answer: str, letter: str, let_relation: str, let_frequency: int) -> bool:
    return _compared(answer.lower().count(letter.strip().lower()), let_relation, let_frequency)


def _keywords(answer: str, keywords: list[str]) -> bool:
    return all(re.search(re.escape(word), answer, flags=re.IGNORECASE) for word in keywords)


def _forbidden(answer: str, forbidden_words: list[str]) -> bool:
    return not any(re.search(rf"\b{re.escape(word)}\b", answer, flags=re.IGNORECASE) for word in forbidden_words)


def _placeholders(answer: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", answer)) >= num_placeholders


def _bullets(answer: str, num_bullets: int) -> bool:
    stars, dashes = r"^\s*\*[^\*].*$", r"^\s*-.*$"
    return sum(len(re.findall(pattern, answer, flags=re.MULTILINE)) for pattern in (stars, dashes)) == num_bullets


def _highlights(answer: str, num_highlights: int) -> bool:
    """Something in **two asterisks** counts twice where there is no third, as in IFEval."""
    single = [text.strip("*") for text in re.findall(r"\*[^\n\*]*\*", answer)]
    double = [text[2:-2] for text in re.findall(r"\*\*[^\n\*]*\*\*", answer)]
    return sum(bool(text.strip()) for text in single + double) >= num_highlights


def _sections(answer: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", answer)) >= num_sections


def _paragraphs(answer: str, num_paragraphs: int) -> bool:
    """Parts between ``***``, none of which is blank but the first and the last, which then do not count."""
    parts = [bool(part.strip()) for part in re.split(r"\s?\*\*\*\s?", answer)]
    return all(parts[1:-1]) and sum(parts) == num_paragraphs


def _first_word(answer: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Parts between blank lines, and the word that one begins with; blank parts do not count, but are numbered."""
    parts = answer.split("\n\n")
    if sum(bool(part.strip()) for part in parts) != num_paragraphs or nth_paragraph > num_paragraphs:
        return False
    words = parts[nth_paragraph - 1].split()
    if not words:
        return False
    word = words[0].lstrip("'").lstrip('"')
    end = next((place for place, letter in enumerate(word) if letter in _MARKS), len(word))
    return word[:end].lower() == first_word.lower()


def _postscript(answer: str, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    return re.search(_POSTSCRIPTS.get(marker, re.escape(marker.lower())), answer.lower()) is not None


def _title(answer: str) -> bool:
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", answer))


def _json(answer: str) -> bool:
    try:
        json.loads(unfenced(answer))
    except (ValueError, RecursionError):
        return False
    return True


def _quoted(answer: str) -> bool:
    text = answer.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def _ends(answer: str, end_phrase: str) -> bool:
    return answer.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _repeats(answer: str, prompt_to_repeat: str) -> bool:
    return answer.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _two(answer: str) -> bool:
    """Two different parts with six asterisks between them; only the first and the last part may be blank."""
    parts = [part.strip() for part in answer.split("******")]
    return all(parts[1:-1]) and len(found := [part for part in parts if part]) == 2 and found[0] != found[1]


IFEVAL: Mapping[str, Kind] = {
    "change_case:english_capital": Kind(str.isupper),
    "change_case:english_lowercase": Kind(str.islower),
    "combination:repeat_prompt": Kind(_repeats, {"prompt_to_repeat": str}),
    "combination:two_responses": Kind(_two),
    "detectable_content:number_placeholders": Kind(_placeholders, {"num_placeholders": int}),
    "detectable_content:postscript": Kind(_postscript, {"postscript_marker": str}),
    "detectable_format:constrained_response": Kind(lambda answer: any(option in answer for option in _OPTIONS)),
    "detectable_format:json_format": Kind(_json),
    "detectable_format:multiple_sections": Kind(_sections, {"section_spliter": str, "num_sections": int}),
    "detectable_format:number_bullet_lists": Kind(_bullets, {"num_bullets": int}),
    "detectable_format:number_highlighted_sections": Kind(_highlights, {"num_highlights": int}),
    "detectable_format:title": Kind(_title),
    "keywords:existence": Kind(_keywords, {"keywords": list}),
    "keywords:forbidden_words": Kind(_forbidden, {"forbidden_words": list}),
    "keywords:frequency": Kind(
        _keyword, {"keyword": str, "relation": str, "frequency": int}, choices={"relation": RELATIONS}
    ),
    "keywords:letter_frequency": Kind(
        _letter, {"letter": str, "let_relation": str, "let_frequency": int}, choices={"let_relation": RELATIONS}
    ),
    "length_constraints:nth_paragraph_first_word": Kind(
        _first_word, {"num_paragraphs": int, "nth_paragraph": int, "first_word": str}
    ),
    "length_constraints:number_paragraphs": Kind(_paragraphs, {"num_paragraphs": int}),
    "length_constraints:number_words": Kind(
        _words, {"num_words": int, "relation": str}, choices={"relation": RELATIONS}
    ),
    "punctuation:no_comma": Kind(lambda answer: "," not in answer),
    "startend:end_checker": Kind(_ends, {"end_phrase": str}),
    "startend:quotation": Kind(_quoted),
}
