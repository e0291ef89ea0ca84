"""Sources of documents: files, folders, globs, datasets of the Hugging Face hub, the standard library of this Python.

A source is one string; commas join several. `resolve` checks all paths before anything is read, so that a wrong path costs
seconds. The content of files is checked while they are read.
"""

from __future__ import annotations

import difflib
import glob
import os
import platform
import re
import sysconfig
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from limbeck.corpora.document import Document
from limbeck.corpora.faults import BadRecords
from limbeck.corpora.files import READERS, Documents, document_of, is_text, read_passages
from limbeck.corpora.records import Columns, from_text
from limbeck.corpora.remote import found_at, is_remote
from limbeck.corpora.stamp import stamp_of
from limbeck.corpora.streams import PACKED, kind_of
from limbeck.disk import existing, shown
from limbeck.errors import BadCorpus, BadRecord
from limbeck.plugins import Marked, Registry

LONG_TEXT = 128 << 10  # bytes of the shortest .txt file of which a part can be held out
_FILES = ".txt, .jsonl, .json or .parquet files"
KINDS = (
    "a .txt, .jsonl, .json or .parquet file (text and JSON also as .gz or .zst), a folder or glob of these, "
    "an address such as s3://bucket/a.jsonl, hf:name[:config][/split], python:stdlib, or where:FIELD=VALUE:SOURCE"
)

_WHERE = "where:"  # before records of a source that have a value of a field
_CONDITION = re.compile(r"where:([^=:]+)=([^:]*):(.+)", re.DOTALL)
_WEIGHT = re.compile(r":\s*[\d.]+[kMBT]?\s*$")

# Tests, demos, data tables and packages installed beside the library.
NOT_LIBRARY = (
    *("test", "tests", "idlelib", "lib2to3", "pydoc_data", "encodings", "turtledemo", "site-packages", "dist-packages"),
    *("ensurepip", "__pycache__", "config-*", "lib-dynload"),
)


@dataclass(frozen=True)
class Part:
    """One file, dataset or module library of a source.

    ``documents`` reads its documents; records that cannot be read give a BadRecord. ``stamp`` changes with the content, as far
    as this shows without reading it. ``size`` is the number of bytes, None where it does not reflect the amount of text.
    ``beside`` lists ignored files of a folder, on its first part. ``name`` is the name of a file or dataset. ``text`` is the
    file where it is plain text.
    ``plain``: its documents are plain text, which has no fields.
    ``least``: bytes that are to be read, compressed where they are, None where this is unknown. ``streamed``: it is elsewhere,
    and may be far larger than what is needed of it. ``notes`` gives lines for the user about how it was read.
    """

    documents: Callable[[], Documents]
    stamp: list[Any]
    size: int | None = None
    beside: tuple[str, ...] = ()
    name: str = ""
    text: Path | None = None
    plain: bool = False
    least: int | None = None
    streamed: bool = False
    notes: Callable[[], Sequence[str]] = tuple


Source = Callable[[str, Columns], Part]  # what follows "SCHEME:", and what fields are called


def _wrong(name: str, found: object) -> str:
    return "" if callable(found) else "expected a function of (rest, columns) that gives a limbeck.corpora.source.Part"


SOURCES: Registry[Source] = Registry("source", Marked("corpora", "source"), _wrong)


def source(scheme: str) -> Callable[[Source], Source]:
    """Marks limbeck's own sources with the scheme that `--data` names them by: ``@source("hf")`` is hf:NAME."""
    return lambda found: found


def part_of_records(
    records: Callable[[], Iterable[Mapping[str, Any] | str]], *, name: str, stamp: list[Any], columns: Columns
) -> Part:
    """A part whose ``records`` are texts, or mappings as a line of a .jsonl has them; they are read anew at each call.

    ``stamp`` is what JSON can hold and must change when the records do: a store of tokens is made again only then.
    """

    def documents() -> Documents:
        for number, record in enumerate(records(), 1):
            place = {"name": f"{name}:{number}", "where": f"{name}, record {number}"}
            found = {"text": record} if isinstance(record, str) else dict(record)
            yield from document_of(found, **place, columns=columns)

    return Part(documents, [name, *stamp], name=name)


