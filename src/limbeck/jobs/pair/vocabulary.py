"""The trimmed vocabulary of a run (`--vocab`): chosen from its text before anything else, and kept in its folder.

Teacher and student have the same one, so the run has one tokenizer. It is chosen by what the training text uses, or it is that of
a student which was trimmed before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from limbeck.config import TeacherSettings
from limbeck.corpora import Document
from limbeck.corpora.counts import count_tokens
from limbeck.corpora.draws import documents_by_side, stamps_of
from limbeck.corpora.reading import Reader
from limbeck.corpora.stamp import without_paths
from limbeck.corpora.tokenised import in_tokens
from limbeck.corpora.tokenizer import READING, fingerprint
from limbeck.corpora.writer import Item
from limbeck.errors import Mismatch
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.folder import another, reserve
from limbeck.jobs.common.mixture import wanted_tokens
from limbeck.jobs.common.text import columns_of, records_of
from limbeck.models.gguf.quantiser import unquantised
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import display_name, lineage_in, load, load_tokenizer
from limbeck.models.source import resolve_description
from limbeck.models.trim.choose import Asked, choose
from limbeck.models.trim.folder import VOCABULARY as FILE
from limbeck.models.trim.folder import facts_of, needed_ids, open_vocabulary, write_vocabulary
from limbeck.models.trim.model import LINEAGE, Vocabulary, trim
from limbeck.models.trim.tokenizer import Kept, state_of, trimmed_tokenizer
from limbeck.models.weightless import load_without_weights
from limbeck.report.vocabulary import kept_sentence
from limbeck.run.log import console
from limbeck.teachers.ref import VOCABULARY, LocalRef, TeacherRef

_MEASURED = 16  # documents on which the whole teacher is compared with the trimmed one
_MEASURED_TOKENS = 4096  # of all of them together

Facts = Mapping[str, Any]


def _about(teacher: LocalRef) -> LanguageModel:
    """The teacher with all its tokens, without its weights."""
    return load_without_weights(resolve_description(teacher.name), name=display_name(teacher.name))


def trimmed_in_run(
    settings: TeacherSettings, teacher: LocalRef, environment: Environment, *, student: str | None = None
) -> LocalRef:
    """The teacher with the trimmed vocabulary of a run, in its folder: that which --vocab asks for, or that of a ``student``.

    A run that goes on has the vocabulary that it began with. The teacher as it is where nothing is trimmed. Raises BadFolder
    where the folder holds another run, and as `Chosen.of` does.
    """
    chosen, folder = Chosen.of(settings, teacher, student), settings.out / VOCABULARY
    if chosen is None:
        return teacher
    if environment.world.first:
        going_on = reserve(settings.out)
        if not chosen.is_in(folder, but_text=going_on):
            if going_on:
                raise another(settings.out, "vocabulary")
            chosen.write(folder)
        if not going_on:
            console.print(_said(facts_of(folder)))
    environment.world.barrier()
    return replace(teacher, vocabulary=folder)


def trimmed_beside(
    settings: TeacherSettings, teacher: LocalRef, folder: Path, *, student: str | None = None
) -> LocalRef:
    """The same in any folder, for a command that keeps none."""
    chosen = Chosen.of(settings, teacher, student)
    if chosen is None:
        return teacher
    chosen.write(folder / VOCABULARY)
    console.print(_said(facts_of(folder / VOCABULARY)))
    return replace(teacher, vocabulary=folder / VOCABULARY)


def given_student(name: str, teacher: TeacherRef, *, train: bool = False) -> LanguageModel:
    """A student that exists, with the vocabulary of its teacher where that is trimmed and the student has all of its tokens."""
    model = unquantised(load(name, train=train))
    if teacher.vocabulary is None:
        return model
    vocabulary = open_vocabulary(teacher.vocabulary)
    return trim(model, vocabulary) if vocabulary.is_of(model.tokenizer) else model


@dataclass(frozen=True)
class Chosen:
    """A trimmed vocabulary that is to be made: by a text, or the tokens of a ``student`` (``kept``)."""

    settings: TeacherSettings
    teacher: LocalRef
    about: LanguageModel
    made_from: Facts
    kept: Kept | None = None

    @classmethod
    def of(cls, settings: TeacherSettings, teacher: LocalRef, student: str | None) -> Chosen | None:
        """What settings ask for; None where they ask for nothing and no student is trimmed.

        Raises Mismatch for a student that has some of the teacher's tokens, but segments text in another way.
        """
        if settings.vocab is None and (student is None or not is_trimmed(student)):
            return None
        about, columns = _about(teacher), columns_of(settings)
        made_from = {
            "tokenizer": fingerprint(about.tokenizer),
            "text": stamps_of(settings.data, settings.eval_data, columns),
            "columns": [list(pair) for pair in columns.names],
            "reading": READING,
        }
        if settings.dedup:
            made_from["dedup"] = True
        if settings.vocab is not None:
            return cls(settings, teacher, about, made_from | {"asked": settings.vocab})
        assert student is not None
        kept = kept_by_student(student, about)
        return None if kept is None else cls(settings, teacher, about, made_from | {"student": kept[1]}, kept[0])

    def is_in(self, folder: Path, *, but_text: bool) -> bool:
        """Whether it was made there before, ``but_text``: of whatever text, which is compared with its own checksum later."""
        if not (folder / FILE).is_file():
            return False
        there = without_paths(facts_of(folder)["made_from"])
        less = {"text"} if but_text else set()
        return all(there.get(key) == self.made_from.get(key) for key in (there.keys() | self.made_from.keys()) - less)

    def write(self, folder: Path) -> None:
        """Counts the tokens of the training text and writes the vocabulary, with what it does to a sample of the text.

        Raises BadSetting for a number of tokens that cannot be, BadModel for a tokenizer that cannot be trimmed.
        """
        settings, about = self.settings, self.about
        documents = documents_by_side(
            settings.data,
            eval_source=settings.eval_data,
            records=records_of(settings),
            most=wanted_tokens(settings),
        )
        counted = count_tokens(documents, Reader.of(about))
        used = int((counted.counts > 0).sum())
        kept = self.kept
        if kept is None:
            assert settings.vocab is not None
            state, asked = state_of(about.tokenizer, name=about.name), Asked.of(settings.vocab)
            needed = needed_ids(self.teacher.name)
            kept = choose(state, counted.counts, asked, needed=needed, rows=about.vocab, name=about.name)
        lost = float(1 - counted.counts[kept].sum() / max(1, counted.tokens))
        facts = {"made_from": dict(self.made_from), "used": used, "lost": lost}
        measured_file(folder).unlink(missing_ok=True)  # of another vocabulary
        _write(self.teacher, about, kept, folder, facts, counted.samples)


def measured_file(folder: Path) -> Path:
    """Where is kept what a vocabulary leaves out, beside its folder."""
    return folder.with_suffix(".json")


def kept_by_student(student: str, about: LanguageModel) -> tuple[Kept, str] | None:
    """(ids of the teacher's tokens that a trimmed student has, its tokenizer's fingerprint); None for other students.

    ``about`` describes the teacher. Raises Mismatch for a student that has some of its tokens, but segments text in another way.
    """
    if not is_trimmed(student):
        return None
    own = load_tokenizer(resolve_description(student))
    kept = kept_in(own, about.tokenizer)
    if kept is None:
        return None
    if not _segments_alike(own, about, kept):
        raise Mismatch(
            f"--student {student}: expected the tokenizer of {about.name} with some of its tokens, got one that segments "
            "text in another way: give the model that it was trimmed from as --teacher"
        )
    return kept, fingerprint(own)


def is_trimmed(student: str) -> bool:
    """Whether a model's folder says that its vocabulary was trimmed."""
    file = resolve_description(student) / "lineage.json"
    return file.is_file() and LINEAGE in lineage_in(file)


