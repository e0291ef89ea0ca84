"""Pass rates of tasks: instances and their training text, a sampler that agrees with exact probabilities, estimators."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from limbeck import cli
from limbeck.errors import BadSetting, BadTask, Mismatch
from limbeck.models.save import save
from limbeck.probes.pass_rate import censored_mean, exact_interval, mean_pass, ratio, readings, unbiased
from limbeck.probes.pass_until import Count, log_probability, pass_until
from limbeck.probes.tasks import MAKERS, Instance, Task, task_of, write_task_text
from tests.helpers.models import frozen, llama, tokenizer


@pytest.fixture(scope="module")
def model():
    made = frozen(
        llama(layers=1, tok=tokenizer(259), pad=9)
    )  # one token a byte; 9 rows of padding that are never sampled
    made.model.base_model.norm.weight.mul_(2.5)  # far from uniform, so that something passes
    return made


def probable_answers(model, count: int = 4) -> Task:
    """Prompts of two lengths, each with the model's most probable one-letter answer."""
    letters = [chr(c) for c in range(33, 127)]
    found = []
    for prompt in ["a+b=", "cat ", "the cat", "dog ran"][:count]:
        every = Task("every", tuple(Instance(prompt, (letter,)) for letter in letters))
        best = int(np.argmax(log_probability(model, every)))
        found.append(Instance(prompt, (letters[best],)))
    return Task("likely", tuple(found))


def simulated(p: np.ndarray, *, r: int, cap: int, seed: int) -> list[Count]:
    generator = np.random.default_rng(seed)
    counts = []
    for rate in p:
        waited = r + int(generator.negative_binomial(r, rate))
        if waited <= cap:
            counts.append(Count("", r, waited, capped=False))
        else:  # fewer than r passes in cap draws
            passed = r
            while passed >= r:
                passed = int(generator.binomial(cap, rate))
            counts.append(Count("", passed, cap, capped=True))
    return counts


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_tasks_are_always_the_same_and_never_in_their_training_text(name, tmp_path):
    task = task_of(name)
    assert task == task_of(name)
    assert len({i.prompt for i in task.instances}) == 200
    assert all(i.unique for i in task.instances)
    file = write_task_text(name, tmp_path / "text.jsonl", 3000, 1)
    text = {json.loads(line)["text"] for line in file.read_text().splitlines()}
    assert not text & {i.prompt + i.answers[0] for i in task.instances}
    again = write_task_text(name, tmp_path / "again.jsonl", 3000, 1)
    assert file.read_bytes() == again.read_bytes()


@pytest.mark.long
def test_a_test_sum_is_in_training_in_neither_order(tmp_path):
    file = write_task_text("addition", tmp_path / "text.jsonl", 20_000)
    prompts = {json.loads(line)["text"].split("=")[0] for line in file.read_text().splitlines()}
    turned = {"+".join(reversed(i.prompt[:-1].split("+"))) for i in task_of("addition").instances}
    assert not prompts & turned


@pytest.mark.parametrize(
    ("completion", "ended", "passes"),
    [
        ("62", False, None),
        ("622", False, None),
        ("622", True, True),
        ("622\n348+", False, True),
        ("62", True, False),
        ("6220", False, False),
        (" 622", False, False),
        ("", False, None),
    ],
)
def test_an_answer_passes_exactly_and_ended(completion, ended, passes):
    assert Instance("348+274=", ("622", "six")).passes(completion, ended=ended) is passes


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "a"}', ("task.jsonl:2", "'answer'", "'prompt'")),
        ('{"prompt": "a", "answer": ""}', ("task.jsonl:2", "text of one line")),
        ('{"prompt": "a", "answer": ["b", "c\\nd"]}', ("task.jsonl:2", "c\\nd")),
        ('{"prompt": 3, "answer": "b"}', ("task.jsonl:2", "'prompt'", "3")),
        ("[1]", ("task.jsonl:2",)),
        ("nonsense", ("task.jsonl:2", "nonsense")),
        ('{"prompt": "1+1=", "answer": "3"}', ("task.jsonl:2", "line 1")),
    ],
)
def test_a_faulty_task_file_is_named_with_its_line(tmp_path, line, words):
    file = tmp_path / "task.jsonl"
    file.write_text('{"prompt": "1+1=", "answer": "2"}\n' + line + "\n")
    with pytest.raises(BadTask) as error:
        task_of(str(file))
    assert all(word in str(error.value) for word in words), error.value


