"""The tasks of a pilot, each in a folder of its own: train a teacher, capture its hidden states, train and measure a student.

A task that has its result.json is done; one that was stopped continues where it stood. Whoever runs tasks, here or on
another machine, needs nothing but the pilot's folder.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NotRequired, Required, TypedDict

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from limbeck.corpora import Rows, TokenStore
from limbeck.disk import (
    Bare,
    Count,
    check_sums,
    finite,
    locked,
    read_json,
    remove_leftovers,
    replacing,
    sha256_of,
    sums,
    write_json,
)
from limbeck.errors import BadFolder, NonFiniteLoss
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.folder import packed_as, text_of_run
from limbeck.jobs.common.held_out import HeldOut
from limbeck.jobs.pair.student import shrink_to
from limbeck.jobs.pair.unigram import compare_to_unigram, of_store
from limbeck.jobs.pilot.grid import CellPlan, Grid, Scale, TeacherPlan, weights_inside
from limbeck.jobs.pretrain.job import llama_config
from limbeck.models.build import new_model
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load, verified_folder
from limbeck.models.save import save
from limbeck.objectives.base import Objective
from limbeck.objectives.basic import CrossEntropy
from limbeck.objectives.spec import ObjectiveSpec
from limbeck.probes import likelihood, measure
from limbeck.probes.measurements import Measurements
from limbeck.run.optim import suggested_learning_rate
from limbeck.run.run import Plan, Run
from limbeck.run.save import checkpoints
from limbeck.run.world import alone
from limbeck.students.shape import Shape
from limbeck.teachers import HiddenStates, NumberedRows, capture
from limbeck.types import CausalLM

PLAN, RESULT, DOCUMENTS = "pilot.json", "result.json", "documents.npy"
_TOGETHER = 4096  # tokens of a teacher's forward pass


@dataclass(frozen=True)
class Task:
    """A piece of work. ``kind`` is teacher, answers or cell; ``needs`` are the folders of those it waits for."""

    out: Path
    kind: str
    name: str
    needs: tuple[Path, ...] = ()

    @property
    def folder(self) -> Path:
        """Where it works."""
        return self.out / {"teacher": "teachers", "answers": "answers", "cell": "cells"}[self.kind] / self.name

    @property
    def done(self) -> bool:
        """Whether its result is there."""
        return (self.folder / RESULT).is_file()

    @property
    def ready(self) -> bool:
        """Whether what it waits for is done."""
        return all((folder / RESULT).is_file() for folder in self.needs)


def tasks_of(out: Path, grid: Grid) -> list[Task]:
    """All tasks of a pilot, in the order they should begin: the largest teachers first, since all else waits for them."""
    teachers = [Task(out, "teacher", rung.name) for rung in reversed(grid.teachers)]
    answers = [Task(out, "answers", task.name, (task.folder,)) for task in teachers]
    cells = [Task(out, "cell", c.name, (out / "answers" / c.teacher,) if c.teacher else ()) for c in grid.cells]
    return [*teachers, *answers, *cells]


def tasks_left(tasks: list[Task]) -> list[Task]:
    """Those to be done: teachers and their answers only where a student still needs them."""
    cells = [task for task in tasks if task.kind == "cell" and not task.done]
    wanted = {folder for cell in cells for folder in cell.needs}
    return [task for task in tasks if not task.done and (task.kind != "answers" or task.folder in wanted)]


class _Shape(TypedDict):
    layers: Count
    hidden: Count
    heads: Count
    kv_heads: Count
    ffn: Count


class _Planned(TypedDict):
    name: Bare
    shape: _Shape
    tokens: Count
    teacher: NotRequired[Bare | None]


class _Grid(TypedDict):
    teachers: list[_Planned]
    cells: list[_Planned]


class _Stored(TypedDict):
    """pilot.json, as far as paths and shapes are made of it."""

    grid: _Grid
    scale: dict[str, Any]
    objective: str


class _Known(TypedDict):
    teacher: float | None
    unigram: float
    documents: Count


class Result(TypedDict, total=False):
    """result.json of a piece of work, as far as it is read by all; of a teacher what it knows, but of earlier versions'."""

    name: str
    cpu_seconds: Required[float]
    files: dict[Bare, str]
    compare_to_unigram: _Known


def result_of(folder: Path, kind: Any = Result) -> dict[str, Any]:
    """What came out of a piece of work. Raises BadFolder where that is missing or damaged."""
    remedy = f"remove {folder}, and the same command does it again"
    result: dict[str, Any] = read_json(folder / RESULT, kind, remedy=remedy)
    check_sums(folder, result.get("files", {}), error=BadFolder, remedy=remedy)
    return result


