"""Where documents come from: files, folders, globs, the Hugging Face hub, the standard library of this Python.

A source is one string, several joined by commas. `resolve` looks at all of it before anything is read, so that a wrong
path costs seconds; what lies inside the files is only known by reading them.
"""

from __future__ import annotations

import difflib
import glob
import os
import platform
import re
import sysconfig
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from limbeck.corpora.document import Document, from_record, from_text
from limbeck.corpora.files import READERS, text_column
from limbeck.errors import BadCorpus

KINDS = "a .txt, .jsonl or .parquet file, a folder or glob of these, hf:name[:config][/split], or python:stdlib"

# Tests, demos, data tables and what is installed beside the library rather than part of it.
NOT_LIBRARY = (
    *("test", "tests", "idlelib", "lib2to3", "pydoc_data", "encodings", "turtledemo", "site-packages", "dist-packages"),
    *("ensurepip", "__pycache__", "config-*", "lib-dynload"),
)

_SPLIT = r"(?:train|test|validation|valid|val|dev)(?:\[[^\]]*\])?"
_HUB = re.compile(rf"(?P<name>[^:]+?)(?::(?P<config>[^/:]+)(?:/(?P<after_config>.+))?|/(?P<split>{_SPLIT}))?")


@dataclass(frozen=True)
class Part:
    """One file, data set or module library of a source.

    ``stamp`` changes when the content does, as far as can be told without reading it. ``size`` is the number of bytes
    where it says something about the amount of text, else None.
    """

    documents: Callable[[], Iterator[Document]]
    stamp: list[Any]
    size: int | None = None


def read(source: str) -> Iterator[Document]:
    """The documents of a source, streamed. A wrong source is an error at the call, before the first document."""
    return read_parts(resolve(source), source)


def read_parts(parts: list[Part], source: str) -> Iterator[Document]:
    """The documents of resolved parts; ``source`` names them if there turn out to be none."""
    empty = True
    for part in parts:
        for document in part.documents():
            empty = False
            yield document
    if empty:
        raise BadCorpus(f"{source}: expected text, got only blank documents: name a source that holds some")


def resolve(source: str) -> list[Part]:
    """The parts of a source, in the order in which they are read."""
    if Path(source).exists():  # a comma may be part of a name
        return _one(source)
    return [part for piece in source.split(",") for part in _one(piece.strip())]


def _one(source: str) -> list[Part]:
    """The parts of a source without commas."""
    if not source:
        raise BadCorpus(
            f"expected {KINDS}, got an empty name: write at least one source, and nothing between two commas"
        )
    if source == "python:stdlib":
        return [Part(standard_library, ["python", platform.python_version()])]
    if source.startswith("hf:"):
        return [_hub(source)]
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    if path.exists():
        return [_file(path, path.name)]
    if re.search(r"[*?\[]", source):
        return _glob(source)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", source):
        raise BadCorpus(f"expected {KINDS}, got {source!r}: the schemes are hf: and python:stdlib")
    raise BadCorpus(f"{source}: expected {KINDS}, got a path that does not exist{_nearest(path)}")


def _file(path: Path, name: str) -> Part:
    reader = READERS.get(path.suffix)
    if reader is None:
        raise BadCorpus(
            f"{path}: expected {KINDS}, got the extension {path.suffix!r}: rename or convert it (plain text is .txt)"
        )
    stat = path.stat()
    if stat.st_size == 0:
        raise BadCorpus(f"{path}: expected text, got an empty file: fill it or leave it out")
    size = stat.st_size if path.suffix != ".parquet" else None
    return Part(partial(reader, path, name), [str(path.resolve()), stat.st_size, stat.st_mtime_ns], size)


def _folder(folder: Path) -> list[Part]:
    """Every file of a known kind in a folder and below it, but for hidden ones; other kinds are passed over."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix in READERS and p.is_file())
    paths = [p for p in paths if not any(piece.startswith(".") for piece in p.relative_to(folder).parts)]
    if not paths:
        raise BadCorpus(
            f"{folder}: expected .txt, .jsonl or .parquet files, got a folder without any: name another folder"
        )
    return [_file(p, str(p.relative_to(folder))) for p in paths]


def _glob(pattern: str) -> list[Part]:
    """What matches a pattern: files of a known kind, and folders of these."""
    paths = sorted(Path(match) for match in glob.glob(pattern, recursive=True))
    parts = [_file(p, p.name) for p in paths if p.is_file() and p.suffix in READERS]
    if not parts:
        found = f"{len(paths)} of other kinds" if paths else "nothing"
        raise BadCorpus(f"{pattern}: expected a pattern that matches .txt, .jsonl or .parquet files, got {found}")
    return parts


def _nearest(path: Path) -> str:
    """What is there instead, for a message about a path that is not."""
    if not path.parent.is_dir():
        return f": there is no folder {path.parent} either"
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=1)
    return f": is it {path.parent / near[0]}?" if near else f": look into {path.parent.resolve()}"


def standard_library() -> Iterator[Document]:
    """The source files of the running Python's standard library, without its tests, sorted by module name."""
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


def hub_name(source: str) -> tuple[str, str | None, str]:
    """Name, configuration and split of ``hf:name[:config][/split]``.

    A name may hold a slash itself (``org/name``). So without a configuration, what follows the last slash is the split
    only if it looks like one: train, test, validation, valid, val or dev, perhaps with a slice (``train[:10%]``).
    After a configuration anything does. A local folder of that whole name is taken as the name. By default the
    split is train.
    """
    rest = source.removeprefix("hf:")
    if rest and Path(rest).is_dir():
        return rest, None, "train"
    match = _HUB.fullmatch(rest)
    if match is None:
        raise BadCorpus(f"expected hf:name[:config][/split], got {source!r}: for example hf:org/name:config/train")
    return match["name"], match["config"], match["after_config"] or match["split"] or "train"


def _hub(source: str) -> Part:
    """A data set of the hub, or a local folder in the hub's layout. It is downloaded here, and read from disk later."""
    import datasets  # takes a second

    name, config, split = hub_name(source)
    try:
        data = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the library raises what its many readers raise
        reason = str(error).strip().split("\n")[0]
        raise BadCorpus(
            f"{source}: expected a data set {name!r}, configuration {config or 'default'!r}, split {split!r}, got "
            f"{type(error).__name__}: {reason}: check the three, or name a local file"
        ) from None
    column = text_column(data.column_names, source)
    data = data.select_columns([column])

    def documents() -> Iterator[Document]:
        for row, record in enumerate(data, 1):
            document = from_record(record, name=f"{name}/{split}:{row}", where=f"{source}, row {row}")
            if document is not None:
                yield document

    return Part(documents, [source, data.info.version and str(data.info.version), data._fingerprint])
