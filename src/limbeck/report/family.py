"""The report of a sweep: held-out loss by size and objective, baselines, training curves, samples, links to each report."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from limbeck.disk import require_type, write_text
from limbeck.ending import Ending
from limbeck.errors import BadFolder
from limbeck.probes import Measurements, difference_test
from limbeck.report import schema as kinds
from limbeck.report.decision import rows_decided, rule
from limbeck.report.figures import Curve, SizeCurve, objective_points, size_curves, sweep_curves
from limbeck.report.folder import RunFolder, read_run
from limbeck.report.page import environment
from limbeck.report.samples import in_whole_words
from limbeck.report.screen import next_of_distil
from limbeck.report.start import Start, start_of
from limbeck.report.words import bounded, count, label, share
from limbeck.types import Reading

_ARMS = ("student", "layers+kd", "cut+ce", "cut+ce@flops", "fresh+kd")
_SAMPLES = 2  # documents
_NEED_TEACHER = ("student", "layers+kd", "fresh+kd")  # those that are trained with the objective of their student


def write_family_report(folder: Path) -> Path:
    """Writes report.html into a sweep's folder, from the folders of its students, and gives its path.

    Raises BadFolder where no student has begun to train, or a file is damaged.
    """
    run = require_type(folder / "run.json", read_run(folder), kinds.Family)
    begun = [name for name in run["members"] if (folder / name / "run.json").is_file()]
    members = {name: found for name in begun if "plan" in (found := RunFolder.read(folder / name)).run}
    if not members:
        raise BadFolder(f"{folder}: none of its students has begun to train yet, so there is nothing to report")
    for name, found in members.items():
        require_type(folder / name / "run.json", found.run, kinds.Member)
    first = next(iter(members.values()))
    names = dict(zip(run["members"], run.get("objectives", ()), strict=False))
    said = {name: names.get(name, found.run["objective"]) for name, found in members.items()}
    objectives = list(dict.fromkeys(said.values()))
    gains = _against_first(folder, members) if len(objectives) > 1 else {}
    sizes = {found.run["student"]["parameters"] for found in members.values()}
    arms = [arm for arm in _ARMS if any(found.reading(arm, "held_out") for found in members.values())]
    teacher = first.reading("teacher", "held_out")
    compared = _decided(gains, members, arms[1:])
    start = start_of(first.run)
    page = (
        environment()
        .get_template("family.html")
        .render(
            title=f"{len(members)} student{'s' if len(members) > 1 else ''} of {first.run['teacher']['name']}",
            subtitle=f"{' · '.join(objectives)} · {count(first.run['plan']['tokens'])} tokens read by each",
            arms=[label(arm, start) for arm in arms[1:]],
            members=[_row(name, found) | {"gains": compared[name]} for name, found in members.items()],
            against=objectives[0] if gains else "",
            winners_by=rule([cell.seeds for cells in compared.values() for cell in cells if cell]),
            teacher=None if teacher is None else (count(first.run["teacher"]["parameters"]), _nats(teacher)),
            speed=_speed(first.reading("teacher", "decode")),
            documents="" if teacher is None else f"{teacher.n:,} ",
            figure=_quality(arms, members, said, start, by_size=len(sizes) > 1),
            by_size=len(sizes) > 1,
            curves=sweep_curves(_training(members, said), teacher=None if teacher is None else teacher.value),
            samples=_samples(members),
            command=shlex.join(run["command"]),
            seeds=run["signature"]["seeds"],
        )
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"


def sweep_ending(folder: Path, run: Mapping[str, Any], report: Path) -> Ending:
    """The last screen of a sweep: each student's size and held-out loss, and a closer look at the best of them."""
    members = {name: RunFolder.read(folder / name) for name in run["members"]}
    losses = {name: found.reading("student", "held_out") for name, found in members.items()}
    rows = [
        [name, count(found.run["student"]["parameters"]), _nats(losses[name]), _row(name, found)["closed"]]
        for name, found in members.items()
    ]
    best = min(members, key=lambda name: math.inf if losses[name] is None else losses[name].value)  # type: ignore[union-attr]
    teacher = members[best].reading("teacher", "held_out")
    if teacher is not None:
        rows.insert(0, ["teacher", count(members[best].run["teacher"]["parameters"]), _nats(teacher), ""])
    number = len(members)
    return Ending(
        f"{number} students of {members[best].run['teacher']['name']}; lowest held-out loss: {best}",
        [["student", "parameters", "held out, nats/token", "of the gap closed"], *rows],
        {"report": report},
        next_of_distil(dict(run), folder / best / "student"),
    )


def _quality(
    arms: Sequence[str], members: Mapping[str, RunFolder], said: Mapping[str, str], start: Start, *, by_size: bool
) -> Markup | None:
    """The figure of a sweep: held-out loss over the student's size, or by objective where all are of one size."""
    first = next(iter(members.values()))
    teacher = first.reading("teacher", "held_out")
    if by_size:
        return size_curves(_curves(arms, members, said), teacher=teacher, start=start)
    students = {
        said[name]: reading for name, found in members.items() if (reading := found.reading("student", "held_out"))
    }
    others = {
        arm: reading for arm in arms[1:] if arm not in _NEED_TEACHER and (reading := first.reading(arm, "held_out"))
    }
    return objective_points(students, others, teacher=teacher, start=start)


def _training(members: Mapping[str, RunFolder], said: Mapping[str, str]) -> dict[str, list[tuple[str, Curve]]]:
    """By objective, the training curves of its students (of their first seed), by size."""
    found: dict[str, list[tuple[str, Curve]]] = {}
    for name, member in members.items():
        curve = next((curve for curve in member.curves if curve.arm == "student"), None)
        if curve is not None:
            found.setdefault(said[name], []).append((count(member.run["student"]["parameters"]), curve))
    return found


