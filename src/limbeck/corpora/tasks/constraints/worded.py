"""What a prompt says of each constraint, in English."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from limbeck.corpora.tasks.constraints.constraint import Constraint

_LETTERS = {"lower": "small", "upper": "capital"}
_MARKS = {",": "commas", "!": "exclamation marks", "?": "question marks"}


def worded(constraint: Constraint) -> str:
    """A sentence that asks for a constraint of one of limbeck's families."""
    return _WORDED[constraint.kind](**constraint.arguments)


def _number(one: str, several: str, at_least: int = 0, at_most: int | None = None) -> str:
    """Bounds with what is counted: "at least 3 words"."""
    last = at_least if at_most is None else at_most
    noun = one if last == 1 else several
    if at_most is None:
        return f"at least {at_least} {noun}"
    if at_most == at_least:
        return f"exactly {at_most} {noun}"
    return f"between {at_least} and {at_most} {noun}" if at_least else f"at most {at_most} {noun}"


def _times(**bounds: int) -> str:
    """Bounds of how often: "at least once"."""
    found = _number("time", "times", **bounds)
    return found.removesuffix("1 time") + "once" if found.endswith(" 1 time") else found


def _listed(texts: Sequence[str], last: str = "and") -> str:
    quoted = [f'"{text}"' for text in texts]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} {last} {quoted[-1]}"


def _word(words: Sequence[str]) -> str:
    return "word" if len(words) == 1 else "words"


def _named(text: str) -> str:
    if text in _MARKS:
        return _MARKS[text]
    return f'the letter "{text}"' if len(text) == 1 and text.isalpha() else f'"{text}"'


def _sections(marker: str, **bounds: int) -> str:
    heads = f'each under a heading on a line of its own: "{marker} 1", "{marker} 2" and so on'
    return f"Divide it into {_number('section', 'sections', **bounds)}, {heads}."


def _json(keys: Sequence[str] = ()) -> str:
    if not keys:
        return "The whole answer is valid JSON, an object or a list."
    return f"The whole answer is one valid JSON object with the {'key' if len(keys) == 1 else 'keys'} {_listed(keys)}."


_WORDED: Mapping[str, Callable[..., str]] = {
    "length": lambda unit, **bounds: (
        f"Use {_number(unit[:-1], unit, **bounds)}"
        + (", with a blank line between them." if unit == "paragraphs" else ".")
    ),
    "count": lambda text, **bounds: f"Use {_named(text)} {_times(**bounds)} in all.",
    "contains": lambda words: f"Use the {_word(words)} {_listed(words)}.",
    "lacks": lambda texts: f"Do not use {' or '.join(map(_named, texts))} anywhere.",
    "starts": lambda text: f'Begin with the words "{text}".',
    "ends": lambda text: f'End with exactly "{text}"',
    "case": lambda case: f"Write everything in {_LETTERS[case]} letters.",
    "bullets": lambda **bounds: (
        f'Give {_number("bullet point", "bullet points", **bounds)}, each a line that begins with "- ".'
    ),
    "json": _json,
    "sections": _sections,
    "forbidden": lambda words: f"Do not use the {_word(words)} {_listed(words, 'or')}.",
    "frequency": lambda word, **bounds: f'Use the word "{word}" {_times(**bounds)}.',
    "language": lambda script: f"Use letters of the {script.capitalize()} script only.",
    "order": lambda words: f"Mention {_listed(words)}, for the first time in this order.",
    "repeat": lambda text: f'First repeat "{text}" word for word, then answer it.',
}
