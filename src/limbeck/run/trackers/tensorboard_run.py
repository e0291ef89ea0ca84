"""TensorBoard: event files in the folder of the run, a folder for each training. ``tensorboard --logdir RUN/tensorboard``."""

from __future__ import annotations

from torch.utils.tensorboard import SummaryWriter

from limbeck.run.trackers.tracker import Tracked, Tracker, Values


class TensorBoard:
    """The event files of one training."""

    def __init__(self, writer: SummaryWriter) -> None:
        self._writer = writer

    def log(self, step: int, values: Values) -> None:
        """Writes values of a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def end(self, *, complete: bool) -> None:
        """Closes the file; whether a training is complete is not recorded in it."""
        self._writer.close()


def open_run(tracked: Tracked, step: int) -> Tracker:
    """The event files of a training; what was written of later steps than ``step``, before a kill, is not shown any more."""
    folder = tracked.folder / "tensorboard" / tracked.name
    writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)
    if not step:
        rows = "\n".join(f"| {name} | {value} |" for name, value in tracked.settings.items())
        writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}", 0)
    return TensorBoard(writer)
