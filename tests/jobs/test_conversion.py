"""`limbeck distil --mixers`: matching layer by layer, who keeps attention, equal tokens, continuing, and what is refused."""

import gc
import json
import os
import re
import signal
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import limbeck
from limbeck.api import doctor
from limbeck.config import DistilSettings
from limbeck.corpora import Rows, build_stores
from limbeck.disk import read_json
from limbeck.errors import BadModel, BadSetting, BadShape, Interrupted, Mismatch
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.distil import convert as convert_job
from limbeck.jobs.distil.conversion import Conversion, Planned, check_conversion
from limbeck.jobs.distil.convert import make_converted
from limbeck.jobs.distil.plan import Budget, DistilPlan
from limbeck.jobs.distil.request import DistilRequest
from limbeck.jobs.distil.teacher import RunTeacher
from limbeck.jobs.pair.student import target_shape
from limbeck.jobs.probe.recall import RecallEvaluation
from limbeck.models.configuration import load_config
from limbeck.models.load import load
from limbeck.objectives import CrossEntropy
from limbeck.planning.checks.pair import Finding
from limbeck.planning.cost.memory import MemoryUse
from limbeck.planning.cost.size import Size
from limbeck.planning.cost.state import kept_bytes
from limbeck.probes.slices import BINS, Slices
from limbeck.report.state import state_sentence
from limbeck.run.match import Match
from limbeck.run.micro import MicroBatch
from limbeck.run.optim import adamw
from limbeck.run.run import Run
from limbeck.run.step import LossTerm
from limbeck.run.world import alone
from limbeck.students.convert import convert
from tests.helpers.models import batch, frozen, llama, write_corpus, write_teacher

# Matching


def pair(mixers=("based:4", "attention", "gdn")):
    teacher = llama(layers=3)
    torch.manual_seed(0)
    return frozen(convert(teacher, ["attention"] * 3)), convert(teacher, mixers)


def steps_of(match: Match, student, batches, steps: int) -> list[float]:
    match.trained(student.model)
    optimizer = adamw(student.model, [], weight_decay=0.0)
    for group in optimizer.param_groups:
        group["lr"] = 3e-3
    terms = [LossTerm(rows, CrossEntropy()) for rows in batches]
    how = {"mesh": alone(), "max_norm": 1.0, "micro": MicroBatch(8)}
    made = (match(student, terms, optimizer, **how) for _ in range(steps))
    return [step.loss for step in made]


@pytest.mark.parametrize("stage", ["mixers", "blocks"])
def test_a_stage_comes_nearer_and_changes_its_own_layers_alone(stage):
    reference, student = pair()
    before = {name: p.detach().clone() for name, p in student.model.named_parameters()}
    losses = steps_of(Match(reference.model, [0, 2], stage), student, [batch(rows=6)], 12)
    assert losses[-1] < 0.9 * losses[0]
    changed = {name for name, p in student.model.named_parameters() if not torch.equal(p, before[name])}
    inside = (
        ("model.layers.0.", "model.layers.2.")
        if stage == "blocks"
        else ("model.layers.0.mixer.", "model.layers.2.mixer.")
    )
    assert changed == {name for name in before if name.startswith(inside)}


def test_a_layer_that_is_the_same_has_nothing_to_learn():
    reference, student = pair(mixers=("attention",) * 3)
    for stage in ("mixers", "blocks"):
        assert steps_of(Match(reference.model, [1], stage), student, [batch()], 1)[0] < 1e-10


def test_the_error_is_that_of_whole_layers_and_does_not_depend_on_micro_batches():
    whole = batch(rows=4)
    found = []
    for pieces in ([whole], [whole.rows(slice(0, 1)), whole.rows(slice(1, 4))]):
        reference, student = pair()
        found.append(steps_of(Match(reference.model, [0, 2], "mixers"), student, pieces, 3))
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    reference, student = pair()
    got = {}
    for name, model in (("wanted", reference), ("ours", student)):
        model.model.model.layers[0].mixer.register_forward_hook(
            lambda _, __, out, name=name: got.__setitem__(name, out[0].detach())
        )
        model(whole)
    share = (got["ours"] - got["wanted"]).square().sum() / got["wanted"].square().sum()
    assert steps_of(Match(reference.model, [0], "mixers"), student, [whole], 1)[0] == pytest.approx(
        float(share), rel=1e-4
    )