def _segments_alike(trimmed: PreTrainedTokenizerBase, whole: LanguageModel, kept: Kept) -> bool:
    """Whether a tokenizer is that of a model with the kept tokens, in all that it does."""
    made = trimmed_tokenizer(whole.tokenizer, kept, name=whole.name)
    return state_of(made, name=whole.name) == state_of(trimmed, name=whole.name)


def trimmed_like(teacher: LanguageModel, student: LanguageModel) -> LanguageModel:
    """A teacher with the vocabulary of a student that was trimmed from its own; the teacher as it is for any other student."""
    if LINEAGE not in (student.lineage or {}):
        return teacher
    kept = kept_in(student.tokenizer, teacher.tokenizer)
    if kept is None or not _segments_alike(student.tokenizer, teacher, kept):
        return teacher
    return trim(teacher, Vocabulary(kept, student.tokenizer, len(teacher.tokenizer.get_vocab()), teacher.name))


def kept_in(trimmed: PreTrainedTokenizerBase, whole: PreTrainedTokenizerBase) -> Kept | None:
    """The ids in a whole tokenizer of the tokens of a trimmed one; None where it is not one of its, or has all its tokens."""
    ours, theirs = trimmed.get_vocab(), whole.get_vocab()
    if len(ours) >= len(theirs) or sorted(ours.values()) != list(range(len(ours))):
        return None
    kept = np.full(len(ours), -1, dtype=np.int64)
    for token, new in ours.items():
        kept[new] = theirs.get(token, -1)
    return kept if kept[0] >= 0 and (np.diff(kept) > 0).all() else None


