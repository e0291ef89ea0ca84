"""The tasks of a pilot, each in its own folder: train a teacher, capture its hidden states, train and measure a student.

A task with its result.json is done, and a stopped one continues. Workers, here or on another machine, need only the pilot's
folder.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
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
    read_json,
    replacing,
    sha256_of,
    sums,
    write_json,
)
from limbeck.errors import BadFolder, NonFiniteLoss
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.folder import packed_as, text_of_run
from limbeck.jobs.common.held_out import HeldOut
from limbeck.jobs.common.task import RESULT, Task
from limbeck.jobs.pair.student import shrink_to
from limbeck.jobs.pair.unigram import compare_to_unigram, of_store
from limbeck.jobs.pilot.grid import CellPlan, Grid, Scale, TeacherPlan, weights_inside
from limbeck.jobs.pretrain.job import llama_config
from limbeck.models.build import new_model
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load, verified_folder
from limbeck.models.observing import evaluating
from limbeck.models.save import save
from limbeck.objectives.base import Objective
from limbeck.objectives.basic import CrossEntropy
from limbeck.objectives.spec import ObjectiveSpec
from limbeck.planning.cost.size import Size
from limbeck.probes import likelihood, measure
from limbeck.probes.measurements import Measurements
from limbeck.run.optim import suggested_learning_rate
from limbeck.run.run import Plan, Run
from limbeck.run.world import alone
from limbeck.students.deepen import IDENTITY
from limbeck.students.grow import PAD, Growth, grow
from limbeck.students.shape import Shape
from limbeck.teachers import HiddenStates, NumberedRows, capture
from limbeck.types import CausalLM

PLAN, DOCUMENTS = "pilot.json", "documents.npy"
_TOGETHER = 4096  # tokens of a teacher's forward pass


_FOLDERS = {"teacher": "teachers", "answers": "answers", "cell": "cells"}


def task_of(out: Path, kind: str, name: str, needs: tuple[Path, ...] = ()) -> Task:
    """A task of the pilot in a folder. ``kind`` is teacher, answers or cell."""
    work = Work(out, kind, name)
    return Task(work.folder, kind, name, work, needs)


def tasks_of(out: Path, grid: Grid) -> list[Task]:
    """All tasks of a pilot in the order of their start: the largest teachers first, since all others depend on them.

    A grown teacher needs the one it is grown from, and comes after it.
    """
    first = grid.teachers if any(rung.start for rung in grid.teachers) else reversed(grid.teachers)
    teachers = [task_of(out, "teacher", r.name, (out / "teachers" / r.start,) if r.start else ()) for r in first]
    answers = [task_of(out, "answers", task.name, (task.folder,)) for task in teachers]
    cells = [task_of(out, "cell", c.name, (out / "answers" / c.teacher,) if c.teacher else ()) for c in grid.cells]
    return [*teachers, *answers, *cells]


def tasks_left(tasks: list[Task]) -> list[Task]:
    """The tasks that are not done. Teachers and their hidden states are among them only if a student still needs them."""
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
    start: NotRequired[Bare | None]
    seed: NotRequired[Count]
    scratch_tokens: NotRequired[Count | None]


class _Grid(TypedDict):
    teachers: list[_Planned]
    cells: list[_Planned]


class _Stored(TypedDict):
    """The part of pilot.json with paths and shapes."""

    grid: _Grid
    scale: dict[str, Any]
    objective: str
    tf32: NotRequired[bool]


class _Known(TypedDict):
    teacher: float | None
    unigram: float
    documents: Count


class Result(TypedDict, total=False):
    """The common part of result.json. A teacher's has its comparison with a unigram model, except in earlier versions."""

    name: str
    cpu_seconds: Required[float]
    files: dict[Bare, str]
    compare_to_unigram: _Known


def result_of(folder: Path, kind: Any = Result) -> dict[str, Any]:
    """The result of a task. Raises BadFolder if it is missing or damaged."""
    remedy = f"remove {folder}, and the same command does it again"
    result: dict[str, Any] = read_json(folder / RESULT, kind, remedy=remedy)
    check_sums(folder, result.get("files", {}), error=BadFolder, remedy=remedy)
    return result


