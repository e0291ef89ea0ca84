"""Checks whether a pair with two tokenizers can be aligned (`--tokenizer-align`), and what its objectives need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from limbeck.config import DistilSettings
from limbeck.corpora.chunks import cut
from limbeck.corpora.token_bytes import TokenBytes
from limbeck.errors import BadSetting, Mismatch
from limbeck.jobs.capture.certificate import why_not
from limbeck.jobs.distil.request import DistilRequest
from limbeck.models.language_model import LanguageModel
from limbeck.objectives.spec import ObjectiveSpec
from limbeck.planning.checks.finding import Finding
from limbeck.report.words import share
from limbeck.teachers.codec import TopK

SHARED = "tokens"  # the kind of targets: a distribution over tokens that both have, in place of likelihoods of chunks
LITTLE = 8  # tokens of a vocabulary, to see what an objective can be computed from
_LARGEST = 16  # of the teacher's probabilities, for such targets; the paper's API gave 5
_UNREAD = 0.02  # share of bytes without a common text from which the doctor warns


def check_align(request: DistilRequest) -> None:
    """Raises BadSetting or BadObjective if --tokenizer-align is set and this run cannot align both texts."""
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
        usual = "ForwardKL" if settings.tokenizer_align == SHARED else "'CrossEntropy + ALM'"
        raise BadSetting(
            f"--tokenizer-align {settings.tokenizer_align}: the objective {objective.canonical} needs no teacher, so there is "
            f"nothing to align: take --objective {usual}, or leave the flag out; cross-entropy is what --baselines cut+ce "
            "compares with"
        )
    for term in objective.terms if settings.tokenizer_align != SHARED else []:
        if term.needs_teacher and not term.largest:
            term.of_chunks(torch.zeros(0), torch.zeros(0))  # raises if the objective cannot be aligned
    AlignedTexts.by(request.objectives, settings.tokenizer_align)


def check_student(settings: DistilSettings) -> None:
    """Raises BadSetting if --tokenizer-align is set and the student has the teacher's tokenizer by construction."""
    if settings.tokenizer_align is not None and settings.mixers is not None:
        raise BadSetting(
            f"--tokenizer-align {settings.tokenizer_align} is for a student with a tokenizer of its own, and a student converted "
            "by --mixers has the teacher's: leave one of them out"
        )
    if settings.tokenizer_align is not None and settings.student is None:
        raise BadSetting(
            f"--tokenizer-align {settings.tokenizer_align} is for a student with a tokenizer of its own, and a pruned student "
            "has the teacher's: name a student with --student, or leave the flag out"
        )


@dataclass(frozen=True)
class AlignedTexts:
    """Requirements of objectives on aligned text: the number of largest probabilities, and the threshold of merging chunks.

    ``tokens``: whether the tokens of these probabilities are needed, for targets over tokens that both have.
    """

    largest: int
    merge: float
    tokens: bool = False

    @classmethod
    def by(cls, objectives: Sequence[ObjectiveSpec], align: str) -> AlignedTexts:
        """The requirements of all objectives of a run, with the value of --tokenizer-align.

        Raises BadSetting if they have different thresholds of merging, or cannot be computed from such targets.
        """
        if align == SHARED:
            for spec in objectives:
                reason = why_not(TopK(vocab=LITTLE, k=1), spec.objective) if spec.needs_teacher else ""
                if any(term.largest for term in spec.terms):
                    reason = f"{spec.canonical}: sorted, they say nothing of a part of the teacher's tokens. "
                if reason:
                    raise BadSetting(
                        f"--tokenizer-align {align}: it gives the teacher's largest probabilities of tokens that both have, and "
                        f"the rest. {reason.partition('. ')[0]}. Use ForwardKL, SkewKL or TAID, or ALM and ULD with "
                        "--tokenizer-align bytes"
                    )
            return cls(_LARGEST, 0.0, tokens=True)
        terms = [term for spec in objectives for term in spec.terms if term.needs_teacher]
        merges = {term.merge for term in terms if not term.largest}
        if len(merges) > 1:
            raise BadSetting(
                f"--objective {', '.join(spec.text for spec in objectives)}: expected one threshold of merging, got "
                f"{' and '.join(map(str, sorted(merges)))}: the text is cut into chunks once for all objectives of a run; give "
                "each of them the same merge, or a run of its own"
            )
        return cls(max((term.largest for term in terms), default=0), max(merges, default=0.0))


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
