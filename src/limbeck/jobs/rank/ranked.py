"""The file of ranked completions: its rows, and that none of another content is replaced."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.disk import write_text
from limbeck.errors import BadFolder
from limbeck.jobs.rank.candidates import Candidate

_GAIN = "gain_nats"


def ranked(one: Candidate, gain: float, place: int, among: int) -> dict[str, Any]:
    """A completion in the form in which it was read, with its gain in nats, its place, and among how many."""
    assert one.prompt.known is not None, "a candidate"
    about = {_GAIN: round(gain, 4), "place": place, "among": among, "document": one.prompt.name}
    return one.prompt.answered(one.prompt.known) | ({} if one.known is None else {"answer": one.known}) | about


def earlier(out: Path, groups: Sequence[Sequence[Candidate]], keep: int) -> list[tuple[Candidate, float]]:
    """What a ranking that is at ``out`` kept of the completions of each prompt, with their gains; [] where nothing is there.

    Raises BadFolder where something else is there: other completions, another number of each prompt, or no ranking.
    """
    if not out.exists():
        return []
    slots = [(some, place) for some in groups for place in range(1, min(keep, len(some)) + 1)]
    rows = [] if out.is_dir() else out.read_bytes().splitlines()
    found = [one for row, slot in zip(rows, slots, strict=False) if (one := _of(row, *slot))]
    if not len(rows) == len(slots) == len(found):
        raise taken(out)
    return found


def write(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the rows as lines of JSON. Raises BadFolder where ``out`` is there with another content."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if out.is_dir() or (out.exists() and out.read_bytes() != text.encode()):
        raise taken(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)


def _of(line: bytes, some: Sequence[Candidate], place: int) -> tuple[Candidate, float] | None:
    """Which of these completions a line has at a place, and its gain; None for none."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    gain = row.get(_GAIN) if isinstance(row, dict) else None
    if not isinstance(gain, float):
        return None
    return next(((one, gain) for one in some if row == ranked(one, gain, place, len(some))), None)


def taken(out: Path) -> BadFolder:
    """The error for a file of another content."""
    return BadFolder(f"{out} is there already, with another content: give a new file with --out")
