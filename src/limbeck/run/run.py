"""A training run: a student, a teacher, a corpus, an objective and a plan, with checkpoints in a folder.

A stopped run continues in the same folder: the train state is in its checkpoints, and metrics after the last checkpoint are
written again. On a CPU the final weights have the same bits, whether the run was stopped or not.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from limbeck.config.defaults import BETAS, SAVE_MINUTES, SAVE_STEPS, WARMUP, WEIGHT_DECAY
from limbeck.disk import writing
from limbeck.errors import BadFolder, BadSetting, Interrupted, NonFiniteLoss
from limbeck.host import queues
from limbeck.models.checkpointing import can_checkpoint, checkpoint_layers
from limbeck.models.formats import set_format, slow_parameters
from limbeck.models.language_model import LanguageModel
from limbeck.objectives.base import Objective
from limbeck.planning.checks.pair import PlannedRun
from limbeck.planning.cost.fitting import Checkpointing
from limbeck.planning.cost.memory import Format, Optimizer
from limbeck.products import tf32_products
from limbeck.run.average import Averaging, WeightAverage
from limbeck.run.behind import Behind, Done
from limbeck.run.log import Metrics, console, peak_rss_gib, progress
from limbeck.run.mesh import Mesh
from limbeck.run.micro import MicroBatch, micro_batches, micro_rows
from limbeck.run.moment import Moment
from limbeck.run.optim import SLOWEST, Schedule, adamw, set_rates
from limbeck.run.save import (
    TrainState,
    checkpoints,
    drop_best,
    load_best,
    load_checkpoint,
    save_best,
    trained_weights,
)
from limbeck.run.saver import Saver, saving
from limbeck.run.selection import Rule, Selection
from limbeck.run.step import LossTerm, Step, train_step
from limbeck.run.too_much import what_would_fit
from limbeck.run.trackers.tracker import Tracked, of_row, tracking
from limbeck.run.watch import Watch
from limbeck.run.world import meeting
from limbeck.types import ChunkTeacher, Corpus, Teacher

Row = dict[str, float | int]


@dataclass(frozen=True)
class Plan:
    """The settings of a run. ``rows`` is the global batch of one optimiser step, over all micro-batches and ranks.

    ``lr`` is the peak learning rate, reached after ``warmup`` (`optim.learning_rate`), ``max_norm`` the gradient norm above which
    gradients are clipped, ``betas`` are AdamW's, ``bf16`` is mixed precision (bfloat16 autocast), ``tf32`` computes products of
    float32 in the layers of a step in TF32, where the device has it; what is measured never does. A checkpoint is saved every
    ``save_every`` steps, and ``save_minutes`` after the last one at the latest. ``micro`` rows are computed at once on a rank,
    None for as many as are usual there; fewer where memory runs out. ``checkpointing`` "layers" computes layers twice instead of
    keeping their activations, "auto" does so once a single row is too much otherwise. ``average`` says how the weights are
    averaged, as in "ema:0.999" (`average.Averaging`); "" for not. ``optimizer`` is the kind
    of `optim.adamw`; ``weights`` "bfloat16" trains matrices in that format, without a copy in float32.
    """

    steps: int
    rows: int
    lr: float
    schedule: Schedule = "wsd"
    weight_decay: float = WEIGHT_DECAY
    max_norm: float = 1.0
    bf16: bool = False
    tf32: bool = False
    save_every: int = SAVE_STEPS
    save_minutes: float = SAVE_MINUTES
    warmup: float = WARMUP
    betas: tuple[float, float] = BETAS
    micro: int | None = None
    checkpointing: Checkpointing = "auto"
    average: str = ""
    optimizer: Optimizer = "adamw"
    weights: Format = "float32"


@dataclass
class Run:
    """Trains ``student`` in place on the rows of ``corpus``, with checkpoints and metrics in ``folder``.

    ``update`` performs one optimiser step, with the signature of `train_step`; ``unit`` is the unit of its loss. ``after`` is the
    expected time in seconds of the rest of the whole run after this training, for progress lines only. ``watch``: held-out text
    that is measured during the training, None for none. ``rule``: what follows from those measurements, None for nothing;
    ranks that do not measure have it too. ``tracked``: how a tracker shows the training, None for no tracker. ``background``:
    whether checkpoints are written while the training goes on, from a copy in host memory; None for where weights are on a GPU.
    ``facts``: asked after each step for more columns of its row of metrics.jsonl, sums that are summed over the ranks too;
    ``row_tokens`` and ``rollout_tokens`` among them, read and generated, are the tokens of the step in the place of those with
    weight.
    """

    folder: Path
    label: str
    student: LanguageModel
    teacher: Teacher | ChunkTeacher | None
    corpus: Corpus
    objective: Objective
    plan: Plan
    world: Mesh
    update: Callable[..., Step] = train_step
    unit: str = "nats"
    after: float = 0.0
    watch: Watch | None = None
    rule: Rule | None = None
    tracked: Tracked | None = None
    background: bool | None = None
    facts: Callable[[], Mapping[str, float]] = dict
    done: int = field(default=0, init=False)  # steps
    complete: bool = field(default=False, init=False)  # whether all steps are done, or as many as the rule allows
    selection: Selection | None = field(default=None, init=False)
    _micro: MicroBatch = field(init=False, repr=False)
    _checkpointed: bool = field(init=False, repr=False, default=False)

    def __post_init__(self) -> None:
        rows = self.plan.micro or micro_rows(self.corpus.length, self.world.device)
        self._micro = MicroBatch(rows, together=self.world.sharded, spare=self._spare, remedy=self._what_would_fit)

    def train(self) -> None:
        """Runs the remaining steps.

        Raises Interrupted after SIGINT or SIGTERM, when the current step is finished and saved; NonFiniteLoss, with the step and
        its documents; OutOfMemory if a single row does not fit; BadFolder for a damaged checkpoint or a full disk;
        OtherRankStopped if another process of the run ended.
        """
        with signals() as caught:
            *_, done = self.steps(caught)
        if not self.complete:
            raise self.interrupted(done, caught)

    def steps(self, caught: Sequence[int], *, label: str | None = None) -> Iterator[int]:
        """Runs one step for each iteration; yields the number of finished steps, first that of the last checkpoint.

        Saves and ends early once a signal was ``caught`` on this rank or another. ``label`` replaces the run's label in the
        progress bar; "" is no bar. Raises as `train`, except Interrupted.
        """
        if self.world.first:
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
        self.world.barrier()
        optimizer = self._begin()
        average = self._average()
        train_state = TrainState(self.student.model, optimizer, self.objective, average)
        self.selection = selection = Selection(self.rule)
        step, tokens = self._resume(train_state)
        label = self.label if label is None else label
        with (
            Metrics(self.folder / "metrics.jsonl", step=step) if self.world.first else nullcontext() as metrics,
            progress(
                label,
                self.plan.steps,
                done=step,
                shown=self.world.first and bool(label),
                loss=self._loss,
                after=self.after,
            ) as reporter,
            self._tracking(step) as track,
            self._watching(step, average, track) as watched,
            saving(self.folder, self.world, background=self._background) as saver,
        ):
            if step == 0:
                self._select(watched(0, 0), 0, average)

            def read(done: Done, rate: float) -> None:
                if metrics:
                    row = {**_row(done.step, done.tokens, done.report, done.lr, rate, unit=self.unit), **done.facts}
                    metrics.add(row)
                    track(done.step, of_row(row, "train"))
                if reporter:
                    reporter.step(done.step, done.report.loss, rate)

            behind = Behind(
                read, lambda done, issued: self._explained(done.step, self.plan.rows, done.position, issued)
            )
            yield step
            saved = time.monotonic()
            while step < self.plan.steps and not selection.over:
                begun = Moment.of(self.world.device)
                lr = self._set_learning_rate(optimizer, step)
                report = self._step(step, optimizer, self.plan.rows)
                step += 1
                if average:
                    average.update(step)
                ended, facts = Moment.of(self.world.device), self._counts()
                own = _tokens(report, facts)
                tokens += own
                behind.add(Done(step, tokens, report, lr, begun, ended, self.corpus.state_dict(), facts, own))
                if self._measures(step):
                    behind.finish()
                self._select(watched(step, tokens), step, average)
                late = self.world.first and time.monotonic() - saved > 60 * self.plan.save_minutes
                stop, due, failed = self.world.any(bool(caught), late, saver.failed)
                if failed:
                    saver.finish()
                last = step == self.plan.steps or selection.over
                if stop or due or step % self.plan.save_every == 0 or last:
                    behind.finish()
                    self._save(step, tokens, train_state, saver)
                    saved = time.monotonic()
                yield step
                if stop:
                    break
            saver.finish()
            self.done, self.complete = step, step == self.plan.steps or selection.over
        if self.complete:
            self._checkpoint(False)
            if self.plan.weights == "bfloat16" and not self.world.sharded:  # whose gathered copy has it
                set_format(self.student.model, torch.float32)  # as the saved model is loaded
            self._conclude(average)

    def _counts(self) -> dict[str, float]:
        """The facts of a step, over all ranks. Counts stay whole numbers."""
        found = {name: (value, self.world.sum(float(value))) for name, value in self.facts().items()}
        return {name: round(total) if isinstance(own, int) else total for name, (own, total) in found.items()}

    def _measures(self, step: int) -> bool:
        """Whether held-out text is measured after a step, here or on another rank."""
        watched = self.watch is not None and step in self.watch.steps
        return watched or (self.rule is not None and self.rule.at(step, self.plan.steps))

    @property
    def _background(self) -> bool:
        return self.world.device.type == "cuda" if self.background is None else self.background

    def _average(self) -> WeightAverage | None:
        """The average of the weights that the plan asks for, before the first step."""
        how = self.plan.average
        return WeightAverage(self.student.model, Averaging.of(how), self.plan.steps) if how else None

    def _select(self, row: Row | None, step: int, average: WeightAverage | None) -> None:
        """Takes in what was measured after a step, the same on all ranks; keeps the weights of the lowest loss so far."""
        if self.rule is None or self.selection is None or not self.rule.at(step, self.plan.steps):
            return
        better = self.world.first and row is not None and self.selection.see(step, row)
        ends = self.world.first and self.selection.impatient, self.world.first and bool(self.selection.stopped_by)
        better, impatient, stopped = self.world.any(better, *ends)
        if not self.world.first:
            self.selection.follow(step, better=better, impatient=impatient, stopped=stopped)
        if stopped and step == 0:
            raise BadSetting(
                f"--stop-when: before the first step of {self.label} {self.selection.stopped_by}, so the training would end at "
                "once: give a limit that its start is within, or train the student on a text first"
            )
        if better:
            with average.weights() if average else nullcontext():
                whole = self.world.gathered(self.student)
                if self.world.first and whole is not None:
                    trained = {name for name, _ in trained_weights(self.student.model)}
                    kept = {name: p.detach() for name, p in whole.model.named_parameters() if name in trained}
                    save_best(self.folder, step, kept)
                self.world.barrier()

    def _conclude(self, average: WeightAverage | None) -> None:
        """Leaves the student with the weights that the training was for."""
        if self.rule is not None and self.rule.best and self.selection is not None and self.selection.step is not None:
            self.restore_best()
        elif average:
            average.apply()
        self.student.model.eval()

    def restore_best(self) -> None:
        """Gives the student the weights of the lowest held-out loss. Raises BadFolder where they are missing or damaged."""
        assert self.selection is not None
        assert self.selection.step is not None
        self.world.barrier()
        load_best(self.folder, self.selection.step, self.student.model, mesh=self.world)

    def _tracking(self, step: int) -> AbstractContextManager[Callable[[int, Mapping[str, float]], None]]:
        """The tracker of this training, on rank 0."""
        return tracking(self.tracked if self.world.first else None, step, lambda: self.complete)

    @contextmanager
    def _watching(
        self, step: int, average: WeightAverage | None, track: Callable[[int, Mapping[str, float]], None]
    ) -> Iterator[Callable[[int, int], Row | None]]:
        """The function to call after each step: it measures after the watched steps, on rank 0 into held_out.jsonl."""
        watch = self.watch
        if watch is None:
            yield lambda step, tokens: None
            return
        file = self.folder / "held_out.jsonl"
        with Metrics(file, step=step or -1) if self.world.first else nullcontext() as kept:

            def after(step: int, tokens: int) -> Row | None:
                if step not in watch.steps:
                    return None
                with average.weights() if average else nullcontext():
                    row = watch.row(self.student, step, tokens, bf16=self.plan.bf16)
                if kept:
                    kept.add(row)
                track(step, of_row(row, "held_out"))
                return row

            yield after

    @property
    def _loss(self) -> tuple[str, str]:
        """Name and unit of the training loss, for progress lines."""
        if self.unit != "nats":
            return "training error", self.unit
        return f"training {self.objective.short}", "a pair" if self.objective.compares_pairs else self.objective.per

    def interrupted(self, done: int, caught: Sequence[int]) -> Interrupted:
        """The error for a run that a signal ended after ``done`` steps."""
        number = caught[0] if caught else signal.SIGTERM  # the signal came to another rank
        return Interrupted(
            f"stopped by {signal.Signals(number).name} after step {done} of {self.plan.steps}, which is saved: "
            "run the same command again to continue",
            number,
        )

    def measure(self, seconds: float) -> float:
        """The seconds of one step, measured on real steps for about ``seconds``, at least one, after one for warm-up.

        A step that takes longer is measured on fewer of its micro-batches. Nothing is saved, but student, objective and corpus
        change, so the run must not be trained afterwards. Raises as `train`.
        """
        optimizer = self._begin()
        self._set_learning_rate(optimizer, 0)
        rows = min(self._micro.rows * self.world.size, self.plan.rows)
        self._timed(optimizer, rows)
        first = self._timed(optimizer, rows)
        fitting = int(self.world.sum(seconds / 3 / first) / self.world.size)
        more = min(self.plan.rows, rows * max(1, fitting))
        spent, steps = (first, 1) if more == rows else (0.0, 0)
        while steps == 0 or any(self.world.any(spent < seconds)):
            spent, steps = spent + self._timed(optimizer, more), steps + 1
        return spent / steps * self.plan.rows / more

    def _timed(self, optimizer: torch.optim.Optimizer, rows: int) -> float:
        begun = Moment.of(self.world.device)
        report = self._step(0, optimizer, rows)
        ended = Moment.of(self.world.device)
        with self._explained(1, rows):
            _ = report.loss  # waits for the device
        return ended.since(begun)

    def _spare(self) -> bool:
        """Switches gradient checkpointing on where that is left to memory; gives whether it did."""
        if self._checkpointed or self.plan.checkpointing != "auto" or not can_checkpoint(self.student.model):
            return False
        self._checkpoint(True)
        console.print("note: memory ran out with one sequence at once; from here on layers are computed twice")
        return True

    def _what_would_fit(self) -> str:
        """What a user can do where one sequence at a time needs too much memory."""
        plan, length = self.plan, self.corpus.length
        run = PlannedRun(
            length=length,
            tokens=plan.steps * plan.rows * length,
            batch_tokens=max(1, plan.rows // self.world.size) * length,
            dtype=torch.bfloat16 if plan.bf16 else torch.float32,
            device=self.world.device,
            averaged=bool(plan.average),
            micro=plan.micro,
            checkpointing=plan.checkpointing,
            optimizer=plan.optimizer,
            weights=plan.weights,
        )
        return what_would_fit(run, self.student, self.teacher, checkpointed=self._checkpointed)

    def _checkpoint(self, on: bool) -> None:
        checkpoint_layers(self.student.model, on)
        self._checkpointed = on

    def _begin(self) -> torch.optim.Optimizer:
        """Prepares student and objective for training; gives the optimiser."""
        self.student.model.train()
        if self.world.sharded and self.plan.optimizer == "adamw-8bit":
            raise BadSetting(
                f"--optimizer {self.plan.optimizer}: expected one that trains sharded weights; torchao's 8 bits are in blocks of "
                "each process's part, which another number of processes could not continue: use adamw-bf16, or --mesh replicate"
            )
        if self.plan.checkpointing == "layers" and not can_checkpoint(self.student.model):
            raise BadSetting(
                f"--checkpointing layers: Transformers cannot compute the layers of a {self.student.config.model_type} model "
                "twice; use --checkpointing none, and a smaller --micro-batch or --seq-len where memory is short"
            )
        self._checkpoint(self._checkpointed or self.plan.checkpointing == "layers")
        if self.plan.weights == "bfloat16" and not self.world.sharded:  # which are sharded in it
            set_format(self.student.model, torch.bfloat16)
        self.objective.begin(self.plan.steps)
        self.objective.restore_settled({})
        self.objective.to(self.world.device)
        trained = self.student.model, self.objective.parameters()
        return adamw(*trained, weight_decay=self.plan.weight_decay, betas=self.plan.betas, kind=self.plan.optimizer)

    def _resume(self, train_state: TrainState) -> tuple[int, int]:
        """(steps, tokens) already done. Raises BadFolder for a checkpoint that is damaged or of an incompatible version."""
        saved = checkpoints(self.folder)
        if not saved:
            return 0, 0
        state = load_checkpoint(saved[-1], train_state, mesh=self.world)
        if slow_parameters(self.student.model) and "slowest" not in state:  # its parameter groups were different
            raise BadFolder(
                f"{saved[-1]}: this run began with an older limbeck that did not limit the learning rate of state-space "
                f"parameters to {SLOWEST:g}, so it cannot be continued exactly: start it again in another --out"
            )
        fitted = state.get("micro_batch", {})
        if fitted.get("asked") == self._micro.asked:
            self._micro.rows = max(1, fitted["rows"])
            self._checkpoint(self._checkpointed or bool(fitted.get("checkpointed")))
        self.corpus.load_state_dict(state["corpus"])
        if queues(self.world.device):  # elsewhere each block is looked at, which costs nothing
            self.objective.restore_settled(state.get("settled", {}))
        if self.selection is not None and "selection" in state:
            self.selection.restore(state["selection"])
        return state["step"], state["tokens"]

    def _save(self, step: int, tokens: int, moving: TrainState, saver: Saver) -> None:
        state = {"tokens": tokens, "corpus": self.corpus.state_dict()}
        state |= {"settled": self.objective.settled()} if queues(self.world.device) else {}
        state |= {"slowest": SLOWEST} if slow_parameters(self.student.model) else {}
        spared = self._checkpointed and self.plan.checkpointing == "auto"
        if self._micro.rows < self._micro.asked or spared:  # so that a run which continues computes in the same way
            fitted = {"asked": self._micro.asked, "rows": self._micro.rows}
            state["micro_batch"] = fitted | ({"checkpointed": 1} if spared else {})
        if self.rule is not None and self.selection is not None:
            state["selection"] = self.selection.state()
        best = self.selection.step if self.selection else None
        saver.save(step, moving.tensors(), state, then=lambda: drop_best(self.folder, but=best, until=step))

    def _set_learning_rate(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        plan = self.plan
        return set_rates(optimizer, step, steps=plan.steps, peak=plan.lr, schedule=plan.schedule, warmup=plan.warmup)

    def _step(self, step: int, optimizer: torch.optim.Optimizer, count: int) -> Step:
        # Dropout, if a model has it, is seeded by the step and the rank, so that a resumed run has the same random numbers.
        torch.manual_seed((self.corpus.seed * (self.plan.steps + 1) + step) * self.world.size + self.world.rank)
        rows = self.corpus.take(count)
        rows = self.world.even(rows, -(-count // self.world.size))
        terms = [
            LossTerm(b, self.objective, self.teacher) for b in micro_batches(rows, self.world.device, self._micro.rows)
        ]
        before = self._micro.rows
        with (
            self._explained(step + 1, count),
            meeting(),
            tf32_products() if self.plan.tf32 else nullcontext(),
            torch.autocast(self.world.device.type, dtype=torch.bfloat16, enabled=self.plan.bf16),
        ):
            found = self.update(
                *(self.student, terms, optimizer), mesh=self.world, max_norm=self.plan.max_norm, micro=self._micro
            )
        if self._micro.rows < before:
            console.print(
                f"note: memory ran out with {before} sequences at once; from here on it is {self._micro.rows}, which changes "
                "results by rounding only"
            )
        return found

    @contextmanager
    def _explained(
        self, step: int, count: int, position: dict[str, Any] | None = None, issued: int = 0
    ) -> Iterator[None]:
        """Says of a NonFiniteLoss which step it is, and its documents: the last ``count`` rows at a position of the corpus.

        ``issued``: the step that was computed last, where that is a later one.
        """
        try:
            yield
        except NonFiniteLoss as error:
            if position is not None:
                self.corpus.load_state_dict(position)
            raise NonFiniteLoss(
                f"{self.label}: {error} at step {step} of {self.plan.steps}. {_updated(step, issued)} "
                f"The step's documents: {_first(self.corpus.documents(count))}. The last checkpoint is "
                f"{_last(self.folder)}. Check these documents, or lower --lr, and start again in another --out."
            ) from error


def _updated(step: int, issued: int) -> str:
    """What a step whose loss is not finite left of the weights, where ``issued`` steps were computed by then."""
    if issued <= step:
        return "The weights were not updated."
    return f"It updated nothing. Step {issued} was computed before this was known, and its update is not saved."


def _tokens(report: Step, facts: Mapping[str, float]) -> int:
    """The tokens of a step: those that were read and generated where its facts count them, else those with weight."""
    if "row_tokens" in facts:
        return round(facts["row_tokens"] + facts.get("rollout_tokens", 0))
    return round(report.tokens)


def _row(step: int, tokens: int, report: Step, lr: float, rate: float, *, unit: str) -> Row:
    return {
        "step": step,
        "tokens": tokens,
        f"loss_{unit}": report.loss,
        "lr": lr,
        "grad_norm": report.grad_norm,
        "tokens_per_s": round(rate, 1),
        "peak_rss_gib": round(peak_rss_gib(), 4),
    }


def _first(names: Sequence[str]) -> str:
    """The first twelve names, and how many more there are."""
    return ", ".join([*names[:12], *([f"and {len(names) - 12} more"] if len(names) > 12 else [])])


def _last(folder: Path) -> str:
    saved = checkpoints(folder)
    return str(saved[-1]) if saved else "none (no step was saved yet)"


@contextmanager
def signals() -> Iterator[list[int]]:
    """A list to which SIGINT and SIGTERM are appended, so that the current step can be finished.

    A second signal of the same kind acts at once. Outside the main thread, where Python delivers no signals, the list stays
    empty.
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
