"""What a run says while it runs: rows of metrics.jsonl, and a progress bar (a line now and then where there is no screen)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

import psutil
import torch
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from limbeck.disk import Count, line_of, own_file, read_lines, write_lines, writing
from limbeck.terminal import Terminal

console = Terminal(stderr=True, soft_wrap=True)
_LINE_EVERY = 20.0  # seconds between lines where there is no screen


_most_rss = 0.0


def peak_rss_gib() -> float:
    """The most memory this process has held so far, GiB; where the system keeps no such mark, the most we saw.

    Remembered here too: whoever measures a peak of its own makes the system's mark start anew.
    """
    global _most_rss
    held = float(psutil.Process().memory_info().rss) / 2**30
    marks = [int(line.split()[1]) / 2**20 for line in _status() if line.startswith("VmHWM:")]
    _most_rss = max(_most_rss, held, *marks)
    return _most_rss


def peak_gib(device: torch.device) -> float:
    """The most memory held so far where the models are, GiB: of this process, or of a GPU by torch's allocator."""
    return torch.cuda.max_memory_reserved(device) / 2**30 if device.type == "cuda" else peak_rss_gib()


def _status() -> list[str]:
    try:
        return Path("/proc/self/status").read_text().splitlines()
    except OSError:  # not Linux
        return []


class _Row(TypedDict):
    """What each row of metrics.jsonl has; losses besides."""

    step: Count
    tokens: Count


class Metrics:
    """metrics.jsonl: a row a step. Opening it at a step drops the rows after it, which a kill left over."""

    def __init__(self, path: Path, *, step: int) -> None:
        remedy = "remove it, and the rows of the steps before are lost"
        write_lines(path, [row for row in read_lines(path, _Row, remedy=remedy) if row["step"] <= step])
        self._path, self._file = path, own_file(path)
        self._file.seek(0, os.SEEK_END)

    def add(self, row: dict[str, float | int]) -> None:
        """Appends a row."""
        with writing(self._path):
            self._file.write(line_of(row).encode())
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
    """What is left of this training, and of all where others come ``after`` it."""
    return f"{clock(seconds)} left" + (f", {clock(seconds + after)} of all trainings" if after else "")


class _TimeLeft(ProgressColumn):
    """What is left, at the speed of the last steps."""

    def __init__(self, after: float) -> None:
        super().__init__()
        self._after = after

    def render(self, task: Task) -> Text:
        left = task.time_remaining
        return Text("-:--:--" if left is None else _left(left, self._after))


class Line:
    """Reports steps as a line each, at most one in twenty seconds, for logs and pipes."""

    def __init__(self, label: str, steps: int, loss: tuple[str, str], after: float) -> None:
        self._loss, self._after = loss, after
        self._label, self._steps, self._last, self._start, self._done = label, steps, 0.0, time.monotonic(), 0

    def step(self, step: int, loss: float, tokens_per_s: float) -> None:
        """Says where the run stands, if it has not lately."""
        now = time.monotonic()
        self._done += 1
        if now - self._last >= _LINE_EVERY or step == self._steps:
            self._last = now
            left = (now - self._start) / self._done * (self._steps - step)
            what, unit = self._loss
            console.print(
                f"{self._label:<14} step {step:>6}/{self._steps}  {what} {loss:7.4f} {unit}  "
                f"{tokens_per_s:>9,.0f} tokens/s  {_left(left, self._after)}"
            )


class Bar:
    """Reports steps as a progress bar."""

    def __init__(self, progress: Progress, label: str, steps: int, done: int) -> None:
        self._progress = progress
        self._task = progress.add_task(label, total=steps, completed=done, loss=float("nan"), rate=0.0)

    def step(self, step: int, loss: float, tokens_per_s: float) -> None:
        """Moves the bar."""
        self._progress.update(self._task, completed=step, loss=loss, rate=tokens_per_s)


@contextmanager
def progress(
    label: str,
    steps: int,
    *,
    done: int,
    speak: bool,
    loss: tuple[str, str] = ("loss", "nats/token"),
    after: float = 0.0,
) -> Iterator[Bar | Line | None]:
    """A reporter for a run of ``steps`` of which ``done`` lie behind; None for a silent rank.

    ``loss`` is what the loss is called and its unit; ``after``: seconds that other trainings will take once this is done.
    """
    if not speak:
        yield None
    elif not console.is_terminal:
        yield Line(label, steps, loss, after)
    else:
        columns = (
            TextColumn("{task.description:<14}", markup=False),
            BarColumn(),
            TextColumn("step {task.completed}/{task.total}"),
            TextColumn(f"{loss[0]} {{task.fields[loss]:.4f}} {loss[1]}", markup=False),
            TextColumn("{task.fields[rate]:,.0f} tokens/s"),
            _TimeLeft(after),
        )
        with Progress(*columns, console=console, transient=True) as bars:
            yield Bar(bars, label, steps, done)
