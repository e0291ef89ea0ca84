"""`limbeck tune` on preference pairs: the start, the reference, what is measured, and what is refused."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import limbeck
from limbeck.corpora import Rows, TokenStore
from limbeck.corpora.pair_rows import by_side
from limbeck.disk import read_lines
from limbeck.errors import BadObjective, BadSetting, LimbeckError
from limbeck.jobs.tune.reference import reference_of
from limbeck.models.load import load
from limbeck.probes.interval import wilson
from limbeck.probes.measurements import Measurements
from limbeck.probes.preference import preference, share_right
from limbeck.report.page import write_report
from limbeck.report.preferred import preferred_verdict
from limbeck.report.start import BEFORE
from limbeck.run.world import alone
from tests.helpers.models import texts, write_corpus, write_teacher
from tests.helpers.stops import stopped_before
from tests.jobs.test_distil import on_two_ranks

TINY: dict[str, Any] = {"seq_len": 64, "tokens": 768, "batch_tokens": 192, "threads": 1, "lr": 0.003}


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A model, pairs, and other text."""
    place = tmp_path_factory.mktemp("preference")
    write_teacher(place)
    write_corpus(place)
    rows = [{"prompt": t[:12], "chosen": t[12:40], "rejected": t[12:30][::-1] + "."} for t in texts(150, seed=5)]
    (place / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def tune(here: Path, out: Path, **more: Any) -> Any:
    keys: dict[str, Any] = {
        "student": str(here / "teacher"),
        "data": str(here / "pairs.jsonl"),
        "objective": "DPO",
        "out": out,
    }
    return limbeck.tune(**(keys | TINY | more))


@pytest.fixture(scope="module")
def lora(here, tmp_path_factory):
    """Adapters tuned on pairs, with other text: (result, folder)."""
    out = tmp_path_factory.mktemp("lora") / "run"
    how = {"replay": f"{here / 'text.jsonl'}:0.34", "stay": "ForwardKL", "trained": "lora", "rank": 2}
    return tune(here, out, **how, baselines="chosen"), out


def test_a_run_says_which_completions_are_preferred(lora):
    result, out = lora
    assert list(result.readings) == ["cut", "student", "chosen"]
    before, after = result.readings["cut"], result.readings["student"]
    assert {"likelihood_accuracy", "longer_wins", "held_out"} <= set(before)
    assert "pair_accuracy" not in before
    assert {"pair_accuracy", "pair_margin", "chosen_gain", "rejected_gain", "other_held_out"} <= set(after)
    assert "held-out pairs, by its implicit reward" in result.verdict
    assert "cross-entropy on the preferred completions alone" in result.verdict
    plan = json.loads((out / "run.json").read_text())["plan"]
    assert plan["rates"] == {"student": 0.003, "chosen": pytest.approx(0.03)}
    assert "cross-entropy on preferred sides 0.03" in (out / "verdict.json").read_text()
    page = (out / "report.html").read_text()
    assert "pairs right" in page
    rows = read_lines(out / "metrics.jsonl")
    spent = f"The tuned model was trained on {rows[-1]['tokens']} pairs in {rows[-1]['step']} steps"
    assert spent in page
    assert "Loss on the training text by the step, step by step" in page
    assert "95 % interval over n held-out prompts of pairs, or documents" in (out / "student" / "README.md").read_text()
    assert "pairs whose preferred side has the larger reward" in (out / "student" / "README.md").read_text()


@pytest.mark.usefixtures("drawn")
def test_pairs_and_tokens_are_not_drawn_alike(lora, tmp_path):
    """Cross-entropy on the preferred sides has a panel of its own, and all are drawn by step."""
    shutil.copytree(lora[1], tmp_path / "run")
    page = write_report(tmp_path / "run").read_text()
    drawing = page[page.index("<svg") : page.index("</svg>")]
    assert re.findall("objective: (\\w+)", drawing) == ["DPO", "CrossEntropy"]
    assert (drawing.count("nats per pair"), drawing.count("nats per token"), drawing.count("steps")) == (1, 1, 2)
    assert "trained on" not in drawing


def test_a_probe_reads_the_pairs_of_a_run_again_where_its_tokens_are_gone(lora, tmp_path):
    _, out = lora
    shutil.copytree(out, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "data")
    there, again = (
        limbeck.probe(str(folder / "student"), probe="likelihood", threads=1) for folder in (out, tmp_path / "run")
    )
    assert again.readings["held_out"] == there.readings["held_out"]


def test_the_start_is_the_reference(lora):
    """A training of pairs and of other text to stay near begins at ln 2 a pair and at no divergence of the other rows."""
    _, out = lora
    first = read_lines(out / "metrics.jsonl")[0]
    assert first["tokens"] >= 3  # pairs, and one row
    assert first["loss_nats"] == pytest.approx(math.log(2) * (first["tokens"] - 1) / first["tokens"], rel=1e-4)


def test_the_reference_is_the_model_without_adapters(lora, here):
    _, out = lora
    store = TokenStore.open(out / "data" / "train")
    found = load_file(out / "reference" / "00000.safetensors")
    rows = Rows(store, length=64)
    batch = by_side(rows.rows_of(np.arange(rows.n_rows)))
    log_q = load(here / "teacher")(batch).logits().log_softmax(-1).double()
    nats = -log_q.gather(-1, batch.targets.flatten()[:, None]).squeeze(-1) * batch.weight.flatten()
    sides = batch.document.flatten()
    expected = torch.zeros(2 * store.documents, dtype=torch.float64).index_add_(0, sides.clamp(min=0), nats)
    scored = found["pairs"].long()  # of rows that the training reads
    assert 0 < len(scored) < store.documents
    torch.testing.assert_close(found["nats"], expected.view(-1, 2)[scored], rtol=1e-5, atol=1e-5)


def test_more_seeds_score_the_pairs_that_they_read_besides(lora, here, tmp_path, capfd):
    _, out = lora
    store, model = TokenStore.open(out / "data" / "train"), load(here / "teacher")
    how: dict[str, Any] = {"length": 64, "folder": tmp_path / "reference", "world": alone(), "bf16": False}
    some = np.isfinite(reference_of(model, store, np.arange(2), **how).log_p).all(1)
    more = np.isfinite(reference_of(model, store, np.arange(5), **how).log_p).all(1)
    assert 0 < some.sum() < more.sum() < store.documents
    assert capfd.readouterr().err.count("rows of pairs, once by the model before tuning") == 2


@pytest.mark.parametrize(
    "how",
    [{"trained": "lora-xs", "rank": 2}, pytest.param({"objective": "APOZero(sft=0.2)"}, marks=pytest.mark.long)],
)
def test_a_stopped_run_continues_to_the_same_bits(how, here, tmp_path):
    how = how | {"baselines": "none", "objective": how.get("objective", "DPO")}
    tune(here, tmp_path / "whole", **how)
    with stopped_before(2):
        tune(here, tmp_path / "parts", save_every=1, **how)
    tune(here, tmp_path / "parts", save_every=1, **how)
    one, other = (load_file(tmp_path / name / "student" / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"objective": "CrossEntropy"}, LimbeckError, "limbeck tune --objective DPO"),
        ({"data": "text.jsonl"}, LimbeckError, "expected a preference pair"),
        ({"objective": "DPO + CrossEntropy"}, BadObjective, "a loss of each token, beside one"),
        ({"lr": (1e-3, 1e-4)}, BadSetting, "several rates in --lr would choose by the loss on the preferred ones"),
        ({"long_conversations": "drop"}, BadSetting, "pairs longer than a row are left out, never split"),
        ({"stay": "DPO", "replay": "text.jsonl:0.5"}, BadObjective, "it needs pairs of them"),
        ({"objective": "CrossEntropy", "baselines": "chosen"}, BadSetting, "this objective has none"),
    ],
)
def test_what_does_not_fit_is_refused(given, error, message, here, tmp_path):
    given = {
        k: v.replace("text.jsonl", str(here / "text.jsonl")) if isinstance(v, str) else v for k, v in given.items()
    }
    with pytest.raises(error, match=message):
        tune(here, tmp_path / "run", **given)


