"""limbeck's own JSON and JSON lines: written with checksums, read by one function that knows what belongs into them.

An object carries ``digest``, the SHA-256 of what it says; a line carries ``crc32`` of its other bytes. What earlier versions
wrote has neither and is read all the same, which is said once. What is damaged, changed, of another shape or not there is an
error of the class that the reader names, with file, expectation and remedy.
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
AGAIN = "run the command of the run again, or take the file away to have the report without it"
_BARE = r"^(?!\.{1,2}\Z)[^/\\\x00]+\Z"
_CRC_AT_END = re.compile(rb', "([^"]*)": "([0-9a-f]{8})"\}$')  # under whatever key it stands there now

Bare = Annotated[
    str, msgspec.Meta(pattern=_BARE)
]  # the name of a file: no path, so that it is in the folder that names it
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]

Kind = TypeVar("Kind")


def bare(name: str) -> str:
    """The name of a file as a manifest may give it. Raises ValueError for a path, which could lead out of the folder."""
    if not re.search(_BARE, name):
        raise ValueError(f"expected the bare name of a file, got {name!r}")
    return name


def write_json(path: Path, value: Any) -> None:
    """Writes JSON in one piece, or not at all; an object with the digest of what it says."""
    if isinstance(value, Mapping):
        value = {**value, DIGEST: digest_of(value)}
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a list of objects as `read_rows` reads it."""
    write_json(path, {"rows": list(rows)})


def is_signed(value: Mapping[str, Any]) -> bool:
    """Whether an object carries its digest, under whatever key that is now."""
    last = [*value.values()][-1] if value else None
    return DIGEST in value or (isinstance(last, str) and re.fullmatch(r"sha256:[0-9a-f]{64}", last) is not None)


def digest_of(value: Mapping[str, Any]) -> str:
    """SHA-256 of what an object says, however it is laid out and in whatever order its keys are."""
    said = json.loads(json.dumps({key: inner for key, inner in value.items() if key != DIGEST}))
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def finite(value: Any) -> Any:
    """The same for JSON: tuples as lists, and null for what is infinite or no number."""
    if isinstance(value, Mapping):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(
    path: Path, kind: Any = dict[str, Any], *, error: type[LimbeckError] = BadFolder, remedy: str = AGAIN
) -> Any:
    """What `write_json` wrote, of this ``kind`` (a type that msgspec knows), without its digest.

    Raises ``error`` where the file is missing, no JSON, not as it was written, or of another kind.
    """
    value = parsed(path, _read(path, error, remedy), error=error, remedy=remedy, numbers=_no_number)
    if isinstance(value, dict):
        if is_signed(value):
            if value.pop(DIGEST, None) != digest_of(value):
                raise error(
                    f"{path}: expected what limbeck wrote, got something else (its SHA-256 differs). The file was changed or "
                    f'damaged: {remedy}. If you changed it on purpose, remove its "{DIGEST}".'
                )
        else:
            say_unchecked(path)
    return fits(path, value, kind, error=error, remedy=remedy)


def read_plain(path: Path, kind: Any, *, error: type[LimbeckError], remedy: str) -> Any:
    """JSON without a digest, whoever wrote it, of this kind. Raises ``error`` where the file is missing or not of that."""
    value = parsed(path, _read(path, error, remedy), error=error, remedy=remedy, numbers=_no_number)
    return fits(path, value, kind, error=error, remedy=remedy)


def read_rows(
    path: Path, kind: Any = dict[str, Any], *, error: type[LimbeckError] = BadFolder, remedy: str = AGAIN
) -> list[Any]:
    """What `write_rows` wrote, or earlier versions as a list."""
    value = read_json(path, Any, error=error, remedy=remedy)
    rows = value.get("rows") if isinstance(value, dict) else value
    found: list[Any] = fits(path, rows, list[kind], error=error, remedy=remedy)
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def parsed(
    path: Path,
    text: bytes | str,
    *,
    error: type[LimbeckError],
    remedy: str,
    where: str = "",
    numbers: Callable[[str], Any] = float,
) -> Any:
    """JSON as Python has it; ``numbers`` makes what NaN and infinities are. Raises ``error`` for what cannot be read."""
    try:
        return json.loads(text, parse_constant=numbers)
    except (
        ValueError,
        RecursionError,
    ) as fault:  # also of bytes that are no UTF-8, and numbers of many thousand digits
        raise error(_damaged(path, f"expected JSON as limbeck wrote it ({fault})", remedy, where)) from fault


