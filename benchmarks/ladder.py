"""A pilot's ladder of teachers grown rung by rung, beside the same from random weights: FLOPs, and nats on held-out text.

    python benchmarks/ladder.py --data python:stdlib --scale small --out ladder

The goal is less than 70 % of the FLOPs at 0.02 nats a token or less, of the ladder's largest teacher; the lines give every
rung. Differences are grown less scratch, with 95 % intervals over documents and seeds, paired by both. Each seed trains both
ladders; what is finished in --out is kept. At scale small a ladder of six takes hours on two cores, at smoke it trains too
little to say anything.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from circumstances import made_by

from limbeck.config import PilotSettings
from limbeck.disk import claims
from limbeck.jobs.pilot.grid import Grid
from limbeck.jobs.pilot.job import begin
from limbeck.jobs.pilot.results import saved
from limbeck.jobs.pilot.tasks import DOCUMENTS, result_of, tasks_of
from limbeck.jobs.pilot.workers import run_here
from limbeck.probes.interval import difference_interval

MOST_FLOPS, MOST_NATS = 0.7, 0.02


def main() -> None:
    """Trains the ladders, prints the table, and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="python:stdlib", help="the text")
    parser.add_argument("--scale", default="small", choices=("smoke", "small", "gpu"))
    parser.add_argument("--teachers", default="6", help="as of limbeck pilot")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, required=True, help="the folder of the trainings")
    asked = parser.parse_args()
    runs = {grow: [trained(asked, seed, grow=grow) for seed in range(asked.seeds)] for grow in (False, True)}
    growth = saved(runs[True][0])
    assert growth is not None
    rungs = [compared(runs, number) | rung for number, rung in enumerate(growth["rungs"])]
    for rung in rungs:
        print(
            f"{rung['name']}: {rung['flops'] / rung['scratch_flops']:.0%} of the FLOPs, "
            f"{rung['nats']:+.4f} nats a token ({rung['low']:+.4f} to {rung['high']:+.4f})"
        )
    met = growth["share"] < MOST_FLOPS and rungs[-1]["high"] <= MOST_NATS
    print(f"ladder: {growth['share']:.1%} of the FLOPs, {asked.seeds} seeds; goal {'met' if met else 'not met'}")
    facts = made_by("transformers") | {"seeds": asked.seeds, "share": growth["share"], "met": met, "rungs": rungs}
    (asked.out / "ladder.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


@claims()
def trained(asked: argparse.Namespace, seed: int, *, grow: bool) -> list[dict[str, Any]]:
    """The results of the teachers of one ladder, smallest first, each with its folder."""
    out = asked.out / f"{'grown' if grow else 'scratch'}-seed{seed}"
    settings = PilotSettings(data=asked.data, scale=asked.scale, teachers=asked.teachers, grow=grow, out=out)
    plan, _ = begin(settings, lambda plan: Grid(tuple(replace(rung, seed=seed) for rung in plan.teachers), ()))
    tasks = [task for task in tasks_of(out, plan) if task.kind == "teacher"]
    run_here(tasks, asked.workers, lambda task, seconds: print(f"{out.name} {task.name}: {seconds:.0f} s", flush=True))
    return [
        result_of(out / "teachers" / rung.name) | {"folder": out / "teachers" / rung.name} for rung in plan.teachers
    ]


def compared(runs: dict[bool, list[list[dict[str, Any]]]], number: int) -> dict[str, float]:
    """Nats a token of a grown rung less those of the same from random weights."""
    read = {
        grow: np.stack([np.load(results[number]["folder"] / DOCUMENTS) for results in seeds])
        for grow, seeds in runs.items()
    }
    found = difference_interval(read[True][:, 0], read[False][:, 0], read[True][0, 1])
    return {"nats": found.value, "low": found.low, "high": found.high}


if __name__ == "__main__":
    main()