def _write(
    teacher: LocalRef,
    about: LanguageModel,
    kept: Kept,
    folder: Path,
    facts: Facts,
    samples: Mapping[str, Sequence[Document]],
) -> None:
    """Writes the vocabulary, with what it does to a sample of the text."""
    whole = len(about.tokenizer.get_vocab())
    segmented, measured = _look(about, kept, samples)
    parameters = embedding_parameters(about, len(kept))
    more = {"tokens": [whole, len(kept)], "segmented": segmented, "measured": measured, "parameters": parameters}
    write_vocabulary(
        folder, teacher.name, kept, whole=max(whole, about.vocab), name=about.name, facts={**facts, **more}
    )


def embedding_parameters(about: LanguageModel, kept: int) -> list[int]:
    """Parameters of embedding and head, a tied one once: of all tokens, and of those that are kept."""
    embedding, head = about.model.get_input_embeddings().weight, about.head.weight
    return [rows * embedding.shape[1] * (1 if head is embedding else 2) for rows in (head.shape[0], kept)]


def _look(
    about: LanguageModel, kept: Kept, samples: Mapping[str, Sequence[Document]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """How the sample of each side is segmented before and after; and some held-out documents in both ways, to be measured."""
    tokenizer = trimmed_tokenizer(about.tokenizer, kept, name=about.name)
    new = np.full(about.vocab, -1, dtype=np.int64)
    new[kept] = np.arange(len(kept))
    segmented, measured, left = {}, [], _MEASURED_TOKENS
    for side, documents in samples.items():
        before = _by_digest(documents, Reader(about.tokenizer, about.end))
        after = _by_digest(documents, Reader(tokenizer, None if about.end is None else int(new[about.end])))
        pairs = [(item, after[digest]) for digest, item in before.items() if digest in after]
        segmented[side] = {
            "documents": len(pairs),
            "same": sum(np.array_equal(new[a.tokens], b.tokens) for a, b in pairs),
            "tokens": [sum(len(pair[i].tokens) for pair in pairs) for i in (0, 1)],
        }
        if side == "held_out":
            for a, b in pairs[:_MEASURED]:
                if len(a.tokens) <= min(left, about.context):
                    left -= len(a.tokens)
                    measured.append({"whole": _row(a), "trimmed": _row(b)})
    return segmented, measured


def _by_digest(documents: Sequence[Document], reader: Reader) -> dict[bytes, Item]:
    return {item.digest: item for item in in_tokens(documents, reader)}


def _row(item: Item) -> dict[str, Any]:
    learned = None if item.learned is None else item.learned.astype(int).tolist()
    return {"tokens": item.tokens.tolist(), "learned": learned, "bytes": item.size}


def _said(facts: Facts) -> str:
    return f"vocabulary: {kept_sentence(facts)}"
