"""Does a teacher know anything of the text? Its bits per byte beside those of a unigram model, before anything long begins.

A unigram model knows how often each token is in the text and nothing of what stands before it: a teacher that is no better
has nothing to teach, be it of another language, damaged, or never trained. Both are asked about the same tokens of a few
documents; the unigram model has counted others of the text (Witten & Bell 1991: what was never counted shares as much mass
as there were first sights).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import log

import numpy as np
import torch

from limbeck.corpora import read
from limbeck.corpora.bad import BadRecords
from limbeck.corpora.build import in_tokens
from limbeck.corpora.document import Document
from limbeck.corpora.records import Columns
from limbeck.corpora.writer import Item
from limbeck.models.load import LanguageModel
from limbeck.plan.finding import Finding
from limbeck.types import Batch, Speaker

_MEASURED = 16  # documents that both are asked about
_MEASURED_TOKENS = 2048  # of all of them together
_COUNTED = 4096  # documents at most that are counted
_COUNTED_CHARACTERS = 2**20
_CLOSE = 0.1  # of the unigram model's bits: a teacher must save more to pass without a word


@dataclass(frozen=True)
class Known:
    """Bits per byte of a teacher and of a unigram model on the same tokens of some documents."""

    teacher: float
    unigram: float
    documents: int

    @property
    def said(self) -> str:
        """Both numbers in a sentence."""
        return (
            f"{self.teacher:.3f} bits per byte where a unigram model of the text has {self.unigram:.3f} "
            f"(beginnings of {self.documents} documents)"
        )


def known(
    about: LanguageModel,
    teacher: Speaker,
    source: str,
    *,
    length: int,
    device: torch.device | str,
    columns: Columns | None = None,
) -> Known | None:
    """What a teacher knows of a source of text; None where there are too few documents to say.

    ``about`` has its tokenizer; it is asked about ``length`` tokens of a document at most.
    """
    some = list(_some(read(source, columns, BadRecords(_COUNTED))))
    items = list(in_tokens(some, about.tokenizer, end=about.end, vocab=about.vocab))
    measured = items[:: max(2, len(items) // _MEASURED)][:_MEASURED]
    chosen = {id(item) for item in measured}
    counted = [item for item in items if id(item) not in chosen]
    if not measured or not counted:
        return None
    log_p = _unigram(counted, vocab=about.vocab)
    size = min(length, max(2, _MEASURED_TOKENS // len(measured)))
    nats, text, documents = np.zeros(2), 0.0, 0
    with torch.no_grad():
        for item in measured:
            batch = _beginning(item, size)
            count = float(batch.weight.sum())
            if not count:
                continue
            logits = teacher(batch.to(device)).logits().double().cpu()
            losses = torch.nn.functional.cross_entropy(logits, batch.targets[0], reduction="none")
            weight, targets = batch.weight[0].double(), batch.targets[0].numpy()
            nats += (float((losses * weight).sum()), float(-(log_p[targets] * weight.numpy()).sum()))
            text += item.size * count / max(1, item.predictions)
            documents += 1
    if not text:
        return None
    bits = nats / log(2) / text
    return Known(float(bits[0]), float(bits[1]), documents)


def knowledge(found: Known | None, name: str, *, anyway: bool) -> Iterator[Finding]:
    """What there is to say of it: an error of a teacher no better than the unigram model, unless it is taken ``anyway``."""
    if found is None:
        return
    said = f"{name} has {found.said}"
    if not found.teacher < found.unigram:
        yield Finding(
            "knowledge",
            "warning" if anyway else "error",
            f"{said}: it knows no more of this text than how often each token is in it",
            "take a teacher that was trained on such text, or look at its tokenizer; --any-teacher takes it all the same",
        )
    elif found.teacher > (1 - _CLOSE) * found.unigram:
        yield Finding(
            "knowledge",
            "warning",
            f"{said}: it knows little more of this text than how often each token is in it",
            "take a teacher that was trained on such text, if there is one",
        )
    else:
        yield Finding("knowledge", "ok", said)


def _some(documents: Iterable[Document]) -> Iterator[Document]:
    """The first documents, as many as are counted."""
    characters = 0
    for document in islice(documents, _COUNTED):
        yield document
        characters += len(document.content)
        if characters > _COUNTED_CHARACTERS:
            return


def _unigram(items: Sequence[Item], *, vocab: int) -> np.ndarray:
    """log p of each token, from how often it was learned."""
    counts = np.zeros(vocab)
    for item in items:
        learned = item.tokens[1:] if item.learned is None else item.tokens[1:][item.learned[1:].astype(bool)]
        counts += np.bincount(learned, minlength=vocab)
    kinds = max(1, int((counts > 0).sum()))
    p = (counts + kinds / vocab) / (counts.sum() + kinds)
    return np.asarray(np.log(p))


def _beginning(item: Item, length: int) -> Batch:
    """The first tokens of a document as a row."""
    tokens = torch.from_numpy(item.tokens[: length + 1].astype(np.int64))[None]
    weight = torch.ones(tokens.shape[1] - 1)
    if item.learned is not None:
        weight = torch.from_numpy(item.learned[1 : tokens.shape[1]].astype(np.float32))
    position = torch.arange(tokens.shape[1] - 1)[None]
    return Batch(tokens[:, :-1], tokens[:, 1:], weight[None], position, torch.zeros_like(position), position[:, 0])
