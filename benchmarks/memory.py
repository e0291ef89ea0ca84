"""Estimated and measured peaks of memory over pairs of models, with micro-batches, checkpointing and optimisers.

    python benchmarks/memory.py                    # all of them, twenty minutes of one core
    python benchmarks/memory.py --shapes 3 --ways usual,checkpointed

Each measurement is a fresh process with one thread: random weights, random documents, forward KL, three optimiser steps and a
checkpoint. The peak is the high-water mark of the whole process; the estimate sees the two configurations, the sizes of a step
and the usual length of a document. Measurements are kept one by one in --out, and the same command continues; estimates are
made anew.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from circumstances import made_by
from cost import ENVIRONMENT, SHAPES, Model, Shape, config_of, text_of, tokenizer_of

AIM = 0.1
STEPS = 3
# The memory constants of limbeck.planning.cost.memory were fitted to all pairs of benchmarks/cost.py. These had no part in them.
PAIRS = (
    *SHAPES,
    Shape("llama", 6000, 256, 8, Model(5, 160, 432), Model(7, 288, 768)),
    Shape("llama", 24576, 512, 4, Model(8, 320, 864), Model(10, 448, 1216)),
    Shape("qwen3", 12288, 512, 4, Model(4, 384, 1024), Model(8, 640, 1728)),
    Shape("gpt2", 30000, 256, 8, Model(6, 320, 1280), Model(8, 448, 1792)),
    Shape("llama", 65536, 128, 16, Model(4, 192, 512), Model(6, 320, 864)),
    Shape("gpt_neox", 20000, 256, 4, Model(8, 256, 1024), Model(8, 384, 1536)),
)
# How each is computed: rows at once (None: the usual ones), whether layers are computed twice, number format, optimiser.
WAYS: Mapping[str, dict[str, Any]] = {
    "usual": {},
    "checkpointed": {"checkpointing": "layers"},
    "one row": {"micro": 1},
    "one row, checkpointed": {"micro": 1, "checkpointing": "layers"},
    "bfloat16": {"bf16": True},
    "bfloat16, checkpointed": {"bf16": True, "checkpointing": "layers"},
}


def document_of(lengths: list[int], row: int) -> int:
    """The tokens of a document that a token is in on average, documents being cut at rows."""
    cut = [part for length in lengths for part in [row] * (length // row) + [length % row] if part]
    return round(sum(part**2 for part in cut) / sum(cut))


def texts_of(shape: Shape) -> list[str]:
    """The documents of a training, as JSON lines."""
    return list(text_of(shape.vocab, (STEPS + 1) * shape.rows * shape.length + 20_000))


def run_one(shape: Shape, way: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Trains one shape in this process."""
    import torch

    import limbeck  # noqa: F401  (before torch: it chooses huge pages)
    from limbeck.corpora import Reader, Rows, build_stores
    from limbeck.models.build import new_model
    from limbeck.objectives import ForwardKL
    from limbeck.run.log import peak_rss_gib
    from limbeck.run.run import Plan, Run
    from limbeck.run.world import alone

    torch.set_flush_denormal(True)
    tokenizer = tokenizer_of(shape.vocab)
    configs = [config_of(shape.kind, m, vocab=shape.vocab) for m in (shape.student, shape.teacher)]
    texts = texts_of(shape)
    (folder / "text.jsonl").write_text("".join(texts))
    (folder / "held_out.jsonl").write_text(texts[0])
    sides = [str(folder / name) for name in ("text.jsonl", "held_out.jsonl")]
    store, _ = build_stores(sides[0], Reader(tokenizer, end=0), folder / "data", eval_source=sides[1])
    teacher = new_model(configs[1], tokenizer, 1, name="teacher")
    half = way.get("bf16", False)
    teacher.model.eval().requires_grad_(False).to(torch.bfloat16 if half else torch.float32)
    student = new_model(configs[0], tokenizer, 0, name="student")
    plan = Plan(steps=STEPS, rows=shape.rows, lr=1e-4, **{"checkpointing": "none"} | way)
    corpus = Rows(store, length=shape.length)
    Run(folder / "run", "run", student, teacher, corpus, ForwardKL(), plan, alone()).train()
    return {"measured_bytes": peak_rss_gib() * 2**30}


