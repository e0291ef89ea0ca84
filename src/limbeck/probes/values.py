"""The values probe: names and their values out of the held-out text itself, and one name again. Is its value read back?

It is recall from the context in real text (`corpora.tasks.values`), by the length of the context and by form: lines of fields,
definitions as documents have them, and tables. An answer is exact if each of its tokens is the most probable one after those
before it, which is what greedy generation gives. Beside it stands the same question after a row without that entry: what a model
knows of the value by itself, or guesses. ``recalled`` is by how many nats a token the entry makes its value easier. The bytes of
the state that a model carries past as many tokens stand beside each length.

Several rows ask for entries of one document, often for the same entry. Documents are therefore the sampling unit of intervals,
each with all rows that ask for one of its entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int64

from limbeck.corpora import TokenStore
from limbeck.corpora.tasks.spelled import Question
from limbeck.corpora.tasks.values import FORMS, Row, entries_of, sample_rows
from limbeck.errors import BadTask
from limbeck.models.language_model import LanguageModel
from limbeck.planning.cost.size import Size
from limbeck.probes.interval import Interval, mean_interval, share_interval
from limbeck.probes.named import TEXT, ProbeContext, probe
from limbeck.probes.pass_until import spelled
from limbeck.types import Batch, Reading

LENGTHS = (128, 256, 512, 1024)  # tokens of a row
ROWS = 64  # of each form and length
_FEWEST = 16  # entries that a text needs
_TOGETHER = 16  # rows whose hidden states are in memory at once
_FLOAT32 = 4

Column = Float[np.ndarray, " rows"]


@dataclass(frozen=True)
class Scores:
    """Of each question: whether its answer is exact (1 or 0), its nats, and its tokens."""

    exact: Column
    nats: Column
    tokens: Column


@dataclass(frozen=True)
class Values:
    """Scores of rows that show the asked entry, and of the same rows without it; the document that each entry is from."""

    shown: Scores
    without: Scores
    document: Int64[np.ndarray, " rows"]

    def sums(self, column: Column) -> Float[np.ndarray, " documents"]:
        """The sum of a column over the rows of each document that is asked about."""
        _, number = np.unique(self.document, return_inverse=True)
        return np.bincount(number, weights=column)

    @property
    def rows(self) -> Float[np.ndarray, " documents"]:
        """The number of rows of each document that is asked about."""
        return self.sums(np.ones(len(self.document)))


@probe("values", reads=(*TEXT, "seed"))
def probe_values(model: LanguageModel, teacher: LanguageModel | None, context: ProbeContext) -> list[Reading]:
    """The readings of `values` for a model, on entries of the held-out text."""
    texts = texts_of(context.held_out().store, model)
    return values(model, texts, seed=context.seed)


def texts_of(store: TokenStore, model: LanguageModel) -> list[str]:
    """The documents of a store as text."""
    starts = store.starts.tolist()
    tokens = [store.slice(first, last).tolist() for first, last in pairwise(starts)]
    found: list[str] = model.tokenizer.batch_decode(
        tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return found


def values(model: LanguageModel, texts: Sequence[str], *, seed: int = 0) -> list[Reading]:
    """Exact answers by length and form, without the entry too, and nats that the entry saves.

    n counts documents; fewer than three have no interval.

    Raises BadTask where the text has too few entries, or the context of the model is too short for a row.
    """
    found: dict[str, tuple[Interval, str]] = {}
    for length, rows in rows_by_length(model, texts, seed=seed).items():
        scored = {form: measure_values(model, some) for form, some in rows.items()}
        together = pooled(list(scored.values()))
        for name, one in ((f"values_{length}", together), *((f"values_{length}_{f}", v) for f, v in scored.items())):
            found[name] = _share(one, one.shown), "share"
        found[f"values_{length}_without"] = _share(together, together.without), "share"
        found[f"values_{length}_recalled"] = recalled(together), "nats/token"
        size = float(Size.of(model.model.config).state_bytes(length, _FLOAT32))
        found[f"values_{length}_state_bytes"] = Interval(size, size, size, 1), "bytes"
    return [
        Reading(model.name, "values", name, one.value, unit, one.n, one.low, one.high, seed)
        for name, (one, unit) in found.items()
    ]


def rows_by_length(
    model: LanguageModel, texts: Sequence[str], *, seed: int, rows: int = ROWS
) -> dict[int, Mapping[str, list[Row]]]:
    """Rows by length and form, at most ``rows`` each. Lengths at which no form fits are left out.

    They are the same for all models of one tokenizer and context. Raises as `values`.
    """
    entries = entries_of(texts)
    if len(entries) < _FEWEST:
        raise BadTask(
            f"values: the text has {len(entries)} names with values (sentences such as 'X is a ...', functions with a "
            f"docstring), and {_FEWEST} are the fewest that rows can be made of: measure on more text, or on one that defines "
            "more (--data)"
        )
    counts: dict[str, int] = {}

    def tokens_of(text: str) -> int:
        if text not in counts:
            counts[text] = len(model.tokenizer(text, add_special_tokens=False)["input_ids"])
        return counts[text]

    found: dict[int, Mapping[str, list[Row]]] = {}
    for length in LENGTHS:
        if length <= model.context:
            drawn = {
                form: sample_rows(
                    entries,
                    form,
                    tokens_of,
                    length=length,
                    rows=rows,
                    generator=np.random.default_rng([seed, length, number]),
                )
                for number, form in enumerate(FORMS)
            }
            if drawn := {form: some for form, some in drawn.items() if some}:
                found[length] = drawn
    if not found:
        raise BadTask(
            f"values: no two of the text's entries fit rows of {LENGTHS[0]} tokens or more within the context of {model.name}, "
            f"{model.context}: use a model with a longer context, or other text (--data)"
        )
    return found


def measure_values(model: LanguageModel, rows: Sequence[Row]) -> Values:
    """Scores of rows, as they are and without the asked entry."""
    document = np.array([row.document for row in rows])
    return Values(score(model, [row.question for row in rows]), score(model, [row.without for row in rows]), document)


def pooled(parts: Sequence[Values]) -> Values:
    """Several sets of rows as one."""

    def joined(scores: Sequence[Scores]) -> Scores:
        return Scores(*(np.concatenate([getattr(one, name) for one in scores]) for name in ("exact", "nats", "tokens")))

    document = np.concatenate([one.document for one in parts])
    return Values(joined([one.shown for one in parts]), joined([one.without for one in parts]), document)


def recalled(one: Values) -> Interval:
    """By how many nats a token an answer is easier after a row that has it, with its interval over documents."""
    return mean_interval(one.sums(one.without.nats - one.shown.nats), one.sums(one.shown.tokens))


@torch.inference_mode()
def score(model: LanguageModel, questions: Sequence[Question]) -> Scores:
    """Whether each answer is what greedy generation gives, and its nats, in one pass over prompt and answer."""
    spelt = [spelled(model, one.prompt, one.answer) for one in questions]
    order = sorted(range(len(spelt)), key=lambda i: sum(map(len, spelt[i])))
    exact, nats = np.zeros(len(spelt)), np.zeros(len(spelt))
    for start in range(0, len(order), _TOGETHER):
        some = order[start : start + _TOGETHER]
        exact[some], nats[some] = _scored(model, [spelt[i] for i in some])
    return Scores(exact, nats, np.array([len(answer) for _, answer in spelt], dtype=np.float64))


def _scored(model: LanguageModel, spelt: Sequence[tuple[list[int], list[int]]]) -> tuple[Column, Column]:
    """Of a few rows: exact or not, and nats. What is padded lies after a row's answer, where no model looks from before."""
    length = max(len(prompt) + len(answer) for prompt, answer in spelt)
    tokens = torch.zeros((len(spelt), length), dtype=torch.int64)
    for row, (prompt, answer) in enumerate(spelt):
        tokens[row, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
    nothing = torch.zeros_like(tokens)
    position = torch.arange(length).expand_as(tokens)
    batch = Batch(tokens, nothing, nothing.float(), position, nothing, nothing[:, 0]).to(model.device)
    places = [
        row * length + len(prompt) - 1 + i for row, (prompt, answer) in enumerate(spelt) for i in range(len(answer))
    ]
    logits = model(batch).logits(torch.tensor(places, device=model.device)).double()
    targets = torch.tensor([token for _, answer in spelt for token in answer], device=model.device)
    nats = torch.nn.functional.cross_entropy(logits, targets, reduction="none").cpu()
    right = (logits.argmax(-1) == targets).cpu()
    sizes = [len(answer) for _, answer in spelt]
    parts = zip(right.split(sizes), nats.split(sizes), strict=True)
    found = np.array([(float(one.all()), float(more.sum())) for one, more in parts])
    return found[:, 0], found[:, 1]


def _share(one: Values, scores: Scores) -> Interval:
    """The share of exact answers among these scores of the rows."""
    return share_interval(one.sums(scores.exact), one.rows)
