"""Findings: the results of the doctor's checks, each with its level, and functions for a list of them.

An error stops a run before it begins. All errors are reported at once, so that they can be fixed in one go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from limbeck.errors import BadModel, Mismatch

Level = Literal["ok", "warning", "error"]

_STYLE: dict[Level, str] = {"ok": "green", "warning": "yellow", "error": "bold red"}


@dataclass(frozen=True)
class Finding:
    """The result of one check: its name, level and message. ``remedy`` is what to do about it, "" if nothing."""

    check: str
    level: Level
    message: str
    remedy: str = ""


def check(findings: Sequence[Finding]) -> None:
    """Raises all errors among the findings in one message: BadModel if all of them are about weights, else Mismatch."""
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        kind = BadModel if all(error.check == "weights" for error in errors) else Mismatch
        raise kind("\n".join(f"{error.check}: {error.message}; {error.remedy}" for error in errors))


def as_json(findings: Sequence[Finding]) -> list[dict[str, str]]:
    """The findings as values for JSON, one dictionary each."""
    return [asdict(finding) for finding in findings]


def show(findings: Sequence[Finding], console: Console) -> None:
    """Prints a table of the findings; nothing if there are none."""
    if not findings:
        return
    table = Table(box=None, pad_edge=False)
    for column in ("check", "", "finding"):
        table.add_column(column, no_wrap=column != "finding")
    for finding in findings:
        message = Text(finding.message)
        if finding.remedy:
            message.append(f"\n→ {finding.remedy}", style="dim" if finding.level == "ok" else "")
        table.add_row(finding.check, Text(finding.level, style=_STYLE[finding.level]), message)
    console.print(table)
