"""A training step with a trimmed vocabulary beside the same step with all tokens.

    python benchmarks/vocabulary.py                                # builtin:smollm2-135m, a student of 8 of its 30 layers
    python benchmarks/vocabulary.py --teacher FOLDER --data my.jsonl --layers 8

The vocabulary is what --data uses (as `limbeck distil --vocab auto` chooses it). Both contenders take the same text, each in its
own ids. Steps are taken in turn; the CPU time of this process is counted on one thread. Students are random, since a step's cost
does not depend on what they know. Products are in the format that `limbeck distil --dtype auto` takes on this machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from circumstances import made_by
from torch import Tensor

from limbeck.config import DistilSettings
from limbeck.jobs.pair.vocabulary import trimmed_beside
from limbeck.models.anatomy import Anatomy, resized
from limbeck.models.build import new_model
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.models.trim.folder import open_vocabulary
from limbeck.models.trim.model import Vocabulary, trim
from limbeck.objectives import parse
from limbeck.planning.cost.machine import multiplies_bfloat16
from limbeck.run.step import LossTerm, train_step
from limbeck.run.world import alone
from limbeck.teachers.ref import LocalRef
from limbeck.types import Batch


def main() -> None:
    """Prints the two times and their ratio, and writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="builtin:smollm2-135m")
    parser.add_argument("--data", default="python:stdlib", help="text whose tokens are kept (default python:stdlib)")
    parser.add_argument("--vocab", default="auto", help="auto, or a number of tokens (default auto)")
    parser.add_argument("--layers", type=int, default=8, help="layers of the student (default 8)")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--length", type=int, default=256, help="tokens of a row (default 256)")
    parser.add_argument("--repeats", type=int, default=7, help="pairs of steps (default 7)")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    found = measured(arguments)
    whole, kept = found["tokens"]
    print(f"{kept:,} of {whole:,} tokens: trimming took {found['trimming_cpu_s']:.1f} CPU-seconds")
    for name, seconds in found["step_cpu_s"].items():
        print(
            f"a step of {arguments.rows * arguments.length} tokens, {name}: {statistics.median(seconds):.3f} CPU-seconds"
        )
    low, middle, high = (float(np.quantile(found["ratios"], q)) for q in (0, 0.5, 1))
    print(f"{middle:.2f} times as fast as with all tokens ({low:.2f} to {high:.2f} in {arguments.repeats} pairs)")
    if arguments.out:
        arguments.out.write_text(json.dumps(made_by() | found, indent=1) + "\n", encoding="utf-8")


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds of steps of both, in turn, and of the choice of the vocabulary."""
    settings = DistilSettings(teacher=arguments.teacher, data=arguments.data, vocab=arguments.vocab)
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        local = trimmed_beside(settings, LocalRef(arguments.teacher), Path(folder))
        assert local.vocabulary is not None
        vocabulary = open_vocabulary(local.vocabulary)
        spent = time.process_time() - start
        dtype = torch.bfloat16 if multiplies_bfloat16(torch.device("cpu")) else torch.float32
        every = load(arguments.teacher, dtype=dtype)
        teachers = {"all tokens": every, "trimmed": trim(load(arguments.teacher, dtype=dtype), vocabulary)}
    runs = {name: _Contender.of(teacher, arguments.layers) for name, teacher in teachers.items()}
    generator = torch.Generator().manual_seed(0)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for step in range(arguments.repeats + 1):
        trimmed = _batch(vocabulary, arguments.rows, arguments.length, generator)
        kept = torch.from_numpy(vocabulary.kept)
        whole = replace(trimmed, tokens=kept[trimmed.tokens], targets=kept[trimmed.targets])
        for name, batch in (("all tokens", whole), ("trimmed", trimmed)):
            start = time.process_time()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                runs[name].step(batch)
            if step:  # the first finds nothing warm
                seconds[name].append(time.process_time() - start)
    ratios = [before / after for before, after in zip(seconds["all tokens"], seconds["trimmed"], strict=True)]
    tokens = [vocabulary.whole, len(vocabulary.kept)]
    found = {"tokens": tokens, "dtype": str(dtype).removeprefix("torch."), "layers": arguments.layers}
    return found | {"trimming_cpu_s": spent, "step_cpu_s": seconds, "ratios": ratios}


class _Contender:
    """A teacher, a student of its shape with fewer layers, and the student's optimiser."""

    def __init__(self, teacher: LanguageModel, student: LanguageModel) -> None:
        self._teacher, self._student, self._objective = teacher, student, parse("ForwardKL")
        self._optimizer = torch.optim.AdamW(student.model.parameters(), lr=1e-4)

    @classmethod
    def of(cls, teacher: LanguageModel, layers: int) -> _Contender:
        config = resized(teacher.config, layers=range(layers), sizes=Anatomy.of(teacher.config).sizes)
        return cls(teacher, new_model(config, teacher.tokenizer, 0))

    def step(self, batch: Batch) -> None:
        train_step(self._student, [LossTerm(batch, self._objective, self._teacher)], self._optimizer, mesh=alone())


def _batch(vocabulary: Vocabulary, rows: int, length: int, generator: torch.Generator) -> Batch:
    tokens: Tensor = torch.randint(len(vocabulary.kept), (rows, length + 1), generator=generator)
    position = torch.arange(length).expand(rows, length)
    document = torch.arange(rows)[:, None].expand(rows, length)
    return Batch(tokens[:, :-1], tokens[:, 1:], torch.ones(rows, length), position, document, torch.arange(rows))


if __name__ == "__main__":
    main()
