"""`limbeck distil --rounds`: shapes and tokens of the rounds, whose units are kept, continuing, and what is refused."""

import json
import os
import shutil
import signal
from dataclasses import asdict, astuple, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import limbeck
from limbeck.config import DistilSettings
from limbeck.corpora import Rows
from limbeck.disk import read_lines
from limbeck.errors import BadSetting, BadShape, Interrupted, LimbeckError
from limbeck.jobs.common.folder import signature_of
from limbeck.jobs.distil import arms, job
from limbeck.jobs.distil.diagnose import diagnose
from limbeck.jobs.distil.estimate import TimeEstimate, shown_before_rounds
from limbeck.jobs.pair import rounds as planned
from limbeck.models.anatomy import Anatomy
from limbeck.models.load import load
from limbeck.planning.checks.pair import Finding
from limbeck.report.before import pruned_in
from limbeck.report.words import duration
from limbeck.run.log import console
from limbeck.run.run import Run
from limbeck.run.step import train_step
from limbeck.students.prune import prune
from limbeck.students.rounds import composed, shapes_between, shares
from limbeck.students.shape import Shape, balanced, check, config_of
from limbeck.students.tally import Scores
from tests.helpers.models import llama, write_corpus, write_teacher
from tests.helpers.zoo import animal


def test_the_last_round_has_half_the_steps_and_the_first_two_as_many():
    assert shares(1) == (1.0,)
    assert shares(2) == (0.5, 0.5)
    assert shares(4) == (0.125, 0.125, 0.25, 0.5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "gpt_neox", "gemma2"])
@pytest.mark.parametrize("rounds", [2, 3])
def test_each_round_can_be_pruned_from_the_one_before(family, rounds):
    config = animal(family).config
    anatomy = Anatomy.of(config)
    full = Shape.of_anatomy(anatomy)
    target = balanced(anatomy, parameters=int(anatomy.count(**asdict(full)) * 0.4))
    steps = (*shapes_between(anatomy, target, rounds), target)
    assert len(steps) == rounds
    for shape in steps:
        check(config, shape)
        config = config_of(shape, config)


def prunable(before: Shape, after: Shape, anatomy: Anatomy) -> bool:
    """The rules of `check`, without configurations."""
    smaller = all(1 <= ours <= theirs for ours, theirs in zip(astuple(after), astuple(before), strict=True))
    group, whole = before.heads // before.kv_heads, after.heads % after.kv_heads == 0
    square = not anatomy.kind.square or after.hidden == after.heads * anatomy.sizes.head_dim
    divides = not anatomy.kind.divides or after.hidden % after.heads == 0
    return smaller and whole and after.heads // after.kv_heads <= group and square and divides


