"""A recipe run at a tiny scale in this process, once, and again after one of its trainings was lost."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import limbeck
from limbeck.jobs.common.task import do
from limbeck.papers.lab import trainings

KEYS: dict[str, Any] = {"scale": "smoke", "seeds": 2, "workers": 1, "device": "cpu"}

Twice = tuple[dict[str, Any], dict[str, Any], Mapping[Path, int], Path]


def here(tasks, workers, said) -> None:
    """Does trainings without other processes."""
    for task in tasks:
        do(task)


def reproduced_twice(recipe: str, out: Path, *, scales: dict[str, Any], tiny: Any, lost: str, **keys: Any) -> Twice:
    """Both results, when each kept training was written, and the folder. ``lost`` is a pattern of a result in it."""
    keys |= KEYS | {"out": out}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(scales, "smoke", tiny)
        patch.setattr(trainings, "run_here", here)
        first = limbeck.reproduce(recipe, **keys)
        next(out.glob(lost)).unlink()  # as if it had been killed there
        kept = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
        return first, limbeck.reproduce(recipe, **keys), kept, out
