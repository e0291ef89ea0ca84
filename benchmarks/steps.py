"""Training steps of limbeck beside those of a packed plain loop, and steps of long rows beside those of short ones.

    python benchmarks/steps.py
    python benchmarks/steps.py --vocabularies 8192 --lengths 256,2048 --pairs 3 --out steps.json

The pair has the shapes of the end-to-end benchmark with random weights, since a step's cost does not depend on what they know.
The *packed* loop pads nothing, computes all logits of both models under autocast in bfloat16 (in float32 where the processor
has no units for it), and takes one divergence. limbeck computes in the same format: *live* from its teacher, *cached* from
captured logits (12 sampled outcomes). Rows of each length hold the same documents of 200 tokens, 8,192 tokens a step. Contenders
take turns in one process; its CPU time is counted on one thread, and ratios are taken turn by turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import limbeck  # noqa: F401  (before torch: it chooses huge pages)

# isort: split
import torch
from circumstances import made_by
from cost import tokenizer_of
from formats import in_turn
from setting import STUDENT, TEACHER
from torch.nn.functional import kl_div
from transformers import LlamaConfig

from limbeck.models.build import new_model
from limbeck.models.language_model import LanguageModel
from limbeck.objectives import parse
from limbeck.planning.cost.machine import multiplies_bfloat16
from limbeck.run.micro import micro_batches, micro_rows
from limbeck.run.optim import adamw
from limbeck.run.step import LossTerm, train_step
from limbeck.run.world import alone
from limbeck.teachers.cache import Coding, LogitCache, capture_outcomes
from limbeck.teachers.codec import Sampled
from limbeck.teachers.rows import NumberedRows
from limbeck.types import Batch, Teacher

CPU = torch.device("cpu")
HALF = bool(multiplies_bfloat16(CPU))
DOCUMENT = 200  # tokens
ROWS, LENGTH = 4, 256  # of a step beside the plain loop
LONG_STEP = 8192  # tokens of a step by length


def main() -> None:
    """Prints the ratios, and writes all figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabularies", default="8192,32000", help="between commas (default 8192,32000)")
    parser.add_argument("--lengths", default="256,2048,8192", help="of rows, the first to compare with")
    parser.add_argument("--pairs", type=int, default=7, help="turns of each (default 7)")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    beside: list[dict[str, Any]] = []
    for vocab in numbers(arguments.vocabularies):
        beside.append({"vocab": vocab, "seconds": beside_plain(vocab, arguments.pairs)})
        print(f"vocabulary of {vocab:,}: {times(beside[-1]['seconds'], 'packed')}", flush=True)
    lengths = numbers(arguments.lengths)
    long = by_length(lengths, arguments.pairs) if lengths else {}
    if lengths:
        print(f"rows, tokens a CPU-second: {times(long, str(lengths[0]))}")
    if arguments.out:
        facts = {"format": "bfloat16" if HALF else "float32", "vocabularies": beside, "lengths": long}
        arguments.out.write_text(json.dumps(made_by("transformers") | facts, indent=1) + "\n", encoding="utf-8")


def numbers(text: str) -> list[int]:
    """Whole numbers between commas."""
    return [int(one) for one in text.split(",") if one]


def times(seconds: dict[str, list[float]], other: str) -> str:
    """How many times as fast each contender is as another: the median, the least and the most of the turns."""
    parts = []
    for name, spent in seconds.items():
        ratios = [a / b for a, b in zip(seconds[other], spent, strict=True)]
        parts.append(f"{name} {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    return ", ".join(parts)


def mixed() -> AbstractContextManager[Any]:
    """Mixed precision, where the processor has units for it."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=HALF)


def model_of(shape: dict[str, int], vocab: int, *, teaches: bool = False) -> LanguageModel:
    """A random Llama; a teacher has its weights in the format of the products."""
    config = LlamaConfig(
        **shape,
        num_key_value_heads=shape["num_attention_heads"],
        vocab_size=vocab,
        max_position_embeddings=LONG_STEP,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    model = new_model(config, tokenizer_of(vocab), 0)
    if teaches:
        model.model.eval().requires_grad_(False).to(torch.bfloat16 if HALF else torch.float32)
    return model


def batch_of(vocab: int, rows: int, length: int) -> Batch:
    """Rows of joined documents of 200 tokens; a document that a row cuts begins anew in the next."""
    tokens = torch.randint(3, vocab, (rows * length + 1,), generator=torch.Generator().manual_seed(0))
    place = torch.arange(rows * length)
    inside = torch.minimum(place % DOCUMENT, place % length)
    last = (place + 1) % DOCUMENT == 0
    shape = rows, length
    return Batch(
        tokens[:-1].view(shape),
        tokens[1:].view(shape),
        (~last).float().view(shape),
        inside.view(shape),
        (place // DOCUMENT).view(shape),
        torch.arange(rows),
    )


def beside_plain(vocab: int, pairs: int) -> dict[str, list[float]]:
    """CPU seconds of steps of the packed loop and of limbeck, live and cached."""
    teacher, batch = model_of(TEACHER, vocab, teaches=True), batch_of(vocab, ROWS, LENGTH)
    with tempfile.TemporaryDirectory() as folder:
        cache = captured(teacher, batch, Path(folder) / "logits")
        return in_turn(
            {
                "packed": plain(model_of(STUDENT, vocab), model_of(TEACHER, vocab), batch),
                "live": step_of(model_of(STUDENT, vocab), teacher, batch),
                "cached": step_of(model_of(STUDENT, vocab), cache, batch),
            },
            pairs,
        )


def by_length(lengths: list[int], pairs: int) -> dict[str, list[float]]:
    """CPU seconds of a step of as many tokens in rows of each length, from a live teacher."""
    vocab = 8192
    teacher = model_of(TEACHER, vocab, teaches=True)
    steps = {
        str(length): step_of(model_of(STUDENT, vocab), teacher, batch_of(vocab, LONG_STEP // length, length))
        for length in lengths
    }
    return in_turn(steps, pairs)


def captured(teacher: LanguageModel, batch: Batch, folder: Path) -> LogitCache:
    """The teacher's captured logits of a batch."""
    rows = NumberedRows(lambda numbers: batch, LENGTH, ROWS, ROWS)
    return capture_outcomes(teacher, rows, folder, coding=Coding(Sampled(teacher.vocab, 12), seed=0), made_from={})


def step_of(student: LanguageModel, teacher: Teacher, batch: Batch) -> Callable[[], object]:
    """A step as `limbeck distil` takes it."""
    objective = parse("ForwardKL")
    optimizer = adamw(student.model, [], weight_decay=0.01)
    rows = micro_rows(batch.tokens.shape[1], CPU)

    def step() -> None:
        terms = [LossTerm(part, objective, teacher) for part in micro_batches(batch, CPU, rows)]
        with mixed():
            train_step(student, terms, optimizer, mesh=alone())

    return step


def plain(student: LanguageModel, teacher: LanguageModel, batch: Batch) -> Callable[[], object]:
    """A step of the loop that one writes first, on packed rows under autocast."""
    optimizer = torch.optim.AdamW(student.model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    teacher.model.eval().requires_grad_(False)

    def step() -> None:
        with mixed():
            log_q = student.model(input_ids=batch.tokens, position_ids=batch.position).logits.log_softmax(-1)
            with torch.no_grad():
                log_p = teacher.model(input_ids=batch.tokens, position_ids=batch.position).logits.log_softmax(-1)
            parts = kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
        ((parts * batch.weight).sum() / batch.weight.sum()).backward()
        torch.nn.utils.clip_grad_norm_(student.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    main()