def _blamed(part: Part, scheme: str) -> Part:
    """The part with what goes wrong while it is read laid to the package that its source is of."""
    if not isinstance(part, Part):
        raise TypeError(f"expected a limbeck.corpora.source.Part, got {type(part).__name__}")

    def documents() -> Documents:
        with SOURCES.blamed(scheme):
            yield from part.documents()

    return replace(part, documents=documents)


def read(
    source: str, columns: Columns | None = None, bad: BadRecords | None = None, *, passages: bool = False
) -> Iterator[Document]:
    """The documents of a source, streamed. ``passages``: see `resolve`.

    Raises BadCorpus for a wrong source, already at the call. A record that cannot be read is added to ``bad``; without
    ``bad`` it raises BadCorpus.
    """
    return read_parts(resolve(source, columns, passages=passages), source, bad)


def read_parts(parts: list[Part], source: str, bad: BadRecords | None = None) -> Iterator[Document]:
    """The documents of resolved parts. ``source`` appears in the message where there are none.

    Raises BadCorpus for a source without text, and for a record that cannot be read where ``bad`` is None.
    """
    empty = True
    for _, _, document in entries(parts):
        if isinstance(document, Document):
            empty = False
            if bad is not None:
                bad.good()
            yield document
        elif bad is None:
            raise BadCorpus(str(document))
        else:
            bad.add(document)
    if empty and bad is not None:
        bad.check()
    if empty:
        raise blank(source)


def entries(parts: list[Part], part: int = 0, after: int = 0) -> Iterator[tuple[int, int, Document | BadRecord]]:
    """(number of a part, number in it from 1, what is there): documents, and the records that cannot be read.

    It begins ``after`` so many of the given ``part``.
    """
    for number in range(part, len(parts)):
        there = islice(enumerate(parts[number].documents(), 1), after if number == part else 0, None)
        for place, entry in there:
            yield number, place, entry


def blank(source: str) -> BadCorpus:
    """The error for a source without text."""
    if _WHERE in source:
        return BadCorpus(
            f"{shown(source)}: expected records with that value, got none that has it and holds text: check how the field and "
            "its value are written there"
        )
    return BadCorpus(f"{shown(source)}: expected text, got only blank documents: name a source that holds some")


def resolve(
    source: str, columns: Columns | None = None, *, passages: bool = False, known: frozenset[bytes] = frozenset()
) -> list[Part]:
    """The parts of a source, in reading order. ``columns`` names the fields of its records.

    ``passages``: a source of one long .txt file is split into passages, so that a part of it can be held out. Beside digests
    that are ``known`` each long .txt file is, however many there are, but for one that is known as a whole: so what is known is
    found again, as it was split then. Raises BadCorpus where a part does not exist, is empty, or is of an unknown kind.
    """
    columns = columns or Columns()
    if existing(source):  # a comma may be part of a name
        parts = _one(source, columns)
    else:
        parts = [part for piece in source.split(",") for part in _one(piece.strip(), columns)]
    if not passages or not (known or len(parts) == 1):
        return parts
    return [_in_passages(part, columns, known) for part in parts]


def _in_passages(part: Part, columns: Columns, known: frozenset[bytes]) -> Part:
    """A part whose long text is split into passages, unless its whole is ``known``; any other part as it is."""
    file = part.text
    if file is None or (part.size or 0) < LONG_TEXT:
        return part

    def documents() -> Documents:
        whole = next(part.documents(), None) if known else None
        found = isinstance(whole, Document) and whole.digest() in known
        yield from part.documents() if found else read_passages(file, part.name, columns)

    return replace(part, documents=documents, stamp=[*part.stamp, "passages"])


