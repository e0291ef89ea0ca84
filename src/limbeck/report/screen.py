"""The last screen of a distillation: a table of the measurements, and the next command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.probes.interval import FEWEST_SEEDS
from limbeck.report.start import Start
from limbeck.report.words import ORDER, bounded, label
from limbeck.types import Reading


def measured_rows(readings: Sequence[Reading], start: Start) -> list[list[str]]:
    """The models of a run by their held-out loss and their KL to the teacher, with intervals: the readings over all seeds."""
    found = over_seeds(readings)
    name, unit = ("held_out", "nats/token")
    if ("teacher", name) not in found and ("teacher", "bits_per_byte") in found:  # a teacher with other tokens
        name, unit = "bits_per_byte", "bits/byte"
    rows = [
        [label(model, start), _cell(found.get((model, name))), _cell(found.get((model, "kl_teacher_student")))]
        for model in ORDER
        if (model, name) in found
    ]
    return [["model", f"held out, {unit}", "KL to teacher"], *rows]


def over_seeds(readings: Sequence[Reading]) -> dict[tuple[str, str], Reading]:
    """Readings by model and name: the one over all seeds where there is one, else the first seed's."""
    ordered = sorted(readings, key=lambda one: (one.seed is None, -(one.seed or 0)))
    return {(reading.model, reading.name): reading for reading in ordered}


def _cell(reading: Reading | None) -> str:
    return "" if reading is None else bounded(reading.value, reading.low, reading.high)


def next_of_distil(run: Mapping[str, Any], student: Path) -> str:
    """The command that follows a run: with the seeds that a decision needs, or a closer look at the student."""
    return more_seeds(run, "distil") or f"limbeck probe {shlex.quote(str(student))} --probe likelihood,slices"


def more_seeds(run: Mapping[str, Any], job: str) -> str:
    """The command of a run of limbeck's command ``job`` with the seeds that a decision needs; "" where it has them."""
    command, seeds = run.get("command") or [], (run.get("signature") or {}).get("seeds", FEWEST_SEEDS)
    if seeds < FEWEST_SEEDS and list(command[:2]) == ["limbeck", job]:
        return with_flag(command, "--seeds", str(FEWEST_SEEDS))
    return ""


def with_flag(command: Sequence[str], flag: str, value: str) -> str:
    """A command line with a flag set to a value, in its place where it was given."""
    given, parts = False, []
    words = iter(command)
    for word in words:
        if word == flag:
            next(words, None)
        if word == flag or word.startswith(f"{flag}="):
            parts += [flag, value]
            given = True
        else:
            parts.append(word)
    return shlex.join(parts if given else [*parts, flag, value])