def test_unknown_tasks_name_the_nearest():
    with pytest.raises(BadTask, match="did you mean 'addition'"):
        task_of("adition")
    with pytest.raises(BadTask, match="did you mean 'copy'"):
        write_task_text("copyy", "unused.jsonl", 3)


def test_exact_probabilities_are_those_of_the_dense_model(model):
    import torch

    task = probable_answers(model)
    instance = task.instances[0]
    ids = model.tokenizer(instance.prompt + instance.answers[0])["input_ids"]
    log_q = model.model(torch.tensor([ids])).logits[0, :, : model.vocab].double().log_softmax(-1)
    last = log_q[-2, ids[-1]]
    ended = torch.logaddexp(
        log_q[-1, model.end], log_q[-1, model.tokenizer("\n", add_special_tokens=False)["input_ids"][0]]
    )
    assert log_probability(model, task)[0] == pytest.approx(float(last + ended), abs=1e-5)


@pytest.mark.long
def test_samples_pass_with_the_exact_probabilities(model):
    task = probable_answers(model)
    exact = np.exp(log_probability(model, task))
    assert (exact < 0.5).all()
    samples = 100_000
    counts = pass_until(model, task, successes=10**6, max_samples=samples, seed=3)
    z = np.array(
        [(c.successes - samples * p) / math.sqrt(samples * p * (1 - p)) for c, p in zip(counts, exact, strict=True)]
    )
    assert all(c.capped and c.samples == samples for c in counts)
    assert np.abs(z).max() < 3.5
    assert max(c.successes for c in counts) > 20


@pytest.mark.long
def test_counts_do_not_depend_on_the_batch(model):
    task = probable_answers(model)
    few, many = (pass_until(model, task, successes=3, max_samples=6000, seed=1, rows=rows) for rows in (300, 4096))
    assert few == many
    assert few != pass_until(model, task, successes=3, max_samples=6000, seed=2)
    assert {c.capped for c in few} <= {True, False}
    assert all(c.successes == 3 or c.capped for c in few)


@pytest.mark.long
def test_the_pass_rate_of_several_answers_is_the_sum_over_them(model):
    one, two = (Task("t", (Instance("a+b=", (answer,)),)) for answer in ("a", "b"))
    both = Task("t", (Instance("a+b=", ("a", "b")),))
    assert log_probability(model, both) == [None]
    apart, samples = sum(math.exp(log_probability(model, t)[0]) for t in (one, two)), 200_000
    passed = pass_until(model, both, successes=10**6, max_samples=samples)[0].successes
    assert abs(passed - samples * apart) < 4 * math.sqrt(samples * apart) + 1


def test_a_prompt_longer_than_the_context_is_refused(model):
    with pytest.raises(Mismatch, match="context"):
        pass_until(model, Task("t", (Instance("a" * 200, ("b",)),)))


def test_one_success_has_the_bias_of_the_closed_form():
    p = 0.05
    counts = simulated(np.full(40_000, p), r=1, cap=10**9, seed=0)
    found = ratio(counts)
    assert found.mean() == pytest.approx(-p * math.log(p) / (1 - p), abs=4 * found.std() / 200)


@pytest.mark.parametrize("cap", [10**9, 60])
def test_the_unbiased_estimate_is_unbiased_capped_or_not(cap):
    p = 0.05
    counts = simulated(np.full(20_000, p), r=4, cap=cap, seed=1)
    found, paper = unbiased(counts), ratio(counts)
    error = found.std() / math.sqrt(len(found))
    assert abs(found.mean() - p) < 3.5 * error
    assert paper.mean() - p > 10 * error


@pytest.mark.parametrize(("p", "cap"), [(0.3, 10**9), (0.02, 10**9), (0.02, 150), (0.001, 500)])
def test_intervals_hold_the_truth_at_least_as_often_as_promised(p, cap):
    counts = simulated(np.full(2000, p), r=4, cap=cap, seed=2)
    known = {c: exact_interval(c) for c in set(counts)}
    held = np.mean([known[c][0] <= p <= known[c][1] for c in counts])
    assert held > 0.94


