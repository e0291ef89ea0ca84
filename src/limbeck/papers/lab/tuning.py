"""Trainings on instructions: models tuned with any objective, each a task in its own folder with its results.

All tunings of a recipe have the same text, and the same rows of it where they have the same number of tokens. A tuned model is
measured on held-out questions: nats of the library's answers, and the checks that its own answers pass, by module.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from jaxtyping import Float
from transformers import PreTrainedTokenizerFast

from limbeck.corpora import Rows, TokenStore
from limbeck.disk import finite, replacing, sha256_of, sums
from limbeck.errors import BadFolder, NonFiniteLoss
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.folder import packed_as
from limbeck.jobs.common.held_out import HeldOut
from limbeck.jobs.common.task import RESULT, Task
from limbeck.jobs.pilot.tasks import Pilot, result_of
from limbeck.jobs.pilot.workers import run_here
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.objectives.spec import ObjectiveSpec
from limbeck.papers.lab.answers import checks_passed, chosen_questions
from limbeck.papers.lab.cells import best_factors, progress
from limbeck.papers.lab.conversations import (
    chat_tokenizer,
    held_out_conversations,
    lines_of,
    store_of,
    sums_by_module,
    write_conversations,
)
from limbeck.papers.lab.recipe import RecipeContext
from limbeck.papers.lab.search import BestRates
from limbeck.papers.lab.trainings import device_of
from limbeck.probes import measure
from limbeck.run.optim import suggested_learning_rate
from limbeck.run.run import Plan, Run
from limbeck.run.world import alone
from limbeck.teachers import HiddenStates, NumberedRows, capture

# A factor of the rate of training. MiniChat's 2e-5 is a fifteenth of MiniMA's 3e-4, too little for so short a tuning.
_RATE = 0.3
_MODULES = "modules.npy"
_TOGETHER = 4096  # tokens of a teacher's forward pass


@dataclass(frozen=True)
class TuningPlan:
    """The tuning of one model. ``start`` is its folder within the recipe's, ``lr_factor`` a factor of the usual rate.

    ``teacher`` names a tuning whose model gives the targets of an ``objective`` that needs some. Without ``tokens`` the model is
    only measured, with ``questions`` held-out questions to answer.
    """

    name: str
    start: str
    seed: int
    tokens: int
    questions: int
    lr_factor: float = 1.0
    objective: str = "CrossEntropy"
    teacher: str | None = None


class _Kept(TypedDict):
    """The plan of a tuning and its result."""

    plan: NotRequired[Any]
    loss: float | None
    failed: NotRequired[str]
    cpu_seconds: float
    files: dict[str, str]


@dataclass(frozen=True)
class Tunings:
    """The tunings of a recipe, in ``tuning`` of its folder ``out``. A row has ``length`` tokens, a step ``batch_tokens``."""

    out: Path
    length: int
    batch_tokens: int
    device: str
    workers: int

    @property
    def folder(self) -> Path:
        """The folder of the text and of all tunings."""
        return self.out / "tuning"

    def do(self, plans: Sequence[TuningPlan]) -> None:
        """Tunes and measures these models, those that teach others first. Raises NonFiniteLoss if a training diverged."""
        self.run(plans)
        for plan in plans:
            if failed := self.result(plan).get("failed"):
                raise NonFiniteLoss(f"{self.folder / plan.name}: {failed}")

    def run(self, plans: Sequence[TuningPlan]) -> None:
        """As `do`, where a training that diverged is a result too. Each teacher must be among the plans or be done."""
        tasks = {plan: self._task(plan) for plan in plans}
        for plan, task in tasks.items():
            if task.done:
                self.result(plan)
        left = {plan: task for plan, task in tasks.items() if not task.done}
        taught = {plan.teacher: plan.tokens for plan in left if plan.teacher and _needs_teacher(plan)}
        captures = [self._captured(name, tokens) for name, tokens in taught.items()]
        todo = [*left.values(), *(task for task in captures if not task.done)]
        run_here(todo, self.workers, progress(len(todo)))

    def result(self, plan: TuningPlan) -> dict[str, Any]:
        """The result of a tuning. Raises BadFolder if the folder has another one of this name."""
        found = result_of(self.folder / plan.name, _Kept)
        if found.get("plan") != asdict(plan):
            raise BadFolder(
                f"{self.folder / plan.name}: expected the tuning {asdict(plan)}, got {found.get('plan')}, made by another "
                "version: remove the folder, or give another --out"
            )
        return found

    def answers(self, plan: TuningPlan) -> Float[np.ndarray, "modules 2"]:
        """Nats and tokens of the library's answers about each held-out module."""
        return self._modules(plan)[:, :2]

    def checks(self, plan: TuningPlan) -> Float[np.ndarray, "modules 2"]:
        """How many checks the model's own answers about each held-out module passed, of how many."""
        return self._modules(plan)[:, 2:]

    def rates(self, kinds: Mapping[str, TuningPlan], factors: Sequence[float]) -> BestRates:
        """The factor of the usual rate with which each kind has the lowest held-out loss, as `TrainedLadder.rates`."""
        return best_factors(kinds, factors, run=self.run, loss=lambda plan: self.result(plan)["loss"])

    def tokens_read(self, tokens: int) -> int:
        """The number of tokens of a tuning of ``tokens``, in whole steps, questions included."""
        return _steps(self, tokens) * _rows(self) * self.length

    def cpu_seconds(self) -> float:
        """CPU seconds of all tunings, over all starts."""
        return math.fsum(result_of(file.parent, _Kept)["cpu_seconds"] for file in self.folder.glob(f"*/{RESULT}"))

    def tidy(self) -> None:
        """Removes the teachers' hidden states, which are large and not needed any more."""
        shutil.rmtree(self.folder / "answers", ignore_errors=True)

    def by_module(self, documents: Float[np.ndarray, "documents n"]) -> Float[np.ndarray, "modules n"]:
        """Sums of held-out conversations about one module, which are not independent samples."""
        modules = [row["module"] for row in held_out_conversations(self.folder)]
        return sums_by_module(modules, lines_of(_store(self, "held_out")), documents)

    def _modules(self, plan: TuningPlan) -> Float[np.ndarray, "modules 4"]:
        self.result(plan)  # verifies the checksum
        return np.load(self.folder / plan.name / _MODULES, allow_pickle=False)

    def _task(self, plan: TuningPlan) -> Task:
        needs = (
            (self.folder / plan.teacher, _states(self, plan.teacher)) if _needs_teacher(plan) and plan.teacher else ()
        )
        return Task(self.folder / plan.name, "tuning", plan.name, TuningWork(self, plan), needs)

    def _captured(self, teacher: str, tokens: int) -> Task:
        folder = _states(self, teacher)
        return Task(folder, "answers", teacher, CaptureWork(self, teacher, tokens), (self.folder / teacher,))


