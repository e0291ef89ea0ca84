"""Patterns: texts that name mixers with their options, such as "attention", "swa:64" or "s4d:init=inv,state=32".

A value without a name sets the first option. Errors for unknown names and options suggest the nearest known one. A pattern
lists mixers separated by commas, as in "attention*1,gdn*3", where `*N` repeats a mixer N times.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from limbeck.errors import BadModel
from limbeck.models.mixers.mixer import Dims, Mixer, Option
from limbeck.models.mixers.named import MIXERS

_MOST = 1_000  # largest N in *N; no decoder has more layers


def pattern_of(text: str) -> list[str]:
    """The mixers of a pattern, one text a layer. Raises BadModel for unknown mixers, options or repeats.

    A piece between commas such as "state=32" is an option of the mixer before it.
    """
    pieces: list[str] = []
    for piece in (part.strip() for part in text.split(",")):
        if pieces and ":" in pieces[-1] and "=" in piece.partition(":")[0]:
            pieces[-1] += f",{piece}"
        else:
            pieces.append(piece)
    found: list[str] = []
    for piece in pieces:
        mixer, star, times = piece.rpartition("*")
        if star and not (times.isdecimal() and 1 <= int(times) <= _MOST):
            raise BadModel(f"{piece!r}: expected a whole number from 1 to {_MOST} behind *, as in gdn*3, got {times!r}")
        mixer = mixer if star else piece
        parse(mixer)
        found += [mixer] * (int(times) if star else 1)
    return found


def build(text: str, dims: Dims) -> Mixer:
    """Builds the mixer that a text such as "swa:64" names. Raises BadModel for an unknown name, option or value."""
    name, options = parse(text)
    return MIXERS[name](dims, **options)


def parse(text: str) -> tuple[str, dict[str, Option]]:
    """The name and all options of a mixer, with defaults for options not given. Raises BadModel for unknown ones."""
    name, _, given = text.partition(":")
    if name not in MIXERS:
        raise BadModel(
            f"{text!r}: there is no mixer {name!r}{_nearest(name, MIXERS)}; there are {', '.join(MIXERS)}. One of a package is "
            "there once that package is installed"
        )
    allowed = MIXERS[name].OPTIONS
    options = {key: value[0] if isinstance(value, tuple) else value for key, value in allowed.items()}
    if not given:
        return name, options
    for place, part in enumerate(given.split(",")):
        key, equals, value = part.partition("=")
        if not equals and place:
            raise BadModel(f"{text!r}: expected OPTION=VALUE behind the first comma, got {part!r}")
        if not equals:
            key, value = next(iter(allowed), ""), part
        if key not in allowed:
            takes = f"it takes {', '.join(allowed)}" if allowed else "it takes none"
            raise BadModel(f"{text!r}: the mixer {name} has no option {key!r}{_nearest(key, allowed)}; {takes}")
        options[key] = _value(text, key, value, allowed[key])
    return name, options


def _value(text: str, key: str, value: str, allowed: Option | tuple[str, ...]) -> Option:
    if isinstance(allowed, tuple):
        if value not in allowed:
            raise BadModel(
                f"{text!r}: expected {key} to be {' or '.join(allowed)}, got {value!r}{_nearest(value, allowed)}"
            )
        return value
    if isinstance(allowed, bool):
        if value not in ("true", "false"):
            raise BadModel(f"{text!r}: expected {key} to be true or false, got {value!r}")
        return value == "true"
    if not value.isdecimal() or int(value) == 0:
        raise BadModel(f"{text!r}: expected {key} to be a whole number above 0, got {value!r}")
    return int(value)


def _nearest(word: str, known: Iterable[str]) -> str:
    found = get_close_matches(word, list(known), n=1, cutoff=0.4)
    return f", the nearest is {found[0]!r}" if found else ""
