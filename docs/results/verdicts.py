"""How often noise alone is declared a winner: trainings that differ in nothing but their seed, judged as arms of a comparison.

usage: verdicts.py OUT TEACHER DATA PARAMS TOKENS; half an hour of one core, and continues where it was stopped.
Trains TRAININGS students of one configuration, measures each once, puts them at random into the places of a student and of what
it is compared with, and counts how often the verdict names a winner. Writes OUT/results.json and OUT/rates.svg.
"""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from shared import made_by, versions

from limbeck.config import DistilSettings, resolve
from limbeck.jobs.common.environment import environment_of
from limbeck.jobs.distil.arms import train
from limbeck.jobs.distil.job import prepare
from limbeck.jobs.distil.request import DistilRequest
from limbeck.probes import Measurements
from limbeck.report.verdict import verdict

TRAININGS = 100
GROUPINGS = 10_000
SEEDS = (1, 2, 3, 5)
JUDGED = (3, 5)  # of these a winner may be declared, and the criterion speaks of them
BASELINES = ("cut+ce", "cut+ce@flops", "fresh+kd", "attention")
MOST = 0.05


def trained(out, teacher, data, params, tokens):
    """What each training came to on the same held-out documents, and run.json; those that are missing are trained."""
    folder = out / "students"
    files = [folder / "measurements" / f"student-seed{seed}.safetensors" for seed in range(TRAININGS)]
    if not all(file.exists() for file in files):
        keys = {"teacher": teacher, "data": data, "params": params, "tokens": tokens, "baselines": "none"}
        keys |= {"threads": 1, "device": "cpu", "seeds": TRAININGS, "out": folder}
        settings = resolve(DistilSettings, None, keys)
        comparison = prepare(DistilRequest.of(settings), {}, environment_of(settings))
        for arm, file in zip(comparison.arms, files, strict=True):
            if not file.exists():
                comparison.proof.arm(arm, train(arm, comparison.shared))
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return [Measurements.load(file) for file in files], run


def winners(runs, seeds, generator):
    """Of random groupings: which trainings took part, and whether a winner was declared, by the rule and by the interval alone.

    By four baselines and, of the same groupings, by the first of them alone.
    """
    part = np.zeros((GROUPINGS, len(runs)), dtype=bool)
    declared = {(rule, many): np.zeros(GROUPINGS, dtype=bool) for rule in ("verdict", "interval") for many in (1, 4)}
    for number in range(GROUPINGS):
        chosen = generator.permutation(len(runs))[: seeds * (1 + len(BASELINES))]
        groups = [[runs[one] for one in group] for group in chosen.reshape(-1, seeds)]
        part[number, chosen] = True
        for many in (1, 4):
            arms = dict(zip(("student", *BASELINES[:many]), groups, strict=False))
            found = verdict(arms, None).differences
            declared["verdict", many][number] = any(one.outcome in ("better", "worse") for one in found)
            declared["interval", many][number] = any(one.low > 0 or one.high < 0 for one in found)
    return part, declared


def rate(part, declared):
    """The share of groupings with a winner, and its 95 % interval over trainings by leaving out one at a time."""
    without = np.array([declared[~part[:, one]].mean() for one in range(part.shape[1])])
    n = len(without)
    error = float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()))
    share = float(declared.mean())
    return {"share": share, "low": max(0.0, share - 1.96 * error), "high": min(1.0, share + 1.96 * error)}


def judged(rows):
    """Confirmed, refuted or inconclusive by the criterion of README.md."""
    mine = [row["verdict"] for row in rows if row["seeds"] in JUDGED]
    if all(one["high"] <= MOST for one in mine):
        return "confirmed"
    return "refuted" if any(one["low"] > MOST for one in mine) else "inconclusive"


def figure(rows, path):
    """Rates by seeds: by the interval alone and by the verdict, of one baseline and of four."""
    shown, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    for rule, words, colour in (("interval", "interval excludes 0", "#b8442c"), ("verdict", "verdict", "#2a6f97")):
        for many, style in ((1, "--"), (4, "-")):
            mine = [(row["seeds"], row[rule]) for row in rows if row["baselines"] == many]
            middle = [100 * one["share"] for _, one in mine]
            ends = [[100 * abs(one[end] - one["share"]) for _, one in mine] for end in ("low", "high")]
            named = f"{words}, {'one baseline' if many == 1 else 'any of four'}"
            axes.errorbar([s for s, _ in mine], middle, ends, fmt=f"o{style}", color=colour, capsize=3, label=named)
    axes.axhline(100 * MOST, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="seeds", ylabel="a winner is named, %", xticks=SEEDS, ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)
    plt.rcParams["svg.hashsalt"] = "limbeck"
    shown.savefig(path, metadata={"Date": None})


def main(out, *arguments):
    """Trains what is left, groups and counts."""
    out = Path(out)
    torch.set_num_threads(1)
    runs, run = trained(out, *arguments)
    rows = []
    for seeds in SEEDS:
        part, declared = winners(runs, seeds, np.random.default_rng(seeds))
        for many in (1, 4):
            row = {rule: rate(part, declared[rule, many]) for rule in ("verdict", "interval")}
            rows.append({"seeds": seeds, "baselines": many, **row})
            print(json.dumps(rows[-1]), flush=True)
    levels = [one.nats.sum() / one.tokens.sum() for one in runs]
    result = made_by("verdicts.py", "OUT", *arguments) | {
        "seeds": [0, TRAININGS - 1],
        "groupings": GROUPINGS,
        "versions": versions("torch", "transformers", "numpy"),
        "trained": {key: run[key] for key in ("started", "versions")},
        "student": {key: run["student"][key] for key in ("parameters", "shape")},
        "plan": {key: run["plan"][key] for key in ("steps", "rows", "length", "tokens", "learning_rate", "schedule")},
        "documents": int((runs[0].tokens > 0).sum()),
        "nats": {"mean": float(np.mean(levels)), "deviation of trainings": float(np.std(levels, ddof=1))},
        "rows": rows,
        "judged": judged(rows),
    }
    (out / "results.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    figure(rows, out / "rates.svg")


if __name__ == "__main__":
    main(*sys.argv[1:])
