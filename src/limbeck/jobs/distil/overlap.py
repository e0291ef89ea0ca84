"""How near the models of an on-policy run are to their teacher on texts that they generate, after and while they are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from limbeck.config import STOPS, DistilSettings
from limbeck.corpora import TokenStore
from limbeck.errors import BadSetting
from limbeck.jobs.common.held_out import HeldOut
from limbeck.jobs.common.seeds import each_and_all
from limbeck.jobs.distil.other_tokens import TeacherSource
from limbeck.jobs.distil.several import SeveralTeachers
from limbeck.jobs.distil.teacher import RunTeacher
from limbeck.models.language_model import LanguageModel
from limbeck.probes.overlap import TOP, Overlap, in_all, measure_overlap, overlap, together
from limbeck.report.start import Start
from limbeck.report.words import bounded, label, share
from limbeck.run.selection import Limit
from limbeck.types import Batch, Reading

OwnTeachers = Sequence[
    tuple[LanguageModel, Callable[[], Iterable[Batch]]]
]  # each with the rows on which it is compared

_COMPARED = ("student", "off-policy", "off-policy@flops", "cut")
_LIMITED = {  # by the names of --stop-when: the column of held_out.jsonl, in words, and whether the limit is the least
    "overlap": ("overlap", f"a share of {{}} of the student's {TOP} most probable tokens was the teacher's", True),
    "entropy": ("entropy_own_texts", "the student's texts had an entropy of {} nats a token", True),
    "ended": ("texts_ended", "a share of {} of the student's texts ended by themselves", True),
    "tokens": ("tokens_own_texts", "the student's texts had {} tokens on average", False),
}
assert tuple(_LIMITED) == STOPS
_PART = 1 / 4  # of the tokens of the evaluation, at each point of a training
_LEAST = 32  # texts at such a point, where the documents have so many beginnings


def limits_of(settings: DistilSettings) -> tuple[Limit, ...]:
    """Within what the student's own texts stay, else its training ends (--stop-when)."""
    named = [part.split(":") for part in (settings.stop_when or "").split(",") if part]
    return tuple(Limit(*_LIMITED[name][:2], float(value), _LIMITED[name][2]) for name, value in named)


def own_teachers(source: TeacherSource, store: TokenStore, batches: Callable[[], Iterable[Batch]]) -> OwnTeachers:
    """Each teacher of a run, with a function that gives those of some batches of a store that are its own."""
    if isinstance(source, SeveralTeachers):
        return source.own(store, batches)
    assert isinstance(source, RunTeacher), "a student with another tokenizer is not compared token by token"
    return [(source.about, batches)]


@dataclass(frozen=True)
class OwnTexts:
    """Measures what a student generates during its training, as a row of held_out.jsonl has it.

    ``teachers``: each with its rows of the held-out text. ``documents``: how many that has. At most ``max_new_tokens`` are
    generated after each beginning, at the training's ``temperature``.
    """

    teachers: OwnTeachers
    documents: int
    max_new_tokens: int
    temperature: float

    def __call__(self, student: LanguageModel) -> dict[str, float]:
        """Shares, nats and tokens by column. Raises BadSetting where no document has a beginning to continue."""
        measured = partial(
            measure_overlap,
            student,
            documents=self.documents,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            part=_PART / len(self.teachers),
            least=_LEAST // len(self.teachers),
        )
        found = together([measured(teacher, batches()) for teacher, batches in self.teachers])
        if not found.texts.any():
            raise BadSetting(
                "--eval-every: the student continues no beginning of the documents that are measured during the training: hold "
                "out more or longer ones with --eval-data, or leave it out"
            )
        return in_all(found)


class OverlapEvaluation:
    """The overlap of the models of a run with their teacher, kept in its folder."""

    def __init__(
        self,
        folder: Path,
        teachers: OwnTeachers,
        held_out: HeldOut,
    ) -> None:
        """``folder`` is the folder of measurements; ``teachers``: each with the held-out rows on which it is compared."""
        self._folder, self._teachers, self._held_out = folder, teachers, held_out
        self._runs: dict[str, dict[int, Overlap]] = {}

    def measure(self, name: str, model: LanguageModel, seed: int) -> None:
        """Measures a model, or reads its earlier measurement."""
        file = self._folder / f"overlap-{name}-seed{seed}.safetensors"
        if not file.exists():
            documents = self._held_out.store.documents
            parts = [
                measure_overlap(model, teacher, batches(), documents=documents) for teacher, batches in self._teachers
            ]
            together(parts).save(file)
        self._runs.setdefault(name, {})[seed] = Overlap.load(file)

    def readings(self) -> list[Reading]:
        """Of each seed, and over the seeds (seed null) where there are several."""
        found = []
        for name, runs in self._runs.items():
            for seed, seeds in each_and_all(runs):
                found += overlap(name, [runs[one] for one in seeds], seed=seed)
        return found

    def sentence(self, start: Start) -> str:
        """What the models' own texts show: KL to the teacher, and how many of the most probable tokens are the same."""
        parts = []
        for name in _COMPARED:
            if name in self._runs:
                found = {one.name: one for one in overlap(name, list(self._runs[name].values()))}
                kl, same = found["kl_own_texts"], found["overlap"]
                parts.append(f"{label(name, start)} {bounded(kl.value, kl.low, kl.high)} ({share(same.value)})")
        if not parts:
            return ""
        return (
            "On texts that each model generates itself, KL(model ‖ teacher) in nats a token, and in brackets the share of the "
            f"{TOP} most probable tokens that are the teacher's too: {'; '.join(parts)}."
        )
