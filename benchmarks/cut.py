"""Memory of `limbeck shrink` for teachers larger than memory: models of random bfloat16 weights, made shard by shard.

    python benchmarks/cut.py
    python benchmarks/cut.py --sizes 125M,3B --out docs/results/performance/cut.json

Each model is made one tensor at a time and kept in the folder. A fresh process with one thread then cuts a student that is 2.5
times smaller out of it, layer by layer, as on a machine on which --memory is free. What is measured is that process's largest
resident memory (VmHWM) and its CPU time. A model whose weights fit into --resident is also cut with its teacher in memory, and
the two students are compared byte by byte. The 3B needs 8 GB of disk and 110 TFLOP, for 64 rows of the sample and what begins
its documents: 20 minutes of a core that computes 100 GFLOP/s, 40 of one that computes 50 (AVX2).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from formats import facts
from setting import documents, write_texts
from torch import Tensor
from transformers import LlamaConfig

import limbeck
from limbeck.models import streamed, within
from limbeck.models.build import build
from limbeck.models.load import load_tokenizer
from limbeck.models.parts import write_tensors
from limbeck.models.skeleton import names_in_files
from limbeck.models.source import resolve
from limbeck.run.log import peak_rss_gib

GIB = 2**30
# layers, hidden channels, query heads, key heads, FFN neurons, tokens: SmolLM2-135M, Llama 3.2 1B and 3B
SIZES = {
    "125M": (30, 576, 9, 3, 1536, 49_152),
    "1B": (16, 2048, 32, 8, 8192, 128_256),
    "3B": (28, 3072, 24, 8, 8192, 128_256),
}


def main() -> None:
    """Prints a line for each size, and writes all figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="125M", help=f"of {', '.join(SIZES)}, with commas (default 125M)")
    parser.add_argument("--memory", type=float, default=4.0, help="GiB of memory that are free (default 4)")
    parser.add_argument(
        "--resident", type=float, default=2.0, help="GiB of weights that are also cut in memory (default 2)"
    )
    parser.add_argument("--length", type=int, default=256, help="tokens of a row of the sample (default 256)")
    parser.add_argument(
        "--folder", type=Path, default=Path(".bench/cut"), help="where the models lie (default .bench/cut)"
    )
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("--cut", type=Path, help=argparse.SUPPRESS)  # in the fresh process: the teacher
    given = parser.parse_args()
    if given.cut:
        print(json.dumps(cut(given.cut, given.folder, given.memory, given.length)))
        return
    text = given.folder / "text.jsonl"
    if not text.exists():
        text.parent.mkdir(parents=True, exist_ok=True)
        write_texts(text, documents()[0][:2000])
    found = []
    for name in given.sizes.split(","):
        found.append(measured(name, given))
        print(json.dumps(found[-1]), flush=True)
    if given.out:
        result = facts() | {"free_gib": given.memory, "length": given.length, "models": found}
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measured(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Peak memory and CPU time of a cut layer by layer, and of one in memory where that is small."""
    teacher = given.folder / name
    parameters = made(name, teacher)
    found: dict[str, Any] = {"name": name, "parameters": parameters, "file_gib": 2 * parameters / GIB}
    found["streamed"] = in_fresh_process(teacher, given, little=True)
    if 4 * parameters <= given.resident * GIB:
        found["resident"] = in_fresh_process(teacher, given, little=False)
        students = [teacher.with_name(f"{name}-{way}") / "model.safetensors" for way in ("streamed", "resident")]
        found["same_bytes"] = students[0].read_bytes() == students[1].read_bytes()
    return found


def made(name: str, folder: Path) -> int:
    """The number of parameters of a model; it is written to a folder, a file for each layer, unless it is there."""
    layers, hidden, heads, groups, ffn, vocab = SIZES[name]
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        intermediate_size=ffn,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    with torch.device("meta"):
        model = build(config)
    shapes = {written: tuple(model.get_parameter(own).shape) for written, own in names_in_files(model).items()}
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        files = {one: f"model-{one.split('.')[2] if '.layers.' in one else 'rest'}.safetensors" for one in shapes}
        for file in sorted(set(files.values())):
            mine = {one: shape for one, shape in shapes.items() if files[one] == file}
            write_tensors(folder / file, mine, lambda one: random(one, shapes[one]), torch.bfloat16)
        config.save_pretrained(folder)
        load_tokenizer(resolve("builtin:stdlib")).save_pretrained(folder)
        index.write_text(json.dumps({"metadata": {}, "weight_map": files}), encoding="utf-8")  # last
    return sum(torch.Size(shape).numel() for shape in shapes.values())


def random(name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor of random weights, the same for the same name; ones for a norm."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(int.from_bytes(name.encode()) % 2**63)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)


def in_fresh_process(teacher: Path, given: argparse.Namespace, *, little: bool) -> dict[str, float]:
    """The figures of a process of its own that cuts a student."""
    out = teacher.with_name(f"{teacher.name}-{'streamed' if little else 'resident'}")
    shutil.rmtree(out, ignore_errors=True)
    free = given.memory if little else 0.0  # 0: in memory
    flags = ["--cut", str(teacher), "--folder", str(out), "--memory", str(free), "--length", str(given.length)]
    ended = subprocess.run([sys.executable, __file__, *flags], stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return figures


def cut(teacher: Path, out: Path, free_gib: float, length: int) -> dict[str, float]:
    """Cuts a student here; peak memory, what imports alone take, and CPU seconds.

    The teacher is read layer by layer where ``free_gib`` are free for that, and in memory for 0.
    """
    streamed.free_on = lambda device: free_gib * GIB
    vars(within)["free_on"] = lambda device: 0.0 if free_gib else float("inf")
    torch.set_num_threads(1)
    before, start = peak_rss_gib(), time.process_time()
    result = limbeck.shrink(
        teacher=str(teacher), data=str(teacher.with_name("text.jsonl")), shrink=2.5, seq_len=length, out=out
    )
    spent = time.process_time() - start
    student = (out / "model.safetensors").stat().st_size / GIB
    return {
        "peak_gib": peak_rss_gib(),
        "before_gib": before,
        "cpu_s": spent,
        "student_gib": student,
        "student_parameters": result["parameters"],
    }


if __name__ == "__main__":
    main()
