"""Captured logits over all tokens, restricted to some: those that their own text uses, or those of a trimmed student.

The captured rows stay as they are, so every token of their text has to be kept, held-out text included: each row is segmented as
before, and its tokens only have other ids. What the captured outcomes give the tokens that are left out is measured once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.config import TeacherSettings
from limbeck.corpora import TokenStore
from limbeck.corpora.tokenizer import fingerprint
from limbeck.disk import finite, write_json
from limbeck.errors import BadSetting
from limbeck.jobs.common.captured import Captured
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.folder import another, reserve
from limbeck.jobs.pair.outside import measured_outside
from limbeck.jobs.pair.vocabulary import embedding_parameters, kept_by_student, measured_file
from limbeck.models.trim.choose import Asked, choose
from limbeck.models.trim.folder import VOCABULARY as FILE
from limbeck.models.trim.folder import facts_of, needed_ids, write_vocabulary
from limbeck.models.trim.tokenizer import Kept, state_of
from limbeck.report.vocabulary import kept_sentence, left_out_sentence
from limbeck.run.log import console
from limbeck.teachers.ref import VOCABULARY, CapturedRef


def restricted_in_run(
    settings: TeacherSettings, teacher: CapturedRef, environment: Environment, *, student: str | None = None
) -> CapturedRef:
    """The captured teacher over fewer tokens: those that --vocab asks for, or those of a trimmed ``student``.

    The vocabulary is kept in the run's folder. The teacher as it is where nothing is to be trimmed. Raises BadSetting where the
    captured text has tokens that would not be kept, BadFolder where the folder holds another run, and Mismatch as
    `kept_by_student`.
    """
    chosen, folder = _Chosen.of(settings, teacher, student), settings.out / VOCABULARY
    if chosen is None:
        return teacher
    if environment.world.first:
        going_on = reserve(settings.out)
        there = facts_of(folder)["made_from"] if (folder / FILE).is_file() else None
        if going_on and there != chosen.made_from:
            raise another(settings.out, "vocabulary")
        if there != chosen.made_from:
            chosen.write(folder)
    environment.world.barrier()
    return replace(teacher, trimmed=folder)


def restricted_beside(
    settings: TeacherSettings, teacher: CapturedRef, folder: Path, *, student: str | None = None
) -> CapturedRef:
    """The same in any folder, for a command that keeps none."""
    chosen = _Chosen.of(settings, teacher, student)
    if chosen is None:
        return teacher
    chosen.write(folder / VOCABULARY)
    return replace(teacher, trimmed=folder / VOCABULARY)


@dataclass(frozen=True)
class _Chosen:
    """A restriction that is to be made: as --vocab asks (``asked``), or to the ``kept`` ids of a student."""

    teacher: CapturedRef
    captured: Captured
    made_from: Mapping[str, Any]
    asked: str | int | None
    student: str | None
    kept: Kept | None = None

    @classmethod
    def of(cls, settings: TeacherSettings, teacher: CapturedRef, student: str | None) -> _Chosen | None:
        """What settings and student ask for; None where they ask for nothing."""
        asked = settings.vocab
        if asked is None and student is None:
            return None
        captured = Captured(teacher.folder)
        made_from = {"captured": captured.identity, "tokenizer": fingerprint(captured.about.tokenizer)}
        if asked is not None:
            return cls(teacher, captured, {"asked": asked, **made_from}, asked, student)
        assert student is not None
        found = kept_by_student(student, captured.about)
        if found is None:
            return None
        return cls(teacher, captured, {"student": found[1], **made_from}, None, student, found[0])

    def write(self, folder: Path) -> None:
        """Writes the vocabulary and what it leaves out, and prints both.

        Raises BadSetting where the captured text has tokens that would not be kept.
        """
        about, stores = self.captured.about, self.captured.stores()
        counts = np.sum([_counts(store, about.vocab) for store in stores], axis=0)
        described, kept = self.teacher.config_source, self.kept
        if kept is None:
            assert self.asked is not None
            kept = choose(
                *(state_of(about.tokenizer, name=about.name), counts, Asked.of(self.asked)),
                needed=needed_ids(described),
                rows=about.vocab,
                name=about.name,
            )
        if lost := int(counts.sum() - counts[kept].sum()):
            raise self._lost(lost, int(counts.sum()))
        whole = len(about.tokenizer.get_vocab())
        names = ("train", "held_out")
        segmented = {
            side: {"documents": store.documents, "same": store.documents, "tokens": [store.tokens, store.tokens]}
            for side, store in zip(names, stores, strict=True)
        }
        facts = {
            "made_from": dict(self.made_from),
            "used": int((counts > 0).sum()),
            "lost": 0.0,
            "segmented": segmented,
            "measured": [],
        }
        facts |= {"tokens": [whole, len(kept)], "parameters": embedding_parameters(about, len(kept))}
        file = measured_file(folder)
        file.unlink(missing_ok=True)  # of another vocabulary
        write_vocabulary(folder, described, kept, whole=max(whole, about.vocab), name=about.name, facts=facts)
        outside = measured_outside(self.captured.logits, stores[0], kept)
        write_json(file, finite(outside))
        console.print(f"vocabulary: {kept_sentence(facts)}")
        console.print(left_out_sentence(outside))

    def _lost(self, lost: int, tokens: int) -> BadSetting:
        if self.kept is None:
            return BadSetting(
                f"--vocab {self.asked}: {lost:,} of the {tokens:,} tokens of the captured text would be left out, and "
                "its rows cannot be segmented anew: give auto, which keeps them all, or capture with --vocab"
            )
        return BadSetting(
            f"--student {self.student}: its vocabulary is trimmed, and {lost:,} of the {tokens:,} tokens of the text in "
            f"{self.teacher.name} are not in it, so the captured rows cannot serve it: give the teacher itself, which is trimmed "
            "to the student's tokens"
        )


def _counts(store: TokenStore, ids: int) -> np.ndarray:
    """How often each id occurs in a store."""
    counts = np.zeros(ids, dtype=np.int64)
    for start in range(0, store.tokens, 2**22):
        counts += np.bincount(store.slice(start, min(start + 2**22, store.tokens)), minlength=ids)
    return counts
