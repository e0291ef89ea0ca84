"""Steps of a 1.5B student of a 7B teacher (random weights) on a GPU: tokens per second, and the peak of memory.

    python benchmarks/gpu_steps.py                 # two minutes

Mixed precision, forward KL, AdamW in float32, vocabulary of 32,000. The ways of a step are measured one after the other: rows of
256, 2,048 and 8,192 tokens with documents of 200, layers computed twice, and the teacher's 12 outcomes on the host in its place.
Seconds are between events on the device, with the loss read one step late as in a training.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from pathlib import Path
from typing import Any

import torch
from circumstances import made_by
from cost import tokenizer_of
from transformers import AutoModelForCausalLM, LlamaConfig

from limbeck.models.checkpointing import checkpoint_layers
from limbeck.models.configuration import attention_of
from limbeck.models.language_model import LanguageModel
from limbeck.objectives import ForwardKL
from limbeck.run.optim import adamw
from limbeck.run.step import LossTerm, Step, train_step
from limbeck.run.world import alone
from limbeck.types import Batch, Sparse

VOCAB, DOCUMENT = 32_000, 200
TEACHER = {"hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32, "num_attention_heads": 32}
STUDENT = {"hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 27, "num_attention_heads": 16}
WAYS: dict[str, dict[str, Any]] = {
    "rows of 2,048": {"length": 2048},
    "rows of 256": {"length": 256},
    "rows of 8,192": {"length": 8192},
    "rows of 2,048, layers twice": {"length": 2048, "twice": True},
    "rows of 2,048, 12 captured outcomes": {"length": 2048, "captured": True},
}


def made(sizes: dict[str, int], device: torch.device, dtype: torch.dtype, *, train: bool) -> LanguageModel:
    """A Llama of these sizes with random weights, made on the device."""
    config = LlamaConfig(vocab_size=VOCAB, max_position_embeddings=8192, tie_word_embeddings=False, **sizes)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention_of(config))
    made = LanguageModel(model.requires_grad_(train).train(train), tokenizer_of(VOCAB), "random")
    assert made.vocab == VOCAB
    return made


def rows_of(tokens: int, length: int, seed: int) -> Batch:
    """Random rows of documents of `DOCUMENT` tokens, on the host."""
    generator = torch.Generator().manual_seed(seed)
    rows = tokens // length
    drawn = torch.randint(VOCAB, (rows, length + 1), generator=generator)
    place = torch.arange(length).expand(rows, length)
    last = place % DOCUMENT == DOCUMENT - 1
    return Batch(drawn[:, :-1], drawn[:, 1:], (~last).float(), place % DOCUMENT, place // DOCUMENT, torch.arange(rows))


class Captured:
    """12 outcomes of each position, as a cache of captured logits decodes them on the host."""

    name, vocab = "captured", VOCAB

    def __call__(self, batch: Batch) -> Sparse:
        """Random outcomes of weight 1/12."""
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(VOCAB // 12, (batch.weight.numel(), 12), generator=generator) + torch.arange(12) * (
            VOCAB // 12
        )
        weight = torch.full(ids.shape, 1 / 12)
        return Sparse(ids, weight.log(), weight, VOCAB).to(batch.tokens.device)


def measured(
    student: LanguageModel, teacher: LanguageModel, way: dict[str, Any], *, tokens: int, micro: int, steps: int
) -> dict[str, Any]:
    """Tokens per second and peak of a way: ``steps`` steps of ``tokens``, ``micro`` at once, after two for warm-up."""
    device = student.device
    checkpoint_layers(student.model, bool(way.get("twice")))
    student.model.train()
    optimizer = adamw(student.model, [], weight_decay=0.01)
    objective, source = ForwardKL(), Captured() if way.get("captured") else teacher
    torch.cuda.reset_peak_memory_stats(device)
    late: Step | None = None
    losses, host = [], 0.0
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for number in range(steps + 2):
        if number == 2:
            torch.cuda.synchronize(device)
            start.record()
        begun = time.perf_counter()
        whole = rows_of(tokens, way["length"], number)
        rows = max(1, micro // way["length"])
        parts = [whole.rows(slice(at, at + rows)).to(device) for at in range(0, len(whole.tokens), rows)]
        with torch.autocast("cuda", torch.bfloat16):
            done = train_step(
                student, [LossTerm(part, objective, source) for part in parts], optimizer, mesh=alone(device)
            )
        host += (time.perf_counter() - begun) * (number >= 2)
        if late is not None:
            losses.append(late.loss)
        late = done
    end.record()
    losses.append(done.loss)
    seconds = start.elapsed_time(end) / 1000 / steps
    found = {
        "tokens_per_s": tokens / seconds,
        "seconds": seconds,
        "host_seconds": host / steps,
        "peak_gib": torch.cuda.max_memory_allocated(device) / 2**30,
        "losses": losses,
    }
    optimizer.zero_grad(set_to_none=True)
    del optimizer
    gc.collect()
    torch.cuda.empty_cache()
    return found


def main() -> None:
    """Measures all ways and prints a table; what does not fit is said, and the others go on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=32_768, help="of a step")
    parser.add_argument("--micro", type=int, default=16_384, help="tokens at once")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    teacher = made(TEACHER, device, torch.bfloat16, train=False)
    student = made(STUDENT, device, torch.float32, train=True)
    print(f"teacher {teacher.parameters_count / 1e9:.2f}B, student {student.parameters_count / 1e9:.2f}B parameters")
    print(f"{torch.cuda.memory_allocated(device) / 2**30:.1f} GiB of weights\n")
    print("| step | tokens/s | seconds | host's seconds | peak, GiB |\n|---|---|---|---|---|")
    results: dict[str, Any] = {}
    for name, way in WAYS.items():
        try:
            found = measured(
                student, teacher, way, tokens=arguments.tokens, micro=arguments.micro, steps=arguments.steps
            )
        except torch.cuda.OutOfMemoryError as error:
            print(f"| {name} | out of memory: {str(error).splitlines()[0]} | | | |", flush=True)
            results[name] = {"error": "out of memory"}
            gc.collect()
            torch.cuda.empty_cache()
            continue
        results[name] = found
        rate, peak = found["tokens_per_s"], found["peak_gib"]
        print(
            f"| {name} | {rate:,.0f} | {found['seconds']:.3f} | {found['host_seconds']:.3f} | {peak:.1f} |", flush=True
        )
    short, long = (results.get(f"rows of {length}", {}).get("tokens_per_s") for length in ("256", "8,192"))
    if short and long:
        print(f"\nrows of 8,192 at {long / short:.2f} of the tokens/s of rows of 256 (aim 0.85)")
    if arguments.json:
        facts = made_by("transformers") | {"hardware": torch.cuda.get_device_name(device)}
        arguments.json.write_text(json.dumps(facts | {"results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
