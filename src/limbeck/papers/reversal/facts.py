"""Trains small models on facts in one direction and tests them in the other, with one or two tokens for each thing.

Two kinds of model predict tokens: *concept*, with one token for each thing, and *name*, with a first and a last name. Two kinds
predict vectors (JEPA: the vector of the answer among those of the batch): *layers* computes the vector of a thing from its name
by attention inside the name, *table* looks it up. Embeddings start near 0. Otherwise the models fit the facts by their random
initial embeddings, and learn no rule that holds in both directions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.corpora.tasks.reversal import Facts, Reversal, reversed_facts
from limbeck.corpora.tasks.synthetic import as_batch
from limbeck.models.decoder import LimbeckConfig, LimbeckForCausalLM, LimbeckModel
from limbeck.papers.lab.loop import adamw_of, train_steps
from limbeck.papers.lab.recall import question_logits
from limbeck.probes.reversal import ranks

WARMUP, COOLING = 0.05, 0.2  # shares of the steps in which the rate rises, and in which it falls to 0
BETAS = (0.9, 0.98)  # of AdamW
EMBEDDED = 1e-3  # standard deviation of initial embeddings
LOOKS = 5  # measurements on training and reversed facts during a training
_SEEN = 100  # facts of each kind in such a measurement
_CHOICE = 0  # seed of the choice of test facts, the same for all kinds


@dataclass(frozen=True)
class Cell:
    """A training. ``kind`` is one of KINDS. With ``repeated``, the test facts are training facts too, as a control.

    ``rows`` is the number of facts of a step. The test has up to ``tested`` one-way facts, and their reversals.
    """

    name: str
    kind: str
    entities: int
    relations: int
    shared: int
    width: int
    steps: int
    rows: int
    rate: float
    decay: float
    seed: int
    tested: int
    repeated: bool = False

    @property
    def world(self) -> Reversal:
        """The things and facts, others for each seed."""
        level = "concept" if self.kind == "concept" else "name"
        return Reversal(self.entities, self.relations, level, self.shared, world=self.seed)


def train(cell: Cell, device: str) -> dict[str, Any]:
    """Trains a model from scratch on sampled training facts.

    The result has reciprocal ranks among all things (``told`` of training facts, ``asked`` of their reversals), the chance level,
    and curves of both. A loss that is not finite ends the training: ``failed`` is true, and ranks are those of the last weights.
    """
    world = cell.world
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)
        model = KINDS[cell.kind](cell, world).to(device)
    optimizer = adamw_of(model, rate=cell.rate, weight_decay=cell.decay, betas=BETAS)  # embeddings decay as matrices do
    facts = np.concatenate([world.training_facts, world.test_facts]) if cell.repeated else world.training_facts
    draw = np.random.default_rng([cell.seed, 2])
    questions = questions_of(world, cell.tested)
    curve: list[dict[str, float]] = []

    def loss(_: int) -> Tensor:
        found: Tensor = model.loss(facts[draw.integers(len(facts), size=cell.rows)])
        return found

    def look(step: int, failed: bool) -> bool:
        if not failed and step * LOOKS // cell.steps > (step - 1) * LOOKS // cell.steps:
            seen = {key: float(reciprocal_ranks(model, some[:_SEEN]).mean()) for key, some in questions.items()}
            curve.append({"step": step, **seen})
        return False

    trained = train_steps(
        model, optimizer, loss, lambda step, peak: peak * _factor(step / cell.steps), steps=cell.steps, look=look
    )
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": trained.steps,
        "failed": trained.failed,
        "curve": curve,
        "chance": by_luck(world, questions["asked"]),
        "things": world.things,
        **{key: reciprocal_ranks(model, some).tolist() for key, some in questions.items()},
    }


def questions_of(world: Reversal, most: int) -> dict[str, Facts]:
    """Up to ``most`` training facts without a reversal in training ("told"), and their reversals ("asked")."""
    chosen = np.random.default_rng(_CHOICE).permutation(len(world.test_facts))[:most]
    return {"told": reversed_facts(world.test_facts[chosen]), "asked": world.test_facts[chosen]}


def by_luck(world: Reversal, facts: Facts) -> dict[str, float]:
    """The chance level of MRR and hits, as the mean over questions.

    ``mrr`` and ``hits`` are those of a uniform guess among the things that training facts leave open for this relation: things
    with one-way facts that are not yet an answer. ``mrr_of_all`` is that of a guess among all things.
    """
    open_ = np.bincount(world.test_facts[:, 1], minlength=2 * world.relations)[facts[:, 1]]
    return {
        "mrr": float(np.mean([_mean_reciprocal(int(n)) for n in open_])),
        "hits": float((1 / open_).mean()),
        "mrr_of_all": _mean_reciprocal(world.things),
    }


@torch.no_grad()
def reciprocal_ranks(model: Learner, facts: Facts) -> Float[np.ndarray, " n"]:
    """1 / rank of the correct tail among all things, for each fact."""
    return 1 / ranks(model.scores(facts).double().cpu().numpy(), facts[:, 2])


class Learner(nn.Module):
    """A model that trains on facts and scores all things as the tail of a fact. Subclasses define both methods."""

    def loss(self, facts: Facts) -> Float[Tensor, ""]:
        """The mean loss of the tails of facts, in nats."""
        raise NotImplementedError

    def scores(self, facts: Facts) -> Float[Tensor, "n things"]:
        """A score of each thing as the tail of each fact. A higher score is more probable."""
        raise NotImplementedError


class TokenLearner(Learner):
    """A decoder that predicts the tokens of the answer. It has one layer, or two if things have names of two tokens."""

    def __init__(self, cell: Cell, world: Reversal) -> None:
        super().__init__()
        self.world = world
        layers = world.spelling.shape[1]
        self.decoder = LimbeckForCausalLM(_config(cell, world.vocab, layers=layers))
        nn.init.normal_(self.decoder.model.embed_tokens.weight, std=EMBEDDED)
        self.register_buffer("spelling", torch.from_numpy(world.spelling))

    def loss(self, facts: Facts) -> Float[Tensor, ""]:
        batch = as_batch(self.world.rows(facts)).to(self.decoder.device)
        return F.cross_entropy(*question_logits(self.decoder, batch))

    def scores(self, facts: Facts) -> Float[Tensor, "n things"]:
        """Log-likelihood of all tokens of each thing."""
        spelling: Int[Tensor, "things tokens"] = self.get_buffer("spelling")
        tokens = spelling.shape[1]
        question = torch.from_numpy(self.world.rows(facts).tokens[:, : tokens + 1]).to(spelling.device)
        log_p = self._next(question)[:, spelling[:, 0]]
        if tokens == 1:
            return log_p
        for first in spelling[:, 0].unique():
            whose = (spelling[:, 0] == first).nonzero()[:, 0]
            with_first = torch.cat([question, first.expand(len(question), 1)], 1)
            log_p[:, whose] += self._next(with_first)[:, spelling[whose, 1]]
        return log_p

    def _next(self, tokens: Int[Tensor, "n T"]) -> Float[Tensor, "n V"]:
        return self.decoder(input_ids=tokens, use_cache=False, logits_to_keep=1).logits[:, -1].log_softmax(-1)


class VectorLearner(Learner):
    """Vectors of things by ``recognise``, and a layer that predicts the vector of the answer from head and relation."""

    def __init__(self, cell: Cell, world: Reversal, recognise: nn.Module) -> None:
        super().__init__()
        self.things, self.recognise = world.things, recognise
        self.relations = _embedding(2 * world.relations, cell.width)
        self.semantic = LimbeckModel(_config(cell, 1, layers=1))
        # The prediction is divided by its root mean square. The vectors of things are not.
        self.semantic.add_module("norm", nn.RMSNorm(cell.width, elementwise_affine=False))

    def loss(self, facts: Facts) -> Float[Tensor, ""]:
        """Cross-entropy over the distinct things of the batch. A repeated thing would count as a wrong answer too."""
        batch = torch.from_numpy(facts).to(self.relations.weight.device)
        things, place = batch[:, [0, 2]].unique(return_inverse=True)
        vectors = self.recognise(things)
        return F.cross_entropy(self._predicted(vectors[place[:, 0]], batch[:, 1]) @ vectors.T, place[:, 1])

    def scores(self, facts: Facts) -> Float[Tensor, "n things"]:
        question = torch.from_numpy(facts).to(self.relations.weight.device)
        vectors = self.recognise(torch.arange(self.things, device=question.device))
        return self._predicted(vectors[question[:, 0]], question[:, 1]) @ vectors.T

    def _predicted(self, heads: Float[Tensor, "n D"], relations: Int[Tensor, " n"]) -> Float[Tensor, "n D"]:
        row = torch.stack([heads, self.relations(relations)], 1)
        found: Tensor = self.semantic(inputs_embeds=row, use_cache=False).last_hidden_state[:, -1]
        return found


class NameLayer(nn.Module):
    """A layer over the tokens of a name. The vector of a thing is the hidden state of its last name."""

    def __init__(self, cell: Cell, world: Reversal) -> None:
        super().__init__()
        self.register_buffer("spelling", torch.from_numpy(world.spelling))
        self.reader = LimbeckModel(_config(cell, 2 * world.names, layers=1))
        self.reader.add_module("norm", nn.Identity())
        nn.init.normal_(self.reader.embed_tokens.weight, std=EMBEDDED)

    def forward(self, things: Int[Tensor, " n"]) -> Float[Tensor, "n D"]:
        names = self.get_buffer("spelling")[things]
        found: Tensor = self.reader(input_ids=names, use_cache=False).last_hidden_state[:, -1]
        return found


class NameTable(nn.Module):
    """A memory with a slot for each thing, whose key is nearest to the mean of its two name vectors. Names and keys are fixed."""

    def __init__(self, cell: Cell, world: Reversal) -> None:
        super().__init__()
        tokens = F.normalize(torch.randn(2 * world.names, cell.width), dim=-1)
        self.register_buffer("names", tokens[torch.from_numpy(world.spelling)].mean(1))
        self.register_buffer("keys", F.normalize(self.get_buffer("names"), dim=-1))
        self.values = _embedding(world.things, cell.width)

    def forward(self, things: Int[Tensor, " n"]) -> Float[Tensor, "n D"]:
        slot = (self.get_buffer("names")[things] @ self.get_buffer("keys").T).argmax(-1)
        found: Tensor = self.values(slot)
        return found


KINDS: Mapping[str, Any] = {
    "concept": TokenLearner,
    "name": TokenLearner,
    "layers": lambda cell, world: VectorLearner(cell, world, NameLayer(cell, world)),
    "table": lambda cell, world: VectorLearner(cell, world, NameTable(cell, world)),
}


def _config(cell: Cell, vocab: int, *, layers: int) -> LimbeckConfig:
    """A decoder with attention without positions, an MLP as wide as the model, weights of variance 1 / width, and a tied head."""
    return LimbeckConfig(
        vocab_size=vocab,
        hidden_size=cell.width,
        intermediate_size=cell.width,
        mixers=["attention:rope=false"],
        num_hidden_layers=layers,
        num_attention_heads=1,
        initializer_range=cell.width**-0.5,
        tie_word_embeddings=True,
        use_cache=False,
    )


def _embedding(count: int, width: int) -> nn.Embedding:
    found = nn.Embedding(count, width)
    nn.init.normal_(found.weight, std=EMBEDDED)
    return found


def _factor(done: float) -> float:
    """The factor of the learning rate by the share of completed steps: linear warm-up, constant, linear decay.

    In trials, reversals improved while the rate was high, and training facts were fitted only after it had fallen.
    """
    return min(1.0, done / WARMUP, (1.0 - done) / COOLING)


def _mean_reciprocal(n: int) -> float:
    """The mean of 1 / rank, for a rank that is uniform from 1 to n."""
    return float((1 / np.arange(1, n + 1)).mean())