def _one(source: str, columns: Columns) -> list[Part]:
    """The parts of a source without commas."""
    if not source:
        raise BadCorpus(
            f"expected {KINDS}, got an empty name: write at least one source, and nothing between two commas"
        )
    if is_remote(source):
        return _remote(source, columns)
    if source.startswith(_WHERE) and not existing(source):
        return _where(source, columns)
    scheme, colon, rest = source.partition(":")
    if colon and scheme in SOURCES:
        with SOURCES.blamed(scheme):
            return [_blamed(SOURCES[scheme](rest, columns), scheme)]
    path = existing(source)
    if path is not None:
        return _folder(path, columns) if path.is_dir() else [_file(path, path.name, columns)]
    if re.search(r"[*?\[]", source):
        return _glob(source, columns)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", source):
        raise _unknown(source)
    weights = " (weights of sources are for limbeck distil, pretrain and capture)" if _WEIGHT.search(source) else ""
    weights += " (a source has a name where there are several teachers)" if re.match(r"[A-Za-z][\w-]*=", source) else ""
    raise BadCorpus(
        f"{shown(source)}: expected {KINDS}, got a path that does not exist{_nearest(Path(source))}{weights}"
    )


def _where(source: str, columns: Columns) -> list[Part]:
    """The parts of ``where:FIELD=VALUE:SOURCE``, without records that have another value of the field, or none.

    Raises BadCorpus for a source whose records have no fields.
    """
    found = _CONDITION.fullmatch(source)
    if found is None:
        raise BadCorpus(
            f"{shown(source)}: expected a field, its value and a source, such as where:domain=math:all.jsonl: write all three; a "
            "value with a comma or a colon cannot be written here, so make a file of its records"
        )
    name, value, rest = found[1].strip(), found[2].strip(), found[3].strip()
    scheme, colon, _ = rest.partition(":")
    parts = _one(rest, replace(columns, only=(*columns.only, (name, value))))
    without = [part for part in parts if part.plain]
    if without or (colon and scheme in SOURCES and scheme != "hf"):
        what = without[0].name if without else f"{scheme}:"
        raise BadCorpus(
            f"{shown(source)}: expected records with fields, of .jsonl, .json or .parquet files or a dataset (hf:), got {what}: "
            "leave where: out, or name others"
        )
    parts = [replace(part, stamp=[*part.stamp, _WHERE, name, value], size=None) for part in parts]
    return _not_all_empty(parts, source)


def _not_all_empty(parts: list[Part], source: str) -> list[Part]:
    """The parts, of which the last one raises BadCorpus where all were read and none had anything."""
    state = {"begun": False, "found": False}

    def documents(number: int) -> Documents:
        if number == 0:
            state.update(begun=True, found=False)
        for entry in parts[number].documents():
            state["found"] = True
            yield entry
        if number == len(parts) - 1 and state["begun"] and not state["found"]:
            raise blank(source)

    return [replace(part, documents=partial(documents, number)) for number, part in enumerate(parts)]


def without_conditions(source: str) -> str:
    """A source without the ``where:FIELD=VALUE:`` before it."""
    while found := _CONDITION.fullmatch(source):
        source = found[3].strip()
    return source


def _unknown(source: str) -> BadCorpus:
    schemes = ", ".join(f"{name}:" for name in (*SOURCES, "where"))
    return BadCorpus(f"expected {KINDS}, got {shown(source)!r}: the schemes are {schemes}")


def _file(path: Path, name: str, columns: Columns, beside: tuple[str, ...] = ()) -> Part:
    name = os.fsencode(name).decode("utf-8", "replace")  # a file's name may be any bytes
    kind, packed = kind_of(path), path.suffix.lower() in PACKED
    reader = READERS.get(kind)
    if reader is None or (packed and kind == ".parquet"):
        raise BadCorpus(
            f"{path}: expected {KINDS}, got the extension {path.suffix!r}: rename or convert it (plain text is .txt)"
        )
    size = path.stat().st_size
    if size == 0:
        raise BadCorpus(f"{path}: expected text, got an empty file: fill it or leave it out")
    documents = partial(reader, path, name, columns)
    return Part(
        documents,
        stamp_of(path),
        None if packed or kind == ".parquet" else size,
        beside,
        name,
        path if kind == ".txt" else None,
        kind == ".txt",
        size,
    )


def _remote(address: str, columns: Columns) -> list[Part]:
    """The files of a known kind at an address: one file, a folder, or a pattern. Others are ignored, and listed in ``beside``."""
    files = found_at(address)
    texts = [file for file in files if is_text(file)]
    if not texts:
        came = f"{', '.join(file.name for file in files[:5])}" if files else "nothing"
        raise BadCorpus(f"{address}: expected {_FILES}, got {came}: name others")
    others = tuple(file.name for file in files if not is_text(file))
    return [
        Part(
            partial(READERS[kind_of(file)], file, file.label, columns),
            list(file.stamp),
            None if kind_of(file) == ".parquet" or file.suffix.lower() in PACKED else file.size,
            others if file is texts[0] else (),
            file.label,
            plain=kind_of(file) == ".txt",
            least=file.size,
            streamed=True,
        )
        for file in texts
    ]


