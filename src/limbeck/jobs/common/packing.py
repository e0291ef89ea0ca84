"""The effect of packing on a text, as findings: the share learned without its full context, and a length that halves it."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from contextlib import suppress

import numpy as np

from limbeck.corpora import Document, TokenStore
from limbeck.corpora.layout import BEST_FIT, Layout, lay_out
from limbeck.corpora.reading import Reader, Reads
from limbeck.corpora.tokenised import store_in_memory
from limbeck.errors import BadCorpus
from limbeck.planning.checks.finding import Finding, Level
from limbeck.report.words import share

_LARGE = {True: 0.05, False: 0.5}  # share without its past that is worth a warning, of conversations and of plain texts
_CALLED = {  # documents of which only a part is learned, by the form of their records: one, and several
    "prompt and completion": ("prompt with its completion", "prompts with their completions"),
    "Alpaca": ("instruction with its output", "instructions with their outputs"),
}
_TALKS = "conversation", "conversations"
_PADDED = 0.02, 0.2  # share of padding that is worth a word, and a warning
_LOOKED_AT = 2_000  # documents, to find how long rows would have to be
_LONGEST = 2**20


def packed(store: TokenStore, *, length: int, context: int, forms: Collection[str] | None = None) -> Finding:
    """Findings about rows of ``length`` and the documents of a store. ``context`` is the longest row of the models.

    ``forms`` are the forms of its records, by default those of its manifest.
    """
    if store.seconds is not None:
        return _packed_pairs(store, length=length)
    layout, chat = store.layout(length), not store.learns_all
    did = layout.packed
    what, many = _called(chat, store.manifest.get("read", {}).get("forms", {}) if forms is None else forms)
    sample = _Sample(store)
    longer, large, remedies = None, False, []
    message = f"no {what} is longer than a row of {length} tokens: each stands whole in one"
    if did.cut or did.left_out:
        longer = sample.halving(length)
        if longer is not None:
            beyond = f", which is more than the context of {context} tokens" if longer > context else ""
            remedies.append(f"--seq-len {longer} halves that share{beyond}")
        large = did.share_lacking > _LARGE[chat] and (chat or (longer or math.inf) <= context)
    if did.left_out:
        message = (
            f"{did.left_out:,} of {store.documents:,} {many} are longer than a row of {length} tokens and left out, "
        )
        message += f"{share(did.left_out_tokens / store.predictions, digits=1)} of what is to be learned"
        remedies.append("--long-conversations split learns them in pieces")
    elif did.cut:
        message = f"{share(did.share_lacking, digits=1)} of the tokens are learned without all that came before them: "
        message += f"{did.cut:,} of {store.documents:,} {many} are longer than a row of {length} tokens, and "
        message += "split over several, where an answer keeps its question if both fit" if chat else "cut"
        if chat:
            remedies.append("--long-conversations drop leaves them out")
    if layout.padding > _PADDED[0]:
        message += f"; {share(layout.padding)} of the rows is padding"
        if longer is None and (less := sample.padding(2 * length)) < layout.padding / 1.5:
            remedies.append(f"--seq-len {2 * length} leaves {share(less)} of padding")
    level: Level = "warning" if large or did.left_out or layout.padding > _PADDED[1] else "ok"
    return Finding("packing", level, message, "; ".join(remedies))


def _packed_pairs(store: TokenStore, *, length: int) -> Finding:
    """The finding about rows of preference pairs."""
    layout = store.layout(length)
    left_out, padding = layout.packed.left_out, layout.padding
    message, remedies = f"no pair is longer than a row of {length} tokens, which has both of its sides", []
    if left_out:
        longest = int(np.diff(store.starts).max()) - 2
        message = f"{left_out:,} of {store.documents:,} pairs are longer than a row of {length} tokens, which has both sides of "
        message += "a pair, and left out"
        remedies.append(f"--seq-len {longest} has room for the longest")
    if padding > _PADDED[0]:
        message += f"; {share(padding)} of the rows is padding"
    return Finding("packing", "warning" if left_out or padding > _PADDED[1] else "ok", message, "; ".join(remedies))


def packed_documents(
    documents: Sequence[Document], reader: Reads, *, packing: str, length: int, context: int
) -> list[Finding]:
    """The findings for some documents; none if they cannot be tokenised, which other checks report."""
    with suppress(BadCorpus):
        if store := store_in_memory(documents, Reader(reader.tokenizer, reader.end)):
            forms = {document.form for document in documents}
            return [packed(store.packed(packing), length=length, context=context, forms=forms)]
    return []


def _called(chat: bool, forms: Collection[str]) -> tuple[str, str]:
    """The name of a document of a form, and of several."""
    if not chat:
        return "document", "documents"
    return _CALLED.get(next(iter(forms)), _TALKS) if len(forms) == 1 else _TALKS


class _Sample:
    """Some documents, spread over a store, for trials of other lengths of rows."""

    def __init__(self, store: TokenStore) -> None:
        number = np.unique(np.linspace(0, store.documents - 1, min(store.documents, _LOOKED_AT)).astype(int))
        bounds = [(int(store.starts[document]), int(store.starts[document + 1])) for document in number]
        self._starts = np.cumsum([0, *(stop - start for start, stop in bounds)])
        self._marks = None if store.learns_all else np.concatenate([store.learned(*bound) for bound in bounds])

    def halving(self, length: int) -> int | None:
        """The smallest of some lengths at which half as many tokens lack context; None if there is none."""
        half, longer = self._layout(length).packed.share_lacking / 2, length
        while longer < _LONGEST and half:
            longer = -(-max(longer + 1, round(longer * 1.25)) // 64) * 64
            if self._layout(longer).packed.share_lacking <= half:
                return longer
        return None

    def padding(self, length: int) -> float:
        """The share of padding in rows of this length."""
        return self._layout(length).padding

    def _layout(self, length: int) -> Layout:
        marks = self._marks
        learned = None if marks is None else lambda start, stop: marks[start:stop]
        return lay_out(self._starts, learned, length=length, packing=BEST_FIT)
