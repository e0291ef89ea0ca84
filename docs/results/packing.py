"""Rows of whole documents and conversations beside rows that are cut out of the stream of all of them, as older versions did.

usage: packing.py OUT; LIMBECK_TEST_DATA names the folder of texts and models. Some ten minutes of one core, most of it in
trainings; what is done is not done again. Writes OUT/results.json.

Three questions. What share of the learned tokens lacks a part of what came before it in its document, by how long rows are, and
what padding and reading again cost. How far a teacher's held-out loss in rows of 256 is from that on whole stories. Whether
students that read rows of one or the other kind for equally many steps differ on held-out stories and answers that stand whole.

The criterion, which stood before the first run: rows of whole documents make a better student where the 95 % interval of the
difference, seed by seed and document by document, lies below 0 nats a token, a worse one where it lies above, and else it is
inconclusive.
"""

import json
import os
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from shared import as_json, records, small_llama, versions
from transformers import AutoTokenizer

from limbeck.corpora import Rows, build_held_out, build_stores, train_tokenizer
from limbeck.corpora.layout import BEST_FIT, STREAM
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.held_out import HeldOut
from limbeck.jobs.pair.student import shrink_to
from limbeck.models.build import new_model
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.objectives import CrossEntropy, ForwardKL
from limbeck.probes import Measurements, measure
from limbeck.probes.interval import difference_interval
from limbeck.run.optim import suggested_learning_rate
from limbeck.run.run import Plan, Run
from limbeck.run.world import alone
from limbeck.students.shape import choose

SEEDS = range(3)
LENGTHS = (256, 512, 1024, 2048, 4096)
LENGTH, ROWS, STEPS = 256, 8, 100  # of the trainings
STUDENT = 104_000  # parameters, two fifths of its teacher's
KINDS = {"stream": STREAM, "whole": BEST_FIT}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>"
    "{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ENVIRONMENT = Environment(alone("cpu"), bf16=False)


def share_gpt(row):
    """A conversation with the answer that was preferred."""
    roles = {"human": "user", "gpt": "assistant", "system": "system"}
    return [{"role": roles[turn["from"]], "content": turn["value"]} for turn in [*row["conversations"], row["chosen"]]]


def asked(question, answer):
    """A question with its answer."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def written(file, rows):
    """Records as a file of JSON lines, once."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def texts_of(data, out):
    """The texts by name: files of conversations and of plain documents."""
    tasks, texts = data / "tasks", data / "text"
    talks = {
        "preference": [share_gpt(row) for row in records(tasks / "preference" / "dpo_en_demo.jsonl")],
        "gsm8k": [asked(row["question"], row["answer"]) for row in records(tasks / "gsm8k" / "train.jsonl")],
        "gsm8k-test": [asked(row["question"], row["answer"]) for row in records(tasks / "gsm8k" / "test.jsonl")],
        "alpaca": [
            asked("\n".join(filter(None, (row["instruction"], row["input"]))), row["output"])
            for row in records(tasks / "alpaca" / "alpaca_en_demo.jsonl")
        ],
    }
    found = {
        name: written(out / "texts" / f"{name}.jsonl", [{"messages": talk} for talk in some])
        for name, some in talks.items()
    }
    return found | {
        "tinystories": texts / "tinystories" / "train.jsonl",
        "tinystories-held-out": texts / "tinystories" / "train_v2.jsonl",
        "c4": texts / "c4" / "c4_demo.jsonl",
        "python": texts / "python_stdlib" / "files.jsonl",
    }


def shares(store):
    """What rows of each length do to a store, by both ways."""
    found = {}
    for name, packing in KINDS.items():
        layouts = {length: store.packed(packing).layout(length) for length in LENGTHS}
        found[name] = {
            length: {
                "lacking": layout.packed.share_lacking,
                "padding": layout.padding,
                "read_again": layout.packed.repeated / layout.packed.read,
                "cut": layout.packed.cut,
                "rows": layout.rows,
            }
            for length, layout in layouts.items()
        }
    return found


