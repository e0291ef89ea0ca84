"""`limbeck distil --rollouts`: what is refused and why, and what a run says of the rows that its student generated."""

import json
from dataclasses import replace

import pytest

import limbeck
from limbeck.config import DistilSettings
from limbeck.disk import read_lines
from limbeck.errors import BadSetting
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.distil.overlap import limits_of
from limbeck.jobs.distil.request import DistilRequest
from limbeck.jobs.distil.rollouts import check_rollouts, rollouts_of
from limbeck.run.world import alone
from tests.helpers.models import write_corpus, write_teacher


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("on-policy")
    write_teacher(folder)
    write_corpus(folder)
    return folder


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rollouts": None, "rollout_tokens": 9}, "--rollout-tokens needs --rollouts"),
        ({"rollouts": None, "baselines": "off-policy"}, "--baselines off-policy is a student that generates none"),
        ({"objective": "0.5*CrossEntropy + 0.5*ReverseKL"}, "CrossEntropy learns the tokens of a text"),
        ({"rollouts": None, "stop_when": "overlap:0.5"}, "--stop-when needs --rollouts"),
        ({"stop_when": "overlap:0.5"}, "--stop-when overlap:0.5: needs --eval-every"),
        ({"stop_when": "tokens:128", "eval_every": 9}, "no text has more than 128 tokens"),
        (
            {"stop_when": "ended:0.1", "eval_every": 9, "average": "last:0.2"},
            "with --stop-when a training may end early",
        ),
        (
            {"teacher": "http://127.0.0.1:9/v1", "tokenizer": "t", "stop_when": "ended:0.1", "eval_every": 9},
            "does not go with --stop-when: what the student generates is compared",
        ),
        ({"cache_logits": True}, "does not go with --cache-logits: a text that changes"),
        ({"qat": "int8"}, "does not go with --qat"),
        ({"rounds": 2}, "does not go with --rounds"),
        ({"tokenizer_align": "bytes"}, "does not go with --tokenizer-align"),
        (
            {"teacher": "http://127.0.0.1:9/v1", "tokenizer": "t", "vocab": "auto"},
            "does not go with --vocab: a server judges",
        ),
    ],
)
def test_what_does_not_go_with_rollouts_is_refused_with_its_reason(given, said, here):
    settings = {"teacher": str(here / "teacher"), "objective": "ReverseKL", "rollouts": "0.5"} | given
    with pytest.raises(BadSetting, match=said):
        check_rollouts(DistilRequest.of(DistilSettings(**settings)), Environment(alone(), bf16=False))


def test_a_server_judges_rows_of_one_process(here):
    given = {"teacher": "http://127.0.0.1:9/v1", "tokenizer": "t", "objective": "ReverseKL", "rollouts": "0.5"}
    two = replace(alone(), rank=0, size=2)
    with pytest.raises(
        BadSetting, match="one process captures the text's logits and trains: start this command without torchrun"
    ):
        check_rollouts(DistilRequest.of(DistilSettings(**given)), Environment(two, bf16=False))


@pytest.mark.parametrize("text", ["1.5", "-0.1", "half", "0:0.5:1", "nan", ""])
def test_a_share_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=r"expected a share of the rows from 0 to 1 such as 0\.5"):
        DistilSettings(teacher="t", rollouts=text)


@pytest.mark.parametrize(
    "text", ["overlap", "overlap:0", "overlap:1.2", "loss:2", "tokens:nan", "ended:a", "ended:0.1,ended:0.2", ""]
)
def test_limits_that_are_none_are_refused(text):
    with pytest.raises(
        ValueError, match="expected limits of overlap, entropy, ended and tokens, each once and above 0"
    ):
        DistilSettings(teacher="t", stop_when=text)


def test_limits_are_of_what_is_measured():
    settings = DistilSettings(teacher="t", stop_when=" tokens:20 , overlap:0.60")
    assert settings.stop_when == "overlap:0.6,tokens:20"
    measured = {"overlap": 0.6, "entropy_own_texts": 0.1, "texts_ended": 0.0, "tokens_own_texts": 20.0}
    assert [limit.passed_by(measured) for limit in limits_of(settings)] == ["", ""]
    every = limits_of(DistilSettings(teacher="t", stop_when="overlap:0.7,entropy:0.2,ended:0.1,tokens:19"))
    assert {limit.column for limit in every} == set(measured)
    assert all(limit.passed_by(measured) for limit in every)
    assert limits_of(DistilSettings(teacher="t")) == ()


def test_no_share_is_no_rollouts_and_a_share_is_over_all_rows():
    assert DistilSettings(teacher="t", rollouts=0).rollouts is None
    settings = DistilSettings(teacher="t", rollouts="0:0.50", rollout_tokens="64")
    assert settings.rollouts == "0:0.5"
    plan = rollouts_of(settings).over(20, 40)
    assert [plan.share.at(row) for row in (0, 20, 40, 60, 80)] == [0, 0, 0.25, 0.5, 0.5]
    assert (plan.max_new_tokens, plan.temperature, plan.steady.share.at(0)) == (64, 1.0, 0.25)
    assert settings.compared[-2:] == ("off-policy", "off-policy@flops")
    assert "off-policy" not in DistilSettings(teacher="t", rollouts=0.5, baselines="cut").compared


