"""Training steps and forward passes in bfloat16 beside float32, for models of several widths; from this `--dtype auto` chooses.

    python benchmarks/formats.py
    python benchmarks/formats.py --widths 128,576 --pairs 9 --out formats.json

Random Llamas take a step of cross-entropy as `limbeck distil` does (autocast, 1,024 tokens in rows of 256), and a forward pass
with its head as a teacher does (weights in the format). The formats take turns in one process; its CPU time is counted on one
thread, and ratios are taken pair by pair. Above 1 bfloat16 is faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from circumstances import made_by
from cost import tokenizer_of
from transformers import LlamaConfig

from limbeck.models.build import new_model
from limbeck.models.language_model import LanguageModel
from limbeck.objectives import parse
from limbeck.run.step import LossTerm, train_step
from limbeck.run.world import alone
from limbeck.types import Batch

ROWS, LENGTH = 4, 256
SHAPES = [  # width, layers, vocabulary
    *((64, 4, 2048), (128, 4, 2048), (192, 4, 4096), (256, 4, 4096), (384, 4, 8192), (576, 4, 8192)),
    *((64, 16, 2048), (128, 5, 16384), (192, 24, 8192), (576, 12, 8192)),
]
FORMATS = (torch.float32, torch.bfloat16)


def main() -> None:
    """Prints the ratios, and writes all figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", help="only the shapes of these widths, between commas")
    parser.add_argument("--pairs", type=int, default=7, help="pairs of each (default 7)")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    widths = {int(width) for width in arguments.widths.split(",")} if arguments.widths else None
    found = []
    for shape in SHAPES:
        if widths is None or shape[0] in widths:
            found.append(measured(*shape, pairs=arguments.pairs))
            print(shown(found[-1]), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(facts() | {"shapes": found}, indent=1) + "\n", encoding="utf-8")


def facts() -> dict[str, Any]:
    """What a measurement depends on: also the products that the processor has in bfloat16."""
    return {
        **made_by(),
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
        "amx": torch.cpu._is_amx_tile_supported(),
    }


def shown(found: dict[str, Any]) -> str:
    """A line with the ratios of a shape."""
    ratios = {
        kind: sorted(a / b for a, b in zip(found[kind]["float32"], found[kind]["bfloat16"], strict=True))
        for kind in ("step", "forward")
    }
    said = (f"{kind} {statistics.median(r):.2f} ({r[0]:.2f} to {r[-1]:.2f})" for kind, r in ratios.items())
    return f"width {found['width']}, {found['layers']} layers, {found['parameters']:,} parameters: {', '.join(said)}"


def measured(width: int, layers: int, vocab: int, *, pairs: int) -> dict[str, Any]:
    """CPU seconds of steps and of forward passes of a shape in both formats, in turn."""
    heads = max(1, width // 64)
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=width * 8 // 3 // 8 * 8,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        vocab_size=vocab,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    batch = batch_of(vocab)
    model = new_model(config, tokenizer_of(vocab), 0)
    steps = {str(dtype): stepping(deepcopy(model), batch, dtype) for dtype in FORMATS}
    forwards = {str(dtype): passing(deepcopy(model), batch, dtype) for dtype in FORMATS}
    facts = {"width": width, "layers": layers, "vocab": vocab, "parameters": model.parameters_count}
    return facts | {"step": in_turn(steps, pairs), "forward": in_turn(forwards, pairs)}


def in_turn(contenders: Mapping[str, Callable[[], object]], pairs: int) -> dict[str, list[float]]:
    """CPU seconds of each contender, which take turns; the first turn warms up."""
    seconds: dict[str, list[float]] = {name.removeprefix("torch."): [] for name in contenders}
    for turn in range(pairs + 1):
        for name, work in contenders.items():
            start = time.process_time()
            work()
            if turn:
                seconds[name.removeprefix("torch.")].append(time.process_time() - start)
    return seconds


def stepping(model: LanguageModel, batch: Batch, dtype: torch.dtype) -> Callable[[], object]:
    """A training step in a number format: weights stay in float32."""
    objective = parse("CrossEntropy")
    optimizer = torch.optim.AdamW(model.model.parameters(), lr=1e-4)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            train_step(model, [LossTerm(batch, objective)], optimizer, mesh=alone())

    return step


def passing(model: LanguageModel, batch: Batch, dtype: torch.dtype) -> Callable[[], object]:
    """A forward pass of weights in a number format, with the logits."""
    model.model.eval().to(dtype)

    def forward() -> None:
        with torch.no_grad():
            outputs = model(batch)
            outputs.head.logits(outputs.hidden)

    return forward


def batch_of(vocab: int, rows: int = ROWS) -> Batch:
    """Rows of random tokens."""
    tokens = torch.randint(vocab, (rows, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    position = torch.arange(LENGTH).expand(rows, LENGTH)
    document = torch.arange(rows)[:, None].expand(rows, LENGTH)
    return Batch(tokens[:, :-1], tokens[:, 1:], torch.ones(rows, LENGTH), position, document, torch.arange(rows))


if __name__ == "__main__":
    main()
