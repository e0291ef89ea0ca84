"""Several students of one pass: each is the one it would have been alone, the teacher is asked once, nothing is lost."""

import json
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import limbeck
from limbeck.config import split_objectives
from limbeck.errors import BadFolder, BadSetting, Interrupted, LimbeckError
from limbeck.jobs.distil import sweep as family
from limbeck.jobs.distil.arms import Arm
from limbeck.jobs.distil.evaluation import Evaluation
from limbeck.jobs.distil.teacher import RunTeacher
from limbeck.models.language_model import LanguageModel
from limbeck.objectives.spec import ObjectiveSpec
from limbeck.report.family import write_family_report
from limbeck.run import lockstep as together
from limbeck.run.lockstep import CachedTeacher
from limbeck.run.run import Run
from tests.helpers.models import batch, frozen, llama, write_corpus, write_teacher

SIZES = "40k,25k"


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("family")
    write_teacher(folder)
    write_corpus(folder)
    return folder


def distil(here: Path, out: str, **keys):
    usual = {"teacher": str(here / "teacher"), "data": str(here / "text.jsonl"), "length": 32, "batch_tokens": 128}
    return limbeck.distil(**(usual | {"tokens": "2k", "threads": 1, "out": here / out, "params": SIZES} | keys))


@pytest.fixture(scope="module")
def done(here):
    """A family with baselines, and how often its teacher was asked about each row."""
    asked: list[bytes] = []
    call = LanguageModel.__call__

    def counted(self, batch):
        if self.name == "teacher":
            asked.append(batch.row.numpy().tobytes())
        return call(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LanguageModel, "__call__", counted)
        patch.setattr(Run, "measure", lambda self, seconds: 0.01)  # asks the teacher too
        result = distil(here, "whole", baselines=("cut", "cut+ce"))
    return here / "whole", result, asked


def alone(name: str, objective: str, *, price: float, seconds: float, rounds: int = 1) -> tuple[SimpleNamespace, Arm]:
    """A student of a live teacher by its size, and an arm of ten steps of which each takes so long alone."""
    arm = Arm("student", 0, Path("nowhere") / name, ObjectiveSpec.of(objective), 10)
    run = {"estimate": {"step_seconds": {objective: seconds}}, "teacher": {"price": price}}
    source = object.__new__(RunTeacher)
    object.__setattr__(source, "captured", None)
    settings = SimpleNamespace(params=name, shape=None, rounds=rounds, objective=objective)
    shared = SimpleNamespace(rollouts=None)
    return SimpleNamespace(run=run, source=source, settings=settings, shared=shared), arm


def test_what_a_family_will_take_counts_the_teacher_once_and_twins_once():
    """Steps of 2 and 1.5 s alone, 1 s of each the teacher's: 10 and 5 s of the students, 10 s of the teacher."""
    listening = [alone("a", "ForwardKL", price=1.0, seconds=2.0), alone("b", "ForwardKL", price=2.0, seconds=1.5)]
    assert family._seconds(listening) == pytest.approx(10 + 5 + 10)
    texts = [alone(name, "CrossEntropy", price=1.0, seconds=3.0) for name in ("a", "b", "b")]
    assert family._seconds(texts) == pytest.approx(30 + 30)
    assert family._seconds(texts[2:], before=texts[:2]) == 0


def test_a_baseline_that_starts_from_another_student_is_another_training():
    """Between rounds each student is trained with its own objective, so that what is left of its teacher differs."""
    for rounds in (1, 2):
        one, other = (alone("a", text, price=1.0, seconds=2.0, rounds=rounds) for text in ("ForwardKL", "ReverseKL"))
        supervised = ObjectiveSpec.of("CrossEntropy")
        pruned, fresh = (
            [
                family._same(m, replace(arm, name=name, objective=supervised, fresh=name == "fresh+kd"))
                for m, arm in (one, other)
            ]
            for name in ("cut+ce", "fresh+kd")
        )
        assert (pruned[0] == pruned[1]) is (rounds == 1)
        assert fresh[0] == fresh[1]


