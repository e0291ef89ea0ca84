"""What is read from each source, and on which side of the split its documents are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from limbeck.corpora.digest_set import DigestSet
from limbeck.corpora.document import Document, is_held_out
from limbeck.corpora.faults import BadRecords
from limbeck.corpora.mixture import Mixture
from limbeck.corpora.reading import USUAL, Records
from limbeck.corpora.records import Columns
from limbeck.corpora.source import Part, read_parts, resolve

_CHARACTERS = 4  # of a token, about
_ANY = 2**62  # bad records that may be passed over where others count them


@dataclass(frozen=True)
class Draw:
    """The documents to read from one source: those on the named ``sides``, except digests in ``without``.

    ``passages``: one long text is split into passages. ``most``: a source that is streamed is read until so many tokens to train
    on are found, None to its end. ``apart``: its documents get shards of their own, as each source of a mixture does.
    """

    source: str
    fraction: float
    sides: tuple[str, ...]
    without: frozenset[bytes] = frozenset()
    passages: bool = False
    most: int | None = None
    apart: bool = False

    def facts(self, stamps: list[Any]) -> dict[str, Any]:
        """The facts that a store records about it."""
        facts = {"source": self.source, "fraction": self.fraction, "sides": list(self.sides), "stamps": stamps}
        if self.most is not None:
            facts["most"] = self.most
        if self.apart:
            facts["apart"] = True
        if self.without:
            facts["without"] = hashlib.sha256(b"".join(sorted(self.without))).hexdigest()
        return facts

    @property
    def trains(self) -> bool:
        """Whether some of its documents are trained on."""
        return "train" in self.sides

    def side_of(self, document: Document) -> str | None:
        """The side of a document, None where that side is not read."""
        side = "held_out" if is_held_out(document, fraction=self.fraction) else "train"
        return side if side in self.sides else None

    def leaves_out(self, document: Document) -> bool:
        """Whether a document is among those to be left out."""
        return bool(self.without) and document.digest() in self.without


def sides(source: str, eval_source: str | None, fraction: float, most: Sequence[int | None] = ()) -> list[Draw]:
    """What is read for training and what is held out, as `build.build_stores` describes it; ``most`` of each source."""
    mixture = Mixture.of(source)
    sources = (source,) if mixture is None else mixture.sources
    own: dict[str, Any] = {"apart": mixture is not None}
    limits: list[tuple[str, int | None]] = [(s, most[i] if most else None) for i, s in enumerate(sources)]
    if eval_source is None:
        return [Draw(s, fraction, ("train", "held_out"), passages=True, most=n, **own) for s, n in limits]
    return [Draw(eval_source, 1.0, ("held_out",)), *(Draw(s, 0.0, ("train",), most=n, **own) for s, n in limits)]


def documents_by_side(
    source: str,
    *,
    fraction: float = 0.05,
    eval_source: str | None = None,
    records: Records = USUAL,
    most: Sequence[int] = (),
    bad: BadRecords | None = None,
) -> Iterator[tuple[str, Document]]:
    """("train" or "held_out", document) of all documents that `build.build_stores` reads, those of ``eval_source`` first.

    ``most``: as there, of four characters a token. A record that cannot be read is added to ``bad``, or passed over without.
    """
    seen = DigestSet() if records.dedup else None
    for draw in sides(source, eval_source, fraction, most):
        parts = resolve(draw.source, records.columns, passages=draw.passages)
        held, enough = 0, _characters(draw, parts)
        for side, document in _sided(read_parts(parts, draw.source, bad or BadRecords(_ANY)), draw):
            if seen is not None and not seen.add(document.digest()):
                continue
            yield side, document
            held += len(document.content) if side == "train" else 0
            if held >= enough:
                break


def _characters(draw: Draw, parts: Sequence[Part]) -> float:
    """The characters of training documents after which a source is read no further."""
    return inf if draw.most is None or not any(part.streamed for part in parts) else _CHARACTERS * draw.most


def _sided(documents: Iterable[Document], draw: Draw) -> Iterator[tuple[str, Document]]:
    for document in documents:
        side = draw.side_of(document)
        if side is not None and not draw.leaves_out(document):
            yield side, document


def training_texts(
    source: str,
    bad: BadRecords,
    *,
    fraction: float = 0.05,
    eval_source: str | None = None,
    records: Records = USUAL,
    most: Sequence[int] = (),
) -> Iterator[str]:
    """The content of documents to train on, for a tokenizer, whose models are measured on the others.

    So a document that ``eval_source`` contains too is left out, also where a model trains on it. The arguments are those of
    `documents_by_side`.
    """
    held_out = DigestSet()
    found = documents_by_side(source, fraction=fraction, eval_source=eval_source, records=records, most=most, bad=bad)
    for side, document in found:
        if side == "train" and document.digest() not in held_out:
            yield document.content
        elif side == "held_out" and eval_source is not None:
            held_out.add(document.digest())


def stamps_of(source: str, eval_source: str | None, columns: Columns | None = None) -> list[Any]:
    """What tells the text that `build.build_stores` reads from another: the size and time of each of its files."""
    draws = sides(source, eval_source, 0.0)
    return [[part.stamp for part in resolve(d.source, columns or Columns(), passages=d.passages)] for d in draws]
