"""How often the teacher's logits must be used to beat cross-entropy on the same FLOPs, and who is charged for them."""

import json
import math
from importlib import import_module

import numpy as np
import pytest

import limbeck
from limbeck.config import DistilSettings
from limbeck.corpora import TokenStore
from limbeck.jobs.distil.uses import text_tokens
from limbeck.models.load import load
from limbeck.planning.checks.price import WORTH, Price, chances
from limbeck.probes.calibration import BINS
from limbeck.probes.interval import difference_interval
from limbeck.probes.measurements import Measurements
from limbeck.report.break_even import break_even
from limbeck.run.run import Run
from limbeck.teachers.ref import teacher_ref
from tests.helpers.models import write_corpus, write_teacher

distil_job, family_job, doctor_job = (
    import_module(f"limbeck.jobs.{name}") for name in ("distil.job", "distil.sweep", "doctor.job")
)

DOCUMENTS = 200


def measured(*levels: float, noise: float = 0.01) -> list[Measurements]:
    """Models of so many nats per token on the same documents, one a seed; of those of a seed documents differ alike."""
    runs = []
    for seed, level in enumerate(levels):
        tokens = np.random.default_rng(0).integers(50, 400, DOCUMENTS).astype(float)
        own = np.random.default_rng([seed, round(level * 1e6)]).normal(0, noise, DOCUMENTS)
        own -= (own * tokens).sum() / tokens.sum()
        runs.append(Measurements(tokens, tokens * (level + own), np.zeros((DOCUMENTS, BINS, 3))))
    return runs


def test_the_break_even_is_where_the_line_meets_the_students_loss():
    """2.15 at equal tokens, 2.05 at 1.8 times as many: the line is at 2.09 after 1.8^0.6 = 1.423 times as many."""
    found = break_even(measured(*[2.09] * 3), measured(*[2.15] * 3), measured(*[2.05] * 3), Price(0.8))
    assert found.value == pytest.approx(0.8 / (1.8**0.6 - 1), rel=1e-9)
    assert 1 < found.low < found.value < found.high < 2.5
    assert found.text.startswith("break-even: the teacher's logits must be used 1.9 times (1.")
    assert found.text.endswith("to beat cross-entropy on the same FLOPs; here they are used once")


def test_its_interval_is_every_number_of_uses_at_which_the_difference_may_be_zero():
    student, alone, longer = (measured(*levels) for levels in ([2.08, 2.09, 2.1], [2.15] * 3, [2.05] * 3))
    found = break_even(student, alone, longer, Price(0.8))
    for uses, bound in ((found.low, "high"), (found.high, "low")):
        place = math.log(1 + 0.8 / uses) / math.log(1.8)
        nats = np.stack([(1 - place) * a.nats + place * b.nats for a, b in zip(alone, longer, strict=True)])
        gain = difference_interval(nats, np.stack([run.nats for run in student]), student[0].tokens)
        assert getattr(gain, bound) == pytest.approx(0, abs=1e-5)


def test_logits_that_were_used_often_enough_say_at_most_how_often():
    """Ten uses: the line is drawn from 1.08 to 1.8 times the tokens, and cross-entropy never gets there."""
    price = Price(0.8, uses=10)
    won = break_even(measured(*[2.0] * 3), measured(*[2.2] * 3), measured(*[2.2] * 3), price)
    assert (won.value, won.high) == (1, 1)
    assert (
        won.text
        == "break-even: one use of the teacher's logits is enough to beat cross-entropy on the same FLOPs by the 95 % "
        "interval; here they are used 10.0 times"
    )
    some = break_even(measured(*[2.16] * 3), measured(*[2.2] * 3), measured(*[2.19] * 3), price)
    assert some.value == pytest.approx(0.8 / (1.08**4 - 1), rel=1e-9)
    assert some.value < some.high < 10
    assert f"must be used at most {some.high:.1f} times to beat" in some.text


def test_no_number_of_uses_is_enough_where_cross_entropy_is_better_at_equal_tokens():
    lost = break_even(measured(*[2.2] * 3), measured(*[2.15] * 3), measured(*[2.05] * 3), Price(0.8))
    assert (lost.value, lost.low, lost.high) == (math.inf, math.inf, math.inf)
    assert lost.text == (
        "break-even: no number of uses of the teacher's logits is enough to beat cross-entropy on the same FLOPs: at equal "
        "tokens already the whole 95 % interval is for cross-entropy; here they are used once"
    )
    assert lost.row() == {"value": None, "low": None, "high": None, "used": 1.0, "seeds": 3}


