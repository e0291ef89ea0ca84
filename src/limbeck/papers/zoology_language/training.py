"""Trains a small decoder of some mixers on text, and measures it by recall slices, with its state and its speed.

All models of a size have the same width, depth and heads. The width of their MLPs is chosen so that the parameters without
embeddings are as many as the size says, whatever the mixers need. Rows come in the same order for all models of a seed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from transformers import PreTrainedTokenizerFast

from limbeck.corpora import Rows
from limbeck.errors import BadModel
from limbeck.generation.greedy import generate_greedy
from limbeck.models.decoder import LimbeckConfig, LimbeckForCausalLM
from limbeck.models.language_model import LanguageModel
from limbeck.models.mixers.mixer import Mixer
from limbeck.papers.lab.loop import Trained, adamw_of, cosine, train_steps
from limbeck.papers.lab.text import mean_nats, rows_of_training, rows_of_tuning
from limbeck.probes.slices import Bigrams, Slices, measure_slices

DECAY = 0.1  # weight decay of matrices
STEP = 8  # MLPs are as wide as a multiple of this
NEW = 32  # tokens generated to measure the speed
_TOGETHER = 8  # rows measured at once


@dataclass(frozen=True)
class LanguageCell:
    """A training of a decoder of ``parameters`` parameters without embeddings, on ``steps`` steps of ``rows`` rows.

    ``mixers`` repeat until all layers have one. ``measured`` rows of held-out text are read, the same for all.
    """

    name: str
    mixers: tuple[str, ...]
    parameters: int
    vocab: int
    width: int
    layers: int
    heads: int
    length: int
    steps: int
    rate: float
    seed: int
    rows: int
    measured: int


def train_language(cell: LanguageCell, device: str, *, folder: Path) -> dict[str, Any]:
    """Trains a decoder on the text in the folder; gives the sums of `probes.slices` on held-out text, its size and its speed.

    ``failed`` is true if a loss was not finite, which ends the training.
    """
    rows = rows_of_training(folder, length=cell.length, seed=cell.seed, measured=cell.measured)
    return _trained(cell, *rows, device, folder)


def tune_language(cell: LanguageCell, device: str, *, folder: Path) -> dict[str, Any]:
    """As `train_language`, but trains without every tenth document of the training text, and is measured on those.

    Raises BadCorpus if there is nothing to measure.
    """
    rows = rows_of_tuning(folder, length=cell.length, seed=cell.seed, measured=cell.measured)
    return _trained(cell, *rows, device, folder)


@dataclass(frozen=True)
class TrainedDecoder:
    """A decoder after its training, in evaluation mode, alone and with its tokenizer.

    It read ``tokens`` in ``seconds``: of this process on a CPU, where others may run too, else of the clock.
    """

    decoder: LimbeckForCausalLM
    model: LanguageModel
    trained: Trained
    tokens: int
    seconds: float


def train_decoder(cell: LanguageCell, corpus: Rows, device: str, *, folder: Path) -> TrainedDecoder:
    """Trains the decoder of a cell on rows, with the tokenizer in the folder."""
    model = new_decoder(cell).to(device).train()
    optimizer = adamw_of(model, rate=cell.rate, weight_decay=DECAY)
    clock = _clock(device)
    started = clock()
    trained = train_steps(
        model,
        optimizer,
        lambda step: mean_nats(model, corpus.take(cell.rows).to(device)),
        cosine(cell.steps),
        steps=cell.steps,
    )
    spent = clock() - started
    language_model = LanguageModel(model.eval(), tokenizer_of(folder), cell.name)
    return TrainedDecoder(model, language_model, trained, trained.updates * cell.rows * cell.length, spent)


def _trained(
    cell: LanguageCell,
    corpus: Rows,
    measured: Rows,
    chosen: Int64[np.ndarray, " rows"],
    device: str,
    folder: Path,
) -> dict[str, Any]:
    done = train_decoder(cell, corpus, device, folder=folder)
    model, language_model = done.decoder, done.model
    batches = [
        measured.rows_of(chosen[start : start + _TOGETHER]).to(device) for start in range(0, len(chosen), _TOGETHER)
    ]
    bigrams = Bigrams.counted(corpus.store, batches, vocab=language_model.vocab)
    found = measure_slices(language_model, batches, bigrams, documents=measured.store.documents)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "without_embeddings": without_embeddings(model),
        "mlp": model.config.intermediate_size,
        "state_bytes": sum(part.state_bytes(cell.length) for part in model.modules() if isinstance(part, Mixer)),
        "trained_steps": done.trained.updates,
        "trained_tokens": done.tokens,
        "failed": done.trained.failed,
        "tokens_per_s": done.tokens / done.seconds if done.tokens else None,
        "generated_per_s": _generated_per_s(language_model, cell.length, _clock(device)),
        **_sums(found),
    }


def new_decoder(cell: LanguageCell) -> LimbeckForCausalLM:
    """A decoder with tied embeddings whose parameters without them are nearest to those of the cell. Weights depend on the seed.

    Raises BadModel if the mixers alone have more.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)
        mixers = _decoder(cell, STEP)
        a_step = STEP * 3 * cell.width * cell.layers
        more = round((cell.parameters - without_embeddings(mixers)) / a_step)
        if more < 0:
            raise BadModel(
                f"{cell.name}: expected at most {cell.parameters:,} parameters without embeddings, got "
                f"{without_embeddings(mixers):,} with MLPs as narrow as {STEP}: give a smaller width or fewer layers"
            )
        torch.manual_seed(cell.seed)
        return _decoder(cell, STEP * (1 + more))


def without_embeddings(model: LimbeckForCausalLM) -> int:
    """The number of parameters other than those of the tied embeddings."""
    return sum(p.numel() for p in model.parameters()) - model.model.embed_tokens.weight.numel()


def tokenizer_of(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of the text in a folder of `lab.text`."""
    found: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    return found


def _decoder(cell: LanguageCell, inner: int) -> LimbeckForCausalLM:
    return LimbeckForCausalLM(
        LimbeckConfig(
            vocab_size=cell.vocab,
            hidden_size=cell.width,
            intermediate_size=inner,
            mixers=cell.mixers,
            num_hidden_layers=cell.layers,
            num_attention_heads=cell.heads,
            max_position_embeddings=cell.length,
            initializer_range=0.02,
            tie_word_embeddings=True,
            use_cache=False,
        )
    )


def _clock(device: str) -> Callable[[], float]:
    """CPU seconds of this process on a CPU, where other processes may run too; else seconds once the device is done."""
    if device == "cpu":
        return time.process_time

    def done() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return done


def _generated_per_s(model: LanguageModel, length: int, clock: Callable[[], float]) -> float:
    """Tokens/s of greedy generation, one text at a time, after half a row of context."""
    new = min(NEW, length // 2)
    writer = generate_greedy(model, [i % model.vocab for i in range(length // 2)])
    next(writer)
    started = clock()
    for _ in islice(writer, new):
        pass
    return new / max(clock() - started, 1e-9)


def _sums(found: Slices) -> dict[str, Any]:
    """The sums of the documents that were read, as JSON."""
    read = found.tokens.any(1)
    return {name: sums[read].tolist() for name, sums in vars(found).items()}