@dataclass(frozen=True)
class Pilot:
    """The contents of pilot.json: the grid, the scale, the objective, and whether steps use TF32 on a GPU, as in runs."""

    grid: Grid
    scale: Scale
    objective: str
    tf32: bool = True

    def write(self, out: Path, *, begun: bool | None = None) -> bool:
        """Writes it for all workers; gives whether steps use TF32.

        A pilot that was begun keeps its arithmetic, so that its models can be compared: that of its pilot.json, or ``begun``
        where that file is missing or damaged. Raises BadFolder where neither is known and trainings are there.
        """
        try:
            begun = Pilot.read(out).tf32
        except BadFolder as error:
            if begun is None and any((out / name).is_dir() for name in _FOLDERS.values()):
                raise BadFolder(
                    f"{out / PLAN}: expected the plan of the trainings in this folder, found it missing or damaged, and nothing "
                    "else says in which arithmetic they began: put it back from a copy, or give a new folder with --out"
                ) from error
        tf32 = self.tf32 if begun is None else begun
        write_json(out / PLAN, asdict(replace(self, tf32=tf32)))
        return tf32

    @classmethod
    def read(cls, out: Path) -> Pilot:
        """Reads it."""
        row = read_json(out / PLAN, _Stored, remedy="let the command of the pilot write it again")
        teachers = tuple(TeacherPlan(**t | {"shape": Shape(**t["shape"])}) for t in row["grid"]["teachers"])
        cells = tuple(CellPlan(**c | {"shape": Shape(**c["shape"])}) for c in row["grid"]["cells"])
        return cls(Grid(teachers, cells), Scale(**row["scale"]), row["objective"], row.get("tf32", False))


@dataclass(frozen=True)
class Work:
    """Runs a task of the sweep in ``out``. A student whose loss is not finite is a result too, with the reason."""

    out: Path
    kind: str
    name: str

    @property
    def folder(self) -> Path:
        """The folder of the task."""
        return self.out / _FOLDERS[self.kind] / self.name

    def __call__(self) -> dict[str, Any]:
        """The result, with the checksums of its files."""
        cuda, pilot = torch.cuda.is_available(), Pilot.read(self.out)
        environment = Environment(alone("cuda" if cuda else "cpu"), bf16=cuda, tf32=cuda and pilot.tf32)
        result = _WORK[self.kind](self, pilot, environment)
        made = [file.name for file in [self.folder / DOCUMENTS] if file.exists()]
        return {"name": self.name, **result, "files": sums(self.folder, made)}


def _teacher(work: Work, pilot: Pilot, environment: Environment) -> dict[str, Any]:
    """Trains a teacher, from random weights or grown, with cross-entropy.

    A grown one reads the text in another order than the one below, which began as it would.
    """
    number, plan = next((i, rung) for i, rung in enumerate(pilot.grid.teachers) if rung.name == work.name)
    model = _new_teacher(work.out, plan, environment)
    lr = suggested_learning_rate(model.parameters_count)
    setup = _Setup(CrossEntropy(), plan.tokens, lr, plan.seed + (number if plan.start else 0))
    tokens = _train(work, pilot, model, setup, environment)
    save(model, work.folder / "model")
    measured = _measure(work.out, model, None, pilot.scale, environment)
    _save_documents(work.folder, measured)
    facts = {**_sizes(model, plan.shape), "tokens": tokens, **_loss(measured)}
    size = Size.of(model.config)
    facts["flops"] = tokens * (size.forward_flops(pilot.scale.length) + size.backward_flops(pilot.scale.length))
    facts |= {"start": plan.start, "scratch_tokens": plan.scratch_tokens} if plan.start else {}
    model.model.eval()
    items = of_store(text_of_run(work.out)[0])
    found = compare_to_unigram(
        model, items, vocab=model.vocab, length=pilot.scale.length, device=environment.world.device
    )
    return facts if found is None else facts | {"known": finite(asdict(found))}


def _new_teacher(out: Path, plan: TeacherPlan, environment: Environment) -> LanguageModel:
    """A teacher before its training."""
    if plan.start is not None:
        small = _load_teacher(out, plan.start, environment)
        grown = grow(small, Growth(PAD, plan.shape, IDENTITY, seed=plan.seed))
        return LanguageModel(grown.model, small.tokenizer, plan.name, grown.lineage)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(out / "tokenizer")
    return new_model(llama_config(plan.shape, tokenizer), tokenizer, plan.seed, name=plan.name)


def _answers(work: Work, pilot: Pilot, environment: Environment) -> dict[str, Any]:
    """Captures a teacher's hidden states of the training text of its students."""
    teacher = _load_teacher(work.out, work.name, environment)
    store, _ = text_of_run(work.out)
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
        work.folder,
        made_from=_made_from(work.out, work.name, store, pilot.scale),
    )
    return {"rows": rows.n_rows}


def _most(pilot: Pilot) -> int:
    """The number of rows that students read, each once. It is the same for all, so hidden states of no others are captured."""
    return max(1, round(pilot.scale.student_tokens / pilot.scale.length))


def _made_from(out: Path, teacher: str, store: TokenStore, scale: Scale) -> dict[str, Any]:
    weights = sha256_of(out / "teachers" / teacher / "model" / "model.safetensors")
    return {"teacher": weights, "corpus": store.manifest["corpus_sha256"], "length": scale.length} | packed_as(store)


