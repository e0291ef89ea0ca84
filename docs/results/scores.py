"""Which importance scores a pruned student should be chosen by: nine pairs and chance, one shape each of three teachers.

usage: scores.py run WORK DATA OUT trains what is missing in WORK, judges, and writes OUT/results.json, the page and its picture;
DATA is a folder with models/stories-llama-260k and text/tinystories. scores.py alone writes the page.

What is judged, and how, is in scores_criterion.py.
"""

import json
import sys
from dataclasses import asdict, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import scores_criterion as criterion
import torch
from arms import level, measured
from cells import table, within
from effects import Axis, picture
from index import BEGIN, END, cells, counted
from scores_criterion import DEFAULT, LENGTH, PAIRS, RANDOM, ROWS_OF_STEP, SEEDS, SHORT, TUNING_SEED
from shared import held_out_split, made_by, versions, write_texts
from study_rows import HERE, read, scores

import limbeck
from limbeck.corpora import Rows
from limbeck.disk import read_lines, write_json, write_text
from limbeck.jobs.common.captured import Captured
from limbeck.models.anatomy import Anatomy
from limbeck.models.save import save
from limbeck.run.micro import micro_batches
from limbeck.students.prune import prune
from limbeck.students.score import score

AXIS = Axis("Importance scores against chance", "nats per token better, the least of the teachers")
EVERY, HELD_OUT = 18, 64  # of SmolLM2's stories, one in so many is held out, so many in all
UNTRAINED, TRAINED = "cut", "student"


def teachers(work, data):
    """(teacher, its training text, held-out text or None, flags of its capture) by name."""
    stories, text = f"{data}/text/tinystories/train.jsonl", work / "text"
    if not (text / "train.jsonl").exists():
        held_out, train = held_out_split([stories], every=EVERY)
        write_texts(text, {"held_out": held_out[:HELD_OUT], "train": train})
    large = {"vocab": "auto", "eval_data": str(text / "held_out.jsonl")}
    small = {"eval_data": None}
    found = (
        ("builtin:stdlib", "python:stdlib", small),
        (f"{data}/models/stories-llama-260k", stories, small),
        ("builtin:smollm2-135m", str(text / "train.jsonl"), large),
    )
    return dict(zip(criterion.TEACHERS, found, strict=True))


class Students:
    """Pruned students of a captured teacher, made once each: folders by pair and, of random ones, by seed."""

    def __init__(self, work, name, teacher):
        self.logits, self._place, self._share = (
            work / f"{name}-logits",
            work / f"{name}-students",
            criterion.SHARES[name],
        )
        source, text, more = teacher
        run = {"teacher": source, "data": text, "length": LENGTH, "tokens": criterion.tokens_of(name), "threads": 1}
        ended = self.logits / "run.json"
        if not ended.exists() or "ended" not in json.loads(ended.read_text(encoding="utf-8")):
            limbeck.capture(**run, **more, device="cpu", out=str(self.logits))
        self.anatomy = Anatomy.of(Captured(self.logits).about.config)
        self.shape = criterion.shape_of(self.anatomy, self._share)
        self._scores = cache(self._scored)

    def of(self, pair, seed):
        """The folder of a student."""
        folder = self._place / (f"{RANDOM}-{seed}" if pair == RANDOM else pair.replace(" + ", "-"))
        if not (folder / "config.json").exists():
            save(prune(self._teacher, shape=self.shape, scores=self._of_pair(pair, seed)), folder)
        return folder

    def _of_pair(self, pair, seed):
        if pair == RANDOM:
            return score(self._teacher, [], method=RANDOM, seed=seed)
        method, depth = pair.split(" + ")
        inside, layers = self._scores(method, RANDOM), self._scores(RANDOM, depth)
        return replace(inside, layers=layers.layers, depth=depth)

    def _scored(self, method, depth):
        """Scores of units by a method, or of layers by a depth; the other is left to chance, which costs nothing."""
        rows = criterion.GREEDY_SAMPLE if depth == "greedy" else criterion.SAMPLE
        taken = Rows(Captured(self.logits).stores()[0], length=LENGTH, seed=TUNING_SEED).take(rows)
        sample = list(micro_batches(taken, torch.device("cpu")))
        return score(self._teacher, sample, method=method, depth=depth, keep=self.shape.layers, seed=TUNING_SEED)

    @cached_property
    def _teacher(self):
        return Captured(self.logits).weights(device=torch.device("cpu"), dtype=torch.float32)


def trained(students, place, name, pair, seed, share=1.0):
    """The run of a student: distilled from the captured logits on a share of the tokens, once; a stopped one continues."""
    out = place / f"{name}-{pair.replace(' + ', '-')}-{share:g}-{seed}"
    record = out / "run.json"
    if not record.exists() or "ended" not in json.loads(record.read_text(encoding="utf-8")):
        limbeck.distil(
            teacher=str(students.logits),
            student=str(students.of(pair, seed)),
            tokens=criterion.tokens_of(name, share),
            batch_tokens=LENGTH * ROWS_OF_STEP,
            seed=seed,
            baselines=UNTRAINED,
            any_teacher=True,
            device="cpu",
            threads=1,
            out=str(out),
        )
    return out


