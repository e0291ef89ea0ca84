"""Small decoders trained on multi-query associative recall: the cells of a grid (`trainings.Trainings` keeps them).

Rows are new at every step, and the number of pairs alternates between a few, since many pairs alone are hard to learn from
scratch. Only hidden states at questions pass through the head. Training ends early once selection rows are solved. These have no
other use, and reported rows are others.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.corpora.tasks.mqar import MQAR
from limbeck.corpora.tasks.synthetic import SyntheticCorpus
from limbeck.models.decoder import LimbeckConfig, LimbeckForCausalLM
from limbeck.models.mixers.mixer import Mixer
from limbeck.papers.lab.loop import adamw_of, train_steps
from limbeck.probes.interval import wilson
from limbeck.run.optim import learning_rate
from limbeck.types import Batch

WARMUP, DECAY = 0.1, 0.1  # share of the steps; weight decay
SOLVED = 0.995  # accuracy on the rows that end a training, above that of any claim
LOOK = 125  # steps between two measurements on them


@dataclass(frozen=True)
class Cell:
    """A training. ``pairs`` alternate from step to step, and results are reported for each. ``rows`` are the rows of a step.

    ``learned`` positions are added to the tokens, as in the paper for attention alone.
    """

    name: str
    mixers: tuple[str, ...]
    width: int
    length: int
    vocab: int
    pairs: tuple[int, ...]
    steps: int
    rate: float
    seed: int
    rows: int = 64
    tested: int = 1000
    learned: bool = False

    def task(self, pairs: int) -> MQAR:
        """The task with this number of pairs."""
        return MQAR(vocab=self.vocab, length=self.length, pairs=pairs)


def train(cell: Cell, device: str = "cpu") -> dict[str, Any]:
    """Trains a model from scratch on new rows; gives its accuracy on other rows by pairs and distance, and its cost.

    A loss that is not finite ends the training: ``failed`` is true, and accuracy is that of the weights before.
    """
    started = time.process_time()
    model = new_decoder(cell).to(device).train()
    corpora = [SyntheticCorpus(cell.task(pairs), seed=cell.seed) for pairs in cell.pairs]
    stop = SyntheticCorpus(cell.task(max(cell.pairs)), use="stop").take(cell.tested // 2).to(device)
    curve: list[dict[str, float]] = []

    def loss(step: int) -> Tensor:
        return F.cross_entropy(*question_logits(model, corpora[step % len(corpora)].take(cell.rows).to(device)))

    def rate(step: int, peak: float) -> float:
        return learning_rate(step - 1, steps=cell.steps, peak=peak, schedule="wsd", warmup=WARMUP)

    def look(step: int, failed: bool) -> bool:
        if failed or (step % LOOK and step != cell.steps):
            return False
        right, nats = answered_right(model, stop)
        curve.append({"step": step, "accuracy": float(right.mean()), "nats": nats})
        return curve[-1]["accuracy"] >= SOLVED

    trained = train_steps(model, optimizer_of(model, cell.rate), loss, rate, steps=cell.steps, look=look)
    return {
        **asdict(cell),
        "parameters": sum(p.numel() for p in model.parameters()),
        "state_bytes": state_bytes(model, cell.length),
        "trained_steps": trained.steps,
        "failed": trained.failed,
        "curve": curve,
        "by_pairs": {str(pairs): _tested(model, cell, pairs, device) for pairs in sorted(set(cell.pairs))},
        "cpu_seconds": round(time.process_time() - started, 2),
    }


def new_decoder(cell: Cell) -> LimbeckForCausalLM:
    """A decoder with two norms and a mixer per layer, no MLPs, one head, weights of variance 1 / width, and tied embeddings."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)
        model = LimbeckForCausalLM(
            LimbeckConfig(
                vocab_size=cell.vocab,
                hidden_size=cell.width,
                intermediate_size=0,
                mixers=cell.mixers,
                num_attention_heads=1,
                max_position_embeddings=cell.length,
                position_embeddings="learned" if cell.learned else "none",
                initializer_range=cell.width**-0.5,
                tie_word_embeddings=True,
                use_cache=False,
            )
        )
        if model.model.embed_positions is not None:
            torch.nn.init.normal_(model.model.embed_positions.weight)
    # Tokens have variance 1, as the outputs of mixers. Otherwise attention stays at the chance level. The output head, which
    # has the same weights, is without this factor.
    model.model.embed_tokens.register_forward_hook(lambda module, inputs, found: found * cell.width**0.5)
    return model


def optimizer_of(model: nn.Module, rate: float) -> torch.optim.AdamW:
    """AdamW with one rate for all parameters and torch's betas. Vectors have no weight decay."""
    return adamw_of(model, rate=rate, weight_decay=DECAY, betas=(0.9, 0.999), slow=None)


def question_logits(model: LimbeckForCausalLM, batch: Batch) -> tuple[Float[Tensor, "n V"], Int[Tensor, " n"]]:
    """Logits at the questions (n, V) and their answers (n,), row by row. The head computes no other positions."""
    hidden = model.model(input_ids=batch.tokens, use_cache=False).last_hidden_state
    where = batch.weight > 0
    return model.lm_head(hidden[where]), batch.targets[where]


@torch.no_grad()
def answered_right(model: LimbeckForCausalLM, batch: Batch) -> tuple[Bool[np.ndarray, " n"], float]:
    """Which questions are answered correctly, (n,), and the mean loss of the answers in nats."""
    right, nats = [], 0.0
    for part in _parts(batch, 250):
        logits, targets = question_logits(model, part)
        right.append((logits.argmax(-1) == targets).cpu().numpy())
        nats += float(F.cross_entropy(logits, targets, reduction="sum"))
    found = np.concatenate(right)
    return found, nats / len(found)


def state_bytes(model: LimbeckForCausalLM, length: int) -> int:
    """Bytes of the state of all mixers for one row."""
    return sum(part.state_bytes(length) for part in model.modules() if isinstance(part, Mixer))


def share(right: Bool[np.ndarray, " n"]) -> dict[str, float]:
    """An accuracy with its interval over questions, as JSON."""
    return asdict(wilson(int(right.sum()), len(right)))


def _tested(model: LimbeckForCausalLM, cell: Cell, pairs: int, device: str) -> dict[str, Any]:
    """Accuracy with this number of pairs. Near questions are at most as far from their key as the median one."""
    task = cell.task(pairs)
    batch = SyntheticCorpus(task, use="test").take(cell.tested).to(device)
    right, nats = answered_right(model, batch)
    distance = task.distance(batch)[batch.weight > 0].cpu().numpy()
    near = distance <= np.median(distance)
    return {
        "accuracy": share(right),
        "near": share(right[near]),
        "far": share(right[~near]),
        "median_distance": float(np.median(distance)),
        "nats": nats,
        "right_of_row": right.reshape(-1, pairs).sum(1).tolist(),
        "by_distance": {
            int(d): [int(right[distance == d].sum()), int((distance == d).sum())] for d in np.unique(distance)
        },
    }


def _parts(batch: Batch, rows: int) -> Iterator[Batch]:
    for start in range(0, len(batch.row), rows):
        yield batch.rows(slice(start, start + rows))


def at(result: Mapping[str, Any], pairs: int) -> Mapping[str, Any]:
    """The part of a result from JSON about rows with this number of pairs."""
    found: Mapping[str, Any] = result["by_pairs"][str(pairs)]
    return found
