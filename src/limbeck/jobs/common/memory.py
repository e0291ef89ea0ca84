"""How a training uses memory: as asked, and otherwise the fastest way that its estimate says fits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from transformers.configuration_utils import PreTrainedConfig

from limbeck.config import DistilSettings, PretrainSettings, TuneSettings
from limbeck.generation.rollouts import Share
from limbeck.jobs.common.environment import Environment
from limbeck.planning.checks.pair import PlannedRun
from limbeck.planning.checks.resources import free_memory
from limbeck.planning.cost.adapters import AdapterSize
from limbeck.planning.cost.fitting import FULL, chosen, flags
from limbeck.planning.cost.memory import MemoryUse
from limbeck.planning.cost.size import Size
from limbeck.run.log import console
from limbeck.run.run import Plan
from limbeck.run.sharded import REPLICATE, layout_of

COMPUTED = "computed"  # in run.json: how the trainings use memory, where that is not the usual way


def planned_run(
    settings: DistilSettings | PretrainSettings | TuneSettings,
    environment: Environment,
    *,
    length: int,
    rows: int,
    documents: Int[np.ndarray, " n"] | None = None,
    out: Path | None = None,
    quantised: bool = False,
    trained: float = 1.0,
    adapters: AdapterSize | None = None,
) -> PlannedRun:
    """The training that settings plan, in steps of ``rows`` rows of ``length`` tokens; ``documents``: lengths of some.

    ``trained``: how many numbers are trained, as a share of the student's weights. ``adapters``: what the student's own training
    trains, None for all weights.
    """
    rollouts = settings.rollouts if isinstance(settings, DistilSettings) else None
    return PlannedRun(
        length=length,
        tokens=settings.tokens,
        batch_tokens=rows * length,
        dtype=environment.dtype,
        tf32=environment.tf32,
        device=environment.world.device,
        out=out,
        quantised=quantised,
        averaged=settings.average is not None,
        micro=settings.micro_batch,
        checkpointing=settings.checkpointing,
        optimizer=settings.optimizer,
        weights=settings.weights_dtype,
        document=None if documents is None else usual_document(documents, length),
        shards=layout_of(settings.mesh or REPLICATE, environment.world.size)[1],
        generated=Share.of(rollouts).mean if rollouts else 0.0,
        trained=trained,
        adapters=adapters,
    )


def usual_document(lengths: Int[np.ndarray, " n"], row: int) -> int | None:
    """The tokens of the document that a token is in on average, documents being cut at rows; None without documents."""
    cut = np.concatenate([np.full(int((lengths // row).sum()), row), lengths % row])
    return round(float((cut**2).sum() / cut.sum())) if cut.sum() else None


def memory_use(
    run: PlannedRun, student: PreTrainedConfig, teacher: Size | None, environment: Environment, known: Mapping[str, Any]
) -> tuple[MemoryUse, dict[str, Any]]:
    """How a training uses memory, and what run.json keeps of it (empty for the usual way).

    ``known``: the contents of run.json. A run that continues computes as it began, unless something else is asked for now. Ranks
    that share weights compute alike, as rank 0 chooses.
    """
    size = Size.of(student)
    asked = run.asked(size, teacher, student)
    words = {"micro_batch": run.micro, "checkpointing": run.checkpointing}
    before = known.get(COMPUTED, {})
    if before.get("asked") == words:
        use = replace(asked.use, rows=before["rows"], checkpointed=before["checkpointed"])
    else:
        use = chosen(asked, run.peak(size, teacher, student), FULL * free_memory(environment.world.device))
    if environment.world.sharded:
        rows, checkpointed = json.loads(environment.world.share(json.dumps([use.rows, use.checkpointed])))
        use = replace(use, rows=rows, checkpointed=checkpointed)
    if use == asked.use:
        return use, {}
    console.print(f"memory: computed with {flags(use, asked)}, since more at once would not fit by the estimate")
    return use, {COMPUTED: {"asked": words, "rows": use.rows, "checkpointed": use.checkpointed}}


def computed(plan: Plan, use: MemoryUse) -> Plan:
    """A plan that uses memory in this way."""
    return replace(plan, micro=use.rows, checkpointing="layers" if use.checkpointed else plan.checkpointing)


def needs_documents(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether memory depends on the lengths of documents: attention in bfloat16 on a CPU keeps its weights."""
    return device.type == "cpu" and dtype.itemsize == 2
