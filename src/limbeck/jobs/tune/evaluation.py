"""Measures the models of a tuning on held-out text of the data and of the other text, and writes the report.

The first rank measures, while the others wait. Measurements are kept in the run's folder, one file for each model, seed and text.
Where memory is scarce, of the model before tuning only hidden states are kept, so that no two models are held at once.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from limbeck.corpora import TokenStore
from limbeck.corpora.pair_rows import by_side
from limbeck.disk import read_rows, write_json, write_lines, write_rows, write_text, writing
from limbeck.ending import Ending
from limbeck.jobs.common.adapters import ADAPTER
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.folder import update
from limbeck.jobs.common.held_out import Apart, HeldOut
from limbeck.jobs.common.seeds import by_model, each_and_all
from limbeck.jobs.tune.arms import Arm
from limbeck.jobs.tune.plan import TunePlan
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load, verified_folder
from limbeck.models.sidecar import stored_dtype
from limbeck.probes import Measurements, calibration, fidelity, likelihood, measure, samples
from limbeck.probes.preference import pairs_read, preference, right
from limbeck.report.masked import masked_note
from limbeck.report.page import write_report
from limbeck.report.preferred import preferred_verdict
from limbeck.report.start import start_of
from limbeck.report.trained import trained_in, used_note
from limbeck.report.tuned import OTHER, next_of_tune, tuned_card, tuned_rows, tuned_verdict
from limbeck.report.verdict import Verdict
from limbeck.report.words import share
from limbeck.run.log import console
from limbeck.teachers import HiddenStates, capture
from limbeck.teachers.hidden import MANIFEST
from limbeck.types import Reading

PAIRS = "pairs"  # the held-out preference pairs, in names of files
START = "cut"  # the name of the model before tuning in files, as of the start of a distillation


def measured_alone(plan: TunePlan, environment: Environment) -> bool:
    """Whether a tuned model is measured without the one before beside it: where memory is scarce and no objective asks that."""
    return environment.scarce and not plan.needs_parent


class TuneEvaluation:
    """Collects the measurements of a tuning, and writes its files."""

    def __init__(
        self,
        plan: TunePlan,
        held_out: Mapping[str, TokenStore],
        environment: Environment,
        *,
        apart: Apart | None,
    ) -> None:
        """``held_out``: the held-out part of the data, "", of the other text, `OTHER`, and of preference pairs, `PAIRS`.

        ``apart``: documents that judge nothing.
        """
        self._plan, self._out = plan, plan.settings.out
        self._held: dict[str, Any] = {"device": environment.world.device, "dtype": environment.measured_in}
        how: dict[str, Any] = {"length": plan.length, "environment": environment, "trained": plan.settings.tokens}
        own: dict[str, Any] = {"without": None if apart is None else apart.documents}
        self._texts = {name: HeldOut(text, **how, **({} if name else own)) for name, text in held_out.items()}
        self._runs: dict[str, dict[str, dict[int, Measurements]]] = {text: {} for text in self._texts}
        self._again: LanguageModel | None = None
        self._alone = measured_alone(plan, environment)
        self._known: dict[str, HiddenStates] = {}

    def _start(self) -> LanguageModel:
        """The model before tuning: what `before` was given, read again if its weights were released meanwhile."""
        if self._given.device.type != "meta":
            return self._given
        self._again = self._again or load(self._plan.settings.student, **self._held)
        return self._again

    def before(self, start: LanguageModel) -> None:
        """Measures the model before tuning."""
        self._given = start
        self._measure(START, lambda: start, self._plan.settings.seed)
        if self._alone:
            self._remember()

    def _remember(self) -> None:
        """Keeps what is compared of the model before tuning, where it is not there yet."""
        for text in self._texts:
            if text != PAIRS:
                self._states(text)
        if not self._continued.exists():
            write_rows(self._continued, samples(self._start(), None, self._texts[""].store))
        self._again = None

    def _states(self, text: str) -> HiddenStates:
        """The hidden states of the model before tuning on a text, computed unless they are there."""
        if text in self._known:
            return self._known[text]
        rows = self._texts[text].numbered
        folder = self._out / "measurements" / f"{f'{text}-' if text else ''}{START}-states"
        corpus, dtype = self._texts[text].store.manifest["corpus_sha256"], self._held["dtype"]
        made_from = {"corpus": corpus, "rows": rows.rows, "length": rows.length, "dtype": str(dtype)}
        if not (folder / MANIFEST).is_file():
            capture(self._start(), rows, folder, made_from=made_from)
        self._known[text] = HiddenStates(folder, expect=made_from, dtype=dtype)
        return self._known[text]

    @property
    def _continued(self) -> Path:
        return self._out / "measurements" / f"{START}-samples.json"

    def after(self, arm: Arm) -> None:
        """Measures a tuned model."""
        if self._alone:
            self._remember()
        held: list[LanguageModel] = []

        def model() -> LanguageModel:
            if not held:
                held.append(load(verified_folder(arm.student), **self._held))
            return held[0]

        self._measure(arm.name, model, arm.seed)
        file = self._out / "samples.json"
        if arm.folder == self._out and not file.exists():
            write_rows(file, self._samples(model()))
        self._again = None
        console.print(f"{arm.label}: held out {', '.join(self._in_short(text, arm) for text in self._texts)}")

    def _samples(self, model: LanguageModel) -> list[dict[str, Any]]:
        """Continuations by a tuned model and by the one before."""
        if not self._alone:
            rows = samples(model, self._start(), self._texts[""].store)
            return [{key.replace("teacher", START): text for key, text in row.items()} for row in rows]
        before = read_rows(self._continued)
        own = ("student", "student_sampled")
        return [
            row | {key.replace("student", START): known[key] for key in own}
            for row, known in zip(samples(model, None, self._texts[""].store), before, strict=True)
        ]

    def _in_short(self, text: str, arm: Arm) -> str:
        """What was measured of an arm on a text, for its line."""
        measured = self._runs[text][arm.name][arm.seed]
        if text == PAIRS:
            before = next(iter(self._runs[text][START].values()))
            return f"{share(right(measured, before).sum() / max(1, pairs_read(before)))} of pairs right"
        return f"{measured.nats.sum() / measured.tokens.sum():.4f} nats/token{' on other text' if text else ''}"

    def write(self, run: dict[str, Any]) -> tuple[list[Reading], Verdict]:
        """Writes readings, verdict, card and report of what was measured so far; the tuned model is among it."""
        out, readings = self._out, self._readings()
        write_lines(out / "readings.jsonl", [reading.row() for reading in readings])
        found = self._verdict(run)
        if note := masked_note(run):
            found = replace(found, notes=(*found.notes, note))
        write_json(out / "verdict.json", found.row())
        update(out, run, verdict=found.text)
        made = run["student"] | {"dtype": stored_dtype(out / "student")}
        write_text(out / "student" / "README.md", tuned_card(run | {"student": made}, readings, found.notes))
        write_report(out)
        return readings, found

    def _verdict(self, run: dict[str, Any]) -> Verdict:
        """The verdict on what was measured so far."""
        how: dict[str, Any] = {"start": start_of(run), "plan": run["plan"]}
        other = self._seeds(OTHER) if OTHER in self._texts else None
        if PAIRS in self._texts:
            return preferred_verdict(self._seeds(PAIRS), other, prompts=self._texts[PAIRS].store.prompts, **how)
        how |= {"used": used_note(trained_in(self._out, run), start_of(run)), "trials": run.get("trials", ())}
        return tuned_verdict(self._seeds(""), other, **how)

    def conclude(self, run: dict[str, Any]) -> tuple[dict[str, Any], Ending]:
        """Writes all files and prints the notes; returns the result that ``--json`` prints, and the last screen."""
        out = self._out
        self._known.clear()
        for states in (out / "measurements").glob(
            f"*{START}-states"
        ):  # they may be large, and are made again where needed
            shutil.rmtree(states, ignore_errors=True)
        readings, found = self.write(run)
        console.print()
        for note in found.notes:
            console.print(f"- {note}")
        places = {"report": out / "report.html", "student": out / "student"}
        if (out / ADAPTER).exists():
            places[ADAPTER] = out / ADAPTER
        ending = Ending(found.text, tuned_rows(readings, start_of(run)), places, next_of_tune(run, out / "student"))
        result = {"out": str(out), "student": str(out / "student"), "verdict": found.text}
        return result | {"readings": by_model(readings)}, ending

    def _measure(self, name: str, model: Any, seed: int) -> None:
        for text, held_out in self._texts.items():
            file = self._file(name, seed, text)
            if file.exists():
                measured = Measurements.load(file)
            else:
                measured = self._measured(model(), text, held_out, first=name == START)
                with writing(file):
                    file.parent.mkdir(exist_ok=True)
                measured.save(file)
            self._runs[text].setdefault(name, {})[seed] = measured

    def _measured(self, model: LanguageModel, text: str, held_out: HeldOut, *, first: bool) -> Measurements:
        """A model's measurements, of pairs for each of their sides, and against the model before (``first`` is that itself)."""
        documents = held_out.store.documents
        if text != PAIRS:
            if self._alone and not first:
                numbered = held_out.numbered
                return measure(model, self._states(text), numbered.batches(0, numbered.end), documents=documents)
            return measure(model, None if first else self._start(), held_out.batches(), documents=documents)
        return measure(model, None, map(by_side, held_out.batches()), documents=2 * documents)

    def _file(self, name: str, seed: int, text: str) -> Path:
        return self._out / "measurements" / f"{f'{text}-' if text else ''}{name}-seed{seed}.safetensors"

    def _seeds(self, text: str) -> dict[str, list[Measurements]]:
        """The measurements of each model on a text, by seed."""
        return {name: [runs[seed] for seed in sorted(runs)] for name, runs in self._runs[text].items()}

    def _readings(self) -> list[Reading]:
        """All readings: of each seed, and over all seeds where there are several; those on other text named so."""
        readings = []
        for text, models in self._runs.items():
            for name, runs in models.items():
                for seed, seeds in each_and_all(runs):
                    measured = [runs[one] for one in seeds]
                    if text == PAIRS:
                        before = next(iter(models[START].values()))
                        readings += preference(name, measured, before, self._texts[PAIRS].store.prompts, seed=seed)
                        continue
                    sizes = self._texts[text].text_bytes(measured[0])
                    found = likelihood(name, measured, text_bytes=sizes, seed=seed) + fidelity(
                        name, measured, seed=seed
                    )
                    if not text:
                        found += calibration(name, measured, seed=seed)
                    readings += [replace(one, name=f"{text}_{one.name}") for one in found] if text else found
        return readings
