"""Trainings of the recipe latro: a warm-up on chains with derivations, and tunings of it on chains with their answers alone.

The warm-up ends once a share of selection chains is answered, so that derivations exist and can still be better. Test chains are
the same for all seeds, and neither they nor selection chains are in any training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.corpora.tasks.chains import MARKER, Chain, Chains
from limbeck.generation.generators import Sampling
from limbeck.generation.local import Continuation
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.papers.lab import lines
from limbeck.papers.lab.loop import train_steps
from limbeck.papers.lab.recall import optimizer_of
from limbeck.run.optim import learning_rate
from limbeck.run.policy import PolicyWeights, Rollout, Scores, policy_loss, scores

WARM_UP = "start"
ANSWERS = "answers only"
LATRO, RELEASE, LIKELIHOOD = "LaTRO", "LaTRO without its answer half", "answer half alone"
EXACT, STAR = "exact match", "STaR"
BETA = 0.05  # weight of the KL divergence from the start
WEIGHTS = {
    LATRO: PolicyWeights(1.0, 1.0, BETA),
    RELEASE: PolicyWeights(1.0, 0.0, BETA),
    LIKELIHOOD: PolicyWeights(0.0, 1.0, 0.0),
    EXACT: PolicyWeights(1.0, 0.0, BETA),
}
ENOUGH = 0.35  # of selection chains answered, which ends the warm-up
_LOOK = 25  # steps between two measurements of them
_SELECTION = 200
_SCORED = 250  # chains scored at once, and of the divergence from the start
_END = 0
_CHOICE, _WARM, _TUNED = 0, 1, 2  # uses of random numbers


@dataclass(frozen=True)
class Cell:
    """A training of one arm: ``steps`` of ``questions`` chains of ``length`` operations, each sampled ``samples`` times.

    ``start`` names the warm-up that is tuned; a warm-up has none, and learns ``examples`` chains with derivations. A ``tuning``
    chooses a rate, and is measured on selection chains.
    """

    name: str
    arm: str
    start: str
    seed: int
    rate: float
    steps: int
    length: int
    examples: int
    width: int
    layers: int
    heads: int
    questions: int
    samples: int
    tested: int
    tuning: bool = False

    @property
    def most(self) -> int:
        """The most tokens of an answer: those of the longest right one, and a step more."""
        return 6 * (self.length + 1) + 3


@dataclass(frozen=True)
class _Sets:
    """The chains of a cell: what it is tested on, what selects, and what it learns from."""

    test: Sequence[Chain]
    selection: Sequence[Chain]
    known: Sequence[Chain]

    @classmethod
    def of(cls, cell: Cell, use: int, n: int) -> _Sets:
        task, choice = Chains(cell.length), np.random.default_rng(_CHOICE)
        held_out = list(dict.fromkeys(task.chains(choice, 2 * (cell.tested + _SELECTION))))[: cell.tested + _SELECTION]
        drawn, known = task.chains(np.random.default_rng([cell.seed, use]), n), set(held_out)
        return cls(held_out[: cell.tested], held_out[cell.tested :], [one for one in drawn if one not in known])


def train_cell(cell: Cell, device: str, *, folder: Path) -> dict[str, Any]:
    """Trains a cell, and measures it on the test chains (`_measured`). A warm-up is saved in the folder for those it starts.

    ``failed`` is true if a loss was not finite, which ends the training.
    """
    if cell.arm == WARM_UP:
        model, sets, trained = _warm(cell, device)
        save(model, folder / cell.name)
        start = model
    else:
        model, start = (load(folder / cell.start, device=device, train=train) for train in (True, False))
        sets, trained = _tune(cell, model, start)
    tested = sets.selection if cell.tuning else sets.test
    return {"failed": trained.failed, "trained_steps": trained.steps, **_measured(cell, model, start, tested)}


def _warm(cell: Cell, device: str) -> tuple[LanguageModel, _Sets, Any]:
    """Trains a decoder on chains with derivations until it answers enough selection chains."""
    sets = _Sets.of(cell, _WARM, cell.examples)
    model = lines.new_decoder(cell)
    network = model.model.to(device).train()
    rows = lines.lines_of([chain.question() for chain in sets.known]).to(device)
    batches = lines.batches_of(
        len(sets.known), cell.questions * cell.samples, np.random.default_rng([cell.seed, _WARM, 1])
    )

    def look(step: int, failed: bool) -> bool:
        return not failed and step % _LOOK == 0 and _answered(cell, model, sets.selection).mean() >= ENOUGH

    def loss(_: int) -> Tensor:
        return lines.line_loss(model, rows.rows(next(batches).to(device)))

    optimizer = optimizer_of(network, cell.rate)
    return model, sets, train_steps(network, optimizer, loss, _constant(cell), steps=cell.steps, look=look)


def _tune(cell: Cell, model: LanguageModel, start: LanguageModel) -> tuple[_Sets, Any]:
    """Tunes a model on the prompts of chains and their answers. Answers only has as many chains a step as others have samples."""
    alone = cell.arm == ANSWERS
    each = cell.questions * (cell.samples if alone else 1)
    sets = _Sets.of(cell, _TUNED, each * cell.steps + _SELECTION)

    def loss(step: int) -> Tensor:
        chains = sets.known[(step - 1) * each : step * each]
        if alone:
            rows = lines.lines_of([chain.question(derived=False) for chain in chains])
            return lines.line_loss(model, rows.to(model.device))
        return _loss_of_samples(cell, model, start, chains, step)

    trained = train_steps(model.model, optimizer_of(model.model, cell.rate), loss, _constant(cell), steps=cell.steps)
    return sets, trained


def _loss_of_samples(
    cell: Cell, model: LanguageModel, start: LanguageModel, chains: Sequence[Chain], step: int
) -> Tensor:
    """The loss of an arm that samples rationales."""
    how = Sampling(cell.most, samples=cell.samples, seed=cell.seed * 2**20 + step)
    found = lines.sampled(model, [chain.prompt for chain in chains], how)
    rollouts = [[_rollout(chain, one.tokens) for one in many] for chain, many in zip(chains, found, strict=True)]
    now = scores(model, rollouts)
    right = torch.tensor(
        [[float(_is_right(chain, one)) for one in many] for chain, many in zip(chains, found, strict=True)],
        device=now.sampled.device,
    )
    if cell.arm == STAR:
        return -(right * (now.sampled + now.answer)).sum() / right.sum().clamp_min(1)
    weights = WEIGHTS[cell.arm]
    with torch.no_grad():
        before = scores(start, rollouts).sampled if weights.policy else now.sampled
    return policy_loss(now, before, weights, reward=right if cell.arm == EXACT else None)


def _rollout(chain: Chain, tokens: Sequence[int]) -> Rollout:
    """A prompt, the rationale in generated tokens, and the right answer. What was written after the marker is cut.

    Where the marker was not written, it begins the answer, so that a rationale without an end makes the answer unlikely.
    """
    marker = ord(MARKER)
    marked = marker in tokens
    rationale = tuple(tokens[: tokens.index(marker) + 1] if marked else tokens)
    answer = lines.ids_of(chain.answer if marked else MARKER + chain.answer)
    return Rollout(tuple(lines.ids_of(chain.prompt)), rationale, (*answer, _END))


def _is_right(chain: Chain, completion: Continuation) -> bool:
    return completion.finished and chain.checked().check(lines.text_of(completion.tokens))[0]


def _answered(cell: Cell, model: LanguageModel, chains: Sequence[Chain]) -> np.ndarray:
    """Whether the greedy answer to each chain is right, (n,)."""
    texts = lines.greedy(model, [chain.prompt for chain in chains], most=cell.most)
    return np.array([chain.checked().check(text)[0] for chain, text in zip(chains, texts, strict=True)], dtype=float)


@torch.no_grad()
def _measured(cell: Cell, model: LanguageModel, start: LanguageModel, chains: Sequence[Chain]) -> dict[str, Any]:
    """Greedy answers to chains, and what their rationales are worth.

    ``right`` is 1 for each right answer. ``own`` is the mean log-probability in nats of the right answer after the model's own
    greedy rationale, ``other`` that after the rationale of another chain; their difference is small where rationales are not
    read. ``length`` is the mean number of tokens of rationales, and ``kl`` the divergence of sampled ones from the start in nats.
    """
    model.model.eval()
    texts = lines.greedy(model, [chain.prompt for chain in chains], most=cell.most)
    right = [int(chain.checked().check(text)[0]) for chain, text in zip(chains, texts, strict=True)]
    written = [tuple(lines.ids_of(text)) for text in texts]
    own = [_rollout(*pair) for pair in zip(chains, written, strict=True)]
    other = [_rollout(*pair) for pair in zip(chains, [*written[1:], written[0]], strict=True)]
    some = chains[:_SCORED]
    how = Sampling(cell.most, seed=cell.seed)
    found = lines.sampled(model, [chain.prompt for chain in some], how)
    sampled = [_rollout(chain, many[0].tokens) for chain, many in zip(some, found, strict=True)]
    apart = _scored(model, sampled, _of_sampled) - _scored(start, sampled, _of_sampled)
    return {
        "right": right,
        "own": float(_scored(model, own, _of_answer).mean()),
        "other": float(_scored(model, other, _of_answer).mean()),
        "length": float(np.mean([len(one.sampled) for one in own])),
        "kl": float(apart.mean()),
    }


def _scored(model: LanguageModel, rollouts: Sequence[Rollout], part: Callable[[Scores], Tensor]) -> np.ndarray:
    """A part of the scores of rollouts, (n,)."""
    found = [
        part(scores(model, [[one] for one in rollouts[begin : begin + _SCORED]]))[:, 0].cpu().numpy()
        for begin in range(0, len(rollouts), _SCORED)
    ]
    return np.concatenate(found)


def _of_sampled(found: Scores) -> Tensor:
    return found.sampled


def _of_answer(found: Scores) -> Tensor:
    return found.answer


def _constant(cell: Cell) -> Callable[[int, float], float]:
    """The schedule of rates: constant after warm-up."""
    return lambda step, peak: learning_rate(step - 1, steps=cell.steps, peak=peak, schedule="constant")
