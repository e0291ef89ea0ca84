"""Converts a token store to another tokenizer: the same documents, in the same order.

The text is decoded from the tokens, so document d is the same in both stores even if the source changes, and the source is not
needed. A document that cannot be decoded byte for byte is empty in the new store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from transformers import PreTrainedTokenizerBase

from limbeck.corpora.store import TokenStore, read_manifest
from limbeck.corpora.token_bytes import TokenBytes
from limbeck.corpora.tokenizer import READING, Frame, document_tokens, fingerprint, frame
from limbeck.corpora.writer import Item, Writer, token_dtype
from limbeck.disk import whole_folder
from limbeck.errors import BadCorpus

_TOGETHER = 1024  # documents tokenised in one call


def frame_of(store: TokenStore) -> Frame:
    """The tokens that open and close the documents of a store."""
    return Frame(*store.manifest["made_from"]["frame"])


def tokens_of(store: TokenStore, document: int, spelled: TokenBytes) -> tuple[np.ndarray, int, int, bytes | None]:
    """(tokens of a document, number of opening tokens, number of closing tokens, its text).

    Where a text already contained an opening or closing token, that token counts as text. The text is None where decoding does
    not restore it.
    """
    tokens = store.slice(int(store.starts[document]), int(store.starts[document + 1]))
    around, some = frame_of(store), len(tokens) > 0
    begin, end = int(around.begin is not None and some), int(around.end is not None and some)
    size, digest = store.bytes_of(document), store.sha256_of(document)
    for opens, closes in dict.fromkeys(((begin, end), (0, end), (begin, 0), (0, 0))):
        if len(tokens) < opens + closes:
            continue
        text = spelled.text(tokens[opens : len(tokens) - closes].tolist(), size)
        if text is not None and digest in (None, hashlib.sha256(text).digest()):
            return tokens, opens, closes, text
    return tokens, begin, end, None


def text_of(store: TokenStore, document: int, spelled: TokenBytes) -> bytes | None:
    """The text of a document, decoded from its tokens; None where decoding does not restore it."""
    return tokens_of(store, document, spelled)[3]


def retokenised(
    store: TokenStore,
    spelled: TokenBytes,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    end: int | None,
    documents: Bool[np.ndarray, " documents"] | None = None,
) -> TokenStore:
    """Converts the chosen ``documents`` of a store (by default all) to another tokenizer, into ``folder``.

    Other documents are empty there, and those after the last chosen one are left out. ``spelled`` holds the bytes of the
    store's own tokens; ``end`` is as for `frame`. ``manifest["unread"]`` counts the documents that could not be decoded.

    Raises BadCorpus for conversations, since every tokenizer's chat template writes them differently.
    """
    if not store.learns_all:
        raise BadCorpus(
            f"{store.folder}: expected plain texts, got conversations or prompts: each model's template writes those in its own "
            "way, so teacher and student of different tokenizers would not read the same bytes. Give texts ('text' in records)"
        )
    wanted = np.ones(store.documents, dtype=bool) if documents is None else documents
    wanted = wanted[: np.flatnonzero(wanted).max(initial=-1) + 1]
    around = frame(tokenizer, end=end)
    made_from: dict[str, Any] = {
        "corpus": store.manifest["corpus_sha256"],
        "from": store.manifest["made_from"]["tokenizer"],
        "tokenizer": fingerprint(tokenizer),
        "frame": [around.begin, around.end],
        "documents": len(wanted) if wanted.all() else hashlib.sha256(np.packbits(wanted).tobytes()).hexdigest(),
        "reading": READING,
    }
    if (ready := _ready(folder, made_from)) is not None:
        return ready
    with whole_folder(folder) as beside:
        writer = Writer(beside, token_dtype(tokenizer), mixed=False)
        unread = 0
        for chosen, item in zip(wanted, _items(store, wanted, spelled, tokenizer, around, writer.dtype), strict=True):
            unread += bool(chosen) and not len(item.tokens)
            writer.add(item)
        writer.finish(made_from, corpus=store.manifest["corpus_sha256"], unread=unread)
    return TokenStore.open(folder)


def _ready(folder: Path, made_from: dict[str, Any]) -> TokenStore | None:
    """The store in the folder, None where it is damaged or made from something else."""
    try:
        if read_manifest(folder)["made_from"] != made_from:
            return None
        store = TokenStore.open(folder)
        store.verify()
    except BadCorpus:
        return None
    return store


def _items(
    store: TokenStore,
    wanted: Bool[np.ndarray, " documents"],
    spelled: TokenBytes,
    tokenizer: PreTrainedTokenizerBase,
    around: Frame,
    dtype: np.dtype,
) -> Iterator[Item]:
    """The wanted documents in the other tokens. Other documents, and those that cannot be decoded, are empty."""
    for start in range(0, len(wanted), _TOGETHER):
        numbers = range(start, min(start + _TOGETHER, len(wanted)))
        texts = [text_of(store, number, spelled) if wanted[number] else None for number in numbers]
        read = [text.decode() for text in texts if text is not None]
        framed = iter(document_tokens(tokenizer, read, frame=around) if read else [])
        for number, text in zip(numbers, texts, strict=True):
            tokens = np.array([] if text is None else next(framed), dtype=dtype)
            digest = hashlib.sha256(text or b"").digest()
            yield Item(store.name_of(number), digest, tokens, None, len(text or b""))
