"""Learning rates and schedules by size, and the groups of the optimiser."""

import json
import math

import pytest
import torch
from torch import nn
from transformers import LlamaConfig

from limbeck.config import DistilSettings, PretrainSettings
from limbeck.disk import claims
from limbeck.errors import BadFolder
from limbeck.jobs.common.environment import environment_of
from limbeck.jobs.common.folder import claim, kept_rate, update
from limbeck.jobs.common.rates import (
    early_stop_findings,
    fresh_rate_finding,
    optimiser_findings,
    rate_finding,
    schedule_of,
)
from limbeck.jobs.distil.plan import DistilPlan
from limbeck.jobs.distil.request import DistilRequest
from limbeck.jobs.doctor.job import _kept_rate, doctor
from limbeck.jobs.pretrain.job import pretrain
from limbeck.models.decoder import LimbeckConfig, LimbeckForCausalLM
from limbeck.models.formats import slow_parameters
from limbeck.papers.lab.loop import adamw_of
from limbeck.run.optim import (
    SLOWEST,
    TUNED,
    adamw,
    learning_rate,
    set_rates,
    suggested_learning_rate,
    suggested_schedule,
)
from limbeck.run.run import Run
from limbeck.run.save import checkpoints
from tests.helpers.models import write_corpus, write_teacher


def test_rates_of_fresh_models_fall_with_the_fourth_root():
    assert suggested_learning_rate(1_000_000) == 2e-3
    assert suggested_learning_rate(16_000_000) == pytest.approx(1e-3)
    assert suggested_learning_rate(1_000) == 4e-3
    assert suggested_learning_rate(1_700_000_000) == pytest.approx(3.115e-4, rel=1e-3)


def test_rates_of_what_is_made_of_a_model_end_at_published_ones():
    tuned = 2e-3 * 40**-0.25
    for size in (100_000, 1_000_000, 3_000_000, 20_000_000, 40_000_000):
        assert suggested_learning_rate(size, start="made") == suggested_learning_rate(size)
    for size in (10**9, 1_500_000_000, 10**12):
        assert suggested_learning_rate(size, start="made") == pytest.approx(1e-4)
    between = round(math.sqrt(4e7 * 1e9))  # half-way in logarithms
    assert suggested_learning_rate(between, start="made") == pytest.approx(math.sqrt(tuned * 1e-4), rel=1e-6)
    assert suggested_learning_rate(1_000_000, start="converted") == pytest.approx(2e-3 / 3)
    assert suggested_learning_rate(10**9, start="converted") == pytest.approx(1e-4)


def test_schedules_depend_on_size_unless_one_is_set():
    assert suggested_schedule(10**9) == "wsd"
    assert suggested_schedule(99_999_999, start="made") == "wsd"
    assert suggested_schedule(100_000_000, start="converted") == "cosine"
    large = LlamaConfig(vocab_size=32_000, hidden_size=2048, num_hidden_layers=2)
    small = LlamaConfig(
        vocab_size=100, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4
    )
    assert schedule_of(DistilSettings(), large) == "cosine"
    assert schedule_of(DistilSettings(), small) == "wsd"
    assert schedule_of(DistilSettings(schedule="wsd"), large) == "wsd"


def test_the_doctor_reports_the_source_of_a_rate():
    said = {n: rate_finding(DistilSettings(), n) for n in (20_000_000, 200_000_000, 1_500_000_000)}
    assert [finding.level for finding in said.values()] == ["ok", "warning", "warning"]
    assert said[1_500_000_000].message.startswith("0.0001 for 1.50 B parameters was never tried out here above 40.0 M")
    assert "lies between" in said[200_000_000].message
    converted = rate_finding(DistilSettings(mixers="gdn"), 20_000_000)
    assert "(to 3.00 M)" in converted.message
    assert rate_finding(DistilSettings(lr=0.5), 10**9).message == "0.5, as asked"


@pytest.mark.long
def test_the_doctor_names_the_rate_of_a_run_that_was_begun(tmp_path):
    write_teacher(tmp_path)
    about = {"teacher": str(tmp_path / "teacher"), "data": str(write_corpus(tmp_path)), "params": 9_000, "length": 32}
    settings = DistilSettings(**about, tokens=3_000, out=tmp_path / "run")
    with claims():
        request, environment = DistilRequest.of(settings), environment_of(settings)
        run = claim(settings.out, DistilPlan.of(request, environment).signature({}, environment))
    assert kept_rate(settings.out) is None
    update(settings.out, run, plan={"learning_rate": 7e-4})

    def kept(**other) -> float | None:
        return _kept_rate(DistilRequest.of(settings.model_copy(update=other)), {}, environment)

    (settings.out / "student").mkdir()  # something came of it
    (found,) = [one["message"] for one in doctor(settings)["findings"] if one["check"] == "learning rate"]
    assert found == f"0.0007, with which the run in {settings.out} began; a new run would take 0.004"
    assert kept(seeds=3, threads=1) == 7e-4  # more seeds continue it
    assert kept(seed=1) is kept(tokens=4_000) is None  # other runs, which distil would refuse there
    assert rate_finding(settings, 9_000, kept=4e-3) == rate_finding(settings, 9_000)  # today's