# The job


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("conversion")
    write_teacher(folder)
    write_corpus(folder)
    return folder


def settings(here: Path, out: str, **more) -> dict:
    return {
        "teacher": str(here / "teacher"),
        "data": str(here / "text.jsonl"),
        "mixers": "based:4",
        "tokens": "3k",
        "length": 32,
        "batch_tokens": 128,
        "baselines": "attention",
        "out": here / out,
        "threads": 1,
        "device": "cpu",
    } | more


@pytest.fixture(scope="module")
def done(here):
    """A run that keeps attention where recall needs it, and its result."""
    return here / "out", limbeck.distil(**settings(here, "out", keep_attention=1))


@pytest.mark.long
def test_the_layer_whose_loss_harms_recall_most_keeps_attention(done):
    out, _ = done
    said = read_json(out / "conversion.json")
    harm = {row["layer"]: row["damage"] for row in said["damage"]}
    assert harm.pop(None) == 0
    kept = max(harm, key=lambda layer: harm[layer])
    assert [layer for layer, text in enumerate(said["mixers"]) if text == "attention"] == [kept]
    assert load_config(out / "student").mixers == said["mixers"]
    lineage = json.loads((out / "student" / "lineage.json").read_text())
    assert lineage["converted"] == said["converted"]
    assert json.loads((out / "run.json").read_text())["conversion"] == said
    assert not (out / "matching").exists()


@pytest.mark.long
def test_all_arms_read_as_many_tokens(done):
    out, _ = done
    said = json.loads((out / "conversion.json").read_text())
    steps = {
        name: len((out / folder / "metrics.jsonl").read_text().splitlines())
        for name, folder in (("student", "."), ("attention", "baselines/attention-seed0"))
    }
    plan = json.loads((out / "run.json").read_text())["plan"]
    assert set(said["tokens"]) == {"mixers", "blocks"}
    assert steps["attention"] == plan["steps"]
    read = plan["rows"] * plan["length"]  # of a step, padding among them
    assert steps["student"] * read + sum(said["tokens"].values()) == plan["steps"] * read


@pytest.mark.long
def test_recall_stands_beside_perplexity_against_attention(done):
    out, result = done
    readings = result["readings"]
    for model in ("teacher", "cut", "student", "attention"):
        assert {"perplexity", "recall_hits", "elsewhere", "second_reading", "recalled"} <= set(readings[model])
    gap = readings["student"]["held_out"]["value"] - readings["attention"]["held_out"]["value"]
    assert readings["student"]["gap"]["value"] == pytest.approx(gap, rel=1e-4)
    assert "gap" not in readings["attention"]
    verdict = json.loads((out / "verdict.json").read_text())
    assert "on recall hits" in verdict["notes"][0]
    assert sum("attention everywhere" in note.lower() for note in verdict["notes"]) == 1, "said once"
    assert re.search(r"the student has 0\.\d{3} nats (more|fewer) \(", verdict["notes"][0])
    page = (out / "report.html").read_text()
    assert "What it recalls" in page
    assert "loss on recall hits if this layer alone is replaced" in page
    assert "recall_hits" not in page
    assert "Gaps are to the same student" in page
    card = (out / "student" / "README.md").read_text()
    assert all(note in card for note in verdict["notes"])
    # the same slices of the student alone, with bigrams counted in the same run's text
    alone = limbeck.api.probe(
        str(out / "student"), probe="slices", data=str(out.parent / "text.jsonl"), length=32, device="cpu"
    )
    assert str(out) in alone["counted_in"]


