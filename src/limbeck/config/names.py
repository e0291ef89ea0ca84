"""The name that was probably meant: what other tools call it, else the nearest in letters."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


def nearest(name: str, names: Iterable[str]) -> str:
    """ "; did you mean X?" where there is a name near enough, else a full stop."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "."


def likely(name: str, known: Mapping[str, Iterable[str]]) -> str | None:
    """The key that was probably meant, of keys with what else each is called; None where none is near.

    Upper case, leading dashes and dashes inside a name make no difference.
    """
    plain = name.strip("-").replace("-", "_").lower()
    keys = {word: key for key, others in known.items() for word in (key, *others)}
    near = [plain] if plain in keys else difflib.get_close_matches(plain, keys, n=1, cutoff=0.7)
    return keys[near[0]] if near else None
