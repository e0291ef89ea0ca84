"""`limbeck distil --teacher "math=A,code=B"`: which teacher a row has, what is counted and measured of each, what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import limbeck
from limbeck.config import DistilSettings
from limbeck.corpora import TokenStore
from limbeck.corpora.mixture import unnamed
from limbeck.disk import read_lines
from limbeck.errors import BadCorpus, BadSetting, Mismatch
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.distil import standard
from limbeck.jobs.distil.request import DistilRequest
from limbeck.jobs.distil.several import SeveralTeachers, check_domains
from limbeck.models.configuration import load_config
from limbeck.models.save import save
from limbeck.objectives import ForwardKL
from limbeck.planning.cost.size import Size
from limbeck.probes import Measurements
from limbeck.probes.standard.evaluate import Loaded
from limbeck.probes.standard.scores import TaskScores, save_scores
from limbeck.report.card import model_card
from limbeck.report.domains import domains_note
from limbeck.run.routed import EqualDomains, RoutedStep, domain_weights
from limbeck.run.run import Run
from limbeck.run.step import LossTerm, train_step
from limbeck.run.world import alone
from limbeck.teachers.ref import teacher_ref
from limbeck.teachers.routed import RoutedTeacher
from tests.helpers.models import batch, frozen, llama, texts, tokenizer
from tests.helpers.ranks import on_ranks

LENGTH, STEPS, ROWS = 32, 4, 4


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with two teachers of other sizes, A and B, and a text for each, math.jsonl and code.jsonl."""
    folder, tok = tmp_path_factory.mktemp("several"), tokenizer()
    save(llama(layers=3, hidden=48, seed=0, tok=tok), folder / "A")
    save(llama(layers=2, hidden=32, seed=1, tok=tok), folder / "B")
    (folder / "A" / "README.md").write_text("---\nlicense: mit\n---\n")
    for seed, name in enumerate(("math", "code")):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts(120, seed=seed))
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def named(here: Path) -> dict[str, Any]:
    data = f"math={here / 'math.jsonl'}:1,code={here / 'code.jsonl'}:3"
    return {"teacher": f"math={here / 'A'},code={here / 'B'}", "data": data}


def distil(here: Path, out: Path, **more: Any) -> Any:
    keys: dict[str, Any] = named(here) | {"shrink": 2.0, "tokens": STEPS * ROWS * LENGTH, "length": LENGTH}
    keys |= {"batch_tokens": ROWS * LENGTH, "threads": 1, "any_teacher": True, "baselines": "none"}
    return limbeck.distil(**keys | {"out": out} | more)


@pytest.fixture(scope="module")
def done(here) -> Path:
    distil(here, here / "out", baselines="one-teacher,one-teacher@flops,cut+ce@flops")
    return here / "out"


def test_the_loss_and_gradient_of_a_row_are_those_of_its_own_teacher():
    """By hand: the mean, by their weights, of a step with each teacher alone on its own rows."""
    tok, rows = tokenizer(), batch(6)
    teachers = [frozen(llama(hidden=size, seed=seed, tok=tok)) for size, seed in ((48, 1), (32, 2))]
    number = torch.tensor([0, 1, 1, 0, 1, 0])
    routed = RoutedTeacher(teachers, lambda some: number[some.row])

    def step(update: Any, terms: list[LossTerm]) -> tuple[float, float, torch.Tensor]:
        student = llama(layers=1, tok=tok)
        none = torch.optim.SGD(student.model.parameters(), lr=0.0)
        found = update(student, terms, none, mesh=alone(), max_norm=1e9)
        return found.tokens, found.loss, torch.cat([p.grad.flatten() for p in student.model.parameters()])

    objective = ForwardKL()
    two = [LossTerm(rows.rows(part), objective, routed) for part in (slice(0, 3), slice(3, 6))]  # micro-batches
    weight, loss, gradient = step(RoutedStep(routed), two)
    alone_ = [
        step(train_step, [LossTerm(rows.rows((number == n).nonzero().squeeze(-1)), objective, teacher)])
        for n, teacher in enumerate(teachers)
    ]
    assert weight == sum(own for own, *_ in alone_)
    assert loss == pytest.approx(sum(own * its for own, its, _ in alone_) / weight, rel=1e-6)
    expected = sum(own * its for own, _, its in alone_) / weight
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)
    with pytest.raises(ValueError, match="too many values"):
        routed(rows)  # of two teachers
    weight, loss, gradient = step(EqualDomains(routed.route, 2, RoutedStep(routed)), two)
    assert weight == pytest.approx(sum(own for own, *_ in alone_))
    assert loss == pytest.approx(sum(its for _, its, _ in alone_) / 2, rel=1e-6)
    torch.testing.assert_close(gradient, sum(its for *_, its in alone_) / 2, rtol=1e-4, atol=1e-7)
    plain = [replace(one, teacher=teachers[0]) for one in two]  # as a baseline has it
    loss = step(EqualDomains(routed.route, 2), plain)[1]
    each = [
        step(train_step, [LossTerm(rows.rows((number == n).nonzero().squeeze(-1)), objective, teachers[0])])
        for n in (0, 1)
    ]
    assert loss == pytest.approx(sum(its for _, its, _ in each) / 2, rel=1e-6)
    of_one = [replace(two[0], batch=rows.rows(torch.tensor([0, 3])))]
    equal = step(EqualDomains(routed.route, 2, RoutedStep(routed)), of_one)[1]
    assert equal == pytest.approx(step(RoutedStep(routed), of_one)[1], rel=1e-6)


