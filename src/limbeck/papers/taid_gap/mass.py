"""Where a student's probability lies beside its teacher's: on the head and the tail of the vocabulary, position by position.

Forward KL spreads mass over outcomes that the teacher hardly has (mode averaging); reverse KL gathers it on a few (mode
collapse). Both show in how much lies on the outcomes that the teacher finds most and least probable.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.corpora import TokenStore
from limbeck.corpora.layout import BEST_FIT
from limbeck.divergence import kl
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.held_out import HeldOut
from limbeck.models.load import load
from limbeck.papers.lab.measured import Measured
from limbeck.papers.taid_gap.judging import HEAD, TAIL
from limbeck.run.world import alone
from limbeck.types import Batch, CausalLM, Outputs

COLUMNS = ("head", "tail", "kl", "reverse_kl", "tokens")
_POSITIONS = 4096  # at a time


@dataclass(frozen=True)
class Mass(Measured):
    """What `masses` gives of one student beside a teacher on the held-out documents of a store, all by their folders."""

    what: ClassVar[str] = "mass"
    student: Path
    teacher: Path
    store: Path
    length: int
    device: str

    def measure(self) -> Float[np.ndarray, "documents 5"]:
        """The sums by document."""
        machine = Environment(alone(self.device), bf16=False)
        store = TokenStore.open(self.store).packed(BEST_FIT)
        text = HeldOut(store, length=self.length, environment=machine)
        student, teacher = (load(folder, device=machine.world.device) for folder in (self.student, self.teacher))
        return masses(student, teacher, text.batches(), documents=store.documents)


@torch.no_grad()
def masses(
    student: CausalLM, teacher: CausalLM, batches: Iterable[Batch], *, documents: int
) -> Float[np.ndarray, "documents 5"]:
    """Sums over the predictions of each document (`COLUMNS`): the student's mass on the teacher's head and tail, KL, and 1.

    The head of a position is the teacher's `HEAD` most probable outcomes there, the tail its least probable fifth. KL is
    KL(p || q), then KL(q || p), of teacher p and student q in nats.
    """
    found = torch.zeros(documents, len(COLUMNS), dtype=torch.float64)
    for batch in batches:
        where = batch.weight.reshape(-1).nonzero().squeeze(1)
        p, q = (_at(model(batch), where) for model in (teacher, student))
        for start in range(0, len(where), _POSITIONS):
            part = slice(start, min(len(where), start + _POSITIONS))
            columns = _columns(*(one.logits(part).float().log_softmax(-1) for one in (p, q)))
            found.index_add_(0, batch.document.reshape(-1)[where[part]].cpu(), columns.double().cpu())
    return found.numpy()


def _columns(log_p: Float[Tensor, "n V"], log_q: Float[Tensor, "n V"]) -> Float[Tensor, "n 5"]:
    """The columns of some positions. Outcomes of equal probability are ranked as in the vocabulary."""
    order = log_p.argsort(dim=-1, descending=True, stable=True)
    ranked = log_q.gather(-1, order).exp()
    head, tail = ranked[:, :HEAD].sum(-1), ranked[:, -(ranked.shape[1] // TAIL) :].sum(-1)
    return torch.stack([head, tail, kl(log_p, log_q), kl(log_q, log_p), torch.ones_like(head)], -1)


def _at(outputs: Outputs, where: Int[Tensor, " n"]) -> Outputs:
    return replace(outputs, hidden=outputs.hidden.reshape(-1, outputs.hidden.shape[-1])[where][None])