@pytest.mark.long
def test_the_student_reads_on_where_matching_ended_so_all_arms_read_the_same_text(here, done, monkeypatch):
    """Rows by the run that takes them, of seeds 0 and 1: those of matching and of the student are those of attention."""
    taken, take = {}, Rows.take
    step = Run._step

    def noted(self, *args):
        taken.setdefault(self.label, [])
        self.corpus.reader = self.label
        return step(self, *args)

    def noting(self, rows):
        batch = take(self, rows)
        if reader := getattr(self, "reader", ""):
            taken[reader] += batch.row.tolist()
        return batch

    monkeypatch.setattr(Run, "_step", noted)
    monkeypatch.setattr(Rows, "take", noting)
    monkeypatch.setattr(Run, "measure", lambda self, seconds: 0.0)
    limbeck.distil(**settings(here, "same-text", seeds=2, tokens="2k"))
    matched = taken["match mixers"] + taken["match blocks"]
    assert len(set(matched)) == len(matched)
    for seed in (0, 1):
        assert matched + taken[f"student #{seed}"] == taken[f"attention #{seed}"]
    assert taken["student #0"] != taken["student #1"]


def made(here: Path, out: str, steps: int = 30, **more) -> Path:
    """The folder of a converted student, before it is distilled."""
    asked = DistilRequest.of(DistilSettings(**settings(here, out, **more)))
    teacher, environment = load(here / "teacher"), Environment(alone(), bf16=False)
    plan = replace(DistilPlan.of(asked, environment), budget=Budget(length=32, rows=4, steps=steps))
    store, _ = build_stores(asked.settings.data, teacher, here / "data")
    return make_converted(plan, teacher, store, environment=environment)


@pytest.mark.long
@pytest.mark.parametrize("stage", ["mixers", "blocks"])
def test_a_run_stopped_in_a_stage_goes_on_and_ends_with_the_same_bits(here, stage, monkeypatch):
    step, count = Match.__call__, []

    def stopping(self, *args, **more):
        if self.stage == stage:
            count.append(1)
            if len(count) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **more)

    whole = made(here, f"whole-{stage}", keep_attention=1)
    with monkeypatch.context() as patch:
        patch.setattr(Match, "__call__", stopping)
        with pytest.raises(Interrupted, match="after step 2 of 3"):
            made(here, f"stopped-{stage}", keep_attention=1)
    assert not (here / f"stopped-{stage}" / "cut").exists()
    again = made(here, f"stopped-{stage}", keep_attention=1)
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_damage_is_measured_as_the_mixers_are_used(here, monkeypatch):
    modes, measure = [], convert_job.measure_slices

    def looked_at(model, *args, **more):
        modes.append({part.training for part in model.model.modules()})
        return measure(model, *args, **more)

    monkeypatch.setattr(convert_job, "measure_slices", looked_at)
    folder = made(here, "topk", mixers="topk:2", keep_attention=1, match="none")
    assert modes == [{False}] * 4
    harm = json.loads((folder.parent / "conversion.json").read_text())["damage"]
    assert all(row["damage"] != 0 for row in harm[1:])


