"""`limbeck grow`: models are grown, measured, described, loaded, pruned and trained; flags that do not fit are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

import limbeck
from limbeck.errors import BadFolder, BadModel, BadSetting
from limbeck.jobs.grow import job
from limbeck.models.load import load
from limbeck.models.save import save
from tests.helpers.models import llama, tokenizer, write_corpus


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """Two trainings of one model, a text, and a model that is grown from the first."""
    place = tmp_path_factory.mktemp("grow")
    tok = tokenizer()
    for seed in (0, 1):
        save(llama(layers=2, hidden=32, seed=seed, tok=tok), place / f"seed{seed}")
    write_corpus(place, count=20)
    grow(place, place / "grown", op="interleave", shape="layers=3,hidden=64")
    return place


def grow(here: Path, out: Path, **more: Any) -> Any:
    asked: dict[str, Any] = {
        "model": str(here / "seed0"),
        "data": str(here / "text.jsonl"),
        "seq_len": 32,
        "threads": 1,
    }
    return limbeck.grow(**(asked | {"out": out} | more))


@pytest.mark.long
def test_a_grown_model_is_described_and_trained_on(here, tmp_path):
    card = " ".join((here / "grown" / "README.md").read_text().split())
    assert "# seed0, grown" in card
    assert "grown from seed0 (28.2 k) by new layers between its own, and not trained since then." in card
    assert "| hidden | 32 | 64 |" in card
    assert json.loads((here / "grown" / "lineage.json").read_text())["grown"]["layers"] == [0, 0, 1]
    limbeck.distil(
        teacher=str(here / "seed0"), student=str(here / "grown"), data=str(here / "text.jsonl"), seq_len=32, tokens=256,
        batch_tokens=64, baselines="none", objective="CrossEntropy", threads=1, out=tmp_path / "run",
    )  # fmt: skip
    assert load(tmp_path / "run" / "student").lineage == load(here / "grown").lineage
    trained = " ".join((tmp_path / "run" / "student" / "README.md").read_text().split())
    assert "grown from seed0 (28.2 k) by new layers between its own and distilled with `CrossEntropy()`" in trained


@pytest.mark.long
def test_measurements_say_what_growth_changed(here, tmp_path):
    exact = grow(here, tmp_path / "exact")
    assert exact.parameters > 2 * exact.grown_from
    assert exact.shape == "layers=2,hidden=64,heads=8,kv_heads=4,ffn=128"
    assert exact.readings["kl"].value < 1e-6
    assert exact.readings["after"].value == pytest.approx(exact.readings["before"].value, abs=1e-6)
    apart = grow(here, tmp_path / "apart", op="mixture", second=str(here / "seed1"))
    assert apart.readings["kl"].value > 1e-3
    assert [one["name"] for one in (load(tmp_path / "apart").lineage or {})["grown"]["of"]] == ["seed0", "seed1"]


def test_a_model_that_does_not_fit_its_table_is_not_grown(here, tmp_path, monkeypatch):
    def wrong(model, how):
        found = llama(layers=4, hidden=64, tok=model.tokenizer)
        found.lineage = {"grown": {}}
        return found

    monkeypatch.setattr(job, "grow", wrong)
    with pytest.raises(BadModel, match=r"should change no logit, but KL\(small \|\| grown\) is"):
        grow(here, tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"op": "mixture"}, BadSetting, "one is given: name another training"),
        ({"op": "mixture", "second": "seed0"}, BadSetting, "is the model itself"),
        ({"op": "stack", "off_diagonal": "zero"}, BadSetting, "--off-diagonal is for --op mixture, got --op stack"),
        ({"new_layers": "identity"}, BadSetting, "--new-layers is for --op stack or interleave, got --op widen"),
        ({"out": "seed1"}, BadFolder, "is not an empty folder"),
    ],
)
def test_what_does_not_fit_is_refused(more, error, message, here, tmp_path, monkeypatch):
    monkeypatch.chdir(here)
    with pytest.raises(error, match=message):
        grow(here, **({"out": tmp_path / "out"} | more))
    assert not (tmp_path / "out").exists()
