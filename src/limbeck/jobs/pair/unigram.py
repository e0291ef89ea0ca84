"""Compares a teacher's bits per byte on the text with those of a unigram model, before anything long begins.

A unigram model predicts each token by its frequency, without context. A teacher that is no better cannot help the student: it may
be of another language, damaged, or untrained. Both are measured on the same tokens of a few documents. The unigram model is
counted on other documents, and smoothed by Witten & Bell (1991): all unseen tokens share a mass in proportion to the number of
distinct tokens. The teacher may be a model in memory, one read layer by layer, or one on a server, where only the positions with
a log-probability count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import log

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from limbeck.corpora import Prompt, TokenStore, read
from limbeck.corpora.document import Document
from limbeck.corpora.faults import BadRecords
from limbeck.corpora.records import Columns
from limbeck.corpora.tokenised import in_tokens
from limbeck.corpora.writer import Item
from limbeck.models.language_model import LanguageModel
from limbeck.planning.checks.finding import Finding, check
from limbeck.run.log import console
from limbeck.teachers.own import own_log_p
from limbeck.teachers.remote.served import ServedTeacher
from limbeck.types import Batch, CausalLM

_MEASURED = 16  # documents on which both are measured
_MEASURED_TOKENS = 2048  # in all of them together
_COUNTED = 4096  # documents at most on which the unigram model is counted
_COUNTED_CHARACTERS = 2**20
_CLOSE = 0.1  # share of the unigram model's bits that a teacher must save to pass without a warning


@dataclass(frozen=True)
class UnigramComparison:
    """Bits per byte of a teacher and of a unigram model on the same tokens of some documents."""

    teacher: float
    unigram: float
    documents: int

    @property
    def sentence(self) -> str:
        """Both numbers in words, to follow "the teacher has"."""
        return (
            f"{self.teacher:.3f} bits per byte where a unigram model of the text has {self.unigram:.3f} "
            f"(beginnings of {self.documents} documents)"
        )


def of_source(source: str, about: LanguageModel, columns: Columns | None = None) -> list[Item]:
    """The first documents of a text source, in a model's tokens."""
    some = list(_some(read(source, columns, BadRecords(_COUNTED))))
    return list(in_tokens(some, about))


def of_store(store: TokenStore) -> list[Item]:
    """The first documents of a tokenised text."""
    items, size = [], 0
    for document in range(min(store.documents, _COUNTED)):
        start, stop = int(store.starts[document]), int(store.starts[document + 1])
        tokens, learned = store.slice(start, stop), store.learned(start, stop)
        items.append(Item("", b"", np.asarray(tokens), learned, store.bytes_of(document)))
        size += items[-1].size
        if size > _COUNTED_CHARACTERS:
            break
    return items


def of_prompts(prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase) -> list[Item]:
    """The first prompts, in the tokens from which a model generates; all tokens count."""
    items, size = [], 0
    for prompt in prompts[:_COUNTED]:
        items.append(Item(prompt.name, b"", np.asarray(prompt.tokens(tokenizer)), None, prompt.bytes))
        size += prompt.bytes
        if size > _COUNTED_CHARACTERS:
            break
    return items


def compare_to_unigram(
    teacher: CausalLM | ServedTeacher, items: Sequence[Item], *, vocab: int, length: int, device: torch.device | str
) -> UnigramComparison | None:
    """Compares a teacher with a unigram model; None if there are too few documents, or the teacher returns no log-probabilities.

    ``items`` are documents in the teacher's tokens, of which at most ``length`` tokens each are measured. ``vocab`` is the size
    of its vocabulary.
    """
    measured = items[:: max(2, len(items) // _MEASURED)][:_MEASURED]
    chosen = {id(item) for item in measured}
    counted = [item for item in items if id(item) not in chosen]
    if not measured or not counted:
        return None
    log_p = _unigram(counted, vocab=vocab)
    size = min(length, max(2, _MEASURED_TOKENS // len(measured)))
    beginnings = [(item, batch) for item in measured if float((batch := _beginning(item, size)).weight.sum())]
    nats, text, documents = np.zeros(2), 0.0, 0
    measured_rows = own_log_p(teacher, [batch.to(device) for _, batch in beginnings])
    for (item, batch), (teachers, counts) in zip(beginnings, measured_rows, strict=True):
        if not counts.any():
            continue
        nats -= (teachers[counts].sum(), log_p[batch.targets[0].numpy()[counts]].sum())
        text += item.size * counts.sum() / max(1, item.predictions)
        documents += 1
    if not text:
        return None
    bits = nats / log(2) / text
    return UnigramComparison(float(bits[0]), float(bits[1]), documents)


def knowledge(found: UnigramComparison | None, name: str, *, anyway: bool) -> Iterator[Finding]:
    """The finding: an error for a teacher no better than the unigram model, a warning if it is used ``anyway``."""
    if found is None:
        return
    message = f"{name} has {found.sentence}"
    if not found.teacher < found.unigram:
        yield Finding(
            "knowledge",
            "warning" if anyway else "error",
            f"{message}: it predicts this text no better than the frequencies of its tokens do",
            "take a teacher that was trained on such text, or check its tokenizer; --any-teacher uses it anyway",
        )
    elif found.teacher > (1 - _CLOSE) * found.unigram:
        yield Finding(
            "knowledge",
            "warning",
            f"{message}: it predicts this text hardly better than the frequencies of its tokens do",
            "take a teacher that was trained on such text, if there is one",
        )
    else:
        yield Finding("knowledge", "ok", message)


def check_knowledge(found: UnigramComparison | None, name: str, *, anyway: bool) -> None:
    """Prints the finding. Raises Mismatch for a teacher no better than a unigram model, unless it is used ``anyway``."""
    findings = list(knowledge(found, name, anyway=anyway))
    check(findings)
    for finding in findings:
        console.print(f"{finding.level}: {finding.message}")


def check_knowledge_of(
    teacher: CausalLM | ServedTeacher,
    about: LanguageModel,
    prompts: Sequence[Prompt],
    *,
    length: int,
    device: torch.device | str,
    anyway: bool,
) -> None:
    """Checks a teacher's knowledge of prompts as `check_knowledge`. ``about`` has its name, tokenizer and vocabulary."""
    items = of_prompts(prompts, about.tokenizer)
    found = compare_to_unigram(teacher, items, vocab=about.vocab, length=length, device=device)
    check_knowledge(found, about.name, anyway=anyway)


def _some(documents: Iterable[Document]) -> Iterator[Document]:
    """The first documents, up to the limits of counting."""
    characters = 0
    for document in islice(documents, _COUNTED):
        yield document
        characters += len(document.content)
        if characters > _COUNTED_CHARACTERS:
            return


def _unigram(items: Sequence[Item], *, vocab: int) -> np.ndarray:
    """log p of each token of the vocabulary, in nats, smoothed (Witten & Bell 1991)."""
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