def of_texts(files, out):
    """Sizes and shares of each text, in the tokens of a published tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(Path(os.environ["LIMBECK_TEST_DATA"]) / "tokenizers" / "gpt_neox_20b")
    tokenizer.chat_template = TEMPLATE
    found = {}
    for name in ("preference", "alpaca", "gsm8k", "tinystories", "c4", "python"):
        store = build_held_out(str(files[name]), tokenizer, out / "stores" / name)
        sizes = np.diff(store.starts)
        found[name] = {
            "documents": store.documents,
            "tokens": store.tokens,
            "median": float(np.median(sizes)),
            "longest": int(sizes.max()),
            "rows": shares(store),
        }
    return found


def measured(model, store, length, file):
    """Sums of each document of a store, all of which is read in rows of this length."""
    if not file.exists():
        rows = HeldOut(store, length=length, environment=ENVIRONMENT, rows=store.layout(length).rows)
        file.parent.mkdir(parents=True, exist_ok=True)
        measure(model, None, rows.batches(), documents=store.documents).save(file)
    return Measurements.load(file)


def difference(a, b):
    """By how many nats a token some runs are above others, with its interval."""
    found = difference_interval(np.stack([x.nats for x in a]), np.stack([x.nats for x in b]), a[0].tokens)
    return as_json(found) | {"seeds": len(a)}


def mean(runs):
    """Nats a token."""
    return float(np.mean([run.nats.sum() / run.tokens.sum() for run in runs]))


def of_teacher(teacher, held_out, out):
    """A published model on held-out stories, in rows of either kind, and on the whole stories that fit into its context."""
    rows = {
        name: measured(teacher, held_out.packed(packing), LENGTH, out / "teacher" / f"{name}.safetensors")
        for name, packing in KINDS.items()
    }
    whole = measured(teacher, held_out, teacher.context, out / "teacher" / "context.safetensors")
    return {
        "length": LENGTH,
        "context": teacher.context,
        "nats": {name: mean([run]) for name, run in (rows | {"context": whole}).items()},
        "above_context": {name: difference([run], [whole]) for name, run in rows.items()},
        "whole_above_stream": difference([rows["whole"]], [rows["stream"]]),
        "lacking": {name: held_out.packed(p).layout(LENGTH).packed.share_lacking for name, p in KINDS.items()},
    }


def trained(folder, start, teacher, objective, store, seed):
    """A student after its training, from disk if it is there."""
    if not (folder / "student" / "config.json").exists():
        model = start()
        plan = Plan(steps=STEPS, rows=ROWS, lr=suggested_learning_rate(model.parameters_count))
        corpus = Rows(store, length=LENGTH, seed=seed)
        Run(folder, folder.name, model, teacher, corpus, objective, plan, ENVIRONMENT.world).train()
        save(model, folder / "student")
        for step in folder.glob("step-*"):
            shutil.rmtree(step)
    return load(folder / "student")


def of_students(name, start, teacher, objective, train, held_out, context, out):
    """Students by rows of either kind, measured on whole documents."""
    runs: dict[str, list[Measurements]] = {kind: [] for kind in KINDS}
    for kind, packing in KINDS.items():
        store = train.packed(packing)
        for seed in SEEDS:
            folder = out / "students" / f"{name}-{kind}-seed{seed}"
            student = trained(folder, lambda s=seed: start(s), teacher, objective(), store, seed)
            runs[kind].append(measured(student, held_out, context, folder / "measured.safetensors"))
    found = difference(runs["whole"], runs["stream"])
    says = "better" if found["high"] < 0 else "worse" if found["low"] > 0 else "inconclusive"
    layouts = {kind: train.packed(packing).layout(LENGTH) for kind, packing in KINDS.items()}
    return {
        "nats": {kind: mean(some) for kind, some in runs.items()},
        "whole_above_stream": found,
        "verdict": says,
        "lacking": {kind: layout.packed.share_lacking for kind, layout in layouts.items()},
        "padding": {kind: layout.padding for kind, layout in layouts.items()},
        "tokens": STEPS * ROWS * LENGTH,
    }


def small(tokenizer):
    """A small model with random weights."""
    config = small_llama(tokenizer, context=1024)
    return lambda seed: new_model(config, tokenizer, seed)


def kept(out, name, found):
    """Adds a part of the results to those that are there: whoever stops here has them."""
    file = out / "results.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    results[name] = found
    results["versions"] = versions("torch", "transformers")
    results |= {"command": "docs/results/packing.sh", "date": datetime.now(UTC).date().isoformat()}
    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def main(out):
    """Everything that is left, part by part."""
    out = Path(out)
    torch.set_num_threads(1)
    data = Path(os.environ["LIMBECK_TEST_DATA"])
    files = texts_of(data, out)
    teacher = load(data / "models" / "stories-llama-260k")
    held = str(files["tinystories-held-out"])
    learn, held_out = build_stores(str(files["tinystories"]), teacher, out / "stories", eval_source=held)
    kept(out, "teacher", of_teacher(teacher, held_out, out))
    kept(out, "texts", of_texts(files, out))
    shape = choose(teacher.config, parameters=STUDENT)

    def cut(seed):
        student = shrink_to(shape, teacher, learn, length=LENGTH, environment=ENVIRONMENT, method="activation", seed=0)
        student.model.train().requires_grad_(True)
        return student

    kept(out, "stories", of_students("stories", cut, teacher, ForwardKL, learn, held_out, teacher.context, out))
    words = [turn["content"] for row in records(files["gsm8k"]) for turn in row["messages"]]
    if not (out / "tokenizer").exists():
        train_tokenizer(words, vocab=2048).save_pretrained(out / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
    tokenizer.chat_template = TEMPLATE
    talks = build_stores(str(files["gsm8k"]), tokenizer, out / "gsm8k", eval_source=str(files["gsm8k-test"]))
    kept(out, "answers", of_students("answers", small(tokenizer), None, CrossEntropy, *talks, 1024, out))


if __name__ == "__main__":
    main(*sys.argv[1:])
