"""The probe ``tradeoff``: what a specialised model gains on a target, and what it loses on guards, beside its parent.

A target or a guard is a source as for ``--data``. Of prompts with answers or constraints beside them it is the share of greedy
completions that pass (`checked_prompts`), of any other text the nats per token that is learned. The loss is the price of
specialisation (Fu et al., arXiv 2301.12726, sec. 4).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import PurePath

import numpy as np
from jaxtyping import Float

from limbeck.corpora import Columns, Prompt, Rows, prompts_of, read
from limbeck.corpora.tasks.checked import Checked
from limbeck.corpora.tasks.checked_prompts import checked_of
from limbeck.corpora.tokenised import store_in_memory
from limbeck.errors import BadCorpus, BadSetting
from limbeck.generation.served import STOP
from limbeck.models.language_model import LanguageModel
from limbeck.models.observing import evaluating
from limbeck.probes.constraints.answers import greedy_answers
from limbeck.probes.interval import Interval, difference_interval, mean_interval, paired_shares, share_interval
from limbeck.probes.measurements import measure
from limbeck.probes.named import ProbeContext, probe
from limbeck.types import Reading

ITEMS = 500  # prompts or documents of a source, its first ones
MOST = 512  # tokens of a completion
_LENGTH = 1024  # tokens of a row of text; fewer where a context is shorter
_TOGETHER = 8  # rows of text at once
_SHARE, _NATS = "share", "nats/token"


@dataclass(frozen=True)
class Scored:
    """The score of a model on each item of a source: ``sums`` over ``counts``, a share of passes or nats per token."""

    sums: Float[np.ndarray, " items"]
    counts: Float[np.ndarray, " items"]
    unit: str

    @property
    def level(self) -> Interval:
        """The mean over the source."""
        return (share_interval if self.unit == _SHARE else mean_interval)(self.sums, self.counts)

    def better_than(self, other: Scored) -> Interval:
        """How much better it is, paired by item: more passes, or fewer nats."""
        if self.unit == _SHARE:
            return paired_shares(self.sums, other.sums, self.counts)
        return difference_interval(other.sums[None], self.sums[None], self.counts)


@probe("tradeoff", reads=("target", "guard", "teacher"))
def probe_tradeoff(model: LanguageModel, teacher: LanguageModel | None, context: ProbeContext) -> Iterator[Reading]:
    """Levels of a model and of its parent, given in the teacher's place, on a target and guards, and the differences.

    ``gain_on_TARGET`` is how much better the model is, ``loss_on_GUARD`` how much worse. Raises BadSetting without a parent, a
    target or a guard.
    """
    if teacher is None:
        raise BadSetting(
            "--probe tradeoff compares a model with the one that it was tuned from: give that with --teacher, such as --teacher "
            "Qwen/Qwen3-0.6B"
        )
    if context.target is None or not context.guard:
        lacks = "--target" if context.target is None else "--guard"
        raise BadSetting(
            f"--probe tradeoff needs {lacks}: give what the model was made for and what it should still do, such as --target "
            "sums.jsonl --guard chat.jsonl,text.jsonl"
        )
    names = names_of([context.target, *context.guard])
    sides = [(context.target, "gain"), *((guard, "loss") for guard in context.guard)]
    for name, (source, what) in zip(names, sides, strict=True):
        mine, parents = scored(source, model, teacher)
        found = mine.better_than(parents) if what == "gain" else parents.better_than(mine)
        for reading, one in ((name, mine.level), (f"parent_{name}", parents.level), (f"{what}_on_{name}", found)):
            yield Reading(model.name, "tradeoff", reading, one.value, mine.unit, one.n, one.low, one.high)
        context.note(_words(what, source, found, mine.unit))


def names_of(sources: list[str]) -> list[str]:
    """A name for each source in readings: that of its file, numbered where another has it, so that all differ."""
    found: list[str] = []
    for source in sources:
        name = PurePath(source.rpartition(":")[2]).stem or source
        free = (one for one in chain([name], (f"{name}_{n}" for n in count(2))) if one not in found)
        found.append(next(free))
    return found


def scored(source: str, *models: LanguageModel) -> tuple[Scored, ...]:
    """The scores of some models with one tokenizer on the first items of a source.

    Raises BadCorpus for a source without text, and for one of which only some prompts have an answer.
    """
    prompts = _prompts(source)
    checks = [checked_of(prompt) for prompt in prompts]
    known = [check for check in checks if check is not None]
    if known and len(known) < len(checks):
        raise BadCorpus(
            f"{source}: expected an answer beside every prompt or none, got {len(known):,} of {len(checks):,} with one: give "
            "those without in a file of their own, as text"
        )
    return tuple(_passes(model, prompts, known) if known else _nats(model, source, *models) for model in models)


def _prompts(source: str) -> list[Prompt]:
    return prompts_of(source, most=ITEMS, columns=Columns(prompts=True))


def _passes(model: LanguageModel, prompts: list[Prompt], checks: list[Checked]) -> Scored:
    """Which prompts a model's greedy completions pass."""
    answers = greedy_answers(model, [prompt.tokens(model.tokenizer) for prompt in prompts], most=MOST)
    passed = [  # one that was cut off while it was empty is undecided, and passes no more
        check.passes(one.text, ended=one.finish == STOP) is True for check, one in zip(checks, answers, strict=True)
    ]
    return Scored(np.array(passed, dtype=float), np.ones(len(passed)), _SHARE)


def _nats(model: LanguageModel, source: str, *models: LanguageModel) -> Scored:
    """The nats of each document's learned tokens, in rows that fit the context of all ``models``."""
    store = store_in_memory(list(islice(read(source), ITEMS)), model)
    if store is None:
        raise BadCorpus(f"{source}: expected text of two tokens or more, got none: name another")
    length = min(_LENGTH, store.tokens - 1, *(one.context for one in models))
    batches = (batch.to(model.device) for batch in Rows(store, length=length).in_order(_TOGETHER))
    with evaluating(model.model):
        found = measure(model, None, batches, documents=store.documents)
    return Scored(found.nats.astype(float), found.tokens.astype(float), _NATS)


def _words(what: str, source: str, found: Interval, unit: str) -> str:
    """A sentence on a gain or a loss."""
    scale, named = (100.0, "points") if unit == _SHARE else (1.0, unit)
    value, low, high = (f"{scale * one:+.3g}" for one in (found.value, found.low, found.high))
    sure = "" if found.excludes_zero else ", which may be none"
    return f"{what} on {source}: {value} {named} ({low} to {high}; n = {found.n:,}){sure}"
