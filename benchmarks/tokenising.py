"""Building a store of tokens, beside the bare tokenizer on the same texts: on one core, and on all.

    python benchmarks/tokenising.py
    python benchmarks/tokenising.py --tokenizer FOLDER --data my.jsonl --out tokenising.json

*Bare* is one call of the tokenizer with all texts, whose ids are thrown away. *limbeck* reads the file, tokenises it in blocks,
takes hashes, and writes the store. They take turns in a process that tokenises on one thread, and in one that uses all. Megabytes
of text a CPU-second are those of all threads together; *cores* is CPU time over time, so how many of them worked.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from circumstances import made_by
from setting import documents, write_texts

TIMES = 4  # each text of the built-in set is read so often, under other first words, so that fixed costs are small


def main() -> None:
    """Prints the rates, and writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", default="builtin:stdlib", help="a model whose tokenizer is used")
    parser.add_argument("--data", type=Path, help="JSON lines with text (default: functions of the standard library)")
    parser.add_argument("--pairs", type=int, default=3, help="turns of each (default 3)")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(turns(arguments.tokenizer, arguments.data, arguments.pairs)))
        return
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data or built_in(Path(folder) / "texts.jsonl")
        found = {name: process(arguments, data, threads) for name, threads in (("one core", 1), ("all cores", 0))}
        size = sum(len(text.encode()) for text in texts_of(data))
    for name, one in found.items():
        for contender, runs in one.items():
            rates = [size / 1e6 / run["cpu_s"] for run in runs]
            cores = statistics.median(run["cpu_s"] / run["s"] for run in runs)
            print(f"{name}, {contender}: {statistics.median(rates):.2f} MB a CPU-second, {cores:.2f} cores")
    if arguments.out:
        facts = {"tokenizer": arguments.tokenizer, "bytes": size, "cores": os.cpu_count(), "runs": found}
        arguments.out.write_text(
            json.dumps(made_by("transformers", "tokenizers") | facts, indent=1) + "\n", encoding="utf-8"
        )


def built_in(path: Path) -> Path:
    """Functions and docstrings of the standard library as JSON lines."""
    learned, _ = documents()
    write_texts(path, (f"# {number}\n{text}" for number in range(TIMES) for text in learned))
    return path


def texts_of(path: Path) -> list[str]:
    """The texts of a file of JSON lines."""
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def process(arguments: argparse.Namespace, data: Path, threads: int) -> dict[str, list[dict[str, float]]]:
    """All turns, in a process whose tokenizer has so many threads; 0 is as many as there are cores."""
    command = [sys.executable, __file__, "--one", "--tokenizer", arguments.tokenizer, "--data", str(data)]
    limited = os.environ | {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--pairs", str(arguments.pairs)], env=limited, check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, list[dict[str, float]]] = json.loads(done.stdout.splitlines()[-1])
    return found


def turns(tokenizer: str, data: Path, pairs: int) -> dict[str, list[dict[str, float]]]:
    """Seconds and CPU seconds of each contender's turns; the first warms up."""
    from limbeck.corpora.build import build_training
    from limbeck.models.load import load

    model: Any = load(tokenizer)
    backend, texts = model.tokenizer.backend_tokenizer, texts_of(data)

    def bare() -> None:
        backend.encode_batch_fast(texts, add_special_tokens=False)

    def limbeck() -> None:
        with tempfile.TemporaryDirectory() as folder:
            build_training(str(data), model, folder)

    contenders: dict[str, Callable[[], None]] = {"bare": bare, "limbeck": limbeck}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for turn in range(pairs + 1):
        for name, work in contenders.items():
            clock, busy = time.perf_counter(), time.process_time()
            work()
            if turn:
                found[name].append({"s": time.perf_counter() - clock, "cpu_s": time.process_time() - busy})
    return found


if __name__ == "__main__":
    main()