def estimated(shape: Shape, way: dict[str, Any]) -> dict[str, Any]:
    """The estimate of limbeck as it is now, which trains nothing."""
    from limbeck.planning.cost.memory import MemoryUse
    from limbeck.planning.cost.size import Size
    from limbeck.planning.cost.training import estimate

    configs = [config_of(shape.kind, m, vocab=shape.vocab) for m in (shape.student, shape.teacher)]
    documents = [len(json.loads(text)["text"].split()) for text in texts_of(shape)]
    use = MemoryUse(
        rows=way.get("micro"),
        checkpointed=way.get("checkpointing") == "layers",
        document=document_of(documents, shape.length),
    )
    cost = estimate(
        *(Size.of(config) for config in configs),
        length=shape.length,
        tokens=STEPS * shape.rows * shape.length,
        batch_tokens=shape.rows * shape.length,
        itemsize=2 if way.get("bf16", False) else 4,
        device="cpu",
        use=use,
        config=configs[0],
    )
    return {"predicted_bytes": cost.peak_bytes, "bytes": dict(cost.bytes)}


def measured(index: int, way: str) -> dict[str, Any]:
    """One pair computed in one way, in a process of its own."""
    command = [sys.executable, __file__, "--one", str(index), way]
    done = subprocess.run(command, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def wanted(shapes: int, ways: list[str]) -> Iterator[tuple[int, str]]:
    """What is measured: pair by pair, in each way that differs from others there."""
    for index in range(shapes):
        for way in ways:
            usual = 1024 // PAIRS[index].length  # rows
            if "one row" not in way or usual > 1:
                yield index, way


def worst(cells: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The largest error of each way, over the pairs that the constants were fitted on and over the others."""
    found: dict[str, dict[str, float]] = {}
    for key, cell in cells.items():
        index, way = key.split(": ")
        part = "fitted" if int(index) < len(SHAPES) else "others"
        error = abs(cell["ratio"] - 1)
        found.setdefault(way, {})[part] = max(error, found.get(way, {}).get(part, 0.0))
    return found


def main() -> None:
    """Measures what is missing, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=int, default=len(PAIRS), help="how many of them, from the first")
    parser.add_argument(
        "--ways", default=",".join(WAYS).replace("row, ", "row; ").replace("16, ", "16; "), help="which"
    )
    parser.add_argument("--out", type=Path, default=Path(".bench/memory.json"))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(run_one(PAIRS[int(arguments.one[0])], WAYS[arguments.one[1]], Path(folder))))
        return
    ways = [way.replace(";", ",") for way in arguments.ways.split(",")]
    before = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    cells: dict[str, dict[str, Any]] = before.get("cells", {})
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    facts = made_by("transformers") | {"aim": AIM}
    for index, way in wanted(arguments.shapes, ways):
        key = f"{index}: {way}"
        cells[key] = (cells.get(key) or measured(index, way)) | estimated(PAIRS[index], WAYS[way])
        cells[key]["ratio"] = cells[key]["predicted_bytes"] / cells[key]["measured_bytes"]
        shapes = [asdict(shape) for shape in PAIRS]
        result = facts | {"worst": worst(cells), "cells": cells, "shapes": shapes}
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
        said, peak = (cells[key][name] / 2**20 for name in ("predicted_bytes", "measured_bytes"))
        sizes = f"{said:>8,.0f} MiB estimated, {peak:>8,.0f} measured, {said / peak:.3f}"
        print(f"{PAIRS[index].kind} {key:<30} {sizes}", flush=True)


if __name__ == "__main__":
    main()
