"""Rows that a student generates, judged by a teacher on a server in the step that takes them.

Rows of the text have logits that were captured before. What the student generates is new in each step, so the server is queried
for it then, and waited for. The training continues to the same bits only if the server gives the same numbers again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch

from limbeck.generation.rollouts import Rollouts
from limbeck.host import on_host
from limbeck.teachers.remote.served import ServedTeacher
from limbeck.types import Batch, Sparse, joined


class OfRows(Protocol):
    """Captured logits of the rows of a text."""

    name: str
    vocab: int

    def __call__(self, batch: Batch) -> Sparse: ...


class ServedLink:
    """A connection that is made at the first query and may be closed at any time. ``connect`` raises as `served.connect`."""

    def __init__(self, connect: Callable[[], ServedTeacher]) -> None:
        self._connect, self._teacher = connect, None

    _teacher: ServedTeacher | None

    def __call__(self, batch: Batch) -> Sparse:
        """The teacher's largest probabilities at the positions of a batch. Raises BadServer as `ServedTeacher`."""
        if self._teacher is None:
            self._teacher = self._connect()
        return self._teacher(batch)

    def close(self) -> None:
        """Closes the connection; the next query makes another."""
        if self._teacher is not None:
            self._teacher.close()
            self._teacher = None


@dataclass
class ServedRollouts:
    """A `Corpus` of rollouts, and the `limbeck.types.Teacher` of their rows: ``captured`` logits, of generated ones ``ask``'s.

    Rows that the student generated have numbers below 0. Positions without a valid response have weight 0.
    """

    rollouts: Rollouts
    captured: OfRows
    ask: Callable[[Batch], Sparse]
    name: str = field(init=False)
    vocab: int = field(init=False)
    length: int = field(init=False)
    seed: int = field(init=False)
    _own: Sparse | None = field(default=None, init=False)
    _unanswered: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.name, self.vocab = self.captured.name, self.captured.vocab
        self.length, self.seed = self.rollouts.length, self.rollouts.seed

    def take(self, rows: int) -> Batch:
        """This rank's part of the next ``rows`` global rows; those that were generated are last, and judged."""
        batch, own = self.rollouts.take(rows), self.rollouts.generated
        self._own, self._unanswered = None, 0
        if not own:
            return batch
        of_text = len(batch.tokens) - own
        generated = batch.rows(slice(of_text, None))
        self._own = self.ask(generated)
        known = self._own.known.view(generated.weight.shape)
        self._unanswered = int(((generated.weight > 0) & ~known).sum())
        weight = generated.weight * known
        generated = replace(generated, weight=weight, row=-1 - torch.arange(own))
        return joined(batch.rows(slice(0, of_text)), generated)

    def __call__(self, batch: Batch) -> Sparse:
        """The teacher's largest probabilities at the positions of some of the rows that were taken last."""
        row, length = on_host(batch.row), batch.tokens.shape[1]
        own, of_text = (torch.nonzero(where).flatten() for where in (row < 0, row >= 0))
        if not len(own):
            return self.captured(batch)
        assert self._own is not None, "rows are taken first"
        judged = self._own.part(_positions(-1 - row[own], length)).to(batch.tokens.device)
        if not len(of_text):
            return judged
        return _merged(
            [(self.captured(batch.rows(of_text)), of_text), (judged, own)], length=length, device=batch.tokens.device
        )

    def documents(self, rows: int) -> list[str]:
        """As that of the rollouts."""
        return self.rollouts.documents(rows)

    def state_dict(self) -> dict[str, Any]:
        """The position in the rows."""
        return self.rollouts.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues at a saved position."""
        self.rollouts.load_state_dict(state)

    def facts(self) -> dict[str, int]:
        """As those of the rollouts, and how many generated tokens were ``unanswered``: they do not count."""
        return {**self.rollouts.facts(), "unanswered": self._unanswered}


def _positions(rows: torch.Tensor, length: int) -> torch.Tensor:
    """The flat positions of some rows, in their order."""
    return (rows[:, None] * length + torch.arange(length)).flatten()


def _merged(parts: list[tuple[Sparse, torch.Tensor]], *, length: int, device: torch.device) -> Sparse:
    """Signals of some rows each as one of all of them; the fewer outcomes are padded with their first."""
    n, k = sum(len(rows) for _, rows in parts) * length, max(signal.ids.shape[-1] for signal, _ in parts)
    ids = torch.zeros(n, k, dtype=torch.int64, device=device)
    log_p, weight = torch.full((n, k), -torch.inf, device=device), torch.zeros(n, k, device=device)
    rest = torch.full((n,), -torch.inf, device=device)
    for signal, rows in parts:
        assert signal.rest is not None, "a server gives the largest probabilities"
        at, has = _positions(rows, length).to(device), signal.ids.shape[-1]
        ids[at] = signal.ids[:, :1].expand(-1, k)
        ids[at, :has], log_p[at, :has], weight[at, :has] = signal.ids, signal.log_p, signal.weight
        rest[at] = signal.rest
    return Sparse(ids, log_p, weight, parts[0][0].vocab, rest)
