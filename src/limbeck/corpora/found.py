"""Counts of a dataset while it is read: forms, unread fields, skipped records. The store's manifest holds them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from limbeck.corpora.document import Document
from limbeck.corpora.faults import BadRecords
from limbeck.corpora.source import Part
from limbeck.corpora.store import TokenStore

_NAMED = 5  # names listed before "and N more"


@dataclass
class Found:
    """Counts over all documents of a dataset, training and held-out."""

    documents: int = 0
    forms: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    opened: int = 0
    closed: int = 0

    def add(self, document: Document, *, opened: bool, closed: bool) -> None:
        """Counts one document. ``opened`` and ``closed``: its text already contained the opening or closing token."""
        self.documents += 1
        self.forms[document.form or "text"] += 1
        self.unread.update(document.unread)
        self.opened += opened
        self.closed += closed

    def join(self, other: Found) -> None:
        """Adds the counts of later documents."""
        self.documents += other.documents
        self.forms.update(other.forms)
        self.unread.update(other.unread)
        self.opened += other.opened
        self.closed += other.closed

    def state(self) -> dict[str, Any]:
        """The counts so far, for JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Found:
        """The counts of an earlier state."""
        return cls(**{**state, "forms": Counter(state["forms"]), "unread": Counter(state["unread"])})

    def facts(self, parts: Sequence[Part], bad: BadRecords) -> dict[str, Any]:
        """The counts as an entry of a manifest."""
        return {
            "documents": self.documents,
            "forms": dict(self.forms),
            "unread": dict(self.unread.most_common()),
            "opened": self.opened,
            "closed": self.closed,
            "files": [part.name for part in parts if part.name],
            "passed_over": [name for part in parts for name in part.beside],
            "skipped": bad.count,
            "skipped_first": bad.first,
            "notes": [line for part in parts for line in part.notes()],
        }


def notes(read: Mapping[str, Any]) -> list[str]:
    """Notes for the user about how a dataset was read, a line each. There are none for plain text that was read completely."""
    lines = []
    files, forms, whole = read["files"], read["forms"], read["documents"]
    if len(files) > 1 or set(forms) - {"text"}:
        among = f" of {len(files):,} files ({named(files)})" if len(files) > 1 else ""
        lines.append(f"{_many(whole, 'document')}{among} {'is' if whole == 1 else 'are'} read {as_forms(forms)}")
    if others := read["passed_over"]:
        lines.append(f"ignored: {_many(len(others), 'file')} of other kinds ({named(others)})")
    if number := read["skipped"]:
        lines.append(f"skipped: {_many(number, 'record')} that cannot be read, the first {read['skipped_first'][0]}")
    lines.extend(read.get("notes", ()))
    if number := read.get("duplicates"):
        lines.append(f"left out: {_many(number, 'document')} that occurred before")
    for what, number in (
        ("begin with the opening token", read["opened"]),
        ("end with the closing token", read["closed"]),
    ):
        if number:
            lines.append(f"{number:,} of {whole:,} documents already {what}; it is not added again")
    return lines


def notes_of(store: TokenStore) -> list[str]:
    """The notes about a store's dataset; none for a store of an earlier version, which has no counts."""
    read = store.manifest.get("read")
    return [] if read is None else notes(read)


def as_forms(forms: Mapping[str, int]) -> str:
    """``as text``, or for several forms ``as text (3) and as messages (1,200)``."""
    if len(forms) == 1:
        return f"as {next(iter(forms))}"
    return " and ".join(f"as {form} ({number:,})" for form, number in forms.items())


def named(names: Sequence[str]) -> str:
    """The first five of some names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")
