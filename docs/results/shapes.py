"""Which axes of a teacher a pruned student should give up: four rules at half of the parameters of three teachers.

usage: shapes.py run WORK DATA OUT trains what is missing in WORK, judges, and writes OUT/results.json, the page and its picture;
DATA is a folder with models/stories-llama-260k, models/stories-gpt2-280k and text/tinystories. shapes.py alone writes the page.

What is judged, and how, is in shapes_criterion.py.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import shapes_criterion as criterion
from arms import level, measured
from cells import table, within
from effects import Axis, picture
from index import BEGIN, END, cells, counted
from shapes_criterion import BUDGETS, EVEN, LENGTH, OTHERS, ROWS_OF_STEP, RULES, SEEDS
from shared import made_by, versions
from study_rows import HERE, read, shapes

import limbeck
from limbeck.config import DistilSettings
from limbeck.corpora import TokenStore
from limbeck.disk import read_lines, write_json, write_text
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.held_out import HeldOut
from limbeck.jobs.common.rates import rate_of
from limbeck.models.anatomy import Anatomy
from limbeck.models.configuration import load_config
from limbeck.models.load import load
from limbeck.probes import Measurements, measure
from limbeck.run.world import alone
from limbeck.teachers.ref import teacher_ref

ENVIRONMENT = Environment(alone("cpu"), bf16=False)
AXIS = Axis("Other shapes than even ones", "nats per token better than even, the least of the teachers")


def teachers(data):
    """(teacher, text) by name."""
    stories = f"{data}/text/tinystories/train.jsonl"
    found = (
        ("builtin:stdlib", "python:stdlib"),
        (f"{data}/models/stories-llama-260k", stories),
        (f"{data}/models/stories-gpt2-280k", stories),
    )
    return dict(zip(criterion.TEACHERS, found, strict=True))


def trained(work, name, pair, workers_of=1):
    """Trains the students of a teacher by all rules; gives of each its shape, rate, tokens and FLOPs."""
    teacher, text = pair
    config = load_config(teacher_ref(teacher).config_source)
    anatomy = Anatomy.of(config)
    chosen = criterion.shapes_of(anatomy)
    flops = {rule: criterion.training_flops(anatomy, shape) for rule, shape in chosen.items()}
    same = {"teacher": teacher, "data": text, "baselines": "none", "length": LENGTH, "threads": workers_of}
    same |= {"batch_tokens": LENGTH * ROWS_OF_STEP, "device": "cpu", "any_teacher": True}
    found = {}
    for rule in RULES:
        shape = chosen[rule]
        run = same | {"shape": str(shape)}
        usual = rate_of(DistilSettings(**run), int(anatomy.count(**asdict(shape))))
        rate = best(work / f"{name}-{rule}-rate", run, usual)
        tokens = {budget: criterion.tokens_at(budget, flops, rule) for budget in BUDGETS}
        for budget, number in tokens.items():
            for seed in SEEDS if budget == BUDGETS[0] or number != tokens[BUDGETS[0]] else ():
                out = folder(work, name, rule, budget, seed)
                once(out, run | {"lr": rate, "seed": seed, "tokens": number})
        found[rule] = {
            "shape": str(shape),
            "parameters": int(anatomy.count(**asdict(shape))),
            "lr_factor": rate / usual,
            "tokens": tokens,
            "flops_per_token": flops[rule],
        }
    return found


def folder(work, name, rule, budget, seed):
    """The folder of the run of a rule with a seed."""
    return work / f"{name}-{rule}-{budget.replace(' ', '-')}-{seed}".replace(", ", "-")


def once(out, run):
    """Distils into a folder, unless that is done; a stopped run continues."""
    record = out / "run.json"
    if not record.exists() or "ended" not in json.loads(record.read_text(encoding="utf-8")):
        limbeck.distil(**run, out=str(out))


def best(place, run, usual):
    """The rate with the lowest training loss at the end of shorter trainings."""
    losses = {}
    for factor in criterion.FACTORS:
        out = place.with_name(f"{place.name}{factor:g}".replace(", ", "-"))
        once(out, run | {"lr": usual * factor, "seed": criterion.TUNING_SEED, "tokens": criterion.TUNING_TOKENS})
        rows = [row["loss_nats"] for row in read_lines(out / "metrics.jsonl")]
        losses[usual * factor] = float(np.mean(rows[-max(1, len(rows) // 4) :]))
    return min(losses, key=losses.__getitem__)


def arms_of(work, name, rule, budget, about):
    """The measurements of a rule's students, one a seed. Of as many tokens, they are those at equal tokens."""
    tokens = about["tokens"]
    at = BUDGETS[0] if tokens[budget] == tokens[BUDGETS[0]] else budget
    runs = [folder(work, name, rule, at, seed) for seed in SEEDS]
    return [on_same_text(out) if at != BUDGETS[0] else measured(out, "student")[0] for out in runs]


