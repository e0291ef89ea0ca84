"""Runs that people leave alone: held-out loss on documents of its own, early stop, averages, and what their reports say."""

import json

import numpy as np
import pytest

import limbeck
from limbeck.config import DistilSettings, resolve
from limbeck.disk import read_lines
from limbeck.errors import BadSetting
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.held_out import Apart, HeldOut, kept_apart, unwatched, watch_of
from limbeck.jobs.common.training import rule_facts, rule_of
from limbeck.probes import Measurements
from limbeck.report.start import CUT
from limbeck.report.trained import Trained, used_note, used_table
from limbeck.run.run import Plan
from limbeck.run.selection import Rule
from limbeck.run.world import alone
from tests.helpers.models import stores, tokenizer, write_corpus, write_teacher

_PLAN = Plan(steps=100, rows=4, lr=1e-3)


def machine():
    return Environment(alone(), bf16=False)


def apart_of(store, every=10):
    return kept_apart(store, _PLAN, every=every, length=32, device=machine().world.device)


def test_what_is_watched_judges_nothing(tmp_path):
    """The rows that are watched are whole documents for the final evaluation: no prediction of those counts there."""
    _, store = stores(tmp_path, tokenizer())
    apart = apart_of(store)
    assert 0 < len(apart.documents) <= store.documents / 3
    watch = watch_of(store, _PLAN, length=32, environment=machine(), every=10, apart=apart)
    assert watch.steps == {*range(0, 101, 10)}
    assert watch.until(25).steps == {0, 10, 20, 25}
    watched = set(np.concatenate([b.document[b.weight > 0].numpy() for b in watch.batches()]).tolist())
    assert watched
    assert watched <= set(apart.documents.tolist())
    judging = HeldOut(store, length=32, environment=machine(), rows=10**6, without=apart.documents)
    judged = set(np.concatenate([b.document[b.weight > 0].numpy() for b in judging.batches()]).tolist())
    assert judged == set(range(store.documents)) - set(apart.documents.tolist())
    assert np.array_equal(apart.rows, apart_of(store).rows)  # the same for every training


def test_a_row_with_more_documents_than_may_be_watched_is_watched_in_part(tmp_path):
    """Of six documents that all fit into one row two are watched, and four judge."""
    _, whole = stores(tmp_path, tokenizer())
    store = whole.beginning(int(whole.starts[6]))
    length = int(store.tokens) + 8
    apart = kept_apart(store, _PLAN, every=10, length=length, device=machine().world.device)
    assert (len(apart.rows), len(apart.documents)) == (1, 2)
    watch = watch_of(store, _PLAN, length=length, environment=machine(), every=10, apart=apart)
    (batch,) = watch.batches()
    assert batch.document[batch.weight > 0].unique().tolist() == apart.documents.tolist()


def test_too_few_documents_for_two_parts(tmp_path):
    _, store = stores(tmp_path, tokenizer())
    with pytest.raises(BadSetting, match=r"--eval-every 10: 2 documents are held out, too few .* --eval-data"):
        apart_of(store.beginning(int(store.starts[2])))


def test_measurements_without_some_documents():
    whole = Measurements(np.array([3.0, 4, 5]), np.array([1.0, 2, 3]), np.ones((3, 15, 3)), kl=np.array([1.0, 1, 1]))
    left = unwatched(whole, Apart(np.array([0]), np.array([1])))
    assert unwatched(whole, None) is whole
    assert left.tokens.tolist() == [3, 0, 5]
    assert left.kl.tolist() == [1, 0, 1]
    assert (left.read, whole.read, left.bins[1].sum()) == (2, 3, 0)


@pytest.mark.parametrize(
    ("flags", "rule"),
    [
        ({}, None),
        ({"eval_every": 50}, Rule(50, None, best=False)),
        ({"eval_every": 50, "patience": 3}, Rule(50, 3, best=True)),
        ({"eval_every": 50, "patience": 3, "weights": "last"}, Rule(50, 3, best=False)),
        ({"eval_every": "1k", "weights": "best"}, Rule(1000, None, best=True)),
    ],
)
def test_flags_become_a_rule(flags, rule):
    assert rule_of(resolve(DistilSettings, None, flags)) == rule


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"patience": 3}, "--patience 3: needs --eval-every"),
        ({"weights": "best"}, "--weights best: needs --eval-every"),
        (
            {"eval_every": 5, "patience": 3, "average": "last:0.2"},
            "--average last:0.2: with --patience .* --average ema",
        ),
    ],
)
def test_settings_that_do_not_go_together(flags, words):
    with pytest.raises(BadSetting, match=words):
        rule_of(resolve(DistilSettings, None, flags))