def tunings(context: RecipeContext, *, length: int, batch_tokens: int, modules: int | None) -> Tunings:
    """The tunings of a recipe whose ladder is trained, with the instructions of ``modules`` modules (None: all) as tokens."""
    found = Tunings(context.out, length, batch_tokens, device_of(context), context.workers)
    write_conversations(found.folder, _tokenizer(found), modules=modules)
    return found


@dataclass(frozen=True)
class TuningWork:
    """Trains and measures one model. A training whose loss is not finite is a result too, with the reason."""

    tunings: Tunings
    plan: TuningPlan

    def __call__(self) -> dict[str, Any]:
        """The plan, the held-out loss, and the checksum of the sums by module."""
        folder = self.tunings.folder / self.plan.name
        plan = asdict(self.plan)
        try:
            model = self._trained(folder)
        except NonFiniteLoss as error:
            return {"plan": plan, "loss": None, "failed": str(error), "files": {}}
        save(model, folder / "student")
        by_module = self._measured(model)
        with replacing(folder / _MODULES) as beside, beside.open("wb") as file:
            np.save(file, by_module)
        nats, tokens, *_ = by_module.sum(0)
        return {"plan": plan, **finite({"loss": float(nats / tokens)}), "files": sums(folder, [_MODULES])}

    @cached_property
    def _machine(self) -> Environment:
        torch.set_flush_denormal(True)
        cuda = self.tunings.device.startswith("cuda")
        tf32 = cuda and Pilot.read(self.tunings.out / "trainings").tf32  # as the ladder
        return Environment(alone(self.tunings.device), bf16=cuda, tf32=tf32)

    def _trained(self, folder: Path) -> LanguageModel:
        plan, its = self.plan, self.tunings
        model = load(its.out / plan.start, device="cpu", train=True)
        model.tokenizer = _tokenizer(its)
        model.model.to(self._machine.world.device)
        if not plan.tokens:
            return model
        store = _store(its, "train")
        lr = _RATE * plan.lr_factor * suggested_learning_rate(model.parameters_count)
        machine = self._machine
        how = Plan(steps=_steps(its, plan.tokens), rows=_rows(its), lr=lr, bf16=machine.bf16, tf32=machine.tf32)
        most = None if plan.teacher is None else _most(its, plan.tokens)  # the rows with captured states
        corpus = Rows(store, length=its.length, seed=plan.seed, most=most)
        teacher = None
        if _needs_teacher(plan):
            assert plan.teacher is not None, plan.objective
            teacher = HiddenStates(_states(its, plan.teacher), expect=_made_from(its, plan.teacher, store, plan.tokens))
        objective = ObjectiveSpec.of(plan.objective).make()
        Run(folder, f"tune {plan.name}", model, teacher, corpus, objective, how, self._machine.world).train()
        return model

    def _measured(self, model: LanguageModel) -> Float[np.ndarray, "modules 4"]:
        model.model.eval()
        store = _store(self.tunings, "held_out")
        text = held_out_of(self.tunings, self._machine)
        measured = measure(model, None, text.batches(), documents=store.documents)
        rows = held_out_conversations(self.tunings.folder)
        asked = chosen_questions(rows, self.plan.questions)
        passed = checks_passed(model, [rows[line] for line in asked])
        likelihood = self.tunings.by_module(np.stack([measured.nats, measured.tokens], -1))
        return np.concatenate([likelihood, sums_by_module([row["module"] for row in rows], asked, passed)], axis=1)


