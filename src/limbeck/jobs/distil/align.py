"""Checks whether a pair with two tokenizers can be aligned by bytes (`--tokenizer-align bytes`), and what its objectives need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from limbeck.config import DistilSettings
from limbeck.corpora.chunks import cut
from limbeck.corpora.token_bytes import TokenBytes
from limbeck.errors import BadSetting, Mismatch
from limbeck.jobs.distil.request import DistilRequest
from limbeck.models.language_model import LanguageModel
from limbeck.objectives.spec import ObjectiveSpec
from limbeck.planning.checks.finding import Finding
from limbeck.report.words import share

_UNREAD = 0.02  # share of bytes without a common text from which the doctor warns


def check_align(request: DistilRequest) -> None:
    """Raises BadSetting or BadObjective if --tokenizer-align is set and this run cannot align by bytes."""
    settings, objective = request.settings, request.objective
    check_student(settings)
    if settings.tokenizer_align is None:
        if any(term.merge for term in objective.terms):
            raise BadSetting(
                f"--objective {settings.objective}: merge joins chunks of text that two tokenizers have in common, and with one "
                "tokenizer every token is a chunk: leave it out, or give --tokenizer-align bytes and a student of other tokens"
            )
        return
    if not objective.needs_teacher:
        raise BadSetting(
            f"--tokenizer-align bytes: the objective {objective.canonical} needs no teacher, so there is nothing to align: take "
            "--objective 'CrossEntropy + ALM', or leave the flag out; cross-entropy is what --baselines cut+ce compares with"
        )
    for term in objective.terms:
        if term.needs_teacher and not term.largest:
            term.of_chunks(torch.zeros(0), torch.zeros(0))  # raises if the objective cannot be aligned
    AlignedTexts.by(request.objectives)


def check_student(settings: DistilSettings) -> None:
    """Raises BadSetting if --tokenizer-align is set and the student has the teacher's tokenizer by construction."""
    if settings.tokenizer_align is not None and settings.mixers is not None:
        raise BadSetting(
            "--tokenizer-align bytes is for a student with a tokenizer of its own, and a student converted by "
            "--mixers has the teacher's: leave one of them out"
        )
    if settings.tokenizer_align is not None and settings.student is None:
        raise BadSetting(
            "--tokenizer-align bytes is for a student with a tokenizer of its own, and a pruned student has the "
            "teacher's: name a student with --student, or leave the flag out"
        )


@dataclass(frozen=True)
class AlignedTexts:
    """Requirements of objectives on aligned text: the number of largest probabilities, and the threshold of merging chunks."""

    largest: int
    merge: float

    @classmethod
    def by(cls, objectives: Sequence[ObjectiveSpec]) -> AlignedTexts:
        """The requirements of all objectives of a run. Raises BadSetting if they have different thresholds of merging."""
        terms = [term for spec in objectives for term in spec.terms if term.needs_teacher]
        merges = {term.merge for term in terms if not term.largest}
        if len(merges) > 1:
            raise BadSetting(
                f"--objective {', '.join(spec.text for spec in objectives)}: expected one threshold of merging, got "
                f"{' and '.join(map(str, sorted(merges)))}: the text is cut into chunks once for all objectives of a run; give "
                "each of them the same merge, or a run of its own"
            )
        return cls(max((term.largest for term in terms), default=0), *(merges or {0.0}))


def alignment(teacher: LanguageModel, student: LanguageModel, texts: Sequence[str], *, chat: bool) -> Iterator[Finding]:
    """The doctor's findings about the alignment of two tokenizers on some documents."""
    if chat:
        yield Finding(
            "alignment",
            "error",
            "the data are conversations, and the chat templates of the two models give different bytes",
            "give plain texts, or a student with the teacher's tokenizer",
        )
        return
    try:
        spelled = [TokenBytes(model.tokenizer, name=model.name) for model in (student, teacher)]
    except Mismatch as error:
        yield Finding("alignment", "error", str(error), "give a student with the teacher's tokenizer")
        return
    read = tokens = chunks = 0
    for text in texts:
        size = len(text.encode())
        ends = [
            s.ends(model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], text.encode())
            for s, model in zip(spelled, (student, teacher), strict=True)
        ]
        if ends[0] is not None and ends[1] is not None:
            found = cut(ends[0], ends[1], size=size)
            read, tokens, chunks = read + size, tokens + len(ends[0]), chunks + found.count
    whole = sum(len(text.encode()) for text in texts)
    message = f"teacher {teacher.name} and student {student.name} have different tokenizers, matched by bytes"
    if not whole:
        yield Finding("alignment", "ok", message)
        return
    message += f": {share(read / whole)} of {len(texts)} documents have the same bytes in both"
    message += f", {tokens / chunks:.2f} of the student's tokens a chunk" if chunks else ""
    if read >= (1 - _UNREAD) * whole:
        yield Finding("alignment", "ok", message)
        return
    yield Finding(
        "alignment",
        "warning" if read else "error",
        f"{message}; the rest has no target, since one of the tokenizers changes the text (blanks, case, unknown characters)",
        "remove from the text what the tokenizer changes, or take another pair",
    )