def test_defaults_beyond_what_was_measured_are_named():
    """Up to what was tried out nothing is said; above, what was not given and where it comes from."""
    usual = DistilSettings()
    assert [*fresh_rate_finding(usual, TUNED["fresh"]), *optimiser_findings(usual, TUNED["made"])] == []
    (rate,) = fresh_rate_finding(usual, 1_700_000_000)
    assert rate.level == "warning"
    assert rate.message.startswith(
        "0.00031 for 1.70 B parameters from random weights was never tried out here above 3.00 M"
    )
    assert fresh_rate_finding(DistilSettings(lr=1e-3), 10**9) == []
    (optimiser,) = optimiser_findings(usual, 10**9)
    assert optimiser.message.startswith(
        "warm-up 5 % of the steps and weight decay 0.01: tried out on students of up to 40.0 M"
    )
    assert optimiser.remedy == "as they do: --warmup 0.01 --weight-decay 0.1"
    (one,) = optimiser_findings(DistilSettings(warmup=0.05), 10**9)  # asked for, so only the other is named
    assert one.remedy == "as they do: --weight-decay 0.1"
    assert optimiser_findings(PretrainSettings(warmup=0.01, weight_decay=0.1), 10**9) == []


def test_an_early_stop_before_the_decay_is_named():
    patient = DistilSettings(eval_every=10, patience=2)
    (found,) = early_stop_findings(patient, "wsd")
    assert found.message == "--patience 2 may end a training before its wsd schedule has decayed, which lowers the loss"
    assert early_stop_findings(patient, "constant") == early_stop_findings(DistilSettings(), "wsd") == []


def _mixed() -> LimbeckForCausalLM:
    config = LimbeckConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, mixers=["s4d", "attention", "h3"], num_attention_heads=4
    )
    return LimbeckForCausalLM(config)


def test_state_spaces_have_a_group_of_their_own_everywhere():
    model = _mixed()
    declared = {n: p for n, p in model.named_parameters() if n.endswith(("log_step", "A_log", "A_imag"))}
    assert declared
    assert {id(p) for p in slow_parameters(model)} == {id(p) for p in declared.values()}
    optimizer = adamw(model, (), weight_decay=0.1)
    slow = optimizer.param_groups[-1]
    assert {id(p) for p in slow["params"]} == {id(p) for p in declared.values()}
    assert slow["weight_decay"] == 0.0
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    assert {id(p) for p in adamw_of(model, rate=0.01, weight_decay=0.1).param_groups[0]["params"]} == {
        id(p) for p in declared.values()
    }


@pytest.mark.parametrize(("peak", "expected"), [(0.01, SLOWEST), (1e-4, 1e-4)])
def test_their_rate_is_capped_and_follows_the_schedule(peak, expected):
    optimizer = adamw(_mixed(), (), weight_decay=0.1)
    for step in (0, 10, 50, 99):
        assert set_rates(optimizer, step, steps=100, peak=peak, schedule="wsd") == optimizer.param_groups[0]["lr"]
        assert optimizer.param_groups[0]["lr"] == learning_rate(step, steps=100, peak=peak, schedule="wsd")
        assert optimizer.param_groups[-1]["lr"] == learning_rate(step, steps=100, peak=expected, schedule="wsd")


def test_models_without_state_spaces_have_the_groups_they_had():
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    other = torch.zeros(1, requires_grad=True)
    groups = adamw(model, [other], weight_decay=0.1).param_groups
    assert [[id(p) for p in group["params"]] for group in groups] == [
        [id(model[0].weight)],
        [id(model[0].bias), id(model[1].weight), id(model[1].bias), id(other)],
    ]


def test_a_model_from_scratch_keeps_the_rate_that_it_began_with(tmp_path, monkeypatch):
    settings = PretrainSettings(
        data=str(write_corpus(tmp_path)),
        shape="layers=1,hidden=16,heads=2,kv_heads=1,ffn=16",
        vocab=300,
        length=16,
        tokens=128,
        batch_tokens=64,
        out=tmp_path / "run",
    )
    monkeypatch.setattr(Run, "train", lambda run: None)  # as if it were killed before its first step
    monkeypatch.setattr("limbeck.jobs.pretrain.job._finish", lambda *about: {"lr": about[1].plan.lr})
    assert pretrain(settings)["lr"] == 4e-3
    monkeypatch.setattr("limbeck.jobs.common.rates.suggested_learning_rate", lambda parameters, **start: 1e-5)
    assert pretrain(settings)["lr"] == 4e-3


@pytest.mark.long
def test_a_run_of_state_spaces_that_an_older_version_began_is_not_continued(tmp_path, monkeypatch):
    settings = PretrainSettings(
        data=str(write_corpus(tmp_path)),
        mixers="s4d",
        width=16,
        layers=1,
        vocab=300,
        length=16,
        tokens=256,
        batch_tokens=64,
        out=tmp_path / "run",
    )
    pretrain(settings)
    for file in (tmp_path / "run").glob("step-*/state.json"):
        state = json.loads(file.read_text())
        file.write_text(json.dumps({key: value for key, value in state.items() if key not in ("slowest", "digest")}))
    assert checkpoints(tmp_path / "run")
    with pytest.raises(
        BadFolder,
        match="this run began with an older limbeck that did not limit the learning rate of state-space parameters",
    ):
        pretrain(settings)
