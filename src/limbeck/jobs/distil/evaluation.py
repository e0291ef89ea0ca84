"""Evaluates all models of a run on the same held-out rows, and writes the report.

Measurements are sums over documents. They are kept in the run's folder, one file for each model and seed, so a continued run does
not measure again, and the difference of any two models has an interval over the same documents.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from limbeck.corpora import TokenStore
from limbeck.corpora.pack import ALONE
from limbeck.disk import link_or_copy, read_rows, write_json, write_lines, write_rows, write_text, writing
from limbeck.ending import Ending
from limbeck.jobs.common.adapters import ADAPTER
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.folder import update
from limbeck.jobs.common.held_out import Apart, HeldOut, unwatched
from limbeck.jobs.common.seeds import by_model, each_and_all
from limbeck.jobs.distil.arms import Arm
from limbeck.jobs.distil.held_out_domains import DomainEvaluation
from limbeck.jobs.distil.other_tokens import CrossTokenizerTeacher, TeacherSource, across
from limbeck.jobs.distil.overlap import OverlapEvaluation, own_teachers
from limbeck.jobs.distil.request import DistilRequest
from limbeck.jobs.distil.several import SeveralTeachers
from limbeck.jobs.distil.standard import TaskEvaluation
from limbeck.jobs.probe.recall import RecallEvaluation
from limbeck.models.gguf.quantiser import Quantiser
from limbeck.models.language_model import LanguageModel
from limbeck.models.led import led
from limbeck.models.load import load, verified_folder
from limbeck.models.sidecar import stored_dtype
from limbeck.planning.checks.steps import too_few_steps
from limbeck.probes import Measurements, calibration, cost, counted, fidelity, in_words, likelihood, measure, samples
from limbeck.probes.change import (
    CHANGE,
    Moved,
    MovedRow,
    first_rows,
    matrices_moved,
    represented,
    weight_readings,
)
from limbeck.probes.measurements import AGAIN
from limbeck.report.adapted import adapted_note, corrected_note
from limbeck.report.card import model_card
from limbeck.report.masked import masked_note
from limbeck.report.page import write_report
from limbeck.report.quantised import quantised_note
from limbeck.report.screen import measured_rows, next_of_distil
from limbeck.report.start import price_of, start_of
from limbeck.report.state import state_sentence
from limbeck.report.trained import trained_in, used_note
from limbeck.report.verdict import Verdict, gain_over, too_few_documents, verdict
from limbeck.report.vocabulary import vocabulary_note
from limbeck.report.words import TEACHER_OF
from limbeck.run.log import console
from limbeck.students.adapters import without_adapters
from limbeck.teachers.remembered import RememberedTeacher
from limbeck.types import Batch, CausalLM, Reading, ReadingRow, Teacher

GIVEN = "teacher-given"  # a corrected teacher as it was given, in the names of files and readings
_CONTINUED = ("student", "student_sampled")  # in a row of samples


class Evaluation:
    """Collects the measurements of a run. All ranks measure together; rank 0 keeps what is found.

    With another tokenizer for the student, rank 0 measures alone.
    """

    def __init__(
        self,
        request: DistilRequest,
        teacher: TeacherSource,
        stores: tuple[TokenStore, TokenStore],
        *,
        length: int,
        environment: Environment,
        seconds: float = 0.0,
        apart: Apart | None = None,
    ) -> None:
        """``stores``: (training, held-out) text in the student's tokens. ``length``: tokens of a row.

        ``seconds``: how long the evaluation of a student took in an earlier start of the run, 0 if there was none. ``apart``:
        held-out text that judges nothing, None for none.
        """
        settings, (train, store) = request.settings, stores
        self._settings, self._source, self._machine, self._apart = settings, teacher, environment, apart
        self._distils = request.objective.needs_teacher
        self._reference: Teacher | None = None if isinstance(teacher, CrossTokenizerTeacher) else teacher.about
        self._counted: Callable[[Batch], Batch] = lambda batch: batch
        logits = teacher.captured.held_out if teacher.captured and self._reference is not None else None
        rows = logits.cache.rows if logits else None
        self.held_out = HeldOut(
            store,
            length=length,
            environment=environment,
            trained=settings.tokens,
            rows=rows,
            without=None if apart is None else apart.documents,
        )
        if logits:
            self._reference = logits.of_sample(self.held_out.sample)
            self._counted = logits.counted
        self._teachers = self.held_out  # the same text in the teacher's tokens
        if isinstance(teacher, CrossTokenizerTeacher) and environment.world.first:
            self._teachers = teacher.held_out(environment, apart=apart)
        measurements = settings.out / "measurements"
        self._recall = RecallEvaluation(measurements, train, self.held_out) if settings.mixers else None
        world = environment.world
        self._together = world.size > 1 and not isinstance(teacher, CrossTokenizerTeacher)
        if self._reference is teacher.about and not self._together:  # all models are compared with it on the same rows
            self._reference = RememberedTeacher(teacher.about)
        self._several = None
        if isinstance(teacher, SeveralTeachers):
            self._several = DomainEvaluation(teacher, store, remember=not self._together)
            self._reference = self._several.routed
        first = world.first
        self._tasks = TaskEvaluation(measurements, settings.tasks) if settings.tasks and first else None
        served = teacher.captured is not None and teacher.captured.served  # its weights are not available
        own_texts = settings.rollouts is not None and first and not served  # it is in the memory of each process
        teachers = own_teachers(teacher, store, self.held_out.batches) if own_texts else []
        self._overlap = OverlapEvaluation(measurements, teachers, self.held_out) if own_texts else None
        self._runs: dict[str, dict[int, Measurements]] = {}
        self._start: Path | None = None  # the student before its training
        self._quantiser: Quantiser | None = None
        self._moved: list[Reading] = []
        self._costs: list[Reading] = []
        self.seconds = seconds  # of the last evaluation of a student
        if self._measures and self._several:
            self._measure_several()
        elif self._measures and not served:
            self._measure("teacher", teacher.about, settings.seed, compare=False)
            if settings.adapt_teacher is not None:
                with without_adapters(teacher.about):
                    self._measure(GIVEN, teacher.about, settings.seed, compare=False)
        if first and not served:
            self._cost("teacher", self._cost_of_teacher)

    @property
    def _measures(self) -> bool:
        """Whether this rank measures."""
        return self._machine.world.first or self._together

    def _measure_several(self) -> None:
        """Measures each teacher on all held-out text; as "teacher" count on each document its own teacher's."""
        assert self._several is not None
        seed, each = self._settings.seed, []
        for name, model in self._several.models.items():
            each.append(self._measure(name, model, seed, compare=False))
        measured = self._several.composed(each)
        self._runs["teacher"] = {seed: measured}
        if self._machine.world.first and not self._file("teacher", seed).exists():
            _save(measured, self._file("teacher", seed))

    @property
    def _in_parts(self) -> bool:
        """Whether the teacher's weights are spread over the ranks, so that rank 0 generates with the help of all."""
        return self._machine.world.sharded and self._source.captured is None

    def cut(self, folder: Path, quantiser: Quantiser | None) -> None:
        """Measures the student before its training, with the weights that it is trained with."""
        self._start, self._quantiser = folder, quantiser
        if not self._measures:
            return
        world = self._machine.world
        model = world.load(verified_folder(folder), dtype=self._machine.measured_in)
        if quantiser:
            quantiser.quantise(model)
        measured = self._measure("cut", model, self._settings.seed)
        if remark := too_few_documents(measured.read):
            console.print(f"note: {remark}")

    def expected_seconds(self, arms: Sequence[Arm]) -> float:
        """Seconds for the evaluation of the arms that are not measured yet, from the time of the last one."""
        return self.seconds * sum(not self._file(arm.name, arm.seed).exists() for arm in arms)

    def arm(self, arm: Arm, model: LanguageModel) -> None:
        """Measures a trained model."""
        if not self._measures:
            return
        measured = self._measure(arm.name, model, arm.seed)
        main = arm.name == "student" and arm.seed == self._settings.seed
        if main:
            self._sample(arm, model)
        if not self._machine.world.first:
            return
        if main:
            self._cost("student", lambda: self._cost_of_student(arm, model))
            self._change(arm, model)
            if measured.surprises:
                named = in_words(measured.surprises, model.tokenizer, self.held_out.store.name_of)
                write_rows(self._settings.out / "surprises.json", named)
        nats = measured.nats.sum() / measured.tokens.sum()
        console.print(f"{arm.label}: cross-entropy on held-out text {nats:.4f} nats/token")

    def write(self, run: dict[str, Any]) -> tuple[list[Reading], Verdict]:
        """Writes readings, verdict, model card and report of the arms measured so far. The student must be one of them."""
        out = self._settings.out
        readings = self._readings()
        write_lines(out / "readings.jsonl", [r.row() for r in readings])
        arms = {
            name: [runs[seed] for seed in sorted(runs)]
            for name, runs in self._runs.items()
            if name not in ("teacher", GIVEN) and not name.startswith(TEACHER_OF)
        }
        teacher = next(iter(self._runs.get("teacher", {}).values()), None)
        found_verdict = verdict(
            arms,
            teacher,
            method="KD" if self._distils else "the objective",
            price=price_of(run) if self._distils else None,
            text_bytes=self._text_bytes(arms["student"][0], teacher),
            start=start_of(run),
            against_attention=self._recall.sentence() if self._recall else "",
            used=used_note(trained_in(out, run), start_of(run)),
        )
        if self._overlap and (said := self._overlap.sentence(start_of(run))):
            found_verdict = replace(found_verdict, notes=(said, *found_verdict.notes))
        if cost_of_state := state_sentence(run):
            found_verdict = replace(found_verdict, notes=(*found_verdict.notes, cost_of_state))
        if note := vocabulary_note(run):
            found_verdict = replace(found_verdict, notes=(*found_verdict.notes, note))
        if note := quantised_note(run):
            found_verdict = replace(found_verdict, notes=(*found_verdict.notes, note))
        if note := masked_note(run):
            found_verdict = replace(found_verdict, notes=(*found_verdict.notes, note))
        if given := self._runs.get(GIVEN):
            assert teacher is not None
            gain = gain_over([teacher], list(given.values()), GIVEN)
            found_verdict = replace(found_verdict, notes=(corrected_note(run, gain), *found_verdict.notes))
        if self._several:
            by_domain = self._several.notes(run, arms, tasks=self._tasks is not None)
            found_verdict = replace(found_verdict, notes=(*by_domain, *found_verdict.notes))
        if note := adapted_note(run):
            found_verdict = replace(found_verdict, notes=(*found_verdict.notes, note))
        if few := too_few_steps(run["plan"]["steps"]):
            found_verdict = replace(found_verdict, notes=(*found_verdict.notes, f"{few}."))
        if isinstance(self._source, CrossTokenizerTeacher):
            found_verdict = replace(
                found_verdict, notes=(_sentence(across(self._source.logits.facts)), *found_verdict.notes)
            )
        write_json(out / "verdict.json", found_verdict.row())
        update(out, run, verdict=found_verdict.text)
        made = run["student"] | {"dtype": stored_dtype(out / "student")}
        write_text(out / "student" / "README.md", model_card(run | {"student": made}, readings, found_verdict.notes))
        write_report(out)
        return readings, found_verdict

    def conclude(self, run: dict[str, Any]) -> tuple[dict[str, Any], Ending]:
        """Writes all files and prints the verdict's notes; returns the result that `--json` prints, and the last screen."""
        out = self._settings.out
        readings, found_verdict = self.write(run)
        console.print()
        for note in found_verdict.notes:
            console.print(f"- {note}")
        places = {"report": out / "report.html", "student": out / "student"}
        if (out / ADAPTER).exists():
            places[ADAPTER] = out / ADAPTER
        ending = Ending(
            found_verdict.text,
            measured_rows(readings, start_of(run)),
            places,
            next_of_distil(run, out / "student"),
        )
        result = {
            "out": str(out),
            "student": str(out / "student"),
            "readings": by_model(readings),
            "verdict": found_verdict.text,
        }
        return result, ending

    def _cost(self, name: str, measured: Callable[[], list[Reading]]) -> None:
        """Adds the inference cost of a model, from its file if it was measured before."""
        file = self._settings.out / "measurements" / f"cost-{name}.json"
        if not file.exists():
            with writing(file):
                file.parent.mkdir(exist_ok=True)
            write_rows(file, [reading.row() for reading in measured()])
        self._costs += [Reading.of(row) for row in read_rows(file, ReadingRow, remedy=AGAIN)]

    def _cost_of_teacher(self) -> list[Reading]:
        """The inference cost of the teacher; with captured logits, as it was measured at the capture."""
        captured = self._source.captured
        if captured:
            return captured.cost
        with without_adapters(self._source.about):  # which can be merged
            return (counted if self._in_parts else cost)("teacher", self._source.about)

    def _change(self, arm: Arm, model: LanguageModel) -> None:
        """Measures how far the training moved the main student from its start, where one process has its weights."""
        if self._start is None or self._machine.world.sharded:
            return
        folder = self._settings.out / "measurements"
        weights, represents = folder / CHANGE, folder / "alignment.json"
        if not represents.exists():
            device, dtype = self._machine.world.device, self._machine.measured_in
            start = load(verified_folder(self._start), device=device, dtype=dtype)
            if self._quantiser:  # as the student was when its training began
                self._quantiser.quantise(start)
            write_rows(weights, [asdict(one) for one in matrices_moved(start, model)])
            found = represented("student", start, model, first_rows(self.held_out.batches()))
            write_rows(represents, [found.row()])
        moved = [Moved(**row) for row in read_rows(weights, MovedRow, remedy=AGAIN)]
        self._moved = weight_readings("student", moved)
        self._moved += [Reading.of(row) for row in read_rows(represents, ReadingRow, remedy=AGAIN)]
        self._moved = [replace(reading, seed=arm.seed) for reading in self._moved]

    def _sample(self, arm: Arm, model: LanguageModel) -> None:
        """Writes the samples of the main student and its teacher, if they are not there. All ranks that measure call it."""
        file, world = self._settings.out / "samples.json", self._machine.world
        missing = world.first and not file.exists()
        if not self._in_parts:
            if missing:
                live = self._reference is not None and self._source.captured is None
                stored = self._load_stored(arm) if world.sharded else model
                write_rows(file, self._samples(stored, self._source.about if live else None))
        elif world.any(missing)[0]:
            with led(self._source.about) as together:
                if together is not None:
                    write_rows(file, self._samples(self._load_stored(arm), together[0]))

    def _samples(self, model: LanguageModel, teacher: LanguageModel | None) -> list[dict[str, Any]]:
        captured = self._source.captured
        if self._several and teacher is not None:
            return self._several.samples(model, self.held_out.store)
        rows = samples(model, teacher, self.held_out.store)
        if captured:
            captures = {(row["document"], row["prompt"]): row for row in captured.samples}
            for row in rows:
                theirs = captures.get((row["document"], row["prompt"]), {})
                row |= {key.replace("student", "teacher"): theirs[key] for key in _CONTINUED if key in theirs}
        return rows

    def _text_bytes(self, student: Measurements, teacher: Measurements | None) -> tuple[np.ndarray, np.ndarray] | None:
        """Bytes of text in each document's student tokens and teacher tokens; None if they share a tokenizer."""
        if teacher is None or self._teachers is self.held_out:
            return None
        return self.held_out.text_bytes(student), self._teachers.text_bytes(teacher)

    def _cost_of_student(self, arm: Arm, model: LanguageModel) -> list[Reading]:
        """The inference cost of the saved student, in the number format that the teacher is measured in.

        It is read again where the trained ``model``, in float32, is not the same.
        """
        dtype = self._machine.dtype
        same = dtype == torch.float32 and not self._machine.world.sharded
        return cost("student", model if same else self._load_stored(arm, dtype=dtype), folder=arm.student)

    def _load_stored(self, arm: Arm, *, dtype: torch.dtype = torch.float32) -> LanguageModel:
        """The saved student, whole, on this rank's device."""
        return load(verified_folder(arm.student), device=self._machine.world.device, dtype=dtype)

    def _measure(self, name: str, model: LanguageModel, seed: int, *, compare: bool = True) -> Measurements:
        """The measurements of a model, from its file if there is one. All ranks that measure call it."""
        file, begun = self._file(name, seed), time.monotonic()
        captured, world = self._source.captured, self._machine.world
        known = file.exists() if not self._together else world.any(world.first and file.exists())[0]
        if captured and captured.measured and name == "teacher":
            measured = unwatched(captured.measured, self._apart)
            if not known and world.first:  # for the report, which reads this folder alone
                _save(measured, file)
        elif known:
            measured = Measurements.load(file)
        else:
            reference = self._reference if compare else None
            text = self._teachers if name == "teacher" else self.held_out
            documents = text.store.documents
            ranks = world if self._together else None
            batches = text.batches(counted=self._counted, ranks=ranks or ALONE)
            known_teacher = self._reference if name == "teacher" else None
            read: CausalLM = known_teacher if isinstance(known_teacher, RememberedTeacher) else model
            if self._several:
                batches, read = self._several.routed.batches(batches), self._several.reader(name, model)
            measured = measure(read, reference, batches, documents=documents, ranks=ranks)
            if world.first:
                _save(measured, file)
            if name != "teacher" and not name.startswith(TEACHER_OF):
                self.seconds = time.monotonic() - begun
        self._runs.setdefault(name, {})[seed] = measured
        if not world.first:
            return measured
        if self._recall and not (captured and name == "teacher"):  # its weights are not here
            self._recall.measure(name, model, seed)
        if self._overlap and name != "teacher" and not name.startswith(TEACHER_OF):
            self._overlap.measure(name, model, seed)
        if self._tasks:
            whole = bool(captured) and name == "teacher"
            self._tasks.measure(name, lambda: self._source.weights(self._machine) if whole else model, seed)
        return measured

    def _file(self, name: str, seed: int) -> Path:
        return self._settings.out / "measurements" / f"{name}-seed{seed}.safetensors"

    def _readings(self) -> list[Reading]:
        """All readings: of each seed, and over all seeds (seed null) if there are several."""
        readings = [*self._costs, *self._moved]
        for name, runs in self._runs.items():
            for seed, seeds in each_and_all(runs):
                measured = [runs[one] for one in seeds]
                text = self._teachers if name == "teacher" else self.held_out
                found = likelihood(name, measured, text_bytes=text.text_bytes(measured[0]), seed=seed)
                if text is not self.held_out:  # only bits per byte compare between tokenizers
                    found = [reading for reading in found if reading.name == "bits_per_byte"]
                readings += found
                readings += calibration(name, measured, seed=seed)
                readings += fidelity(name, measured, seed=seed)
                readings += self._several.readings(name, measured, seed=seed) if self._several else []
        tasks = self._tasks.readings() if self._tasks else []
        readings += self._overlap.readings() if self._overlap else []
        return readings + (self._recall.readings() if self._recall else []) + tasks


def _save(measured: Measurements, file: Path) -> None:
    with writing(file):
        file.parent.mkdir(exist_ok=True)
    measured.save(file)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def share_teacher_metrics(there: Path, here: Path) -> None:
    """Links the teacher's measurements of the run ``there`` into the run ``here``."""
    for name in ("teacher-seed*", "tasks-teacher-seed*", "cost-teacher.json"):
        for file in there.glob(f"measurements/{name}"):
            link_or_copy(file, here / "measurements" / file.name)
