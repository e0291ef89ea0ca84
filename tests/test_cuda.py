"""The jobs on a GPU: what a CPU computes, in the same folders, up to rounding."""

import json
from pathlib import Path

import pytest
import torch

import limbeck
from limbeck.models.load import load
from limbeck.run.world import join
from tests.helpers.models import write_corpus, write_teacher

pytestmark = pytest.mark.gpu

TRAINED = {"length": 32, "batch_tokens": 128, "tokens": "3k", "baselines": "none", "seeds": 1}


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with a teacher and a corpus."""
    folder = tmp_path_factory.mktemp("cuda")
    write_teacher(folder)
    write_corpus(folder)
    return folder


def distilled(here: Path, out: str, **keys: object) -> dict[tuple[str, str], float]:
    """The readings of a run, by model and name."""
    about = {"teacher": str(here / "teacher"), "data": str(here / "text.jsonl"), "shrink": 2.0, "out": here / out}
    limbeck.distil(**(about | TRAINED | keys))
    rows = [json.loads(line) for line in (here / out / "readings.jsonl").read_text().splitlines()]
    return {(row["model"], row["name"]): row["value"] for row in rows if row["value"] is not None}


def test_a_device_has_its_number():
    assert join("cuda").device == join("auto").device == torch.device("cuda", 0)


def test_a_float32_run_is_that_of_a_cpu(here):
    cpu = distilled(here, "cpu", device="cpu", dtype="float32")
    cuda = distilled(here, "cuda", device="cuda", dtype="float32")
    for key in [("teacher", "held_out"), ("cut", "held_out"), ("student", "held_out")]:
        assert cuda[key] == pytest.approx(cpu[key], abs=5e-3)
    student = load(here / "cuda" / "student")
    assert all(p.isfinite().all() for p in student.model.parameters())


def test_bfloat16_answers_captured_on_a_gpu_train_a_student(here):
    answers = here / "answers"
    about = {"teacher": str(here / "teacher"), "data": str(here / "text.jsonl"), "length": 32, "out": answers}
    captured = limbeck.capture(**about, bytes_per_token=48, tokens="3k", params="4k", device="cuda")
    assert captured["rows"] > 0
    found = distilled(here, "cached", teacher=str(answers), data=None, device="cuda")
    assert found["student", "held_out"] < found["cut", "held_out"]


def test_a_streamed_teacher_answers_as_one_in_memory(here):
    about = {"teacher": str(here / "teacher"), "data": str(here / "text.jsonl"), "length": 32, "tokens": "2k"}
    limbeck.capture(**about, stream=True, device_memory="1GiB", out=here / "streamed", device="cuda")


@pytest.mark.parametrize("pattern", ["conv,based:4", "gdn,mamba2,swa:8", "gla,mamba,s4d", "rwkv4,hyena,topk"])
def test_every_kind_of_mixer_trains(here, pattern):
    size = {
        "mixers": pattern,
        "width": 32,
        "layers": len(pattern.split(",")),
        "vocab": 300,
        "tokens": "4k",
        "length": 32,
        "batch_tokens": 256,
    }
    found = limbeck.pretrain(**size, data=str(here / "text.jsonl"), out=here / pattern.split(",")[0], device="cuda")
    assert all(p.isfinite().all() for p in load(found["model"]).model.parameters())


def test_a_killed_run_continues(here):
    whole = distilled(here, "whole", device="cuda", dtype="float32")
    again = distilled(here, "whole", device="cuda", dtype="float32")
    assert whole == again
