"""The last screen of a command: a headline, a small table of what was measured, where it is, and the next command to type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

_NUMBER = ("", *"+-–0123456789")  # how a cell of numbers begins


@dataclass(frozen=True)
class Ending:
    """``headline``: the result in a sentence. ``table``: rows of cells, the first of them headings.

    ``places``: what is where, by name. ``then``: the next command, "" where none follows.
    """

    headline: str
    table: Sequence[Sequence[str]] = ()
    places: Mapping[str, Path] = field(default_factory=dict)
    then: str = ""


def show_ending(ending: Ending, console: Console) -> None:
    """Prints an ending, after an empty line."""
    console.print()
    console.print(Text(ending.headline, style="bold"))
    if ending.table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for number, heading in enumerate(ending.table[0]):
            numbers = all(row[number][:1] in _NUMBER for row in ending.table[1:])
            table.add_column(heading, justify="right" if number and numbers else "left", overflow="fold")
        for row in ending.table[1:]:
            table.add_row(*map(Text, row))
        console.print(table)
    lines = {name: str(path) for name, path in ending.places.items()} | ({"next": ending.then} if ending.then else {})
    width = max(map(len, lines), default=0)
    for name, what in lines.items():
        console.print(Text.assemble((f"{name:<{width}}  ", "bold"), what))
