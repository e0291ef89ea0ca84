"""A training run: a student, what it learns from, and how long.

The same folder continues where it stands: everything that moves is in its checkpoints, and the metrics after the last one
are written again. On a CPU the weights at the end are the same bits, killed or not.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch

from limbeck.corpora.pack import Rows
from limbeck.disk import writing
from limbeck.errors import BadFolder, Interrupted, NonFiniteLoss
from limbeck.models.language_model import LanguageModel
from limbeck.models.micro_batch import MICRO_TOKENS
from limbeck.objectives.base import Objective
from limbeck.run.log import Metrics, peak_rss_gib, progress
from limbeck.run.optim import SLOWEST, Schedule, adamw, set_rates, slow_parameters
from limbeck.run.save import TrainState, checkpoints, load_checkpoint, save_checkpoint
from limbeck.run.step import Step, train_step
from limbeck.run.world import World
from limbeck.types import Batch, ChunkTeacher, Teacher


@dataclass(frozen=True)
class Plan:
    """How a run is done. ``rows`` is the global batch of one optimiser step, over all micro-batches and ranks.

    It is saved every ``save_every`` steps, and at the latest ``save_minutes`` after the last time.
    """

    steps: int
    rows: int
    lr: float
    schedule: Schedule = "wsd"
    weight_decay: float = 0.01
    max_norm: float = 1.0
    bf16: bool = False
    save_every: int = 200
    save_minutes: float = 10.0


@dataclass
class Run:
    """Trains ``student`` in place on the rows of ``corpus``, keeping its state in ``folder``.

    ``update`` makes a step of what `train_step` is given; ``unit`` is that of its loss. ``after``: seconds
    that the rest of the whole run takes once this is done, for progress lines alone.
    """

    folder: Path
    label: str
    student: LanguageModel
    teacher: Teacher | ChunkTeacher | None
    corpus: Rows
    objective: Objective
    plan: Plan
    world: World
    update: Callable[..., Step] = train_step
    unit: str = "nats"
    after: float = 0.0

    def train(self) -> None:
        """Runs the steps that are left.

        Raises Interrupted after SIGINT or SIGTERM (the step in hand is finished and saved first), NonFiniteLoss naming the
        step and the documents.
        """
        with signals() as caught:
            *_, done = self.steps(caught)
        if done < self.plan.steps:
            raise self.interrupted(done, caught)

    def steps(self, caught: Sequence[int], *, label: str | None = None) -> Iterator[int]:
        """Runs one step a turn, and gives how many are done: first those of before, then after each.

        Ends before the last, all saved, once a signal was ``caught`` here or on another rank. ``label`` is what the progress
        bar says instead of the run's own, "" for no bar.
        """
        if self.world.first:
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
        self.world.barrier()
        optimizer = self._begin()
        moving = TrainState(self.student.model, optimizer, self.objective)
        step, tokens = self._resume(moving)
        label = self.label if label is None else label
        with (
            Metrics(self.folder / "metrics.jsonl", step=step) if self.world.first else nullcontext() as metrics,
            progress(
                label,
                self.plan.steps,
                done=step,
                speak=self.world.first and bool(label),
                loss=self._loss,
                after=self.after,
            ) as reporter,
        ):
            yield step
            saved = time.monotonic()
            while step < self.plan.steps:
                start = time.perf_counter()
                lr = self._set_learning_rate(optimizer, step)
                report = self._step(step, optimizer, self.plan.rows)
                step, tokens = step + 1, tokens + int(report.tokens)
                rate = report.tokens / (time.perf_counter() - start)
                if metrics:
                    metrics.add(_row(step, tokens, report, lr, rate, unit=self.unit))
                if reporter:
                    reporter.step(step, report.loss, rate)
                late = self.world.first and time.monotonic() - saved > 60 * self.plan.save_minutes
                stop, due = self.world.any(bool(caught), late)
                if stop or due or step % self.plan.save_every == 0 or step == self.plan.steps:
                    self._save(step, tokens, moving)
                    saved = time.monotonic()
                yield step
                if stop:
                    return
        self.student.model.eval()

    @property
    def _loss(self) -> tuple[str, str]:
        """Name and unit of the training loss, for progress lines."""
        return (
            (f"training {self.objective.short}", "nats/token") if self.unit == "nats" else ("training error", self.unit)
        )

    def interrupted(self, done: int, caught: Sequence[int]) -> Interrupted:
        """What to raise where a signal ended the run after so many steps."""
        number = caught[0] if caught else signal.SIGTERM  # another rank was told
        return Interrupted(
            f"stopped by {signal.Signals(number).name} after step {done} of {self.plan.steps}, which is saved: "
            "the same command continues from there",
            number,
        )

    def measure(self, seconds: float) -> float:
        """Seconds of one step, from real steps taken for ``seconds``: one at least, after one that warms up.

        A step that is too long for that is measured on fewer of its micro-batches. Nothing is saved, but student, objective
        and corpus move on: of a run that is measured nothing else should be wanted.
        """
        optimizer = self._begin()
        self._set_learning_rate(optimizer, 0)
        micro = micro_rows(self.corpus.length, self.world.device) * self.world.size
        rows = min(micro, self.plan.rows)
        self._timed(optimizer, rows)
        first = self._timed(optimizer, rows)
        fitting = int(self.world.sum(seconds / 3 / first) / self.world.size)
        rows = min(self.plan.rows, rows * max(1, fitting))
        spent, steps = 0.0, 0
        while steps == 0 or any(self.world.any(spent < seconds)):
            spent, steps = spent + self._timed(optimizer, rows), steps + 1
        return spent / steps * self.plan.rows / rows

    def _timed(self, optimizer: torch.optim.Optimizer, rows: int) -> float:
        start = time.perf_counter()
        self._step(0, optimizer, rows)
        return time.perf_counter() - start

    def _begin(self) -> torch.optim.Optimizer:
        """Student and objective made ready to learn."""
        self.student.model.train()
        self.objective.begin(self.plan.steps)
        self.objective.to(self.world.device)
        return adamw(self.student.model, self.objective.parameters(), weight_decay=self.plan.weight_decay)

    def _resume(self, moving: TrainState) -> tuple[int, int]:
        """(steps, tokens) already done."""
        saved = checkpoints(self.folder)
        if not saved:
            return 0, 0
        state = load_checkpoint(saved[-1], moving)
        if slow_parameters(self.student.model) and "slowest" not in state:  # their places in it were others
            raise BadFolder(
                f"{saved[-1]}: this run began with an older limbeck, in which the rate of state-space parameters was not kept "
                f"at {SLOWEST:g}, so it cannot be continued as it was: start it again in another --out"
            )
        self.corpus.load_state_dict(state["corpus"])
        return state["step"], state["tokens"]

    def _save(self, step: int, tokens: int, moving: TrainState) -> None:
        if self.world.first:
            state = {"tokens": tokens, "corpus": self.corpus.state_dict()}
            state |= {"slowest": SLOWEST} if slow_parameters(self.student.model) else {}
            save_checkpoint(self.folder, step, moving, state)
        self.world.barrier()

    def _set_learning_rate(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        return set_rates(optimizer, step, steps=self.plan.steps, peak=self.plan.lr, schedule=self.plan.schedule)

    def _step(self, step: int, optimizer: torch.optim.Optimizer, count: int) -> Step:
        # Dropout, where a model has it: drawn anew each step from what the step is, so that a resumed run, and each rank,
        # draws what it would have drawn.
        torch.manual_seed((self.corpus.seed * (self.plan.steps + 1) + step) * self.world.size + self.world.rank)
        rows = self.corpus.take(count)
        batches = list(micro_batches(rows, self.world.device))
        try:
            with torch.autocast(self.world.device.type, dtype=torch.bfloat16, enabled=self.plan.bf16):
                return self.update(
                    self.student,
                    self.teacher,
                    self.objective,
                    optimizer,
                    batches,
                    world=self.world,
                    max_norm=self.plan.max_norm,
                )
        except NonFiniteLoss as error:
            raise NonFiniteLoss(
                f"{self.label}: {error} at step {step + 1} of {self.plan.steps}. Nothing was updated. "
                f"Its documents: {', '.join(self._documents(self.corpus.taken(count)))}. The last good checkpoint is "
                f"{_last(self.folder)}. Look at these documents, or lower --lr, and start again in another --out."
            ) from error

    def _documents(self, rows: Batch) -> list[str]:
        found = rows.document[rows.weight > 0].unique().tolist()
        names = [self.corpus.store.name_of(i) for i in found[:12]]
        return names + ([f"and {len(found) - 12} more"] if len(found) > 12 else [])


def micro_batches(rows: Batch, device: torch.device) -> Iterator[Batch]:
    """The rows in pieces that fit, on their device."""
    count, length = rows.tokens.shape
    size = micro_rows(length, device)
    for start in range(0, count, size):
        yield rows.rows(slice(start, start + size)).to(device)


def micro_rows(length: int, device: torch.device) -> int:
    """How many rows of this length a micro-batch has."""
    return max(1, MICRO_TOKENS["cuda" if device.type == "cuda" else "cpu"] // length)


def _row(step: int, tokens: int, report: Step, lr: float, rate: float, *, unit: str) -> dict[str, float | int]:
    return {
        "step": step,
        "tokens": tokens,
        f"loss_{unit}": report.loss,
        "lr": lr,
        "grad_norm": report.grad_norm,
        "tokens_per_s": round(rate, 1),
        "peak_rss_gib": round(peak_rss_gib(), 4),
    }


def _last(folder: Path) -> str:
    saved = checkpoints(folder)
    return str(saved[-1]) if saved else "none (no step was saved yet)"


@contextmanager
def signals() -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM append to, so that a step is never cut in the middle.

    A second signal of the same kind acts at once, for who will not wait. Outside the main thread, where Python delivers no
    signals, nothing is caught.
    """
    if threading.current_thread() is not threading.main_thread():
        yield []
        return
    caught: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