def _folder(folder: Path, columns: Columns) -> list[Part]:
    """All files of a known kind in a folder and below it, except hidden ones. Others are ignored, and listed in ``beside``.

    Links to folders are followed. A folder is read once, where it is itself, else by the first of its links by name.
    """
    found, seen, waiting = list[Path](), set[str](), [folder]
    while waiting:
        links = list[Path]()
        for top in waiting:
            if os.path.realpath(top) in seen:
                continue
            for there, folders, names in os.walk(top):
                seen.add(os.path.realpath(there))
                inside = [Path(there, name) for name in sorted(folders) if not name.startswith(".")]
                links += [path for path in inside if path.is_symlink()]
                folders[:] = [path.name for path in inside if not path.is_symlink()]
                found += [Path(there, name) for name in names if not name.startswith(".")]
        waiting = links
    return _texts(sorted(p for p in found if p.is_file()), folder, columns)


def _texts(paths: list[Path], folder: Path, columns: Columns) -> list[Part]:
    """The datasets among some files, named relative to ``folder``."""
    names = {p: str(p.relative_to(folder)) if p.is_relative_to(folder) else p.name for p in paths}
    texts = [p for p in paths if is_text(p)]
    others = tuple(names[p] for p in paths if not is_text(p))
    if not texts:
        came = f"a folder without any (it holds {', '.join(others[:5])})" if others else "a folder without any"
        raise BadCorpus(f"{folder}: expected {_FILES}, got {came}: name another folder")
    return [_file(p, names[p], columns, others if p is texts[0] else ()) for p in texts]


def _glob(pattern: str, columns: Columns) -> list[Part]:
    """The files of a known kind that a pattern matches. Others are ignored, and listed in ``beside``."""
    paths = sorted(Path(match) for match in glob.glob(os.path.expanduser(pattern), recursive=True))
    texts = [p for p in paths if p.is_file() and is_text(p)]
    if not texts:
        found = f"{len(paths)} of other kinds" if paths else "nothing"
        raise BadCorpus(f"{shown(pattern)}: expected a pattern that matches {_FILES}, got {found}")
    others = tuple(p.name for p in paths if p.is_file() and not is_text(p))
    return [_file(p, p.name, columns, others if p is texts[0] else ()) for p in texts]


def _nearest(path: Path) -> str:
    """The most similar existing path, for a message about one that does not exist."""
    folder = existing(path.parent)
    if folder is None or not folder.is_dir():
        return f": there is no folder {shown(path.parent)} either"
    near = difflib.get_close_matches(path.name, [p.name for p in folder.iterdir()], n=1)
    return f": is it {folder / near[0]}?" if near else f": look into {folder.resolve()}"


@source("python")
def _python(rest: str, columns: Columns) -> Part:
    """``python:stdlib``."""
    if rest != "stdlib":
        raise _unknown(f"python:{rest}")
    return Part(standard_library, ["python", platform.python_version()])


def standard_library() -> Iterator[Document]:
    """The source files of the running Python's standard library, without its tests, sorted by module name.

    Raises BadCorpus where a file cannot be read.
    """
    root = Path(sysconfig.get_path("stdlib"))
    modules = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not any(fnmatch(name, pattern) for pattern in NOT_LIBRARY)]
        for path in (Path(folder, name) for name in names if name.endswith(".py")):
            pieces = path.relative_to(root).with_suffix("").parts
            modules.append((".".join(pieces).removesuffix(".__init__"), path))
    for module, path in sorted(modules):
        try:
            with tokenize.open(path) as file:
                text = file.read()
        except (OSError, SyntaxError, UnicodeDecodeError) as error:
            raise BadCorpus(f"{path}: expected Python source, got a file that cannot be read ({error})") from None
        document = from_text(text, name=module, where=str(path), family=module.split(".")[0])
        if document is not None:
            yield document
