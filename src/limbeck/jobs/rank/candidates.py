"""The completions that are ranked: those with an answer, which is the known one where there is one, and that fit the student."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from limbeck.config import RankSettings
from limbeck.corpora import Prompt
from limbeck.corpora.tasks.checked_prompts import known_answers
from limbeck.corpora.tasks.final import matches_final
from limbeck.errors import BadTask, Mismatch
from limbeck.jobs.rank.rationales import Rationale, rationale_of
from limbeck.models.language_model import LanguageModel
from limbeck.run.policy import Rollout

WRONG = "whose final answer is not the known one"


@dataclass(frozen=True)
class Candidate:
    """A completion of a prompt, its rationale with and without what it thinks, in tokens, and the known answer it ends in."""

    prompt: Prompt
    rationale: Rationale
    helped: Rollout
    alone: Rollout
    known: str | None

    @property
    def tokens(self) -> int:
        """Of the longer row."""
        return len(self.helped.prompt) + len(self.helped.sampled) + len(self.helped.answer)


def candidates_of(
    prompts: Sequence[Prompt], student: LanguageModel, settings: RankSettings, left_out: Counter[str]
) -> Iterator[Candidate]:
    """The completions with an answer that fit; ``left_out`` counts those that end in another answer than the known one.

    Raises BadTask where none has an answer, or all have another, Mismatch where none fits.
    """
    found = fits = 0
    for prompt in prompts:
        answers, text = known_answers(prompt.document.checked_by), prompt.known
        known = next((one for one in answers if text and matches_final(text, (one,))), None)
        if text and answers and known is None:
            left_out[WRONG] += 1
            continue
        asked = prompt.asked if isinstance(prompt.asked, str) else str(prompt.asked[-1].get("content"))
        rationale = text and rationale_of(asked, text, known=known, mark=settings.mark)
        if not rationale:
            continue
        found += 1
        candidate = _in_tokens(prompt, rationale, student, known)
        if candidate.tokens <= student.context:
            fits += 1
            yield candidate
    if not found and left_out[WRONG]:
        raise BadTask(
            f"{settings.data}: expected completions that end in the known answer, which stands beside them, got another in all "
            f"{left_out[WRONG]:,}: mark the final answer by ####, 'answer is' or \\boxed{{}}, or correct the field"
        )
    if not found:
        raise BadTask(
            f"{settings.data}: expected completions with an answer, an 'answer' beside each, or one after ####, 'answer is' or "
            f"in \\boxed{{}}, got none in {len(prompts):,} records: add them, or give another name with --columns answer=solution"
        )
    if not fits:
        raise Mismatch(
            f"{settings.data}: none of {found:,} completions fits the context of {student.name}, which is {student.context} "
            "tokens: shorten them, or take another student"
        )


def _in_tokens(prompt: Prompt, rationale: Rationale, student: LanguageModel, known: str | None) -> Candidate:
    tokenizer, before = student.tokenizer, tuple(prompt.tokens(student.tokenizer))

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    space = rationale.mark[len(rationale.mark.rstrip()) :]  # many tokenizers join it to the next word
    mark, answer = rationale.mark.rstrip(), ids(space + rationale.answer)
    return Candidate(
        prompt,
        rationale,
        Rollout(before, ids(rationale.thought + mark), answer),
        Rollout(before, ids(mark), answer),
        known,
    )
