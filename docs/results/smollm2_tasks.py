"""SmolLM2-135M-Instruct and its students on standard tasks, the same items for all.

usage: smollm2_tasks.py RUNS OUT reads the runs of smollm2.sh and writes OUT/tasks.json. LIMBECK_TEST_DATA names a folder with
tasks/blimp and tasks/lambada.

The choice, fixed before any of these students was measured. What is asked has to say something of stories, so it needs no
knowledge of the world, and its words are those of the stories, as far as the trimmed vocabulary has them whole: a word that no
story uses would measure the text and not the student.

grammar: of each of BLiMP's 67 paradigms (arXiv 1912.00582) the first ten pairs that the trimmed vocabulary cuts into the same
tokens as the whole one. Every story needs grammar. Guessing is right in half of the pairs.
last words: the first 150 passages of LAMBADA (arXiv 1606.06031) whose last word is one token of the trimmed vocabulary. They are
narrative, and the word follows from the whole passage and not from its last sentence, which is what a story asks for beyond
grammar. They are of novels for adults: the level says nothing of children's stories, the difference between two students does.

Each student is beside the teacher with its whole vocabulary, beside cross-entropy of the same size (equal tokens or equal FLOPs,
whichever has the fewer held-out nats), and the 20M student beside the untrained cut. Intervals are paired, over items and the
three seeds. No claim is judged by them.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import torch
from arms import level, measured
from shared import made_by, versions

from limbeck.corpora.opening import begin_with
from limbeck.disk import write_json
from limbeck.models.load import load, load_tokenizer
from limbeck.probes.standard.compare import differences, levels
from limbeck.probes.standard.evaluate import evaluate, load_tasks

TEACHER, OPENING = "builtin:smollm2-135m", "<|endoftext|>"
PAIRS, PASSAGES = 10, 150
SIZES = ("20M", "40M")
BASELINES = ("cut+ce", "cut+ce@flops")


def lines(file):
    """The records of a JSONL file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def grammar(file, is_kept):
    """The first pairs of each paradigm whose sentences are cut as before."""
    found: dict[str, list[dict[str, str]]] = {}
    for row in lines(file):
        chosen = found.setdefault(row["UID"], [])
        if len(chosen) < PAIRS and is_kept(row["sentence_good"]) and is_kept(row["sentence_bad"]):
            chosen.append({key: row[key] for key in ("sentence_good", "sentence_bad")})
    return [row for chosen in found.values() for row in chosen]


def last_words(file, is_one):
    """The first passages whose last word is one token."""
    found: list[dict[str, str]] = []
    for row in lines(file):
        prompt, _, word = row["text"].rpartition(" ")
        if len(found) < PASSAGES and is_one(f" {word}"):
            found.append({"prompt": prompt, "target": f" {word}"})
    return found


def tasks(runs, folder):
    """Writes both tasks as files in a folder, and gives their names."""
    whole, trimmed = load(TEACHER).tokenizer, load_tokenizer(runs / "20m" / "student")
    data = Path(os.environ["LIMBECK_TEST_DATA"]) / "tasks"

    def pieces(tokenizer, text):
        return tokenizer.convert_ids_to_tokens(tokenizer.encode(text, add_special_tokens=False))

    chosen = {
        "grammar": grammar(
            data / "blimp" / "blimp_67x100.jsonl", lambda text: pieces(whole, text) == pieces(trimmed, text)
        ),
        "last_words": last_words(data / "lambada" / "lambada_test.jsonl", lambda word: len(pieces(trimmed, word)) == 1),
    }
    for name, rows in chosen.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return [str(folder / f"{name}.jsonl") for name in chosen]


def folders(run, arm, seeds):
    """The models of an arm, one a seed."""
    if arm == "student":
        return [run / "student" if seed == seeds[0] else run / "seeds" / f"seed{seed}" / "student" for seed in seeds]
    return [run / "baselines" / f"{arm}-seed{seed}" / "student" for seed in seeds]


def stronger(run):
    """The baseline of cross-entropy with the fewer held-out nats."""
    return min(BASELINES, key=lambda arm: level(measured(run, arm))["value"])


def scored(models, loaded):
    """The scores of the models of one arm: by task, one a seed. A sentence begins with what the students' documents do."""
    found: dict[tuple[str, str, str], list] = {}
    for model in models:
        begun = load(str(model), dtype=torch.float32)
        begin_with(begun, OPENING)
        for one in evaluate(begun, loaded):
            found.setdefault(one.key, []).append(one)
    return found


def readings(name, ours, others):
    """The levels of an arm, and its differences to others on the same items, each over seeds."""
    found = []
    for key, runs in ours.items():
        found += levels(name, runs)
        for other, theirs in others.items():
            found += differences(name, runs, other, theirs[key])
    return [one.row() for one in found]


def main(runs, out):
    """Measures all models, and writes what came out."""
    runs, out = Path(runs), Path(out)
    seeds = [int(file.stem.partition("seed")[2]) for file in sorted((runs / "20m").glob("measurements/student-*"))]
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_tasks(tasks(runs, Path(folder)))
    teacher = scored([TEACHER], loaded)
    found, against = readings("teacher", teacher, {}), {}
    for size in SIZES:
        run = runs / size.lower()
        against[size] = stronger(run)
        entropy = scored(folders(run, against[size], seeds), loaded)
        others = {"teacher": teacher, "cross-entropy": entropy}
        found += readings(f"{size}, cross-entropy", entropy, {"teacher": teacher})
        if size == "20M":
            others["untrained"] = scored([run / "cut"], loaded)
            found += readings(f"{size}, untrained", others["untrained"], {"teacher": teacher})
        found += readings(size, scored(folders(run, "student", seeds), loaded), others)
    out.mkdir(parents=True, exist_ok=True)
    write_json(
        out / "tasks.json",
        made_by("smollm2_tasks.py", "RUNS", "docs/results/smollm2")
        | {
            "versions": versions("torch", "lm_eval"),
            "seeds": seeds,
            "items": {task: len(loaded.tasks[task].eval_docs) for task in loaded.tasks},
            "cross_entropy": against,
            "readings": found,
        },
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