def test_what_is_not_measured_yet_is_counted_in_the_time_left(tmp_path):
    """Two of three models are to be measured, 1.5 s each of one student and 4 s of the other."""
    proofs = []
    for name, seconds in (("a", 1.5), ("b", 4.0)):
        proof = object.__new__(Evaluation)
        proof._settings, proof.seconds = SimpleNamespace(out=tmp_path / name), seconds
        proofs.append(proof)
    arms = [Arm(name, 0, tmp_path, ObjectiveSpec.of("ForwardKL"), 10) for name in ("student", "cut+ce")]
    (tmp_path / "a" / "measurements").mkdir(parents=True)
    (tmp_path / "a" / "measurements" / "student-seed0.safetensors").touch()
    assert proofs[0].expected_seconds(arms) == 1.5
    members = [SimpleNamespace(proof=proof) for proof in proofs]
    todo = [(members[0], arms[0]), (members[0], arms[1]), (members[1], arms[0])]
    assert family._measuring(todo) == 0 + 1.5 + 4.0


def weights(folder: Path) -> bytes:
    return (folder / "student" / "model.safetensors").read_bytes()


@pytest.mark.long
def test_each_student_is_the_one_trained_alone(done, here):
    out, result, _ = done
    assert set(result["members"]) == {"40k", "25k"}
    for size in ("40k", "25k"):
        distil(here, f"alone-{size}", params=size, baselines=())
        assert weights(out / size) == weights(here / f"alone-{size}")
        assert result["members"][size]["readings"]["student"]["held_out"]["value"] > 0


@pytest.mark.long
def test_the_report_shows_what_a_size_buys(done):
    out, result, _ = done
    page = (out / "report.html").read_text()
    assert "2 students of teacher" in page
    assert re.findall(r'aria-label="([^"]*)"', page) == [
        "Held-out nats per token by the student's size",
        "Training loss of the students",
    ]
    for size, member in result["members"].items():
        assert f'href="{size}/report.html"' in page
        assert f"{member['readings']['student']['held_out']['value']:.3f}" in page
        assert (out / size / "report.html").exists()


@pytest.mark.long
def test_a_finished_family_is_not_done_again(done, here):
    out, result, _ = done
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    assert distil(here, "whole", baselines=("cut", "cut+ce")) == result
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")} == before


@pytest.mark.long
def test_a_stopped_family_goes_on_to_the_same_bits(done, here, monkeypatch):
    """The second student stands behind the first after the stop, and catches up."""
    whole, _, _ = done
    step = together.CachedTeacher.clear

    def stop(self):
        monkeypatch.setattr(together.CachedTeacher, "clear", step)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(together.CachedTeacher, "clear", stop)
    with pytest.raises(Interrupted, match=r"stopped by SIGTERM after step \d+ of \d+, which is saved"):
        distil(here, "stopped", baselines=())
    saved = [sorted((here / "stopped" / size).glob("step-*")) for size in ("40k", "25k")]
    assert all(saved)
    shutil.rmtree(saved[1][-1])  # as if it had been killed before it was saved
    distil(here, "stopped", baselines=())
    for size in ("40k", "25k"):
        assert weights(here / "stopped" / size) == weights(whole / size)


def test_a_teacher_computes_once_per_step():
    asked = []

    class Teacher:
        name, vocab = "teacher", 300

        def __call__(self, batch):
            asked.append(batch)
            return model(batch)

    model = frozen(llama())
    cached = CachedTeacher(Teacher())
    one, other = batch(2), batch(3)
    assert cached(one) is cached(one)
    cached(other)
    assert len(asked) == 2
    cached.clear()
    cached(one)
    assert len(asked) == 3


