"""The system messages that a teacher reads before conversations, and that the kept text does not have (prompt erasure).

One for all, or one for each strategy, which a field of the record names (Orca 2, arXiv 2311.11045, sec. 3: the teacher is told
how to answer a kind of task, the student only sees the answer).
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from limbeck.config import CaptureSettings
from limbeck.corpora import Prompt
from limbeck.corpora.prompt import under
from limbeck.corpora.records import STRATEGY
from limbeck.errors import BadCorpus, BadSetting


@dataclass(frozen=True)
class Systems:
    """``whole`` is the message before each prompt, or the messages by strategy; "" and none: there are none."""

    whole: str = ""
    by_strategy: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.whole or self.by_strategy)

    @property
    def facts(self) -> dict[str, object]:
        """The messages, for a run's signature; nothing for none."""
        if self.by_strategy:
            return {"system": dict(self.by_strategy)}
        return {"system": self.whole} if self.whole else {}

    def of(self, prompt: Prompt) -> str:
        """The message before a prompt that `before` has looked at, "" for none."""
        return dict(self.by_strategy)[prompt.document.strategy] if self.by_strategy else self.whole

    def beside(self, prompt: Prompt) -> dict[str, str]:
        """What a kept record has beside its text: the name of the strategy, where there are several."""
        return {STRATEGY: prompt.document.strategy} if self.by_strategy else {}

    def before(self, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        """The prompts as a teacher reads them.

        Raises BadCorpus for one that is no conversation, or whose record names no strategy or one without a message.
        """
        known = [name for name, _ in self.by_strategy]
        for prompt in prompts if known else ():
            if prompt.document.strategy not in known:
                came = "none" if prompt.document.strategy is None else repr(prompt.document.strategy)
                raise BadCorpus(
                    f"{prompt.name}: expected a '{STRATEGY}' that --system has a message for ({', '.join(known)}), got {came}: "
                    f"add the message or the field, or name another field with --columns {STRATEGY}=task"
                )
        return under(prompts, [self.of(prompt) for prompt in prompts]) if self else prompts


def systems_of(settings: CaptureSettings) -> Systems:
    """The messages of --system. Raises BadSetting for an empty one, BadCorpus for a file that cannot be read."""
    given, columns = settings.system, dict(settings.columns or ())
    several = given is not None and given.startswith("@") and given.lower().endswith(".toml")
    if STRATEGY in columns and not several:
        raise BadSetting(
            f"--columns {STRATEGY}={columns[STRATEGY]}: a strategy chooses among several system messages: give them, as in "
            "--system @strategies.toml, or leave it out"
        )
    if given is None:
        return Systems()
    text = _read(given) if given.startswith("@") else given
    if several:
        return Systems(by_strategy=tuple(_table(given, text).items()))
    if not text.strip():
        raise BadSetting(
            f"--system {given}: expected a message for the teacher, got an empty one: write it, or leave it out"
        )
    return Systems(text.strip())


def _read(given: str) -> str:
    try:
        return Path(given[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadCorpus(f"--system {given}: expected a text file in UTF-8 after the @: {error}") from error


def _table(given: str, text: str) -> dict[str, str]:
    """The messages of a TOML file, by strategy."""
    try:
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadCorpus(f'--system {given}: expected TOML with lines such as math = "Think first.": {error}') from error
    bad = [name for name, message in found.items() if not isinstance(message, str) or not message.strip()]
    if bad or not found:
        got = f"{bad[0]} = {found[bad[0]]!r}" if bad else "none"
        raise BadCorpus(
            f'--system {given}: expected a message for each strategy, in lines such as math = "Think first.", got {got}'
        )
    return {name: message.strip() for name, message in found.items()}
