"""The report of a family: held-out likelihood by size, with what the same money would have bought, and where the reports are."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.disk import write_text
from limbeck.report.figures import SizeCurve, size_curves
from limbeck.report.folder import RunFolder, read_run
from limbeck.report.page import environment
from limbeck.report.words import count, label, plus_minus, share
from limbeck.types import Reading

_ARMS = ("student", "cut+ce", "cut+ce@flops", "fresh+kd")


def write_family_report(folder: Path) -> Path:
    """Writes report.html into a family's folder, from those of its members, and gives its path."""
    run = read_run(folder)
    members = {name: RunFolder.read(folder / name) for name in run["members"]}
    first = next(iter(members.values()))
    arms = [arm for arm in _ARMS if any(found.reading(arm, "held_out") for found in members.values())]
    teacher = first.reading("teacher", "held_out")
    page = (
        environment()
        .get_template("family.html")
        .render(
            title=f"{len(members)} students of {first.run['teacher']['name']}",
            subtitle=f"{first.run['objective']} · {count(first.run['plan']['tokens'])} tokens each",
            arms=[label(arm) for arm in arms[1:]],
            members=[_row(name, found, arms[1:]) for name, found in members.items()],
            teacher=None if teacher is None else (count(first.run["teacher"]["parameters"]), _nats(teacher)),
            figure=size_curves([_curve(arm, list(members.values())) for arm in arms], teacher=teacher),
            command=shlex.join(run["command"]),
            seeds=run["signature"]["seeds"],
        )
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _curve(arm: str, members: Sequence[RunFolder]) -> SizeCurve:
    readings = [(float(found.run["student"]["parameters"]), found.reading(arm, "held_out")) for found in members]
    return SizeCurve(arm, [(size, reading) for size, reading in readings if reading is not None])


def _row(name: str, found: RunFolder, others: Sequence[str]) -> dict[str, Any]:
    differences = {difference["name"]: difference for difference in found.verdict.get("differences", [])}
    closed = differences.get("gap_closed", {}).get("value")
    decode = found.reading("student", "decode")
    return {
        "name": name,
        "parameters": count(found.run["student"]["parameters"]),
        "nats": _nats(found.reading("student", "held_out")),
        "kl": _nats(found.reading("student", "kl_teacher_student")),
        "closed": "" if closed is None else share(closed),
        "decode": "" if decode is None else f"{count(decode.value)} tokens/s",
        "gains": [_gain(differences.get(f"{arm} - student")) for arm in others],
        "verdict": found.verdict.get("text", ""),
    }


def _gain(difference: Mapping[str, Any] | None) -> str:
    if difference is None or None in (difference["value"], difference["low"], difference["high"]):
        return ""
    return plus_minus(difference["value"], (difference["high"] - difference["low"]) / 2)


def _nats(reading: Reading | None) -> str:
    return "" if reading is None else plus_minus(reading.value, (reading.high - reading.low) / 2)
