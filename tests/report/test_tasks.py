"""Standard tasks in report and card: which readings stand where."""

import numpy as np
import pytest

from limbeck.probes.standard.compare import differences, levels
from limbeck.probes.standard.scores import TaskScores
from limbeck.report.figures import task_points
from limbeck.report.start import CUT
from limbeck.report.tasks import card_rows, headline_scores, task_table
from limbeck.types import Reading


def scores(right: int, *, task: str = "piqa", group: str = "") -> TaskScores:
    acc = np.array([1.0] * right + [0.0] * (100 - right))
    items = tuple((str(i), "d", "p") for i in range(100))
    return TaskScores(task, "none", group, items, np.full(100, 0.5), {"acc": acc, "margin": 2 * acc - 1})


def readings() -> list[Reading]:
    teacher, student = [scores(80)], [scores(65)]
    found = levels("teacher", teacher, seed=0) + levels("student", student, seed=0)
    found += differences("student", student, "teacher", teacher, seed=0)
    return found + levels("student", [scores(10, task="part", group="whole")], seed=0)


def test_scores_stand_by_task_and_model_without_parts_of_groups():
    table = task_table(readings())
    assert table is not None
    assert list(table.models) == ["teacher", "student"]
    assert [row[:4] for row in table.scores] == [("piqa", "accuracy", 100, "0.500"), ("piqa", "margin, nats", 100, "")]
    assert [cell[:5] for cell in table.scores[0][4]] == ["0.800", "0.650"]
    assert task_table([]) is None


def test_comparisons_name_difference_retention_and_flips():
    table = task_table(readings())
    assert table is not None
    accuracy, margin = table.compared
    assert accuracy[:2] == ("piqa: accuracy", "teacher")
    assert accuracy[2].startswith("-0.150")
    assert accuracy[3].startswith("0.500")
    assert accuracy[4] == "+0 −15, p = 6.1e-05"
    assert margin[:2] == ("piqa: margin, nats", "teacher")
    assert margin[3:] == ("", "")


@pytest.mark.usefixtures("drawn")
def test_the_card_has_a_table_and_the_picture_each_task():
    lines = card_rows(readings(), ("teacher", "cut", "student"), CUT)
    assert lines[0] == "| task | score | chance | teacher | student |"
    assert lines[2].startswith("| piqa | accuracy | 0.500 | 0.800")
    assert card_rows([], ("teacher",), CUT) == []
    several = [*readings(), *levels("teacher-of-code", [scores(75)], seed=0)]
    assert card_rows(several, ("teacher", "student"), CUT)[0] == (
        "| task | score | chance | teacher of code | teacher | student |"
    )
    ((task, by_model, chance),) = headline_scores(readings())
    assert (task, chance, by_model["student"].value) == ("piqa", 0.5, 0.65)
    drawn = task_points(headline_scores(readings()))
    assert drawn is not None
    assert ">piqa<" in drawn
    assert task_points([]) is None
