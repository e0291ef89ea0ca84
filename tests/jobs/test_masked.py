"""`--mask-input` of `limbeck tune` and `limbeck distil`: the control is the plain training, and a run says what was masked."""

import json
from pathlib import Path
from typing import Any

import pytest

import limbeck
from limbeck.config import DistilSettings
from limbeck.disk import sha256_of
from limbeck.errors import BadCorpus, BadSetting
from limbeck.jobs.distil.plan import mask_of
from tests.helpers.models import write_asked, write_corpus, write_teacher
from tests.helpers.stops import stopped_before

TINY: dict[str, Any] = {"seq_len": 32, "tokens": 512, "batch_tokens": 128, "threads": 1, "lr": 0.003}


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A model, questions with answers, and plain text."""
    place = tmp_path_factory.mktemp("masked")
    write_teacher(place)
    write_corpus(place)
    write_asked(place)
    return place


def tune(here: Path, out: Path, **more: Any) -> Any:
    keys: dict[str, Any] = {"student": str(here / "teacher"), "data": str(here / "asked.jsonl"), "out": out}
    return limbeck.tune(**keys | TINY | more)


def distil(here: Path, out: Path, **more: Any) -> Any:
    keys: dict[str, Any] = {
        "teacher": str(here / "teacher"),
        "data": str(here / "asked.jsonl"),
        "out": out,
        "shrink": 2.0,
    }
    return limbeck.distil(**keys | TINY | {"any_teacher": True} | more)


def weights(folder: Path) -> str:
    return sha256_of(folder / "student" / "model.safetensors")


@pytest.mark.long
@pytest.mark.parametrize(
    ("run", "how"), [(tune, {}), (distil, {"cache_logits": True, "baselines": "unmasked", "tokens": 256})]
)
def test_the_control_of_a_masked_training_is_the_plain_one(run, how, here, tmp_path):
    result = run(here, tmp_path / "masked", mask_input="0.4,warmup=0.5", **how)
    run(here, tmp_path / "plain", mask_input=0, **how | ({"baselines": "none"} if how else {}))
    assert weights(tmp_path / "masked" / "baselines" / "unmasked-seed0") == weights(tmp_path / "plain")
    assert weights(tmp_path / "masked") != weights(tmp_path / "plain")
    assert {"student", "unmasked"} <= set(result.readings)
    about = json.loads((tmp_path / "masked" / "run.json").read_text())
    assert about["signature"]["mask_input"] == "0.4,warmup=0.5"
    assert "mask_input" not in json.loads((tmp_path / "plain" / "run.json").read_text())["signature"]
    page, card = (tmp_path / "masked" / name for name in ("report.html", "student/README.md"))
    said = "40 % of the learned tokens (rising over the first 50 % of a training) were replaced by random ones"
    assert said in card.read_text()
    assert "with plain input" in page.read_text()
    assert any(said in note for note in json.loads((tmp_path / "masked" / "verdict.json").read_text())["notes"])


@pytest.mark.long
def test_a_stopped_masked_run_continues_to_the_same_bits(here, tmp_path):
    how = {"mask_input": 0.4, "baselines": "none"}
    tune(here, tmp_path / "whole", **how)
    with stopped_before(2):
        tune(here, tmp_path / "parts", save_every=1, **how)
    tune(here, tmp_path / "parts", save_every=1, **how)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


@pytest.mark.parametrize(
    ("given", "message", "kind"),
    [
        ({"mask_input": 0.4, "data": "text.jsonl"}, "--mask-input: expected documents with a prompt", BadCorpus),
        ({"mask_input": "0.4,token=5000"}, "expected a mask token below the vocabulary of ", BadSetting),
        ({"mask_input": 1.0}, "nothing would be left to reason from", BadSetting),
        ({"baselines": "unmasked"}, "--baselines unmasked: no token is masked", BadSetting),
    ],
)
@pytest.mark.parametrize("run", [tune, pytest.param(distil, marks=pytest.mark.long)])
def test_what_cannot_be_masked_is_refused_before_anything_long(run, given, message, kind, here, tmp_path):
    given = given | ({"data": str(here / given["data"])} if "data" in given else {})
    with pytest.raises(kind, match=message):
        run(here, tmp_path / "run", **given)
    assert not list(tmp_path.glob("run/**/metrics.jsonl"))
    assert not (tmp_path / "run" / "cut").exists()


def test_what_a_student_generates_cannot_be_masked():
    settings = DistilSettings(teacher="teacher", mask_input=0.4, rollouts=0.5)
    with pytest.raises(BadSetting, match="--mask-input does not go with --rollouts"):
        mask_of(settings)


@pytest.mark.parametrize(
    ("data", "level", "says"),
    [
        ("asked.jsonl", None, ""),
        ("text.jsonl", "warning", "none of the first 64 documents has a prompt"),
        ("few.jsonl", "error", "none of the first 3 documents has a prompt"),
        ("some.jsonl", "warning", "3 of the first 6 documents have no prompt, and stay as they are"),
    ],
)
def test_the_doctor_looks_for_answers_to_mask(here, data, level, says):
    lines = (here / "text.jsonl").read_text().splitlines(keepends=True)
    (here / "few.jsonl").write_text("".join(lines[:3]))
    (here / "some.jsonl").write_text(
        "".join(lines[:3] + (here / "asked.jsonl").read_text().splitlines(keepends=True)[:3])
    )
    given = {"teacher": str(here / "teacher"), "data": str(here / data), "shrink": 2.0, "mask_input": 0.4}
    found = limbeck.doctor(**given | TINY, any_teacher=True)
    findings = [one for one in found.findings if one["check"] == "masked input"]
    assert [one["level"] for one in findings] == ([level] if level else [])
    assert all(says in one["message"] for one in findings)
