"""The probe ``constraints``: which constraints a model's answers follow, alone or beside its teacher's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from limbeck.errors import BadSetting
from limbeck.generation.served import STOP
from limbeck.models.language_model import LanguageModel
from limbeck.probes.constraints.answers import answered
from limbeck.probes.constraints.items import Item, read_items
from limbeck.probes.constraints.score import by_chance, followed
from limbeck.probes.interval import Interval, mean_interval, paired_shares, share_interval
from limbeck.probes.named import ProbeContext, probe
from limbeck.types import Reading

MOST = 1280  # tokens of an answer, as lm-eval has them for IFEval
_SHARE = "share"

# by the name of a reading: sums and counts of each prompt
Sums = Mapping[str, tuple[Float[np.ndarray, " items"], Float[np.ndarray, " items"]]]


@probe("constraints", reads=("task", "teacher"))
def probe_constraints(model: LanguageModel, teacher: LanguageModel | None, context: ProbeContext) -> Iterator[Reading]:
    """Shares of constraints and prompts that greedy answers follow, by chance too; with a teacher paired differences.

    Prompts are the sampling unit. Raises BadSetting without a file of prompts.
    """
    if context.task is None:
        raise BadSetting(
            "--probe constraints needs prompts with constraints: give their file, --task ifeval.jsonl, or write one with limbeck "
            "constraints write"
        )
    prompts = read_items(context.task)
    context.note(str(prompts))
    items = prompts.items
    mine = _sums(model, items)
    yield from (_reading(model, name, _level(name, *sums)) for name, sums in mine.items())
    if teacher is not None:
        theirs = _sums(teacher, items)
        for name, (sums, counts) in theirs.items():
            yield replace(_reading(teacher, name, _level(name, sums, counts)), name=f"teacher_{name}")
            yield _reading(model, f"{name}_minus_teacher", paired_shares(mine[name][0], sums, counts))


def _sums(model: LanguageModel, items: Sequence[Item]) -> Sums:
    answers = answered(model, items, most=MOST)
    texts, constraints = [one.text for one in answers], np.array([len(item.constraints) for item in items], dtype=float)
    prompts = np.ones(len(items))
    found = {}
    for suffix, loose in (("", False), ("_loosely", True)):
        sums = np.array(
            [followed(text, item, loose=loose) for text, item in zip(texts, items, strict=True)], dtype=float
        )
        found[f"constraints_followed{suffix}"] = sums, constraints
        found[f"constraints_prompts_followed{suffix}"] = (sums == constraints).astype(float), prompts
    if len(items) > 1:
        found["constraints_by_chance"] = by_chance(texts, items), constraints
    found["constraints_ended"] = np.array([one.finish == STOP for one in answers], dtype=float), prompts
    found["constraints_tokens"] = np.array([one.tokens for one in answers], dtype=float), prompts
    return found


def _level(name: str, sums: Float[np.ndarray, " items"], counts: Float[np.ndarray, " items"]) -> Interval:
    if name.endswith(("_tokens", "_by_chance")):
        return mean_interval(sums, counts)
    return share_interval(sums, counts)


def _reading(model: LanguageModel, name: str, found: Interval) -> Reading:
    unit = "tokens/answer" if "_tokens" in name else _SHARE
    return Reading(model.name, "constraints", name, found.value, unit, found.n, found.low, found.high)
