"""What is read from each source, and on which side of the split its documents are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from limbeck.corpora.document import Document, is_held_out
from limbeck.corpora.faults import BadRecords
from limbeck.corpora.records import Columns
from limbeck.corpora.source import read_parts, resolve

_ANY = 2**62  # bad records that may be passed over where others count them


@dataclass(frozen=True)
class Draw:
    """The documents to read from one source: those on the named ``sides``, except digests in ``without``.

    ``passages``: one long text is split into passages.
    """

    source: str
    fraction: float
    sides: tuple[str, ...]
    without: frozenset[bytes] = frozenset()
    passages: bool = False

    def facts(self, stamps: list[Any]) -> dict[str, Any]:
        """The facts that a store records about it."""
        facts = {"source": self.source, "fraction": self.fraction, "sides": list(self.sides), "stamps": stamps}
        if self.without:
            facts["without"] = hashlib.sha256(b"".join(sorted(self.without))).hexdigest()
        return facts

    def side_of(self, document: Document) -> str | None:
        """The side of a document, None where that side is not read."""
        side = "held_out" if is_held_out(document, fraction=self.fraction) else "train"
        return side if side in self.sides else None

    def leaves_out(self, document: Document) -> bool:
        """Whether a document is among those to be left out."""
        return bool(self.without) and document.digest() in self.without


def sides(source: str, eval_source: str | None, fraction: float) -> list[Draw]:
    """What is read for training and what is held out, as `build.build_stores` describes it."""
    if eval_source is None:
        return [Draw(source, fraction, ("train", "held_out"), passages=True)]
    return [Draw(eval_source, 1.0, ("held_out",)), Draw(source, 0.0, ("train",))]


def documents_by_side(
    source: str, *, fraction: float = 0.05, eval_source: str | None = None, columns: Columns | None = None
) -> Iterator[tuple[str, Document]]:
    """("train" or "held_out", document) of all documents that `build.build_stores` reads; bad records are passed over."""
    for draw in sides(source, eval_source, fraction):
        parts = resolve(draw.source, columns or Columns(), passages=draw.passages)
        yield from _sided(read_parts(parts, draw.source, BadRecords(_ANY)), draw)


def _sided(documents: Iterable[Document], draw: Draw) -> Iterator[tuple[str, Document]]:
    for document in documents:
        side = draw.side_of(document)
        if side is not None and not draw.leaves_out(document):
            yield side, document


def stamps_of(source: str, eval_source: str | None, columns: Columns | None = None) -> list[Any]:
    """What tells the text that `build.build_stores` reads from another: the size and time of each of its files."""
    draws = sides(source, eval_source, 0.0)
    return [[part.stamp for part in resolve(d.source, columns or Columns(), passages=d.passages)] for d in draws]