def test_domain_weights_are_target_over_observed_share_with_mean_one_over_the_tokens():
    tokens, targets = torch.tensor([90.0, 10.0, 0.0]), torch.tensor([1.0, 3.0, 5.0])
    weights = domain_weights(tokens, targets)
    assert weights.tolist() == pytest.approx([25 / 90, 75 / 10, 0])
    assert (weights * tokens).sum() == pytest.approx(100)


@pytest.mark.long
def test_the_baseline_is_the_distillation_from_the_first_teacher_bit_by_bit(done, here, tmp_path):
    data = named(here)["data"].replace("math=", "").replace("code=", "")
    distil(here, tmp_path / "plain", teacher=str(here / "A"), data=data)
    plain, baseline, student = (
        load_file(folder / "student" / "model.safetensors")
        for folder in (tmp_path / "plain", done / "baselines" / "one-teacher-seed0", done)
    )
    assert all(torch.equal(plain[name], baseline[name]) for name in plain)
    assert not all(torch.equal(plain[name], student[name]) for name in plain)
    assert "domains" not in json.loads((tmp_path / "plain" / "run.json").read_text())["signature"]


@pytest.mark.long
def test_equal_weights_of_domains_make_another_student_and_are_part_of_the_run(done, here, tmp_path):
    distil(here, tmp_path / "out", domain_weights="equal")
    equal, plain = (load_file(folder / "student" / "model.safetensors") for folder in (tmp_path / "out", done))
    assert not all(torch.equal(equal[name], plain[name]) for name in plain)
    signatures = [json.loads((folder / "run.json").read_text())["signature"] for folder in (tmp_path / "out", done)]
    assert [one.get("domain_weights") for one in signatures] == ["equal", None]


@pytest.mark.long
def test_equal_compute_counts_the_teacher_of_each_row(done, here):
    """By hand, in FLOPs of a token: the student's step, and the forward pass of A for a row in four, of B for the others."""
    sizes = [Size.of(load_config(folder)) for folder in (done / "cut", here / "A", here / "B")]
    student, a, b = (2 * size.multiplied + 2 * (LENGTH + 1) * size.layers * size.attention for size in sizes)
    taught, by_first = 3 * student + a / 4 + 3 * b / 4, 3 * student + a
    run = json.loads((done / "run.json").read_text())
    assert [one["share"] for one in run["teacher"]["domains"]] == [0.25, 0.75]
    assert run["teacher"]["price"] == pytest.approx(taught / (3 * student) - 1)
    steps = {arm["name"]: arm["steps"] for arm in run["plan"]["arms"]}
    assert steps["student"] == steps["one-teacher"] == STEPS
    assert steps["cut+ce@flops"] == round(STEPS * taught / (3 * student))
    assert steps["one-teacher@flops"] == round(STEPS * taught / by_first)
    assert run["signature"]["domains"] == [["math", str(here / "math.jsonl")], ["code", str(here / "code.jsonl")]]


