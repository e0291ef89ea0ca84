"""The probe ``tasks``: a model on standard tasks, alone or item by item beside its teacher."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from limbeck.errors import BadSetting
from limbeck.models.language_model import LanguageModel
from limbeck.probes.named import ProbeContext, probe
from limbeck.probes.standard.compare import above_chance, differences, levels
from limbeck.probes.standard.evaluate import evaluate, load_tasks
from limbeck.types import Reading


@probe("tasks", reads=("tasks", "teacher"))
def probe_tasks(model: LanguageModel, teacher: LanguageModel | None, context: ProbeContext) -> Iterator[Reading]:
    """Accuracy, margin and bits per byte of standard tasks; with a teacher paired differences, retention and flips."""
    if not context.tasks:
        raise BadSetting("--probe tasks needs the tasks: give --tasks, such as --tasks lambada_openai,piqa,mine.jsonl")
    loaded = load_tasks(context.tasks)
    scores = evaluate(model, loaded)
    theirs = {one.key: one for one in evaluate(teacher, loaded)} if teacher is not None else {}
    for one in scores:
        yield from levels("model", [one])
        if one.key in theirs:
            yield from (replace(r, name=f"teacher_{r.name}") for r in levels("teacher", [theirs[one.key]]) if r.n > 1)
            yield from differences("model", [one], "teacher", [theirs[one.key]])
        if not one.group and not above_chance([one]):
            context.note(f"{one.label}: accuracy is not above chance, so compare its margin and bits per byte instead")
