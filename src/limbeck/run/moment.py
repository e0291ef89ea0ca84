"""Points in the work of a device, and the seconds between two of them."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Moment:
    """A point in a device's work: in the queue of a GPU, whenever it gets there; elsewhere the time when this was made.

    So what else the host or the device does before a GPU's queue gets there, or after, does not count.
    """

    at: float
    event: torch.cuda.Event | None = None

    @classmethod
    def of(cls, device: torch.device) -> Moment:
        """The end of the work that a device has been given so far, without waiting for it."""
        if device.type != "cuda":
            return cls(time.perf_counter())
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(device))
        return cls(time.perf_counter(), event)

    def since(self, earlier: Moment) -> float:
        """Seconds between an earlier moment of the same device and this one, for which it waits."""
        if self.event is None or earlier.event is None:
            return self.at - earlier.at
        self.event.synchronize()
        return earlier.event.elapsed_time(self.event) / 1000
