"""limbeck's own JSON and JSON lines, written with checksums and checked against a type when they are read.

An object contains ``digest``, the SHA-256 of its other content; a line contains ``crc32`` of its other bytes. Files of earlier
versions have neither. They are read all the same, and a note is printed once. A file that is missing, damaged, changed, or of
another type is an error of the class that the caller names, with file, expectation and remedy.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from limbeck.disk.whole import write_text
from limbeck.errors import BadFolder, LimbeckError

DIGEST, CRC = "digest", "crc32"
AGAIN = "run the command of the run again, or remove the file to get the report without it"
_BARE = r"^(?!\.{1,2}\Z)[^/\\\x00]+\Z"
_CRC_AT_END = re.compile(rb', "([^"]*)": "([0-9a-f]{8})"\}$')  # under any key, which may be damaged

Bare = Annotated[
    str, msgspec.Meta(pattern=_BARE)
]  # the name of a file without a path, so that it cannot leave the folder
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]

Kind = TypeVar("Kind")


def bare(name: str) -> str:
    """The same name, where it is that of a file. Raises ValueError for a path, which could leave the folder."""
    if not re.search(_BARE, name):
        raise ValueError(f"expected the bare name of a file, got {name!r}")
    return name


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically, an object with its digest. Raises BadFolder where the file cannot be written."""
    if isinstance(value, Mapping):
        value = {**value, DIGEST: digest_of(value)}
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a list of objects atomically for `read_rows`. Raises BadFolder where the file cannot be written."""
    write_json(path, {"rows": list(rows)})


def is_signed(value: Mapping[str, Any]) -> bool:
    """Whether an object contains its digest, under any key, since the key may be damaged."""
    last = [*value.values()][-1] if value else None
    return DIGEST in value or (isinstance(last, str) and re.fullmatch(r"sha256:[0-9a-f]{64}", last) is not None)


def digest_of(value: Mapping[str, Any]) -> str:
    """SHA-256 of an object's content without its digest. Layout and order of keys do not matter."""
    content = json.loads(json.dumps({key: inner for key, inner in value.items() if key != DIGEST}))
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def finite(value: Any) -> Any:
    """The value for JSON: tuples become lists, NaN and infinity become None."""
    if isinstance(value, Mapping):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(
    path: Path, kind: Any = dict[str, Any], *, error: type[LimbeckError] = BadFolder, remedy: str = AGAIN
) -> Any:
    """The content of a file of `write_json`, without its digest. ``kind`` is its type, as msgspec knows types.

    Raises ``error`` where the file is missing, not JSON, damaged, or of another type.
    """
    value = parsed(path, _read(path, error, remedy), error=error, remedy=remedy, numbers=_no_number)
    if isinstance(value, dict):
        if is_signed(value):
            if value.pop(DIGEST, None) != digest_of(value):
                raise error(
                    f"{path}: expected the content limbeck wrote, got another (its SHA-256 differs). The file was changed or "
                    f'damaged: {remedy}. If you changed it on purpose, remove its "{DIGEST}".'
                )
        else:
            warn_unchecked(path)
    return require_type(path, value, kind, error=error, remedy=remedy)


def read_plain(path: Path, kind: Any, *, error: type[LimbeckError], remedy: str) -> Any:
    """The content of a JSON file without a digest, of this type. Raises ``error`` where it is missing or of another type."""
    value = parsed(path, _read(path, error, remedy), error=error, remedy=remedy, numbers=_no_number)
    return require_type(path, value, kind, error=error, remedy=remedy)


def read_rows(
    path: Path, kind: Any = dict[str, Any], *, error: type[LimbeckError] = BadFolder, remedy: str = AGAIN
) -> list[Any]:
    """The objects of a file of `write_rows`, or of a plain list of earlier versions. Raises ``error`` as `read_json` does."""
    value = read_json(path, Any, error=error, remedy=remedy)
    rows = value.get("rows") if isinstance(value, dict) else value
    found: list[Any] = require_type(path, rows, list[kind], error=error, remedy=remedy)
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def parsed(
    path: Path,
    text: bytes | str,
    *,
    error: type[LimbeckError],
    remedy: str,
    where: str = "",
    numbers: Callable[[str], Any] = float,
) -> Any:
    """The Python value of a JSON text. ``numbers`` converts NaN and infinities. Raises ``error`` where it cannot be read."""
    try:
        return json.loads(text, parse_constant=numbers)
    except (
        ValueError,
        RecursionError,
    ) as fault:  # also for bytes that are not UTF-8, and numbers of many thousand digits
        raise error(_damaged(path, f"expected JSON as limbeck wrote it ({fault})", remedy, where)) from fault


