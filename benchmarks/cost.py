"""How long a distillation was said to take, beside how long it took, over twenty shapes.

    python benchmarks/cost.py                       # all of them, fifteen minutes of one core
    python benchmarks/cost.py --shapes 3 --seconds 10

Each shape is a fresh process with one thread: random weights, random text, the objective ForwardKL. The time of a run of
--seconds is compared with what 5 seconds of its real steps foretold, and with the guess from two measured rates that the doctor
makes before there is a student. It is CPU time throughout: wall time on a shared machine tells of the neighbours. Memory is
compared by benchmarks/memory.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circumstances import made_by

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast
    from transformers.configuration_utils import PreTrainedConfig

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
MEASURED_SECONDS = 5.0
HEAD = 16  # channels of an attention head at least; see `config_of`


@dataclass(frozen=True)
class Model:
    """Layers, width, FFN width."""

    layers: int
    hidden: int
    ffn: int


@dataclass(frozen=True)
class Shape:
    """A pair and its batches: a step has ``rows`` rows of ``length`` tokens."""

    kind: str
    vocab: int
    length: int
    rows: int
    student: Model
    teacher: Model


SHAPES = (
    Shape("llama", 259, 128, 16, Model(2, 64, 176), Model(4, 96, 256)),
    Shape("llama", 2048, 256, 8, Model(4, 128, 352), Model(6, 192, 512)),
    Shape("llama", 2048, 64, 64, Model(4, 128, 352), Model(6, 192, 512)),
    Shape("llama", 2048, 1024, 4, Model(4, 128, 352), Model(6, 192, 512)),
    Shape("llama", 8192, 256, 8, Model(4, 192, 512), Model(8, 384, 1024)),
    Shape("llama", 32000, 256, 8, Model(4, 192, 512), Model(8, 384, 1024)),
    Shape("llama", 32000, 512, 4, Model(6, 384, 1024), Model(8, 512, 1376)),
    Shape("llama", 128256, 256, 4, Model(2, 128, 352), Model(2, 256, 704)),
    Shape("llama", 4096, 256, 8, Model(12, 256, 704), Model(12, 512, 1408)),
    Shape("llama", 4096, 256, 4, Model(2, 768, 2048), Model(4, 1024, 2816)),
    Shape("llama", 4096, 256, 4, Model(8, 512, 1408), Model(16, 768, 2048)),
    Shape("qwen3", 16384, 256, 8, Model(6, 256, 768), Model(8, 512, 1536)),
    Shape("gpt2", 16384, 256, 8, Model(4, 256, 1024), Model(8, 384, 1536)),
    Shape("gpt_neox", 8192, 512, 4, Model(6, 192, 768), Model(6, 384, 1536)),
    Shape("llama", 1024, 512, 8, Model(3, 96, 256), Model(5, 160, 432)),
    Shape("llama", 16384, 128, 16, Model(10, 128, 352), Model(10, 320, 864)),
    Shape("llama", 50304, 256, 8, Model(3, 256, 704), Model(6, 384, 1024)),
    Shape("llama", 8192, 512, 4, Model(10, 384, 1024), Model(12, 640, 1728)),
    Shape("qwen3", 4096, 1024, 2, Model(8, 320, 864), Model(12, 448, 1216)),
    Shape("gpt2", 50257, 128, 8, Model(6, 192, 768), Model(6, 320, 1280)),
)


def config_of(kind: str, model: Model, *, vocab: int) -> PreTrainedConfig:
    """The configuration of a model of a kind: heads of 16 channels, of 64 where it is wide."""
    from transformers import GPT2Config, GPTNeoXConfig, LlamaConfig, Qwen3Config

    head = HEAD if model.hidden < 256 else 4 * HEAD
    ends = {"vocab_size": vocab, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    if kind == "gpt2":
        off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        inner = {"n_layer": model.layers, "n_embd": model.hidden, "n_inner": model.ffn, "n_head": model.hidden // head}
        return GPT2Config(n_positions=1024, **inner, **off, **ends)
    sizes = {"num_hidden_layers": model.layers, "hidden_size": model.hidden, "intermediate_size": model.ffn}
    sizes |= {"num_attention_heads": model.hidden // head, "max_position_embeddings": 1024}
    if kind == "gpt_neox":
        return GPTNeoXConfig(**sizes, **ends)
    heads = model.hidden // head
    groups = {"num_key_value_heads": heads // 2 if heads % 2 == 0 else heads, "tie_word_embeddings": True}
    if kind == "qwen3":
        return Qwen3Config(head_dim=head, **sizes, **groups, **ends)
    return LlamaConfig(**sizes, **groups, **ends)


def tokenizer_of(vocab: int) -> PreTrainedTokenizerFast:
    """A tokenizer of so many words, w0 to w999 and so on."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(vocab)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0", unk_token="w0")


