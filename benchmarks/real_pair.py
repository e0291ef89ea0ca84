"""Distilling one start from a real teacher by limbeck, TRL's GKD trainer and a packed loop: equal CPU time, and equal tokens.

    LIMBECK_TEST_DATA=FOLDER python benchmarks/real_pair.py     # an hour of CPU time; the same command continues

The teacher is SmolLM2-135M-Instruct, the text TinyStories (FOLDER/text/tinystories), the start one student pruned by limbeck.
Peers train it with all 49,152 tokens; limbeck does that too, and trains the same start with the tokens that the text uses, so
that the table shows apart what trimming gives and what the engine does. Every training is a process of its own with one thread.

What is equal. *Tokens*: all read the first documents of one order, TOKENS of them, once, in the order of their seed. *CPU time*:
SECONDS of the whole process, imports, loading, the capture of logits and saving included. The tokens that a contender reads in
that time follow from its cells at equal tokens (seconds until the models are loaded, and seconds a token after that, the median
of the seeds), so that schedules know their length. A training that took more or less than SECONDS by over NEAR of it is made
again, at most AGAIN times, with the tokens that follow from it. What was spent is reported. limbeck captures logits and trains
EPOCHS times on them, peers query the live teacher and read new text, once. Every contender has the number format that was faster
for it in a short trial. The learning rate is one for all, 0.001: none was tuned. Seeds choose the order of the text, and what
limbeck samples.

What changed after results were seen: at first the tokens of all seeds followed from the first seed's cell, which a busy machine
had slowed down for some contenders and not for others, so that peers spent 57 to 71 of 120 seconds. Equal time is judged on
seeds that were not seen then, 403 to 405; those of equal tokens are the first ones, 400 to 402.

The criterion, fixed before the first run. Students are judged by bits per byte of the same held-out documents, in float32, by
limbeck's measurement of likelihood for all. A claim holds by the 95 % interval of a difference over documents and three seeds.

equal time: limbeck with the trimmed vocabulary has fewer bits per byte than TRL's GKD and than the packed loop after as many
CPU-seconds. Confirmed if both differences are below 0, refuted if one is above, else inconclusive.
engine: limbeck with all tokens has fewer than both after as many CPU-seconds; judged likewise.
equal tokens: limbeck with all tokens is at most MARGIN bits per byte worse than the packed loop after as many tokens: sampled
logits cost little. Confirmed if the interval is below MARGIN, refuted if it is above, else inconclusive.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from math import log
from pathlib import Path
from statistics import mean, median
from typing import Any

from circumstances import made_by
from pair_setting import PairSetting, prepare
from pair_trainings import Job

TOKENS = 30_000
SECONDS = 120.0
EPOCHS = 3  # of captured logits at equal time
SEEDS = (400, 401, 402)
TIME_SEEDS = (403, 404, 405)
NEAR = 0.1  # of SECONDS
AGAIN = 2
MARGIN = 0.02  # bits per byte
RATE = 1e-3
LENGTH = 512
STEP_TOKENS = 1024
TRIAL_TOKENS = 4096
JUDGED = 64  # held-out documents
SHAPE = "layers=16,hidden=312,heads=4,kv_heads=2,ffn=832"
CONTENDERS = {  # the tool, and the vocabulary of its start
    "limbeck, trimmed": ("limbeck", "trimmed"),
    "limbeck, all tokens": ("limbeck", "all"),
    "TRL GKD": ("trl", "all"),
    "packed loop": ("packed", "all"),
}
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Study:
    """A study: where it lies, what is equal, and who takes part."""

    setting: PairSetting
    tokens: int
    seconds: float
    seeds: tuple[int, ...]
    time_seeds: tuple[int, ...]
    contenders: tuple[str, ...]

    def cell(
        self, kind: str, contender: str, seed: int, *, tokens: int, epochs: int = 1, bf16: bool, attempt: int = 0
    ) -> dict[str, Any]:
        """A training's measurements, made if they are not there yet. ``kind`` says what for, and is part of its name."""
        name = f"{kind}{attempt or ''}-{contender.replace(', ', '-').replace(' ', '-')}-{seed}"
        file = self.setting.folder / "cells" / f"{name}.json"
        if not file.exists():
            out = self.setting.folder / "running" / name
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            job = self._job(contender, seed, str(out), tokens=tokens, epochs=epochs, bf16=bf16)
            found = {"kind": kind, "contender": contender, "seed": seed, "bf16": bf16, "epochs": epochs} | measured(job)
            if kind in ("tokens", "time"):
                found |= judged(out / "student", self.setting, out)
            file.parent.mkdir(exist_ok=True)
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            partial.rename(file)
            shutil.rmtree(out)
            spent = f"{found['trained']:,} tokens in {found['cpu_s']:.0f} CPU-seconds"
            bits = f", {found['bits_per_byte']:.4f} bits per byte" if "bits_per_byte" in found else ""
            print(f"{name}: {spent}{bits}", file=sys.stderr, flush=True)
        cell: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return cell

    def _job(self, contender: str, seed: int, out: str, *, tokens: int, epochs: int, bf16: bool) -> Job:
        tool, vocabulary = CONTENDERS[contender]
        return Job(
            contender=tool,
            teacher=self.setting.facts["teacher_folder"],
            start=str(self.setting.start(vocabulary)),
            vocabulary=str(self.setting.vocabulary) if vocabulary == "trimmed" else None,
            data=str(self.setting.train),
            out=out,
            tokens=tokens,
            epochs=epochs,
            seed=seed,
            bf16=bf16,
            length=LENGTH,
            step_tokens=STEP_TOKENS,
            rate=RATE,
        )

    def formats(self) -> dict[str, dict[str, float]]:
        """Tokens a CPU-second after loading, of each contender in each number format."""
        trial = min(TRIAL_TOKENS, self.tokens)
        return {
            contender: {
                name: speed(self.cell(f"trial-{name}", contender, self.seeds[0], tokens=trial, bf16=bf16))
                for name, bf16 in (("float32", False), ("bfloat16", True))
            }
            for contender in self.contenders
        }

    def cells(self, formats: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
        """All trainings, seed by seed, so that a stopped study has whole seeds."""
        bf16 = {name: rates["bfloat16"] > rates["float32"] for name, rates in formats.items()}
        found = [
            self.cell("tokens", name, seed, tokens=self.tokens, bf16=bf16[name])
            for seed in self.seeds
            for name in self.contenders
        ]
        timed = [
            self._timed(name, seed, of(found, "tokens", name), bf16=bf16[name])
            for seed in self.time_seeds
            for name in self.contenders
        ]
        return found + timed

    def _timed(self, contender: str, seed: int, known: Sequence[dict[str, Any]], *, bf16: bool) -> dict[str, Any]:
        """A training of the time that all have, on as many tokens as that takes."""
        epochs = EPOCHS if CONTENDERS[contender][0] == "limbeck" else 1
        most = self.setting.facts["training_tokens"]
        tokens = round(median(tokens_within(self.seconds, cell, epochs=epochs) for cell in known))
        for attempt in range(AGAIN + 1):
            budget = min(most, tokens)
            cell = self.cell("time", contender, seed, tokens=budget, epochs=epochs, bf16=bf16, attempt=attempt)
            if abs(cell["cpu_s"] / self.seconds - 1) <= NEAR or (cell["cpu_s"] < self.seconds and budget == most):
                break
            tokens = tokens_within(self.seconds, cell, epochs=epochs)
        return cell


def tokens_within(seconds: float, cell: dict[str, Any], *, epochs: int) -> int:
    """The tokens of text that fit so many CPU-seconds, by another training."""
    fixed = cell["cpu_s"] - cell["capture_cpu_s"] - cell["training_cpu_s"]
    an_epoch = cell["training_cpu_s"] / cell["epochs"]
    a_token = (cell["capture_cpu_s"] + epochs * an_epoch) / cell["read"]
    return max(STEP_TOKENS, int((seconds - fixed) / a_token))


def speed(cell: dict[str, Any]) -> float:
    """Tokens trained on a CPU-second, from when the models were loaded; capture counts."""
    return float(cell["trained"] / (cell["capture_cpu_s"] + cell["training_cpu_s"]))


def measured(job: Job) -> dict[str, Any]:
    """What a training did, with the CPU seconds and the peak of memory of its whole process."""
    command = [sys.executable, str(HERE / "pair_trainings.py"), json.dumps(asdict(job))]
    with open(Path(job.out) / "stdout", "w+") as told, open(Path(job.out) / "stderr", "w+") as wrong:
        process = subprocess.Popen(command, env=os.environ | ENVIRONMENT, stdout=told, stderr=wrong)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        told.seek(0)
        wrong.seek(0)
        if process.returncode:
            sys.exit(f"{job.contender} failed:\n{wrong.read()[-4000:]}")
        done: dict[str, Any] = json.loads(told.read().splitlines()[-1])
    return done | {"cpu_s": used.ru_utime + used.ru_stime, "peak_mib": used.ru_maxrss / 1024}


def judged(student: Path, setting: PairSetting, folder: Path) -> dict[str, Any]:
    """Likelihood of the held-out documents in a process of its own, in the order of their digests."""
    command = [sys.executable, __file__, "--judge", str(student), str(setting.held_out), str(folder / "judged.json")]
    subprocess.run(command, env=os.environ | ENVIRONMENT, check=True)
    found: dict[str, Any] = json.loads((folder / "judged.json").read_text(encoding="utf-8"))
    return found


def judge(student: Path, held_out: Path) -> dict[str, Any]:
    """Nats and bytes of each document, and their ratios over all."""
    import torch

    from limbeck import Rows, load
    from limbeck.corpora.build import build_held_out
    from limbeck.probes import measure

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    model = load(student)
    store = build_held_out(str(held_out), model, student.parent / "held_out")
    found = measure(model, None, Rows(store, length=LENGTH).in_order(2), documents=store.documents)
    sizes = [store.bytes_of(number) for number in range(store.documents)]
    assert int(found.tokens.sum()) == store.predictions, "a held-out document does not fit a row"
    order = sorted(range(store.documents), key=lambda number: store.sha256_of(number) or b"")
    total = float(found.nats.sum())
    return {
        "nats_per_token": total / store.predictions,
        "bits_per_byte": total / log(2) / sum(sizes),
        "documents": {"nats": [round(float(found.nats[i]), 4) for i in order], "bytes": [sizes[i] for i in order]},
    }


def difference(cells: Sequence[dict[str, Any]], kind: str, one: str, other: str) -> dict[str, float] | None:
    """By how many bits per byte a contender is worse than another, with its interval; None below three seeds."""
    import numpy as np

    from limbeck.probes.interval import difference_interval

    mine, theirs = (of(cells, kind, name) for name in (one, other))
    if min(len(mine), len(theirs)) < 3 or len(mine) != len(theirs):
        return None
    one_sums, other_sums = (np.array([cell["documents"]["nats"] for cell in some]) / log(2) for some in (mine, theirs))
    return asdict(difference_interval(one_sums, other_sums, np.array(mine[0]["documents"]["bytes"], dtype=float)))


def of(cells: Iterable[dict[str, Any]], kind: str, contender: str) -> list[dict[str, Any]]:
    """The cells of a contender, in the order of their seeds."""
    found = [cell for cell in cells if (cell["kind"], cell["contender"]) == (kind, contender)]
    return sorted(found, key=lambda cell: cell["seed"])


def verdicts(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The claims of the criterion, with the differences they rest on; those of all contenders at once, for the table."""
    found: dict[str, Any] = {}
    for claim, mine in (("equal time", "limbeck, trimmed"), ("engine", "limbeck, all tokens")):
        found[claim] = {peer: difference(cells, "time", mine, peer) for peer in ("TRL GKD", "packed loop")}
    found["equal tokens"] = {"packed loop": difference(cells, "tokens", "limbeck, all tokens", "packed loop")}
    return {
        claim: {
            "verdict": verdict(some.values(), below=MARGIN if claim == "equal tokens" else 0.0),
            "differences": some,
        }
        for claim, some in found.items()
    }


def verdict(differences: Collection[dict[str, float] | None], *, below: float) -> str:
    """Confirmed where all intervals are below, refuted where one is above; untested where a difference is missing."""
    found = [one for one in differences if one is not None]
    if len(found) < len(differences):
        return "untested"
    if any(one["low"] > below for one in found):
        return "refuted"
    return "confirmed" if all(one["high"] < below for one in found) else "inconclusive"


def table(cells: Sequence[dict[str, Any]]) -> str:
    """Means of the seeds, for the terminal."""
    lines = [f"{'':22} {'tokens':>9} {'CPU-s':>6} {'tokens/CPU-s':>13} {'MiB':>6} {'nats/token':>11} {'bits/byte':>10}"]
    for kind in ("tokens", "time"):
        lines.append(f"equal {kind}")
        for name in dict.fromkeys(cell["contender"] for cell in cells):
            some = of(cells, kind, name)
            figures = [mean(cell[key] for cell in some) for key in ("trained", "cpu_s")]
            rate, peak = median(map(speed, some)), max(cell["peak_mib"] for cell in some)
            nats, bits = (mean(cell[key] for cell in some) for key in ("nats_per_token", "bits_per_byte"))
            lines.append(
                f"{name:22} {figures[0]:9,.0f} {figures[1]:6.0f} {rate:13,.0f} {peak:6,.0f} {nats:11.3f} {bits:10.4f}"
            )
    return "\n".join(lines)


def circumstances() -> dict[str, Any]:
    """What the numbers depend on."""
    return made_by("transformers", "trl", "accelerate", "datasets") | {"threads": 1}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="builtin:smollm2-135m")
    parser.add_argument("--text", nargs="+", type=Path, help="JSONL files (default TinyStories of LIMBECK_TEST_DATA)")
    parser.add_argument("--shape", default=SHAPE, help=f"of the student (default {SHAPE})")
    parser.add_argument("--tokens", type=int, default=TOKENS, help=f"tokens of a training (default {TOKENS:,})")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"CPU-seconds of one (default {SECONDS:g})")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--time-seeds", nargs="+", type=int, default=list(TIME_SEEDS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--judged", type=int, default=JUDGED, help=f"held-out documents (default {JUDGED})")
    parser.add_argument("--folder", type=Path, default=HERE.parent / ".bench" / "real-pair")
    parser.add_argument("--json", type=Path, help="where the results go; FOLDER/results.json if not given")
    parser.add_argument("--judge", nargs=3, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.judge:
        student, held_out, out = arguments.judge
        out.write_text(json.dumps(judge(student, held_out)), encoding="utf-8")
        return
    if "TRL GKD" in arguments.contenders and find_spec("trl") is None:
        parser.error("TRL GKD needs trl: install benchmarks/requirements.txt, or leave it out of --contenders")
    results = run(arguments)
    path = arguments.json or arguments.folder / "results.json"
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results["cells"]))
    for claim, found in results["claims"].items():
        print(f"{claim}: {found['verdict']}")
    print(path)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole study, from what is there already."""
    sources = arguments.text
    if not sources:
        if "LIMBECK_TEST_DATA" not in os.environ:
            sys.exit("give text with --text, or set LIMBECK_TEST_DATA to a folder with text/tinystories")
        folder = Path(os.environ["LIMBECK_TEST_DATA"]) / "text" / "tinystories"
        sources = [folder / "train.jsonl", folder / "train_v2.jsonl"]
    os.environ.update(ENVIRONMENT)
    setting = prepare(
        arguments.folder.resolve(),
        teacher=arguments.teacher,
        sources=sources,
        shape=arguments.shape,
        length=LENGTH,
        judged=arguments.judged,
    )
    seeds = (tuple(arguments.seeds), tuple(arguments.time_seeds))
    study = Study(setting, arguments.tokens, arguments.seconds, *seeds, tuple(arguments.contenders))
    formats = study.formats()
    cells = study.cells(formats)
    facts = {key: value for key, value in setting.facts.items() if key != "teacher_folder"}
    about = {
        "tokens": study.tokens,
        "seconds": study.seconds,
        "seeds": list(study.seeds),
        "time_seeds": list(study.time_seeds),
    }
    about |= {"rate": RATE, "epochs": EPOCHS, "margin": MARGIN, "setting": facts, "formats": formats}
    return circumstances() | about | {"claims": verdicts(cells), "cells": cells}


if __name__ == "__main__":
    main()
