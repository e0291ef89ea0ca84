"""A teacher captured in a quarter of its size: peak memory and logits, beside the same teacher in memory.

usage: streamed.py OUT.json [MODEL_MILLIONS]; a few minutes of one thread. The teacher is a Llama with random weights in float32,
saved in several shards into a temporary folder, and asked about 4,096 tokens of Python's standard library, and fewer held-out
ones. The peak is that of the process's resident memory (VmHWM) above what it held after a capture from a small teacher, so it
counts what the teacher takes beyond Python and its libraries.
"""

import argparse
import ast
import bisect
import gc
import heapq
import json
import platform
import shlex
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import torch
from transformers import LlamaConfig

import limbeck
from limbeck.corpora import Rows, TokenStore
from limbeck.models.build import new_model
from limbeck.models.load import load
from limbeck.models.parts import give_back
from limbeck.models.streamed import load_streamed

SEED, LENGTH, TOKENS = 0, 256, 4096
WIDTH, FFN, VOCAB = 1024, 2816, 8192
CHARACTERS = 12_000  # of each module


def high_water() -> int:
    """Bytes of the largest resident memory since the last `begin`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def begin() -> int:
    """Starts the high-water mark anew, and gives the resident memory now."""
    gc.collect()
    give_back()
    Path("/proc/self/clear_refs").write_text("5")
    return psutil.Process().memory_info().rss


def make_teacher(folder: Path, *, layers: int) -> int:
    """Saves a random Llama in shards of at most 100 MB, and gives the bytes of its weights."""
    tokenizer = load("builtin:stdlib").tokenizer
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=FFN,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = new_model(config, tokenizer, SEED)
    model.model.save_pretrained(folder, max_shard_size="100MB")
    tokenizer.save_pretrained(folder)
    return sum(parameter.nbytes for parameter in model.model.parameters())


def write_text(folder: Path) -> dict[str, str]:
    """Some modules of the standard library to ask about, and others that are held out."""
    for name, modules in (("train", (argparse, ast)), ("held_out", (bisect, heapq))):
        texts = [Path(str(module.__file__)).read_text(encoding="utf-8") for module in modules]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text[:CHARACTERS]}) + "\n" for text in texts))
    return {"data": str(folder / "train.jsonl"), "eval_data": str(folder / "held_out.jsonl")}


def capture(teacher: Path | str, out: Path, **keys) -> dict[str, float]:
    """Peak bytes above the start, and seconds, of a capture."""
    before, started = begin(), time.monotonic()
    limbeck.capture(
        teacher=str(teacher),
        tokens=TOKENS,
        seq_len=LENGTH,
        codec="sampled",
        dtype="float32",
        threads=1,
        any_teacher=True,  # one with random weights predicts nothing
        out=out,
        **keys,
    )
    return {"peak_bytes": high_water() - before, "seconds": round(time.monotonic() - started, 1)}


def compared(folder: Path, store: TokenStore, *, memory: float, spill: Path) -> dict[str, float]:
    """The largest difference of logits, resident and streamed, over four rows, and how large logits are."""
    batch = Rows(store, length=LENGTH).rows_of(np.arange(4))
    streamed = load_streamed(folder, memory=memory, length=LENGTH, spill=spill)(batch).logits()
    with torch.no_grad():
        resident = load(folder)(batch).logits()
    return {"largest_difference": float((streamed - resident).abs().max()), "deviation": float(resident.std())}


def main(out: str, millions: str = "96") -> None:
    """Streams one random Llama and writes what was seen."""
    torch.set_num_threads(1)
    layers = round(float(millions) / 12)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        size = make_teacher(folder / "teacher", layers=layers)
        limit = size / 4
        text = write_text(folder)
        capture("builtin:stdlib", folder / "small", **text)
        streamed = capture(folder / "teacher", folder / "streamed", stream=True, device_memory=int(limit), **text)
        resident = capture(folder / "teacher", folder / "resident", **text)
        store = TokenStore.open(folder / "streamed" / "data" / "train")
        logits = compared(folder / "teacher", store, memory=limit, spill=folder)
        files = [next((folder / name / "answers").glob("*.arrow")).read_bytes() for name in ("streamed", "resident")]
    result = {
        "weights_bytes": size,
        "limit_bytes": int(limit),
        "layers": layers,
        "tokens": TOKENS,
        "streamed": streamed,
        "resident": resident,
        "logits": logits,
        "answers_equal_bytes": float(np.mean([a == b for a, b in zip(*files, strict=True)])),
        "seed": SEED,
        "date": datetime.now(UTC).date().isoformat(),
        "command": shlex.join(["python", sys.argv[0], Path(sys.argv[1]).name, *sys.argv[2:]]),
        "versions": {name: version(name) for name in ("torch", "transformers", "safetensors", "numpy")}
        | {"python": platform.python_version(), "limbeck": limbeck.__version__},
    }
    Path(out).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
