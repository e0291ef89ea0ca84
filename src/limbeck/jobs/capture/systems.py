"""The system messages that a teacher reads before conversations, and that the kept text does not have (prompt erasure).

One for all, or one for each strategy, which a field of the record names (Orca 2, arXiv 2311.11045, sec. 3: the teacher is told
how to answer a kind of task, the student only sees the answer).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limbeck.config import CaptureSettings
from limbeck.corpora import Prompt
from limbeck.corpora.prompt import under
from limbeck.corpora.records import STRATEGY
from limbeck.corpora.strategies import Strategy, strategies_of
from limbeck.errors import BadCorpus, BadSetting


@dataclass(frozen=True)
class Systems:
    """``whole`` is the message before each prompt, "" for none, or there is a strategy for each value of a field."""

    whole: str = ""
    by_strategy: Mapping[str, Strategy] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.whole or self.by_strategy)

    @property
    def patterns(self) -> dict[str, str]:
        """The patterns of answers, of the strategies that have one."""
        return {name: one.pattern for name, one in self.by_strategy.items() if one.pattern is not None}

    @property
    def facts(self) -> dict[str, Any]:
        """The messages and patterns, for a run's signature; nothing for none."""
        if self.by_strategy:
            messages = {"system": {name: one.system for name, one in self.by_strategy.items()}}
            return messages | ({"patterns": self.patterns} if self.patterns else {})
        return {"system": self.whole} if self.whole else {}

    def of(self, prompt: Prompt) -> Strategy:
        """How a prompt that `before` has looked at is to be answered."""
        if not self.by_strategy:
            return Strategy(self.whole)
        return self.by_strategy[str(prompt.document.strategy)]

    def beside(self, prompt: Prompt) -> dict[str, str]:
        """What a kept record has beside its text: the name of the strategy, where there are several."""
        return {STRATEGY: str(prompt.document.strategy)} if self.by_strategy else {}

    def before(self, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        """The prompts as a teacher reads them.

        Raises BadCorpus for one that is no conversation, or whose record names no strategy or one without a message.
        """
        for prompt in prompts if self.by_strategy else ():
            named = prompt.document.strategy
            if not isinstance(named, str) or named not in self.by_strategy:
                came = "none" if named is None else repr(named)
                raise BadCorpus(
                    f"{prompt.name}: expected a '{STRATEGY}' that --system has a message for ({', '.join(self.by_strategy)}), "
                    f"got {came}: add the message or the field, or name another field with --columns {STRATEGY}=task"
                )
        return under(prompts, [self.of(prompt).system for prompt in prompts]) if self else prompts


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
        return Systems(by_strategy=strategies_of(text, f"--system {given}"))
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