@pytest.mark.long
def test_held_out_text_is_measured_by_domain_and_the_teacher_is_each_documents_own(done):
    store, folder = TokenStore.open(done / "data" / "held_out"), done / "measurements"
    source = store.source_of(np.arange(store.documents))
    names = ("teacher-of-math", "teacher-of-code", "teacher", "student")
    a, b, own, student = (Measurements.load(folder / f"{name}-seed0.safetensors") for name in names)
    assert np.array_equal(own.nats, np.where(source == 0, a.nats, b.nats))
    assert student.teacher_nats is not None
    assert student.teacher_nats == pytest.approx(own.nats)  # whom its KL is to
    readings = {(row["model"], row["name"]): row["value"] for row in read_lines(done / "readings.jsonl")}
    for n, domain in enumerate(("math", "code")):
        for name, measured in zip(names, (a, b, own, student), strict=True):
            mean = measured.nats[source == n].sum() / measured.tokens[source == n].sum()
            assert readings[name, f"held_out, {domain}"] == pytest.approx(mean)
        assert student.kl is not None
        kl = student.kl[source == n].sum() / student.tokens[source == n].sum()
        assert readings["student", f"kl_teacher_student, {domain}"] == pytest.approx(kl)


def test_on_standard_tasks_models_are_compared_with_the_first_teacher(tmp_path, monkeypatch):
    def scores(*right: int) -> list[TaskScores]:
        acc = np.array([1.0] * sum(right) + [0.0] * (100 - sum(right)))
        items = tuple((str(n), "d", "p") for n in range(100))
        return [TaskScores("t", "none", "", items, np.full(100, 0.5), {"acc": acc})]

    monkeypatch.setattr(standard, "load_tasks", lambda names: Loaded(dict.fromkeys(names), {}))
    tasks = standard.TaskEvaluation(tmp_path, ["t"])
    for name, right in {"teacher-of-math": 80, "teacher-of-code": 70, "student": 65, "cut": 50}.items():
        save_scores(tmp_path / f"tasks-{name}-seed0.json", scores(right))
        tasks.measure(name, lambda: pytest.fail("measured before"), 0)
    found = {(one.model, one.name): one.value for one in tasks.readings()}
    assert found["student", "acc_minus_teacher-of-math, t"] == pytest.approx(0.65 - 0.8)
    assert found["student", "acc_retention_of_teacher-of-math, t"] == pytest.approx((0.65 - 0.5) / (0.8 - 0.5))
    against = {key for key in found if "_minus_" in key[1]}
    assert against == {
        (model, f"acc_minus_{other}, t")
        for model, other in (("student", "teacher-of-math"), ("student", "cut"), ("cut", "teacher-of-math"))
    }
    run = {"teacher": {"domains": [{"domain": name, "name": name.upper(), "share": 0.5} for name in ("math", "code")]}}
    said = " On standard tasks each model is compared with MATH."
    assert domains_note(run, tasks=True) == domains_note(run, tasks=False) + said


@pytest.mark.long
def test_a_run_says_who_taught_what(done):
    page = (done / "report.html").read_text().replace("&nbsp;", " ")
    for words in ("A student of A and B", "By domain", "teacher of code: B", "from one teacher, equal compute"):
        assert words in page
    for words in (
        "math from A (25 % of the rows), code from B",
        "The student is pruned from A",
        "By domain the student",
    ):
        assert words in page
    card = (done / "student" / "README.md").read_text()
    assert "# Student of A and B" in card
    assert "It had a teacher for each domain: math by A, code by B." in card
    assert "The licences of the teachers (A: mit; B: none that its README.md names)" in card
    assert "\nlicense" not in card
    differences = {one["name"] for one in json.loads((done / "verdict.json").read_text())["differences"]}
    assert {"one-teacher - student", "one-teacher@flops - student"} <= differences


def test_teachers_of_one_size_need_one_baseline(here):
    same = DistilSettings(teacher="math=A,code=B")
    assert same.compared[-2:] == ("one-teacher", "one-teacher@flops")
    assert DistilSettings(teacher=str(here / "A")).compared == ("cut", "cut+ce", "cut+ce@flops", "fresh+kd")


