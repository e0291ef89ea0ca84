"""Datasets of the Hugging Face hub, and local folders in its layout, read as they stream: nothing is kept on disk.

A split that is cut (``train[:10%]``) cannot be streamed. It is downloaded, and read from disk. Joined splits (``train+test``) are
read one after the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from limbeck.corpora.files import Documents, document_of, may_hold_text, wanted_columns
from limbeck.corpora.records import Columns
from limbeck.corpora.source import Part, source
from limbeck.disk import existing, shown
from limbeck.errors import BadCorpus, first_line

_ONE = r"(?:train|test|validation|valid|val|dev)(?:\[[^\]]*\])?"
_SPLIT = rf"{_ONE}(?:\+{_ONE})*"
_HUB = re.compile(rf"(?P<name>[^:]+?)(?::(?P<config>[^/:]+)(?:/(?P<after_config>.+))?|/(?P<split>{_SPLIT}))?")


def hub_name(source: str) -> tuple[str, str | None, str]:
    """Name, configuration and split of ``hf:name[:config][/split]``. The default split is train.

    A name may contain a slash (``org/name``). Without a configuration, the part after the last slash is the split only where
    it is train, test, validation, valid, val or dev, with or without a slice (``train[:10%]``), or several of them joined by +.
    After a configuration it always is. A local folder of the whole name takes precedence. Raises BadCorpus where the text has
    another form.
    """
    rest = source.removeprefix("hf:")
    local = existing(rest)
    if local is not None and local.is_dir():
        return str(local), None, "train"
    match = _HUB.fullmatch(rest)
    if match is None:
        raise BadCorpus(
            f"expected hf:name[:config][/split], got {shown(source)!r}: for example hf:org/name:config/train"
        )
    return match["name"], match["config"], match["after_config"] or match["split"] or "train"


@source("hf")
def _hub(rest: str, columns: Columns) -> Part:
    """A dataset of the hub, or a local folder in the hub's layout."""
    source = f"hf:{rest}"
    name, config, joined = hub_name(source)
    splits = [_Split.of(source, name, config, split, columns) for split in joined.split("+")]

    def documents() -> Documents:
        for split in splits:
            yield from split.documents(source, columns)

    stamps = [entry for split in splits for entry in split.stamp]
    return Part(documents, [source, *stamps], name=source, streamed=any("[" not in split.split for split in splits))


@dataclass(frozen=True)
class _Split:
    """One split of a dataset: its rows with the columns that are read, those with text that are not, and its stamp."""

    name: str
    split: str
    data: Any
    unread: tuple[str, ...]
    stamp: list[Any]

    @classmethod
    def of(cls, source: str, name: str, config: str | None, split: str, columns: Columns) -> _Split:
        """A split of a dataset. Raises BadCorpus where it is not there, or lacks a column."""
        try:
            data, stamp = _downloaded(name, config, split) if "[" in split else _streamed(name, config, split)
            names = data.column_names or list(next(iter(data), {}))
        except Exception as error:  # the library raises what its many readers raise
            raise BadCorpus(
                f"{shown(source)}: expected a dataset {shown(name)!r}, configuration {config or 'default'!r}, split {split!r}, "
                f"got {type(error).__name__}: {shown(first_line(error))}: check the three, or name a local file"
            ) from None
        wanted = wanted_columns(names, columns, source)
        unread: tuple[str, ...] = ()
        if data.features is not None:
            schema = data.features.arrow_schema
            unread = tuple(field.name for field in schema if field.name not in wanted and may_hold_text(field.type))
            data = data.select_columns(wanted)
        return cls(name, split, data, unread, stamp)

    def documents(self, source: str, columns: Columns) -> Documents:
        """The documents of its rows."""
        for row, record in enumerate(_rows(self.data, source), 1):
            place = {"name": f"{self.name}/{self.split}:{row}", "where": f"{source}, row {row} of {self.split}"}
            yield from document_of(record, **place, columns=columns, table=True, unread=self.unread)


def _streamed(name: str, config: str | None, split: str) -> tuple[Any, list[Any]]:
    """A dataset that is read as it streams, and what changes with its files: their versions, or times on a disk."""
    import datasets  # takes a second

    builder = datasets.load_dataset_builder(name, config)
    data = builder.as_streaming_dataset(split=split)
    files = (builder.config.data_files or {}).get(split)
    versions = [list(map(str, one)) for one in getattr(files, "origin_metadata", ())]
    return data, [str(builder.info.version or ""), sorted(versions), len(files or ())]


def _downloaded(name: str, config: str | None, split: str) -> tuple[Any, list[Any]]:
    """A dataset that is kept in the library's cache."""
    import datasets

    data = datasets.load_dataset(name, config, split=split)
    return data, [data.info.version and str(data.info.version), data._fingerprint]


def _rows(data: Iterable[dict[str, Any]], source: str) -> Iterator[dict[str, Any]]:
    """The rows of a dataset. Raises BadCorpus where they stop coming."""
    try:
        yield from data
    except Exception as error:
        raise BadCorpus(
            f"{shown(source)}: expected more rows, got {type(error).__name__}: {shown(first_line(error))}: run the same command "
            "again, which goes on from what was tokenised"
        ) from error
