"""On-policy distillation at lambda 0.5: TRL's GKD trainer and limbeck, with one student, teacher, text and objective.

    python benchmarks/on_policy.py                       # both three times, in turn
    python benchmarks/on_policy.py --documents 80 --repeats 1 --contenders limbeck

Half of the text is the student's own: TRL tosses a coin for each step of 8 documents, limbeck for each row. Each continuation
begins after a random beginning of at most half of a document and has 64 tokens at most, at temperature 1. What counts is tokens
of the text and those that the student generated, for each CPU-second of a process with one thread, generation among it. Each
run is a fresh process, and all steps but the first count.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from circumstances import made_by
from distil import DOCUMENTS_PER_STEP, ENVIRONMENT, LEARNING_RATE, Meter, _models, _texts, gkd_arguments
from setting import LENGTH, Setting, encode, prepare, write_texts

LAMBDA, NEW = 0.5, 64


def trl(folder: Path, setting: Setting, meter: Meter) -> list[tuple[int, bool]]:
    """Tokens of each step of TRL's GKD trainer, and whether the student generated them."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl.experimental.gkd import GKDTrainer

    learned: list[tuple[int, bool]] = []

    class Counting(GKDTrainer):
        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            before = inputs["labels"]
            loss = super().training_step(model, inputs, num_items_in_batch)
            own = inputs["labels"] is not before
            # of the text all is computed; that TRL learns no prompts is not held against it
            counted = inputs["labels"] != -100 if own else inputs["attention_mask"][:, 1:] > 0
            learned.append((int(counted.sum()), own))
            return loss

    tokenizer = AutoTokenizer.from_pretrained(setting.student)
    student, teacher = _models(setting)
    meter.loaded(student, teacher)
    cut = random.Random(0)
    rows = []
    for ids in encode(_texts(folder / "train.jsonl"), tokenizer):
        read = 1 + int(cut.random() * len(ids) / 2)
        rows.append({"prompt": "", "input_ids": ids, "completion_mask": [0] * read + [1] * (len(ids) - read)})
    arguments = gkd_arguments(folder, lmbda=LAMBDA, beta=0.5, max_new_tokens=NEW)
    torch.manual_seed(0)
    random.seed(0)
    Counting(
        model=student,
        teacher_model=teacher,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    ).train()
    return learned


def limbeck(folder: Path, setting: Setting, meter: Meter) -> list[tuple[int, bool]]:
    """Tokens of each step of limbeck, and whether the student generated some of them."""
    from limbeck.corpora import Rows, build_stores
    from limbeck.disk import read_lines
    from limbeck.generation.rollouts import RolloutPlan, Rollouts, Share
    from limbeck.models.load import load
    from limbeck.objectives import JensenShannon
    from limbeck.run.run import Plan, Run
    from limbeck.run.world import alone

    teacher, student = load(setting.teacher), load(setting.student, train=True)
    texts = (str(folder / "train.jsonl"), student, folder / "tokens")
    store, _ = build_stores(*texts, eval_source=str(folder / "held_out.jsonl"))
    rows = Rows(store, length=LENGTH)
    meter.loaded(student.model, teacher.model)
    padded_steps = -(-store.documents // DOCUMENTS_PER_STEP)
    at_once = max(1, round(rows.n_rows / padded_steps))
    steps = round(rows.n_rows / at_once)
    corpus = Rollouts(rows, student, RolloutPlan(Share(LAMBDA, LAMBDA), NEW))
    plan = Plan(steps=steps, rows=at_once, lr=LEARNING_RATE, schedule="constant", weight_decay=0.0)
    (folder / "run").mkdir()
    run = Run(
        folder / "run", "limbeck", student, teacher, corpus, JensenShannon(beta=0.5), plan, alone(), facts=corpus.facts
    )
    run.train()
    metrics = read_lines(folder / "run" / "metrics.jsonl")
    before = [0, *(row["tokens"] for row in metrics)]
    return [(row["tokens"] - earlier, row["rollouts"] > 0) for row, earlier in zip(metrics, before, strict=False)]


CONTENDERS: dict[str, Callable[..., list[tuple[int, bool]]]] = {"trl": trl, "limbeck": limbeck}


def run_one(name: str, folder: Path, setting: Setting) -> dict[str, Any]:
    """Runs a contender in this process and measures it."""
    if name == "limbeck":
        import limbeck  # noqa: F401  (before torch, as in any program of its users: it chooses huge pages)
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    meter = Meter()
    learned = CONTENDERS[name](folder, setting, meter)
    peak, steps = meter.peak(), len(meter.ends)
    assert steps == len(learned), f"{name}: {steps} optimiser steps, {len(learned)} counted"
    return {
        "contender": name,
        "steps": steps,
        "on_policy_steps": sum(own for _, own in learned),
        "tokens": sum(tokens for tokens, _ in learned),
        "tokens_per_cpu_s": sum(tokens for tokens, _ in learned[1:]) / meter.steady,
        "peak_mib": peak,
    }


def run_all(names: list[str], repeats: int, documents: int, setting: Setting) -> list[dict[str, Any]]:
    """All contenders in turn, again and again, each in a process of its own and each time on other documents."""
    results = []
    for repeat in range(repeats):
        chosen = setting.texts(setting.train, documents * (repeat + 1))[documents * repeat :]
        for name in names:
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                write_texts(folder / "train.jsonl", chosen)
                write_texts(folder / "held_out.jsonl", setting.texts(setting.held_out, 16))
                command = [sys.executable, __file__, "--one", name, str(folder), str(setting.folder)]
                done = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stderr[-4000:]}")
            results.append({"repeat": repeat, **json.loads(done.stdout.splitlines()[-1])})
            row = results[-1]
            print(
                f"{repeat} {name:8} {row['tokens_per_cpu_s']:6.0f} tokens/CPU-s, {row['on_policy_steps']} of "
                f"{row['steps']} steps on-policy, peak {row['peak_mib']:.0f} MiB above the models",
                file=sys.stderr,
                flush=True,
            )
    return results


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--documents", type=int, default=160, help="documents of the one epoch (default 160)")
    parser.add_argument("--teacher-seconds", type=float, default=60.0, help="CPU seconds of training, the first time")
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parents[1] / ".bench" / "distil")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("--one", nargs=3, metavar=("NAME", "RUN", "SETTING"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, folder, setting_folder = arguments.one
        print(json.dumps(run_one(name, Path(folder), Setting(Path(setting_folder)))))
        return
    os.environ.update(ENVIRONMENT)
    setting = prepare(arguments.folder, seconds=arguments.teacher_seconds)
    results = run_all(arguments.contenders, arguments.repeats, arguments.documents, setting)
    rates = {name: [r["tokens_per_cpu_s"] for r in results if r["contender"] == name] for name in CONTENDERS}
    if all(rates.values()):
        print(f"limbeck / trl: {statistics.median(rates['limbeck']) / statistics.median(rates['trl']):.2f}")
    if arguments.out:
        facts = made_by("transformers", "trl", "accelerate", "datasets", "tokenizers")
        facts |= {"documents": arguments.documents, "lambda": LAMBDA, "max_new_tokens": NEW, "threads": 1}
        arguments.out.write_text(json.dumps(facts | {"runs": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
