"""Small decoders on lines of text: a prompt and its answer, with a loss on the answer. Several recipes train them.

A token is an ASCII character, and 0 ends a text. The rate is constant after warm-up, so one training measured after T and 2 T
steps stands for two trainings. It ends early once selection questions are answered. These have no other use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import Any, Protocol, cast

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from limbeck.corpora.tasks.spelled import Question
from limbeck.corpora.tasks.synthetic import Drawing, as_batch
from limbeck.generation.generators import Sampling
from limbeck.generation.local import Continuation, generate
from limbeck.models.decoder import LimbeckConfig, LimbeckForCausalLM
from limbeck.models.language_model import LanguageModel
from limbeck.papers.lab.loop import train_steps
from limbeck.papers.lab.recall import optimizer_of, question_logits
from limbeck.run.optim import learning_rate
from limbeck.types import Batch

SOLVED = 0.995  # accuracy on selection questions that ends a training
LOOK = 100  # steps between two measurements on them
VOCAB = 128
_END = 0
_TOGETHER = 256  # sampled answers in a batch


class Decoder(Protocol):
    """The shape and the start of a decoder."""

    @property
    def width(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def seed(self) -> int: ...


class Cell(Decoder, Protocol):
    """A training, measured after each of ``steps``, the last of which ends it.

    A step has as many lines as ``step_tokens`` tokens contain on average, so that answers of any length train for as many steps
    on as many tokens. ``whole_line``: prompts are learned too.
    """

    @property
    def steps(self) -> tuple[int, ...]: ...
    @property
    def rate(self) -> float: ...
    @property
    def step_tokens(self) -> int: ...
    @property
    def whole_line(self) -> bool: ...


def train(
    cell: Cell,
    known: Sequence[Question],
    stop: Sequence[Question],
    measure: Callable[[LanguageModel], Mapping[str, int]],
    *,
    generator: np.random.Generator,
    device: str = "cpu",
) -> dict[str, Any]:
    """Trains a decoder from scratch on ``known`` lines; gives what ``measure`` finds after each of the steps.

    ``stop`` are the selection questions; ``generator`` orders the lines. Of the result, ``tokens`` is the size of the training
    set, ``rows`` the lines of a step. A loss that is not finite ends the training, and ``failed`` is true.
    """
    lines, stopping = lines_of(known, whole_line=cell.whole_line).to(device), lines_of(stop).to(device)
    model = new_decoder(cell)
    network = model.model.to(device).train()
    tokens = tokens_of(known)
    rows = max(1, round(cell.step_tokens * len(known) / tokens))
    batches = batches_of(len(known), rows, generator)
    found: dict[str, Any] = {}
    nats = float("nan")

    def loss(_: int) -> Tensor:
        return line_loss(model, lines.rows(next(batches).to(device)))

    def rate(step: int, peak: float) -> float:
        return learning_rate(step - 1, steps=cell.steps[0], peak=peak, schedule="constant")

    def look(step: int, failed: bool) -> bool:
        nonlocal nats
        solved = False
        if failed or step % LOOK == 0 or step == cell.steps[-1]:
            right, nats = correct_answers(model, stopping)
            solved = right >= SOLVED
        if failed or solved or step in cell.steps:
            measured = measure(model)
            found.update({str(at): measured for at in cell.steps if at == step or (at > step and (failed or solved))})
        return solved

    trained = train_steps(network, optimizer_of(network, cell.rate), loss, rate, steps=cell.steps[-1], look=look)
    return {
        "parameters": model.parameters_count,
        "tokens": tokens,
        "rows": rows,
        "trained_steps": trained.steps,
        "failed": trained.failed,
        "nats": nats,
        "by_steps": found,
    }


def new_decoder(cell: Decoder) -> LanguageModel:
    """A decoder with attention, rotary positions and SwiGLU, with the head tied to the embeddings."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)
        found = LimbeckForCausalLM(
            LimbeckConfig(
                vocab_size=VOCAB,
                hidden_size=cell.width,
                intermediate_size=cell.width * 8 // 3,
                mixers=("attention",) * cell.layers,
                num_attention_heads=cell.heads,
                tie_word_embeddings=True,
                use_cache=False,
            )
        )
    return LanguageModel(found, characters(), "decoder")


@cache
def characters() -> PreTrainedTokenizerFast:
    """A tokenizer with one token for each ASCII character, whose id is its code. Code 0 ends a text."""
    inner = Tokenizer(models.BPE({chr(code): code for code in range(VOCAB)}, []))
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=chr(_END), pad_token=chr(_END))