def text_of(vocab: int, tokens: int) -> Iterator[str]:
    """Random documents of 100 to 1,000 words, as JSON lines."""
    import numpy as np

    generator = np.random.default_rng(0)
    while tokens > 0:
        words = generator.integers(1, vocab, generator.integers(100, 1000))
        tokens -= len(words)
        yield json.dumps({"text": " ".join(f"w{i}" for i in words)}) + "\n"


def run_one(shape: Shape, seconds: float, folder: Path) -> dict[str, Any]:
    """Foretells and trains one shape in this process."""
    import torch

    import limbeck  # noqa: F401  (before torch: it chooses huge pages)
    from limbeck.corpora import Reader, Rows, build_stores
    from limbeck.models.build import new_model
    from limbeck.objectives import ForwardKL
    from limbeck.planning.cost.machine import measure_rates
    from limbeck.planning.cost.size import Size
    from limbeck.planning.cost.training import estimate
    from limbeck.run.run import Plan, Run
    from limbeck.run.world import alone

    torch.set_flush_denormal(True)
    time.perf_counter = time.process_time  # what limbeck's own measurements read
    tokenizer = tokenizer_of(shape.vocab)
    configs = [config_of(shape.kind, m, vocab=shape.vocab) for m in (shape.student, shape.teacher)]
    (folder / "text.jsonl").write_text("".join(text_of(shape.vocab, 300_000)))
    store, _ = build_stores(str(folder / "text.jsonl"), Reader(tokenizer, end=0), folder / "data")

    def run(steps: int) -> Run:
        student = new_model(configs[0], tokenizer, 0, name="student")
        plan = Plan(steps=steps, rows=shape.rows, lr=1e-4)
        return Run(
            folder / "run", "run", student, teacher, Rows(store, length=shape.length), ForwardKL(), plan, alone()
        )

    teacher = new_model(configs[1], tokenizer, 1, name="teacher")
    teacher.model.eval().requires_grad_(False)
    step_tokens = shape.rows * shape.length
    foretold = run(1).measure(MEASURED_SECONDS)
    steps = max(3, round(seconds / foretold))
    cost = estimate(
        *(Size.of(config) for config in configs),
        length=shape.length,
        tokens=steps * step_tokens,
        batch_tokens=step_tokens,
        itemsize=4,
        device="cpu",
    )
    guessed = cost.seconds(measure_rates(cost.student, dtype=torch.float32, device=torch.device("cpu")))
    real = run(steps)
    start = time.perf_counter()
    real.train()
    took = time.perf_counter() - start
    return {
        "student": cost.student.parameters,
        "teacher": cost.teacher.parameters if cost.teacher else 0,
        "predicted_seconds": foretold * steps,
        "guessed_seconds": guessed,
        "measured_seconds": took,
        "time_ratio": foretold * steps / took,
        "guess_ratio": guessed / took,
    }


def _line(shape: Shape, row: dict[str, Any]) -> str:
    sizes = f"{row['student'] / 1e6:.2f}M of {row['teacher'] / 1e6:.2f}M"
    name = f"{shape.kind} {sizes}, V {shape.vocab}, {shape.rows} x {shape.length}"
    return (
        f"{name:<48} {row['predicted_seconds']:>9.1f} s {row['measured_seconds']:>8.1f} {row['time_ratio']:>6.2f} "
        f"{row['guess_ratio']:>6.2f}"
    )


def main() -> None:
    """Runs the shapes, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="how many of them, from the first")
    parser.add_argument("--seconds", type=float, default=30.0, help="of training that is timed, a shape")
    parser.add_argument("--out", type=Path, default=Path(".bench/cost.json"))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(run_one(SHAPES[arguments.one], arguments.seconds, Path(folder))))
        return
    rows = []
    print(f"{'shape':<48} {'time: said':>11} {'was':>8} {'ratio':>6} {'guess':>6}")
    for index, shape in enumerate(SHAPES[: arguments.shapes]):
        command = [sys.executable, __file__, "--one", str(index), "--seconds", str(arguments.seconds)]
        done = subprocess.run(command, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True)
        row = asdict(shape) | json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        print(_line(shape, row), flush=True)
    print(f"worst of {len(rows)}: {max(abs(row['time_ratio'] - 1) for row in rows):.0%} off")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(made_by("transformers") | {"shapes": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
