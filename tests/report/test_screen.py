"""The last screen of a command, and what comes next."""

from pathlib import Path

import pytest

from limbeck.ending import Ending, show_ending
from limbeck.report.capture_card import capture_card, next_of_capture
from limbeck.report.screen import measured_rows, next_of_distil, with_flag
from limbeck.report.start import CUT
from limbeck.terminal import Terminal
from limbeck.types import Reading


def test_an_ending_shows_the_headline_the_table_the_report_and_the_next_command():
    console = Terminal(width=40, soft_wrap=True)
    with console.capture() as shown:
        table = [["model", "nats/token"], ["teacher", "1.500"], ["[red]student", "2.000"]]
        show_ending(
            Ending("It helped.", table, {"report": Path("out/report.html")}, "limbeck probe out/student"), console
        )
    assert [line.rstrip() for line in shown.get().splitlines()] == [
        "",
        "It helped.",
        "model         nats/token",
        "teacher            1.500",
        "[red]student       2.000",
        "report  out/report.html",
        "next    limbeck probe out/student",
    ]


def test_columns_of_numbers_are_flush_right_and_others_left():
    console = Terminal(width=40, soft_wrap=True)
    with console.capture() as shown:
        show_ending(Ending("", [["planner", "choice", "gain"], ["law", "4B", "+0.1"], ["rule", "none", ""]]), console)
    assert [line.rstrip() for line in shown.get().splitlines()[2:]] == [
        "planner  choice  gain",
        "law      4B      +0.1",
        "rule     none",
    ]


def reading(model, name, value, seed):
    return Reading(model, "likelihood", name, value, "nats/token", 40, value - 0.1, value + 0.1, seed)


def test_models_are_listed_as_in_the_report_by_the_readings_over_all_seeds():
    rows = [reading("cut", "held_out", 3.0, 0), reading("student", "held_out", 2.0, 0)]
    rows += [reading("student", "held_out", 2.1, None), reading("student", "kl_teacher_student", 0.5, None)]
    assert measured_rows(rows, CUT)[1:] == [
        ["student", "2.100 ± 0.100", "0.500 ± 0.100"],
        ["pruned, untrained", "3.000 ± 0.100", ""],
    ]


@pytest.mark.parametrize(
    ("command", "seeds", "then"),
    [
        (["limbeck", "distil", "--data", "my text"], 1, "limbeck distil --data 'my text' --seeds 3"),
        (["limbeck", "distil", "--seeds", "2", "--out", "x"], 2, "limbeck distil --seeds 3 --out x"),
        (["limbeck", "distil", "--seeds=1"], 1, "limbeck distil --seeds 3"),
        (["limbeck", "distil"], 3, "limbeck probe out/student --probe likelihood,slices"),
        (["script.py"], 1, "limbeck probe out/student --probe likelihood,slices"),
    ],
)
def test_the_next_command_brings_the_seeds_that_a_decision_needs(command, seeds, then):
    assert next_of_distil({"command": command, "signature": {"seeds": seeds}}, Path("out/student")) == then


def test_a_flag_is_set_where_it_was_given():
    assert with_flag(["a", "--b", "1", "--c"], "--b", "2") == "a --b 2 --c"


def test_the_card_of_a_capture_names_teacher_bytes_and_quality():
    interval = {"value": 0.02, "low": 0.01, "high": 0.03}
    found = {"codec": "18 sampled", "bytes": 46, "positions": 8190, "exact_mass": interval}
    found |= {"damage": {"ForwardKL": {"bias": interval, "noise": {"value": None, "low": None, "high": None}}}}
    run = {"signature": {"data": "a <b>|c"}, "command": ["limbeck", "capture"]}
    then = next_of_capture(Path("runs/cap"), student="--params 6000000")
    card = capture_card(run, found, teacher="big", tokens=40_190, stored=1_900_000, then=then)
    assert "# Captured logits of big" in card
    assert "40.2 k tokens of `a &lt;b>\\|c`, in 1.90 MB" in card
    assert "18 sampled outcomes in 46 bytes" in card
    assert "| ForwardKL | 0.020 ± 0.010 | – |" in card
    assert "limbeck distil --teacher runs/cap --params 6000000 --out runs/cap-student" in card


def test_the_card_of_a_part_or_of_a_servers_answers_claims_no_quality():
    run = {"signature": {"data": "a"}}
    keys = {"teacher": "big", "tokens": 5, "stored": 9, "then": "limbeck"}
    assert "bias" not in capture_card(run, None, **keys)
    served = {"codec": "5", "bytes": 9, "damage": None, "left_out": "a server does not give whole distributions"}
    assert "Not measured: a server does not give whole distributions." in capture_card(run, served, **keys)
