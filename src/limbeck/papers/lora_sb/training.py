"""One tuning of the built-in teacher: all its weights, LoRA, or a square matrix a layer in some subspace."""

from __future__ import annotations

import json
import keyword
import re
from codecs import encode
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.corpora import Rows, read
from limbeck.disk import write_text
from limbeck.jobs.common.folder import text_of_run
from limbeck.jobs.tune.subspace import gradients
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.objectives import CrossEntropy
from limbeck.papers.lab.from_teacher import TEACHER, by_document, in_batches
from limbeck.papers.lab.loop import WARMUP, adamw_of, cosine, train_steps
from limbeck.papers.lab.text import rows_of_training, rows_of_tuning, rows_that_count
from limbeck.planning.cost.size import Size
from limbeck.students.adapters import AdapterPlan, adapt
from limbeck.students.subspaces import OF_DATA, Kind, subspaces
from limbeck.types import Batch

ALL, LORA, ORTHONORMAL = "all weights", "LoRA", "weights, orthonormal"
SUBSPACES: dict[str, Kind] = {
    "LoRA-SB": "sb",
    "LoRA-XS": "weights",
    ORTHONORMAL: "weights",
    "update, from zero": "update",
    "gradient, from zero": "gradient",
    "random": "random",
}
_WORD = re.compile(r"[A-Za-z_]+")
_OTHERS = frozenset((*keyword.kwlist, *keyword.softkwlist))
_SAMPLES = 64  # rows whose gradients say where a subspace lies


@dataclass(frozen=True)
class TuningCell:
    """One tuning by an arm, of ``steps`` steps of ``rows`` rows. ``rank``: of the arm's adapters, 0 for all weights.

    A ``tuning`` chooses a rate: it is measured on documents of the training text that it does not read.
    """

    name: str
    arm: str
    rank: int
    seed: int
    rate: float
    steps: int
    rows: int
    length: int
    measured: int
    tuning: bool = False


def renamed(text: str) -> str:
    """A program in which every word but Python's own is written in another alphabet (rot13): the same text, other names."""
    return _WORD.sub(lambda word: word[0] if word[0] in _OTHERS else encode(word[0], "rot13"), text)


def write_renamed(file: Path, source: str, *, most: int | None = None) -> None:
    """Writes the documents of a source with other names, at most so many, as JSON lines, unless the file is there."""
    if file.exists():
        return

    def lines() -> Iterator[str]:
        for document in islice(read(source), most):
            yield json.dumps({"text": renamed(document.content)}) + "\n"

    write_text(file, "".join(lines()))


def train(cell: TuningCell, device: str, *, folder: Path) -> dict[str, Any]:
    """Nats and tokens of each held-out document of the text, and of the text before it was renamed (``kept``).

    ``failed`` is true if a loss was not finite, which ends the training. ``trained``: how many numbers are trained.
    """
    rows = rows_of_tuning if cell.tuning else rows_of_training
    corpus, held_out, chosen = rows(folder / "renamed", length=cell.length, seed=cell.seed, measured=cell.measured)
    model = load(TEACHER, device=torch.device(device), train=True)
    model.model.train()
    if cell.rank:
        _adapted(cell, model, corpus.rows_of(corpus_rows(corpus, cell.seed)))
    optimizer = adamw_of(model.model, rate=cell.rate, weight_decay=0.0)
    ended = train_steps(
        model.model,
        optimizer,
        lambda step: mean_nats(model, corpus.take(cell.rows).to(device)),
        cosine(cell.steps),
        steps=cell.steps,
    )
    nats, tokens = by_document(model, in_batches(held_out.rows_of(chosen).to(device)), held_out.store.documents)
    found = {
        "nats": nats[tokens > 0].tolist(),
        "tokens": tokens[tokens > 0].tolist(),
        "trained": sum(p.numel() for p in model.model.parameters() if p.requires_grad),
        "failed": ended.failed,
    }
    return found if cell.tuning else found | {"kept": kept(model, device, folder, cell)}


def kept(model: LanguageModel, device: str, folder: Path, cell: TuningCell) -> dict[str, list[float]]:
    """Nats and tokens of each held-out document with its own names."""
    _, store = text_of_run(folder / "plain")
    rows = Rows(store, length=cell.length)
    batches = in_batches(rows.rows_of(rows_that_count(rows, cell.measured)).to(device))
    nats, tokens = by_document(model, batches, store.documents)
    return {"nats": nats[tokens > 0].tolist(), "tokens": tokens[tokens > 0].tolist()}


def corpus_rows(corpus: Rows, seed: int) -> Any:
    """The numbers of the rows whose gradients are taken: some of the training text, by the seed."""
    most = min(_SAMPLES, corpus.n_rows)
    return torch.randperm(corpus.n_rows, generator=torch.Generator().manual_seed(seed))[:most].numpy()


def mean_nats(model: LanguageModel, batch: Batch) -> Tensor:
    """The mean loss of a batch in nats per token."""
    weight = batch.weight.flatten()
    nats = F.cross_entropy(model(batch).logits(), batch.targets.flatten(), reduction="none")
    return (nats * weight).sum() / weight.sum().clamp_min(1)


def _adapted(cell: TuningCell, model: LanguageModel, batch: Batch) -> None:
    """Gives the model the adapters of the arm; those of a subspace of the data from the gradients of a batch."""
    if cell.arm == LORA:
        adapt(model, AdapterPlan(cell.rank, 2.0 * cell.rank), seed=cell.seed)
        return
    kind = SUBSPACES[cell.arm]
    slopes = gradients(model, batch, CrossEntropy(), None) if kind in OF_DATA else {}
    step = cell.rate / max(1.0, round(WARMUP * cell.steps))  # the first step of the schedule
    found = subspaces(model, kind, cell.rank, gradients=slopes, step=step, seed=cell.seed)
    if cell.arm == ORTHONORMAL:
        found = {name: replace(one, b=F.normalize(one.b, dim=0)) for name, one in found.items()}
    adapt(model, AdapterPlan(cell.rank, cell.rank, kind), seed=cell.seed, subspaces=found)


def flops_a_token(length: int, *, adapters: bool) -> float:
    """FLOPs of a training for each token: forward and backward, of which adapters leave out the products for the weights."""
    size = Size.of(load(TEACHER).config)
    return size.forward_flops(length) + size.backward_flops(length) * (0.5 if adapters else 1.0)