@dataclass(frozen=True)
class CaptureWork:
    """Captures the hidden states of a tuned teacher, of the rows that its students read."""

    tunings: Tunings
    teacher: str
    tokens: int

    def __call__(self) -> dict[str, Any]:
        """The number of captured rows."""
        its, store = self.tunings, _store(self.tunings, "train")
        torch.set_flush_denormal(True)
        device = alone(its.device).device
        teacher = load(its.folder / self.teacher / "student", device=device)
        rows = Rows(store, length=its.length, most=_most(its, self.tokens))
        read = NumberedRows(
            lambda numbers: rows.rows_of(numbers).to(device), rows.length, rows.n_rows, max(1, _TOGETHER // rows.length)
        )
        made_from = _made_from(its, self.teacher, store, self.tokens)
        capture(teacher, read, _states(its, self.teacher), made_from=made_from)
        return {"rows": rows.n_rows, "loss": None, "files": {}}


def held_out_of(its: Tunings, machine: Environment) -> HeldOut:
    """The rows of held-out conversations that tuned models are measured on."""
    return HeldOut(_store(its, "held_out"), length=its.length, environment=machine)


def _needs_teacher(plan: TuningPlan) -> bool:
    return bool(plan.tokens) and ObjectiveSpec.of(plan.objective).make().needs_teacher


def _states(its: Tunings, teacher: str) -> Path:
    return its.folder / "answers" / teacher


def _store(its: Tunings, side: str) -> TokenStore:
    return store_of(its.folder, side)


def _tokenizer(its: Tunings) -> PreTrainedTokenizerFast:
    return chat_tokenizer(its.out / "trainings" / "tokenizer")


def _made_from(its: Tunings, teacher: str, store: TokenStore, tokens: int) -> dict[str, Any]:
    weights = sha256_of(its.folder / teacher / "student" / "model.safetensors")
    corpus = store.manifest["corpus_sha256"]
    return {"teacher": weights, "corpus": corpus, "length": its.length, "rows": _most(its, tokens)} | packed_as(store)


def _rows(its: Tunings) -> int:
    return max(1, its.batch_tokens // its.length)


def _steps(its: Tunings, tokens: int) -> int:
    return max(1, tokens // (_rows(its) * its.length))


def _most(its: Tunings, tokens: int) -> int:
    """The number of rows that a tuning reads: all of them have states of the teacher."""
    return max(1, tokens // its.length)
