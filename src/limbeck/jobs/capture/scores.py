"""A teacher's log-probability per token of texts of a student, kept in a journal until all are there.

A text is scored after its prompt, with the token that ends it, in the teacher's tokens. Texts of other lengths compare by their
mean, which may still go with length; the ending of the capture says how far.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
import torch

from limbeck.corpora.document import Document
from limbeck.corpora.reading import Reads
from limbeck.corpora.tokenised import in_tokens
from limbeck.corpora.writer import Item
from limbeck.disk import Count
from limbeck.errors import BadServer
from limbeck.jobs.capture.journal import Journal
from limbeck.jobs.capture.progress import progress
from limbeck.models.micro_batch import MICRO_TOKENS
from limbeck.teachers.own import own_log_p
from limbeck.teachers.remote.served import MOST_MISSING, ServedTeacher
from limbeck.types import Batch, CausalLM

_ROWS_EACH = 4  # rows in flight for each request in flight: some wait, so that the server never does


class ScoreRow(TypedDict):
    """A score in the journal: the mean of ``tokens`` log-probabilities, in nats."""

    number: Count
    score: float
    tokens: Count


@dataclass(frozen=True)
class Judge:
    """A teacher that scores; ``about`` has its tokenizer, ``context`` is the longest text in tokens that it reads."""

    teacher: CausalLM | ServedTeacher
    about: Reads
    context: int
    device: torch.device


def score(judge: Judge, texts: Mapping[int, Document], journal: Journal) -> int:
    """Adds the missing scores of ``texts`` by their number to a journal; gives how many a server did not score.

    A text that its template refuses, or that is longer than its context, gets none. Batches follow from all texts and not from
    those that are missing, so that a continued run has the same scores. Raises BadServer if a server does not score too many.
    """
    named = [replace(document, name=str(number)) for number, document in texts.items()]
    items = {int(item.name): item for item in in_tokens(named, judge.about)}
    fitting = {number: item for number, item in items.items() if len(item.tokens) <= judge.context + 1}
    failed = 0
    with progress(len(fitting), what="score") as report:
        for group in _groups(judge, fitting):
            if all(number in journal for number in group):
                continue
            for number, (total, tokens) in zip(group, _scored(judge, [fitting[n] for n in group]), strict=True):
                if number not in journal and tokens:
                    journal.add({"number": number, "score": total / tokens, "tokens": tokens})
                failed += not tokens
            if failed > max(1, MOST_MISSING * len(fitting)):
                raise _too_many(judge, failed, len(fitting))
            report(journal.done, journal.tokens)
    return failed


def _too_many(judge: Judge, failed: int, total: int) -> BadServer:
    assert isinstance(judge.teacher, ServedTeacher), "a model in memory scores every text"
    reasons = "; ".join(judge.teacher.failures) or "no log-probability of some tokens"
    return BadServer(
        f"{judge.teacher.client.address}: {failed:,} of {total:,} texts got no score, more than the {100 * MOST_MISSING:g} % "
        f"allowed: {reasons}. Scores and texts are kept: check the server and its log, then run the same command again"
    )


def _groups(judge: Judge, items: Mapping[int, Item]) -> Iterator[Sequence[int]]:
    """The numbers of texts that are scored together: of similar length, the longest first."""
    order = sorted(items, key=lambda number: (-len(items[number].tokens), number))
    if isinstance(judge.teacher, ServedTeacher):
        rows = _ROWS_EACH * judge.teacher.in_flight
        yield from (order[start : start + rows] for start in range(0, len(order), rows))
        return
    most = MICRO_TOKENS["cuda" if judge.device.type == "cuda" else "cpu"]
    while order:
        rows = max(1, most // len(items[order[0]].tokens))
        yield order[:rows]
        order = order[rows:]


def _scored(judge: Judge, items: Sequence[Item]) -> Iterator[tuple[float, int]]:
    """(sum of log p in nats, number of tokens) of the learned tokens of each text; no tokens where one has no log-probability."""
    served = isinstance(judge.teacher, ServedTeacher)
    groups = [[item] for item in items] if served else [list(items)]
    rows = [_rows(group).to(judge.device) for group in groups]
    for batch, (log_p, known) in zip(rows, own_log_p(judge.teacher, rows), strict=True):
        shape = batch.tokens.shape
        counts = batch.weight.cpu().numpy() > 0
        values = np.where(counts & known.reshape(shape), log_p.reshape(shape), 0.0)
        lacking = (counts & ~known.reshape(shape)).sum(1)
        for total, number, lacks in zip(values.sum(1), counts.sum(1), lacking, strict=True):
            yield float(total), 0 if lacks else int(number)


def _rows(items: Sequence[Item]) -> Batch:
    """Each text in a row of its own, padded on the right, where no model looks from before. Learned tokens have weight 1."""
    length = max(len(item.tokens) for item in items) - 1
    tokens = torch.zeros(len(items), length + 1, dtype=torch.long)
    weight = torch.zeros(len(items), length)
    for row, item in enumerate(items):
        assert item.learned is not None, "a text after its prompt"
        size = len(item.tokens)
        tokens[row, :size] = torch.from_numpy(item.tokens.astype(np.int64))
        weight[row, : size - 1] = torch.from_numpy(item.learned[1:].astype(np.float32))
    position = torch.arange(length)[None].expand(len(items), length)
    document = torch.arange(len(items))[:, None].expand_as(position)
    return Batch(tokens[:, :-1], tokens[:, 1:], weight, position, document, document[:, 0])