def ids_of(text: str) -> list[int]:
    """The tokens of an ASCII text."""
    return list(text.encode("ascii"))


def text_of(tokens: Sequence[int]) -> str:
    """The text of some tokens."""
    return bytes(tokens).decode("ascii")


def lines_of(questions: Sequence[Question], *, whole_line: bool = False) -> Batch:
    """Prompts with their answers as padded rows. The targets are the answer and its end, of a ``whole_line`` all tokens."""
    rows = [f"{q.prompt}{q.answer}".encode("ascii") for q in questions]
    first = np.array([len(q.prompt) for q in questions])[:, None]
    lengths = np.array([len(row) for row in rows])[:, None]
    tokens = np.full((len(rows), int(lengths.max()) + 1), _END, dtype=np.int64)
    for row, text in enumerate(rows):
        tokens[row, : len(text)] = np.frombuffer(text, dtype=np.uint8)
    place = np.arange(1, tokens.shape[1])  # of the next token
    asked = (place <= lengths) & (whole_line | (place >= first))
    return as_batch(Drawing(tokens[:, :-1].copy(), tokens[:, 1:].copy(), asked))


def tokens_of(questions: Sequence[Question]) -> int:
    """The tokens of prompts with answers and end tokens."""
    return sum(len(q.prompt) + len(q.answer) + 1 for q in questions)


def batches_of(lines: int, rows: int, generator: np.random.Generator) -> Iterator[Tensor]:
    """Endless batches of line numbers. Each epoch has a new order."""
    waiting = np.zeros(0, dtype=np.int64)
    while True:
        while len(waiting) < rows:
            waiting = np.concatenate([waiting, generator.permutation(lines)])
        yield torch.from_numpy(waiting[:rows])
        waiting = waiting[rows:]


def line_loss(model: LanguageModel, lines: Batch) -> Tensor:
    """The mean loss of the targets of some lines, in nats per token."""
    return F.cross_entropy(*question_logits(network_of(model), lines))


@torch.no_grad()
def correct_answers(model: LanguageModel, lines: Batch) -> tuple[float, float]:
    """The share of answers whose every token is the most probable one given the correct prefix, and their mean loss in nats."""
    logits, targets = question_logits(network_of(model), lines)
    wrong = torch.zeros(lines.weight.shape, dtype=torch.bool, device=targets.device)
    wrong[lines.weight > 0] = logits.argmax(-1) != targets
    return float((~wrong.any(1)).float().mean()), float(F.cross_entropy(logits, targets))


def greedy(model: LanguageModel, prompts: Sequence[str], *, most: int) -> list[str]:
    """Greedy answers to prompts up to their end, of at most ``most`` tokens. Prompts of equal length form a batch."""
    found = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for _, same in groupby(order, key=lambda i: len(prompts[i])):
        rows = list(same)
        tokens, uniforms = [ids_of(prompts[i]) for i in rows], np.zeros((len(rows), most))
        answers = generate(model, tokens, max_new_tokens=most, temperature=0.0, uniforms=uniforms)
        for i, answer in zip(rows, answers, strict=True):
            found[i] = text_of(answer.tokens)
    return found


def sampled(model: LanguageModel, prompts: Sequence[str], sampling: Sampling) -> list[list[Continuation]]:
    """For each prompt its sampled answers, as tokens. Each has its own random numbers, which do not depend on the others.

    Samples of prompts of similar length form a batch.
    """
    k, most = sampling.samples, sampling.max_new_tokens
    tokens = [ids_of(prompt) for prompt in prompts]
    order = sorted(range(len(prompts) * k), key=lambda number: (len(tokens[number // k]), number))
    found: dict[int, Continuation] = {}
    for start in range(0, len(order), _TOGETHER):
        part = order[start : start + _TOGETHER]
        answers = generate(
            model,
            [tokens[number // k] for number in part],
            max_new_tokens=most,
            temperature=sampling.temperature,
            uniforms=np.stack([sampling.random(number).random(most) for number in part]),
        )
        found.update(zip(part, answers, strict=True))
    return [[found[row * k + number] for number in range(k)] for row in range(len(prompts))]


def network_of(model: LanguageModel) -> LimbeckForCausalLM:
    """The network of a decoder that was made here."""
    return cast(LimbeckForCausalLM, model.model)
