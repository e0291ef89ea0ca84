"""Whether a pair with two tokenizers can be aligned by bytes (`--tokenizer-align bytes`), and what its objectives need for it."""

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

_UNREAD = 0.02  # share of bytes without a common text that is worth a warning


def check_align(request: DistilRequest) -> None:
    """Raises BadSetting or BadObjective where --tokenizer-align is asked for and cannot be."""
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
            term.of_chunks(torch.zeros(0), torch.zeros(0))  # says why, where it cannot
    AlignedTexts.by(request.objectives)


def check_student(settings: DistilSettings) -> None:
    """Raises BadSetting where --tokenizer-align is asked for without a student that could have another tokenizer."""
    if settings.tokenizer_align is not None and settings.mixers is not None:
        raise BadSetting(
            "--tokenizer-align bytes is for a student with a tokenizer of its own, and one that is made of its teacher by "
            "--mixers has the teacher's: leave one of them out"
        )
    if settings.tokenizer_align is not None and settings.student is None:
        raise BadSetting(
            "--tokenizer-align bytes is for a student with a tokenizer of its own, and what is cut out of a teacher has the "
            "teacher's: name a student with --student, or leave the flag out"
        )


@dataclass(frozen=True)
class AlignedTexts:
    """What objectives need of a teacher with another tokenizer: how many of its largest probabilities, which chunks to merge."""

    largest: int
    merge: float

    @classmethod
    def by(cls, objectives: Sequence[ObjectiveSpec]) -> AlignedTexts:
        """By these of one run. Raises BadSetting where they would cut the text into different chunks."""
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
    """How the tokens of a pair lie on each other: the doctor's finding, from some documents, none where there are none."""
    if chat:
        yield Finding(
            "alignment",
            "error",
            "the data are conversations, which each model's template writes in its own way, so its bytes are not the other's",
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
    message += f": {share(read / whole)} of {len(texts)} documents are the same bytes in both"
    message += f", {tokens / chunks:.2f} of the student's tokens a chunk" if chunks else ""
    if read >= (1 - _UNREAD) * whole:
        yield Finding("alignment", "ok", message)
        return
    yield Finding(
        "alignment",
        "warning" if read else "error",
        f"{message}; the rest has no target, since one of the two changes the text (blanks, case, unknown characters)",
        "clean the text of what the tokenizer changes, or take another pair",
    )