@pytest.mark.long
def test_a_cut_is_converted_by_place_without_matching(here):
    folder = made(here, "cut-first", shape="layers=2,hidden=24", mixers="gdn,attention", match="none")
    student, base = load(folder), load(folder.parent / "base")
    assert student.config.mixers == ["gdn", "attention"]
    assert student.config.hidden_size == 24
    assert student.lineage["kept"] == base.lineage["kept"]
    said = json.loads((folder.parent / "conversion.json").read_text())
    assert said["tokens"] == {}
    assert said["damage"] is None
    everywhere = load(folder.parent / "attention")
    assert (everywhere(batch()).logits() - base(batch()).logits()).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"mixers": "attention,gdn"}, BadSetting, "2 mixers.*do not divide the student's 3"),
        ({"mixers": "attention"}, BadSetting, "nothing would be converted"),
        ({"mixers": "gnd"}, BadModel, "no mixer 'gnd', the nearest is 'gdn'"),
        ({"mixers": "conv"}, BadModel, "put into conv"),
        ({"mixers": "gdn*x"}, BadModel, "whole number"),
        ({"keep_attention": 3}, BadSetting, "has 3 layers, so nothing would be"),
        ({"mixers": "gdn,based,gdn", "keep_attention": 1}, BadSetting, "expected one mixer"),
        ({"student": "teacher"}, BadSetting, "--student and --mixers both define"),
        ({"mixers": None, "keep_attention": 1}, BadSetting, "--keep-attention needs a student with other mixers"),
        ({"mixers": None, "match": "blocks"}, BadSetting, "--match needs a student"),
        ({"mixers": None, "baselines": "attention"}, BadSetting, "--baselines attention needs a student"),
        ({"match": "block"}, BadSetting, "did you mean 'blocks'"),
        ({"tokens": "256", "match": "mixers,blocks"}, BadSetting, "leaves none to distil in"),
        ({"mixers": ""}, BadModel, "^--mixers '': "),
        ({"mixers": "gdn,"}, BadModel, "^--mixers 'gdn,': "),
        ({"tokenizer_align": "bytes"}, BadSetting, "converted by --mixers has the teacher's: leave one"),
        ({"params": "20k,16k", "mixers": "gdn,gdn,gdn,gdn,gdn"}, BadSetting, "^20k: .* do not divide the student's"),
        (
            {"params": "3300", "mixers": "gdn"},
            BadShape,
            r"budget of 3,300 .* converted, the smallest .* has 3,[3-9]\d\d;",
        ),
    ],
)
def test_an_impossible_conversion_is_an_error_before_anything_is_written(here, changes, error, said):
    with pytest.raises(error, match=said):
        limbeck.distil(**{k: v for k, v in settings(here, "refused", **changes).items() if v is not None})
    assert not (here / "refused").exists()


@pytest.mark.parametrize("keep", [None, 1])
@pytest.mark.parametrize("mixer", ["gdn", "retnet", "based:4", "linear"])
def test_a_budget_of_parameters_is_that_of_the_converted_student(here, mixer, keep):
    asked = DistilRequest.of(
        DistilSettings(**settings(here, "budget", mixers=mixer, keep_attention=keep, params="40k"))
    )
    target = target_shape(asked.settings, asked.teacher)
    student = Planned.of(asked, check_conversion(asked, target), target).student
    assert 0.8 * 40_000 < Size.of(student).parameters <= 40_000


@pytest.mark.long
def test_a_student_that_is_cut_and_converted_stays_within_its_budget(here):
    folder = made(here, "within", params="40k", mixers="gdn", match="none")
    assert load(folder).parameters_count <= 40_000


@pytest.mark.long
def test_the_doctor_looks_at_what_will_be_made_and_at_matching(here, monkeypatch):
    with_mixers = settings(here, "looked-at", mixers="gdn", shrink=1.1)
    peaks, sizes, largest = [], [], {"matching": 2**60}
    monkeypatch.setattr(
        "limbeck.planning.checks.resources.memory",
        lambda asked, peak, device: peaks.append(peak(MemoryUse(), asked.length)) or [],
    )
    monkeypatch.setattr(
        "limbeck.planning.checks.pair.matching_bytes", lambda *three, **_: sizes.append(three) or largest
    )
    for changes in ({}, {"match": "none"}, {"mixers": None, "baselines": "none"}):
        doctor(**{k: v for k, v in (with_mixers | changes).items() if v is not None})
    ((student, reference, teacher),) = sizes
    assert peaks[0] == largest
    assert peaks[1]["student's weights"] == 4 * student.parameters != peaks[2]["student's weights"]
    assert reference.parameters < student.parameters < teacher.parameters
    assert teacher.parameters == load(here / "teacher").parameters_count


def test_a_run_whose_matching_does_not_fit_is_stopped_before_it(here, monkeypatch):
    full = Finding("memory", "error", "too much", "take less")
    monkeypatch.setattr("limbeck.planning.checks.resources.memory", lambda asked, peak, device: [full])
    with pytest.raises(Mismatch, match="too much"):
        limbeck.distil(**settings(here, "does-not-fit"))
    assert not (here / "does-not-fit" / "attention").exists()


