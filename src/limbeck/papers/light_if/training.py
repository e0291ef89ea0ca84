"""Trainings of the recipe light-if: a start that knows single rules, tuned on several at once, then trained by a reward.

Test and selection prompts are the same for all seeds, and none of them is a prompt of any tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.corpora.tasks.ruled_strings import LONGEST, RuledString, RuledStrings
from limbeck.errors import NonFiniteLoss
from limbeck.generation.local import Continuation
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.objectives import CrossEntropy, EntropySelect
from limbeck.objectives.policy import PolicyGradient
from limbeck.papers.lab import lines
from limbeck.papers.lab.loop import train_steps
from limbeck.papers.lab.recall import optimizer_of
from limbeck.run.optim import learning_rate
from limbeck.run.policy import PolicyWeights, Rollout
from limbeck.run.questions import Question
from limbeck.run.samples import Judged, Samples, Sampling, sample
from limbeck.run.step import LossTerm, train_step
from limbeck.run.world import alone
from limbeck.types import Batch

START = "start"
SELECT, DROP, EARLY, ALL = "entropy-select", "a fifth dropped at random", "stopped at the same entropy", "all tokens"
SPARSE = "all tokens, sparse reward"
KEEP, WEIGHT = 0.8, 0.8  # as published
EACH = 0.08  # of the dense reward for each rule that is followed, besides 1 for all; published are 0.05 to 0.1
BETA = 1e-3  # weight of the divergence from where the reward began, as published
_SELECTION = 200
_LOOK, _FEW = 10, 60  # steps between two measurements of the entropy, and of how many selection prompts
_CHOICE, _PRETRAINED, _SHOWN, _REWARDED, _MEASURED = 0, 1, 2, 3, 4  # uses of random numbers


@dataclass(frozen=True)
class Cell:
    """A training of one arm: ``steps`` of ``rows`` of ``shown`` strings, then ``reward_steps`` of ``prompts`` with ``samples``.

    ``start`` names the network that is tuned; a start has none. ``rules`` are those of a prompt, in a start one. ``entropy`` in
    nats is where the arm `EARLY` stops, nearest. A ``tuning`` chooses a rate, and is measured on selection prompts.
    """

    name: str
    arm: str
    start: str
    seed: int
    rate: float
    steps: int
    rows: int
    shown: int
    rules: int
    width: int
    layers: int
    heads: int
    reward_rate: float = 0.0
    reward_steps: int = 0
    prompts: int = 0
    samples: int = 8
    tested: int = 0
    entropy: float | None = None
    tuning: bool = False


@dataclass(frozen=True)
class Reward:
    """1 for an answer that follows all rules, and ``each`` for every rule it follows; 0 for one that was cut off."""

    each: float

    @property
    def weights(self) -> PolicyWeights:
        """The policy gradient alone: there is no known answer to learn."""
        return PolicyWeights(1.0, 0.0, BETA)

    def judged(self, question: Question, found: Continuation) -> Judged:
        """The sample with its reward. Its end is learned as it was sampled."""
        assert question.check is not None, "every prompt has rules"
        parts = question.check.check(lines.text_of(found.tokens)) if found.finished else (False,)
        end = () if found.stop is None else (found.stop,)
        rollout = Rollout(question.prompt, (*found.tokens, *end), ())
        return Judged(rollout, all(parts) + self.each * sum(parts), all(parts), found.finished, not found.finished)


def train_cell(cell: Cell, device: str, *, folder: Path) -> dict[str, Any]:
    """Trains a cell, and measures it before the reward (``shown``) and after it (``rewarded``). A start is saved in the folder.

    ``failed`` is true if a loss was not finite, which ends that training.
    """
    test, selection = held_out(cell.rules, cell.tested)
    if cell.arm == START:
        model = lines.new_decoder(cell)
        failed = _pretrain(cell, model, device)
        save(model, folder / cell.name)
        return {"failed": failed}
    model = load(folder / cell.start, device=device, train=True)
    known = {one.prompt for one in (*test, *selection)}
    failed, stopped = _tune(cell, model, _others(cell, _SHOWN, cell.shown, known), selection)
    tested = selection if cell.tuning else test
    shown = {**measured(cell, model, tested), "uncertainty": uncertainty(cell, model, selection)}
    further = _others(cell, _REWARDED, cell.prompts * cell.reward_steps, known)
    failed |= _rewarded(cell, model, further)
    return {"failed": failed, "steps": stopped, "shown": shown, "rewarded": measured(cell, model, tested)}


def held_out(rules: int, tested: int) -> tuple[list[RuledString], list[RuledString]]:
    """Strings whose prompts test, and those that select; no two have one prompt."""
    drawn = RuledStrings(rules).strings(np.random.default_rng(_CHOICE), 3 * (tested + _SELECTION))
    each = [*{one.prompt: one for one in drawn}.values()][: tested + _SELECTION]
    return each[:tested], each[tested:]


def _others(cell: Cell, use: int, n: int, but: set[str]) -> list[RuledString]:
    """Strings for a use, none with the prompts that are left out."""
    drawn = RuledStrings(cell.rules).strings(np.random.default_rng([cell.seed, use]), 2 * n + 1)
    return [one for one in drawn if one.prompt not in but][:n]


def _pretrain(cell: Cell, model: LanguageModel, device: str) -> bool:
    """Trains a decoder on strings with a single rule, each new; gives whether it failed."""
    network, generator = model.model.to(device).train(), np.random.default_rng([cell.seed, _PRETRAINED])

    def loss(_: int) -> Tensor:
        rows = lines.lines_of(RuledStrings(1).questions(generator, cell.rows))
        return lines.line_loss(model, rows.to(device))

    def rate(step: int, peak: float) -> float:
        return learning_rate(step - 1, steps=cell.steps, peak=peak, schedule="wsd")

    return train_steps(network, optimizer_of(network, cell.rate), loss, rate, steps=cell.steps).failed


def _tune(
    cell: Cell, model: LanguageModel, shown: Sequence[RuledString], selection: Sequence[RuledString]
) -> tuple[bool, int]:
    """Tunes on strings with several rules; gives whether it failed, and after how many steps its weights are.

    The arm `EARLY` has those weights of the training on all tokens whose entropy is nearest.
    """
    objective = EntropySelect(keep=KEEP, weight=WEIGHT) if cell.arm == SELECT else CrossEntropy()
    objective.to(model.device).begin(cell.steps)
    near = _Nearest(cell.entropy)

    def look(step: int) -> None:
        if cell.entropy is not None and step % _LOOK == 0:
            near.see(step, model, uncertainty(cell, model, selection))

    look(0)
    failed = _steps(model, cell.rate, (LossTerm(rows, objective) for rows in _rows(cell, shown)), look)
    return failed, near.restore(model) if cell.entropy is not None else cell.steps


class _Nearest:
    """The weights of a training by which the entropy was nearest to one that is given, of those that were seen."""

    def __init__(self, entropy: float | None) -> None:
        self._goal, self._apart, self._step = entropy or 0.0, float("inf"), 0
        self._weights: dict[str, Tensor] = {}

    def see(self, step: int, model: LanguageModel, entropy: float) -> None:
        """Keeps the weights if they are the nearest."""
        apart = abs(entropy - self._goal)
        if apart < self._apart:
            self._apart, self._step = apart, step
            self._weights = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}

    def restore(self, model: LanguageModel) -> int:
        """Puts these weights back; gives their step."""
        model.model.load_state_dict(self._weights)
        return self._step


def _rows(cell: Cell, shown: Sequence[RuledString]) -> Iterator[Batch]:
    """The rows of each step. A fifth of the learned tokens has no weight in the arm that drops at random."""
    every = lines.lines_of([one.question() for one in shown])
    order = lines.batches_of(len(shown), cell.rows, np.random.default_rng([cell.seed, _SHOWN, 1]))
    dropped = np.random.default_rng([cell.seed, _SHOWN, 2])
    for _ in range(cell.steps):
        rows = every.rows(next(order))
        if cell.arm == DROP:
            kept = torch.from_numpy(dropped.random(tuple(rows.weight.shape)) < KEEP)
            rows = replace(rows, weight=rows.weight * kept)
        yield rows


def _rewarded(cell: Cell, model: LanguageModel, further: Sequence[RuledString]) -> bool:
    """Trains by the reward of sampled answers to new prompts, with a leave-one-out baseline; gives whether it failed."""
    reward = Reward(0.0 if cell.arm == SPARSE else EACH)
    questions = [_asked(one) for one in further]
    how = Sampling(cell.samples, LONGEST + 2)
    before = deepcopy(model)
    before.model.requires_grad_(False)
    corpus = Samples(model, before, questions, reward, how, cell.seed)
    objective = PolicyGradient()

    def terms() -> Iterator[LossTerm]:
        for _ in range(cell.reward_steps):
            yield LossTerm(corpus.take(cell.prompts * cell.samples), objective, corpus)

    return _steps(model, cell.reward_rate, terms())


def _steps(
    model: LanguageModel,
    rate: float,
    terms: Iterator[LossTerm],
    look: Callable[[int], None] | None = None,
) -> bool:
    """A step for each term, at a constant rate after some warm-up; gives whether a loss was not finite, which ends it."""
    network = model.model.train()
    optimizer, warmup = optimizer_of(network, rate), 10
    for step, term in enumerate(terms, 1):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, step / warmup)
        try:
            train_step(model, [replace(term, batch=term.batch.to(model.device))], optimizer, mesh=alone())
        except NonFiniteLoss:
            return True
        if look is not None:
            look(step)
            network.train()
    return False


def _asked(one: RuledString) -> Question:
    return Question(one.prompt, tuple(lines.ids_of(one.prompt)), one.checked())


@torch.no_grad()
def measured(cell: Cell, model: LanguageModel, strings: Sequence[RuledString]) -> dict[str, Any]:
    """Samples of each prompt. ``right``: the share that follows all rules; ``any``: 1 where one of them does.

    ``entropy``: the mean entropy in nats of a sampled token, by prompt. ``alike``: the shares of prompts all of whose samples
    have one reward, by the dense reward and by the sparse one.
    """
    found = sample(
        model,
        model,
        [_asked(one) for one in strings],
        Reward(EACH),
        Sampling(cell.samples, LONGEST + 2),
        lambda place, number: np.random.default_rng([_MEASURED, cell.seed, place, number]),
    )
    passed = np.array([[one.passed for one in samples] for samples in found.judged], dtype=float)
    tokens = np.array([sum(len(one.rollout.sampled) for one in samples) for samples in found.judged])
    return {
        "right": passed.mean(1).tolist(),
        "any": passed.max(1).tolist(),
        "entropy": (found.entropy.sum(-1).numpy() / tokens).tolist(),
        "alike": {
            "dense": float((found.reward.amax(-1) == found.reward.amin(-1)).double().mean()),
            "sparse": float((passed.max(1) == passed.min(1)).mean()),
        },
    }


def uncertainty(cell: Cell, model: LanguageModel, selection: Sequence[RuledString]) -> float:
    """The mean entropy of a token that is sampled for a few selection prompts, in nats."""
    return float(np.mean(measured(cell, model, selection[:_FEW])["entropy"]))