@pytest.mark.long
def test_students_of_a_family_share_the_teachers_passes(done):
    """Apart from what measures it and cuts out of it, a family asks its teacher as often as one student does."""
    out, _, asked = done
    steps = json.loads((out / "40k" / "run.json").read_text())["plan"]["steps"]
    trained = [rows for rows in asked if len(rows) == 4 * 8]  # four rows of int64
    assert steps <= len(trained) < 1.5 * steps


@pytest.mark.long
def test_students_that_do_not_fit_together_are_trained_in_groups(done, here, monkeypatch, capsys):
    """The teacher is asked for each group; the students are the same."""
    out, _, _ = done
    monkeypatch.setattr(family, "free_memory", lambda device: 0)
    distil(here, "grouped", baselines=())
    assert "2 students do not fit together, so they are trained in 2 groups" in " ".join(
        capsys.readouterr().err.split()
    )
    for name in ("40k", "25k"):
        assert weights(here / "grouped" / name) == weights(out / name)


@pytest.mark.parametrize(
    ("params", "match"), [("40000,40001", "sizes that differ by less than 1 % are one student"), ("40k,x", "--params")]
)
def test_sizes_that_make_no_sweep_are_errors(here, params, match):
    with pytest.raises(BadSetting, match=match):
        distil(here, "none", params=params)


def test_one_student_is_one_size(here):
    with pytest.raises(BadSetting, match="--params: expected a count such as"):
        limbeck.shrink(teacher=str(here / "teacher"), data=str(here / "text.jsonl"), params=SIZES, out=here / "no")


@pytest.mark.long
def test_students_of_several_objectives(here):
    """Each is the one trained alone; what all are compared with is trained once; the report has their differences."""
    objectives = ["ForwardKL", "0.5*CrossEntropy + 0.5*TAID(start=0.2)", "CrossEntropy"]
    names = ["ForwardKL", "0.5-CrossEntropy+0.5-TAID-start=0.2", "CrossEntropy"]
    result = distil(here, "goals", objective=objectives, params="25k", baselines=("cut+ce",))
    assert list(result["members"]) == names
    distil(here, "goal", objective=objectives[1], params="25k", baselines=())
    assert weights(here / "goals" / names[1]) == weights(here / "goal")
    twins = [here / "goals" / name / "baselines" / "cut+ce-seed0" / "student" / "config.json" for name in names[:2]]
    assert twins[0].stat().st_ino == twins[1].stat().st_ino
    readings = [result["members"][name]["readings"] for name in names]
    assert readings[0]["cut+ce"] == readings[1]["cut+ce"]
    page = (here / "goals" / "report.html").read_text()
    assert "gain over ForwardKL" in page
    assert "a winner is named from 3 seeds on" in page
    for other in readings[1:]:
        gain = readings[0]["student"]["held_out"]["value"] - other["student"]["held_out"]["value"]
        assert f'<td class="open"><span class="decided">{gain:.3f}'[:-1] in page
    assert "Quality by objective" in page  # one size makes no curve over sizes


@pytest.mark.long
def test_a_report_is_made_of_the_students_that_have_begun(done, here):
    out, _, _ = done
    shutil.copytree(out, here / "begun")
    shutil.rmtree(here / "begun" / "25k")
    assert "1 student of teacher" in write_family_report(here / "begun").read_text()
    shutil.rmtree(here / "begun" / "40k")
    with pytest.raises(BadFolder, match="none of its students has begun"):
        write_family_report(here / "begun")


@pytest.mark.parametrize("objective", ["ForwardKL, KL", "ForwardKL,", "ForwardKL, TAID(start=2)"])
def test_objectives_that_make_no_sweep_are_errors(here, objective):
    with pytest.raises(LimbeckError, match=r"name each once|expected|start"):
        distil(here, "none", objective=objective)
    assert not (here / "none").exists()


def test_objectives_stand_between_commas():
    assert split_objectives("A(x=1, y='2,3'), B , C(of=D(e=1), f=2)") == ("A(x=1, y='2,3')", "B", "C(of=D(e=1), f=2)")
