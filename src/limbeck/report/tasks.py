"""Standard tasks in a report and a model card: scores by model, and the student beside the others on the same items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from limbeck.report.start import Start
from limbeck.report.words import ORDER, TEACHER_OF, bounded, label
from limbeck.types import Reading

_SCORES = {
    "acc": "accuracy",
    "exact_match": "exact match",
    "acc_bytes": "accuracy by bytes",
    "margin": "margin, nats",
    "bits_per_byte": "bits per byte",
}
_OTHERS = ("chance",)
_AGAINST = ("_minus_", "_retention_of_", "_gained_on_", "_lost_to_", "_mcnemar_p_")


@dataclass(frozen=True)
class TaskTable:
    """Scores of standard tasks by model, and the student's comparisons with the others."""

    models: Sequence[str]  # their names in the readings
    scores: Sequence[tuple[str, str, int, str, Sequence[str]]]  # task, score, items, chance, cells by model
    compared: Sequence[tuple[str, str, str, str, str]]  # task, with whom, difference, retained, flips


def task_table(readings: Sequence[Reading]) -> TaskTable | None:
    """The tables of a run's readings, those over all seeds where there are such; None without tasks."""
    found = _one_each(readings)
    if not found:
        return None
    names = list(dict.fromkeys(model for model, _ in found))
    models = [name for name in (*ORDER, *names) if name in names]
    models = list(dict.fromkeys(models))
    kinds = dict.fromkeys(name for _, name in found)
    scores = [name for name in kinds if not any(word in name for word in _AGAINST) and _of(name)[0] not in _OTHERS]
    rows = []
    for name in scores:
        what, task = _of(name)
        cells = [found.get((model, name)) for model in models]
        chance = next(
            (found[model, f"chance, {task}"] for model in models if (model, f"chance, {task}") in found), None
        )
        guess = f"{chance.value:.3f}" if chance and what.startswith("acc") else ""
        n = max(one.n for one in cells if one is not None)
        rows.append((task, _SCORES.get(what, what), n, guess, [_cell(one) for one in cells]))
    return TaskTable(models, rows, _compared(found, models))


def headline_scores(readings: Sequence[Reading]) -> list[tuple[str, dict[str, Reading], float | None]]:
    """(task, reading by model, chance) of each task's accuracy or exact match, for the picture."""
    found = _one_each(readings)
    tasks: dict[str, dict[str, Reading]] = {}
    chances: dict[str, float] = {}
    for (model, name), reading in found.items():
        what, task = _of(name)
        if what in ("acc", "exact_match"):
            tasks.setdefault(task, {})[model] = reading
        if what == "chance":
            chances[task] = reading.value
    return [(task, by_model, chances.get(task)) for task, by_model in tasks.items()]


def card_rows(readings: Sequence[Reading], models: Sequence[str], start: Start) -> list[str]:
    """A Markdown table of tasks for a model card: of ``models`` and of the teachers of domains; empty without tasks."""
    table = task_table(readings)
    if table is None:
        return []
    teachers = [model for model in table.models if model.startswith(TEACHER_OF)]
    there = [*teachers, *(model for model in models if model in table.models)]
    at = [table.models.index(model) for model in there]
    head = ["task", "score", "chance", *(label(model, start) for model in there)]
    rows = [[task, what, chance, *(cells[i] or "–" for i in at)] for task, what, _, chance, cells in table.scores]
    lines = ["| " + " | ".join(one.replace("|", "\\|") for one in row) + " |" for row in [head, *rows]]
    return [lines[0], "|" + "---|" * len(head), *lines[1:], "", "Standard tasks by lm-eval; 95 % intervals over items."]


def _one_each(readings: Sequence[Reading]) -> dict[tuple[str, str], Reading]:
    """Readings of tasks by model and name: the one over all seeds, else of the first."""
    found: dict[tuple[str, str], Reading] = {}
    for reading in sorted(readings, key=lambda one: (one.seed is None, -(one.seed or 0))):
        if reading.probe == "tasks":
            found[reading.model, reading.name] = reading
    order = [(r.model, r.name) for r in readings if r.probe == "tasks"]
    return {key: found[key] for key in dict.fromkeys(order)}


def _compared(found: dict[tuple[str, str], Reading], models: Sequence[str]) -> list[tuple[str, str, str, str, str]]:
    """The student's differences in accuracy, exact match or margin to each other model."""
    rows = []
    for (model, name), difference in found.items():
        what, task = _of(name)
        score, _, other = what.partition("_minus_")
        if model != "student" or not other or score not in _SCORES or other not in models:
            continue
        kept = found.get(("student", f"{score}_retention_of_{other}, {task}"))
        flips = [
            found.get(("student", f"{score}{word}{other}, {task}"))
            for word in ("_gained_on_", "_lost_to_", "_mcnemar_p_")
        ]
        gained, lost, p = flips
        shown = "" if not (gained and lost and p) else f"+{gained.value:.0f} −{lost.value:.0f}, p = {p.value:.2g}"
        rows.append((f"{task}: {_SCORES[score]}", other, _cell(difference), _cell(kept), shown))
    return rows


def _of(name: str) -> tuple[str, str]:
    """(score, task) of a reading's name."""
    what, _, task = name.partition(", ")
    return what, task


def _cell(reading: Reading | None) -> str:
    return "" if reading is None else bounded(reading.value, reading.low, reading.high)
