"""A pilot survives whatever kills it: nothing is done twice, nothing is lost, and the points are the same."""

import itertools
import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet
import pytest
import torch

import limbeck
from limbeck.corpora import Rows
from limbeck.disk import read_json, write_json
from limbeck.errors import BadFolder, BadSetting, Mismatch, NonFiniteLoss
from limbeck.jobs.common.task import RESULT, do
from limbeck.jobs.pilot import job
from limbeck.jobs.pilot.grid import GROWN, SCALES, Grid, Scale, grid, ladder, nested_shapes, weights
from limbeck.jobs.pilot.results import saved
from limbeck.jobs.pilot.tasks import PLAN, Pilot, task_of, tasks_left
from limbeck.jobs.pretrain.job import llama_config
from limbeck.models.build import build
from limbeck.models.load import load
from limbeck.planning.laws.points import read_points
from limbeck.run.log import console
from limbeck.run.run import Run
from limbeck.teachers import HiddenStates, NumberedRows, capture
from tests.helpers.models import frozen, llama, stores, tokenizer, write_corpus
from tests.helpers.on_ray import environment, kill_a_worker, ray_head

TINY = Scale(
    smallest=12_000,
    step=1.5,
    reach=3.0,
    vocab=259,
    length=32,
    batch_tokens=256,
    student_tokens=1_500,
    teacher_tokens=0.1,
    epochs=50.0,
    head=8,
)
MAIN = """
import sys
from pathlib import Path
from limbeck.config import PilotSettings
from limbeck.jobs.pilot import grid, job
from tests.jobs.test_pilot import TINY
grid.SCALES["smoke"] = TINY
ray = sys.argv[3] if len(sys.argv) > 3 else None
settings = dict(data=sys.argv[1], out=Path(sys.argv[2]), students="1", teachers="3", seeds=1, workers=2, ray=ray)
job.pilot(PilotSettings(scale="smoke", any_teacher=True, **settings))
"""


def start(data: Path, out: Path, *more: str) -> subprocess.Popen:
    script = out.with_name("main.py")
    script.write_text(MAIN)
    command = [sys.executable, str(script), str(data), str(out), *more]
    return subprocess.Popen(
        command, cwd=Path(__file__).parents[2], env=environment(), stderr=subprocess.PIPE, text=True
    )


def results(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.glob(f"*/*/{RESULT}")}