def _cell(work: Work, pilot: Pilot, environment: Environment) -> dict[str, Any]:
    """Trains one student and measures it."""
    plan = next(cell for cell in pilot.grid.cells if cell.name == work.name)
    live = None if plan.teacher is None else _load_teacher(work.out, plan.teacher, environment)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work.out / "tokenizer")
    store, _ = text_of_run(work.out)
    answers: CausalLM | None = None
    objective = CrossEntropy() if plan.teacher is None else ObjectiveSpec.of(plan.objective or pilot.objective).make()
    if plan.teacher and objective.needs_teacher:
        made_from = _made_from(work.out, plan.teacher, store, pilot.scale)
        answers = HiddenStates(work.out / "answers" / plan.teacher, expect=made_from)
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
        before = _loss(_measure(work.out, student, None, pilot.scale, environment))["loss"]
    else:
        student = new_model(llama_config(plan.shape, tokenizer), tokenizer, 1 + plan.seed, name=plan.name)
    lr = plan.lr_factor * suggested_learning_rate(student.parameters_count)
    # a distilled student reads the rows with captured states; another may read on
    most = _most(pilot) if answers is not None else max(_most(pilot), plan.tokens // pilot.scale.length)
    facts = {**_sizes(student, plan.shape), "arm": plan.arm, "seed": plan.seed, "teacher": plan.teacher}
    facts |= {"lr": lr, "lr_factor": plan.lr_factor, "loss_before": before, "tokens": plan.tokens}
    try:
        setup = _Setup(objective, plan.tokens, lr, plan.seed, most)
        tokens = _train(work, pilot, student, setup, environment, teacher=answers)
    except NonFiniteLoss as error:
        return {**facts, "loss": None, "kl": None, "failed": str(error)}
    if plan.keep:
        save(student, work.folder / "student")
    measured = _measure(work.out, student, live, pilot.scale, environment)
    _save_documents(work.folder, measured)
    kl = None if measured.kl is None else float(measured.kl.sum() / measured.tokens.sum())
    return {**facts, "tokens": tokens, **_loss(measured), "kl": kl}


_WORK = {"teacher": _teacher, "answers": _answers, "cell": _cell}


@dataclass(frozen=True)
class _Setup:
    """The training data of a model: ``tokens`` of the text, by an objective. ``most`` is the number of its rows, None for all."""

    objective: Objective
    tokens: int
    lr: float
    seed: int
    most: int | None = None


def _train(
    work: Work,
    pilot: Pilot,
    model: LanguageModel,
    setup: _Setup,
    environment: Environment,
    *,
    teacher: CausalLM | None = None,
) -> int:
    """Trains a model; gives the number of its tokens."""
    scale, world = pilot.scale, environment.world
    rows = max(1, scale.batch_tokens // scale.length)
    steps = max(1, round(setup.tokens / (rows * scale.length)))
    model.model.to(world.device)
    corpus = Rows(text_of_run(work.out)[0], length=scale.length, seed=setup.seed, most=setup.most)
    how: dict[str, Any] = {"bf16": environment.bf16, "tf32": environment.tf32}
    plan = Plan(steps=steps, rows=rows, lr=setup.lr, **how, save_every=500, save_minutes=2.0)
    Run(work.folder, f"{work.kind} {work.name}", model, teacher, corpus, setup.objective, plan, world).train()
    return steps * rows * scale.length


def _measure(
    out: Path, model: LanguageModel, teacher: LanguageModel | None, scale: Scale, environment: Environment
) -> Measurements:
    _, store = text_of_run(out)
    held_out = HeldOut(store, length=scale.length, environment=environment, trained=scale.student_tokens)
    model.model.to(environment.world.device)
    with evaluating(model.model):
        return measure(model, teacher, held_out.batches(), documents=store.documents)


def _save_documents(folder: Path, measured: Measurements) -> None:
    """Writes nats and tokens of each held-out document, (2, documents)."""
    with replacing(folder / DOCUMENTS) as beside, beside.open("wb") as file:
        np.save(file, np.stack([measured.nats, measured.tokens]))


def _load_teacher(out: Path, name: str, environment: Environment) -> LanguageModel:
    return load(verified_folder(out / "teachers" / name / "model"), device=environment.world.device)


def _loss(measured: Measurements) -> dict[str, float]:
    """Nats per token, and their 95 % interval over documents."""
    reading = likelihood("", [measured])[0]
    return {"loss": reading.value, "low": reading.low, "high": reading.high}


def _sizes(model: LanguageModel, shape: Shape) -> dict[str, Any]:
    return {"parameters": model.parameters_count, "inside": weights_inside(shape), "shape": str(shape)}
