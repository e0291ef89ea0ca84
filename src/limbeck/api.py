"""The jobs as Python functions: the keys are those of the command line, with underscores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from limbeck.config import DistilSettings, PretrainSettings, resolve


def distil(file: str | Path | None = None, /, **keys: Any) -> dict[str, Any]:
    """Makes a small model out of a large one; gives ``{"out", "student", "readings", "verdict"}``.

    >>> limbeck.distil(teacher="Qwen/Qwen3-8B", params="600M", data="my.jsonl", tokens="200M", out="runs/first")

    ``file`` is a TOML run file; keys given here win. Raises a `limbeck.errors.LimbeckError` that says what to do.
    """
    from limbeck.jobs.distil import distil as job

    return job(resolve(DistilSettings, None if file is None else Path(file), keys))


def pretrain(file: str | Path | None = None, /, **keys: Any) -> dict[str, Any]:
    """Trains a model from scratch, with a tokenizer of its own; gives ``{"out", "model", "readings"}``."""
    from limbeck.jobs.pretrain import pretrain as job

    return job(resolve(PretrainSettings, None if file is None else Path(file), keys))
