"""Captured answers: bytes, how fast they are packed and read, and training from them beside the live teacher.

    python benchmarks/caches.py                    # one thread; some five minutes, and two more to make the setting once

What is counted is the CPU time of this process with one thread, contenders taking turns within each repeat. Reading is timed on
rows that lie in the page cache. A *plain array* is what one writes first: ids and float16 probabilities, memory-mapped. The
training steps are those of the end-to-end benchmark's pair (`setting.py`), on the same rows for both teachers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from circumstances import made_by
from setting import LENGTH, prepare

from limbeck import Plan, Rows, Run, alone, build_stores, load
from limbeck.objectives import parse
from limbeck.run.micro import micro_rows
from limbeck.teachers import Coding, LogitCache, NumberedRows, capture_outcomes
from limbeck.teachers.codec import Codec, Sampled, TopK
from limbeck.teachers.draw import sample_outcomes, top_k
from limbeck.types import Sparse

VOCABULARIES = (32_000, 152_064)
POSITIONS = 16_384  # that are packed and read in one call


def packed_rates(vocab: int, repeats: int) -> list[dict[str, Any]]:
    """Bytes a token, and tokens a CPU-second into and out of each format."""
    generator = torch.Generator().manual_seed(0)
    log_p = (2 * torch.randn(256, vocab, generator=generator)).log_softmax(-1)
    uniform = torch.rand(len(log_p), generator=generator, dtype=torch.float64)
    times = POSITIONS // len(log_p)
    contenders: list[tuple[str, int, Callable[[], object], Callable[[], object]]] = []
    for codec in (Sampled(vocab, 12), TopK.within(vocab, 64, 160)):
        one = _packed(codec, log_p, uniform)
        many = np.tile(one, (times, 1))
        contenders.append(
            (str(codec), codec.bytes, partial(_packed, codec, log_p, uniform), partial(codec.decode, many))
        )
    for k in (12, 64):
        kept = top_k(log_p, k)
        file = Path(tempfile.mkdtemp()) / "plain.npy"
        width = np.uint16 if vocab <= 2**16 else np.uint32
        plain = np.concatenate(
            [kept.ids.numpy().astype(width).view(np.uint8), kept.log_p.numpy().astype(np.float16).view(np.uint8)], 1
        )
        np.save(file, np.tile(plain, (times, 1)))
        mapped = np.load(file, mmap_mode="r")
        contenders.append(
            (
                f"plain array, {k} likeliest",
                plain.shape[1],
                partial(top_k, log_p, k),
                partial(_plain, mapped, k, width, vocab),
            )
        )
    spent: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name, *_ in contenders}
    for _ in range(repeats):
        for name, _, encode, decode in contenders:
            for seconds, call in zip(spent[name], (encode, decode), strict=True):
                start = time.process_time()
                call()
                seconds.append(time.process_time() - start)
    return [
        {
            "format": name,
            "vocab": vocab,
            "bytes": size,
            "encode_tokens_per_s": len(log_p) / statistics.median(spent[name][0]),
            "decode_tokens_per_s": POSITIONS / statistics.median(spent[name][1]),
        }
        for name, size, *_ in contenders
    ]


def _packed(codec: Codec, log_p: torch.Tensor, uniform: torch.Tensor) -> np.ndarray:
    if isinstance(codec, Sampled):
        return codec.encode(*sample_outcomes(log_p, codec.k, uniform))
    return codec.encode(top_k(log_p, codec.k))


def _plain(mapped: np.ndarray, k: int, width: type, vocab: int) -> Sparse:
    rows = np.array(mapped)
    size = k * np.dtype(width).itemsize
    ids = torch.from_numpy(np.ascontiguousarray(rows[:, :size]).view(width).astype(np.int64))
    log_p = torch.from_numpy(np.ascontiguousarray(rows[:, size:]).view(np.float16).astype(np.float32))
    return Sparse(ids, log_p, log_p.exp(), vocab)


def training(folder: Path, steps: int, teacher_seconds: float) -> dict[str, Any]:
    """Tokens a CPU-second of steps with each teacher, in turn; and the part of a cached step that is reading."""
    setting = prepare(folder, seconds=teacher_seconds)
    teacher = load(setting.teacher)
    store, _ = build_stores(str(setting.train), teacher.tokenizer, folder / "store", eval_source=str(setting.held_out))
    rows = Rows(store, length=LENGTH)
    together = micro_rows(LENGTH, torch.device("cpu"))
    answered = min(rows.n_rows, 4 * (steps + 2))
    caches: dict[str, LogitCache] = {}
    with tempfile.TemporaryDirectory() as place:
        for name, codec in (
            ("12 drawn", Sampled(teacher.vocab, 12)),
            ("64 likeliest", TopK.within(teacher.vocab, 64, 160)),
        ):
            caches[name] = capture_outcomes(
                teacher,
                NumberedRows(rows.rows_of, LENGTH, answered, together),
                Path(place) / name,
                coding=Coding(codec, seed=0),
                made_from={},
            )
        runs = {
            name: _run(setting.student, store, answered, told) for name, told in {"live": teacher, **caches}.items()
        }
        spent: dict[str, list[float]] = {name: [] for name in runs}
        for step in range(steps + 1):
            for name, (run, optimizer) in runs.items():
                start = time.process_time()
                run._step(0, optimizer, 4)
                if step:  # the first finds nothing warm
                    spent[name].append(time.process_time() - start)
        reading = {name: _reading(cache, rows, steps) for name, cache in caches.items()}
    tokens = 4 * LENGTH
    rates = {name: tokens / statistics.median(seconds) for name, seconds in spent.items()}
    ratios = {
        name: statistics.median(live / own for live, own in zip(spent["live"], spent[name], strict=True))
        for name in caches
    }
    shares = {name: reading[name] / statistics.median(spent[name]) for name in caches}
    return {
        "tokens_per_s": rates,
        "faster_than_live": ratios,
        "share_of_a_step_that_is_reading": shares,
        "steps": steps,
    }


def _run(student: Path, store: Any, answered: int, teacher: Any) -> tuple[Run, torch.optim.Optimizer]:
    corpus = Rows(store, length=LENGTH, most=answered)
    run = Run(
        Path("nowhere"),
        "",
        load(student, train=True),
        teacher,
        corpus,
        parse("ForwardKL"),
        Plan(10**6, 4, 1e-4),
        alone(),
    )
    return run, run._begin()


def _reading(cache: LogitCache, rows: Rows, steps: int) -> float:
    """CPU seconds to read the answers of a step."""
    seconds = []
    rng = np.random.default_rng(0)
    for _ in range(steps):
        batch = rows.rows_of(rng.integers(cache.rows, size=4))
        start = time.process_time()
        cache(batch)
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def main() -> None:
    """Prints the tables, and writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="calls of each format (default 15)")
    parser.add_argument("--steps", type=int, default=30, help="training steps with each teacher (default 30)")
    parser.add_argument(
        "--teacher-seconds", type=float, default=60.0, help="CPU seconds that the teacher is trained for, once"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path(".bench"), help="where the setting is kept (default .bench)"
    )
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    formats = [row for vocab in VOCABULARIES for row in packed_rates(vocab, arguments.repeats)]
    print(f"{'format':<30} {'vocab':>8} {'bytes':>6} {'packed/s':>12} {'read/s':>12}")
    for row in formats:
        rates = f"{row['encode_tokens_per_s']:>12,.0f} {row['decode_tokens_per_s']:>12,.0f}"
        print(f"{row['format']:<30} {row['vocab']:>8,} {row['bytes']:>6} {rates}")
    trained = training(arguments.folder, arguments.steps, arguments.teacher_seconds)
    for name, rate in trained["tokens_per_s"].items():
        ratio = trained["faster_than_live"].get(name)
        share = trained["share_of_a_step_that_is_reading"].get(name)
        beside = "" if ratio is None else f", {ratio:.2f} times the live teacher's; reading is {share:.1%} of a step"
        print(f"training, {name}: {rate:,.0f} tokens per CPU-second{beside}")
    if arguments.out:
        facts = {
            **made_by(),
            "formats": formats,
            "training": trained,
        }
        arguments.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
