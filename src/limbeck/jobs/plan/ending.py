"""The last screen of `limbeck plan`: the choice of each planner, and the command that checks such a pair."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from limbeck.config import PlanSettings, count
from limbeck.disk import existing
from limbeck.ending import Ending

_MODEL = "MODEL"  # for the folder or hub id of a teacher that is known by its size alone
_DATA = "my.jsonl"


def ending(result: dict[str, Any], settings: PlanSettings) -> Ending:
    """The last screen of an answer with planners."""
    student, planners = result["student"], result["planners"]
    named = list(dict.fromkeys(_choice(answer) for answer in planners if answer["verdict"] != "unknown"))
    headline = f"student of {student['parameters']:,} parameters: "
    if not named:
        headline += "no planner finds a best teacher"
    elif len(named) == 1:
        headline += f"all planners choose {named[0]}"
    else:
        headline += f"the planners differ, {' or '.join(named)}"
    rows = [[answer["planner"], _choice(answer), _gain(answer)] for answer in planners]
    return Ending(headline, [["planner", "choice", "gain, nats/token"], *rows], then=_next(result, settings))


def mixture_ending(result: dict[str, Any], settings: PlanSettings) -> Ending:
    """The last screen of an answer about a mixture of layers."""
    total, attention = result["total"], result["attention"]
    rows = [
        [name, f"{one['parameters']:,}", f"{one['state_bytes']:,}", f"{one['flops']:.3g}"]
        for name, one in (("this mixture", total), ("attention in every layer", attention))
    ]
    size = ["--params", str(settings.params)] if settings.params else []
    size += [
        word
        for flag, value in (("--width", settings.width), ("--layers", settings.layers), ("--vocab", settings.vocab))
        if value is not None
        for word in (flag, str(value))
    ]
    return Ending(
        f"{total['parameters']:,} parameters, {total['state_bytes']:,} bytes of state after {result['length']:,} tokens",
        [["", "parameters", "bytes of state", "FLOPs/token"], *rows],
        then=shlex.join(["limbeck", "pretrain", "--mixers", str(settings.mixers), *size, "--data", _DATA]),
    )


def _choice(answer: dict[str, Any]) -> str:
    """The planner's choice: the cheapest teacher within the tolerance (a folder's name), or none."""
    if answer["verdict"] == "cross-entropy":
        return "cross-entropy alone"
    name = answer["cheapest"]
    return "unknown" if name is None else Path(name).name if existing(name) is not None else name


def _gain(answer: dict[str, Any]) -> str:
    """The gain of that over cross-entropy at equal FLOPs, where the planner predicts losses."""
    gains = [row["gain"] for row in answer["rows"] if row["teacher"] == answer["cheapest"]]
    return f"{gains[0]:+.3f}" if gains and answer["cheapest"] else ""


def _next(result: dict[str, Any], settings: PlanSettings) -> str:
    """The command that checks the pair, with the teacher of the last planner that names one, which has most user data."""
    teachers = [answer["cheapest"] for answer in result["planners"] if answer["cheapest"]]
    if not teachers and any(answer["verdict"] == "cross-entropy" for answer in result["planners"]):
        return shlex.join(["limbeck", "pretrain", "--params", str(result["student"]["parameters"]), "--data", _DATA])
    teacher = settings.teacher or (teachers[-1] if teachers else _MODEL)
    shape = result["student"]["shape"]
    size = ["--shape", shape] if shape else ["--params", str(result["student"]["parameters"])]
    if settings.vocab is not None:
        size += ["--vocab", str(result["student"]["vocabulary"]["tokens"])]
    named = teacher if existing(teacher) is not None or not _is_size(teacher) else _MODEL
    return shlex.join(["limbeck", "doctor", "--teacher", named, *size, "--data", _DATA])


def _is_size(name: str) -> bool:
    try:
        return count(name) > 0
    except ValueError:
        return False
