"""Capturing a teacher's logits over a large vocabulary, beside the bare forward pass that no capture can do without.

    python benchmarks/capture.py
    python benchmarks/capture.py --vocab 128256 --pairs 9 --out capture.json

A random Llama computes some rows. *Bare* is its forward pass with the logits of all positions, thrown away as they come, in the
same chunks; the others keep 12 sampled outcomes of each position, or its top 64 with the rest, and pack them. They take turns in
one process; its CPU time is counted on one thread, and shares are taken turn by turn. Reading what was kept is timed too. The
number formats are float32, and bfloat16 where the processor has units for it.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import limbeck  # noqa: F401  (before torch: it chooses huge pages)

# isort: split
import numpy as np
import torch
from circumstances import made_by
from cost import tokenizer_of
from formats import batch_of, in_turn
from transformers import LlamaConfig

from limbeck.models.build import new_model
from limbeck.models.language_model import LanguageModel
from limbeck.planning.cost.machine import multiplies_bfloat16
from limbeck.teachers.cache import CELLS, Coding, packed_signal
from limbeck.teachers.codec import Codec, Sampled, TopK
from limbeck.types import Batch

WIDTH, LAYERS = 512, 8


def main() -> None:
    """Prints the shares, and writes all figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=152_064, help="tokens of the vocabulary (default 152064)")
    parser.add_argument("--pairs", type=int, default=5, help="turns of each (default 5)")
    parser.add_argument("--rows", type=int, default=2, help="rows of 256 tokens a turn (default 2)")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    model, batch = teacher(arguments.vocab), batch_of(arguments.vocab, arguments.rows)
    found: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        if dtype == torch.float32 or multiplies_bfloat16(torch.device("cpu")):
            model.model.to(dtype)
            name = str(dtype).removeprefix("torch.")
            found[name] = in_turn(contenders(model, batch), arguments.pairs)
            print(shown(name, found[name], batch.tokens.numel()), flush=True)
    read = reading(model, batch, arguments.pairs)
    for name, spent in read["seconds"].items():
        print(f"read, {name}: {read['positions'] / statistics.median(spent) / 1e6:.2f} M tokens/s")
    if arguments.out:
        facts = {"vocab": arguments.vocab, "tokens": batch.tokens.numel(), "parameters": model.parameters_count}
        arguments.out.write_text(
            json.dumps(made_by() | facts | {"formats": found, "reading": read}, indent=1) + "\n", encoding="utf-8"
        )


def teacher(vocab: int) -> LanguageModel:
    """A random Llama whose distributions are as uneven as those of a small trained model."""
    config = LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=1408,
        num_hidden_layers=LAYERS,
        num_attention_heads=WIDTH // 64,
        vocab_size=vocab,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    model = new_model(config, tokenizer_of(vocab), 0)
    with torch.no_grad():
        model.model.get_input_embeddings().weight.normal_(0, 2 * WIDTH**-0.5)
    model.model.eval()
    return model


CODECS: dict[str, Callable[[int], Codec]] = {
    "12 sampled": lambda vocab: Sampled(vocab, 12),
    "top-64": lambda vocab: TopK.within(vocab, 64, 160),
}
READ = 4096  # positions that are read in one call


def reading(model: LanguageModel, batch: Batch, pairs: int) -> dict[str, Any]:
    """CPU seconds of reading captured positions."""
    works: dict[str, Callable[[], object]] = {}
    for name, codec_of in CODECS.items():
        codec = codec_of(model.vocab)
        with torch.no_grad():
            packed = packed_signal(batch, model(batch), Coding(codec, seed=0))
        works[name] = partial(codec.decode, np.resize(packed, (READ, codec.bytes)))
    return {"positions": READ, "seconds": in_turn(works, 4 * pairs)}


def contenders(model: LanguageModel, batch: Batch) -> dict[str, Callable[[], object]]:
    """The bare forward pass, and the captures."""
    vocab, positions = model.vocab, batch.tokens.numel()
    chunk = CELLS // vocab

    @torch.no_grad()
    def bare() -> None:
        outputs = model(batch)
        for start in range(0, positions, chunk):
            outputs.logits(slice(start, start + chunk))

    def capturing(codec: Codec) -> Callable[[], object]:
        @torch.no_grad()
        def capture() -> object:
            return packed_signal(batch, model(batch), Coding(codec, seed=0))

        return capture

    return {"bare": bare, **{name: capturing(codec_of(vocab)) for name, codec_of in CODECS.items()}}


def shown(name: str, seconds: dict[str, list[float]], tokens: int) -> str:
    """A line with tokens a CPU-second of each, and their shares of the bare forward pass."""
    parts = []
    for one, spent in seconds.items():
        shares = [bare / own for bare, own in zip(seconds["bare"], spent, strict=True)]
        parts.append(
            f"{one} {tokens / statistics.median(spent):,.0f} tokens/s, {statistics.median(shares):.2f} of bare"
        )
    return f"{name}: {'; '.join(parts)}"


if __name__ == "__main__":
    main()
