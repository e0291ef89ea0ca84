"""Trains small decoders to evaluate nested lists, from scratch or after pretraining on the training lists themselves.

Our decoders are causal, so a sign masked in place would be predicted from its left side only, at fewer places than the next
token. So the masked pretraining here is infilling: the list with blanks, a separator, and then the contents of the blanks in
order (Donahue et al., arXiv 2005.05339, sec. 3). The decoder sees both sides of a blank before it predicts its contents.
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
BLANKED = 0.1  # share of the signs, as in the paper for this task
LOOKS = 20  # measurements on held-out lists in the first number of steps of a cell
DECAY = 0.1
VALUES = 10
_PADDING, _BLANK, _SEPARATOR = 0, len(SIGNS), len(SIGNS) + 1
_TOGETHER = 8  # batches sampled at once and grouped by length, which halves the padding
_LISTS, _PRETRAIN, _TRAIN = 0, 1, 2  # uses of a seed's random numbers


@dataclass(frozen=True)
class Cell:
    """A training: ``pretraining`` steps on ``lists`` without their values, then on the first ``labelled`` of them with values.

    After each of ``steps``, the weights with the best accuracy on ``held_out`` lists so far are measured on ``tested`` others.
    ``rows`` is the number of rows of a step.
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
    """Lists as rows of signs (lists, signs), padded with 0 at the end, with the length and the value of each."""

    tokens: Int[Tensor, "n T"]
    lengths: Int[Tensor, " n"]
    values: Int[Tensor, " n"]

    def some(self, which: slice | Tensor) -> Lists:
        """Some of the lists, padded to the longest of them. ``which`` are their indices, (n,)."""
        lengths = self.lengths[which]
        return Lists(self.tokens[which][:, : int(lengths.max())], lengths, self.values[which])

    def to(self, device: str) -> Lists:
        """The lists on another device."""
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
        """Hidden states of all signs, (B, T, D). Padding is at the end, so it does not change those of a causal decoder."""
        return self.decoder(input_ids=tokens).last_hidden_state

    def value_logits(self, lists: Lists) -> Float[Tensor, "B 10"]:
        """The logits of each list's value, at its last bracket."""
        rows = torch.arange(len(lists.values), device=lists.values.device)
        return self.values(self.hidden(lists.tokens)[rows, lists.lengths - 1])


def train(cell: Cell, device: str = "cpu") -> dict[str, Any]:
    """Pretrains and trains a decoder; gives the test lists that it evaluates correctly after each of the steps.

    A loss that is not finite ends either stage: ``failed`` is true, and the result is that of the best weights before.
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
    """Training lists, selection lists and test lists. They are tens of signs long, so that no two are equal."""
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


def commonest(known: Lists, targets: Lists) -> float:
    """The accuracy of always predicting the most frequent value of the training lists."""
    value = int(torch.bincount(known.values, minlength=VALUES).argmax())
    return float((targets.values == value).float().mean())


@torch.no_grad()
def right(model: Evaluator, lists: Lists) -> Bool[np.ndarray, " n"]:
    """Which lists are evaluated correctly, (lists,)."""
    order = torch.argsort(lists.lengths)
    found = torch.zeros_like(lists.values, dtype=torch.bool)
    for part in order.split(100):
        some = lists.some(part)
        found[part] = model.value_logits(some).argmax(-1) == some.values
    return found.cpu().numpy()


def infilling(
    tokens: Int64[np.ndarray, "B T"], lengths: Int64[np.ndarray, " B"], generator: np.random.Generator
) -> tuple[Int64[np.ndarray, "B S"], Int64[np.ndarray, "B S"], Bool[np.ndarray, "B S"]]:
    """Rows with blanks, a separator and the contents of the blanks; the next sign of each place; and where it is a content."""
    blanked = generator.random(tokens.shape) < BLANKED
    blanked[np.arange(len(tokens)), generator.integers(lengths)] = True  # at least one
    blanked &= np.arange(tokens.shape[1]) < lengths[:, None]
    held = blanked.sum(1)
    rows = np.full((len(tokens), int((lengths + held).max()) + 1), _PADDING, dtype=np.int64)
    rows[:, : tokens.shape[1]] = np.where(blanked, _BLANK, tokens)[:, : rows.shape[1]]
    rows[np.arange(len(tokens)), lengths] = _SEPARATOR
    targets = np.zeros(rows.shape, dtype=bool)
    for row in range(len(tokens)):
        start, stop = lengths[row] + 1, lengths[row] + 1 + held[row]
        rows[row, start:stop] = tokens[row, blanked[row]]
        targets[row, start - 1 : stop - 1] = True
    return rows[:, :-1], rows[:, 1:], targets[:, :-1]


def following(
    tokens: Int64[np.ndarray, "B T"], lengths: Int64[np.ndarray, " B"], generator: np.random.Generator
) -> tuple[Int64[np.ndarray, "B S"], Int64[np.ndarray, "B S"], Bool[np.ndarray, "B S"]]:
    """Rows, the next sign of each place, and where there is one."""
    return tokens[:, :-1], tokens[:, 1:], np.arange(1, tokens.shape[1]) < lengths[:, None]


_OBJECTIVES = {"causal": following, "infilling": infilling}


def _pretrain(model: Evaluator, known: Lists, cell: Cell) -> tuple[float | None, bool]:
    """Trains on lists without values; gives the mean nats of the last tenth of the steps (None for 0 steps) and if it failed."""
    if cell.pretrained == "no":
        return None, False
    generator = np.random.default_rng([cell.seed, _PRETRAIN])
    nats: list[float] = []
    batches = _batches(known.lengths, cell.rows, generator)

    def loss(_: int) -> Tensor:
        part = known.some(next(batches).to(known.tokens.device))
        arrays = _OBJECTIVES[cell.pretrained](part.tokens.cpu().numpy(), part.lengths.cpu().numpy(), generator)
        rows, targets, where = (torch.from_numpy(array).to(known.tokens.device) for array in arrays)
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
    )  # slow parameters do not decay and have the full rate


def _constant(steps: int) -> Rate:
    """The rate of both stages: a linear warm-up, then constant, so that a long training contains all shorter ones."""
    return lambda step, peak: learning_rate(step - 1, steps=steps, peak=peak, schedule="constant")


def _batches(lengths: Int[Tensor, " n"], rows: int, generator: np.random.Generator) -> Iterator[Tensor]:
    """Endless batches of list numbers. Each epoch has a new order, and the lists of a batch have similar lengths."""
    by_number = lengths.cpu().numpy()
    waiting = np.zeros(0, dtype=np.int64)
    while True:
        while len(waiting) < rows * _TOGETHER:
            waiting = np.concatenate([waiting, generator.permutation(len(by_number))])
        some, waiting = waiting[: rows * _TOGETHER], waiting[rows * _TOGETHER :]
        some = some[np.argsort(by_number[some], kind="stable")].reshape(_TOGETHER, rows)
        for batch in generator.permutation(_TOGETHER):
            yield torch.from_numpy(some[batch])