def test_what_is_not_known_is_called_inconclusive():
    one = break_even(measured(2.09), measured(2.15), measured(2.05), Price(0.8))
    assert one.text.endswith("on the same FLOPs (one training each, not decided); here they are used once")
    never = break_even(measured(2.2), measured(2.15), measured(2.05), Price(0.8, uses=2))
    assert never.text == (
        "break-even: no number of uses of the teacher's logits is enough to beat cross-entropy on the same FLOPs (one training "
        "each, not decided); here they are used 2.0 times"
    )
    torn = break_even(measured(2.0, 2.1, 2.17), measured(*[2.15] * 3), measured(*[2.05] * 3), Price(0.8))
    assert math.isinf(torn.high)
    assert torn.text.endswith(": inconclusive; here they are used once")


def test_a_price_is_that_of_its_uses():
    assert Price(0.75, uses=3).ratio == 1.25
    assert Price(0.75).uses_at(1.5) == 1.5
    assert math.isinf(Price(0.75).uses_at(1.0))


LENGTH, ROWS = 16, 8


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a teacher, a text, and the teacher's logits of its first 100 rows."""
    folder = tmp_path_factory.mktemp("pays")
    write_teacher(folder)
    write_corpus(folder)
    text = {"teacher": str(folder / "teacher"), "data": str(folder / "text.jsonl"), "length": LENGTH, "threads": 1}
    limbeck.capture(**text, kind="drawn", tokens=100 * LENGTH, out=folder / "logits")
    return folder


class Planned(Exception):
    """Raised where the first training would begin."""


@pytest.fixture
def planned(here, monkeypatch):
    """Prepares a run without training, and gives the steps of each arm by its name."""

    def stop(*_, **__):
        raise Planned

    for job in (distil_job, family_job):
        monkeypatch.setattr(job, "train", stop)
    monkeypatch.setattr(family_job, "train_members", stop)
    monkeypatch.setattr(Run, "measure", lambda self, seconds: 0.01)

    def steps(out: str, **keys) -> list[dict[str, int]]:
        usual = {"teacher": str(here / "teacher"), "data": str(here / "text.jsonl"), "length": LENGTH, "threads": 1}
        usual |= {"tokens": 50 * ROWS * LENGTH, "batch_tokens": ROWS * LENGTH, "baselines": ("cut+ce", "cut+ce@flops")}
        with pytest.raises(Planned):
            limbeck.distil(**(usual | {"out": here / out} | keys))
        runs = [json.loads(file.read_text()) for file in sorted((here / out).glob("**/run.json"))]
        return [{arm["name"]: arm["steps"] for arm in run["plan"]["arms"]} for run in runs if "plan" in run]

    return steps


def forward(folder) -> float:
    """FLOPs of a token's forward pass: two for each weight that it is multiplied with, and attention's products."""
    config = load(folder).config
    hidden, head = config.hidden_size, config.head_dim * config.num_attention_heads
    keys = config.head_dim * config.num_key_value_heads
    layer = 2 * hidden * head + 2 * hidden * keys + 3 * hidden * config.intermediate_size
    seen = (LENGTH + 1) / 2  # tokens that one of a row sees, on average
    return 2 * (config.num_hidden_layers * (layer + 2 * head * seen) + hidden * config.vocab_size)


@pytest.mark.long
def test_a_live_pass_is_charged_for_each_step(here, planned):
    (found,) = planned("live", params="30k")
    ratio = 1 + forward(here / "teacher") / (3 * forward(here / "live" / "cut"))
    assert found == {"student": 50, "cut+ce": 50, "cut+ce@flops": round(50 * ratio)}


@pytest.mark.long
def test_kept_logits_are_charged_once_whatever_the_epochs(here, planned):
    """100 rows are read four times in 50 steps of eight: a quarter of a pass for each token."""
    kept = {"teacher": str(here / "logits"), "params": "30k"}
    (found,) = planned("kept", **kept)
    price = forward(here / "teacher") / (3 * forward(here / "kept" / "cut"))
    assert found == {"student": 50, "cut+ce": 50, "cut+ce@flops": round(50 * (1 + price / 4))}
    (found,) = planned("longer", **kept | {"tokens": 200 * ROWS * LENGTH})
    assert found["cut+ce@flops"] == round(200 * (1 + price / 16))
    (found,) = planned("less-than-once", **kept | {"tokens": 10 * ROWS * LENGTH})
    assert found["cut+ce@flops"] == round(10 * (1 + price))
    (found,) = planned("seeds", **kept | {"seeds": 3})  # repetitions of one measurement, each as if it were alone
    assert found["cut+ce@flops"] == round(50 * (1 + price / 4))


