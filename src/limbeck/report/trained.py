"""How far each training of a run went, where it could end early or its best weights were taken, in a table and in a note."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.config import FULL, OFF_POLICY, ONE_TEACHER, UNCORRECTED
from limbeck.disk import read_json
from limbeck.report import schema as kinds
from limbeck.report.start import Start
from limbeck.report.words import ORDER, count, label

_FILE = "training.json"
_SEEDED = re.compile(r"(.+)-seed(\d+)")


@dataclass(frozen=True)
class Trained:
    """A training: its ``steps`` out of those it could take (``most``), tokens, and the step whose weights were taken.

    ``patience``: after how many measurements without a lower held-out loss it would end, None for never. ``stopped_by``: which
    limit of what it generated ended it, in words, "" for none.
    """

    arm: str
    seed: int | None
    steps: int
    most: int
    tokens: int
    taken: int
    patience: int | None
    stopped_by: str = ""


def trained_in(folder: Path, run: Mapping[str, Any]) -> list[Trained]:
    """The trainings of a run that recorded how far they went, the student's first."""
    seed = (run.get("signature") or {}).get("seed")
    scratch = (run.get("signature") or {}).get("job") == "pretrain"
    places = [(folder, "model" if scratch else "student", seed)]
    for place in sorted(folder.glob("seeds/seed*")):
        places.append((place, "student", int(place.name.removeprefix("seed"))))
    for place in sorted(folder.glob("baselines/*")):
        if named := _SEEDED.fullmatch(place.name):
            places.append((place, named[1], int(named[2])))
    found = [_read(place / _FILE, arm, its) for place, arm, its in places if (place / _FILE).is_file()]
    order = {name: number for number, name in enumerate(ORDER)}
    return sorted(found, key=lambda one: (order.get(one.arm, len(order)), one.seed or 0))


def _read(file: Path, arm: str, seed: int | None) -> Trained:
    row = read_json(file, kinds.Training)
    return Trained(
        arm, seed, row["steps"], row["of"], row["tokens"], row["taken_step"], row["patience"], row.get("stopped_by", "")
    )


def chosen(trained: Sequence[Trained]) -> bool:
    """Whether any training could end early, or was not taken as it ended."""
    return any(one.patience is not None or one.taken != one.steps or one.stopped_by for one in trained)


def used_note(trained: Sequence[Trained], start: Start) -> str:
    """A sentence on the rule of all trainings, and what each used of what it could; "" where all used all."""
    if not chosen(trained):
        return ""
    patience, parts = trained[0].patience, []
    if patience is not None:
        times = "one measurement" if patience == 1 else f"{patience} measurements in a row"
        parts.append(f"every training had one rule, to end after {times} without a lower held-out loss")
    elif any(one.taken != one.steps for one in trained):
        parts.append("of each training the weights with the lowest held-out loss were taken")
    for one in trained:
        if one.stopped_by:
            seed = f" with seed {one.seed}" if len({other.seed for other in trained}) > 1 else ""
            parts.append(f"{label(one.arm, start)}{seed} ended at step {one.steps:,}: {one.stopped_by} (--stop-when)")
    rule = f"{'; '.join(parts)}, on documents that judge nothing here"
    least = patience is not None or any(one.stopped_by for one in trained)
    equal = "; equal tokens and equal compute are what each could use at most" if least else ""
    arms = {name: [one for one in trained if one.arm == name] for name in dict.fromkeys(one.arm for one in trained)}
    used = "; ".join(f"{label(name, start)} {_used(runs)}" for name, runs in arms.items())
    return f"{rule}{equal}. Used: {used}"


def _used(runs: Sequence[Trained]) -> str:
    """Steps of one arm over its seeds, and the steps whose weights were taken."""
    most = sorted({one.most for one in runs})
    text = f"{_listed([one.steps for one in runs])} of {_listed(most)} steps"
    if any(one.taken != one.steps for one in runs):
        text += f" (weights of step {_listed([one.taken for one in runs])})"
    return text


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(f"{number:,}" for number in numbers)


def used_table(trained: Sequence[Trained], run: Mapping[str, Any], start: Start) -> list[tuple[str, ...]]:
    """Rows of (training, steps, at most, tokens, weights of step, compute as a multiple of the student's); none where all
    used all.
    """
    if not chosen(trained):
        return []
    teacher = run.get("teacher") or {}
    passes = float(teacher.get("passes") or 0.0)
    with_teacher = 1 + float(teacher.get("price") or 0.0) * passes
    with_first = 1 + float(teacher.get("price_of_first") or 0.0) * passes
    generating = float(teacher.get("generated") or 0.0) * float(teacher.get("forward") or 1 / 3)
    generating += float(teacher.get("price") or 0.0) * float(teacher.get("judged") or 0.0)
    whole = float((run.get("adapters") or {}).get("whole") or 1.0)

    def once(arm: str) -> float:
        """FLOPs of a step, in those of a step of the student by cross-entropy."""
        if arm.startswith(("cut+ce", "model")):
            return 1.0
        taught = with_first if arm in ONE_TEACHER else with_teacher
        spent = taught if arm in OFF_POLICY else taught + generating
        spent += 0.0 if arm in UNCORRECTED else float(teacher.get("corrected") or 0.0)
        return spent + whole - 1 if arm in (*FULL, "fresh+kd") else spent

    spent = [one.steps * once(one.arm) for one in trained]  # tokens are those that were learned
    seeds = len({one.seed for one in trained}) > 1
    rows: list[tuple[str, ...]] = []
    for one, compute in zip(trained, spent, strict=True):
        name = label(one.arm, start) + (f", seed {one.seed}" if seeds else "")
        share = (
            "–" if one.arm == "attention" else f"{compute / spent[0]:.2f}×"
        )  # other mixers cost another number of FLOPs
        rows.append((name, f"{one.steps:,}", f"{one.most:,}", count(one.tokens), f"{one.taken:,}", share))
    return rows
