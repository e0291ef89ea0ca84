"""Trainings of the recipe masked-thought: small decoders on few chains with derivations, by each arm at its best validation.

Every arm has the same lines in the same order, and as many of them. Test and selection chains are the same for all seeds, and are
in no training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.config.defaults import MASK_WARMUP
from limbeck.corpora.mask_input import MaskedInputs, Masking
from limbeck.corpora.tasks.chains import Chain, Chains
from limbeck.models.language_model import LanguageModel
from limbeck.papers.lab import lines
from limbeck.papers.lab.loop import cosine, train_steps
from limbeck.papers.lab.recall import optimizer_of
from limbeck.types import Batch

MASK = ord("_")  # which no line has
BELOW = 64  # random tokens are below it, where digits and signs of chains lie
CLAUSES = 0.2  # share of the training chains with a clause that is to be left out
LONGER = 2  # operations more of longer chains
FITTED = 0.99  # of training chains, which count as learned
LOOKS = 16  # measurements of a training
_SELECTION = 200
_LEARNED = 100  # training chains that say whether they are learned
_CHOICE, _KNOWN, _ORDER = 0, 1, 2  # uses of random numbers
SAME, CLAUSE, LONG = "same length", "with a clause", "longer"


@dataclass(frozen=True)
class Arm:
    """What differs between trainings: the ``share`` of masked tokens, by `MASK` or at ``random``, which rises over ``warmup`` of
    the training; the ``dropout`` of residual branches; the ``part`` of the common budget.
    """

    share: float = 0.0
    random: bool = False
    warmup: float = MASK_WARMUP
    dropout: float = 0.0
    part: float = 1.0


SFT, HALF, UNWARMED, GRADUAL = "SFT", "SFT, half the epochs", "mask 0.4, no warm-up", "mask 0.4"
ARMS = {
    SFT: Arm(),
    HALF: Arm(part=0.5),
    "dropout 0.1": Arm(dropout=0.1),
    "dropout 0.2": Arm(dropout=0.2),
    "mask 0.1": Arm(0.1),
    "mask 0.2": Arm(0.2),
    GRADUAL: Arm(0.4),
    "random 0.4": Arm(0.4, random=True),
    UNWARMED: Arm(0.4, warmup=0.0),
}
PLAIN = tuple(name for name, arm in ARMS.items() if not arm.share)
MASKED = tuple(name for name, arm in ARMS.items() if arm.share)


@dataclass(frozen=True)
class Cell:
    """A training of one arm: ``steps`` of ``rows`` of ``examples`` chains of ``length`` operations."""

    name: str
    arm: str
    seed: int
    rate: float
    steps: int
    rows: int
    examples: int
    length: int
    width: int
    layers: int
    heads: int
    tested: int


@dataclass(frozen=True)
class Sets:
    """The chains of a cell: what it is tested on by kind, what selects its weights, and what it learns from."""

    tests: dict[str, list[Chain]]
    selection: list[Chain]
    known: list[Chain]

    @classmethod
    def of(cls, cell: Cell) -> Sets:
        """Draws them; those for tests and selection do not depend on the cell's seed."""
        choice, n = np.random.default_rng(_CHOICE), cell.tested
        plain, alike = Chains(cell.length), Chains(cell.length, CLAUSES)
        same = list(dict.fromkeys(plain.chains(choice, 2 * n)))[:n]
        clause = list(dict.fromkeys(Chains(cell.length, 1.0).chains(choice, 2 * n)))[:n]
        longer = list(dict.fromkeys(Chains(cell.length + LONGER).chains(choice, 2 * n)))[:n]
        held_out = {*same, *clause}
        selection = _others(alike.chains(choice, 2 * _SELECTION), held_out)[:_SELECTION]
        drawn = alike.chains(np.random.default_rng([cell.seed, _KNOWN]), 2 * cell.examples)
        known = _others(drawn, held_out | {*selection})[: cell.examples]
        return cls({SAME: same, CLAUSE: clause, LONG: longer}, selection, known)


def _others(drawn: Sequence[Chain], but: set[Chain]) -> list[Chain]:
    return [chain for chain in dict.fromkeys(drawn) if chain not in but]


