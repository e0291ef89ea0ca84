"""File names from a user: the file they refer to, and how messages show them."""

from __future__ import annotations

from pathlib import Path

from limbeck.errors import BadFolder

_LONGEST_SHOWN = 200  # characters of a name in a message


def existing(name: str | Path) -> Path | None:
    """The file or folder that a user's text names, with ~ expanded; None where it does not exist or cannot be a file name.

    The text may be anything: a list of files, a hub id, a text too long for a name. Raises BadFolder where reading is not
    permitted.
    """
    if not str(name):
        return None
    try:
        path = Path(name).expanduser()
        path.stat()
    except PermissionError as error:
        raise BadFolder(f"{name}: {error.strerror}: permit this user to read it, or give another") from error
    except (OSError, ValueError, RuntimeError):  # missing, too long, containing NUL, or the home of an unknown user
        return None
    return path


def shown(name: str | Path) -> str:
    """A name as messages show it: a very long one is cut off, with its length."""
    text = str(name)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}… ({len(text):,} characters)"
