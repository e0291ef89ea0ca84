"""Small decoders that learn to evaluate nested lists: from scratch, or after pretraining on the lists they are trained on.

Our decoders are causal, and a sign that is masked in place would be guessed from its left side alone: less than predicting the
next token asks, at fewer places. So the masked pretraining here is infilling: the list with blanks, a separator, and then what
the blanks held, in order (Donahue et al., arXiv 2005.05339, sec. 3), so that a blank is filled by who has read both its sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.corpora.tasks.listops import SIGNS, ListOps
from limbeck.models.decoder import LimbeckConfig, LimbeckModel
from limbeck.papers.lab.loop import Rate, Trained, adamw_of, train_steps
from limbeck.run.optim import learning_rate

PRETRAINED = ("no", "causal", "infilling")
BLANKED = 0.1  # of the signs, as in the paper for this task
LOOKS = 20  # at the held-out lists, in as many steps as the first number of a cell says
DECAY = 0.1
VALUES = 10
_PADDING, _BLANK, _SEPARATOR = 0, len(SIGNS), len(SIGNS) + 1
_TOGETHER = 8  # batches that are drawn at once and filled by length: half the padding
_LISTS, _PRETRAIN, _TRAIN = 0, 1, 2  # what a seed's random numbers are for


@dataclass(frozen=True)
class Cell:
    """A training: ``pretraining`` steps on ``lists`` without their values, then on the first ``labelled`` of them with values.

    After each of ``steps`` the best so far on ``held_out`` lists is asked about ``tested`` others; ``rows`` are of a step.
    """

    name: str
    mixers: tuple[str, ...]
    pretrained: str
    pretraining: int
    steps: tuple[int, ...]
    rate: float
    seed: int
    lists: int = 3000
    labelled: int = 3000
    held_out: int = 500
    tested: int = 1000
    rows: int = 32
    width: int = 64
    heads: int = 4
    depth: int = 4
    items: int = 5
    shortest: int = 19
    longest: int = 121


@dataclass(frozen=True)
class Lists:
    """Lists from the left, filled up with 0, how many signs each has, and their values."""

    tokens: Int[Tensor, "n T"]
    lengths: Int[Tensor, "n"]
    values: Int[Tensor, "n"]

    def some(self, which: slice | Tensor) -> Lists:
        """These, as wide as the longest of them."""
        lengths = self.lengths[which]
        return Lists(self.tokens[which][:, : int(lengths.max())], lengths, self.values[which])

    def to(self, device: str) -> Lists:
        """The same on another device."""
        return Lists(self.tokens.to(device), self.lengths.to(device), self.values.to(device))


class Evaluator(nn.Module):
    """A decoder with two heads: the next sign, and the value of the list that ends at a sign."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.decoder = LimbeckModel(
            LimbeckConfig(
                vocab_size=len(SIGNS) + 2,
                hidden_size=cell.width,
                intermediate_size=cell.width * 8 // 3,
                mixers=cell.mixers,
                num_attention_heads=cell.heads,
                use_cache=False,
            )
        )
        self.signs = nn.Linear(cell.width, len(SIGNS) + 2)
        self.values = nn.Linear(cell.width, VALUES)

    def hidden(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """States of all signs. Padding comes last, so a causal decoder never sees it."""
        return self.decoder(input_ids=tokens).last_hidden_state

    def value_logits(self, lists: Lists) -> Float[Tensor, "B 10"]:
        """Of each list's value, at its last bracket."""
        rows = torch.arange(len(lists.values), device=lists.values.device)
        return self.values(self.hidden(lists.tokens)[rows, lists.lengths - 1])


def train(cell: Cell, device: str = "cpu") -> dict[str, Any]:
    """Pretrains and trains a decoder; gives which test lists it evaluates right after each of the steps.

    A loss that is no number ends it, in either stage: ``failed`` says so, and what was best before counts.
    """
    known, held_out, test = (part.to(device) for part in split(cell))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)
        model = Evaluator(cell).to(device).train()
    nats, failed = _pretrain(model, known, cell)
    labelled = known.some(slice(cell.labelled))
    batches = _batches(labelled.lengths, cell.rows, np.random.default_rng([cell.seed, _TRAIN]))
    best: dict[str, Any] = {"held_out": -1.0}
    found: dict[str, Any] = {}
    every = max(1, cell.steps[0] // LOOKS)

    def loss(_: int) -> Tensor:
        part = labelled.some(next(batches).to(device))
        return F.cross_entropy(model.value_logits(part), part.values)

    def look(step: int, failed: bool) -> bool:
        nonlocal best
        if failed or step % every == 0 or step in cell.steps:
            score = float(right(model, held_out).mean())
            if score > best["held_out"]:
                best = {"held_out": score, "step": step, "right": right(model, test).astype(int).tolist()}
        found.update({str(at): best for at in cell.steps if at == step or (failed and at > step)})
        return False

    if failed:
        trained = Trained(1, failed=True)
        look(1, True)
    else:
        rate = _constant(cell.steps[0])
        trained = train_steps(model, _optimizer(model, cell), loss, rate, steps=cell.steps[-1], look=look)
    return {
        "parameters": sum(p.numel() for p in model.decoder.parameters()),
        "pretraining_nats": nats,
        "trained_steps": trained.steps,
        "failed": trained.failed,
        "by_steps": found,
        "commonest": commonest(known, test),
    }


def split(cell: Cell) -> tuple[Lists, Lists, Lists]:
    """Lists that are trained on, that select, and that are asked about: of tens of signs, so that no two are the same."""
    task = ListOps(depth=cell.depth, items=cell.items, shortest=cell.shortest, longest=cell.longest)
    parts = np.cumsum([0, cell.lists, cell.held_out, cell.tested])
    found = task.expressions(np.random.default_rng([cell.seed, _LISTS]), int(parts[-1]))
    lengths = np.diff(found.ends, prepend=0)
    tokens = np.full((len(lengths), int(lengths.max())), _PADDING, dtype=np.int64)
    for row in range(len(lengths)):
        tokens[row, : lengths[row]] = found[row]
    whole = Lists(*(torch.from_numpy(part) for part in (tokens, lengths, found.values)))
    train_lists, held_out, test = (whole.some(slice(start, stop)) for start, stop in pairwise(parts))
    return train_lists, held_out, test


def commonest(known: Lists, asked: Lists) -> float:
    """The share right of whoever always says the value that is most frequent in training."""
    value = int(torch.bincount(known.values, minlength=VALUES).argmax())
    return float((asked.values == value).float().mean())


@torch.no_grad()
def right(model: Evaluator, lists: Lists) -> Bool[np.ndarray, " n"]:
    """Which lists are evaluated right."""
    order = torch.argsort(lists.lengths)
    found = torch.zeros_like(lists.values, dtype=torch.bool)
    for part in order.split(100):
        some = lists.some(part)
        found[part] = model.value_logits(some).argmax(-1) == some.values
    return found.cpu().numpy()


def infilling(
    tokens: Int64[np.ndarray, "B T"], lengths: Int64[np.ndarray, " B"], generator: np.random.Generator
) -> tuple[Int64[np.ndarray, "B S"], Int64[np.ndarray, "B S"], Bool[np.ndarray, "B S"]]:
    """Rows with blanks, a separator and what the blanks held; what follows each place; and where that is an answer."""
    blanked = generator.random(tokens.shape) < BLANKED
    blanked[np.arange(len(tokens)), generator.integers(lengths)] = True  # one at least
    blanked &= np.arange(tokens.shape[1]) < lengths[:, None]
    held = blanked.sum(1)
    rows = np.full((len(tokens), int((lengths + held).max()) + 1), _PADDING, dtype=np.int64)
    rows[:, : tokens.shape[1]] = np.where(blanked, _BLANK, tokens)[:, : rows.shape[1]]
    rows[np.arange(len(tokens)), lengths] = _SEPARATOR
    asked = np.zeros(rows.shape, dtype=bool)
    for row in range(len(tokens)):
        start, stop = lengths[row] + 1, lengths[row] + 1 + held[row]
        rows[row, start:stop] = tokens[row, blanked[row]]
        asked[row, start - 1 : stop - 1] = True
    return rows[:, :-1], rows[:, 1:], asked[:, :-1]


def following(
    tokens: Int64[np.ndarray, "B T"], lengths: Int64[np.ndarray, " B"], generator: np.random.Generator
) -> tuple[Int64[np.ndarray, "B S"], Int64[np.ndarray, "B S"], Bool[np.ndarray, "B S"]]:
    """Rows, the next sign of each place, and where there is one."""
    return tokens[:, :-1], tokens[:, 1:], np.arange(1, tokens.shape[1]) < lengths[:, None]


_ASKS = {"causal": following, "infilling": infilling}


def _pretrain(model: Evaluator, known: Lists, cell: Cell) -> tuple[float | None, bool]:
    """Trains on lists alone; gives the mean nats of the last tenth of the steps, None where there were none, and if it failed."""
    if cell.pretrained == "no":
        return None, False
    generator = np.random.default_rng([cell.seed, _PRETRAIN])
    nats: list[float] = []
    batches = _batches(known.lengths, cell.rows, generator)

    def loss(_: int) -> Tensor:
        part = known.some(next(batches).to(known.tokens.device))
        asked = _ASKS[cell.pretrained](part.tokens.cpu().numpy(), part.lengths.cpu().numpy(), generator)
        rows, targets, where = (torch.from_numpy(array).to(known.tokens.device) for array in asked)
        found = F.cross_entropy(model.signs(model.hidden(rows)[where]), targets[where])
        nats.append(float(found.detach()))
        return found

    rate = _constant(cell.pretraining)
    trained = train_steps(model, _optimizer(model, cell), loss, rate, steps=cell.pretraining)
    last = nats[-max(1, cell.pretraining // 10) :]
    return sum(last) / len(last), trained.failed


def _optimizer(model: Evaluator, cell: Cell) -> torch.optim.AdamW:
    return adamw_of(
        model, rate=cell.rate, weight_decay=DECAY, slow=cell.rate
    )  # slow ones do not decay, at the full rate


def _constant(steps: int) -> Rate:
    """Of both stages: up in a line, then constant, so that a training holds all shorter ones."""
    return lambda step, peak: learning_rate(step - 1, steps=steps, peak=peak, schedule="constant")


def _batches(lengths: Int[Tensor, "n"], rows: int, generator: np.random.Generator) -> Iterator[Tensor]:
    """Numbers of lists without end, all of them in a new order again and again; those of a batch are about as long."""
    by_number = lengths.cpu().numpy()
    waiting = np.zeros(0, dtype=np.int64)
    while True:
        while len(waiting) < rows * _TOGETHER:
            waiting = np.concatenate([waiting, generator.permutation(len(by_number))])
        some, waiting = waiting[: rows * _TOGETHER], waiting[rows * _TOGETHER :]
        some = some[np.argsort(by_number[some], kind="stable")].reshape(_TOGETHER, rows)
        for batch in generator.permutation(_TOGETHER):
            yield torch.from_numpy(some[batch])
