"""What it costs to take a real language model in and to hand a student out.

    LIMBECK_TEST_DATA=FOLDER python benchmarks/real_model.py

CPU seconds, one thread: of `limbeck import` of SmolLM2-135M-Instruct's 4-bit GGUF file (de-quantised into a folder); of choosing
its trimmed vocabulary for children's stories (FOLDER/text/tinystories); of a training step with all tokens and with those (the
student has 8 of the 30 layers); of writing a model of 50M parameters as GGUF, and of the whole command `limbeck export`, which
where limbeck[llamacpp] is installed reads the file again by llama.cpp, compares and takes the time of both; and of pairs of BLiMP
(FOLDER/tasks/blimp) scored by limbeck and by lm-eval's own `hf` model, in turn. Needs limbeck[gguf,eval].
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import vocabulary
from circumstances import made_by

from limbeck.exporters.named import Format
from limbeck.models.build import new_model
from limbeck.models.gguf.shipped import SHIPPED
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.probes.standard.evaluate import evaluate, load_tasks
from limbeck.students.shape import choose, config_of

TEACHER = "builtin:smollm2-135m"
EXPORTED = 50_000_000  # parameters
ITEMS = 60  # pairs of BLiMP


def main() -> None:
    """Prints what was measured, and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, help="the GGUF file (default: that of builtin:smollm2-135m)")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of steps, and of runs of the tasks (default 5)")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = Path(os.environ["LIMBECK_TEST_DATA"])
    steps = argparse.Namespace(teacher=TEACHER, vocab="auto", layers=8, rows=4, length=512, repeats=arguments.pairs)
    steps.data = str(data / "text" / "tinystories" / "train.jsonl")
    with tempfile.TemporaryDirectory() as folder:
        found = {
            "import_cpu_s": imported(
                arguments.teacher or SHIPPED[TEACHER.removeprefix("builtin:")].file(), Path(folder)
            ),
            "vocabulary": vocabulary.measured(steps),
            "export": exported(Path(folder)),
            "tasks": scored(data / "tasks" / "blimp" / "blimp_67x100.jsonl", Path(folder), arguments.pairs),
        }
    print(json.dumps(found, indent=1))
    if arguments.out:
        packages = ("transformers", "gguf", "lm_eval", "xllamacpp")
        arguments.out.write_text(json.dumps(made_by(*packages) | found, indent=1) + "\n", encoding="utf-8")


def imported(file: Path, folder: Path) -> float:
    """CPU seconds of the whole command, Python's start included."""
    return cpu_seconds("import", str(file), "--out", str(folder / "imported"))


def exported(folder: Path) -> dict[str, Any]:
    """CPU seconds of the whole command, for a new model with the teacher's vocabulary."""
    teacher = load(TEACHER)
    shape = choose(teacher.config, parameters=EXPORTED)
    student = new_model(config_of(shape, teacher.config), teacher.tokenizer, 0)
    save(student, folder / "student", dtype=torch.bfloat16)
    (folder / "written").mkdir()
    begun = time.process_time()
    Format.of("gguf:q8_0").exporter().write(student, folder / "written", dtype=None)
    written = time.process_time() - begun
    spent = cpu_seconds(
        "export", str(folder / "student"), "--to", "gguf:q8_0", "--threads", "1", "--out", str(folder / "gguf")
    )
    runtime = find_spec("xllamacpp") is not None
    return {
        "parameters": student.parameters_count,
        "write_cpu_s": written,
        "command_cpu_s": spent,
        "read_by_llama_cpp": runtime,
    }


def scored(file: Path, folder: Path, pairs: int) -> dict[str, Any]:
    """CPU seconds of the same pairs of sentences with limbeck and with lm-eval's own model, in turn."""
    from lm_eval.evaluator import evaluate as run_tasks
    from lm_eval.models.huggingface import HFLM

    model = load(TEACHER)
    rows = file.read_text(encoding="utf-8").splitlines(keepends=True)
    some = folder / "blimp.jsonl"
    some.write_text("".join(rows[:: len(rows) // ITEMS][:ITEMS]), encoding="utf-8")
    loaded = load_tasks([str(some)])
    theirs = HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=16)

    def by_peer() -> None:
        tasks = {"tasks": dict(loaded.tasks), "groups": {}, "group_map": {}}
        run_tasks(theirs, tasks, bootstrap_iters=0, log_samples=True)

    ours: dict[str, list[float]] = {"limbeck": [], "lm-eval hf": []}
    contenders = [("limbeck", lambda: evaluate(model, loaded)), ("lm-eval hf", by_peer)]
    for number in range(pairs + 1):
        for name, run in contenders if number % 2 else reversed(contenders):
            start = time.process_time()
            run()
            if number:  # the first finds nothing warm
                ours[name].append(time.process_time() - start)
    ratios = [other / own for own, other in zip(ours["limbeck"], ours["lm-eval hf"], strict=True)]
    return {"items": ITEMS, "cpu_s": ours, "ratios": ratios, "median": statistics.median(ratios)}


def cpu_seconds(*words: str) -> float:
    """CPU seconds of a command of limbeck and of what it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "limbeck", *words], check=True, env=environment, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
