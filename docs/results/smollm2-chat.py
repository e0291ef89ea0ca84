"""SmolLM2-135M-Instruct made small for chat: students of 20M parameters that learn from its answers and logits.

usage: smollm2-chat.py prompts DATA OUT writes OUT/prompts.jsonl, the prompts of DATA/tasks; split ANSWERED OUT writes
OUT/{train,held_out}.jsonl, the finished answers of ANSWERED/text.jsonl; answer MODEL DATA OUT writes OUT, what MODEL answers to the
prompts of IFEval and which of their constraints the answers follow; judge RUNS OUT reads all of it and writes OUT/results.json.

The criterion, fixed before the first run. Prompts are those of self_instruct, Alpaca, MT-Bench and Vicuna (first turns) and the
first questions of preference conversations. The teacher answers each once at temperature 0.7 with up to 256 tokens, and answers
that did not end are left out. Every tenth prompt is held out. Conversations stand whole in rows of 512, only answers are learned,
and the vocabulary is what the training text uses. All arms begin with the same pruned model and have the
flagship's learning rate. Losses are nats per token of the
held-out answers in the trimmed vocabulary. Constraints are those of IFEval prompts that a program can check without a trained one;
no arm was trained on these prompts. Answers to them are greedy, with up to 256 tokens. A share is of constraints that are
followed as written (strict), over prompts; three seeds. A claim is confirmed where the whole 95 % interval of each of its
differences lies on its side of 0, over documents or prompts and seeds, refuted where one lies on the other side, else inconclusive;
intervals are not corrected.

after training: the student, trained on answers and logits by forward KL, follows more constraints than the pruned, untrained model.
logits, equal tokens: it has fewer nats per token than the same pruned model trained by cross-entropy on the answers alone.
logits, equal compute: it has fewer than cross-entropy at equal FLOPs, the teacher's pass over the answers counted.
constraints, equal tokens: it follows more constraints than cross-entropy at equal tokens.
constraints, equal compute: it follows more than cross-entropy at equal FLOPs.

Without a claim: what the teacher follows, and what share each model would follow by chance, with its answers to other prompts.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from arms import gain, judged, level, measured
from shared import as_json, made_by, records, versions, write_records

from limbeck.disk import write_json
from limbeck.models.load import load
from limbeck.probes.constraints import answered, by_chance, followed, read_items
from limbeck.probes.interval import difference_interval

MOST = 256  # tokens of an answer
EVERY = 10  # prompt that is held out
LONGEST = 1200  # characters of a prompt
ARMS = {"student": "answers and logits", "cut": "pruned, untrained", "cut+ce": "answers", "cut+ce@flops": "answers, FLOPs"}


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


def answer(model, data, out):
    """Writes a model's answers and what they follow, once."""
    if out.exists():
        return
    items, left_out = read_items(data / "tasks" / "ifeval" / "input_data.jsonl")
    found = answered(load(model, dtype=DTYPE), items, most=MOST)
    rows = [
        {"key": item.name, "constraints": len(item.constraints), "followed": sum(followed(one.text, item))}
        | {"loosely": sum(followed(one.text, item, loose=True)), "tokens": one.tokens, "ended": one.finish == "stop"}
        for item, one in zip(items, found, strict=True)
    ]
    chance = by_chance([one.text for one in found], items).tolist()
    write_json(out, {"rows": rows, "by_chance": chance, "left_out": left_out, "most": MOST})