@dataclass(frozen=True)
class Pilot:
    """What stands in pilot.json: the grid, the scale, the objective."""

    grid: Grid
    scale: Scale
    objective: str

    def write(self, out: Path) -> None:
        """Stores it for whoever works on the tasks."""
        write_json(out / PLAN, asdict(self))

    @classmethod
    def read(cls, out: Path) -> Pilot:
        """Reads it."""
        row = read_json(out / PLAN, _Stored, remedy="let the command of the pilot write it again")
        teachers = tuple(TeacherPlan(**t | {"shape": Shape(**t["shape"])}) for t in row["grid"]["teachers"])
        cells = tuple(CellPlan(**c | {"shape": Shape(**c["shape"])}) for c in row["grid"]["cells"])
        return cls(Grid(teachers, cells), Scale(**row["scale"]), row["objective"])


def do(task: Task, environment: Environment | None = None) -> None:
    """Does a task, unless it is done. Of a student, a loss that is no number is a result too, written down with the reason."""
    environment = environment or Environment(
        alone("cuda" if torch.cuda.is_available() else "cpu"), bf16=torch.cuda.is_available()
    )
    with locked(task.folder, wait=True):  # one whose parent was killed may take a moment to notice
        remove_leftovers(task.folder)
        if task.done:
            return
        started = time.process_time()
        result = _WORK[task.kind](task, Pilot.read(task.out), environment)
        seconds = round(time.process_time() - started, 2)
        made = [file.name for file in [task.folder / DOCUMENTS] if file.exists()]
        facts = {"cpu_seconds": seconds, "files": sums(task.folder, made)}
        write_json(task.folder / RESULT, {"name": task.name, **result, **facts})
        drop_checkpoints([task])


def drop_checkpoints(tasks: Iterable[Task]) -> None:
    """Removes the checkpoints of tasks that are done."""
    for task in tasks:
        if task.done:
            for checkpoint in checkpoints(task.folder):
                shutil.rmtree(checkpoint, ignore_errors=True)


def _teacher(task: Task, pilot: Pilot, environment: Environment) -> dict[str, Any]:
    """Trains a teacher from scratch, with cross-entropy."""
    plan = next(rung for rung in pilot.grid.teachers if rung.name == task.name)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(task.out / "tokenizer")
    model = new_model(llama_config(plan.shape, tokenizer), tokenizer, 0, name=plan.name)
    lr = suggested_learning_rate(model.parameters_count)
    tokens = _train(task, pilot, model, _Setup(CrossEntropy(), plan.tokens, lr, seed=0), environment)
    save(model, task.folder / "model")
    measured = _measure(task.out, model, None, pilot.scale, environment)
    facts = {**_sizes(model, plan.shape), "tokens": tokens, **_loss(measured)}
    model.model.eval()
    items = of_store(text_of_run(task.out)[0])
    found = compare_to_unigram(
        model, items, vocab=model.vocab, length=pilot.scale.length, device=environment.world.device
    )
    return facts if found is None else facts | {"known": finite(asdict(found))}