@pytest.mark.long
def test_weights_that_only_the_conversion_needs_are_gone_when_training_begins(here, monkeypatch):
    held = []

    def loaded(self, *_, **__):
        model = load(here / "teacher")
        held.append(weakref.ref(model.model))
        return model

    class Enough(Exception):
        pass

    def foretell(*_):
        gc.collect()
        assert held[0]() is None
        raise Enough

    monkeypatch.setattr(RunTeacher, "to_cut", loaded)
    monkeypatch.setattr("limbeck.jobs.distil.job.estimate_time", foretell)
    with pytest.raises(Enough):
        limbeck.distil(**settings(here, "freed", mixers="swa:99", match="none"))


def test_a_window_larger_than_a_row_is_noted(here):
    asked = DistilRequest.of(DistilSettings(**settings(here, "note", mixers="swa:99999")))
    planned = Planned.of(asked, check_conversion(asked, None), None)
    assert planned.remarks(32) == [
        "swa:99999 has a window larger than the 32 tokens of a row, so it equals full attention"
    ]


@pytest.mark.long
def test_an_arm_with_other_layers_is_timed_by_itself(done):
    out, _ = done
    told = json.loads((out / "run.json").read_text())["estimate"]["step_seconds"]
    assert list(told) == ["ForwardKL", "ForwardKL (attention everywhere)"]


def test_one_document_is_reported_without_an_interval(here):
    proof = RecallEvaluation(here, None, None)
    for name, level in (("student", 2.0), ("attention", 1.5)):
        sums = np.array([[10.0, 0, 0, 0, 0, 20.0]])
        sums = np.resize(sums, (1, len(BINS) + 1))
        proof._slices[name] = {0: Slices(sums, sums * level)}
    assert "nan" not in proof.sentence()
    assert proof.sentence().endswith("; of so few documents (1) no interval is given")
    assert "has 0.500 nats more in all and 0.500 nats more on recall hits" in proof.sentence()


@pytest.mark.long
def test_what_is_kept_of_a_text_is_counted_and_reported(done):
    out, _ = done
    run = json.loads((out / "run.json").read_text())
    state = run["state"]
    assert state["kept"][0]["tokens"] == run["plan"]["length"]
    assert state["kept"][-1]["tokens"] == state["context"]
    student, teacher = (Size.of(load_config(folder)) for folder in (out / "student", out.parent / "teacher"))
    assert state == kept_bytes(student, teacher, length=32, context=state["context"], itemsize=4)
    since = state["fewer_from"]
    for row in state["kept"]:
        assert row["teacher"] == 2 * teacher.layers * teacher.kv * row["tokens"] * 4
        assert (row["student"] < row["teacher"]) == (since is not None and row["tokens"] >= since)
    if since:
        assert student.state_bytes(since, 4) < teacher.state_bytes(since, 4)
        assert student.state_bytes(since - 1, 4) >= teacher.state_bytes(since - 1, 4)
    verdict = json.loads((out / "verdict.json").read_text())
    assert any("of the teacher's, and keeps" in note for note in verdict["notes"])
    assert "kept of a text of 32 tokens" in (out / "report.html").read_text()


def test_what_has_as_much_attention_never_keeps_fewer_bytes(here):
    teacher = Size.of(load_config(here / "teacher"))
    found = kept_bytes(teacher, teacher, length=32, context=128, itemsize=2)
    assert found["fewer_from"] is None
    assert state_sentence(run_with(found)).endswith(
        "never fewer bytes within the teacher's context of 128 tokens, with numbers of 2 bytes."
    )


def run_with(state: dict) -> dict:
    return {"student": {"parameters": 100}, "teacher": {"parameters": 200}, "state": state}


def test_a_pattern_is_repeated_over_the_layers():
    asked = Conversion.of(DistilSettings(mixers="attention,gdn*2", match="mixers"), 6)
    assert asked.mixers == ("attention", "gdn", "gdn") * 2
    assert asked.steps(100) == {"mixers": 10}