def on_same_text(out):
    """A student's measurements on the rows that students at equal tokens are measured on; a run reads more or fewer itself."""
    file = out / "same-text" / "student.safetensors"
    if not file.exists():
        store = TokenStore.open(out / "data" / "held_out")
        rows = HeldOut(store, length=LENGTH, environment=ENVIRONMENT, trained=criterion.TOKENS)
        file.parent.mkdir(exist_ok=True)
        measure(load(out / "student"), None, rows.batches(), documents=store.documents).save(file)
    return Measurements.load(file)


def judge(work, about):
    """Verdicts, differences and levels, as JSON, from the runs in WORK and what `trained` says of each teacher."""
    runs = {
        name: {budget: {rule: arms_of(work, name, rule, budget, one[rule]) for rule in RULES} for budget in BUDGETS}
        for name, one in about.items()
    }
    found = {
        f"{rule}, {budget}": {
            name: criterion.compared(one[budget][EVEN], one[budget][rule]) for name, one in runs.items()
        }
        for rule in OTHERS
        for budget in BUDGETS
    }
    seeds = min(len(arm) for one in runs.values() for at in one.values() for arm in at.values())
    verdicts = {claim: criterion.judged([*gains.values()], seeds) for claim, gains in found.items()}
    means = {rule: float(np.mean([one.value for one, _ in found[f"{rule}, {BUDGETS[0]}"].values()])) for rule in OTHERS}
    return {
        "claims": {
            claim: {
                "verdict": verdicts[claim],
                "gains": {name: asdict(one) | {"p": chance} for name, (one, chance) in gains.items()},
            }
            for claim, gains in found.items()
        },
        "default": criterion.default(verdicts, means),
        "levels": {
            name: {at: {rule: level(arm) for rule, arm in of.items()} for at, of in one.items()}
            for name, one in runs.items()
        },
        "documents": {name: int((one[BUDGETS[0]][EVEN][0].tokens > 0).sum()) for name, one in runs.items()},
    }


def sentence(found):
    """What came out, in one sentence."""
    if found["default"] != EVEN:
        return f"Students that give up {found['default']} first are better than even ones, at equal tokens and at equal FLOPs."
    verdicts = [one["verdict"] for one in found["claims"].values()]
    return (
        "No other rule was shown to be better than shrinking every axis alike, at equal tokens and at equal FLOPs"
        f"{'' if 'confirmed' not in verdicts else ' both'}: that stays the default."
    )


def page(folder="shapes"):
    """The page as text: nothing on it is typed by hand."""
    found = read(f"{folder}/results.json")
    rows = list(shapes(folder))
    lines = []
    for name, one in found["students"].items():
        for rule, about in one.items():
            losses = [within(found["levels"][name][budget][rule], 4) for budget in BUDGETS]
            cells_of = [f"`{about['shape']}`", f"{about['parameters']:,}", f"{about['tokens'][BUDGETS[1]]:,}"]
            lines.append([name, rule, *cells_of, f"{about['lr_factor']:g}", *losses])
    head = "teacher | rule | shape | parameters | tokens at equal FLOPs | times the usual rate"
    head += " | nats, equal tokens | nats, equal FLOPs"
    parts = [
        "# Which axes a pruned student gives up",
        sentence(found),
        f"{BEGIN}\n\n{counted(rows)}\n\n{cells(rows, link=False)}\n\n{END}",
        "![Differences in nats per token with their intervals](effects.svg)",
        (
            "Each teacher is pruned by each rule to the same number of parameters, and its students learn the same text by "
            "forward KL. Rules and criterion are in `../shapes_criterion.py`. The criterion changed twice after results had "
            "been seen: two runs compared losses on unlike tokens at equal FLOPs, or gave all seeds one start. What is here was "
            "judged with seeds that nobody had seen. The teachers are shallow."
        ),
        f"<!-- table levels: begin -->\n\n{table(head, lines)}\n\n<!-- table levels: end -->",
        "Numbers are in `results.json`; made by `../shapes.sh`.",
    ]
    return "\n\n".join(parts) + "\n"


def write(folder="shapes"):
    """Writes page and picture beside the results."""
    out = HERE / folder
    write_text(out / "README.md", page(folder))
    write_text(out / "effects.svg", picture(AXIS, list(shapes(folder))))


def run(work, data, out):
    """Trains what is missing, judges, and writes results, page and picture."""
    about = {name: trained(Path(work), name, pair) for name, pair in teachers(data).items()}
    result = judge(Path(work), about) | {
        "students": about,
        "seeds": list(SEEDS),
        "criterion": criterion.digest(),
        "made": made_by("shapes.py", "run", work, data, out),
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
