"""Students whose tokenizer is another than their teacher's, beside those that learn alone and those that share its tokenizer.

usage: alignment.py OUT TEACHER DATA VOCAB BYTES; some five minutes of one core a teacher, and continues where it was stopped.
A tokenizer of VOCAB tokens is trained on BYTES of the text. Students of one shape outside their embeddings start from random
weights, with it or with the teacher's tokenizer; all read the same documents once, in rows, steps and context of equal bytes, and
are measured on the same held-out documents, in bits per byte, seed by seed and document by document. Writes OUT/results.json.
"""

import json
import math
import re
import sys
import time
from pathlib import Path

import numpy as np
import torch
from shared import as_json, made_by, shown, small_llama, versions

from limbeck.config import DistilSettings, resolve
from limbeck.corpora import Rows, build_stores, train_tokenizer
from limbeck.corpora.retokenise import text_of
from limbeck.corpora.token_bytes import TokenBytes
from limbeck.jobs.common.environment import environment_of
from limbeck.jobs.common.held_out import HeldOut
from limbeck.jobs.distil.arms import Arm, train
from limbeck.jobs.distil.job import prepare
from limbeck.jobs.distil.request import DistilRequest
from limbeck.models.build import new_model
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.objectives.spec import ObjectiveSpec
from limbeck.probes import Measurements, measure
from limbeck.probes.interval import difference_interval
from limbeck.run.optim import suggested_learning_rate

SEEDS = range(3)
LENGTH, ROWS = 128, 4  # of the student with its own tokenizer; the other's rows are as long in bytes
DOCUMENTS, CHARACTERS = 100, 2000  # held out: so many, and of each so much
OWN, MERGED, SHARED, SAME = "own", "own, merged", "own, shared tokens", "teacher's"
FOLDERS = {OWN: "own", MERGED: "merged", SHARED: "shared", SAME: "teachers"}
ARMS = {  # name: (whose tokenizer, objective)
    "cross-entropy": (OWN, "CrossEntropy"),
    "ALM": (OWN, "CrossEntropy + ALM"),
    "ALM, merged": (MERGED, "CrossEntropy + ALM(merge=0.1)"),
    "ULD": (OWN, "CrossEntropy + 1.5*ULD"),
    "KL of shared tokens": (SHARED, "0.5*CrossEntropy + 0.5*ForwardKL"),
    "cross-entropy, teacher's tokenizer": (SAME, "CrossEntropy"),
    "KD, teacher's tokenizer": (SAME, "0.5*CrossEntropy + 0.5*ForwardKL"),
}


def documents_of(store, spelled, most):
    """The texts of a store's first documents, up to so many bytes."""
    size = 0
    for number in range(store.documents):
        if size >= most:
            return
        text = text_of(store, number, spelled)
        if text is not None:
            size += len(text)
            yield text.decode()


def text_files(out, teacher, data, size):
    """(training, held-out) documents, as files that every tokenizer is given."""
    files = out / "train.jsonl", out / "held_out.jsonl"
    if not all(file.exists() for file in files):
        stores = build_stores(data, teacher, out / "split")
        spelled = TokenBytes(teacher.tokenizer, name=teacher.name)
        found = list(documents_of(stores[0], spelled, size)), list(documents_of(stores[1], spelled, math.inf))
        kept = found[0], [text[:CHARACTERS] for text in found[1][:DOCUMENTS]]
        for file, texts in zip(files, kept, strict=True):
            file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return files


def student(folder, tokenizer):
    """A model of one shape, with this tokenizer."""
    if not (folder / "config.json").exists():
        save(new_model(small_llama(tokenizer, context=512), tokenizer, 0), folder)
    return load(folder)


def measured(model, store, length, environment, file):
    """(nats, bytes) of each held-out document, all of which are read."""
    held_out = HeldOut(store, length=length, environment=environment, rows=Rows(store, length=length).n_rows)
    if not file.exists():
        measure(model, None, held_out.batches(), documents=store.documents).save(file)
    found = Measurements.load(file)
    return found.nats, held_out.text_bytes(found)


def bits(runs, beside=None):
    """Bits per byte of some runs, or their difference to others', seed by seed, with its 95 % interval."""
    nats = np.stack([nats for nats, _ in runs])
    others = np.zeros_like(nats) if beside is None else np.stack([nats for nats, _ in beside])
    return as_json(difference_interval(nats / math.log(2), others / math.log(2), runs[0][1]))


