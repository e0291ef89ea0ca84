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


def require_room(out: Path, groups: Sequence[Sequence[Candidate]], keep: int) -> None:
    """Raises BadFolder where ``out`` is there, and no ranking of these completions by prompt, whatever their gains."""
    if not out.exists():
        return
    slots = [(some, place) for some in groups for place in range(1, min(keep, len(some)) + 1)]
    rows = [] if out.is_dir() else out.read_bytes().splitlines()
    if len(rows) != len(slots) or not all(_of(row, *slot) for row, slot in zip(rows, slots, strict=True)):
        raise _taken(out)


def write(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the rows as lines of JSON. Raises BadFolder where ``out`` is there with another content."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if out.is_dir() or (out.exists() and out.read_bytes() != text.encode()):
        raise _taken(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)


def _of(line: bytes, some: Sequence[Candidate], place: int) -> bool:
    """Whether a line is one of these completions at a place, but for its gain."""
    try:
        row = json.loads(line)
    except ValueError:
        return False
    gain = row.get(_GAIN) if isinstance(row, dict) else None
    return isinstance(gain, float) and any(row == ranked(one, gain, place, len(some)) for one in some)


def _taken(out: Path) -> BadFolder:
    return BadFolder(f"{out} is there already, with another content: give a new file with --out")