def require_type(
    path: Path, value: Any, kind: Any, *, error: type[LimbeckError] = BadFolder, remedy: str = AGAIN, where: str = ""
) -> Any:
    """The same value, where it has this type. Raises ``error``, which names the first part that has not."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as fault:
        reason = re.sub(r"`str` matching regex '.*'", "the bare name of a file", str(fault))
        reason = reason[:1].lower() + reason[1:]
        raise error(_damaged(path, reason, remedy, where)) from fault
    return value


def damaged(path: Path, error: ValueError, where: str = "") -> BadFolder:
    """The error for a file of a run that is not JSON."""
    return BadFolder(_damaged(path, f"expected JSON as limbeck wrote it ({error})", AGAIN, where))


def _damaged(path: Path, reason: str, remedy: str, where: str) -> str:
    return f"{path}{where}: {reason}. The file was changed or damaged: {remedy}."


def _read(path: Path, error: type[LimbeckError], remedy: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise error(f"{path}: expected a file of limbeck's, got: {fault.strerror or fault}: {remedy}.") from fault


_noted: list[Path] = []


def warn_unchecked(path: Path) -> None:
    """Prints once in a process that a file is from an earlier version, which wrote no checksums."""
    if not _noted:
        _noted.append(path)
        print(
            f"limbeck: note: {path} was written by an earlier version without a checksum, so damage to it would not be noticed; "
            "the same holds for other files of that version",
            file=sys.stderr,
        )


def json_line(row: Mapping[str, Any]) -> str:
    """A row as a line of JSON with the CRC-32 of its other bytes."""
    text = json.dumps(row, ensure_ascii=False)
    return f'{text[:-1]}, "{CRC}": "{zlib.crc32(text.encode()):08x}"}}\n'


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes JSON lines atomically. Raises BadFolder where the file cannot be written."""
    write_text(path, "".join(map(json_line, rows)))


def read_lines(
    path: Path,
    kind: Any = dict[str, Any],
    *,
    appended: bool = True,
    error: type[LimbeckError] = BadFolder,
    remedy: str = AGAIN,
) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; none where there is no file.

    Where lines are ``appended``, an incomplete last line is ignored, since a kill can cause it. In a file that is written at
    once it is damage. Raises ``error`` where a line is not JSON, damaged, or of another type.
    """
    if not path.exists():
        return []
    data = io.BytesIO(_read(path, error, remedy))
    return [row for _, row in Lines(path, kind, appended=appended, error=error, remedy=remedy).rows(data)]


class Lines:
    """Checks the lines of a file in order. After a line with a CRC (``checked``), all others must have one."""

    def __init__(
        self,
        path: Path,
        kind: Any,
        *,
        appended: bool = True,
        error: type[LimbeckError] = BadFolder,
        remedy: str = AGAIN,
    ) -> None:
        self._path, self._kind, self._appended = path, kind, appended
        self._how: dict[str, Any] = {"error": error, "remedy": remedy}
        self.checked = False

    def rows(self, lines: Iterable[bytes]) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """(line, row) for each line, except an incomplete last one. Raises the error where a line is damaged."""
        for number, line in enumerate(lines, start=1):
            if line.endswith(b"\n") or not self._appended or not _cut_short(line):
                yield line, self.row(line, f", line {number}")

    def row(self, line: bytes, where: str = "") -> dict[str, Any]:
        """The row of a line. Raises the error where it is damaged."""
        row = parsed(self._path, line, where=where, **self._how)
        require_type(self._path, row, dict[str, Any], where=where, **self._how)
        line = line.removesuffix(b"\n")
        found = _CRC_AT_END.search(line)
        fits_bytes = found is not None and zlib.crc32(line[: found.start()] + b"}") == int(found[2], 16)
        signed = found is not None and found[1] == CRC.encode()
        if not signed and (self.checked or CRC in row or fits_bytes):
            reason = "expected a line that ends with its CRC-32, got none or a malformed one"
            raise self._how["error"](_damaged(self._path, reason, self._how["remedy"], where))
        if signed and not fits_bytes:
            reason = "its CRC-32 is not that of its bytes"
            raise self._how["error"](_damaged(self._path, reason, self._how["remedy"], where))
        if signed:
            self.checked = True
            del row[CRC]
        checked: dict[str, Any] = require_type(self._path, row, self._kind, where=where, **self._how)
        return checked


def _cut_short(line: bytes) -> bool:
    """Whether a line without a line feed is incomplete. Text after a complete object is damage instead."""
    try:
        json.JSONDecoder().raw_decode(line.decode(errors="replace"))
    except (ValueError, RecursionError):
        return True
    return False


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