@pytest.mark.parametrize(
    ("given", "kept"), [("ema", "ema:0.999"), ("ema:0.9990", "ema:0.999"), ("last", "last:0.2"), (None, None)]
)
def test_averages_are_read(given, kept):
    assert resolve(DistilSettings, None, {"average": given}).average == kept
    with pytest.raises(BadSetting, match=r"--average: expected ema:0.999 .* got 'ema:1'"):
        resolve(DistilSettings, None, {"average": "ema:1"})


def test_what_each_training_used_is_said():
    """Two arms of one rule, of which the teacher's pass costs half a step: 300 x 1.5 beside 600 x 1 steps."""
    trained = [
        Trained("student", 0, 300, 400, 3000, 200, 2),
        Trained("cut+ce@flops", 0, 600, 600, 6000, 600, 2),
    ]
    note = used_note(trained, CUT)
    assert "to end after 2 measurements in a row without a lower held-out loss, on documents that judge nothing" in note
    assert "equal tokens and equal compute are what each could use at most" in note
    assert "300 of 400 steps (weights of step 200); " in note
    assert note.endswith("600 of 600 steps")
    rows = used_table(trained, {"teacher": {"price": 1.0, "passes": 0.5}}, CUT)
    assert [row[1:] for row in rows] == [
        ("300", "400", "3.00 k", "200", "1.00×"),
        ("600", "600", "6.00 k", "600", "1.33×"),
    ]
    assert used_note([Trained("student", 0, 400, 400, 4000, 400, None)], CUT) == ""


def test_rules_in_run_json():
    assert rule_facts(None) == {}
    assert rule_facts(Rule(5, 2, best=True)) == {"eval_every": 5, "patience": 2, "weights": "best"}


@pytest.mark.long
@pytest.mark.usefixtures("drawn")
def test_a_run_that_ends_early_and_its_baseline(tmp_path):
    """At a rate that harms, the first weights are the best: both trainings end after patience, by one rule on one text."""
    write_teacher(tmp_path)
    write_corpus(tmp_path)
    keys = {"teacher": str(tmp_path / "teacher"), "data": str(tmp_path / "text.jsonl"), "shrink": 2.0, "tokens": "4k"}
    keys |= {
        "length": 32,
        "batch_tokens": 128,
        "threads": 1,
        "lr": 1.0,
        "schedule": "constant",
        "out": tmp_path / "out",
    }
    keys |= {"eval_every": 4, "patience": 2, "average": "ema:0.5"}
    limbeck.distil(**keys, baselines=())
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.safetensors")}
    result = limbeck.distil(**keys, baselines="cut+ce")  # a further baseline: nothing else is trained again
    assert {p: p.stat().st_mtime_ns for p in before} == before
    for folder in (tmp_path / "out", tmp_path / "out/baselines/cut+ce-seed0"):
        facts = json.loads((folder / "training.json").read_text())
        rows = read_lines(folder / "held_out.jsonl")
        losses = [row["loss_nats"] for row in rows]
        best = min(range(len(rows)), key=losses.__getitem__)
        assert (facts["best_step"], facts["steps"]) == (rows[best]["step"], rows[-1]["step"])
        assert (facts["steps"], facts["of"]) == (4 * (best + 2), 31)
        assert len(read_lines(folder / "metrics.jsonl")) == facts["steps"]
        assert not list(folder.glob("best-*"))
    notes = json.loads((tmp_path / "out/verdict.json").read_text())["notes"]
    assert any("to end after 2 measurements in a row" in note for note in notes)
    assert "at most" in result["verdict"]
    page = (tmp_path / "out/report.html").read_text()
    assert "Rings: the weights that were taken." in page
    assert "gradient norm, before clipping" in page
    assert "<th>weights of step</th>" in page