@st.composite
def pairs(draw, divides: bool, square: bool):
    """A teacher's shape and a student's, both legal; channels a head are 8 where the width is heads x channels."""
    kv, group = draw(st.integers(1, 16)), draw(st.integers(1, 8))
    per_head = 8 if square else draw(st.integers(1, 256))
    full = Shape(draw(st.integers(1, 40)), kv * group * per_head, kv * group, kv, draw(st.integers(8, 9000)))
    kv = draw(st.integers(1, full.kv_heads))
    heads = kv * draw(st.integers(1, full.heads // full.kv_heads))
    step = heads if divides or square else 1
    hidden = heads * 8 if square else step * draw(st.integers(1, full.hidden // step))
    return full, Shape(draw(st.integers(1, full.layers)), hidden, heads, kv, draw(st.integers(1, full.ffn)))


SMOLLM, LLAMA3, LLAMA2 = (
    Shape(32, 960, 15, 5, 2560),
    Shape(32, 4096, 32, 8, 14336),
    Shape(32, 4096, 32, 32, 11008),
)


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3", "gpt2"])
def test_every_shape_is_prunable_from_the_one_before_it(family):
    anatomy = Anatomy.of(animal(family).config)
    kind = anatomy.kind

    @given(pairs(kind.divides, kind.square), st.integers(2, 6))
    def holds(pair, rounds):
        full, target = pair
        head_dim = 8 if kind.square else anatomy.sizes.head_dim
        teacher = replace(anatomy, sizes=replace(anatomy.sizes, **asdict(full), head_dim=head_dim))
        chain = (full, *shapes_between(teacher, target, rounds), target)
        assert all(prunable(before, after, teacher) for before, after in pairwise(chain)), chain

    if kind.divides:
        holds = example((SMOLLM, Shape(21, 960, 1, 1, 1280)), 3)(holds)
        holds = example((LLAMA3, Shape(32, 4096, 8, 8, 14336)), 3)(holds)
        holds = example((LLAMA2, Shape(32, 4032, 18, 18, 11008)), 3)(holds)
    holds()


def test_a_round_that_cannot_be_pruned_is_an_error_before_any_is_trained(here, monkeypatch):
    wider = Shape(layers=2, hidden=48, heads=4, kv_heads=2, ffn=96)
    monkeypatch.setattr(planned, "shapes_between", lambda *_: (replace(wider, hidden=40), wider))
    with pytest.raises(BadShape, match="hidden=48 cannot be pruned from the teacher's hidden=40"):
        limbeck.distil(**settings(here, "refused", rounds=3))
    assert not (here / "refused").exists()


def test_axes_shrink_by_equal_ratios():
    target = Shape(layers=2, hidden=32, heads=2, kv_heads=1, ffn=64)  # of 4 and 2 heads: the nearest above 2.8 and 1.4
    teacher = Anatomy.of(llama(layers=8, hidden=128).config)
    found = shapes_between(teacher, target, 2)
    assert found == (Shape(layers=4, hidden=64, heads=4, kv_heads=2, ffn=128),)


def scores(model, seed: int) -> Scores:
    torch.manual_seed(seed)
    shape = Shape.of(model.config)
    sizes = {
        "layers": (shape.layers,), "hidden": (shape.hidden,), "heads": (shape.layers, shape.heads),
        "kv_heads": (shape.layers, shape.kv_heads), "ffn": (shape.layers, shape.ffn),
    }  # fmt: skip
    return Scores(**{name: torch.rand(size) for name, size in sizes.items()}, method="random", depth="random")


def test_kept_units_of_two_prunings_are_those_of_the_first_teacher():
    teacher = llama(layers=4, hidden=48)
    first = prune(teacher, shape=Shape(3, 40, 4, 2, 56), scores=scores(teacher, 1))
    second = prune(first, shape=Shape(2, 24, 2, 1, 40), scores=scores(first, 2))
    kept = composed(first.lineage["kept"], second.lineage["kept"])
    theirs, ours = (dict(model.model.named_parameters()) for model in (teacher, second))
    d = teacher.config.head_dim
    for layer, original in enumerate(kept["layers"]):
        channels, neurons = torch.tensor(kept["hidden"]), torch.tensor(kept["ffn"][layer])
        down = theirs[f"model.layers.{original}.mlp.down_proj.weight"][channels][:, neurons]
        assert torch.equal(ours[f"model.layers.{layer}.mlp.down_proj.weight"], down)
        for name, axis in (("q_proj", "heads"), ("k_proj", "kv_heads")):
            rows = torch.tensor([head * d + i for head in kept[axis][layer] for i in range(d)])
            projection = theirs[f"model.layers.{original}.self_attn.{name}.weight"][rows][:, channels]
            assert torch.equal(ours[f"model.layers.{layer}.self_attn.{name}.weight"], projection)


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rounds")
    write_teacher(folder)
    write_corpus(folder)
    return folder


SCORED = {"method": "wanda", "depth": "greedy"}  # other than by default


def settings(here: Path, out: str, **more):
    return {
        "teacher": str(here / "teacher"), "data": str(here / "text.jsonl"), "shape": "layers=1,hidden=24,ffn=32", "rounds": 2,
        "tokens": "2k", "length": 32, "batch_tokens": 128, "baselines": "none", "out": str(here / out), "threads": 1,
    } | more  # fmt: skip


def findings_with(level, monkeypatch, found):
    """Lets the doctor find one thing more about every pair, and notes in ``found`` what each pair was."""

    def told(request, pair, *args, **keys):
        found.append(pair)
        return [*diagnose(request, pair, *args, **keys), Finding("sign", level, "a sign", "heed it")]

    monkeypatch.setattr(job, "diagnose", told)


@pytest.fixture(scope="module")
def run(here):
    """The folder of a whole run, the numbers of the rows that each of its trainings read, in their order, and what it printed."""
    read: dict[str, list[int]] = {}
    take, step = Rows.take, Run._step

    def noted(self, *args):
        self.corpus.reader = self.label
        return step(self, *args)

    def noting(self, count):
        batch = take(self, count)
        if reader := getattr(self, "reader", ""):
            read.setdefault(reader, []).extend(batch.row.tolist())
        return batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "_step", noted)
        patch.setattr(Rows, "take", noting)
        patch.setattr(Run, "measure", lambda self, seconds: 0.0)
        findings_with("warning", patch, [])
        with console.capture() as said:
            limbeck.distil(**settings(here, "whole", baselines="fresh+kd", **SCORED))
    return here / "whole", read, said.get()


@pytest.fixture(scope="module")
def done(run):
    return run[0]


@pytest.mark.long
def test_rounds_read_the_text_of_a_run_without_them(run):
    read = run[1]
    assert read["1 round #0"] + read["student #0"] == read["fresh+kd #0"]


@pytest.mark.long
def test_rounds_share_the_tokens_of_the_run(done):
    first, last, fresh = (
        read_lines(done / folder / "metrics.jsonl") for folder in ("rounds/1", ".", "baselines/fresh+kd-seed0")
    )
    assert len(first) + len(last) == len(fresh) == 16
    assert abs(len(first) - len(last)) <= 1
    assert not list(done.rglob("checkpoint-*"))


@pytest.mark.long
def test_the_lineage_has_the_teachers_units_and_the_rounds(done, here):
    teacher, student = load(here / "teacher"), load(done / "student")
    found = student.lineage
    assert found["shape"] == asdict(Shape.of(student.config))
    assert found["teacher"] == teacher.name
    assert (found["method"], found["depth"]) == ("wanda", "greedy")
    (between,) = found["rounds"]
    trained = load(done / "rounds" / "1" / "student")
    assert between["parameters"] == trained.parameters_count
    assert between["shape"] == asdict(Shape.of(trained.config))
    assert between["tokens"] == 8 * 128
    assert teacher.parameters_count > between["parameters"] > student.parameters_count
    before, last = trained.lineage["kept"], found["kept"]
    assert set(last["hidden"]) < set(before["hidden"]) < set(range(48))
    assert set(last["layers"]) < set(before["layers"])
    said = pruned_in(found)
    assert said.startswith("It was pruned in 2 rounds, and trained between them: ")
    for file in (done / "report.html", done / "student" / "README.md"):
        assert said in file.read_text().replace("&nbsp;", " ")
    assert pruned_in(json.loads((done / "rounds" / "1" / "cut" / "lineage.json").read_text())) == ""


@pytest.mark.long
@pytest.mark.parametrize("stopped_at", [3, 11])
def test_a_run_stopped_in_a_round_goes_on_and_ends_with_the_same_bits(done, here, monkeypatch, stopped_at):
    count = []

    def stopping(*args, **keys):
        count.append(1)
        if len(count) == stopped_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(*args, **keys)

    out = f"stopped-{stopped_at}"
    with monkeypatch.context() as patch:
        patch.setattr(Run, "measure", lambda self, seconds: 0.0)  # only steps of trainings count
        patch.setattr(arms, "train_step", stopping)
        with pytest.raises(Interrupted):
            limbeck.distil(**settings(here, out, **SCORED))
    assert (here / out / "cut").exists() == (stopped_at > 8)
    if stopped_at > 8:  # the last round's model is there, and the others may be removed
        for name in ("cut", "student"):
            shutil.rmtree(here / out / "rounds" / "1" / name)
    limbeck.distil(**settings(here, out, **SCORED))
    whole, again = (folder / "student" / "model.safetensors" for folder in (done, here / out))
    assert again.read_bytes() == whole.read_bytes()


def test_one_round_is_what_a_run_without_the_flag_is():
    assert "rounds" not in signature_of(DistilSettings(), "distil")
    assert signature_of(DistilSettings(rounds=2), "distil")["rounds"] == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"student": "teacher", "shape": None}, "--rounds 2 and --student"),
        ({"mixers": "gdn"}, "--rounds 2 and --mixers"),
        ({"shape": "layers=2", "rounds": 3}, "--rounds 3: between layers=3.* there are shapes for 1 rounds"),
        ({"tokens": "256", "rounds": 4}, "--rounds 4: 2 steps leave none to train the student in"),
        ({"rounds": 0}, "rounds"),
    ],
)
def test_impossible_rounds_are_an_error_before_anything_is_written(here, changes, said):
    changes = {key: str(here / value) if key == "student" else value for key, value in changes.items()}
    with pytest.raises(BadSetting, match=said):
        limbeck.distil(**{k: v for k, v in settings(here, "refused", **changes).items() if v is not None})
    assert not (here / "refused").exists()


