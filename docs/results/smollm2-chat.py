"""SmolLM2-135M-Instruct made small for chat: students of 20M parameters that learn from its answers and logits.

usage: smollm2-chat.py prompts DATA OUT writes OUT/prompts.jsonl, the prompts of DATA/tasks; split ANSWERED OUT writes
OUT/{train,held_out}.jsonl, the finished answers of ANSWERED/text.jsonl; answer RUN TEACHER DATA OUT writes for each model of a
run and for the teacher which constraints of IFEval's prompts its answers follow; judge RUNS OUT reads all of it and writes
OUT/results.json and the page beside it.

The criterion, fixed before the first run. Prompts are those of self_instruct, Alpaca, MT-Bench and Vicuna (first turns) and the
first questions of preference conversations. The teacher answers each once at temperature 0.7 with up to 256 tokens, and answers
that did not end are left out. Every tenth prompt is held out. Conversations stand whole in rows of 512, only answers are learned,
and the vocabulary is what the training text uses. All arms begin with the same pruned model and have the flagship's learning
rate. Losses are nats per token of the held-out answers in the trimmed vocabulary. Constraints are those of IFEval prompts that a
program can check without a trained one; no arm was trained on these prompts. Answers to them are greedy, with up to 256 tokens.
A share is of constraints that are followed as written (strict), over prompts; three seeds. A claim is confirmed where the whole
95 % interval of its difference, over documents or prompts and seeds, lies on its side of 0, refuted where it lies on the other
side, else inconclusive; intervals are not corrected.

after training: the student, trained on answers and logits by forward KL, follows more constraints than the pruned, untrained
model.
logits, equal tokens: it has fewer nats per token than the same pruned model trained by cross-entropy on the answers alone.
logits, equal compute: it has fewer than cross-entropy at equal FLOPs, the teacher's pass over the answers counted.
constraints, equal tokens: it follows more constraints than cross-entropy at equal tokens.
constraints, equal compute: it follows more than cross-entropy at equal FLOPs.

Without a claim: what the teacher follows, and what share each model would follow by chance, with its answers to other prompts.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from arms import gain, judged, level, measured
from chat_page import page
from shared import made_by, records, versions, write_records

from limbeck.disk import write_json, write_text
from limbeck.models.load import load
from limbeck.probes.constraints import answered, by_chance, followed, read_items
from limbeck.probes.interval import difference_interval

MOST = 256  # tokens of an answer
EVERY = 10  # prompt that is held out
LONGEST = 1200  # characters of a prompt
CLAIMS = {  # the quantity, and the arm that the student is compared with
    "after training": ("followed", "cut"),
    "logits, equal tokens": ("nats", "cut+ce"),
    "logits, equal compute": ("nats", "cut+ce@flops"),
    "constraints, equal tokens": ("followed", "cut+ce"),
    "constraints, equal compute": ("followed", "cut+ce@flops"),
}
ARMS = ("student", "cut", "cut+ce", "cut+ce@flops")


def prompts(data, out):
    """Writes each prompt of some data sets once, as a conversation that awaits its answer."""
    tasks = data / "tasks"
    found = [joined(row["instruction"], row["input"]) for row in records(tasks / "alpaca" / "alpaca_en_demo.jsonl")]
    for name in ("seed_tasks", "user_oriented_instructions"):
        rows = records(tasks / "self_instruct" / f"{name}.jsonl")
        found += [joined(row["instruction"], row["instances"][0]["input"]) for row in rows]
    for name in ("mt_bench", "vicuna80"):
        found += [row["turns"][0] for row in records(tasks / name / "question.jsonl")]
    for row in records(tasks / "preference" / "dpo_en_demo.jsonl"):
        found += [turn["value"] for turn in row["conversations"] if turn["from"] == "human"][:1]
    short = [text for text in dict.fromkeys(map(str.strip, found)) if 0 < len(text) <= LONGEST]
    write_records(out / "prompts.jsonl", [{"messages": [{"role": "user", "content": text}]} for text in short])


def joined(instruction, given):
    """An instruction with what it is about, if anything."""
    return "\n\n".join(filter(None, (instruction, given)))


def split(answers, out):
    """Writes the finished answers, those of every tenth prompt apart."""
    found = [row for row in records(answers / "text.jsonl") if row["finish"] == "stop"]
    for name, held_out in (("held_out", True), ("train", False)):
        rows = [{"messages": row["messages"]} for row in found if (row["prompt"] % EVERY == 0) == held_out]
        write_records(out / f"{name}.jsonl", rows)


def models(run):
    """The folder of every model of a run by its arm and seed; the pruned model is one for all seeds."""
    trained = [(arm["name"], arm["seed"]) for arm in read(run / "run.json")["plan"]["arms"]]
    first = min(seed for _, seed in trained)
    found = {("cut", first): run / "cut"}
    for arm, seed in trained:
        folder = run / "baselines" / f"{arm}-seed{seed}" if arm != "student" else run / "seeds" / f"seed{seed}"
        found[arm, seed] = (run if (arm, seed) == ("student", first) else folder) / "student"
    return found


def read(file):
    """A file of JSON."""
    return json.loads(file.read_text(encoding="utf-8"))


def answer(run, teacher, data, out):
    """Writes what the models of a run and their teacher follow; what is there is not done again."""
    asked = read_items(data / "tasks" / "ifeval" / "input_data.jsonl")
    items = asked.items
    named = {f"{arm}-seed{seed}": folder for (arm, seed), folder in models(run).items()} | {"teacher": teacher}
    for name, model in named.items():
        if (out / f"{name}.json").exists():
            continue
        found = answered(load(model, dtype=torch.bfloat16), items, most=MOST)
        rows = [counts(one, item) for item, one in zip(items, found, strict=True)]
        chance = by_chance([one.text for one in found], items)
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / f"{name}.json", {"left_out": asked.left_out, "rows": rows, "by_chance": chance.tolist()})
        print(name, sum(row["followed"] for row in rows), "of", sum(row["constraints"] for row in rows), "followed")


def counts(answer, item):
    """What is kept of an answer: how many constraints it follows, how long it is, whether it ended."""
    return {
        "key": item.name,
        "constraints": len(item.constraints),
        "followed": followed(answer.text, item),
        "loosely": followed(answer.text, item, loose=True),
        "tokens": answer.tokens,
        "ended": answer.finish == "stop",
    }


def column(files, name):
    """(models, prompts): a number of each answer."""
    return np.array([[row[name] for row in one["rows"]] for one in files], dtype=float)


def shares(files):
    """What models of one arm follow, with intervals over prompts and seeds."""
    constraints, strictly = column(files, "constraints"), column(files, "followed")
    prompts, chance = np.ones_like(constraints), np.array([one["by_chance"] for one in files])
    found = {
        "followed": (strictly, constraints),
        "loosely": (column(files, "loosely"), constraints),
        "by_chance": (chance, constraints),
        "whole_prompts": ((strictly == constraints).astype(float), prompts),
        "ended": (column(files, "ended"), prompts),
        "tokens": (column(files, "tokens"), prompts),
    }
    return {
        name: asdict(difference_interval(sums, np.zeros_like(sums), counted[0]))
        for name, (sums, counted) in found.items()
    }


def more_followed(student, other):
    """By how much larger a share the student follows. A single model stands beside each seed."""
    mine, theirs = column(student, "followed"), column(other, "followed")
    return difference_interval(mine, np.broadcast_to(theirs, mine.shape), column(student, "constraints")[0])


def judge(runs, out):
    """Reads what was trained and answered, and writes what came out."""
    run = runs / "20m"
    files = {arm: [read(file) for file in sorted((runs / "followed").glob(f"{arm}-seed*.json"))] for arm in ARMS}
    teacher = read(runs / "followed" / "teacher.json")
    losses = {arm: measured(run, arm) for arm in ARMS}
    gains = {
        claim: gain(losses["student"], losses[arm]) if what == "nats" else more_followed(files["student"], files[arm])
        for claim, (what, arm) in CLAIMS.items()
    }
    about, generated = read(run / "run.json"), read(runs / "answered" / "run.json")
    result = {
        "verdicts": {claim: judged(one) for claim, one in gains.items()},
        "gains": {claim: asdict(one) for claim, one in gains.items()},
        "seeds": sorted(seed for arm, seed in models(run) if arm == "student"),
        "answers": {
            "temperature": generated["signature"]["temperature"],
            "generated": generated["written"]["samples"],
            "ended": generated["written"]["stopped"],
            "train": len(records(runs / "text" / "train.jsonl")),
            "held_out": int((losses["student"][0].tokens > 0).sum()),
        },
        "prompts": {"checked": len(teacher["rows"]), "left_out": teacher["left_out"]},
        "constraints": int(column([teacher], "constraints").sum()),
        "parameters": {name: about[name]["parameters"] for name in ("teacher", "student")},
        "vocabulary": about["vocabulary"]["tokens"],
        "trained_tokens": about["plan"]["tokens"],
        "nats": {arm: level(some) for arm, some in (losses | {"teacher": measured(run, "teacher")}).items()},
        "followed": {arm: shares(some) for arm, some in (files | {"teacher": [teacher]}).items()},
        "versions": versions("torch", "transformers"),
        **made_by("smollm2-chat.py", "judge", "runs/smollm2-chat", "docs/results/smollm2-chat"),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "results.json", result)
    write_text(out / "README.md", page(result))
    print(json.dumps(result, indent=1))


DO: dict[str, Callable[..., None]] = {"prompts": prompts, "split": split, "answer": answer, "judge": judge}


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    DO[what](*(one if one.startswith("builtin:") else Path(one) for one in rest))
