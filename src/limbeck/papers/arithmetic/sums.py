"""Trains small decoders on a fixed set of sums in one format: the cells of the recipe arithmetic.

A token is a byte, and 0 ends a text. The rate is constant after warm-up, so one training measured after T and 2 T steps stands
for two trainings. It ends early once selection sums are correct. These have no other use, and the reported test sums are others.
Neither are in the training set, in either order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn import functional as F

from limbeck.corpora.tasks.arithmetic import Arithmetic, Sum, question
from limbeck.corpora.tasks.spelled import Question
from limbeck.corpora.tasks.synthetic import Drawing, as_batch
from limbeck.models.cached import read_on
from limbeck.models.decoder import LimbeckConfig, LimbeckForCausalLM
from limbeck.papers.lab.loop import train_steps
from limbeck.papers.lab.recall import optimizer_of, question_logits
from limbeck.run.optim import learning_rate
from limbeck.types import Batch

SOLVED = 0.995  # accuracy on selection sums that ends a training
LOOK = 100  # steps between two measurements on them
VOCAB = 128
_END = 0
_TRAIN, _TEST = 0, 1  # uses of a seed's random numbers

Pairs = Int64[np.ndarray, "n 2"]


@dataclass(frozen=True)
class Cell:
    """A training on ``samples`` distinct sums, measured after each of ``steps``.

    A step has as many lines as ``step_tokens`` tokens contain on average, so that formats of any length train for as many steps
    on as many tokens. ``padded``: numbers have leading zeros. ``whole_line``: the question is learned too, as in the paper.
    """

    name: str
    form: str
    samples: int
    steps: tuple[int, ...]
    rate: float
    seed: int
    width: int = 96
    layers: int = 2
    heads: int = 4
    step_tokens: int = 900
    digits: int = 3
    padded: bool = True
    tested: int = 1000
    whole_line: bool = False


def train(cell: Cell, device: str = "cpu") -> dict[str, Any]:
    """Trains a decoder from scratch; gives the correct unseen sums, and longer ones, after each of the steps.

    ``tokens`` is the size of the training set, ``rows`` the lines of a step. A loss that is not finite ends the training, and
    ``failed`` is true.
    """
    known = training_pairs(cell.seed, cell.samples, digits=cell.digits)
    unseen = unseen_pairs(cell.seed, known, digits=cell.digits, n=cell.tested + cell.tested // 2)
    test, stop = unseen[: cell.tested], unseen[cell.tested :]
    lines = lines_of(known, cell).to(device)
    stopping = lines_of(stop, cell, whole_line=False).to(device)
    model = new_decoder(cell).to(device).train()
    tokens = _tokens(_questions(known, cell))
    rows = max(1, round(cell.step_tokens * cell.samples / tokens))
    batches = _batches(cell.samples, rows, np.random.default_rng([cell.seed, _TRAIN, 1]))
    found: dict[str, Any] = {}
    nats = float("nan")

    def loss(_: int) -> Tensor:
        return F.cross_entropy(*question_logits(model, _some(lines, next(batches))))

    def rate(step: int, peak: float) -> float:
        return learning_rate(step - 1, steps=cell.steps[0], peak=peak, schedule="constant")

    def look(step: int, failed: bool) -> bool:
        nonlocal nats
        solved = False
        if failed or step % LOOK == 0 or step == cell.steps[-1]:
            right, nats = correct_answers(model, stopping)
            solved = right >= SOLVED
        if failed or solved or step in cell.steps:
            tested = _tested(model, test, cell)
            found.update({str(at): tested for at in cell.steps if at == step or (at > step and (failed or solved))})
        return solved

    trained = train_steps(model, optimizer_of(model, cell.rate), loss, rate, steps=cell.steps[-1], look=look)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": tokens,
        "rows": rows,
        "trained_steps": trained.steps,
        "failed": trained.failed,
        "nats": nats,
        "by_steps": found,
    }


def training_pairs(seed: int, samples: int, *, digits: int) -> Pairs:
    """Distinct sums, balanced in digits and carries. For one seed, a smaller set is the beginning of a larger one."""
    generator, task = np.random.default_rng([seed, _TRAIN]), Arithmetic(digits=digits)
    found = np.zeros((0, 2), dtype=np.int64)
    while len(found) < samples:
        found = np.concatenate([found, np.stack(task.sums(generator, 4096), -1)])
        found = found[np.sort(np.unique(found, axis=0, return_index=True)[1])]
    return found[:samples]


def unseen_pairs(seed: int, known: Pairs, *, digits: int, n: int) -> Pairs:
    """Distinct sums of uniform numbers that are not known in either order."""
    most = 10**digits
    codes = np.unique(np.concatenate([known @ [most, 1], known @ [1, most]]))
    free = np.random.default_rng([seed, _TEST]).permutation(most**2)
    free = free[~np.isin(free, codes)][:n]
    return np.stack(np.divmod(free, most), -1)


def longer_pairs(seed: int, *, digits: int, n: int) -> Pairs:
    """Sums of two numbers with one more digit than in training."""
    return np.random.default_rng([seed, _TEST, 1]).integers(10**digits, 10 ** (digits + 1), size=(n, 2))


def new_decoder(cell: Cell) -> LimbeckForCausalLM:
    """A decoder with attention, rotary positions and SwiGLU, with the head tied to the embeddings."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)
        return LimbeckForCausalLM(
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


def lines_of(pairs: Pairs, cell: Cell, *, whole_line: bool | None = None) -> Batch:
    """Sums as padded rows of bytes. The targets are the answer and its end."""
    questions = _questions(pairs, cell)
    rows = [f"{q.prompt}{q.answer}".encode("ascii") for q in questions]
    first = np.array([len(q.prompt) for q in questions])[:, None]
    lengths = np.array([len(row) for row in rows])[:, None]
    tokens = np.full((len(rows), int(lengths.max()) + 1), _END, dtype=np.int64)
    for row, text in enumerate(rows):
        tokens[row, : len(text)] = np.frombuffer(text, dtype=np.uint8)
    place = np.arange(1, tokens.shape[1])  # of the next token
    learned = cell.whole_line if whole_line is None else whole_line
    asked = (place <= lengths) & (learned | (place >= first))
    return as_batch(Drawing(tokens[:, :-1].copy(), tokens[:, 1:].copy(), asked))


@torch.no_grad()
def correct_answers(model: LimbeckForCausalLM, batch: Batch) -> tuple[float, float]:
    """The share of answers whose every token is the most probable one given the correct prefix, and their mean loss in nats."""
    logits, targets = question_logits(model, batch)
    wrong = torch.zeros(batch.weight.shape, dtype=torch.bool, device=targets.device)
    wrong[batch.weight > 0] = logits.argmax(-1) != targets
    return float((~wrong.any(1)).float().mean()), float(F.cross_entropy(logits, targets))


def answered(model: LimbeckForCausalLM, pairs: Pairs, cell: Cell) -> int:
    """The number of sums that are correct by greedy generation."""
    questions = _questions(pairs, cell)
    texts = generate(model, [q.prompt for q in questions], most=max(len(q.answer) for q in questions) + 1)
    return sum(answer_of(text, cell.form) == total for text, total in zip(texts, pairs.sum(1).tolist(), strict=True))


def answer_of(text: str, form: str) -> int | None:
    """The number on the last line of a generated answer; None if there is none."""
    last = text.rstrip("\n").rpartition("\n")[2]
    if form == "reverse":
        last = last.removesuffix("$")[::-1]
    if form == "detailed":
        last = last.replace(" ", "")
    return int(last) if last.isascii() and last.isdecimal() else None


@torch.inference_mode()
def generate(model: LimbeckForCausalLM, prompts: Sequence[str], *, most: int) -> list[str]:
    """Greedy completions of prompts up to their end, of at most ``most`` tokens. Prompts of equal length form a batch."""
    device = model.lm_head.weight.device
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found = [""] * len(prompts)
    for _, group in groupby(order, key=lambda i: len(prompts[i])):
        rows = list(group)
        tokens = torch.tensor([list(prompts[i].encode("ascii")) for i in rows], device=device)
        cache, generated = None, torch.zeros(len(rows), 0, dtype=torch.long, device=device)
        while generated.shape[1] < most and not bool((generated == _END).any(1).all()):
            logits, cache = read_on(model, tokens, cache)
            tokens = logits.argmax(-1, keepdim=True)
            generated = torch.cat([generated, tokens], 1)
        for i, row in zip(rows, generated.tolist(), strict=True):
            found[i] = bytes(row).partition(bytes([_END]))[0].decode("ascii")
    return found


def _tested(model: LimbeckForCausalLM, test: Pairs, cell: Cell) -> dict[str, int]:
    longer = longer_pairs(cell.seed, digits=cell.digits, n=len(test))
    return {
        "right": answered(model, test, cell),
        "longer_right": answered(model, longer, cell),
        "n": len(test),
    }


def _questions(pairs: Pairs, cell: Cell) -> list[Question]:
    width = cell.digits if cell.padded else 1
    return [question(Sum(a, b, width), cell.form) for a, b in pairs.tolist()]


def _some(lines: Batch, which: Tensor) -> Batch:
    return lines.rows(which.to(lines.row.device))


def _tokens(questions: Sequence[Question]) -> int:
    """The tokens of questions with answers and end tokens."""
    return sum(len(q.prompt) + len(q.answer) + 1 for q in questions)


def _batches(lines: int, rows: int, generator: np.random.Generator) -> Iterator[Tensor]:
    """Endless batches of line numbers. Each epoch has a new order."""
    waiting = np.zeros(0, dtype=np.int64)
    while True:
        while len(waiting) < rows:
            waiting = np.concatenate([waiting, generator.permutation(lines)])
        yield torch.from_numpy(waiting[:rows])
        waiting = waiting[rows:]