def no_step(*_, **__):
    raise AssertionError("a step was trained")


@pytest.mark.long
def test_the_doctors_errors_come_before_the_first_round(here, monkeypatch):
    pairs = []
    findings_with("error", monkeypatch, pairs)
    monkeypatch.setattr(arms, "train_step", no_step)
    with pytest.raises(LimbeckError, match="a sign"):
        limbeck.distil(**settings(here, "ill"))
    assert Shape.of(pairs[0].planned) == Shape(1, 24, 4, 2, 32)
    assert not (here / "ill" / "rounds").exists()


@pytest.mark.long
def test_too_few_held_out_documents_are_an_error_before_the_first_round(here, monkeypatch):
    monkeypatch.setattr(arms, "train_step", no_step)
    few = here / "few.jsonl"
    few.write_text("".join((here / "text.jsonl").read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(BadSetting, match="--eval-every 2: 2 documents are held out"):
        limbeck.distil(**settings(here, "unwatched", eval_every=2, eval_data=str(few)))
    assert not (here / "unwatched" / "rounds").exists()


@pytest.mark.long
def test_a_runs_warnings_are_said_once_and_its_estimates_count_the_rounds(run):
    said = " ".join(run[2].split())
    assert said.count("a sign") == 1
    assert said.index("a sign") < said.index("for 2 rounds, the student's own training among them")
    assert said.index("for 2 rounds") < said.index("for 2 trainings") < said.index("Rounds before the last took")


def test_later_rounds_are_estimated_by_their_flops():
    first = TimeEstimate(seconds=600.0, step_seconds={"KL": 0.5}, peak_bytes=2**31)
    said = shown_before_rounds(first, [2e9, 1e9, 3e9])
    assert said.startswith(f"estimate: {duration(600 * (1 + 0.5 + 1.5))} for 3 rounds")
    assert "0.5 s" in said
    assert "2.00 GiB" in said


@pytest.mark.long
def test_captured_logits_serve_all_rounds(here):
    capture = {
        "teacher": str(here / "teacher"),
        "data": str(here / "text.jsonl"),
        "length": 32,
        "tokens": 2048,
        "threads": 1,
    }
    limbeck.capture(**capture, out=str(here / "logits"))
    asked = settings(here, "captured", teacher=str(here / "logits"))
    limbeck.distil(**{key: value for key, value in asked.items() if key not in ("data", "length")})
    student = load(here / "captured" / "student")
    assert [one["tokens"] for one in student.lineage["rounds"]] == [8 * 128]
    assert Shape.of(student.config) == Shape(1, 24, 4, 2, 32)