def test_no_success_bounds_the_rate_from_above_alone():
    low, high = exact_interval(Count("", 0, 1000, capped=True))
    assert low == 0
    assert high == pytest.approx(1 - 0.025 ** (1 / 1000))


@pytest.mark.parametrize("passed", [True, False])
def test_instances_that_all_came_out_alike_do_not_prove_that_all_will(passed):
    counts = [Count("", 4, 4, capped=False) if passed else Count("", 0, 50, capped=True)] * 100
    found = {reading.name: reading for reading in readings("m", counts, seed=0)}
    for name in ("pass_rate", "pass_rate_ratio", "pass_rate_censored"):
        reading = found[name]
        assert reading.value == (1.0 if passed else 0.0)
        # a hundred trials that came out alike: the bound is where that has a chance of 2.5 %
        far = reading.low if passed else 1 - reading.high
        assert far**100 == pytest.approx(0.025)
        assert reading.low <= reading.value <= reading.high


def test_the_censored_mean_recovers_a_mean_of_different_instances():
    p = np.random.default_rng(0).beta(0.8, 40, size=600)
    counts = simulated(p, r=4, cap=300, seed=3)
    assert censored_mean(counts) == pytest.approx(p.mean(), rel=0.15)
    assert censored_mean([Count("", 0, 10, capped=True)] * 3) == 0
    assert censored_mean([Count("", 4, 4, capped=False)] * 3) == 1
    held = mean_pass(counts)
    assert held.low < p.mean() < held.high


@pytest.mark.long
def test_one_success_has_no_unbiased_estimate_and_a_remedy():
    counts = [Count("", 1, 10, capped=False), Count("", 1, 20, capped=False)]
    with pytest.raises(BadSetting, match="--successes 2"):
        unbiased(counts)
    assert "pass_rate" not in {r.name for r in readings("m", counts, seed=0)}
    assert "pass_rate_ratio" in {r.name for r in readings("m", counts, seed=0)}


@pytest.fixture
def limbeck(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        monkeypatch.setattr(sys, "argv", ["limbeck", *map(str, argv)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return run


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--probe", "pass-until"), ("--task", "addition")),
        (("--probe", "pass-untl", "--task", "copy"), ("--probe", "pass-until")),
        (("--probe", "pass-until", "--task", "revers-string"), ("reverse-string",)),
        (("--probe", "pass-until", "--task", "copy", "--successes", "0"), ("--successes", "unbiased", "2")),
        (("--probe", "pass-until", "--task", "copy", "--max-samples", "0"), ("--max-samples",)),
        (("--probe", "pass-until", "--task", "copy", "--teacher", "builtin:stdlib"), ("--teacher",)),
        (("--task", "copy"), ("--task", "pass-until")),
    ],
)
def test_a_wrong_flag_of_the_probe_is_one_message(limbeck, flags, words):
    status, _, err = limbeck("probe", "builtin:stdlib", *flags)
    assert status == 2
    assert "Traceback" not in err
    assert all(word in err for word in words), err


@pytest.mark.long
def test_a_result_is_kept_instance_by_instance(limbeck, model, tmp_path):
    save(model, tmp_path / "model")
    task = probable_answers(model)
    rows = [json.dumps({"prompt": i.prompt, "answer": i.answers[0]}) for i in task.instances]
    (tmp_path / "mine.jsonl").write_text("\n".join(rows) + "\n")
    flags = ("--probe", "pass-until", "--task", "mine.jsonl", "--max-samples", "2k", "--out", "points", "--json")
    status, out, err = limbeck("probe", "model", *flags)
    assert status == 0, err
    result = json.loads(out.splitlines()[-1])
    assert result["parameters"] == model.parameters_count
    exact, found = result["readings"]["pass_rate_exact"], result["readings"]["pass_rate"]
    assert found["low"] / 3 < exact["value"] < 3 * found["high"]
    about, *counts = (json.loads(line) for line in Path(result["file"]).read_text().splitlines())
    assert about["task"] == "mine"
    assert [c["name"] for c in counts] == [i.name for i in task.instances]
    status, _, err = limbeck("predict", "--points", "points", "--task", "mine", "--params", "1M")
    assert status == 2
    assert "at least 3" in err
