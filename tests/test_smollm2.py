"""What comes after the trainings of smollm2.sh: the runs are judged, and the page is written from what was committed."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import limbeck
from limbeck.probes import Measurements
from tests.helpers.models import texts, write_teacher

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
LEVELS = {  # nats per token of each arm, in which all claims hold
    "20m": {"teacher": 1.0, "student": 2.0, "cut": 6.0, "cut+ce": 2.2, "cut+ce@flops": 2.3, "fresh+kd": 2.5},
    "40m": {"teacher": 1.0, "student": 1.8, "cut": 5.0, "cut+ce": 2.0, "cut+ce@flops": 2.1},
    "20m-taid": {"student": 1.9},
    "20m-cross-entropy": {"student": 2.15},
    "cut-depth": {"student": 4.0, "cut": 9.0},
    "cut-width": {"student": 3.9, "cut": 8.0},
    "cut-both": {"student": 3.6, "cut": 7.7},
    "lr-1e-3": {"student": 3.4, "cut+ce": 3.2},
    "lr-2e-3": {"student": 3.3, "cut+ce": 3.25},
    "mix-0.5": {"student": 3.1},
}


def script(name):
    sys.path.insert(0, str(RESULTS))
    try:
        return __import__(name)
    finally:
        sys.path.remove(str(RESULTS))


def measured(file: Path, level: float, seed: int) -> None:
    """A measurement of 40 documents of 100 tokens, about so many nats each token."""
    nats = 100 * level + np.random.default_rng(0).normal(0, 1, 40) + seed / 100
    file.parent.mkdir(parents=True, exist_ok=True)
    Measurements(np.full(40, 100.0), nats, np.ones((40, 15, 3))).save(file)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """The folders of all runs: those of one small distillation of captured logits, with the levels of `LEVELS`."""
    here = tmp_path_factory.mktemp("smollm2")
    write_teacher(here)
    data = here / "text.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(60)))
    asked = {"teacher": str(here / "teacher"), "data": str(data), "vocab": 280, "length": 32, "threads": 1}
    limbeck.capture(**asked, out=here / "logits", tokens=640)
    limbeck.distil(
        teacher=str(here / "logits"),
        tokens="1k",
        params="9k",
        seed=100,
        seeds=2,
        baselines="cut",
        out=here / "one",
        threads=1,
    )
    for name, arms in LEVELS.items():
        shutil.copytree(here / "one", here / name)
        shutil.rmtree(here / name / "measurements")
        for arm, value in arms.items():
            for seed in [100] if arm == "teacher" else [100, 101]:
                measured(here / name / "measurements" / f"{arm}-seed{seed}.safetensors", value, seed)
    shutil.rmtree(here / "one")
    return here


def test_runs_in_which_all_claims_hold_are_judged_so(runs, tmp_path):
    script("smollm2").judge(runs, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["verdicts"] == dict.fromkeys(("equal tokens", "equal compute", "start", "TAID", "40M"), "confirmed")
    assert (found["chosen"], found["best_epochs"]) == ("both", "1")
    assert found["gains"]["equal compute"][0]["value"] == pytest.approx(0.3)
    assert found["gains"]["equal compute"][1]["value"] == pytest.approx(0.15)
    run = json.loads((runs / "20m" / "run.json").read_text())
    assert found["models"]["20M"]["shape"] == found["cuts"]["depth"]["shape"] == run["student"]["shape"]
    assert found["models"]["40M"]["parameters"] == run["student"]["parameters"]
    assert set(found["models"]["20M"]["bits_per_byte"]) == {"teacher", "student", "cut"}
    assert (found["seeds"], found["documents"]) == ([100, 101], 40)
    assert list(found["trials"]) == ["lr-1e-3", "lr-2e-3", "mix-0.5"]
    assert found["trials"]["lr-1e-3"]["learning_rate"] == run["plan"]["learning_rate"]
    assert {arm: round(one["value"], 1) for arm, one in found["trials"]["lr-1e-3"]["nats"].items()} == {
        "cut+ce": 3.2,
        "student": 3.4,
    }
    assert found["seconds"]["20m"] == run["seconds"]
    assert found["vocabulary"]["tokens"][1] == 280