def _answers(task: Task, pilot: Pilot, environment: Environment) -> dict[str, Any]:
    """Captures a teacher's hidden states of the training text that students read."""
    teacher = _load_teacher(task.out, task.name, environment)
    store, _ = text_of_run(task.out)
    rows = Rows(store, length=pilot.scale.length, most=_most(pilot))
    read = NumberedRows(
        lambda numbers: rows.rows_of(numbers).to(environment.world.device),
        rows.length,
        rows.n_rows,
        max(1, _TOGETHER // rows.length),
    )
    capture(
        teacher,
        read,
        task.folder,
        made_from=_made_from(task.out, task.name, store, pilot.scale),
    )
    return {"rows": rows.n_rows}


def _most(pilot: Pilot) -> int:
    """Rows that students read, the same for all, each once: so hidden states of no others are captured."""
    return max(1, round(pilot.scale.student_tokens / pilot.scale.length))


def _made_from(out: Path, teacher: str, store: TokenStore, scale: Scale) -> dict[str, Any]:
    weights = sha256_of(out / "teachers" / teacher / "model" / "model.safetensors")
    return {"teacher": weights, "corpus": store.manifest["corpus_sha256"], "length": scale.length} | packed_as(store)


def _cell(task: Task, pilot: Pilot, environment: Environment) -> dict[str, Any]:
    """Trains one student and measures it."""
    plan = next(cell for cell in pilot.grid.cells if cell.name == task.name)
    live = None if plan.teacher is None else _load_teacher(task.out, plan.teacher, environment)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(task.out / "tokenizer")
    store, _ = text_of_run(task.out)
    answers: CausalLM | None = None
    objective = CrossEntropy() if plan.teacher is None else ObjectiveSpec.of(plan.objective or pilot.objective).make()
    if plan.teacher and objective.needs_teacher:
        made_from = _made_from(task.out, plan.teacher, store, pilot.scale)
        answers = HiddenStates(task.out / "answers" / plan.teacher, expect=made_from)
    before = None
    if plan.arm == "cut":
        assert live is not None
        student = shrink_to(
            plan.shape,
            live,
            store,
            length=pilot.scale.length,
            environment=environment,
            method="gradient",
            seed=plan.seed,
        )
        student.model.train().requires_grad_(True)
        before = _loss(_measure(task.out, student, None, pilot.scale, environment))["loss"]
    else:
        student = new_model(llama_config(plan.shape, tokenizer), tokenizer, 1 + plan.seed, name=plan.name)
    lr = plan.lr_factor * suggested_learning_rate(student.parameters_count)
    # a distilled student reads the rows with captured states; another may read on
    most = _most(pilot) if answers is not None else max(_most(pilot), plan.tokens // pilot.scale.length)
    facts = {**_sizes(student, plan.shape), "arm": plan.arm, "seed": plan.seed, "teacher": plan.teacher}
    facts |= {"lr": lr, "lr_factor": plan.lr_factor, "loss_before": before, "tokens": plan.tokens}
    try:
        setup = _Setup(objective, plan.tokens, lr, plan.seed, most)
        tokens = _train(task, pilot, student, setup, environment, teacher=answers)
    except NonFiniteLoss as error:
        return {**facts, "loss": None, "kl": None, "failed": str(error)}
    if plan.keep:
        save(student, task.folder / "student")
    measured = _measure(task.out, student, live, pilot.scale, environment)
    with replacing(task.folder / DOCUMENTS) as beside, beside.open("wb") as file:
        np.save(file, np.stack([measured.nats, measured.tokens]))
    kl = None if measured.kl is None else float(measured.kl.sum() / measured.tokens.sum())
    return {**facts, "tokens": tokens, **_loss(measured), "kl": kl}


_WORK = {"teacher": _teacher, "answers": _answers, "cell": _cell}


@dataclass(frozen=True)
class _Setup:
    """What a model is trained on: ``tokens`` of the text by an objective; ``most``: rows of the text, if not all."""

    objective: Objective
    tokens: int
    lr: float
    seed: int
    most: int | None = None


def _train(
    task: Task,
    pilot: Pilot,
    model: LanguageModel,
    setup: _Setup,
    environment: Environment,
    *,
    teacher: CausalLM | None = None,
) -> int:
    """Trains a model; gives how many tokens it read."""
    scale, world = pilot.scale, environment.world
    rows = max(1, scale.batch_tokens // scale.length)
    steps = max(1, round(setup.tokens / (rows * scale.length)))
    model.model.to(world.device)
    corpus = Rows(text_of_run(task.out)[0], length=scale.length, seed=setup.seed, most=setup.most)
    plan = Plan(steps=steps, rows=rows, lr=setup.lr, bf16=environment.bf16, save_every=500, save_minutes=2.0)
    Run(task.folder, f"{task.kind} {task.name}", model, teacher, corpus, setup.objective, plan, world).train()
    return steps * rows * scale.length


def _measure(
    out: Path, model: LanguageModel, teacher: LanguageModel | None, scale: Scale, environment: Environment
) -> Measurements:
    _, store = text_of_run(out)
    held_out = HeldOut(store, length=scale.length, environment=environment, trained=scale.student_tokens)
    training = model.model.training
    model.model.to(environment.world.device).eval()
    measured = measure(model, teacher, held_out.batches(), documents=store.documents)
    model.model.train(training)
    return measured


def _load_teacher(out: Path, name: str, environment: Environment) -> LanguageModel:
    return load(verified_folder(out / "teachers" / name / "model"), device=environment.world.device)


def _loss(measured: Measurements) -> dict[str, float]:
    """Nats per token, and their 95 % interval over documents."""
    reading = likelihood("", [measured])[0]
    return {"loss": reading.value, "low": reading.low, "high": reading.high}


def _sizes(model: LanguageModel, shape: Shape) -> dict[str, Any]:
    return {"parameters": model.parameters_count, "inside": weights_inside(shape), "shape": str(shape)}
