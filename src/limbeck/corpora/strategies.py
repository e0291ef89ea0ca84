"""How a teacher is told to answer each kind of task, from a TOML file (Orca 2, arXiv 2311.11045, sec. 3).

    direct = "Answer with a single word."

    [steps]
    system = "Work it out step by step, then give the number behind ####."
    pattern = '####\\s*-?\\d+\\s*$'

A strategy has the system message that the teacher reads, and may have a regular expression that answers in its style match.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import Any

from limbeck.errors import BadCorpus

_KEYS = ("system", "pattern")


@dataclass(frozen=True)
class Strategy:
    """The ``system`` message of a strategy, "" for none, and the ``pattern`` of its answers, None for any answer."""

    system: str = ""
    pattern: str | None = None

    def fits(self, answer: str) -> bool:
        """Whether the pattern is found in an answer; True without a pattern."""
        return self.pattern is None or re.search(self.pattern, answer) is not None


NO_STRATEGY = Strategy()


def strategies_of(text: str, given: str) -> dict[str, Strategy]:
    """The strategies of a TOML text, by their names. ``given``: what names the file in errors. Raises BadCorpus."""
    try:
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadCorpus(f'{given}: expected TOML with lines such as math = "Think first.": {error}') from error
    if not found:
        raise _unlike(given, "none")
    return {name: _strategy(name, value, given) for name, value in found.items()}


def _strategy(name: str, value: Any, given: str) -> Strategy:
    if not isinstance(value, dict):
        value = {"system": value}
    system, pattern = value.get("system"), value.get("pattern")
    if not isinstance(system, str) or not system.strip():
        raise _unlike(given, f"{name} = {system!r}")
    if unknown := sorted(value.keys() - set(_KEYS)):
        raise BadCorpus(
            f"{given}: expected 'system' and 'pattern' of the strategy {name}, got {unknown[0]!r}: leave it out"
        )
    if pattern is not None:
        try:
            re.compile(pattern)
        except (re.error, TypeError, RecursionError, OverflowError) as error:
            raise BadCorpus(
                f"{given}: expected a regular expression as the pattern of {name}, got {pattern!r}: {error}"
            ) from error
    return Strategy(system.strip(), pattern)


def _unlike(given: str, got: str) -> BadCorpus:
    return BadCorpus(
        f'{given}: expected a message for each strategy, in lines such as math = "Think first.", got {got}'
    )
