"""Scores of a model on the items of standard tasks, and the files that keep them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
from jaxtyping import Float

from limbeck.disk import read_rows, write_rows, writing
from limbeck.errors import Mismatch

AGAIN = "remove the file, and run the same command again to measure anew"
NATS, BYTES = "nats", "bytes"  # columns whose sums give bits per byte
MARGIN = "margin"  # nats by which the right answer is likelier than the likeliest wrong one


class ScoresRow(TypedDict):
    """A row of a file of scores, as `TaskScores.row` gives it."""

    task: str
    filter: str
    group: str
    items: list[list[str]]
    chance: list[float]
    columns: dict[str, list[float]]


@dataclass(frozen=True)
class TaskScores:
    """The scores of one model on each item of a task, under one of the task's filters of answers.

    ``items`` are (doc_id, doc_hash, prompt_hash) of lm-eval; of a group of tasks the doc_id begins with the task.
    ``chance`` is the accuracy of guessing. ``columns`` hold one number an item: accuracies (``acc``, ``acc_bytes``, ...),
    ``margin``, and ``nats`` and ``bytes`` of the right answer. ``group`` is the group that was given and holds the task, else "".
    """

    task: str
    filter: str
    group: str
    items: tuple[tuple[str, str, str], ...]
    chance: Float[np.ndarray, " items"]
    columns: Mapping[str, Float[np.ndarray, " items"]]

    @property
    def label(self) -> str:
        """The task, with its filter where it has several."""
        return self.task if self.filter == "none" else f"{self.task} ({self.filter})"

    @property
    def key(self) -> tuple[str, str, str]:
        """What the scores of two models must share to be compared."""
        return self.group, self.task, self.filter

    def row(self) -> ScoresRow:
        """As a row of a file."""
        return {
            "task": self.task,
            "filter": self.filter,
            "group": self.group,
            "items": [list(item) for item in self.items],
            "chance": self.chance.tolist(),
            "columns": {name: column.tolist() for name, column in self.columns.items()},
        }

    @classmethod
    def of(cls, row: ScoresRow) -> TaskScores:
        """From a row of a file."""
        items = tuple((str(one[0]), str(one[1]), str(one[2])) for one in row["items"])
        columns = {name: np.array(column, dtype=np.float64) for name, column in row["columns"].items()}
        return cls(row["task"], row["filter"], row["group"], items, np.array(row["chance"], dtype=np.float64), columns)


def save_scores(file: Path, scores: Sequence[TaskScores]) -> None:
    """Writes the scores of a model, atomically. Raises BadFolder if the file cannot be written."""
    with writing(file):
        file.parent.mkdir(exist_ok=True)
    write_rows(file, [dict(one.row()) for one in scores])


def load_scores(file: Path) -> list[TaskScores]:
    """Reads what `save_scores` wrote. Raises BadFolder if it is missing or damaged."""
    return [TaskScores.of(row) for row in read_rows(file, ScoresRow, remedy=AGAIN)]


def pooled(name: str, parts: Sequence[TaskScores]) -> TaskScores:
    """The tasks of a group as one: each item counts once, in the columns that all tasks have."""
    shared = [column for column in parts[0].columns if all(column in part.columns for part in parts)]
    return TaskScores(
        name,
        parts[0].filter,
        "",
        tuple((f"{part.task}/{number}", *hashes) for part in parts for number, *hashes in part.items),  # type: ignore[misc]
        np.concatenate([part.chance for part in parts]),
        {column: np.concatenate([part.columns[column] for part in parts]) for column in shared},
    )


def require_same_items(a: TaskScores, b: TaskScores) -> None:
    """Raises Mismatch unless both were measured on the same items with the same prompts, in the same order."""
    if a.items == b.items:
        return
    different = next((i for i, (x, y) in enumerate(zip(a.items, b.items, strict=False)) if x != y), -1)
    what = (
        f"{len(a.items):,} and {len(b.items):,} items"
        if different < 0
        else f"other text in item {a.items[different][0]}"
    )
    raise Mismatch(
        f"task {a.label}: expected the same items and prompts for both models, got {what}: the task has changed since one "
        f"of them was measured. Remove the older file tasks-*.json of the run's folder measurements, and run the command again"
    )
