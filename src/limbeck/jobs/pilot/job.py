"""`limbeck pilot`: text, ladder, cells, table of points."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from limbeck import __version__
from limbeck.config import PilotSettings
from limbeck.corpora import build_stores, require_rows
from limbeck.corpora.layout import BEST_FIT
from limbeck.corpora.source import resolve as resolve_source
from limbeck.disk import claims
from limbeck.ending import Ending, show_ending
from limbeck.errors import BadSetting
from limbeck.jobs.common.cluster import cluster
from limbeck.jobs.common.folder import claim, now, same_corpus, signature_of, update
from limbeck.jobs.common.task import Task, drop_checkpoints
from limbeck.jobs.common.text import columns_of, print_notes, records_of
from limbeck.jobs.pilot.grid import SCALES, Grid, Scale, grid, ladder, weights
from limbeck.jobs.pilot.knowing import require_one, warnings_of
from limbeck.jobs.pilot.results import write_results
from limbeck.jobs.pilot.tasks import Pilot, result_of, tasks_left, tasks_of
from limbeck.jobs.pilot.workers import run_here
from limbeck.jobs.pretrain.job import make_tokenizer
from limbeck.models.load import verified_folder
from limbeck.models.vocabulary import ids_of
from limbeck.objectives.spec import ObjectiveSpec
from limbeck.report.words import count, counted, duration
from limbeck.run.log import console


@claims()
def pilot(settings: PilotSettings) -> dict[str, Any]:
    """Trains the grid of a pilot; gives ``{"out", "points", "teachers", "students", "valleys", "failed", "cpu_seconds"}``.

    With ``grow`` also ``"growth"``: what that saved, as `results.saved` has it. Finished trainings are kept. Raises BadSetting
    for an objective without a teacher or growth with a law, BadFolder for a folder of another pilot, and the errors of a faulty
    text.
    """
    plan, run = begin(settings)
    out = settings.out
    tasks = tasks_of(out, plan)
    drop_checkpoints(tasks)
    left = tasks_left(tasks)
    vocab = ids_of(PreTrainedTokenizerFast.from_pretrained(out / "tokenizer"))
    sizes = [weights(rung.shape, vocab) for rung in plan.teachers]
    console.print(
        f"pilot: {len(plan.teachers)} teachers of {min(sizes):,} to {max(sizes):,} parameters, "
        f"{len(plan.cells)} trainings of students; "
        f"{len(left)} pieces of work are left"
    )
    require_one(tasks, anyway=settings.any_teacher)
    progress = _Progress(tasks, len(left), any_teacher=settings.any_teacher)
    if settings.ray:
        with cluster(settings.ray, out) as machines:
            machines.run(left, progress)
    else:
        run_here(left, settings.workers or os.cpu_count() or 1, progress)
    spent = run.get("cpu_seconds") or sum(result_of(task.folder)["cpu_seconds"] for task in tasks if task.done)
    shutil.rmtree(out / "answers", ignore_errors=True)  # large, and not needed any more
    update(out, run, ended=now(), cpu_seconds=round(spent, 1))
    result = write_results(out, tasks)
    for arm, valleys in result["valleys"].items():
        for valley in valleys:
            console.print(f"{arm}: {valley}")
    show_ending(ending(out, result), console)
    return {"out": str(out), **result, "cpu_seconds": run["cpu_seconds"]}


def begin(settings: PilotSettings, change: Callable[[Grid], Grid] = lambda plan: plan) -> tuple[Grid, dict[str, Any]]:
    """Claims the folder, makes tokenizer and text, and writes the plan; gives the grid and what run.json holds.

    ``change`` of the grid is for a study of its parts. Raises as `pilot`.
    """
    scale = SCALES[settings.scale]
    if not ObjectiveSpec.of(settings.objective).needs_teacher:
        raise BadSetting(
            f"--objective {settings.objective} needs no teacher, so a pilot of it measures nothing about one"
        )
    if settings.grow and settings.law:
        raise BadSetting(
            "--grow does not go with --law: a law is fitted to teachers that were trained from random weights, each on a known "
            "number of tokens; leave one of them out"
        )
    resolve_source(settings.data, columns_of(settings))
    out = settings.out
    students, teachers = ladder(scale, students=settings.students, teachers=settings.teachers)
    # one table must not mix trainings of two versions
    run = claim(
        out,
        signature_of(settings, "pilot", students=students, teachers=teachers, limbeck=__version__, packing=BEST_FIT),
    )
    vocab, tokens = _text(settings, scale, run)
    seeds = range(settings.seed, settings.seed + settings.seeds)
    plan = change(
        grid(
            scale,
            students=students,
            teachers=teachers,
            vocab=vocab,
            seeds=seeds,
            corpus_tokens=tokens,
            law=bool(settings.law),
            grow=settings.grow,
        )
    )
    tf32 = Pilot(plan, scale, settings.objective).write(out, begun=run.get("tf32"))
    if "tf32" not in run:
        update(out, run, tf32=tf32)
    return plan, run


def ending(out: Path, result: Mapping[str, Any]) -> Ending:
    """The last screen: the teachers, the paths of the points and their figure, and the resulting plan."""
    found = [valley for valleys in result["valleys"].values() for valley in valleys]
    best = sum(": best at " in valley for valley in found)
    headline = (
        f"{counted(result['students'], 'training')} of students of {counted(len(result['teachers']), 'teacher')}: "
    )
    headline += f"of {len(found)} curves of loss over the teacher's size {best} have their optimum within the ladder"
    if growth := result.get("growth"):
        headline += f"; grown, the teachers took {growth['share']:.0%} of the FLOPs of trainings from random weights"
    if result["failed"]:
        headline += f"; {counted(len(result['failed']), 'training')} failed"
    rows = [
        [one["name"], count(one["parameters"]), "failed" if one["loss"] is None else f"{one['loss']:.4f}"]
        for one in result["teachers"]
    ]
    places = {"points": out / "points.parquet", "figure": out / "ladder.png"}
    asked = ["--params", "600M", "--tokens", "10B", "--candidates", "1.5B,4B,8B"]
    return Ending(
        headline,
        [["teacher", "parameters", "held out, nats/token"], *rows],
        {name: place for name, place in places.items() if place.exists()},
        shlex.join(["limbeck", "plan", *asked, "--points", str(out)]),
    )


def _text(settings: PilotSettings, scale: Scale, run: dict[str, Any]) -> tuple[int, int]:
    """The tokenizer and the token stores, made once; gives the number of all tokens, and of training tokens."""
    folder = settings.out / "tokenizer"
    records = records_of(settings)
    make_tokenizer(settings.data, folder, vocab=scale.vocab, records=records)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(verified_folder(folder))
    store, held_out = build_stores(
        settings.data, tokenizer, settings.out / "data", records=records, progress=console.is_terminal
    )
    print_notes(store)
    require_rows(store, length=scale.length)
    same_corpus(settings.out, run, store, held_out)
    return ids_of(tokenizer), store.tokens


class _Progress:
    """Prints a line for each finished task. After the last teacher, raises Mismatch if none is better than a unigram model."""

    def __init__(self, tasks: Sequence[Task], total: int, *, any_teacher: bool) -> None:
        self._tasks, self._any_teacher = tasks, any_teacher
        self._total, self._done, self._start = total, 0, time.monotonic()

    def __call__(self, task: Task, seconds: float) -> None:
        self._done += 1
        took = time.monotonic() - self._start
        console.print(
            f"{self._done:>4} of {self._total}  {task.kind} {task.name}: {duration(seconds)}; {duration(took)} so far"
        )
        if task.kind == "teacher":
            for finding in warnings_of(task):
                console.print(f"{finding.level}: {finding.message}")
            require_one(self._tasks, anyway=self._any_teacher)
