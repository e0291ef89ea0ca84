"""What the doctor says: findings, each with its level, and what to do with a list of them.

An error stops a run before it begins. All errors are said at once, so that nobody mends one to meet the next.
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
    """One thing that was looked at. ``remedy`` is what to do about it, empty where there is nothing to do."""

    check: str
    level: Level
    message: str
    remedy: str = ""


def check(findings: Sequence[Finding]) -> None:
    """Raises if there are errors, all of them in one message: BadModel if weights alone are at fault, else Mismatch."""
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        kind = BadModel if all(error.check == "weights" for error in errors) else Mismatch
        raise kind("\n".join(f"{error.check}: {error.message}; {error.remedy}" for error in errors))


def as_json(findings: Sequence[Finding]) -> list[dict[str, str]]:
    """The findings as JSON holds them."""
    return [asdict(finding) for finding in findings]


def show(findings: Sequence[Finding], console: Console) -> None:
    """Prints a table of the findings; nothing where there are none."""
    if not findings:
        return
    table = Table(box=None, pad_edge=False)
    for column in ("check", "", "finding"):
        table.add_column(column, no_wrap=column != "finding")
    for finding in findings:
        said = Text(finding.message)
        if finding.remedy:
            said.append(f"\n→ {finding.remedy}", style="dim" if finding.level == "ok" else "")
        table.add_row(finding.check, Text(finding.level, style=_STYLE[finding.level]), said)
    console.print(table)