def _samples(members: Mapping[str, RunFolder]) -> list[dict[str, Any]]:
    """Held-out documents that all students continued: the prompt, and (name, kind, greedy, sampled) of each model."""
    by_prompt = [{(row["document"], row["prompt"]): row for row in found.samples} for found in members.values()]
    common = [key for key in (by_prompt[0] if by_prompt else {}) if all(key in rows for rows in by_prompt)]
    return [_sample([rows[key] for rows in by_prompt], list(members)) for key in common[:_SAMPLES]]


def _sample(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """One document; the rows of all students, which have the same prompt."""
    kinds = [("teacher", "teacher", rows[0])] if "teacher" in rows[0] else []
    kinds += [(name, "student", row) for name, row in zip(names, rows, strict=True)]
    texts: dict[tuple[str, str], str] = {}
    for name, kind, row in kinds:
        texts |= {(name, part): row[key] for part, key in (("", kind), ("sampled", f"{kind}_sampled")) if key in row}
    whole = in_whole_words(
        [{"prompt": rows[0]["prompt"], **{f"{n}/{part}": text for (n, part), text in texts.items()}}]
    )[0]
    of = [(name, kind, whole.get(f"{name}/", ""), whole.get(f"{name}/sampled", "")) for name, kind, _ in kinds]
    return {"prompt": whole["prompt"], "of": of, "sampled": any(sampled for *_, sampled in of)}


@dataclass(frozen=True)
class Cell:
    """A comparison in the table of students: its text, how it is coloured, and of how many seeds it is."""

    text: str
    state: str
    seeds: int


def _against_first(folder: Path, members: Mapping[str, RunFolder]) -> dict[str, dict[str, Any]]:
    """How many nats each student has fewer than that of its size with the first objective, on the same documents.

    As verdict.json holds a difference.
    """
    first: dict[int, list[Measurements]] = {}
    gains = {}
    for name, found in members.items():
        files = sorted((folder / name / "measurements").glob("student-seed*.safetensors"))
        runs = [Measurements.load(file) for file in files]
        theirs = first.setdefault(found.run["student"]["parameters"], runs)
        if theirs is runs or not len(theirs) == len(runs) > 0:
            continue
        before, after = (np.stack([run.nats for run in side]) for side in (theirs, runs))
        gain, chance = difference_test(before, after, runs[0].tokens)
        gains[name] = asdict(gain) | {"chance": chance, "seeds": len(runs)}
    return gains


def _decided(
    gains: Mapping[str, Mapping[str, Any]], members: Mapping[str, RunFolder], arms: Sequence[str]
) -> dict[str, list[Cell | None]]:
    """The comparisons of each student, with the first objective where there are ``gains`` and with the arms, decided together."""
    table: dict[str, list[Mapping[str, Any] | None]] = {}
    for name, found in members.items():
        theirs = {one["name"]: one for one in found.verdict.get("differences", [])}
        row = [theirs.get(f"{arm} - student") for arm in arms]
        table[name] = [*([gains.get(name)] if gains else []), *row]
    known = [one for row in table.values() for one in row if one and _is_bounded(one)]
    cells = {id(one): _cell(one, outcome) for one, (outcome, _) in zip(known, rows_decided(known), strict=True)}
    return {name: [cells.get(id(one)) for one in row] for name, row in table.items()}


def _is_bounded(one: Mapping[str, Any]) -> bool:
    return all(one[key] is not None and math.isfinite(one[key]) for key in ("value", "low", "high"))


def _cell(one: Mapping[str, Any], outcome: str) -> Cell:
    state = outcome if outcome in ("better", "worse") else "open"
    return Cell(bounded(one["value"], one["low"], one["high"]), state, one["seeds"])


def _curves(arms: Sequence[str], members: Mapping[str, RunFolder], said: Mapping[str, str]) -> list[SizeCurve]:
    """A line for each arm, of the students one for each objective; what they are compared with is that of the first.

    ``said`` is the objective of each member.
    """
    curves = []
    objectives = list(dict.fromkeys(said.values()))
    for number, objective in enumerate(objectives):
        mine = [found for name, found in members.items() if said[name] == objective]
        for arm in arms if number == 0 else arms[:1]:
            readings = [(float(found.run["student"]["parameters"]), found.reading(arm, "held_out")) for found in mine]
            points = [(size, reading) for size, reading in readings if reading is not None]
            name = objective if len(objectives) > 1 and arm in _NEED_TEACHER else ""
            curves.append(SizeCurve(arm, points, name, number))
    return curves


def _row(name: str, found: RunFolder) -> dict[str, Any]:
    differences = {difference["name"]: difference for difference in found.verdict.get("differences", [])}
    closed = differences.get("gap_closed", {}).get("value")
    return {
        "name": name,
        "parameters": count(found.run["student"]["parameters"]),
        "nats": _nats(found.reading("student", "held_out")),
        "kl": _nats(found.reading("student", "kl_teacher_student")),
        "closed": "–" if closed is None else share(closed) if closed >= 0 else "further away",
        "decode": _speed(found.reading("student", "decode")),
        "verdict": found.verdict.get("text", ""),
    }


def _nats(reading: Reading | None) -> str:
    return "–" if reading is None else bounded(reading.value, reading.low, reading.high)


def _speed(reading: Reading | None) -> str:
    return "–" if reading is None else f"{count(reading.value)} tokens/s"