def training_loss(run):
    """The mean loss of the last quarter of a training."""
    rows = [row["loss_nats"] for row in read_lines(run / "metrics.jsonl")]
    return float(np.mean(rows[-max(1, len(rows) // 4) :]))


def short_trainings(work, students):
    """Of each teacher, by pair: the training loss after a share of the tokens, and nats before and after on held-out text."""
    found = {}
    for name, some in students.items():
        runs = {pair: trained(some, work, name, pair, TUNING_SEED, SHORT) for pair in (RANDOM, *PAIRS)}
        found[name] = {pair: {"loss": training_loss(run)} for pair, run in runs.items()}
        for pair, run in runs.items():
            nats = {arm: level(measured(run, arm))["value"] for arm in (UNTRAINED, TRAINED)}
            found[name][pair] |= {"untrained": nats[UNTRAINED], "trained": nats[TRAINED]}
    return found


def long_trainings(work, students, chosen):
    """Of each teacher, by pair: the measurements of its students, one a seed."""
    pairs = dict.fromkeys((RANDOM, *chosen.values()))
    return {
        name: {
            pair: [one for seed in SEEDS for one in measured(trained(some, work, name, pair, seed), TRAINED)]
            for pair in pairs
        }
        for name, some in students.items()
    }


def judge(short, arms_of):
    """What came out, as JSON; ``short`` as from `short_trainings`, ``arms_of`` maps chosen pairs to `long_trainings`."""
    order = criterion.placed({name: {pair: row["loss"] for pair, row in one.items()} for name, one in short.items()})
    chosen = criterion.kept(order)
    arms = arms_of(chosen)
    found = criterion.verdicts(arms, chosen)
    return {
        "order": order,
        "short": short,
        "agreement": {
            name: criterion.agreement(
                *({pair: row[key] for pair, row in one.items()} for key in ("untrained", "trained"))
            )
            for name, one in short.items()
        },
        "claims": {
            claim: {
                "verdict": verdict,
                "pair": chosen[claim],
                "gains": {name: asdict(one) | {"p": chance} for name, (one, chance) in gains.items()},
            }
            for claim, (verdict, gains) in found.items()
        },
        "default": criterion.default(found, chosen),
        "levels": {name: {pair: level(some) for pair, some in one.items()} for name, one in arms.items()},
        "documents": {name: int((one[RANDOM][0].tokens > 0).sum()) for name, one in arms.items()},
    }


def sentence(found):
    """What came out, in one sentence."""
    if found["default"] != DEFAULT:
        return f"Students chosen by {found['default']} are better than those by the default, {DEFAULT}."
    return f"No other scores are better than the default, {DEFAULT}: it stays."


def page(folder="scores"):
    """The page as text: nothing on it is typed by hand."""
    found = read(f"{folder}/results.json")
    rows = list(scores(folder))
    lines = []
    for name, one in found["short"].items():
        for pair in (RANDOM, *found["order"]):
            levels = found["levels"][name].get(pair)
            nats = [f"{one[pair][key]:.3f}" for key in ("untrained", "trained")]
            lines.append([name, pair, *nats, within(levels, 4) if levels else ""])
    size = "teacher | shape | parameters | tokens"
    head = "teacher | scores | nats before training | after a quarter | after all tokens"
    sizes = [
        [name, f"`{row['shape']}`", f"{row['parameters']:,}", f"{row['tokens']:,}"]
        for name, row in found["students"].items()
    ]
    agreed = ", ".join(f"{value:+.2f} with {name}" for name, value in found["agreement"].items())
    parts = [
        "# Which importance scores choose a pruned student",
        sentence(found),
        f"{BEGIN}\n\n{counted(rows)}\n\n{cells(rows, link=False)}\n\n{END}",
        "![Differences in nats per token with their intervals](effects.svg)",
        (
            "All students of a teacher have one shape, and learn the same text from the same captured logits. The criterion "
            "in `../scores_criterion.py` stood before the first run."
        ),
        f"<!-- table sizes: begin -->\n\n{table(size, sizes)}\n\n<!-- table sizes: end -->",
        f"The rank correlation of nats before training with those after a quarter of it is {agreed}.",
        f"<!-- table levels: begin -->\n\n{table(head, lines)}\n\n<!-- table levels: end -->",
        "Numbers are in `results.json`; made by `../scores.sh`.",
    ]
    return "\n\n".join(parts) + "\n"


def write(folder="scores"):
    """Writes page and picture beside the results."""
    out = HERE / folder
    write_text(out / "README.md", page(folder))
    write_text(out / "effects.svg", picture(AXIS, list(scores(folder))))


def run(work, data, out):
    """Trains what is missing, judges, and writes results, page and picture."""
    place = Path(work)
    students = {name: Students(place, name, one) for name, one in teachers(place, data).items()}
    about = {
        name: {
            "shape": str(one.shape),
            "parameters": int(one.anatomy.count(**asdict(one.shape))),
            "tokens": criterion.tokens_of(name),
        }
        for name, one in students.items()
    }
    result = judge(short_trainings(place, students), lambda chosen: long_trainings(place, students, chosen)) | {
        "students": about,
        "seeds": list(SEEDS),
        "criterion": criterion.digest(),
        "made": made_by("scores.py", "run", work, data, out),
        "versions": versions("torch", "transformers"),
    }
    Path(out).mkdir(parents=True, exist_ok=True)
    write_json(Path(out) / "results.json", result)
    write(str(Path(out).absolute()))


def main(*arguments):
    """Does what the usage says."""
    if arguments:
        run(*arguments[1:])
    else:
        write()


if __name__ == "__main__":
    main(*sys.argv[1:])
