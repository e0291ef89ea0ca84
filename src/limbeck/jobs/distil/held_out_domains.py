"""What several teachers, and the models of their run, reach on the held-out documents of each domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool

from limbeck.corpora import TokenStore
from limbeck.jobs.distil.several import SeveralTeachers
from limbeck.models.language_model import LanguageModel
from limbeck.probes import Measurements, fidelity, likelihood, samples
from limbeck.report.domains import HELD_OUT, KL, domains_note, gains_note
from limbeck.report.verdict import gain_over
from limbeck.report.words import TEACHER_OF
from limbeck.teachers.remembered import RememberedTeacher
from limbeck.types import Reading

_SHOWN = {"held_out": HELD_OUT, "kl_teacher_student": KL}  # readings that are given by domain too
_SAMPLES = 3


class DomainEvaluation:
    """The teachers of a run on its held-out text: ``models`` by domain, and ``routed``, each on the documents of its own."""

    def __init__(self, source: SeveralTeachers, store: TokenStore, *, remember: bool) -> None:
        """``remember``: whether they keep what they computed, for models that are compared with them on the same rows."""
        assert source.domains is not None
        names = [f"{TEACHER_OF}{name}" for name in source.domains.names]
        self.models = dict(zip(names, source.models, strict=True))
        self._remembered = {name: RememberedTeacher(m) for name, m in self.models.items()} if remember else {}
        self.routed = source.routed(store, tuple(self._remembered.values()))
        self._documents = dict(zip(source.domains.names, source.documents(store), strict=True))

    def reader(self, name: str, model: LanguageModel) -> LanguageModel | RememberedTeacher:
        """What computes for a model of this name: a teacher that remembers, or the ``model`` itself."""
        return self._remembered.get(name, model)

    def composed(self, each: Sequence[Measurements]) -> Measurements:
        """Of the measurements of the teachers, on each document those of its own."""
        found: dict[str, Any] = {}
        for name, value in vars(each[0]).items():
            if isinstance(value, np.ndarray):
                found[name] = np.zeros_like(value)
                for measured, mine in zip(each, self._documents.values(), strict=True):
                    found[name][mine] = getattr(measured, name)[mine]
        return replace(each[0], **found, surprises=())

    def readings(self, model: str, measured: Sequence[Measurements], *, seed: int | None) -> list[Reading]:
        """Loss, and KL to the domain's teacher, on the documents of each domain; nothing for one that none is held out of."""
        found = []
        for name, mine in self._documents.items():
            part = [_only(one, mine) for one in measured]
            if part[0].tokens.any():
                every = [*likelihood(model, part, seed=seed), *fidelity(model, part, seed=seed)]
                found += [replace(one, name=_SHOWN[one.name] + name) for one in every if one.name in _SHOWN]
        return found

    def notes(self, run: Mapping[str, Any], arms: Mapping[str, Sequence[Measurements]], *, tasks: bool) -> list[str]:
        """The notes of a report: who teaches what, what that gained by domain, and domains of which nothing is held out.

        ``tasks``: whether standard tasks were measured.
        """
        gains = {}
        for name, mine in self._documents.items():
            ours, theirs = ([_only(one, mine) for one in arms.get(arm, ())] for arm in ("student", "one-teacher"))
            if ours and theirs and ours[0].tokens.any():
                gains[name] = gain_over(ours, theirs, "one-teacher")
        read = next(iter(arms.values()))[0].tokens
        empty = [name for name, mine in self._documents.items() if not read[mine].any()]
        left_out = (
            f"No document of {' and '.join(empty)} is among those measured: give more text of it." if empty else ""
        )
        return [note for note in (domains_note(run, tasks=tasks), gains_note(gains), left_out) if note]

    def samples(self, student: LanguageModel, store: TokenStore) -> list[dict[str, Any]]:
        """As `probes.samples`, of documents of each domain, which its own teacher continues."""
        count = max(1, _SAMPLES // len(self.models))
        each = zip(self.models.values(), self._documents.values(), strict=True)
        return [row for teacher, mine in each for row in samples(student, teacher, store, count=count, among=mine)]


def _only(measured: Measurements, mine: Bool[np.ndarray, " documents"]) -> Measurements:
    """Measurements with sums of 0 for other documents, as if they had not been read."""
    arrays: dict[str, Any] = {n: value.copy() for n, value in vars(measured).items() if isinstance(value, np.ndarray)}
    for value in arrays.values():
        value[~mine] = 0
    return replace(measured, **arrays)
