"""JSON and JSON lines, read and written; what was damaged or changed is an error with the remedy."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.disk.whole import write_text
from limbeck.errors import BadFolder


def write_json(path: Path, value: Any) -> None:
    """Writes JSON in one piece, or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """The same for JSON: tuples as lists, and null for what is infinite or no number."""
    if isinstance(value, Mapping):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file, without a last line that a kill cut short; none where there is no file.

    Raises BadFolder where another line is no JSON.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                break
            raise damaged(path, error, f", line {number}") from error
    return rows


def damaged(path: Path, error: ValueError, where: str = "") -> BadFolder:
    """What to say of a file of a run's that is no JSON."""
    return BadFolder(
        f"{path}{where}: expected JSON as limbeck wrote it ({error}). The file was changed or damaged: run the command "
        "of the run again, or take the file away to have the report without it."
    )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
