"""What was found while a text was read, beside its tokens: kept in the manifest of its store, and said by `notes`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from limbeck.corpora.document import Document
from limbeck.corpora.faults import BadRecords
from limbeck.corpora.source import Part
from limbeck.corpora.store import TokenStore

_NAMED = 5  # of some files or fields


@dataclass
class Found:
    """Counts over the documents of all sides of a text."""

    documents: int = 0
    forms: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    opened: int = 0
    closed: int = 0

    def add(self, document: Document, *, opened: bool, closed: bool) -> None:
        """One document more; whether what opens and closes it stood in its text."""
        self.documents += 1
        self.forms[document.form or "text"] += 1
        self.unread.update(document.unread)
        self.opened += opened
        self.closed += closed

    def facts(self, parts: Sequence[Part], bad: BadRecords) -> dict[str, Any]:
        """As a manifest holds it."""
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
        }


def notes(read: Mapping[str, Any]) -> list[str]:
    """What a user should know of how a text was read, a line each; none where it is plain and all of it was read."""
    lines = []
    files, forms, whole = read["files"], read["forms"], read["documents"]
    if len(files) > 1 or set(forms) - {"text"}:
        among = f" of {len(files):,} files ({named(files)})" if len(files) > 1 else ""
        lines.append(f"{_many(whole, 'document')}{among} {'is' if whole == 1 else 'are'} read {as_forms(forms)}")
    if others := read["passed_over"]:
        lines.append(f"passed over: {_many(len(others), 'file')} of other kinds ({named(others)})")
    if number := read["skipped"]:
        lines.append(f"skipped: {_many(number, 'record')} that cannot be read, the first {read['skipped_first'][0]}")
    for what, number in (("begin with what opens", read["opened"]), ("end with what closes", read["closed"])):
        if number:
            lines.append(f"{number:,} of {whole:,} documents {what} a document already; it is not put there again")
    return lines


def notes_of(store: TokenStore) -> list[str]:
    """The same of a store; none of one that was made before they were kept."""
    read = store.manifest.get("read")
    return [] if read is None else notes(read)


def as_forms(forms: Mapping[str, int]) -> str:
    """``as text``, or of several forms ``as text (3) and as messages (1,200)``."""
    if len(forms) == 1:
        return f"as {next(iter(forms))}"
    return " and ".join(f"as {form} ({number:,})" for form, number in forms.items())


def named(names: Sequence[str]) -> str:
    """The first of some names."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")
