"""The recipe minichat: known answers and their corruption, the judge's marks, and the criteria."""

import numpy as np
import pytest
import torch

import limbeck
from limbeck.papers.lab.answers import prompt_of
from limbeck.papers.lab.instructions import TEMPLATE
from limbeck.papers.minichat import judge
from limbeck.papers.minichat.judge import CORRUPTED, RIGHT, known_answers, marks
from limbeck.papers.minichat.judging import admission, judge_checks, judge_marks, judge_teacher
from limbeck.papers.minichat.recipe import CHAT, FLOPS, SIZES, TEACHER, TOKENS, UNTUNED
from tests.helpers.models import llama, tokenizer


def row(question, answer, module="m"):
    return {
        "module": module,
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
    }


ROWS = [
    row("What does a.b do?", "It does one thing."),
    row("How is a.b called?", "b(x, y=1)"),
    row("What does a.c do?", "It does another thing well."),
    row("How is a.c called?", "c(x)"),
    row("What does a.d do?", "It does one thing."),
]


def test_known_answers_are_corrupted_in_four_ways():
    right = known_answers(ROWS, RIGHT)
    assert right == [(one["messages"][1]["content"], True) for one in ROWS]
    other = [text for text, _ in known_answers(ROWS, "of another question")]
    assert other == [
        right[2][0],
        right[3][0],
        right[4][0],
        right[1][0],
        right[2][0],
    ]  # of the same form, and another text
    mixed = known_answers(ROWS, "words in another order")
    assert [sorted(text.split()) for text, _ in mixed] == [sorted(text.split()) for text, _ in right]
    assert mixed[2] != right[2]
    assert mixed == known_answers(ROWS, "words in another order")
    assert known_answers(ROWS, "cut in half")[1] == ("b(x,", True)
    assert {text for text, _ in known_answers(ROWS, "empty")} == {""}
    assert set(CORRUPTED) == {"of another question", "words in another order", "cut in half", "empty"}


def test_a_mark_is_the_log_probability_of_a_token_of_the_answer_with_its_end(monkeypatch):
    model = llama(seed=3, tok=tokenizer(300))
    model.tokenizer.chat_template = TEMPLATE
    monkeypatch.setattr(judge, "_AT_ONCE", 2)
    questions = [one["messages"][0]["content"] for one in ROWS[:4]]
    answers = [("It does.", True), ("b(x)", False), ("", True), ("", False)]
    found = marks(model, questions, answers)
    for question, (text, ended), mark in zip(questions, answers, found, strict=True):
        prompt = prompt_of(model, question)
        ids = model.tokenizer(f" {text}", add_special_tokens=False)["input_ids"] if text else []
        ids = [*ids, model.end] if ended else ids
        if not ids:
            assert mark == -np.inf
            continue
        with torch.no_grad():
            log_p = model.model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0].log_softmax(-1)
        own = [float(log_p[len(prompt) + i - 1, token]) for i, token in enumerate(ids)]
        assert mark == pytest.approx(np.mean(own), rel=1e-4)


def losses(share, seeds=3, modules=1000, spread=0.0):
    """Checks that pass: (seeds, modules, 2)."""
    random = np.random.default_rng(1)
    asked = np.full((seeds, modules), 20.0)
    passed = random.binomial(20, share, (seeds, modules)) + spread * np.arange(-1, seeds - 1)[:, None]
    return np.stack([passed, asked], -1)


def test_the_student_has_to_beat_both_from_scratch():
    chat = losses(0.6)
    both = {TOKENS: losses(0.5), FLOPS: losses(0.4)}
    assert judge_checks(chat, both).verdict == "confirmed"
    assert judge_checks(chat, both | {FLOPS: losses(0.7)}).verdict == "refuted"
    assert judge_checks(chat, both | {FLOPS: losses(0.58, spread=3.0)}).verdict == "inconclusive"
    assert judge_teacher(chat, losses(0.62)).verdict == "confirmed"
    assert judge_teacher(chat, losses(0.8)).verdict == "refuted"
    assert judge_teacher(chat, losses(0.62, spread=4.0)).verdict == "inconclusive"


def test_a_judge_counts_once_it_prefers_right_answers_to_each_kind_of_corrupted_ones():
    right = np.zeros(200)
    good = admission(right, {kind: np.full(200, -1.0) for kind in CORRUPTED})
    assert all(one.value == 1 for one in good.values())
    half = np.where(np.arange(200) % 4 == 0, 1.0, -1.0)
    poor = admission(right, dict.fromkeys(CORRUPTED, np.full(200, -1.0)) | {"empty": half})
    assert poor["empty"].value == 0.75
    wins = {name: losses(0.7) - np.array([10.0, 0.0]) for name in (TOKENS, FLOPS)}
    assert judge_marks(wins, good).verdict == "confirmed"
    found = judge_marks(wins, poor)
    assert found.verdict == "inconclusive"
    assert "the judge is not admitted" in found.seen
    worse = {name: losses(0.3) - np.array([10.0, 0.0]) for name in (TOKENS, FLOPS)}
    assert judge_marks(worse, good).verdict == "refuted"
    assert admission(right, {"empty": right})["empty"].value == 0  # a tie is no preference


def test_the_judge_is_larger_than_the_planned_teacher_at_each_scale():
    for size in SIZES.values():
        assert size.teachers[-1] > 2.5 * size.student
        assert size.teachers[0] < 2.5 * size.student < size.teachers[-1]


@pytest.mark.recipe
def test_the_recipe_runs_and_continues(tmp_path):
    keys = {"scale": "smoke", "out": tmp_path / "out", "seeds": 2, "workers": 1}
    first = limbeck.reproduce("minichat", **keys)
    assert {one["verdict"] for one in first.judged} == {"inconclusive"}
    assert set(first.numbers["checks_passed"]) == {CHAT, TOKENS, FLOPS, TEACHER, UNTUNED}
    assert set(first.numbers["right_preferred"]) == set(CORRUPTED)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.npy")}
    again = limbeck.reproduce("minichat", **keys)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert again.judged == first.judged
