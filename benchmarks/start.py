"""What a command costs before it does its work: CPU seconds of --help, and the parts of a small distillation.

    python benchmarks/start.py
    python benchmarks/start.py --repeats 3 --out start.json

The small job is `limbeck distil` of 20 steps with the built-in teacher and text. CPU seconds of its parts are taken by clocks
around them: *estimating* the time of the trainings by steps of copies, *measuring* the models on held-out text, their speed and
samples, *reporting*, *training*, and what is left: the text, the checks, the pruned student. Imports come before the job.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from circumstances import made_by

HELP = {"limbeck --help": ["--help"], "limbeck distil --help": ["distil", "--help"]}
JOB = {"text_tokens": "40k", "tokens": "20k", "seeds": 1, "baselines": "cut+ce", "device": "cpu"}
TIMED = {  # by part: where its functions stand
    "estimating": ("limbeck.jobs.distil.job:estimate_time",),
    "measuring": tuple(f"limbeck.jobs.distil.evaluation:Evaluation.{name}" for name in ("__init__", "cut", "arm")),
    "reporting": ("limbeck.jobs.distil.evaluation:Evaluation.write",),
    "training": ("limbeck.run.run:Run.train", "limbeck.jobs.distil.arms:train_lockstep"),
}


def main() -> None:
    """Prints the figures, and writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="how often each is run (default 3)")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("--job", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        print(json.dumps(job()))
        return
    helps = {name: [of_help(words) for _ in range(arguments.repeats + 1)][1:] for name, words in HELP.items()}
    for name, spent in helps.items():
        print(f"{name}: {statistics.median(spent):.2f} CPU-seconds", flush=True)
    jobs = [json.loads(output([__file__, "--job"]).splitlines()[-1]) for _ in range(arguments.repeats)]
    for name in jobs[0]:
        print(f"{name}: {statistics.median(one[name] for one in jobs):.2f} CPU-seconds")
    before = [(one["estimating"] + one["measuring"]) / one["whole"] for one in jobs]
    print(f"estimating and measuring: {statistics.median(before):.0%} of the job")
    if arguments.out:
        facts = made_by("transformers") | {"job": JOB, "help": helps, "jobs": jobs}
        arguments.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def output(command: list[str]) -> str:
    """What a Python command prints, which runs on one thread."""
    one = os.environ | {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True, env=one).stdout


def of_help(words: list[str]) -> float:
    """CPU seconds of a process that shows help."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output(["-c", "from limbeck.cli import main; main()", *words])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def job() -> dict[str, float]:
    """CPU seconds of the parts of the small job, in this process."""
    from limbeck import distil
    from limbeck.garbage import loading

    run: Callable[..., Any] = distil
    spent = dict.fromkeys(TIMED, 0.0)
    with loading():  # as the command does
        for part, places in TIMED.items():
            for place in places:
                clocked(place, part, spent)
    imported = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run(**JOB, out=Path(folder) / "run")
    whole = time.process_time() - imported
    return {"imports": imported, "whole": whole, **spent, "the rest": whole - sum(spent.values())}


def clocked(place: str, part: str, spent: dict[str, float]) -> None:
    """Puts a clock around the function at ``place``, which adds its CPU seconds to those of its part."""
    from importlib import import_module

    module, _, path = place.partition(":")
    owner: Any = import_module(module)
    *outer, name = path.split(".")
    for step in outer:
        owner = getattr(owner, step)
    function: Callable[..., Any] = getattr(owner, name)

    @wraps(function)
    def timed(*given: Any, **named: Any) -> Any:
        start = time.process_time()
        try:
            return function(*given, **named)
        finally:
            spent[part] += time.process_time() - start

    setattr(owner, name, timed)


if __name__ == "__main__":
    main()