@pytest.mark.long
def test_the_students_of_a_family_pay_equal_parts_of_one_pass(here, planned):
    """Cross-entropy at equal compute spends on all of them what the family spent, the teacher's one pass among it."""
    small, large = planned("family", params="25k,40k")
    theirs = forward(here / "teacher")
    ours = [forward(here / "family" / name / "cut") for name in ("25k", "40k")]
    assert [found["cut+ce@flops"] for found in (small, large)] == [
        round(50 * (1 + theirs / 2 / (3 * one))) for one in ours
    ]
    spent = sum(3 * one * found["cut+ce@flops"] for one, found in zip(ours, (small, large), strict=True))
    assert spent == pytest.approx(50 * (sum(3 * one for one in ours) + theirs), rel=0.01)
    kept = planned("family-of-logits", params="25k,40k", teacher=str(here / "logits"))
    assert [found["cut+ce@flops"] for found in kept] == [round(50 * (1 + theirs / 8 / (3 * one))) for one in ours]


@pytest.mark.long
def test_a_student_that_needs_no_teacher_pays_none(here, planned):
    """Of three objectives two share the pass; what is trained with cross-entropy is no part of it."""
    objectives = ["CrossEntropy", "ForwardKL", "ReverseKL"]
    alone, forward_kl, reverse_kl = planned("objectives", params="30k", objective=objectives)
    price = forward(here / "teacher") / (3 * forward(here / "objectives" / "ForwardKL" / "cut"))
    assert alone == {"student": 50}
    assert forward_kl["cut+ce@flops"] == reverse_kl["cut+ce@flops"] == round(50 * (1 + price / 2))


def finding(price: Price, tokens: int = 1_000_000):
    (found,) = chances(price, tokens=tokens)
    return found


def test_whether_a_run_can_win_is_reported_before_it():
    """0.83 steps a pass, 1.83 times the tokens: more than distilling is worth; used twice, 1.415 times."""
    lost = finding(Price(0.83))
    assert lost.level == "warning"
    assert "cross-entropy alone could train on 1.83 times as many tokens" in lost.message
    assert "costs 0.83 training steps of the student, and is used once" in lost.message
    assert "use each pass 1.85 times or more" in lost.remedy  # 0.83 / 0.45
    assert "train on 540,000 tokens of text that often" in lost.remedy
    (kept,) = chances(Price(0.83), tokens=1_000_000, kept=True)
    assert "use each pass 1.85 times or more: train on them longer (--tokens), on 540,000 tokens of text" in kept.remedy
    assert "capture" not in kept.remedy
    won = finding(Price(0.83, uses=2))
    assert (won.level, won.remedy) == ("ok", "")
    assert "is used 2.0 times; distillation can be worth that" in won.message
    assert finding(Price(0.83, uses=0.83 / (WORTH - 1))).level == "ok"
    assert finding(Price(0.83, uses=0.82 / (WORTH - 1))).level == "warning"


@pytest.mark.parametrize(
    ("keys", "uses"),
    [
        ({}, 1.0),
        ({"objective": "CrossEntropy"}, None),
        ({"teacher": "logits"}, 4.0),  # 100 rows of 16
        ({"text_tokens": 800, "cache_logits": True}, 8.0),
        ({"text_tokens": 800}, 1.0),  # so little is not kept by itself
    ],
)
def test_the_doctor_reports_the_uses_of_a_pass(here, monkeypatch, keys, uses):
    said = []
    monkeypatch.setattr(doctor_job, "diagnose", lambda *_, uses, **__: said.append(uses) or [])
    text = {} if "teacher" in keys else {"data": str(here / "text.jsonl"), "length": LENGTH}
    teacher = str(here / keys.get("teacher", "teacher"))
    doctor_job.doctor(DistilSettings(**text | keys | {"teacher": teacher, "tokens": 6400, "params": "30k"}))
    assert said == [uses]


@pytest.mark.long
def test_a_finding_about_compute_is_among_the_doctors(here):
    """A pass of the teacher costs a small student more than its own step, one of the teacher's size a third of it."""

    def said(**keys) -> dict[str, str]:
        text = {"teacher": str(here / "teacher"), "data": str(here / "text.jsonl"), "length": LENGTH, "tokens": 6400}
        findings = doctor_job.doctor(DistilSettings(**text | keys))["findings"]
        return {finding["check"]: finding["level"] for finding in findings}

    assert said(shape="layers=1,hidden=24,heads=2,kv_heads=1,ffn=24")["equal compute"] == "warning"
    assert said(student=str(here / "teacher"))["equal compute"] == "ok"  # 1.33 times as many tokens
    assert "equal compute" not in said(shrink=2.0, objective="CrossEntropy")


def test_the_doctor_estimates_a_text_by_its_files(here):
    settings = DistilSettings(teacher=str(here / "teacher"), data=str(here / "text.jsonl"))
    found = text_tokens(
        settings, load(here / "teacher"), doctor_job.first_documents(settings, teacher_ref(settings.teacher))
    )
    store = TokenStore.open(here / "logits" / "data" / "train")
    assert found == pytest.approx(store.tokens / 0.95, rel=0.25)  # a part is held out, and JSON has bytes of its own