def test_a_run_counts_and_says_what_its_student_wrote(here):
    limbeck.distil(
        teacher=str(here / "teacher"),
        data=str(here / "text.jsonl"),
        shrink=2.0,
        tokens="2k",
        length=32,
        batch_tokens=128,
        objective="ReverseKL",
        rollouts=0.5,
        rollout_tokens=8,
        baselines="off-policy,off-policy@flops",
        out=here / "out",
        threads=1,
    )
    rows = read_lines(here / "out" / "metrics.jsonl")
    assert sum(row["rollouts"] for row in rows) > 10
    run = json.loads((here / "out" / "run.json").read_text(encoding="utf-8"))
    assert run["signature"]["rollouts"] == "0.5"
    assert run["teacher"]["generated"] == 0.5
    beside = read_lines(here / "out" / "baselines" / "off-policy-seed0" / "metrics.jsonl")
    longer = read_lines(here / "out" / "baselines" / "off-policy@flops-seed0" / "metrics.jsonl")
    assert len(beside) == len(rows) < len(longer)
    assert not any("rollouts" in row for row in (*beside, *longer))
    found = {(row["model"], row["name"]): row for row in read_lines(here / "out" / "readings.jsonl")}
    assert found["student", "overlap"]["value"] > found["cut", "overlap"]["value"]
    assert ("cut+ce", "overlap") not in found
    page = (here / "out" / "report.html").read_text(encoding="utf-8")
    assert "It generated " in page
    assert "on the text alone, equal compute" in page
    assert "On texts that each model generates itself" in page


@pytest.mark.long
def test_a_training_is_stopped_by_what_its_student_generates(here, capsys):
    """It ends at the first measurement below the limit, and the baseline, which generates nothing, goes on."""
    how = {
        "teacher": str(here / "teacher"),
        "data": str(here / "text.jsonl"),
        "shrink": 2.0,
        "tokens": "3k",
        "length": 32,
        "batch_tokens": 128,
        "objective": "ReverseKL",
        "rollouts": 0.5,
        "rollout_tokens": 8,
        "baselines": "off-policy,fresh+kd",
        "eval_every": 4,
        "lr": 1e-2,
        "threads": 1,
    }
    limbeck.distil(**how, out=here / "watched")
    rows = read_lines(here / "watched" / "held_out.jsonl")
    assert len(rows) > 4
    start = rows[0]["overlap"]
    fallen = next(row for row in rows if row["overlap"] < start)
    limit, step = f"{(start + fallen['overlap']) / 2:.4f}", fallen["step"]
    plain = read_lines(here / "watched" / "metrics.jsonl")
    beside = read_lines(here / "watched" / "baselines" / "off-policy-seed0" / "held_out.jsonl")
    assert [row["step"] for row in beside] == [row["step"] for row in rows]
    assert not any("overlap" in row for row in beside)
    page = (here / "watched" / "report.html").read_text(encoding="utf-8")
    assert "Measured on such texts before its first step and after its last" in page
    capsys.readouterr()
    limbeck.distil(**how, stop_when=f"overlap:{limit}", out=here / "stopped")
    words = " ".join("".join(capsys.readouterr()).split())
    assert f"ended at step {step}: a share of" in words
    stopped = read_lines(here / "stopped" / "metrics.jsonl")
    assert [row["loss_nats"] for row in stopped] == [
        row["loss_nats"] for row in plain[:step]
    ]  # measuring changes nothing
    page = (here / "stopped" / "report.html").read_text(encoding="utf-8")
    assert f"ended at step {step}: a share of" in page
    assert json.loads((here / "stopped" / "run.json").read_text())["plan"]["stop_when"] == f"overlap:{float(limit):g}"
    assert len(read_lines(here / "stopped" / "baselines" / "off-policy-seed0" / "metrics.jsonl")) == len(plain)


@pytest.mark.long
def test_the_doctor_says_how_near_a_student_is_to_its_teacher_on_its_own_texts(here):
    how = {
        "teacher": str(here / "teacher"),
        "data": str(here / "text.jsonl"),
        "length": 32,
        "rollouts": 0.5,
        "threads": 1,
    }
    found = limbeck.doctor(**how, student=str(here / "teacher"), objective="ReverseKL")
    (finding,) = (one for one in found.findings if one["check"] == "on-policy")
    assert finding["level"] == "ok"
    assert "100 % of its 16 most probable tokens are the teacher's too" in finding["message"]
    with pytest.raises(BadSetting, match="CrossEntropy learns the tokens"):
        limbeck.doctor(**how, objective="CrossEntropy + ReverseKL")
