"""Multi-query associative recall: drawing rows, and training on them, beside the straightforward way of doing each.

    python benchmarks/mqar.py --pairs 7

*Rows*: blocks of 1,024 at once, and one row after the other with numpy's `choice`, as the task was published. *Training*: the
recipe's, and the same model, number of rows, optimiser and looks at held-out rows with logits at every position, AdamW one
parameter after the other, rows drawn one after the other, and norms and convolutions as one writes them first (`nn.RMSNorm`,
`F.conv1d`, a product of `torch.fft.rfft`), whose gradients PyTorch finds. Neither ends early. Both are timed in pairs, the first
of a pair changing, by the CPU time of this process on one thread; given are the median ratio of a pair and all of them from
least to most.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.nn import functional as F

from limbeck.corpora.tasks.mqar import MQAR
from limbeck.corpora.tasks.synthetic import BLOCK, Drawing, SyntheticCorpus, as_batch
from limbeck.jobs.common.folder import command, now, versions
from limbeck.models.mixers import convolution
from limbeck.models.mixers.convolution import ShortConv
from limbeck.models.mixers.documents import Documents
from limbeck.papers.lab import recall
from limbeck.papers.lab.loop import CLIP
from limbeck.papers.lab.recall import LOOK, WARMUP, Cell, new_decoder
from limbeck.papers.zoology.grid import ARMS, SCALES
from limbeck.run.optim import learning_rate
from limbeck.types import Batch

TIMED = ("conv, attention", "conv, based 8", "conv, window 16", "BaseConv", "Hyena", "H3", "attention")


def one_after_the_other(task: MQAR, generator: np.random.RandomState, rows: int) -> Drawing:
    """The rows of the plain task with zeros between, each drawn by itself."""
    half = task.vocab // 2
    keys, values, places = np.arange(1, half), np.arange(half, task.vocab), np.arange(task.slots)
    tokens = np.zeros((rows, task.length), dtype=np.int64)
    answers, asked = np.zeros_like(tokens), np.zeros(tokens.shape, dtype=bool)
    for row in range(rows):
        key = generator.choice(keys, task.pairs, replace=False)
        value = generator.choice(values, task.pairs, replace=False)
        place = task.context + 2 * generator.choice(places, task.pairs, replace=False, p=task.slot_chances)
        tokens[row, 0 : task.context : 2], tokens[row, 1 : task.context : 2] = key, value
        tokens[row, place], answers[row, place], asked[row, place] = key, value, True
    return Drawing(tokens, answers, asked)


def straightforward(cell: Cell) -> float:
    """Trains a cell without any of the recipe's shortcuts; gives the last loss."""
    with mock.patch.object(convolution, "_fourier", as_first_written), mock.patch.object(ShortConv, "forward", taps):
        return _straightforward(cell)


