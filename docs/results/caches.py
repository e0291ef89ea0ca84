"""Students of captured answers beside the student of the live teacher, for two real teachers, several kinds and objectives.

usage: caches.py OUT TEACHER DATA PARAMS TOKENS; some forty minutes of one core a teacher, and continues where it was stopped.
Every student starts from the same cut, sees the same rows in the same order, and is measured on the same held-out documents with
the live teacher; a kind of answers is compared with the live teacher seed by seed and document by document. Writes
OUT/results.json.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from shared import as_json, made_by, shown, versions

from limbeck.config import CaptureSettings, DistilSettings, resolve
from limbeck.jobs.capture.job import capture
from limbeck.jobs.common.environment import environment_of
from limbeck.jobs.distil.arms import Arm, train
from limbeck.jobs.distil.job import prepare
from limbeck.jobs.distil.request import DistilRequest
from limbeck.models.load import load
from limbeck.objectives.spec import ObjectiveSpec
from limbeck.probes import Measurements, calibration, measure
from limbeck.probes.interval import difference_interval
from limbeck.teachers import LogitCache

OBJECTIVES = ("ForwardKL", "SkewKL", "TAID")
SEEDS = range(3)
BYTES = 48
MARGIN = 0.01  # nats per token, one per cent of perplexity: a difference that is surely smaller is none


class WithoutRest:
    """The likeliest outcomes as most tools keep them: what they leave out is said by nothing."""

    def __init__(self, cache):
        self.cache, self.name, self.vocab = cache, cache.name, cache.vocab

    def __call__(self, batch):
        return replace(self.cache(batch), rest=None)


def answers(out, keys, kind):
    """The folder of a kind of answers to all rows that are trained on."""
    folder = out / "answers" / kind
    capture(resolve(CaptureSettings, None, keys | {"out": folder, "kind": kind, "bytes_per_token": BYTES}))
    return folder


def measured(arm, comparison, held_out, teacher):
    """The student of an arm on held-out documents, trained if it is not there."""
    file = arm.folder / "measured.safetensors"
    if not file.exists():
        model = train(arm, comparison.shared)
        measure(model, teacher, held_out.batches(), documents=held_out.store.documents).save(file)
    return Measurements.load(file)


def within(above):
    """Whether a student is equivalent to the live teacher's, its whole interval within the margin; None where undecided."""
    if max(-above["low"], above["high"]) < MARGIN:
        return True
    return False if above["low"] > MARGIN or above["high"] < -MARGIN else None


def sums(runs, name):
    """Sums of one measure over each document, (seeds, documents)."""
    return np.stack([getattr(run, name) for run in runs])


def ece(runs):
    """Expected calibration error over seeds."""
    return next(r for r in calibration("student", runs) if r.name == "ece")


def main(out, teacher, data, params, tokens):
    """Trains what is left, and writes all comparisons."""
    out = Path(out)
    torch.set_num_threads(1)
    text = {"teacher": teacher, "data": data, "threads": 1, "device": "cpu"}
    keys = text | {"params": params, "tokens": tokens, "baselines": "none", "out": out / "live"}
    keys["cache_logits"] = False  # or a short text would be read from a cache
    settings = resolve(DistilSettings, None, keys)
    comparison = prepare(DistilRequest.of(settings), {}, environment_of(settings))
    model = load(teacher)
    folders = {kind: answers(out, text, kind) for kind in ("drawn", "coarse")}
    caches = {kind: LogitCache(folder / "answers") for kind, folder in folders.items()}
    without = WithoutRest(caches["coarse"])
    kinds = {"live": comparison.shared.teacher, **caches, "likeliest without the rest": without}
    codecs = {kind: cache.codec for kind, cache in caches.items()} | {"likeliest without the rest": without.cache.codec}
    rows = []
    for objective in OBJECTIVES:
        found = {}
        for kind, told_by in kinds.items():
            shared = replace(comparison.shared, teacher=told_by)
            arms = [
                Arm(
                    kind,
                    seed,
                    out / "arms" / f"{objective}-{kind.replace(' ', '-')}-{seed}",
                    ObjectiveSpec.of(objective),
                    shared.plan.steps,
                )
                for seed in SEEDS
            ]
            own = replace(comparison, shared=shared)
            found[kind] = [measured(arm, own, comparison.proof.held_out, model) for arm in arms]
        live = found["live"]
        for kind, runs in found.items():
            counts = runs[0].tokens
            nats, kl = (difference_interval(sums(runs, name), sums(live, name), counts) for name in ("nats", "kl"))
            level = sum(run.nats.sum() for run in runs) / sum(run.tokens.sum() for run in runs)
            fidelity = sum(run.kl.sum() for run in runs) / sum(run.tokens.sum() for run in runs)
            off = ece(runs)
            rows.append(
                {
                    "objective": objective,
                    "kind": kind,
                    "bytes": None if kind == "live" else codecs[kind].bytes,
                    "outcomes": None if kind == "live" else str(codecs[kind]),
                    "nats": level,
                    "kl_teacher_student": fidelity,
                    "nats_above_live": as_json(nats),
                    "equivalent": None if kind == "live" else within(as_json(nats)),
                    "kl_above_live": as_json(kl),
                    "ece": {"value": off.value, "low": off.low, "high": off.high},
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    result = made_by("caches.py", "OUT", teacher, data, params, tokens) | {
        "seeds": list(SEEDS),
        "margin_nats": MARGIN,
        "versions": versions("torch", "transformers"),
        "teacher": {"name": shown(teacher), "parameters": model.parameters_count, "vocab": model.vocab},
        "student": {"parameters": load(comparison.shared.cut).parameters_count},
        "certificates": {
            kind: json.loads((folder / "certificate.json").read_text()) for kind, folder in folders.items()
        },
        "rows": rows,
    }
    (out / "results.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
