"""What a training with --eval-every leaves in its folder: how far it went, and the weights of its lowest held-out loss."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from limbeck.disk import read_lines, write_json
from limbeck.models.gguf.quantiser import Quantiser
from limbeck.models.load import load, verified_folder
from limbeck.models.save import round_to, save
from limbeck.run.run import Run
from limbeck.run.save import best_step, load_best
from limbeck.run.world import alone
from limbeck.students.adapters import AdapterPlan, adapt, merge

TRAINING = "training.json"
BEST = "best"  # the model of the lowest held-out loss, where another became the student


def write_training(run: Run) -> None:
    """Writes how far a training went, which is complete: steps of how many, tokens, chosen step, passed limit."""
    assert run.rule is not None
    assert run.selection is not None
    last = read_lines(run.folder / "metrics.jsonl")[-1]
    selection, steps = run.selection, int(last["step"])
    loss = selection.loss if math.isfinite(selection.loss) else None
    facts: dict[str, Any] = {
        "steps": steps,
        "of": run.plan.steps,
        "tokens": int(last["tokens"]),
        "patience": run.rule.patience,
    }
    facts |= {"best_step": selection.step, "best_nats": loss}
    facts |= {"stopped_by": selection.stopped_by} if selection.stopped_by else {}
    facts["taken_step"] = selection.step if run.rule.best and selection.step is not None else steps
    write_json(run.folder / TRAINING, facts)


def place_best(
    folder: Path,
    model: Path,
    *,
    quantiser: Quantiser | None = None,
    dtype: torch.dtype,
    adapters: AdapterPlan | None = None,
) -> None:
    """Saves the weights of the lowest held-out loss as a model beside the trained ``model``, unless they are its own.

    In the number format ``dtype``, or as rounded by the ``quantiser``. Where ``adapters`` were trained, ``model`` is the one that
    they belong to. Nothing if it is there, or no weights are kept.
    """
    step = best_step(folder)
    if step is None or (folder / BEST / "config.json").exists():
        return
    if read_lines(folder / "metrics.jsonl")[-1]["step"] == step:
        return
    best = load(verified_folder(model), device="cpu", dtype=torch.float32)
    if adapters:
        adapt(best, adapters, seed=0)
    load_best(folder, step, best.model, mesh=alone())
    if adapters:
        merge(best)
    if quantiser:
        quantiser.quantise(best)
    save(best, folder / BEST, dtype=round_to(best, dtype))