def test_spaces_are_no_part_of_a_run_and_a_path_with_a_comma_is_named(tmp_path, monkeypatch):
    spaced, plain = (
        DistilRequest.of(DistilSettings(teacher=f"math=A,{gap}code=B", data=f"math=a.jsonl:1,{gap}code=b.jsonl:1"))
        for gap in (" ", "")
    )
    assert (spaced.settings, spaced.domains) == (plain.settings, plain.domains)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c,d").mkdir()
    with pytest.raises(BadSetting, match="got the path c,d: one with a comma cannot be one of several"):
        DistilRequest.of(DistilSettings(teacher="math=A,code=c,d", data="math=a.jsonl:1,code=b.jsonl:1"))


def test_a_card_acts_on_no_name_of_a_teacher():
    name = "<img src=x>`A`[b](c)"
    domains = [{"domain": domain, "name": name, "share": 0.5} for domain in ("math", "code")]
    card = model_card({"teacher": {"name": name, "domains": domains}}, [])
    assert "It had a teacher for each domain: math by &lt;img src=x>'A'\\[b](c), code by" in card
    assert not any(mark in card.partition("## Load")[0] for mark in ("<", "`A`"))


def test_names_of_sources_are_taken_off_in_every_stage_and_sources_without_weights_get_equal_ones():
    text, sources = unnamed("math=a.jsonl:0.7,code=hf:b:0.3; 0.5: code=hf:b:2,math=c/d=1.jsonl:1")
    assert text == "a.jsonl:0.7,hf:b:0.3; 0.5:hf:b:2,c/d=1.jsonl:1"
    assert sources == (("math", "a.jsonl"), ("code", "hf:b"), ("math", "c/d=1.jsonl"))
    assert unnamed("math=a.jsonl,code=hf:b") == ("a.jsonl:1,hf:b:1", (("math", "a.jsonl"), ("code", "hf:b")))
    assert unnamed("a.jsonl,hf:b")[1] == (("", "a.jsonl"), ("", "hf:b"))
    with pytest.raises(BadCorpus, match="has the name 'math' and the name 'code'"):
        unnamed("math=a.jsonl:1; 0.5:code=a.jsonl:1")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"teacher": "math=A"}, "expected two domains or more, got one"),
        ({"teacher": "math=A,B"}, "expected a domain before each teacher, each once, got a teacher without one"),
        ({"teacher": "math=A,math=B"}, "got math twice"),
        ({"teacher": "math=A,code=B,law=C"}, "expected a source for each teacher, got none for law"),
        ({"data": "math=a:1,code=b:1,law=c:1"}, "expected a teacher for each domain of --data, got none for law"),
        ({"data": "math=a:1,b:1"}, "expected the domain of each source, one of math, code, got none of b"),
        (
            {"teacher": "math=A,code=http://127.0.0.1:9/v1#m"},
            "expected a model on this machine for each domain, got a model on",
        ),
        ({"teacher": "A", "data": "a.jsonl", "baselines": "one-teacher"}, "and here is one: give several"),
        (
            {"teacher": "A", "data": "a.jsonl", "domain_weights": "equal"},
            "--domain-weights equal is for several teachers",
        ),
        ({"eval_data": "c.jsonl"}, "does not go with --eval-data: its documents have no domain"),
        ({"tokenizer": "A"}, "does not go with --tokenizer"),
        ({"adapt_teacher": "1k"}, "does not go with --adapt-teacher: one teacher is tuned"),
        ({"cache_logits": True}, "does not go with --cache-logits"),
        ({"tokenizer_align": "bytes"}, "does not go with --tokenizer-align"),
        ({"vocab": "auto"}, "does not go with --vocab"),
        ({"mixers": "gdn*2"}, "does not go with --mixers"),
        ({"rounds": 2}, "does not go with --rounds"),
        ({"depths": "2,3", "learngene": "stages=2"}, "does not go with --learngene"),
        ({"params": "40k,30k"}, "does not go with several students"),
        ({"objective": "CrossEntropy"}, "no objective queries a teacher"),
    ],
)
def test_what_does_not_go_with_several_teachers_is_refused_with_its_reason(given, message):
    keys = {"teacher": "math=A,code=B", "data": "math=a.jsonl:1,code=b.jsonl:1"} | given
    with pytest.raises(BadSetting, match=message):
        check_domains(DistilRequest.of(DistilSettings(**keys)), Environment(alone(), bf16=False))


