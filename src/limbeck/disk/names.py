"""Names that a user gave: what they stand for, and how messages show them."""

from __future__ import annotations

from pathlib import Path

from limbeck.errors import BadFolder

_LONGEST_SHOWN = 200  # characters of a name in a message


def existing(name: str | Path) -> Path | None:
    """The file or folder that a user's name stands for, ~ expanded; None where nothing is there, or no file can be called so.

    A name may be anything a user pasted: a list of files, a hub id, a text too long for a name. Raises BadFolder where it is
    not allowed to look.
    """
    if not str(name):
        return None
    try:
        path = Path(name).expanduser()
        path.stat()
    except PermissionError as error:
        raise BadFolder(f"{name}: {error.strerror}: let this user read it, or name another") from error
    except (OSError, ValueError, RuntimeError):  # not there, too long, a NUL in it, the home of nobody
        return None
    return path


def shown(name: str | Path) -> str:
    """A name as a message has it: of a very long one its beginning."""
    text = str(name)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}… ({len(text):,} characters)"
