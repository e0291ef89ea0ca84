"""Tasks: prompts, each with the answers that pass, from a file or generated here.

A completion passes if the text up to its end token or its first line break equals one of the answers exactly. Generated tasks are
sums and strings, split by a hash of the instance: nine tenths are for training, and one tenth is for tests only. The hash
depends on the meaning of an instance: 348+274 and 274+348 are on the same side of the split.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from limbeck.config import nearest
from limbeck.corpora.jsonl import Record, records_of
from limbeck.corpora.records import kind
from limbeck.corpora.tasks.checked import Checked
from limbeck.disk import existing, shown, write_text
from limbeck.errors import BadCorpus, BadRecord, BadSetting, BadTask

INSTANCES = 200  # of a generated task
_ASKED = 10  # one instance in ten is for tests only
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Instance:
    """One prompt and the answers that pass. Answers contain no line break."""

    prompt: str
    answers: tuple[str, ...]

    @property
    def unique(self) -> bool:
        """Whether only one answer passes, so that the probability of this answer is the pass probability."""
        return len(self.answers) == 1

    @property
    def longest(self) -> int:
        """The bytes of the longest answer."""
        return max(len(answer.encode()) for answer in self.answers)

    @property
    def name(self) -> str:
        """Twelve hexadecimal digits that identify the instance by its content, independent of its file."""
        return hashlib.sha256(json.dumps([self.prompt, *self.answers]).encode()).hexdigest()[:12]

    def passes(self, completion: str, *, ended: bool) -> bool | None:
        """Whether a completion passes, or None if it is undecided. ``ended`` is true after the end token.

        A text that is no prefix of an answer fails at once.
        """
        line, broken, _ = completion.partition("\n")
        if ended or broken:
            return line in self.answers
        return None if any(answer.startswith(line) for answer in self.answers) else False


@dataclass(frozen=True)
class Task:
    """A named list of distinct instances, with answers that are listed or checked."""

    name: str
    instances: tuple[Instance | Checked, ...]

    @property
    def sha256(self) -> str:
        """The SHA-256 hash of the instances in order. Results with equal hashes are comparable."""
        return hashlib.sha256("".join(instance.name for instance in self.instances).encode()).hexdigest()


@dataclass(frozen=True)
class _Made:
    """A generated instance, and the key that decides its side of the split."""

    instance: Instance
    family: str


def task_of(name: str) -> Task:
    """The generated task of this name, or the task of a JSONL file with the keys prompt and answer.

    An answer may be a list, of which any passes. Raises BadTask for an unknown name or a faulty file, with the line.
    """
    if name in MAKERS:
        made = _different(_instances(name, seed=0))
        return Task(name, tuple(islice(made, INSTANCES)))
    path = existing(name)
    if path is None and Path(name).suffix == ".jsonl":
        raise BadTask(f"{shown(name)}: expected a JSONL task, got a path that does not exist: check the spelling")
    if path is None:
        raise BadTask(
            f"unknown task {shown(name)!r}{nearest(name, MAKERS)} There are: {', '.join(MAKERS)}, and JSONL files of "
            '{"prompt": "2+2=", "answer": "4"}.'
        )
    return _from_file(path)


def write_task_text(task: str, path: str | Path, n: int, seed: int = 0) -> Path:
    """Writes ``n`` solved instances of a generated task as a JSONL corpus for `pretrain` and `distil`. Returns the path.

    The instances never occur in `task_of`. Equal seeds give equal text. Raises BadTask for any other task, and BadSetting if n <
    1.
    """
    if task not in MAKERS:
        raise BadTask(
            f"no training text can be made for {task!r}{nearest(task, MAKERS)} There are: {', '.join(MAKERS)}."
        )
    if n < 1:
        raise BadSetting(f"expected at least 1 line of training text for {task}, got {n}: give a larger n")
    made = (m.instance for m in _stream(task, seed=seed) if not _is_asked(task, m))
    rows = (json.dumps({"text": i.prompt + i.answers[0]}) + "\n" for i in islice(made, n))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(rows))
    return path


def _addition(generator: np.random.Generator) -> _Made:
    a, b = (int(x) for x in generator.integers(100, 1000, size=2))
    return _made(f"{a}+{b}=", str(a + b), sorted((a, b)))


def _subtraction(generator: np.random.Generator) -> _Made:
    b, a = sorted(int(x) for x in generator.integers(100, 1000, size=2))
    return _made(f"{a}-{b}=", str(a - b), sorted((b, a - b)))


def _base7(generator: np.random.Generator) -> _Made:
    n = int(generator.integers(1000, 10000))
    return _made(f"{n}:7=", np.base_repr(n, 7), [n])


def _reverse(generator: np.random.Generator) -> _Made:
    word = _word(generator)
    return _made(f"reverse {word}=", word[::-1], [min(word, word[::-1])])


def _copy(generator: np.random.Generator) -> _Made:
    word = _word(generator)
    return _made(f"copy {word}=", word, [word])


def _word(generator: np.random.Generator) -> str:
    return "".join(_LETTERS[i] for i in generator.integers(26, size=5))


def _made(prompt: str, answer: str, family: list[int] | list[str]) -> _Made:
    return _Made(Instance(prompt, (answer,)), json.dumps(family))


MAKERS: dict[str, Callable[[np.random.Generator], _Made]] = {
    "addition": _addition,  # of three digits: 348+274=622
    "subtraction": _subtraction,  # of three digits, never below 0: 622-274=348
    "base7": _base7,  # of four decimal digits: 2401:7=10000
    "reverse-string": _reverse,  # of five letters: reverse abcde=edcba
    "copy": _copy,  # of five letters: copy abcde=abcde
}


def _stream(name: str, *, seed: int) -> Iterator[_Made]:
    digest = hashlib.sha256(name.encode()).digest()
    generator = np.random.default_rng([seed, int.from_bytes(digest[:4], "big")])
    while True:
        yield MAKERS[name](generator)


def _is_asked(name: str, made: _Made) -> bool:
    digest = hashlib.sha256(f"limbeck:{name}:{made.family}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % _ASKED == 0


def _instances(name: str, *, seed: int) -> Iterator[Instance]:
    return (made.instance for made in _stream(name, seed=seed) if _is_asked(name, made))


def _different(instances: Iterator[Instance]) -> Iterator[Instance]:
    seen: set[str] = set()
    for instance in instances:
        if instance.prompt not in seen:
            seen.add(instance.prompt)
            yield instance


def _from_file(path: Path) -> Task:
    found: dict[str, tuple[int, Instance]] = {}
    for number, row in task_rows(path):
        instance = _instance(row, f"{path}:{number}")
        if instance.prompt in found:
            first = found[instance.prompt][0]
            raise BadTask(
                f"{path}:{number}: the prompt of line {first} again: remove one, or list both answers as "
                '"answer": [..., ...] of one line'
            )
        found[instance.prompt] = (number, instance)
    if not found:
        raise BadTask(f'{path}: expected a line {{"prompt": ..., "answer": ...}} for each instance, got none')
    return Task(path.stem, tuple(instance for _, instance in found.values()))


def task_rows(path: Path) -> Iterator[tuple[int, Record]]:
    """Yields (line number, object) of a JSONL file of questions or facts. Raises BadTask for a faulty line or file."""
    try:
        for number, row in records_of(path):
            if isinstance(row, BadRecord):
                raise BadTask(str(row))
            yield number, row
    except BadCorpus as error:
        raise BadTask(str(error)) from error


def _instance(row: Record, where: str) -> Instance:
    keys = ", ".join(map(repr, row))
    if "prompt" not in row or "answer" not in row:
        raise BadTask(f"{where}: expected the keys 'prompt' and 'answer', got {keys or 'none'}: add what is missing")
    answers = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
    if not isinstance(row["prompt"], str) or not row["prompt"]:
        raise BadTask(f"{where}: expected 'prompt' to be a text, got {kind(row['prompt'])}: write one")
    for answer in answers or [""]:
        if not isinstance(answer, str) or not answer or "\n" in answer:
            raise BadTask(
                f"{where}: expected 'answer' to be a text of one line, or a list of such, got {kind(answer)}: an answer "
                "ends where its line does"
            )
    return Instance(row["prompt"], tuple(dict.fromkeys(answers)))
