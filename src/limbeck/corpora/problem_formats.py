"""Worked problems as prompts with completions, in four formats: the answer alone or a solution, with shots before it or without.

A problem has a question, solutions and an answer. Only solutions that end in the answer are used, and a question without one is
dropped (Fu et al., arXiv 2301.12726, sec. 3: specialising a small model on a larger one's chains of thought).

    kind     prompt                                                  completion
    zs_ao    Q: 3+4?\\nA:                                             7
    zs_cot   Q: 3+4?\\nA: Let's think step by step.                   3 and 4 make 7. The answer is 7
    ic_ao    the prompts and completions of some shots, and zs_ao
    ic_cot   the same of zs_cot
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from limbeck.corpora.tasks.final import matches_final
from limbeck.errors import BadCorpus, BadRecord, BadSetting

KINDS = ("zs_ao", "zs_cot", "ic_ao", "ic_cot")
SHOTS = 4  # of the paper
MOST_DROPPED = 0.5  # of all questions

Matches = Callable[[str, Sequence[str]], bool]  # whether a solution ends in one of some answers


@dataclass(frozen=True)
class Wording:
    """What stands around a question, for the answer alone and for a solution, and between shots."""

    asks: str = "Q: "
    answers: str = "\nA:"
    thinks: str = "\nA: Let's think step by step."
    gap: str = " "
    between: str = "\n\n"

    def ends(self, kind: str) -> str:
        """What follows the question in prompts of a kind."""
        return self.thinks if kind.endswith("cot") else self.answers


USUAL = Wording()


@dataclass(frozen=True)
class Problem:
    """A question, its answer, and solutions of it."""

    question: str
    answer: str
    solutions: tuple[str, ...]


@dataclass(frozen=True)
class Example:
    """A problem in a format: a question with the completion to learn, after ``shots``, which are questions with theirs."""

    kind: str
    question: str
    target: str
    shots: tuple[tuple[str, str], ...] = ()

    def prompt(self, wording: Wording = USUAL) -> str:
        """The text before the completion."""
        end = wording.ends(self.kind)
        shots = (f"{wording.asks}{q}{end}{wording.gap}{target}{wording.between}" for q, target in self.shots)
        return f"{''.join(shots)}{wording.asks}{self.question}{end}"

    def completion(self, wording: Wording = USUAL) -> str:
        """The text to learn."""
        return wording.gap + self.target


def parse(kind: str, prompt: str, completion: str, wording: Wording = USUAL) -> Example:
    """The example that a prompt with its completion shows. Raises BadRecord for a text that shows none."""
    found = _parsed(kind, prompt, completion, wording)
    if found is None:
        raise BadRecord(f"expected a prompt of {kind} and its completion, got {prompt[-60:]!r} and {completion[:60]!r}")
    return found


def _parsed(kind: str, prompt: str, completion: str, wording: Wording) -> Example | None:
    """As `parse`, and None for a text that shows none."""
    end = wording.ends(kind)
    pieces = [piece.partition(end) for piece in prompt.removeprefix(wording.asks).split(wording.between + wording.asks)]
    *shots, last = pieces
    texts = [target for _, _, target in shots] + [completion]
    whole = prompt.startswith(wording.asks) and all(found for _, found, _ in pieces) and not last[2]
    if not whole or not all(text.startswith(wording.gap) for text in texts):
        return None
    *shown, target = (text.removeprefix(wording.gap) for text in texts)
    return Example(kind, last[0], target, tuple((q, t) for (q, _, _), t in zip(shots, shown, strict=True)))


def with_right_solutions(
    problems: Iterable[Problem], *, where: str, matches: Matches = matches_final
) -> tuple[list[Problem], int]:
    """(the problems with their right solutions alone, the number of those without any, which are dropped).

    Raises BadCorpus where more than half are dropped.
    """
    given = list(problems)
    found = [one for one in (right_alone(problem, matches) for problem in given) if one.solutions]
    dropped = len(given) - len(found)
    if dropped > MOST_DROPPED * len(given):
        kept = {one.question for one in found}
        first = next(one.question for one in given if one.question not in kept)
        raise BadCorpus(
            f"{where}: expected solutions that end in the answer, of at least half of the questions, got none of {dropped:,} of "
            f"{len(given):,}, the first {first[:60]!r}: let solutions end in 'The answer is 7', '#### 7' or \\boxed{{7}}, or "
            "remove wrong ones"
        )
    return found, dropped


def right_alone(problem: Problem, matches: Matches = matches_final) -> Problem:
    """The problem with its right solutions alone, perhaps none."""
    return replace(problem, solutions=tuple(one for one in problem.solutions if matches(one, (problem.answer,))))


def check_signs(problem: Problem, kinds: Sequence[str], wording: Wording = USUAL) -> None:
    """Raises BadRecord for a problem that cannot be told from the signs around it in one of the formats, or as a shot in it."""
    for kind in kinds:
        for target in (problem.solutions if kind.endswith("cot") else ()) or (problem.answer,):
            shots = ((problem.question, target),) if kind.startswith("ic") else ()
            _checked(Example(kind, problem.question, target, shots), wording)


def examples(
    problems: Sequence[Problem],
    kinds: Sequence[str],
    *,
    shots: int = SHOTS,
    seed: int = 0,
    pool: Sequence[Problem] | None = None,
    wording: Wording = USUAL,
) -> Iterator[Example]:
    """Each problem in each format: with its answer once, and with each of its solutions.

    Shots are other problems of the ``pool`` (by default the problems themselves), those of ic_cot with solutions, drawn anew for
    each example by the seed, the problem's place and the format. Raises BadSetting for an unknown format and for shots that the
    pool is too small for, and BadRecord for a text that cannot be told from the signs around it.
    """
    pool = problems if pool is None else pool
    pools = {"ic_ao": pool, "ic_cot": [one for one in pool if one.solutions]}
    for kind in kinds:
        if kind not in KINDS:
            raise BadSetting(f"expected formats among {', '.join(KINDS)}, got {kind!r}")
        if kind in pools and not 0 < shots < len(pools[kind]):
            whose = " with solutions" if len(pools[kind]) < len(pool) else ""
            raise BadSetting(
                f"expected 1 shot or more, and fewer than the {len(pools[kind]):,} problems{whose} that they are drawn from, got "
                f"{shots}: give fewer shots, or more problems"
            )
    for place, problem in enumerate(problems):
        for kind in kinds:
            generator = np.random.default_rng([seed, place, KINDS.index(kind)])
            for target in problem.solutions if kind.endswith("cot") else (problem.answer,):
                drawn = _shots(kind, problem, pools[kind], shots, generator) if kind in pools else ()
                yield _checked(Example(kind, problem.question, target, drawn), wording)


def _shots(
    kind: str, problem: Problem, pool: Sequence[Problem], shots: int, generator: np.random.Generator
) -> tuple[tuple[str, str], ...]:
    """Other questions of the pool, each with its answer or one of its solutions. Raises BadSetting where there are too few."""
    order = (pool[i] for i in generator.choice(len(pool), size=min(len(pool), shots + 1), replace=False).tolist())
    others = [other for other in order if other.question != problem.question]
    if len(others) < shots:  # the question itself was drawn several times
        others = [other for other in pool if other.question != problem.question][:shots]
    if len(others) < shots:
        raise BadSetting(f"expected {shots} questions beside {problem.question[:60]!r} to show, got {len(others)}")
    return tuple(
        (one.question, _one_of(one.solutions, generator) if kind.endswith("cot") else one.answer)
        for one in islice(others, shots)
    )


def _one_of(texts: Sequence[str], generator: np.random.Generator) -> str:
    return texts[int(generator.integers(len(texts)))]


def _checked(example: Example, wording: Wording) -> Example:
    """The example. Raises BadRecord where what is written could not be read back as the same."""
    if _parsed(example.kind, example.prompt(wording), example.completion(wording), wording) != example:
        raise BadRecord(
            f"the question {example.question[:60]!r}: expected texts without {wording.ends(example.kind)!r} and "
            f"{(wording.between + wording.asks)!r}, which stand around them: remove these"
        )
    return example