@dataclass
class Lines:
    """Rows of some lines in a new order each epoch, numbered by their place in the training."""

    batch: Batch
    seed: int
    rank: int = 0
    ranks: int = 1
    length: int = field(init=False)
    _taken: int = field(init=False, default=0)
    _order: Iterator[Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.length = self.batch.tokens.shape[1]
        order = np.random.default_rng([self.seed, _ORDER])
        self._order = lines.batches_of(len(self.batch.tokens), 1, order)

    def take(self, rows: int) -> Batch:
        """The next rows."""
        self._taken += rows
        return self.batch.rows(torch.cat([next(self._order) for _ in range(rows)]))

    def documents(self, rows: int) -> list[str]:
        """None: lines have no names."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """The number of rows that were taken."""
        return {"row": self._taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes rows until as many as in a saved state are taken."""
        self.take(int(state["row"]) - self._taken)


@dataclass
class Best:
    """The weights of the best validation of a training, and what was measured beside it."""

    step: int = 0
    validation: float = -1.0
    nats: float = float("inf")
    train: float = 0.0
    fitted: int | None = None
    weights: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def see(self, step: int, validation: float, nats: float, train: float, network: nn.Module) -> None:
        """Takes in a measurement; of equally good ones that with the lower loss is kept."""
        if train >= FITTED and self.fitted is None:
            self.fitted = step
        if (validation, -nats) > (self.validation, -self.nats):
            self.step, self.validation, self.nats, self.train = step, validation, nats, train
            self.weights = {name: value.detach().clone() for name, value in network.state_dict().items()}


def train_cell(cell: Cell, device: str) -> dict[str, Any]:
    """Trains a cell, and measures the weights of its best validation on all tests.

    ``right`` has for each test 1 for each right greedy answer; ``validation`` and ``train`` are shares of derivations that are
    right as a whole; ``fitted`` is the step by which enough training chains were learned, None for none; ``steps`` are those of
    the arm's budget. ``failed`` is true if a loss was not finite, which ends the training.
    """
    arm, sets = ARMS[cell.arm], Sets.of(cell)
    model = lines.new_decoder(cell)
    network = model.model.to(device).train()
    if arm.dropout:
        with_dropout(network, arm.dropout)
    known, selection = (_lines(some).to(device) for some in (sets.known[:_LEARNED], sets.selection))
    steps = max(1, round(arm.part * cell.steps))
    corpus, best = _corpus(cell, arm, sets.known, steps), Best()
    every = max(1, steps // LOOKS)

    def loss(_: int) -> Tensor:
        return lines.line_loss(model, corpus.take(cell.rows).for_student().to(device))

    def look(step: int, failed: bool) -> bool:
        if not failed and (step % every == 0 or step == steps):
            network.eval()
            validation, nats = lines.correct_answers(model, selection)
            best.see(step, validation, nats, lines.correct_answers(model, known)[0], network)
            network.train()
        return False

    with torch.random.fork_rng():
        torch.manual_seed(cell.seed)  # of dropout
        trained = train_steps(network, optimizer_of(network, cell.rate), loss, cosine(steps), steps=steps, look=look)
    if best.weights:
        network.load_state_dict(best.weights)
    network.eval()
    return {
        "failed": trained.failed,
        "trained_steps": trained.steps,
        "steps": steps,
        "right": {name: _right(model, chains) for name, chains in sets.tests.items()},
        "validation": max(best.validation, 0.0),
        "best_step": best.step,
        "train": best.train,
        "fitted": best.fitted,
    }


def with_dropout(network: nn.Module, share: float) -> None:
    """Drops this share of what embeddings, mixers and MLPs add to the residual stream, while the network is trained."""

    def after(module: nn.Module, _: Any, found: Any) -> Any:
        if isinstance(found, Tensor):
            return F.dropout(found, share, module.training)
        return (F.dropout(found[0], share, module.training), *found[1:])

    for name, module in network.named_modules():
        if name.rpartition(".")[2] in ("embed_tokens", "mixer", "mlp"):
            module.register_forward_hook(after)


def _corpus(cell: Cell, arm: Arm, known: Sequence[Chain], steps: int) -> Lines | MaskedInputs:
    """The rows that an arm reads."""
    rows = Lines(_lines(known), cell.seed)
    if not arm.share:
        return rows
    token, vocab = (None, BELOW) if arm.random else (MASK, lines.VOCAB)
    return MaskedInputs(rows, Masking(arm.share, vocab, token, round(arm.warmup * steps * cell.rows)))


def _lines(chains: Sequence[Chain]) -> Batch:
    """Chains with derivations that write each result twice."""
    return lines.lines_of([chain.question(twice=True) for chain in chains])


def _right(model: LanguageModel, chains: Sequence[Chain]) -> list[int]:
    """1 for each chain whose greedy answer is right."""
    most = max(len(chain.question(twice=True).answer) for chain in chains) + 13  # one step more, and the end
    texts = lines.greedy(model, [chain.prompt for chain in chains], most=most)
    return [int(chain.checked().check(text)[0]) for chain, text in zip(chains, texts, strict=True)]