def _straightforward(cell: Cell) -> float:
    model, generator = new_decoder(cell).train(), np.random.RandomState(cell.seed)
    for layer in model.model.layers:
        layer.mixer_norm = torch.nn.RMSNorm(cell.width, eps=layer.mixer_norm.eps)
    model.model.norm = torch.nn.RMSNorm(cell.width, eps=model.model.norm.eps)
    groups = [
        {**group, "foreach": False, "fused": False} for group in recall.optimizer_of(model, cell.rate).param_groups
    ]
    optimizer = torch.optim.AdamW(groups)
    held_out = as_batch(one_after_the_other(cell.task(max(cell.pairs)), generator, cell.tested // 2))
    loss = torch.zeros(())
    for step in range(1, cell.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step - 1, steps=cell.steps, peak=cell.rate, schedule="wsd", warmup=WARMUP)
        task = cell.task(cell.pairs[step % len(cell.pairs)])
        loss = everywhere(model, as_batch(one_after_the_other(task, generator, cell.rows)))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP, foreach=False)
        optimizer.step()
        if step % LOOK == 0 or step == cell.steps:
            with torch.no_grad():
                everywhere(model, held_out)
    for pairs in cell.pairs:
        with torch.no_grad():
            everywhere(model, as_batch(one_after_the_other(cell.task(pairs), generator, cell.tested)))
    return loss.item()


def as_first_written(u: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """A long convolution of rows (B, T, D) with filters (L, D)."""
    size = 2 * u.shape[1]
    spectrum = torch.fft.rfft(u.mT, n=size) * torch.fft.rfft(filters[: u.shape[1]].mT, n=size)
    return torch.fft.irfft(spectrum, n=size)[..., : u.shape[1]].mT


def taps(
    conv: ShortConv, u: torch.Tensor, documents: Documents, recent: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """A short convolution of whole rows before which nothing came."""
    count, length = conv.weight.shape[1], u.shape[1]
    y = F.conv1d(u.mT, conv.weight[:, None], conv.bias, padding=count - 1, groups=len(conv.weight))
    return y[..., :length].mT, u


def everywhere(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """The mean loss of all questions, from logits at all positions."""
    logits = model(input_ids=batch.tokens, use_cache=False).logits
    labels = torch.where(batch.weight > 0, batch.targets, -100)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)


def in_pairs(ours: Callable[[], object], theirs: Callable[[], object], pairs: int, *, times: int = 1) -> dict[str, Any]:
    """CPU seconds of each, pair by pair, after one of each that warms up; ``ours`` may do the work several ``times`` over."""
    ours(), theirs()
    seconds: dict[str, list[float]] = {"ours": [], "straightforward": []}
    for pair in range(pairs):
        both = [("ours", ours), ("straightforward", theirs)]
        for name, run in both if pair % 2 == 0 else reversed(both):
            started = time.process_time()
            run()
            seconds[name].append((time.process_time() - started) / (times if name == "ours" else 1))
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["straightforward"], strict=True)]
    return {**seconds, "ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


def rows_drawn(task: MQAR, pairs: int) -> dict[str, Any]:
    """A block of 1,024 rows, either way."""
    stream, generator = SyntheticCorpus(task), np.random.RandomState(0)

    times = 16  # a block is small beside the clock

    def blocks() -> None:
        for _ in range(times):
            stream.take(BLOCK)

    return in_pairs(blocks, lambda: one_after_the_other(task, generator, BLOCK), pairs, times=times)


def main() -> None:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7, help="of measurements")
    parser.add_argument(
        "--steps",
        type=int,
        default=100,
        help="of each training that is timed; rows asked about in the recipe's proportion",
    )
    parser.add_argument("--arms", default=";".join(TIMED), help="which kinds of model, semicolons between")
    parser.add_argument("--json", type=Path, help="write the results there")
    arguments = parser.parse_args()
    if not 1 <= arguments.steps <= LOOK:
        parser.error(f"--steps: expected 1 to {LOOK}, since ours looks then whether it may end, got {arguments.steps}")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    scale, results = SCALES["small"], {}
    for vocab in (256, 8192):
        results[f"rows, vocabulary of {vocab:,}"] = rows_drawn(MQAR(vocab=vocab), arguments.pairs)
    for arm in arguments.arms.split(";"):
        kind, judged = ARMS[arm], scale.judged
        cell = Cell(
            arm, kind.mixers, scale.width, judged.length, judged.vocab, judged.pairs, arguments.steps, scale.rates[0], 0,
            rows=scale.rows, tested=scale.tested * arguments.steps // scale.steps, learned=kind.learned,
        )  # fmt: skip
        results[f"training, {arm}"] = in_pairs(
            partial(recall.train, cell), partial(straightforward, cell), arguments.pairs
        )
    print("| what | ours, CPU s | straightforward, CPU s | times | least to most |\n|---|---|---|---|---|")
    for name, found in results.items():
        ours, theirs = (statistics.median(found[key]) for key in ("ours", "straightforward"))
        print(
            f"| {name} | {ours:.3f} | {theirs:.3f} | {found['ratio']:.1f} | {found['least']:.1f} to {found['most']:.1f} |"
        )
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"command": command(), "date": now(), "versions": versions(), "results": results}, indent=1)
            + "\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