@pytest.mark.parametrize("one", [{}, {"teacher": "A", "data": "math.jsonl", "adapt_teacher": "1k"}])
def test_several_students_are_refused_for_several_teachers_and_for_a_corrected_one(one, here, tmp_path):
    paths = {name: str(here / value) if name in ("teacher", "data") else value for name, value in one.items()}
    with pytest.raises(BadSetting, match="does not go with several students"):
        distil(here, tmp_path / "out", shrink=None, params="40k,30k", **paths)


def test_a_job_of_one_teacher_refuses_several():
    with pytest.raises(BadSetting, match="teachers by domain are for limbeck distil and doctor"):
        teacher_ref("math=A,code=B")


def test_teachers_of_other_tokens_are_refused_and_short_contexts(here, tmp_path):
    save(llama(layers=1, hidden=32, tok=tokenizer(290)), tmp_path / "C")
    environment = Environment(alone(), bf16=False)
    other = DistilSettings(**named(here) | {"teacher": f"math={here / 'A'},code={tmp_path / 'C'}"})
    with pytest.raises(
        Mismatch, match=r"code=.*C: expected the tokens of the first teacher, math=.*: 300 tokens; got 290"
    ):
        SeveralTeachers.load(DistilRequest.of(other), environment)
    source = SeveralTeachers.load(DistilRequest.of(DistilSettings(**named(here))), environment)
    with pytest.raises(Mismatch, match="expected a context of 129 tokens, that of a row, got 128"):
        source.within(129)


def test_a_teacher_of_two_domains_is_held_once(here):
    how = {"teacher": f"math={here / 'A'},code={here / 'A'}"}
    source = SeveralTeachers.load(
        DistilRequest.of(DistilSettings(**named(here) | how)), Environment(alone(), bf16=False)
    )
    assert source.models[0] is source.models[1]
    assert source.size.parameters == source.about.parameters_count
    assert source.size.forward_flops(LENGTH) == Size.of(source.about.config).forward_flops(LENGTH)


@pytest.mark.long
@pytest.mark.parametrize("rollouts", [None, "0.5"])
def test_a_stopped_run_continues_to_the_same_bits_and_two_processes_train_what_one_does(
    rollouts, here, tmp_path, monkeypatch
):
    objective = "ReverseKL" if rollouts else "ForwardKL"
    how: dict[str, Any] = {"rollouts": rollouts, "objective": objective, "seeds": 2}
    how |= {"rollout_tokens": 8, "eval_every": 4} if rollouts else {}
    distil(here, tmp_path / "whole", **how)
    step, taken = Run._step, []

    def stopping(self, number, *given):
        if self.folder.parts[-1] == "parts" and number:
            taken.append(number)
            if len(taken) == 2:
                raise KeyboardInterrupt
        return step(self, number, *given)

    monkeypatch.setattr(Run, "_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        distil(here, tmp_path / "parts", save_every=1, **how)
    monkeypatch.setattr(Run, "_step", step)
    distil(here, tmp_path / "parts", save_every=1, **how)

    def work(_: Any) -> bool:
        distil(here, tmp_path / "two", **how)
        return True

    assert on_ranks(2, work, mesh="replicate") == [True, True]
    for folder in ("student", "seeds/seed1/student"):
        whole, parts, two = (
            load_file(tmp_path / name / folder / "model.safetensors") for name in ("whole", "parts", "two")
        )
        assert all(torch.equal(whole[name], parts[name]) for name in whole)
        assert all(torch.allclose(whole[name], two[name], atol=1e-4) for name in whole)
    one, other = (
        {(row["model"], row["name"]): row["value"] for row in read_lines(tmp_path / name / "readings.jsonl")}
        for name in ("whole", "two")
    )
    key = ("student", "kl_teacher_student, code")
    assert one[key] == pytest.approx(other[key], rel=1e-2)
