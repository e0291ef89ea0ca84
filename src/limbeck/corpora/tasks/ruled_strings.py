"""Short strings of letters that have to follow one or more rules: a toy for instructions with constraints that a program checks.

A rule is a sign with what it says, and a prompt names some of them:

    #5 +b -d ^a $h =c>     5 letters, has b, lacks d, begins with a, ends with h, has c exactly twice

Rules of a prompt are those of a string that was drawn first, so they never contradict one another, and most prompts have many
right answers. All checks are total: any text passes or fails, and an empty one fails every rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from limbeck.corpora.tasks.checked import Checked
from limbeck.corpora.tasks.spelled import Question
from limbeck.errors import BadTask

LETTERS = "abcdefgh"
ASKS = ">"  # the end of a prompt
SHORTEST, LONGEST = 3, 9  # letters of a string that is drawn
_KINDS: dict[str, Callable[[str, str], bool]] = {
    "#": lambda text, says: str(len(text)) == says,
    "+": lambda text, says: says in text,
    "-": lambda text, says: says not in text,
    "^": lambda text, says: text.startswith(says),
    "$": lambda text, says: text.endswith(says),
    "=": lambda text, says: text.count(says) == 2,
}
KINDS = "".join(_KINDS)


@dataclass(frozen=True)
class RuledString:
    """Rules, each a sign with what it says, and a string that follows all of them."""

    rules: tuple[str, ...]
    answer: str

    @property
    def prompt(self) -> str:
        """The rules with the sign that asks for a string."""
        return " ".join(self.rules) + ASKS

    def question(self) -> Question:
        """The prompt with the string."""
        return Question(self.prompt, self.answer)

    def checked(self) -> Checked:
        """The prompt with the check of an answer: letters alone, and which rules they follow."""

        def check(text: str) -> tuple[bool, ...]:
            letters = bool(text) and set(text) <= set(LETTERS)
            return tuple(letters and _KINDS[rule[0]](text, rule[1:]) for rule in self.rules)

        return Checked(self.prompt, check, self.rules, longest=LONGEST)


@dataclass(frozen=True)
class RuledStrings:
    """Strings with so many ``rules``, of different kinds. Raises BadTask for a number of rules that there is not."""

    rules: int
    name: str = "ruled-strings"

    def __post_init__(self) -> None:
        if not 1 <= self.rules <= len(KINDS):
            raise BadTask(f"ruled strings: expected 1 to {len(KINDS)} rules, got {self.rules}")

    def strings(self, generator: np.random.Generator, n: int) -> list[RuledString]:
        """Draws n of them: the kinds of rules are uniform, and so is what each may say of the string."""
        return [self._string(generator) for _ in range(n)]

    def questions(self, generator: np.random.Generator, n: int) -> list[Question]:
        """Draws n of them as prompts with an answer."""
        return [one.question() for one in self.strings(generator, n)]

    def _string(self, generator: np.random.Generator) -> RuledString:
        while True:
            length = int(generator.integers(SHORTEST, LONGEST + 1))
            text = "".join(LETTERS[i] for i in generator.integers(len(LETTERS), size=length))
            kinds = [KINDS[i] for i in generator.permutation(len(KINDS))[: self.rules]]
            may_say = [_true_of(kind, text) for kind in kinds]
            if all(may_say):
                chosen = [says[int(generator.integers(len(says)))] for says in may_say]
                return RuledString(tuple(kind + says for kind, says in zip(kinds, chosen, strict=True)), text)


def _true_of(kind: str, text: str) -> list[str]:
    """What a rule of a kind may say of a string."""
    if kind == "#":
        return [str(len(text))]
    return [letter for letter in LETTERS if _KINDS[kind](text, letter)]
