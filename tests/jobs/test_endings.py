"""The last screens of commands that answer or measure: a headline, a small table, where it is, and the command that follows."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from limbeck import cli
from limbeck.config import PlanSettings, ProbeCommandSettings
from limbeck.jobs.doctor import job as doctor
from limbeck.jobs.pilot import job as pilot
from limbeck.jobs.plan.ending import ending as plan_ending
from limbeck.jobs.plan.ending import mixture_ending
from limbeck.jobs.plan.job import plan
from limbeck.jobs.predict import job as predict
from limbeck.jobs.probe.ending import ending as probe_ending
from limbeck.planning.checks.finding import Finding


def typed(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["limbeck", *words])


def test_a_plan_ends_with_each_planners_choice_and_the_doctor():
    settings = PlanSettings(params="600M", tokens="10B", candidates="1.5B,4B,8B")
    ending = plan_ending(plan(settings), settings)
    assert ending.headline == "student of 600,000,000 parameters: all planners choose 1.5B"
    assert ending.table == [
        ["planner", "choice", "gain, nats/token"],
        ["ratio rule, published", "1.5B", ""],
        ["distillation law, published", "1.5B", "+0.014"],
    ]
    assert ending.then == "limbeck doctor --teacher MODEL --params 600000000 --data my.jsonl"


def answer(planner, verdict, cheapest, gain):
    rows = [{"teacher": cheapest, "gain": gain}]
    return {"planner": planner, "verdict": verdict, "cheapest": cheapest, "rows": rows}


def test_planners_that_differ_are_both_named():
    settings = PlanSettings(params="600M", tokens="10B", candidates="4B,org/model")
    planners = [answer("rule", "distil", "org/model", 0.2), answer("law", "cross-entropy", None, 0.0)]
    planners.append(answer("pilot", "unknown", None, 0.0))
    result = {"student": {"parameters": 600, "shape": None}, "planners": planners}
    ending = plan_ending(result, settings)
    assert ending.headline == "student of 600 parameters: the planners differ, org/model or cross-entropy alone"
    assert [row[1:] for row in ending.table[1:]] == [
        ["org/model", "+0.200"],
        ["cross-entropy alone", ""],
        ["unknown", ""],
    ]
    assert ending.then == "limbeck doctor --teacher org/model --params 600 --data my.jsonl"
    result["planners"] = planners[1:2]
    assert plan_ending(result, settings).then == "limbeck pretrain --params 600 --data my.jsonl"


def test_a_mixture_that_was_planned_can_be_trained():
    settings = PlanSettings(mixers="attention*1,gdn*1", width=64, layers=2, vocab=512)
    total = {"parameters": 1000, "state_bytes": 2048, "flops": 12_345.0}
    result = {"total": total, "attention": total | {"state_bytes": 4096}, "length": 4096}
    ending = mixture_ending(result, settings)
    assert ending.headline == "1,000 parameters, 2,048 bytes of state after 4,096 tokens"
    assert ending.table[2] == ["attention in every layer", "1,000", "4,096", "1.23e+04"]
    assert ending.then == (
        "limbeck pretrain --mixers 'attention*1,gdn*1' --width 64 --layers 2 --vocab 512 --data my.jsonl"
    )


@pytest.mark.parametrize(
    ("level", "words", "headline", "then"),
    [
        (
            "warning",
            ["--params", "6M", "--json"],
            "no error, 1 warning: limbeck distil can begin",
            "limbeck distil --params 6M --out runs/first",
        ),
        ("warning", ["run.toml"], "no error, 1 warning: limbeck distil can begin", "limbeck distil run.toml"),
        (
            "error",
            ["--params", "6M"],
            "1 error: limbeck distil would stop before it begins; what to do is beside each",
            "limbeck doctor --params 6M",
        ),
    ],
)
def test_the_doctor_ends_with_what_can_begin(level, words, headline, then, monkeypatch):
    typed(monkeypatch, "doctor", *words)
    ending = doctor.ending([Finding("data", "ok", ""), Finding("steps", level, ""), Finding("data", "ok", "")])
    assert (ending.headline, ending.then) == (headline, then)
    assert ending.table[1:] == [[level, "1", "steps"], ["ok", "2", "data"]]


def reading(name, value, **more):
    return {"name": name, "value": value, "low": value - 0.1, "high": value + 0.1, "unit": "nats/token", "n": 40} | more


def test_a_probe_ends_with_held_out_loss_and_a_closer_look(monkeypatch):
    typed(monkeypatch, "probe", "out/student", "--data", "my text", "--out", "read")
    settings = ProbeCommandSettings(model="out/student", out="read")
    readings = {"cost": reading("parameters", 5.0, low=None), "held_out": reading("held_out", 2.0)}
    ending = probe_ending({"model": "out/student", "readings": readings}, settings)
    assert ending.headline == "out/student: held out 2.000 ± 0.100 nats/token (n = 40); 2 readings in all"
    assert ending.places == {"readings": Path("read/readings.jsonl")}
    assert ending.then == ("limbeck probe out/student --data 'my text' --out read-slices --probe likelihood,slices")


def test_passes_of_a_task_lead_to_a_prediction(monkeypatch):
    typed(monkeypatch, "probe", "m", "--probe", "pass-until", "--task", "copy")
    result = {
        "model": "m",
        "task": "copy",
        "parameters": 2000,
        "file": None,
        "readings": {"mean": reading("pass", 0.5)},
    }
    settings = ProbeCommandSettings(model="m", probe="pass-until", task="copy")
    assert probe_ending(result, settings).then == "limbeck probe m --probe pass-until --task copy --out points"
    settings = ProbeCommandSettings(model="m", probe="pass-until", task="copy", out="kept")
    ending = probe_ending(result | {"file": "kept/copy-2000-x.jsonl"}, settings)
    assert ending.places == {"readings": Path("kept/copy-2000-x.jsonl")}
    assert ending.then == "limbeck predict --points kept --task copy --params 20000"
    settings = ProbeCommandSettings(model="runs/a/student", probe="likelihood,slices")
    assert probe_ending(result, settings).then == "limbeck export runs/a/student --out student-exported"


def test_a_prediction_ends_with_where_it_is_kept_and_its_check():
    prediction = {"level": "dataset", "parameters": 6000, "value": 0.25, "low": 0.2, "high": 0.31}
    settings = SimpleNamespace(points=Path("kept"), task="copy")
    ending = predict.ending({"task": "copy", "predictions": [prediction]}, settings)
    assert ending.headline == "copy at 6,000 parameters: a share of 0.25 (0.2 to 0.31) passes, by the dataset law"
    assert ending.places == {"predictions": Path("kept/predictions.jsonl")}
    assert ending.then == "limbeck probe MODEL --probe pass-until --task copy --out kept"


def test_a_pilot_ends_with_its_teachers_and_a_plan(tmp_path):
    (tmp_path / "points.parquet").touch()
    teachers = [{"name": "t0", "parameters": 45_000, "loss": 2.5}, {"name": "t1", "parameters": 90_000, "loss": None}]
    valleys = {"cut": ["student 9: 5 points, ratios 1 to 4: best at 2.00 (1.50 to 2.50)", "student 8: flat"]}
    ending = pilot.ending(tmp_path, {"students": 12, "teachers": teachers, "valleys": valleys, "failed": ["t1"]})
    assert ending.headline == (
        "12 trainings of students of 2 teachers: of 2 curves of loss over the teacher's size 1 have their optimum within the "
        "ladder; 1 training failed"
    )
    assert ending.table[1:] == [["t0", "45.0 k", "2.5000"], ["t1", "90.0 k", "failed"]]
    assert ending.places == {"points": tmp_path / "points.parquet"}
    assert ending.then.endswith(f"--points {tmp_path}")


def test_without_a_command_the_five_things_one_does_are_shown_in_order_in_80_columns(monkeypatch, capsys):
    typed(monkeypatch)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    lines = capsys.readouterr().out.splitlines()
    assert stop.value.code == 0
    commands = [line.split()[1] for line in lines if line.startswith("  limbeck ")]
    assert commands == ["plan", "doctor", "distil", "probe", "capture", "distil"]  # the last is to try at once
    assert max(map(len, lines)) <= 80
