"""What the figures of a report show: the teacher's level, held-out loss, reliability, sampled text."""

import json
import re

import numpy as np
import pytest

from limbeck.disk import read_lines, write_lines
from limbeck.errors import BadFolder
from limbeck.probes import Measurements
from limbeck.probes.measurements import BINS
from limbeck.report.family import _sample
from limbeck.report.levels import teacher_level
from limbeck.report.page import write_report
from limbeck.report.samples import in_whole_words
from tests.report.test_report import folder, made_up_run  # noqa: F401

pytestmark = pytest.mark.usefixtures("drawn")


@pytest.mark.parametrize(
    ("objective", "level"),
    [
        ("ForwardKL", 0.0),
        ("TAID(start=0.2)", 0.0),
        ("SkewKL", 0.0),
        ("CrossEntropy", 1.5),
        ("0.25*CrossEntropy + 0.75*JensenShannon", 0.375),
        ("my_loss:MyLoss", None),
        ("no such objective", None),
    ],
)
def test_a_student_equal_to_its_teacher_has_no_divergence_and_its_cross_entropy(objective, level):
    found = teacher_level(objective, 1.5)
    assert found is None if level is None else found == pytest.approx(level, abs=1e-6)


def figures(page):
    """The figures of a page by what they show."""
    return {found[1]: found[0] for found in re.finditer(r'<svg[^>]* aria-label="([^"]*)".*?</svg>', page, re.DOTALL)}


@pytest.mark.long
def test_losses_stand_beside_the_teachers_level(folder):  # noqa: F811
    found = figures(write_report(folder).read_text())
    assert set(found) == {
        "Training loss by tokens read",
        "Held-out loss before and after training",
        "Learning rate and gradient norm by tokens read",
    }
    optimiser = found.pop("Learning rate and gradient norm by tokens read")
    assert ">gradient norm, before clipping</text>" in optimiser
    assert "mathdefault" not in optimiser  # a power of ten as a number, since the page shows text as it is
    for figure in found.values():
        assert ">teacher</text>" in figure
        assert "var(--teacher)" in figure


@pytest.mark.long
def test_losses_of_a_run_whose_teacher_was_not_measured_have_no_level(folder):  # noqa: F811
    rows = (folder / "readings.jsonl").read_text().splitlines(keepends=True)
    (folder / "readings.jsonl").write_text("".join(row for row in rows if '"teacher"' not in row))
    page = write_report(folder).read_text()
    assert all(">teacher</text>" not in figure for figure in figures(page).values())
    assert "Dashed" not in page


@pytest.mark.long
def test_reliability_is_plotted_from_measurements_and_absent_without(folder):  # noqa: F811
    assert "Confidence and accuracy" not in write_report(folder).read_text()
    bins = np.zeros((6, BINS, 3))
    bins[:, 12] = 40, 33, 20
    tokens = bins[..., 0].sum(1)
    (folder / "measurements").mkdir()
    for name in ("teacher-seed0", "student-seed0", "student-seed1"):
        Measurements(tokens, tokens, bins).save(folder / "measurements" / f"{name}.safetensors")
    (folder / "measurements" / "slices-student-seed0.safetensors").write_bytes(b"of another probe")
    page = write_report(folder).read_text()
    figure = figures(page)["Reliability: accuracy by confidence"]
    assert {">teacher</text>", ">student</text>"} <= set(re.findall(r">[a-z]+</text>", figure))
    assert "overconfident" in page


@pytest.mark.long
def test_held_out_loss_during_training_is_drawn_and_its_cost_stated(folder):  # noqa: F811
    """Two measurements of 0.5 s each; the cost is beside the seconds that the steps of all trainings took."""
    steps = [row for path in folder.rglob("metrics.jsonl") for row in read_lines(path)]
    for number, path in enumerate(sorted(folder.rglob("metrics.jsonl"))):
        rows = read_lines(path)
        tokens = [row["tokens"] - before for row, before in zip(rows, [0, *(r["tokens"] for r in rows)], strict=False)]
        write_lines(path, [row | {"tokens_per_s": 10.0 * count} for row, count in zip(rows, tokens, strict=True)])
        assert number < 3
    watched = {"n": 4, "predictions": 1_020, "seconds": 0.5}
    rows = [
        {"step": at, "tokens": 1000 * at, "loss_nats": 3.0 - at, "low": 1.0, "high": 4.0} | watched for at in (0, 1)
    ]
    write_lines(folder / "held_out.jsonl", rows)
    page = write_report(folder).read_text()
    assert "Held-out loss before, during and after training" in figures(page)
    cost = 100 * 1.0 / (0.1 * len(steps))
    text = page.replace("&nbsp;", " ")
    assert f"1,020 predictions of 4 documents, which took {cost:.1f} % of the time of the trainings" in text
    (folder / "held_out.jsonl").write_text('{"step": 0}\n')
    with pytest.raises(BadFolder, match=r"held_out\.jsonl"):
        write_report(folder)


def test_continuations_begin_with_a_whole_word():
    row = {
        "document": "a:1",
        "prompt": "She wanted to ma",
        "student": "ke a box",
        "text": "rry him",
        "student_sampled": "",
    }
    assert in_whole_words([row]) == [
        {
            "document": "a:1",
            "prompt": "She wanted to",
            "student": "make a box",
            "text": "marry him",
            "student_sampled": "ma",
        }
    ]
    assert in_whole_words([{"prompt": "a", "model": "\n\nb" + "\n" * 60}]) == [{"prompt": "a", "model": "\n\nb ⏎×60 "}]
    for prompt, text in (("She wanted to", " make"), ("ma", "ke"), (f"so {'x' * 31}", "y"), ("a b ", "c")):
        assert in_whole_words([{"prompt": prompt, "student": text}]) == [{"prompt": prompt, "student": text}]


def test_a_sweep_shows_greedy_and_sampled_text_of_each_model():
    first = {"prompt": "to ma", "teacher": "ke", "teacher_sampled": "p", "student": "n", "student_sampled": "d"}
    second = {"prompt": "to ma", "teacher": "not shown", "student": "y"}
    assert _sample([first, second], ["a", "b"]) == {
        "prompt": "to",
        "of": [("teacher", "teacher", "make", "map"), ("a", "student", "man", "mad"), ("b", "student", "may", "")],
        "sampled": True,
    }


@pytest.mark.long
def test_sampled_text_stands_beside_greedy_text_where_there_is_some(folder):  # noqa: F811
    assert "sampled" not in write_report(folder).read_text()
    rows = json.loads((folder / "samples.json").read_text())
    (folder / "samples.json").write_text(
        json.dumps([row | {"student_sampled": "a lucky draw", "teacher_sampled": "<i>another</i>"} for row in rows])
    )
    page = write_report(folder).read_text()
    assert page.count("a lucky draw") == len(rows)
    assert "&lt;i&gt;another" in page
    assert "student, greedy" in page
    assert "sampled at temperature 1" in page