def main(out, teacher_name, data, vocab, size):
    """Trains what is left, and writes all comparisons."""
    out, began = Path(out), time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    teacher = load(teacher_name)
    files = text_files(out, teacher, data, int(size))
    texts = [json.loads(line)["text"] for line in files[0].read_text(encoding="utf-8").splitlines()]
    read = sum(len(text.encode()) for text in texts)
    tokenizers = {OWN: train_tokenizer(texts, vocab=int(vocab)), SAME: teacher.tokenizer}
    models = {whose: student(out / "students" / FOLDERS[whose], found) for whose, found in tokenizers.items()}
    tokens = {whose: sum(map(len, found(texts, verbose=False)["input_ids"])) for whose, found in tokenizers.items()}
    lengths = {OWN: LENGTH, SAME: round(LENGTH * tokens[SAME] / tokens[OWN])}
    steps = min(tokens[whose] // (ROWS * lengths[whose]) for whose in lengths)
    lr = suggested_learning_rate(models[OWN].parameters_count)
    keys = {"teacher": teacher_name, "data": str(files[0]), "eval_data": str(files[1]), "threads": 1, "device": "cpu"}
    keys |= {"lr": lr, "baselines": "none"}
    sides = {}
    for whose in FOLDERS:
        of = SAME if whose == SAME else OWN
        heard = [objective for side, objective in ARMS.values() if side == whose and objective != "CrossEntropy"]
        own = keys | {"student": str(out / "students" / FOLDERS[of]), "length": lengths[of], "objective": heard[-1]}
        own |= {"tokens": steps * ROWS * lengths[of], "batch_tokens": ROWS * lengths[of]}
        align = {OWN: "bytes", MERGED: "bytes", SHARED: "tokens"}.get(whose)
        own |= {"out": out / "runs" / FOLDERS[whose]} | ({"tokenizer_align": align} if align else {})
        settings = resolve(DistilSettings, None, own)
        objectives = tuple(map(ObjectiveSpec.of, heard))
        sides[whose] = prepare(DistilRequest.of(settings), {}, environment_of(settings), objectives=objectives)
    environment = sides[SAME].shared.environment
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for name, (whose, objective) in ARMS.items():
        shared, store = sides[whose].shared, sides[whose].proof.held_out.store
        found[name] = []
        for seed in SEEDS:
            folder = out / "arms" / f"{re.sub(r'[^a-zA-Z]+', '-', name)}-{seed}"
            arm = Arm(name, seed, folder, ObjectiveSpec.of(objective), steps, fresh=True)
            found[name].append(
                measured(train(arm, shared), store, shared.length, environment, folder / "measured.safetensors")
            )
        print(name, json.dumps(bits(found[name])), flush=True)
    by_teacher = [measured(teacher, sides[SAME].proof.held_out.store, 256, environment, out / "teacher.safetensors")]
    result = made_by("alignment.py", "OUT", teacher_name, data, vocab, size) | {
        "seconds": round(time.monotonic() - began),
        "seeds": list(SEEDS),
        "versions": versions("torch", "transformers"),
        "teacher": {"name": shown(teacher_name), "parameters": teacher.parameters_count, "vocab": teacher.vocab},
        "teacher_bits_per_byte": bits(by_teacher * len(SEEDS)),
        "text": {"bytes": read, "documents": len(texts), "steps": steps, "learning_rate": lr},
        "students": {
            whose: {
                "vocab": models[whose].vocab,
                "parameters": models[whose].parameters_count,
                "tokens": tokens[whose],
                "length": lengths[whose],
            }
            for whose in models
        },
        "aligned": {whose: dict(sides[whose].source.facts["aligned"]) for whose in (OWN, MERGED, SHARED)},
        "rows": [
            {
                "arm": name,
                "tokenizer": whose,
                "objective": objective,
                "bits_per_byte": bits(found[name]),
                "above_cross_entropy": bits(found[name], found["cross-entropy"]),
                "above_kd_with_the_teachers_tokenizer": bits(found[name], found["KD, teacher's tokenizer"]),
            }
            for name, (whose, objective) in ARMS.items()
        ],
    }
    (out / "results.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