def measured(nats, tokens):
    sides = np.array(tokens, float).reshape(-1)
    return Measurements(sides, np.array(nats, float).reshape(-1), np.zeros((len(sides), 15, 3)))


def test_readings_of_pairs_by_hand():
    """Gains 3, 1 | 1, 2 | 0, 0 | 2, -1: two pairs right, one equal; lengths 2, 1 | 1, 3 | 2, 2 | 3, 1."""
    tokens = [[2, 1], [1, 3], [2, 2], [3, 1]]
    before = measured([[9, 9]] * 4, tokens)
    after = measured([[6, 8], [8, 7], [9, 9], [7, 10]], tokens)
    found = {one.name: one for one in preference("student", [after], before, np.arange(4))}
    assert found["pair_accuracy"].value == 0.625
    assert found["pair_margin"].value == pytest.approx((2 - 1 + 0 + 3) / 4)
    assert (found["chosen_gain"].value, found["rejected_gain"].value) == (1.5, 0.5)
    assert found["margin_length_correlation"].value == pytest.approx(np.corrcoef([2, -1, 0, 3], [1, -2, 0, 2])[0, 1])
    assert {one.name: one.value for one in preference("cut", [before], before, np.arange(4))} == {
        "likelihood_accuracy": 0.5,
        "longer_wins": 0.625,
    }


