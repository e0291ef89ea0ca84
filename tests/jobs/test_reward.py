"""`limbeck tune --reward`: what a run says, that it continues exactly, what it costs, and what is refused."""

import json
import subprocess
import sys
from collections.abc import Iterable
from itertools import accumulate, compress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import limbeck
from limbeck.config import TuneSettings
from limbeck.corpora import Columns, Document, is_held_out, prompts_of
from limbeck.corpora.problem_formats import parse
from limbeck.disk import read_lines
from limbeck.errors import BadCorpus, BadSetting, BadTask, LimbeckError, Mismatch
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.tune.reward.plan import RewardPlan
from limbeck.jobs.tune.reward.questions import MEASURED, known_answer, questions_of
from limbeck.models.save import save
from limbeck.run.world import alone
from tests.helpers.models import llama, texts, tokenizer
from tests.helpers.stops import stopped_before
from tests.jobs.test_distil import on_two_ranks
from tests.jobs.test_generated import CHAT, lines

STOPS = [2, *range(40, 120)]  # so that random models end within a few tokens
PROMPTS, SAMPLES = 40, 3
WORDS = {"instruction_id_list": ["length_constraints:number_words"]}
WORDS["kwargs"] = [{"relation": "at least", "num_words": 2}]  # type: ignore[list-item]
SHORT = {"instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"]}
SHORT["kwargs"] = [{}, {"relation": "at least", "num_words": 2}]  # type: ignore[list-item]


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A model that chats, and prompts with checks, of which one half has a completion."""
    folder = tmp_path_factory.mktemp("reward")
    tok = tokenizer()
    tok.chat_template = CHAT
    model = llama(tok=tok, seed=3)
    model.model.generation_config.eos_token_id = STOPS
    save(model, folder / "model")
    rows = [
        {
            "messages": [{"role": "user", "content": text[:14]}, {"role": "assistant", "content": "two words"}][
                : 2 - i % 2
            ]
        }
        for i, text in enumerate(texts(PROMPTS, seed=5))
    ]
    lines(folder / "chat.jsonl", [row | SHORT for row in rows])
    lines(folder / "plain.jsonl", [{"prompt": f"{i}+{i}=", "answer": str(2 * i)} for i in range(20)])
    return folder


def tune(here: Path, out: Path, **more: Any) -> Any:
    keys: dict[str, Any] = {
        "student": str(here / "model"),
        "data": str(here / "chat.jsonl"),
        "reward": "checks",
        "samples": SAMPLES,
        "rollout_tokens": 6,
        "tokens": 700,
        "batch_tokens": 180,
        "threads": 1,
        "lr": 1e-3,
        "out": out,
    }
    return limbeck.tune(**(keys | more))


def test_no_held_out_question_is_shown_solved_in_a_prompt_to_train_on(tmp_path):
    lines(tmp_path / "sums.jsonl", [{"question": f"{n}+1?", "answer": f"#### {n + 1}"} for n in range(60)])
    data, model = f"formats:ic_ao@1:{tmp_path / 'sums.jsonl'}", llama(seed=1)
    keys = {"reward": "checks", "rollout_tokens": 2, "out": tmp_path / "run"}
    found = questions_of(TuneSettings(student="a", data=data, **keys), model)
    assert not found.left_out
    train, held_out = (
        [parse("ic_ao", model.tokenizer.decode(one.prompt[1:]), " ") for one in side]
        for side in (found.train, found.held_out)
    )
    shown = {question for one in train for question, _ in one.shots}
    assert len(shown) > 20
    assert shown.isdisjoint(one.question for one in held_out)


@pytest.fixture(scope="module")
def made(here, tmp_path_factory) -> tuple[Any, Path]:
    out = tmp_path_factory.mktemp("made") / "run"
    return tune(here, out), out


def test_a_run_says_what_the_reward_bought(made):
    result, out = made
    assert list(result.readings) == ["cut", "student", "answers"]
    after = result.readings["student"]
    assert {"reward", "greedy_passed", "answer_tokens", "unfinished", "answer_entropy", "kl_start"} <= set(after)
    assert 0 < after["reward"].value < 1
    assert result.readings["cut"]["kl_start"].value == pytest.approx(0, abs=1e-5)
    assert "held-out prompts have a reward (checks) of" in result.verdict
    assert "one training each, not decided" in result.verdict
    notes = " ".join(json.loads((out / "verdict.json").read_text())["notes"])
    assert "the difference from that of cross-entropy on as many known answers is" in notes
    assert "prompts whose answers have one reward, and teach nothing" in notes
    page = (out / "report.html").read_text()
    assert "Rewarded answers" in page
    assert "Sampled answers by step" in page
    assert "Greedy answers" in page
    assert "reward of sampled answers" in (out / "student" / "README.md").read_text()


def test_a_tuned_model_is_measured_on_any_text(made, tmp_path):
    _, out = made
    lines(tmp_path / "text.jsonl", [{"text": text} for text in texts(6, seed=2)])
    found = limbeck.probe(str(out / "student"), data=str(tmp_path / "text.jsonl"), threads=1)
    assert found.readings["held_out"].n == 6


@pytest.mark.parametrize("model", ["student", "baselines/answers-seed0/student"])
def test_a_tuned_model_is_measured_on_no_prompt_of_its_training(made, here, tmp_path, capsys, model):
    _, out = made
    asked = [json.loads(line)["messages"][:1] for line in (here / "chat.jsonl").read_text().splitlines()]
    trained = [not is_held_out(Document("", messages=turns), fraction=0.1) for turns in asked]
    answered = [{"messages": [*turns, {"role": "assistant", "content": "other words"}]} for turns in asked]
    assert 0 < sum(trained) < len(asked)
    lines(tmp_path / "text.jsonl", [*answered, {"text": "the cat sat on a dog"}])
    found = limbeck.probe(str(out / model), data=str(tmp_path / "text.jsonl"), threads=1)
    assert found.readings["held_out"].n == len(asked) - sum(trained) + 1
    assert f"without {sum(trained)} whose prompts the run in" in " ".join(capsys.readouterr().err.split())
    lines(tmp_path / "trained.jsonl", list(compress(answered, trained)))
    with pytest.raises(BadCorpus, match="trained on the prompts of all"):
        limbeck.probe(str(out / model), data=str(tmp_path / "trained.jsonl"), threads=1)


def test_tokens_and_compute_are_those_of_sampling_too(made):
    _, out = made
    plan, rows = json.loads((out / "run.json").read_text())["plan"], read_lines(out / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, plan["steps"] + 1))
    for row in rows:
        assert row["rollouts"] == plan["rows"] == row["groups"] * SAMPLES
        assert row["rollouts"] <= row["rollout_tokens"] <= 6 * row["rollouts"]
        assert 0 <= row["reward_sum"] <= row["rollouts"]
    assert [row["tokens"] for row in rows] == _sums(rows)
    assert plan["tokens"] == sum(row["rollout_tokens"] for row in rows)
    of_answers = read_lines(out / "baselines" / "answers-seed0" / "metrics.jsonl")
    assert [row["tokens"] for row in of_answers] == _sums(of_answers)
    tokens = [sum(row["row_tokens"] for row in some) for some in (rows, of_answers)]
    each = (plan["flops"]["student"] / (tokens[0] + plan["tokens"]), plan["flops"]["answers"] / tokens[1])
    assert each[0] / each[1] == pytest.approx(2)  # of 3 forward passes in a step, and 3 to sample and to score
    assert plan["rates"] == {"student": 1e-3, "answers": pytest.approx(1e-2)}


def _sums(rows: list[dict[str, Any]]) -> list[int]:
    """The tokens read and generated up to each step."""
    return list(accumulate(row["row_tokens"] + row.get("rollout_tokens", 0) for row in rows))


def planned(here: Path, **keys: Any) -> RewardPlan:
    """The plan of a tuning, before any weights are read."""
    given = {
        "student": str(here / "model"),
        "reward": "checks",
        "samples": SAMPLES,
        "rollout_tokens": 6,
        "tokens": 10_000,
    }
    return RewardPlan.of(TuneSettings(**(given | keys)), Environment(alone(), bf16=False))


def sums(numbers: Iterable[int]) -> list[dict[str, str]]:
    return [{"prompt": f"{i}+{i}=", "answer": str(2 * i)} for i in numbers]


def test_a_prompt_that_is_held_out_too_is_not_trained_on(here, tmp_path):
    lines(tmp_path / "data.jsonl", sums(range(12)))
    lines(tmp_path / "eval.jsonl", sums(range(8, 20)))
    plan = planned(here, data=str(tmp_path / "data.jsonl"), eval_data=str(tmp_path / "eval.jsonl"))
    asked, held_out = ({one.prompt for one in side} for side in (plan.questions.train, plan.questions.held_out))
    assert (len(asked), len(held_out), len(plan.questions.known)) == (8, 12, 8)
    assert not asked & held_out
    assert "left out: 4 prompts to train on that are held out too" in plan.questions.notes()


def test_a_file_to_train_on_and_to_hold_out_leaves_nothing(here):
    data = str(here / "plain.jsonl")
    with pytest.raises(BadCorpus, match="prompts to train on, got none of 20, of which 20 are held out too"):
        planned(here, data=data, eval_data=data)


def test_held_out_prompts_beyond_the_most_are_chosen_by_their_hash_and_counted(here, tmp_path):
    rows = sums(range(MEASURED + 40))
    measured = []
    for name, order in (("one", 1), ("two", -1)):
        lines(tmp_path / f"{name}.jsonl", rows[::order])
        plan = planned(here, data=str(here / "chat.jsonl"), eval_data=str(tmp_path / f"{name}.jsonl"))
        measured.append({one.prompt for one in plan.questions.held_out})
    assert measured[0] == measured[1]
    assert len(measured[0]) == MEASURED
    notes = " ".join(plan.questions.notes())
    assert f"{MEASURED + 40} held out" in notes
    assert f"measured on {MEASURED} of the prompts held out, chosen by their hash; 40 are neither" in notes


def test_a_known_answer_that_does_not_fit_the_context_is_left_out(here, tmp_path):
    rows = [
        row | {"completion": " cat" * (300 if i < 3 else 40 if i == 3 else 1)} for i, row in enumerate(sums(range(20)))
    ]
    lines(tmp_path / "data.jsonl", rows)
    lines(tmp_path / "eval.jsonl", sums(range(50, 60)))
    given = {"data": str(tmp_path / "data.jsonl"), "eval_data": str(tmp_path / "eval.jsonl")}
    plan = planned(here, **given)
    lengths = [len(one.prompt) + len(one.answer) for one in plan.questions.known]
    assert (len(plan.questions.train), len(lengths)) == (20, 17)
    assert max(lengths) <= 128
    assert plan.longest == max(lengths) > plan.length
    assert planned(here, baselines="none", **given).longest == plan.length
    assert (
        "left out of the known answers: 3 that do not fit the model's context with their prompts"
        in plan.questions.notes()
    )
    lines(tmp_path / "data.jsonl", rows[:3])
    with pytest.raises(BadSetting, match="has one that fits the model's context"):
        planned(here, baselines="answers", **given)


@pytest.mark.long
def test_a_stopped_run_ends_as_one_that_was_not(made, here, tmp_path):
    _, out = made
    with stopped_before(2):
        tune(here, tmp_path / "run", save_every=1)
    tune(here, tmp_path / "run", save_every=1)
    for name in ("student", "baselines/answers-seed0/student"):
        ours, theirs = (load_file(folder / name / "model.safetensors") for folder in (tmp_path / "run", out))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    ours, theirs = (
        load_file(folder / "measurements" / "reward-student-seed0.safetensors") for folder in (tmp_path / "run", out)
    )
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.long
def test_adapters_are_trained_by_a_reward_of_all_checks(here, tmp_path):
    how: dict[str, Any] = {"trained": "lora", "rank": 2, "reward": "checks(all=true, beta=0)", "baselines": "none"}
    result = tune(here, tmp_path / "run", data=str(here / "plain.jsonl"), tokens=200, **how)
    assert (tmp_path / "run" / "adapter" / "adapter_config.json").is_file()
    assert list(result.readings) == ["cut", "student"]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["signature"]["reward"] == "checks(beta=0,all=true)"


@pytest.mark.long
def test_rationales_are_rewarded_by_the_known_answer(here, tmp_path):
    how: dict[str, Any] = {"reward": "latent(mark=1)", "data": str(here / "plain.jsonl"), "baselines": "none"}
    result = tune(here, tmp_path / "run", tokens=300, **how)
    assert result.readings["student"]["reward"].value < 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["signature"]["reward"] == "latent(mark=1)"
    notes = " ".join(json.loads((tmp_path / "run" / "verdict.json").read_text())["notes"])
    assert "Rationales that have the known answer in them went from" in notes
    rows = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert all(0 <= row["contain_answer"] <= row["rollouts"] for row in rows)


@pytest.mark.long
def test_the_best_of_several_rates_trains_each_arm_and_a_stopped_trial_is_continued(here, tmp_path):
    """What chose a rate judges nothing; the chosen training is that of the rate alone, and a killed one comes to the same."""
    rates: dict[str, Any] = {"lr": "1e-3,3e-1", "data": str(_many(here, tmp_path)), "tokens": 1400, "save_every": 1}
    with stopped_before(1):
        tune(here, tmp_path / "run", **rates)
    tune(here, tmp_path / "run", **rates)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    trials = run["trials"]
    assert [(one["what"], one["rate"]) for one in trials] == [
        *(("student", rate) for rate in (1e-3, 3e-1)),
        *(("answers", rate) for rate in (1e-2, 1.0)),
    ]
    for name in ("student", "answers"):
        own = {one["rate"]: one["reward"] for one in trials if one["what"] == name}
        assert run["rates"][name] == max(own, key=lambda rate: own[rate])
        assert len(set(own.values())) == 2
    assert run["plan"]["rates"] == run["rates"]
    assert "held-out prompts choose the learning rate, and judge nothing" in " ".join(run["read"])
    assert not (tmp_path / "run" / "rates").exists()
    alone = tmp_path / "alone"
    tune(here, alone, **rates | {"lr": run["rates"]["student"], "baselines": "none"})
    names = ("run", "alone")
    one, other = (load_file(tmp_path / name / "student" / "model.safetensors") for name in names)
    assert all(torch.equal(one[name], other[name]) for name in one)
    notes = " ".join(json.loads((tmp_path / "run" / "verdict.json").read_text())["notes"]).lower()
    assert "the learning rate of the tuning by the reward is the best of 2" in notes
    assert "the learning rate of cross-entropy on known answers is the best of 2" in notes


def _many(here: Path, folder: Path) -> Path:
    """The prompts with others, so that some are held out to choose by."""
    rows = [json.loads(line) for line in (here / "chat.jsonl").read_text().splitlines()]
    turns = [{"role": "user", "content": text[:14]} for text in texts(60, seed=6)]
    return lines(folder / "many.jsonl", [*rows, *({"messages": [turn]} | SHORT for turn in turns)])


def test_prompts_that_choose_a_rate_are_apart_from_those_that_judge(here, tmp_path):
    keys = {"data": str(_many(here, tmp_path)), "reward": "checks", "rollout_tokens": 2, "out": tmp_path / "run"}
    model = llama(seed=1)
    model.tokenizer.chat_template = CHAT
    one, several = (questions_of(TuneSettings(student="a", lr=lr, **keys), model) for lr in (1e-3, "1e-3,1e-2"))
    assert not one.choosing
    assert 0 < len(several.choosing) <= len(one.held_out) / 3
    both = [question.name for question in (*several.held_out, *several.choosing)]
    assert sorted(both) == sorted(question.name for question in one.held_out)
    assert several.digest == one.digest


def test_several_rates_need_prompts_to_choose_by(here, tmp_path):
    lines(tmp_path / "few.jsonl", [{"prompt": "1+1=", "answer": "2"}, {"prompt": "1+2=", "answer": "3"}])
    with pytest.raises(BadCorpus, match=r"--lr with several rates: expected 3 held-out prompts or more.*got 2"):
        tune(here, tmp_path / "run", lr="1e-3,1e-2", eval_data=str(tmp_path / "few.jsonl"))


def test_known_answers_are_found_in_records(tmp_path):
    rows = [
        {"prompt": "1+1=", "completion": "one and one, #### 2"},
        {"prompt": "1+2=", "completion": "3"},
        {"prompt": "1+3=", "answer": [4, 5]},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "the answer is: 7"}]},
        {"prompt": "none"},
    ]
    lines(tmp_path / "rows.jsonl", rows)
    prompts = prompts_of(str(tmp_path / "rows.jsonl"), columns=Columns(prompts=True))
    assert [known_answer(one, whole=False) for one in prompts] == ["2", "3", "4", "7", None]
    assert [known_answer(one) for one in prompts] == ["one and one, #### 2", "3", "4", "the answer is: 7", None]


@pytest.mark.parametrize(
    ("keys", "error", "words"),
    [
        ({"samples": 1}, BadSetting, "an answer is compared with the others of its prompt"),
        ({"objective": "DPO"}, BadSetting, "--objective does not go with --reward checks"),
        ({"seq_len": 64}, BadSetting, "--seq-len does not go with --reward checks: rows are as long as a prompt"),
        ({"eval_every": 2}, BadSetting, "says nothing of a reward"),
        ({"trained": "lora-xs"}, BadSetting, "--trained lora-xs"),
        ({"baselines": "full"}, BadSetting, "with --reward checks there is answers"),
        ({"tokens": 20}, BadSetting, "is less than one step of"),
        ({"reward": None}, BadSetting, "--samples: it says how answers are sampled for a reward"),
        ({"reward": "check"}, BadSetting, "expected a reward, such as checks"),
        ({"reward": "checks(gamma=1)"}, BadSetting, "checks has no option 'gamma'"),
        ({"reward": "checks(beta=-1)"}, BadSetting, "expected beta to be a number of at least 0"),
        ({"reward": "latent(mark=)"}, BadSetting, "expected mark to be a text"),
        ({"reward": "checks(all=1)"}, BadSetting, "expected all=true or all=false"),
        ({"rollout_tokens": 0}, BadSetting, "--rollout-tokens: expected more than 0, got 0"),
        ({"rollout_tokens": 126}, Mismatch, "has room for 126 tokens more"),
    ],
)
def test_what_does_not_fit_is_refused(here, tmp_path, keys, error, words):
    with pytest.raises(error) as caught:
        tune(here, tmp_path / "run", **keys)
    assert words in str(caught.value)
    assert not (tmp_path / "run" / "student").exists()


@pytest.mark.parametrize(
    ("rows", "error", "words"),
    [
        ([{"text": "the cat sat"}], BadTask, "expected prompts with a check"),
        ([{"prompt": "the cat"}], BadTask, "expected prompts with a check"),
        ([{"other": 1, "answer": "2"}], LimbeckError, "expected 'text' or 'messages' or 'prompt'"),
        ([{"prompt": "1+1=", "answer": ""}], BadTask, "expected 'answer' to be a text or a number"),
        ([{"prompt": "1+1=", "answer": "2"}], BadCorpus, "expected prompts to"),
        ([{"prompt": f"{i}+1=", **WORDS} for i in range(9)], BadSetting, "--baselines answers: it learns the answers"),
    ],
)
def test_faulty_records_are_refused(here, tmp_path, rows, error, words):
    lines(tmp_path / "rows.jsonl", rows)
    with pytest.raises(error) as caught:
        tune(here, tmp_path / "run", data=str(tmp_path / "rows.jsonl"), baselines="answers")
    assert words in str(caught.value)


def test_questions_without_answers_give_no_likelihood(here, tmp_path):
    lines(tmp_path / "rows.jsonl", [{"prompt": "the cat"}])
    with pytest.raises(BadTask, match="expected prompts with a known answer, an 'answer' or a completion"):
        tune(here, tmp_path / "run", data=str(tmp_path / "rows.jsonl"), reward="latent")


def test_a_template_that_begins_no_turn_is_refused(here, tmp_path):
    tok = tokenizer()
    tok.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    save(llama(tok=tok, seed=3), tmp_path / "model")
    with pytest.raises(BadCorpus, match="expected a chat template that begins an assistant's turn"):
        tune(here, tmp_path / "run", student=str(tmp_path / "model"))


def test_a_baseline_of_a_reward_needs_one(here, tmp_path):
    with pytest.raises(BadSetting, match="--baselines answers: it learns the answers of prompts"):
        limbeck.tune(student=str(here / "model"), data=str(here / "chat.jsonl"), baselines="answers", out=tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("lr", ["1e-3", "1e-3,3e-3"])
def test_two_processes_sample_what_one_samples(here, tmp_path, lr):
    text = f"--reward checks --samples 3 --rollout-tokens 6 --tokens 900 --batch-tokens 190 --lr {lr} --threads 1"
    data = _many(here, tmp_path)
    one = [*f"limbeck tune --student {here}/model --data {data} --baselines none {text}".split(), "--out"]
    alone = subprocess.run([sys.executable, "-m", *one, str(tmp_path / "one")], capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr
    two = on_two_ranks([sys.executable, "-m", *one, str(tmp_path / "two")])
    assert two.returncode == 0, two.stderr
    rows = [read_lines(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    for name in ("loss_nats", "reward_sum", "rollout_tokens", "groups", "kl_sum"):
        assert [row[name] for row in rows[1]] == pytest.approx([row[name] for row in rows[0]], rel=1e-4, abs=1e-5)
    runs = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("one", "two")]
    assert runs[0]["rates"] == runs[1]["rates"]