def wait_for(out: Path, count: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 240
    while len(results(out)) < count and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, process.stderr.read()


def workers(process: subprocess.Popen) -> list[psutil.Process]:
    """The processes that do the work, forked from the server that the parent keeps."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [p for p in children if p.ppid() != process.pid]


def points(out: Path) -> dict[tuple, float]:
    rows = pyarrow.parquet.read_table(out / "points.parquet").to_pylist()
    return {(row["teacher"], row["arm"], row["seed"]): row["student_loss"] for row in rows}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted pilot: its text and its points."""
    folder = tmp_path_factory.mktemp("pilot")
    data = write_corpus(folder, 400)
    with pytest.MonkeyPatch.context() as patch, console.capture() as said:
        patch.setitem(SCALES, "smoke", TINY)
        limbeck.pilot(
            data=str(data), out=folder / "whole", scale="smoke", students="1", teachers="3", seeds=1, workers=2
        )
    return data, points(folder / "whole"), said.get()


@pytest.mark.long
def test_a_pilot_measures_every_student_of_every_teacher_in_both_arms(whole):
    _, found, said = whole
    assert set(found) == {(None, "fresh", 0), *((f"t{i}", arm, 0) for i in range(3) for arm in ("cut", "fresh"))}
    assert all(np.isfinite(loss) for loss in found.values())
    assert "15 trainings of students; 21 pieces of work are left" in said


@pytest.mark.long
def test_a_pilot_whose_worker_and_then_parent_are_killed_does_nothing_twice_and_loses_nothing(whole, tmp_path):
    data, expected, _ = whole
    out = tmp_path / "killed"
    process = start(data, out)
    wait_for(out, 4, process)
    workers(process)[0].send_signal(signal.SIGKILL)
    wait_for(out, 9, process)
    staff = workers(process)
    assert len(staff) == 2
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(staff, timeout=10)
    assert not alive  # no worker goes on unseen
    before = results(out)
    assert 9 <= len(before) < 21
    again = start(data, out)
    _, said = again.communicate(timeout=400)
    assert again.returncode == 0, said
    assert f"{21 - len(before)} pieces of work are left" in said
    after = results(out)
    kept = {path for path in before if "answers" not in path.parts}  # answers are thrown away at the end
    assert {path: after[path] for path in kept} == {path: before[path] for path in kept}
    assert points(out) == expected


@pytest.mark.cluster
def test_a_pilot_on_ray_survives_the_death_of_a_worker(whole, tmp_path):
    pytest.importorskip("ray", reason="ray is an extra")
    data, expected, _ = whole
    out = tmp_path / "ray"
    with ray_head(port=63791) as address:
        process = start(data, out, address)
        kill_a_worker(lambda: len(results(out)) >= 5, process)
        _, said = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert points(out) == expected
    logged = [json.loads(path.read_text())["name"] for path in out.glob(f"*/*/{RESULT}")]
    assert len(logged) == len(set(logged)) == 18


def test_a_pilot_trains_in_the_arithmetic_with_which_it_began(tmp_path):
    new = Pilot(Grid((), ()), TINY, "ForwardKL")
    new.write(tmp_path)
    assert Pilot.read(tmp_path) == new
    assert new.tf32
    older = read_json(tmp_path / PLAN)
    del older["tf32"]
    write_json(tmp_path / PLAN, older)  # by a version whose pilots did not use TF32
    assert new.write(tmp_path) is False
    assert not Pilot.read(tmp_path).tf32
    (tmp_path / "cells").mkdir()
    for damage in (lambda file: file.write_text(file.read_text()[:40]), Path.unlink):
        damage(tmp_path / PLAN)
        with pytest.raises(BadFolder, match=r"pilot\.json: expected the plan .* put it back from a copy"):
            new.write(tmp_path)
        assert new.write(tmp_path, begun=False) is False  # what run.json says of it
        assert not Pilot.read(tmp_path).tf32


def test_shapes_of_a_ladder_nest_and_have_their_sizes():
    sizes = [30_000, 45_000, 60_000, 80_000, 130_000, 400_000]
    shapes = list(nested_shapes(sizes, vocab=259, head=8).values())
    for small, large in itertools.pairwise(shapes):
        assert all(getattr(small, axis) <= getattr(large, axis) for axis in ("layers", "hidden", "heads", "ffn"))
    tok = tokenizer()
    for size, shape in zip(sizes, shapes, strict=True):
        with torch.device("meta"):
            model = build(llama_config(shape, tok))
        assert weights(shape, len(tok)) == model.num_parameters()
        assert weights(shape, 259) == pytest.approx(size, rel=0.1)


@pytest.mark.parametrize(
    ("students", "teachers", "said"),
    [
        (
            "2",
            "2",
            "--teachers 2: a minimum between two ends needs 3 points at least, so no best teacher can be fitted",
        ),
        ("30k", "33k,60k,90k", "has 2 larger teachers (of "),
        ("30k,lots", "3", "--students 30k,lots: expected a count such as 250k, 6M or 1.3B, got 'lots'"),
        ("30k", "60k,61k,62k,300", "no shape of about 300 parameters"),
    ],
)
def test_a_grid_that_decides_nothing_is_refused(students, teachers, said):
    scale = SCALES["small"]

    def make():
        small, large = ladder(scale, students=students, teachers=teachers)
        return grid(scale, students=small, teachers=large, vocab=259, seeds=range(1), corpus_tokens=10**6)

    with pytest.raises(BadSetting) as error:
        make()
    assert said in str(error.value)


@pytest.mark.parametrize("name", SCALES)
def test_every_scale_has_a_grid_of_its_own(name):
    scale = SCALES[name]
    students, teachers = ladder(scale, students=None, teachers="6")
    made = grid(scale, students=students, teachers=teachers, vocab=scale.vocab, seeds=range(3), corpus_tokens=10**9)
    assert len({cell.shape for cell in made.cells}) == scale.students
    assert len(made.teachers) == 6


def test_grown_teachers_have_fewer_tokens_and_their_flops_are_added():
    students, teachers = ladder(TINY, students="1", teachers="3")
    sizes = {"students": students, "teachers": teachers, "vocab": 259, "seeds": range(1), "corpus_tokens": 10**6}
    scratch, grown = (grid(TINY, **sizes, grow=grow).teachers for grow in (False, True))
    assert [rung.start for rung in grown] == [None, "t0", "t1"]
    assert [rung.scratch_tokens for rung in grown] == [None, *(rung.tokens for rung in scratch[1:])]
    assert [rung.tokens for rung in grown] == [scratch[0].tokens, *(round(GROWN * r.tokens) for r in scratch[1:])]
    found = [
        {"name": "t0", "tokens": 10, "flops": 20.0, "loss": 3.0},
        {"name": "t1", "tokens": 6, "flops": 60.0, "loss": 2.0, "start": "t0", "scratch_tokens": 10},
    ]
    assert saved(found[:1]) is None
    growth = saved(found) or {}
    assert (growth["flops"], growth["scratch_flops"]) == (80.0, 20.0 + 60.0 * 10 / 6)
    assert growth["share"] == pytest.approx(80 / 120)


def test_growth_does_not_go_with_a_law(tmp_path):
    with pytest.raises(BadSetting, match="--grow does not go with --law"):
        limbeck.pilot(data="python:stdlib", grow=True, law=True, out=tmp_path / "law")
    assert not (tmp_path / "law").exists()


@pytest.mark.long
def test_a_pilot_grows_each_teacher_from_the_one_below(tmp_path, monkeypatch):
    monkeypatch.setitem(SCALES, "smoke", TINY)
    monkeypatch.setattr(job, "grid", lambda *a, **k: (made := grid(*a, **k)) and Grid(made.teachers, made.cells[:2]))
    monkeypatch.setattr(job, "run_here", lambda tasks, workers, report: [do(task) for task in tasks if not task.done])
    asked: Any = {"data": str(write_corpus(tmp_path, 100)), "scale": "smoke", "students": "1", "seeds": 1}
    asked |= {"out": tmp_path / "out", "teachers": "3", "any_teacher": True}
    growth = limbeck.pilot(grow=True, **asked)["growth"]
    assert [rung["start"] for rung in growth["rungs"]] == [None, "t0", "t1"]
    assert all(rung["flops"] < rung["scratch_flops"] for rung in growth["rungs"][1:])
    lineage = load(tmp_path / "out" / "teachers" / "t2" / "model").lineage["grown"]
    assert lineage["op"] == lineage["of"][0]["lineage"]["grown"]["op"] == "pad"  # from one that was grown itself
    with pytest.raises(BadFolder, match="grow: True there"):
        limbeck.pilot(**asked)


@pytest.mark.long
def test_a_folder_of_other_data_is_refused(whole, tmp_path):
    data, *_ = whole
    other = write_corpus(tmp_path, 50)
    with pytest.raises(BadFolder, match=r"holds another run's state \(data: "):
        limbeck.pilot(data=str(other), out=data.with_name("whole"), scale="smoke", students="1", teachers="3", seeds=1)


@pytest.mark.long
def test_a_folder_of_another_version_is_refused(whole, tmp_path):
    data, *_ = whole
    run = json.loads((data.with_name("whole") / "run.json").read_text())
    run["signature"]["limbeck"] = "0.0.9"
    for name in ("run.json", "pilot.json"):
        write_json(tmp_path / name, run)
    with pytest.raises(BadFolder, match=rf"limbeck: '0\.0\.9' there, '{re.escape(limbeck.__version__)}' now"):
        limbeck.pilot(data=str(data), out=tmp_path, scale="smoke", students="1", teachers="3", seeds=1)


def test_cached_hidden_states_give_the_teachers_logits(tmp_path):
    tok = tokenizer()
    teacher = frozen(llama(layers=2, seed=1, tok=tok, pad=4))
    train, _ = stores(tmp_path, tok)
    rows = Rows(train, length=32, most=50)
    kept = capture(teacher, NumberedRows(rows.rows_of, 32, 50, 7), tmp_path / "kept", made_from={"teacher": "a"})
    batch = rows.rows_of(np.array([3, 1, 44]))
    said, told = kept(batch), teacher(batch)
    torch.testing.assert_close(said.logits(), told.logits(), rtol=0, atol=5e-3)
    elsewhere = kept(replace(batch, tokens=batch.tokens.to("meta")))  # as on another device than that of the files
    assert elsewhere.hidden.device == elsewhere.head.weight.device == torch.device("meta")
    with pytest.raises(Mismatch, match="made from another teacher: 'a' there, 'b' now"):
        HiddenStates(tmp_path / "kept", expect={"teacher": "b"})


@pytest.mark.long
def test_a_capture_that_was_stopped_goes_on_where_it_stood(tmp_path):
    tok = tokenizer()
    teacher = frozen(llama(layers=2, seed=1, tok=tok))
    train, _ = stores(tmp_path, tok)
    rows = Rows(train, length=8)
    asked = []

    def some(numbers):
        asked.extend(numbers.tolist())
        if len(asked) > 150:
            raise KeyboardInterrupt
        return rows.rows_of(numbers)

    def captured(read, folder):
        return capture(teacher, NumberedRows(read, 8, rows.n_rows, 1), tmp_path / folder, made_from={})

    with pytest.raises(KeyboardInterrupt):
        captured(some, "kept")
    asked.clear()
    kept = captured(lambda numbers: (asked.extend(numbers.tolist()), rows.rows_of(numbers))[1], "kept")
    assert asked[0] == 128  # the last place that was noted
    fresh = captured(rows.rows_of, "fresh")
    batch = rows.rows_of(np.arange(rows.n_rows))
    assert torch.equal(kept(batch).hidden, fresh(batch).hidden)


def test_logits_that_no_student_needs_are_not_computed_again(tmp_path):
    answers = tmp_path / "answers" / "t0"
    cell = task_of(tmp_path, "cell", "s0", (answers,))
    tasks = [task_of(tmp_path, "answers", "t0"), cell]
    assert tasks_left(tasks) == tasks
    cell.folder.mkdir(parents=True)
    (cell.folder / RESULT).write_text("{}")
    assert tasks_left(tasks) == []


@pytest.mark.long
def test_a_student_whose_loss_is_no_number_is_listed_and_left_out(tmp_path, monkeypatch):
    monkeypatch.setitem(SCALES, "smoke", TINY)
    monkeypatch.setattr(job, "run_here", lambda tasks, workers, report: [do(task) for task in tasks if not task.done])

    def explode(self):
        if self.label.startswith("cell s0-t1-cut-seed0"):
            raise NonFiniteLoss("loss nan nats at step 3 of 6")
        return train(self)

    train = Run.train
    monkeypatch.setattr(Run, "train", explode)
    data = write_corpus(tmp_path, 400)
    result = limbeck.pilot(data=str(data), out=tmp_path / "out", scale="smoke", students="1", teachers="3", seeds=1)
    assert result["failed"] == ["s0-t1-cut-seed0"]
    table = read_points(tmp_path / "out")
    assert len(table.points) == 6
    assert "student_loss is missing" in table.skipped[0]
    assert (tmp_path / "out" / "ladder.png").stat().st_size > 10_000
    checks = json.loads((tmp_path / "out" / "fits.json").read_text())["rates"]
    assert len(checks) == 8
    assert all(check["gain_nats"] is not None for check in checks)