def test_a_verdict_of_three_seeds_names_what_is_better():
    generator = np.random.default_rng(0)
    tokens = [[2, 2]] * 60
    before = measured(np.full((60, 2), 9.0), tokens)
    good = [measured(9 - generator.normal([4, 0], 1, (60, 2)), tokens) for _ in range(3)]
    none = [measured(9 - generator.normal(0, 1, (60, 2)), tokens) for _ in range(3)]
    how: dict[str, Any] = {"prompts": np.arange(60), "start": BEFORE, "plan": {}}
    found = preferred_verdict({"cut": [before], "student": good, "chosen": none}, None, **how)
    assert found.outcome == "better"
    assert "more than by chance" in found.text
    assert "more of the pairs than cross-entropy on the preferred completions alone" in found.text
    worse = preferred_verdict({"cut": [before], "student": none, "chosen": good}, None, **how)
    assert worse.outcome == "inconclusive"
    assert "not clearly more than by chance" in worse.text


def test_a_correlation_stays_within_the_possible():
    """Margins are the differences in length but for one pair, so that many resamples have a correlation of 1."""
    gap = np.arange(12.0)
    before = measured(np.full((12, 2), 99.0), np.stack([gap + 1, np.ones(12)], 1))
    after = measured(99 - np.stack([np.where(gap == 3, 9, gap), np.zeros(12)], 1), before.tokens)
    found = {one.name: one for one in preference("student", [after], before, np.arange(12))}
    assert found["margin_length_correlation"].high == 1.0


def test_pairs_of_one_prompt_are_one_observation():
    """Twenty prompts of ten pairs each, right or wrong together, are as uncertain as twenty pairs."""
    each = np.arange(20) % 3 < 2
    right = [each.astype(float)]
    one = share_right(right, np.ones(20, bool), np.arange(20))
    ten = share_right([np.repeat(right[0], 10)], np.ones(200, bool), np.repeat(np.arange(20), 10))
    assert (ten.value, ten.low, ten.high, ten.n) == pytest.approx((one.value, one.low, one.high, 20))
    all_right = share_right([np.ones(200)], np.ones(200, bool), np.repeat(np.arange(20), 10))
    assert (all_right.low, all_right.n) == (wilson(20, 20).low, 20)


def test_a_verdict_counts_prompts_and_stays_within_the_possible():
    tokens = [[2, 2]] * 40
    before = measured(np.full((40, 2), 9.0), tokens)
    generator = np.random.default_rng(1)
    runs = [measured(9 - generator.normal([shift, 0], 0.1, (40, 2)), tokens) for shift in (9, 9, -9)]
    how: dict[str, Any] = {"prompts": np.arange(40) // 4, "start": BEFORE, "plan": {}}
    found = preferred_verdict({"cut": [before], "student": runs}, None, **how)
    assert "of 40 held-out pairs of 10 prompts" in found.text
    assert any("10 prompts held out: too few" in note for note in found.notes)
    assert all(one.low >= -1 and one.high <= 1 for one in found.differences)


@pytest.mark.long
def test_two_processes_train_as_one(here, tmp_path):
    text = f"--objective DPO(sft=0.1) --seq-len 64 --tokens 768 --batch-tokens 256 --lr 0.003 --replay {here}/text.jsonl:0.25"
    one = [*f"limbeck tune --student {here}/teacher --data {here}/pairs.jsonl --baselines none {text}".split(), "--out"]
    alone = subprocess.run([sys.executable, "-m", *one, str(tmp_path / "one")], capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr
    two = on_two_ranks([sys.executable, "-m", *one, str(tmp_path / "two")])
    assert two.returncode == 0, two.stderr
    losses = [[row["loss_nats"] for row in read_lines(tmp_path / name / "metrics.jsonl")] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
