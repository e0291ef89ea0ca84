"""The last screen of `limbeck capture --pairs`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from limbeck.config import CaptureSettings
from limbeck.ending import Ending, show_ending
from limbeck.jobs.capture.choosing import AUTHOR, CHECKS, LEFT_OUT, LIKELIHOOD
from limbeck.jobs.capture.completions import Task, cost
from limbeck.jobs.capture.lengths import CHOSEN, CORRELATION, LONGER, REJECTED
from limbeck.probes.interval import Interval
from limbeck.report.words import counted, duration, interval
from limbeck.run.log import console


def show_pairs(teacher: Task, run: dict[str, Any], file: Path, seconds: float) -> None:
    """Prints how many pairs are in a file, what is left out, how long both sides are, and the next command.

    ``teacher`` is what a teacher generated for them, with --judge author.
    """
    settings, found = teacher.settings, run["written"]
    console.print(f"{counted(found['samples'], 'pair')} of {counted(found['prompts'], 'prompt')}")
    what = "text" if settings.judge == AUTHOR else "prompt"
    for name, number in found["left_out"].items():
        console.print(f"left out: {counted(number, what)} {LEFT_OUT[name]}")
    if found["failed"] and settings.judge == LIKELIHOOD:
        console.print(f"{counted(found['failed'], 'text')} got no score from the server; the same command asks again")
    if found["cut_off"]:
        console.print(
            f"{found['cut_off']:,} of {counted(found['texts'], 'text')} were cut off, and none of these is preferred: give more "
            "--max-new-tokens if they are many"
        )
    if settings.judge == AUTHOR:
        read, wrote = found["teacher_prompt_tokens"], found["teacher_tokens"]
        console.print(f"the teacher's: {cost(teacher, run, read, wrote)}")
    ending = Ending(
        f"{counted(found['samples'], 'preference pair')}, judged by {_JUDGES[settings.judge]}; it took {duration(seconds)}",
        table=_table(found),
        places={"pairs": file},
        then=_next(settings, file) if found["samples"] else "",
    )
    show_ending(ending, console)


_JUDGES = {
    AUTHOR: "who wrote them: the teacher's text is preferred",
    LIKELIHOOD: "the teacher's log-probability per token",
    CHECKS: "checks of the prompts",
}
_MEASURED = {
    CHOSEN: "tokens of a preferred text",
    REJECTED: "tokens of a rejected text",
    LONGER: "pairs whose preferred text is longer",
    CORRELATION: "correlation of score and length, within prompts",
}


def _table(found: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [(words, _number(name, found[name])) for name, words in _MEASURED.items() if name in found]
    return [("", "95 % interval over prompts"), *rows] if rows else []


def _number(name: str, one: dict[str, Any]) -> str:
    digits = ".1f" if name in (CHOSEN, REJECTED) else ".2f"
    if one["low"] is None or one["high"] is None:
        return f"{one['value']:{digits}} ({counted(one['n'], 'prompt')}: too few for an interval)"
    return interval(Interval(**one), digits)


def _next(settings: CaptureSettings, file: Path) -> str:
    """The command that tunes the student on the pairs."""
    student, data = (shlex.quote(str(one)) for one in (settings.pairs, file))
    return f"limbeck tune --student {student} --data {data} --objective DPO --out runs/preferred"
