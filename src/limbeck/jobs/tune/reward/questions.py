"""The questions of a tuning by a reward: prompts in tokens with their checks and known answers, those held out apart."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from limbeck.config import TuneSettings
from limbeck.corpora import Prompt, Reader, is_held_out, prompts_of
from limbeck.corpora.chat import opens_turns
from limbeck.corpora.faults import BadRecords
from limbeck.corpora.prompt import digest
from limbeck.corpora.tasks.checked_prompts import checked_of
from limbeck.corpora.tokenised import in_tokens
from limbeck.errors import BadCorpus, BadTask, Mismatch
from limbeck.jobs.common.text import columns_of
from limbeck.models.vocabulary import require_rows_of
from limbeck.report.words import counted
from limbeck.run.questions import Question

HELD_OUT = 0.1  # of the prompts; there are fewer of them than there are documents in a text
MEASURED = 200  # held-out prompts at most, since each is answered several times by each model
UNCHECKED, LONG = "without a check, or with one that needs something trained", "too long for the model's context"


@dataclass(frozen=True)
class Questions:
    """Prompts to train on and held-out ones, and those of the first with their ``known`` answers, as text is tuned on.

    ``left_out`` counts prompts by the reason, ``skipped`` are records that cannot be read. ``digest`` is of all of them.
    """

    train: Sequence[Question]
    held_out: Sequence[Question]
    known: Sequence[Question]
    left_out: Counter[str]
    skipped: int
    digest: str

    def notes(self) -> list[str]:
        """What was read and left out, for people."""
        notes = [f"{counted(len(self.train), 'prompt')} to train on, {len(self.held_out):,} held out"]
        notes += [f"left out: {counted(count, 'prompt')} {why}" for why, count in self.left_out.items()]
        return notes + ([f"skipped: {counted(self.skipped, 'record')} that cannot be read"] if self.skipped else [])


def questions_of(settings: TuneSettings, tokenizer: PreTrainedTokenizerBase, *, vocab: int, context: int) -> Questions:
    """The questions in the prompts of --data, and in those of --eval-data or a tenth of the others by their hash.

    ``context``: that of the model, in which a prompt needs room for an answer. Raises BadTask where no prompt has a check,
    BadCorpus for faulty records, and where no prompt is left to train on, or to hold out, Mismatch where none fits.
    """
    bad = BadRecords(settings.skip_bad or 0)
    prompts = prompts_of(settings.data, columns=columns_of(settings), bad=bad)
    apart = None if settings.eval_data is None else prompts_of(settings.eval_data, columns=columns_of(settings))
    _check_template(prompts, tokenizer)
    left_out: Counter[str] = Counter()
    made = _Making(settings, tokenizer, vocab, context, left_out)
    found = list(made.questions(prompts))
    _require(found, prompts, settings, left_out)
    if apart is None:
        sides: tuple[list[tuple[Prompt, Question]], ...] = ([], [])
        for prompt, question in found:
            sides[is_held_out(prompt.document, fraction=HELD_OUT)].append((prompt, question))
        train, held_out = sides
    else:
        train, held_out = found, list(made.questions(apart))
    for side, what in ((train, "train on"), (held_out, "hold out")):
        if not side:
            raise BadCorpus(
                f"{settings.data}: expected prompts to {what}, got none of {len(found):,}: give more, or others with --eval-data"
            )
    fields = [prompt.document.checked_by for prompt, _ in (*train, *held_out)]
    both = [digest(prompt for prompt, _ in side) for side in (train, held_out)]
    content = json.dumps([both, fields, [prompt.known for prompt, _ in train]], sort_keys=True, default=str)
    return Questions(
        [one for _, one in train],
        [one for _, one in held_out[:MEASURED]],
        known_of([prompt for prompt, _ in train], tokenizer),
        left_out,
        bad.count,
        hashlib.sha256(content.encode()).hexdigest(),
    )


@dataclass(frozen=True)
class _Making:
    """Makes questions of prompts, and counts those that are none."""

    settings: TuneSettings
    tokenizer: PreTrainedTokenizerBase
    vocab: int
    context: int
    left_out: Counter[str]

    def questions(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Prompt, Question]]:
        """Each prompt with a check that fits, and its question."""
        for prompt in prompts:
            check = checked_of(prompt)
            if check is None:
                self.left_out[UNCHECKED] += 1
                continue
            tokens = prompt.tokens(self.tokenizer)
            require_rows_of(self.tokenizer, tokens, self.vocab, where=prompt.name)
            if len(tokens) + self.settings.rollout_tokens > self.context:
                self.left_out[LONG] += 1
                continue
            yield prompt, Question(prompt.name, tuple(tokens), check)


def known_of(prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase) -> list[Question]:
    """Prompts with the answers of their records, in tokens as a supervised tuning reads them; those without one left out."""
    documents = [prompt.completed(text) for prompt in prompts if (text := known_answer(prompt))]
    found = []
    for item in in_tokens(documents, Reader(tokenizer)):
        learned = np.flatnonzero(item.learned) if item.learned is not None else np.zeros(0, int)
        if len(learned) and learned[0]:
            tokens = tuple(item.tokens.tolist())
            first, last = int(learned[0]), int(learned[-1]) + 1
            found.append(Question(item.name, tokens[:first], answer=tokens[first:last]))
    return found


def known_answer(prompt: Prompt) -> str | None:
    """The completion of a prompt's record, else its field ``answer``, the first of several; None without either."""
    if prompt.known is not None:
        return prompt.known
    given: Any = (prompt.document.checked_by or {}).get("answer")
    first = given[0] if isinstance(given, list) and given else given
    return None if first is None or isinstance(first, list) else str(first)


def _check_template(prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises BadCorpus for a chat template by which a model cannot know that it is to answer."""
    first = next((one for one in prompts if one.document.messages is not None), None)
    if first is None:
        return
    first.tokens(tokenizer)  # for its errors
    if not opens_turns(tokenizer, first.document):
        raise BadCorpus(
            f"{first.name}: expected a chat template that begins an assistant's turn (add_generation_prompt), but this one "
            "writes nothing before it, so a model cannot know that it is to answer: repair the template, or give the prompts as "
            "'prompt' in plain text"
        )


def _require(found: Sequence[Any], prompts: Sequence[Prompt], settings: TuneSettings, left_out: Counter[str]) -> None:
    """Raises BadTask where no prompt has a check, Mismatch where none of those that have one fits."""
    if found:
        return
    if left_out[LONG]:
        raise Mismatch(
            f"{settings.data}: none of {left_out[LONG]:,} prompts has room for {settings.rollout_tokens} tokens more in the "
            "model's context: shorten them, or give a smaller --rollout-tokens"
        )
    raise BadTask(
        f"{settings.data}: expected prompts with a check, an 'answer' or IFEval's 'instruction_id_list' and 'kwargs' beside "
        f"each, got none in {len(prompts):,}: add them, or give another name with --columns answer=solution"
    )
