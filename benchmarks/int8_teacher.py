"""A teacher whose linear layers run in int8, beside the same teacher in float32 and bfloat16: time saved, and bias of its logits.

    python benchmarks/int8_teacher.py                                # builtin:smollm2-135m on the standard library
    python benchmarks/int8_teacher.py --teacher FOLDER --data my.jsonl --rows 32 --out int8-teacher.json

The layers below the head are quantised dynamically by PyTorch: weights once, with a scale a row, activations at each call, with
a scale a tensor. The head stays as it is. Forward passes with their logits take turns in one process; its CPU time is counted on
one thread. What the logits lose is measured against those of float32 on the same text: KL, nats, the most probable token.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import limbeck  # noqa: F401  (before torch: it chooses huge pages)

# isort: split
import numpy as np
import torch
from circumstances import made_by
from formats import in_turn

from limbeck.corpora import Rows, build_stores
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.planning.cost.machine import multiplies_bfloat16
from limbeck.probes import Measurements, mean_interval, measure
from limbeck.teachers.remembered import RememberedTeacher
from limbeck.types import Batch

LENGTH = 256
TOGETHER = 2  # rows of a forward pass


def main() -> None:
    """Prints times and losses, and writes all figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="builtin:smollm2-135m")
    parser.add_argument("--data", default="python:stdlib", help="text, of which the held-out part is read")
    parser.add_argument("--rows", type=int, default=16, help="rows of 256 tokens that are compared (default 16)")
    parser.add_argument("--pairs", type=int, default=5, help="timed turns of each (default 5)")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    exact = load(arguments.teacher)
    formats = {"float32": exact}
    if multiplies_bfloat16(torch.device("cpu")):
        formats["bfloat16"] = as_bfloat16(exact)
    formats["int8"] = as_int8(exact)
    batches, documents = held_out(exact, arguments.data, arguments.rows)
    tokens = batches[0].tokens.numel()
    seconds = in_turn({name: passing(model, batches[0]) for name, model in formats.items()}, arguments.pairs)
    for name, spent in seconds.items():
        ratios = [a / b for a, b in zip(seconds["float32"], spent, strict=True)]
        print(f"{name}: {tokens / statistics.median(spent):,.0f} tokens/s, {spread(ratios)} times float32", flush=True)
    reference = RememberedTeacher(exact)
    losses = {name: lost(model, reference, batches, documents) for name, model in formats.items() if name != "float32"}
    for name, found in losses.items():
        kl, nats = ({key: round(one, 5) for key, one in found[part].items()} for part in ("kl", "nats"))
        print(f"{name}: KL {kl}, nats above float32's {nats}, same most probable token {found['agreement']:.2%}")
    if arguments.out:
        facts = {"teacher": arguments.teacher, "parameters": exact.parameters_count, "data": arguments.data}
        facts |= {"timed_tokens": tokens, "seconds": seconds, "losses": losses}
        arguments.out.write_text(json.dumps(made_by("transformers") | facts, indent=1) + "\n", encoding="utf-8")


def spread(ratios: list[float]) -> str:
    """The median, the least and the most."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def as_bfloat16(model: LanguageModel) -> LanguageModel:
    """A copy with weights in bfloat16."""
    return LanguageModel(deepcopy(model.model).to(torch.bfloat16), model.tokenizer, "bfloat16")


def as_int8(model: LanguageModel) -> LanguageModel:
    """A copy whose linear layers below the head multiply in int8."""
    from torch.ao.nn.quantized.dynamic import Linear
    from torch.ao.quantization import default_dynamic_qconfig, per_channel_dynamic_qconfig

    copied = deepcopy(model.model)
    head = copied.get_output_embeddings()
    torch.backends.quantized.engine = "x86" if "x86" in torch.backends.quantized.supported_engines else "qnnpack"
    channels = torch.backends.quantized.engine == "x86"
    for parent in list(copied.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, torch.nn.Linear) and layer is not head:
                how = per_channel_dynamic_qconfig if channels else default_dynamic_qconfig
                layer.qconfig = how  # type: ignore[assignment]  # where PyTorch looks for it
                with warnings.catch_warnings():  # PyTorch says that it will move elsewhere
                    warnings.simplefilter("ignore")
                    setattr(parent, name, Linear.from_float(layer))
    return LanguageModel(copied, model.tokenizer, "int8")


def held_out(model: LanguageModel, data: str, rows: int) -> tuple[list[Batch], int]:
    """The first rows of a text's held-out part in batches, and the number of its documents."""
    with tempfile.TemporaryDirectory() as folder:
        _, store = build_stores(data, model, folder)
        corpus = Rows(store, length=LENGTH)
        numbers = np.arange(min(rows, corpus.n_rows))
        return [corpus.rows_of(part) for part in np.split(numbers, range(TOGETHER, len(numbers), TOGETHER))], (
            store.documents
        )


def passing(model: LanguageModel, batch: Batch) -> Callable[[], object]:
    """A forward pass with the logits of all positions, a row at a time."""
    length = batch.tokens.shape[1]

    @torch.no_grad()
    def forward() -> None:
        outputs = model(batch)
        for start in range(0, batch.tokens.numel(), length):
            outputs.logits(slice(start, start + length))

    return forward


def lost(model: LanguageModel, reference: RememberedTeacher, batches: list[Batch], documents: int) -> dict[str, Any]:
    """What a format loses: KL from float32 and nats above it, each with its interval over documents, and agreement."""
    found = measure(model, reference, batches, documents=documents)
    assert found.kl is not None
    assert found.teacher_nats is not None
    assert found.agreement is not None
    return {
        "documents": found.read,
        "tokens": float(found.tokens.sum()),
        "kl": over(found, found.kl),
        "nats": over(found, found.nats - found.teacher_nats),
        "agreement": float(found.agreement.sum() / found.tokens.sum()),
    }


def over(found: Measurements, sums: np.ndarray) -> dict[str, float]:
    """The mean a token with its interval over documents."""
    read = found.tokens > 0
    interval = mean_interval(sums[read], found.tokens[read])
    return {"value": interval.value, "low": interval.low, "high": interval.high}


if __name__ == "__main__":
    main()
