"""The folder of a GGUF file's model: made once, and kept in the user's cache under the file's SHA-256."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

from limbeck.disk import locked, sha256_of
from limbeck.errors import BadFolder, BadModel

SUFFIX = ".gguf"
VERSION = 1  # of the import: another makes other folders of the same file


def cache_folder() -> Path:
    """limbeck's folder in the user's cache: in XDG_CACHE_HOME, or ~/.cache where that is unset."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "limbeck"


def gguf_in(path: Path) -> Path | None:
    """The GGUF file that a user's path means: the file itself, or the only one of a folder without config.json; else None.

    Raises BadModel where a folder holds several.
    """
    if path.is_file():
        return path if path.suffix.lower() == SUFFIX else None
    if not path.is_dir() or (path / "config.json").is_file():
        return None
    found = sorted(file for file in path.iterdir() if file.suffix.lower() == SUFFIX and file.is_file())
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:6])
        raise BadModel(f"{path}: holds {len(found)} GGUF files ({names}); give one of them")
    return found[0] if found else None


def model_of(path: Path) -> Path:
    """The model folder of a GGUF file, made where it is not there yet. Raises what `import_gguf` raises."""
    state = path.stat()
    return _model_of(path.resolve(), state.st_size, state.st_mtime_ns)


@cache
def _model_of(path: Path, size: int, changed: int) -> Path:
    """``size`` and ``changed`` tell a file that was replaced while the process runs."""
    digest = sha256_of(path)
    parent = cache_folder() / "gguf"
    folder = parent / f"{digest}-{VERSION}"
    try:
        with locked(parent, wait=True):
            if not (folder / "config.json").is_file():
                # Imported here, because it takes seconds, and once.
                from limbeck.models.gguf.importer import import_gguf

                print(f"limbeck: {path.name}: de-quantised once, into {folder}", file=sys.stderr)
                import_gguf(path, folder, digest=digest)
    except BadFolder as error:
        raise BadFolder(f"{error} It is the cache of GGUF files; XDG_CACHE_HOME names another place.") from error
    return folder
