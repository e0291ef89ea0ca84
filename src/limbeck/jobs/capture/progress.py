"""The progress of a capture: how far it is, how fast, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from limbeck.run.log import clock, console

_LINE_EVERY = 20.0


@contextmanager
def progress(total: int, *, what: str) -> Iterator[Callable[[int, int], None]]:
    """Shows progress, as a bar or as occasional lines.

    It receives the numbers of finished rows (or ``what`` they are), of ``total``, and of their tokens. The first number is from
    an earlier start, since a continued capture does not begin at 0.
    """
    started, last = time.monotonic(), -_LINE_EVERY / 2
    before: tuple[int, int] | None = None
    columns = (
        TextColumn("capture"),
        BarColumn(),
        TextColumn(f"{{task.completed:,}}/{{task.total:,}} {what}s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
        task = bars.add_task("capture", total=total)

        def report(done: int, tokens: int) -> None:
            nonlocal last, before
            bars.update(task, completed=done)
            spent = time.monotonic() - started
            if before is None:
                before = done, tokens
            elif not console.is_terminal and spent - last > _LINE_EVERY and done > before[0]:
                last = spent
                left = (total - done) * spent / (done - before[0])
                console.print(
                    f"{what} {done:,} of {total:,}; {(tokens - before[1]) / spent:,.0f} tokens/s  {clock(left)} left"
                )

        yield report
