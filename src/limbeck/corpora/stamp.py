"""Stamps of text files: what tells a file from another without reading it, and does not say where it is.

A store of tokens is made again only where its stamps changed. Folders that hold stamps are copied and published, so the path is
in them as a digest. Earlier versions wrote the path itself.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any


def stamp_of(path: Path) -> list[Any]:
    """[digest of the absolute path, bytes, time of the last change in ns] of a file."""
    stat = path.stat()
    return [_digest(str(path.resolve())), stat.st_size, stat.st_mtime_ns]


def without_paths(facts: Any) -> Any:
    """JSON values with the digest in every stamp that has an absolute path, as earlier versions wrote it."""
    if isinstance(facts, dict):
        return {key: without_paths(value) for key, value in facts.items()}
    if not isinstance(facts, list):
        return facts
    match facts:
        case [str(path), int(), int(), *rest] if os.path.isabs(path):
            return [_digest(path), *facts[1:3], *rest]
    return [without_paths(value) for value in facts]


def _digest(path: str) -> str:
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:16]
