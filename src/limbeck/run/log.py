"""The progress of a run: rows of metrics.jsonl, and a bar on a terminal or a line every twenty seconds in a log."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

import psutil
import torch
from rich.console import RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from limbeck.disk import Count, json_line, open_in_place, read_lines, write_lines, writing
from limbeck.terminal import Terminal

console = Terminal(stderr=True, soft_wrap=True)
_LINE_EVERY = 20.0  # seconds between lines without a terminal


_most_rss = 0.0


def peak_rss_gib() -> float:
    """The largest resident memory of this process so far, GiB; or the largest that this function has seen.

    Not all systems record it, and `probes.cost` resets the record, so it is stored here too.
    """
    global _most_rss
    held = float(psutil.Process().memory_info().rss) / 2**30
    marks = [int(line.split()[1]) / 2**20 for line in _status() if line.startswith("VmHWM:")]
    _most_rss = max(_most_rss, held, *marks)
    return _most_rss


def peak_gib(device: torch.device) -> float:
    """Peak memory so far on the models' device, GiB: of this process, or of a GPU by torch's allocator."""
    return torch.cuda.max_memory_reserved(device) / 2**30 if device.type == "cuda" else peak_rss_gib()


def _status() -> list[str]:
    try:
        return Path("/proc/self/status").read_text().splitlines()
    except OSError:  # not Linux
        return []


class _Row(TypedDict):
    """Fields of every row of metrics.jsonl, beside the losses."""

    step: Count
    tokens: Count


class Metrics:
    """metrics.jsonl: one row per step. Opening it at a step drops later rows of a killed run."""

    def __init__(self, path: Path, *, step: int) -> None:
        remedy = "remove it, and the rows of the steps before are lost"
        write_lines(path, [row for row in read_lines(path, _Row, remedy=remedy) if row["step"] <= step])
        self._path, self._file = path, open_in_place(path)
        self._file.seek(0, os.SEEK_END)

    def add(self, row: dict[str, float | int]) -> None:
        """Appends a row."""
        with writing(self._path):
            self._file.write(json_line(row).encode())
            self._file.flush()

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        with writing(self._path):
            self._file.close()


def clock(seconds: float) -> str:
    """h:mm:ss."""
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _left(seconds: float, after: float) -> str:
    """Time left of this training, and of the whole run if ``after`` seconds of it follow."""
    return f"{clock(seconds)} left" + (f", whole run {clock(seconds + after)}" if after else "")


class _TimeLeft(ProgressColumn):
    """Time left at the speed of the last steps."""

    def __init__(self, after: float) -> None:
        super().__init__()
        self._after = after

    def render(self, task: Task) -> Text:
        left = task.time_remaining
        return Text("-:--:--" if left is None else _left(left, self._after))


class Line:
    """Reports steps as lines, at most one in twenty seconds, for logs and pipes."""

    def __init__(self, label: str, steps: int, loss: tuple[str, str], after: float) -> None:
        self._loss, self._after = loss, after
        self._label, self._steps, self._last, self._start, self._done = label, steps, 0.0, time.monotonic(), 0

    def step(self, step: int, loss: float, tokens_per_s: float) -> None:
        """Prints a line if the last one is old enough, and after the last step."""
        now = time.monotonic()
        self._done += 1
        if now - self._last >= _LINE_EVERY or step == self._steps:
            self._last = now
            left = (now - self._start) / self._done * (self._steps - step)
            what, unit = self._loss
            console.print(
                f"{self._label:<16} step {step:>6}/{self._steps}  {what} {loss:7.4f} {unit}  "
                f"{tokens_per_s:>9,.0f} tokens/s  {_left(left, self._after)}"
            )


class _TwoLines(Progress):
    """The label and the loss above the bar: beside it they would not fit into 80 columns with the time left."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """The lines of each training."""
        for task in self.tasks:
            yield Text(f"{task.description}{task.fields['loss']}")
        yield self.make_tasks_table(self.tasks)


class Bar:
    """Reports steps as a progress bar."""

    def __init__(self, progress: Progress, label: str, steps: int, done: int, loss: tuple[str, str]) -> None:
        self._progress, self._loss = progress, loss
        self._task = progress.add_task(label, total=steps, completed=done, loss="", rate="")

    def step(self, step: int, loss: float, tokens_per_s: float) -> None:
        """Moves the bar."""
        what, unit = self._loss
        text, rate = f": {what} {loss:.4f} {unit}", f"{tokens_per_s:,.0f} tokens/s"
        self._progress.update(self._task, completed=step, loss=text, rate=rate)


@contextmanager
def progress(
    label: str,
    steps: int,
    *,
    done: int,
    shown: bool,
    loss: tuple[str, str] = ("training loss", "nats/token"),
    after: float = 0.0,
) -> Iterator[Bar | Line | None]:
    """A reporter for a run of ``steps``, of which ``done`` are done; None for a silent rank (not ``shown``).

    ``loss``: name and unit of what is minimised. ``after``: expected seconds of the rest of the whole run after this training.
    """
    if not shown:
        yield None
    elif not console.is_terminal:
        yield Line(label, steps, loss, after)
    else:
        columns = (
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            TextColumn("step {task.completed}/{task.total}"),
            TextColumn("{task.fields[rate]}"),
            _TimeLeft(after),
        )
        with _TwoLines(*columns, console=console, transient=True, expand=True) as bars:
            yield Bar(bars, label, steps, done, loss)
