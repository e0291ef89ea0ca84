"""Trainings of a part of a tuning's steps that choose among learning rates; each is kept until all are done."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from limbeck.disk import AGAIN, read_json, write_json, writing
from limbeck.errors import NonFiniteLoss
from limbeck.run.log import console
from limbeck.run.mesh import Mesh
from limbeck.run.save import checkpoints

FOLDER = "rates"  # of the trials, in the run's folder
SHARE = 0.25  # of a tuning's steps, which a trial takes
_TRIAL = "trial.json"


@dataclass(frozen=True)
class Rates:
    """Peak learning rates by the name of what has them, and the trials that chose them."""

    by_name: Mapping[str, float]
    trials: Sequence[Mapping[str, Any]] = ()

    def row(self) -> dict[str, Any]:
        """As run.json stores them."""
        return {"rates": dict(self.by_name), "trials": list(self.trials)}

    @classmethod
    def of(cls, run: Mapping[str, Any]) -> Rates | None:
        """Those of a run that was begun, None for one that has none yet."""
        return None if (kept := run.get("rates")) is None else cls(kept, run.get("trials") or ())


class _Kept(TypedDict):
    reached: float | None


def tried(folder: Path, world: Mesh, attempt: Callable[[], float | None]) -> float | None:
    """What a trial reached, from its file if it was done before; None where the training diverged.

    All ranks call it, and get what ``attempt`` gave the first.
    """
    if not world.any(world.first and (folder / _TRIAL).is_file())[0]:
        try:
            reached = attempt()
        except NonFiniteLoss:
            reached = None
        if world.first:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / _TRIAL, {"reached": reached})
            for checkpoint in checkpoints(folder):
                shutil.rmtree(checkpoint, ignore_errors=True)
        world.barrier()
    known = read_json(folder / _TRIAL, _Kept, remedy=AGAIN)["reached"] if world.first else None
    found: float | None = json.loads(world.share(json.dumps(known)))
    return found


def best_of(found: Mapping[float, float | None], *, of: str, unit: str, lowest: bool) -> float:
    """The rate that reached the lowest value, or the largest, which is printed; with a warning where it is at an end.

    ``of``: what has the rate; ``unit``: what was reached. Raises NonFiniteLoss where all trainings diverged.
    """
    sign = 1 if lowest else -1
    best = min(found, key=lambda rate: math.inf if (value := found[rate]) is None else sign * value)
    if found[best] is None:
        raise NonFiniteLoss(
            f"--lr {','.join(f'{rate:g}' for rate in found)}: the training diverges with each of them: give lower ones"
        )
    console.print(shown(found, best, of=of, unit=unit))
    return best


def shown(found: Mapping[float, float | None], best: float, *, of: str, unit: str) -> str:
    """The rates that were tried and what they reached, in a sentence."""
    each = ", ".join(f"{rate:.2g} {'diverged' if value is None else f'{value:.4f}'}" for rate, value in found.items())
    end = "; it is at an end of those tried, so a better one may lie beyond" if best in (min(found), max(found)) else ""
    return f"learning rate of {of}: {best:.2g} ({unit}: {each}){end}"
