"""The questions of a tuning by a reward: prompts in tokens with their checks and known answers, those held out apart."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from limbeck.config import LATENT, TuneSettings, reward_options
from limbeck.corpora import Prompt, Reader, is_held_out, prompts_of
from limbeck.corpora.chat import opens_turns
from limbeck.corpora.document import PROMPTS_HELD_OUT
from limbeck.corpora.faults import BadRecords
from limbeck.corpora.prompt import digest
from limbeck.corpora.tasks.checked_prompts import checked_of, first_answer
from limbeck.corpora.tasks.final import final_answer
from limbeck.corpora.tokenised import in_tokens
from limbeck.errors import BadCorpus, BadTask, Mismatch
from limbeck.generation.local import stop_tokens
from limbeck.jobs.common.text import columns_of
from limbeck.models.language_model import LanguageModel
from limbeck.models.vocabulary import require_rows_of
from limbeck.report.words import counted
from limbeck.run.questions import Question

MEASURED = 200  # held-out prompts at most, since each is answered several times by each model
CHOOSING = 64  # further ones at most that choose among several learning rates
UNCHECKED, LONG = "without a check, or with one that needs something trained", "too long for the model's context"
_SHORT = 2  # tokens of an answer and its end
UNANSWERED = "without a known answer"
BOTH = "to train on that are held out too"


@dataclass(frozen=True)
class Questions:
    """Prompts to train on and held-out ones, and those of the first with their ``known`` answers, as text is tuned on.

    ``left_out`` counts prompts by the reason, ``skipped`` are records that cannot be read. ``digest`` is of all of them.
    ``unmeasured`` counts further prompts that are held out, ``long`` known answers that do not fit the model's context.
    ``choosing``: held-out prompts that choose among several learning rates, and judge nothing; none for one rate.
    """

    train: Sequence[Question]
    held_out: Sequence[Question]
    known: Sequence[Question]
    left_out: Counter[str]
    skipped: int
    digest: str
    unmeasured: int = 0
    long: int = 0
    choosing: Sequence[Question] = ()

    def notes(self) -> list[str]:
        """What was read and left out, for people."""
        held_out = len(self.held_out) + len(self.choosing) + self.unmeasured
        notes = [f"{counted(len(self.train), 'prompt')} to train on, {held_out:,} held out"]
        if self.choosing:
            notes.append(
                f"{counted(len(self.choosing), 'held-out prompt')} choose the learning rate, and judge nothing"
            )
        if self.unmeasured:
            notes.append(
                f"measured on {len(self.held_out):,} of the prompts held out, chosen by their hash; {self.unmeasured:,} are "
                "neither trained on nor measured"
            )
        explained = [one for one in self.train if one.known]
        if explained and sum(len(one.after) <= _SHORT for one in explained) > len(explained) / 2:
            notes.append(
                "most known answers are a single token, whose probability says little about a rationale: longer answers say more"
            )
        notes += [f"left out: {counted(count, 'prompt')} {why}" for why, count in self.left_out.items()]
        if self.long:
            notes.append(
                f"left out of the known answers: {self.long:,} that do not fit the model's context with their prompts"
            )
        return notes + ([f"skipped: {counted(self.skipped, 'record')} that cannot be read"] if self.skipped else [])


def questions_of(settings: TuneSettings, model: LanguageModel) -> Questions:
    """The questions in the prompts of --data, and in those of --eval-data or a tenth of the others by their hash.

    Raises BadTask where no prompt has what the reward needs, a check or a known answer, BadCorpus for faulty records, and where
    no prompt is left to train on, or to hold out, Mismatch where none has room for an answer in the model's context.
    """
    tokenizer = model.tokenizer
    bad = BadRecords(settings.skip_bad or 0)
    prompts = prompts_of(settings.data, columns=columns_of(settings), bad=bad)
    apart = None if settings.eval_data is None else prompts_of(settings.eval_data, columns=columns_of(settings))
    _check_template(prompts, tokenizer)
    left_out: Counter[str] = Counter()
    made = _Making(settings, model, left_out)
    found = list(made.questions(prompts))
    _require(found, prompts, settings, left_out)
    if apart is None:
        sides: tuple[list[tuple[Prompt, Question]], ...] = ([], [])
        for prompt, question in found:
            sides[is_held_out(prompt.document, fraction=PROMPTS_HELD_OUT)].append((prompt, question))
        train, held_out = sides
    else:
        train, held_out = found, list(made.questions(apart))
    train = _apart(train, held_out, left_out)
    for side, what in ((train, "train on"), (held_out, "hold out")):
        if not side:
            both = f", of which {left_out[BOTH]:,} are held out too" if left_out[BOTH] else ""
            raise BadCorpus(
                f"{settings.data}: expected prompts to {what}, got none of {len(found):,}{both}: give more, or others with "
                "--eval-data"
            )
    measured, choosing = _measured(held_out, several=isinstance(settings.lr, tuple))
    every = known_of([prompt for prompt, _ in train], tokenizer)
    known = [one for one in every if len(one.prompt) + len(one.answer) <= model.context]
    return Questions(
        [one for _, one in train],
        measured,
        known,
        left_out,
        bad.count,
        _digest_of(train, held_out),
        unmeasured=len(held_out) - len(measured) - len(choosing),
        long=len(every) - len(known),
        choosing=choosing,
    )


_Asked = Sequence[tuple[Prompt, Question]]


def _apart(train: _Asked, held_out: _Asked, left_out: Counter[str]) -> list[tuple[Prompt, Question]]:
    """The prompts to train on that are not held out too, by what a model reads; the others are counted."""
    measured = {question.prompt for _, question in held_out}
    kept = [one for one in train if one[1].prompt not in measured]
    if len(kept) < len(train):
        left_out[BOTH] += len(train) - len(kept)
    return kept


def _measured(held_out: _Asked, *, several: bool) -> tuple[list[Question], list[Question]]:
    """`MEASURED` of the held-out prompts, and with ``several`` rates some others to choose by, a third of all at most.

    By their hash, whatever the order of the file, which they keep; no question chooses in one form and judges in another. Raises
    BadCorpus for too few.
    """
    digests = [prompt.document.digest() for prompt, _ in held_out]
    order = sorted(range(len(held_out)), key=lambda place: (digests[place], place))
    apart = min(CHOOSING, len(order) // 3) if several else 0
    if several and not apart:
        raise BadCorpus(
            f"--lr with several rates: expected 3 held-out prompts or more, of which some choose the rate and the others judge, "
            f"got {len(order)}: give more prompts, or one rate"
        )
    judging = order[: min(MEASURED, len(order) - apart)]
    sides = judging, order[len(order) - apart :]
    judged, choosing = ([held_out[place] for place in sorted(side)] for side in sides)
    alike = {prompt.document.split_digest() for prompt, _ in judged}, {question.prompt for _, question in judged}
    choosing = [
        (prompt, question)
        for prompt, question in choosing
        if prompt.document.split_digest() not in alike[0] and question.prompt not in alike[1]
    ]
    if several and not choosing:
        raise BadCorpus(
            "--lr with several rates: expected held-out prompts of several questions, of which some choose the rate and the "
            "others judge, got one question in several forms: give more prompts, or one rate"
        )
    return [one for _, one in judged], [one for _, one in choosing]


def _digest_of(train: _Asked, held_out: _Asked) -> str:
    """SHA-256 of the prompts of both sides, their checks, and the known answers of the first."""
    fields = [prompt.document.checked_by for prompt, _ in (*train, *held_out)]
    both = [digest(prompt for prompt, _ in side) for side in (train, held_out)]
    content = json.dumps([both, fields, [prompt.known for prompt, _ in train]], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True)
class _Making:
    """Makes questions of prompts, and counts those that are none."""

    settings: TuneSettings
    model: LanguageModel
    left_out: Counter[str]
    ends: dict[bool, tuple[int, ...]] = field(
        default_factory=dict
    )  # of answers, by whether the prompt is a conversation

    def questions(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Prompt, Question]]:
        """Each prompt that has what the reward needs, and its question."""
        assert self.settings.reward is not None, "it is asked for"
        reward, options = reward_options(self.settings.reward)
        for prompt in prompts:
            tokens = tuple(prompt.tokens(self.model.tokenizer))
            require_rows_of(self.model.tokenizer, list(tokens), self.model.vocab, where=prompt.name)
            if reward == LATENT:
                question = self._explained(prompt, tokens, options["mark"])
            else:
                check = checked_of(prompt)
                question = None if check is None else Question(prompt.name, tokens, check)
            if question is None:
                self.left_out[UNANSWERED if reward == LATENT else UNCHECKED] += 1
            elif len(tokens) + self.settings.rollout_tokens + len(question.answer) > self.model.context:
                self.left_out[LONG] += 1
            else:
                yield prompt, question

    def _explained(self, prompt: Prompt, tokens: tuple[int, ...], mark: str) -> Question | None:
        """A question whose answer follows a rationale and a mark; None without a known answer."""
        given = known_answer(prompt, whole=False)
        if given is None:
            return None
        tokenizer, end = self.model.tokenizer, self._end(prompt, given)
        texts = (f"\n{mark} {given}", f" {given}")
        whole, after = (tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts)
        return Question(prompt.name, tokens, answer=(*whole, *end), after=(*after, *end), known=given)

    def _end(self, prompt: Prompt, given: str) -> tuple[int, ...]:
        """The token that ends an answer to a prompt of this form, where a text that is tuned on ends with it; else ()."""
        form = prompt.document.messages is not None
        if form not in self.ends:
            known = known_of([replace(prompt, known=given)], self.model.tokenizer)
            last = known[0].answer[-1:] if known else ()
            self.ends[form] = tuple(token for token in last if token in stop_tokens(self.model))
        return self.ends[form]


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


def known_answer(prompt: Prompt, *, whole: bool = True) -> str | None:
    """The completion of a prompt's record, else its field ``answer``, the first of several; None without either.

    Without ``whole`` the final answer alone: the field ``answer``, else what the completion marks as it, else all of it.
    """
    answer = first_answer(prompt.document.checked_by)
    if whole:
        return answer if prompt.known is None else prompt.known
    text = prompt.known if answer is None else answer
    if text is None:
        return None
    final = final_answer(text)
    return (text if final is None else final).strip() or None


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
    if left_out[UNANSWERED]:
        raise BadTask(
            f"{settings.data}: expected prompts with a known answer, an 'answer' or a completion beside each, got none in "
            f"{len(prompts):,}: add them, or give another name with --columns answer=solution"
        )
    raise BadTask(
        f"{settings.data}: expected prompts with a check, an 'answer' or IFEval's 'instruction_id_list' and 'kwargs' beside "
        f"each, got none in {len(prompts):,}: add them, or give another name with --columns answer=solution"
    )