def fits(
    path: Path, value: Any, kind: Any, *, error: type[LimbeckError] = BadFolder, remedy: str = AGAIN, where: str = ""
) -> Any:
    """The value, where it is of this kind. Raises ``error`` naming the first part that is not."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as fault:
        said = re.sub(r"`str` matching regex '.*'", "the bare name of a file", str(fault))
        said = said[:1].lower() + said[1:]
        raise error(_damaged(path, said, remedy, where)) from fault
    return value


def damaged(path: Path, error: ValueError, where: str = "") -> BadFolder:
    """What to say of a file of a run's that is no JSON."""
    return BadFolder(_damaged(path, f"expected JSON as limbeck wrote it ({error})", AGAIN, where))


def _damaged(path: Path, said: str, remedy: str, where: str) -> str:
    return f"{path}{where}: {said}. The file was changed or damaged: {remedy}."


def _read(path: Path, error: type[LimbeckError], remedy: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise error(f"{path}: expected a file of limbeck's, got: {fault.strerror or fault}: {remedy}.") from fault


_said: list[Path] = []


def say_unchecked(path: Path) -> None:
    """Says, once in a process, that a file is of an earlier version, which wrote no checksums."""
    if not _said:
        _said.append(path)
        print(
            f"limbeck: note: {path} was written by an earlier version and carries no checksum, so damage to it would not be "
            "noticed; nor to others like it",
            file=sys.stderr,
        )


def line_of(row: Mapping[str, Any]) -> str:
    """A row as a line of JSON with the CRC-32 of the bytes it has without that."""
    text = json.dumps(row, ensure_ascii=False)
    return f'{text[:-1]}, "{CRC}": "{zlib.crc32(text.encode()):08x}"}}\n'


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes JSON lines in one piece, or not at all."""
    write_text(path, "".join(map(line_of, rows)))


def read_lines(
    path: Path,
    kind: Any = dict[str, Any],
    *,
    appended: bool = True,
    error: type[LimbeckError] = BadFolder,
    remedy: str = AGAIN,
) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; none where there is no file.

    Of a file that is ``appended`` to a last line that a kill cut short is left out; in one that is written whole it is damage.
    Raises ``error`` where another line is no JSON, not as it was written, or not of this kind.
    """
    if not path.exists():
        return []
    data = io.BytesIO(_read(path, error, remedy))
    return [row for _, row in Lines(path, kind, appended=appended, error=error, remedy=remedy).rows(data)]


class Lines:
    """Looks at the lines of a file one after the other. Once one has its CRC (``checked``) those after it have theirs."""

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
        """(line, row) of each line, but for a last one that a kill cut short: it has no end."""
        for number, line in enumerate(lines, start=1):
            if line.endswith(b"\n") or not self._appended or not _cut_short(line):
                yield line, self.row(line, f", line {number}")

    def row(self, line: bytes, where: str = "") -> dict[str, Any]:
        """The row of a line. Raises the error where it is damaged."""
        row = parsed(self._path, line, where=where, **self._how)
        fits(self._path, row, dict[str, Any], where=where, **self._how)
        line = line.removesuffix(b"\n")
        found = _CRC_AT_END.search(line)
        fits_bytes = found is not None and zlib.crc32(line[: found.start()] + b"}") == int(found[2], 16)
        signed = found is not None and found[1] == CRC.encode()
        if not signed and (self.checked or CRC in row or fits_bytes):
            said = "expected a line that ends with its CRC-32, got none or one that is none"
            raise self._how["error"](_damaged(self._path, said, self._how["remedy"], where))
        if signed and not fits_bytes:
            said = "its CRC-32 is not that of its bytes"
            raise self._how["error"](_damaged(self._path, said, self._how["remedy"], where))
        if signed:
            self.checked = True
            del row[CRC]
        checked: dict[str, Any] = fits(self._path, row, self._kind, where=where, **self._how)
        return checked


def _cut_short(line: bytes) -> bool:
    """Whether a line without its end is the beginning of one: what follows a whole object is damage."""
    try:
        json.JSONDecoder().raw_decode(line.decode(errors="replace"))
    except (ValueError, RecursionError):
        return True
    return False


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
