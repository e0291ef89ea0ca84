"""Worked problems in formats: what is rendered is read back, wrong solutions are left out, `--data formats:` reads them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.corpora import Columns, build_stores, is_held_out, prompts_of, read, require_rows
from limbeck.corpora.document import PROMPTS_HELD_OUT
from limbeck.corpora.faults import BadRecords
from limbeck.corpora.found import notes_of
from limbeck.corpora.problem_formats import (
    KINDS,
    Example,
    Problem,
    Wording,
    examples,
    parse,
    with_right_solutions,
)
from limbeck.corpora.tasks.checked_prompts import checked_of
from limbeck.errors import BadCorpus, BadRecord, BadSetting
from limbeck.papers.lab.lines import characters

TEXT = st.text(alphabet="ab 7.?\n", min_size=1, max_size=12)
SHORT = Wording(asks="", answers=">", thinks="~", gap="", between="|")
PROBLEMS = [Problem(f"{n}+{n}?", str(2 * n), (f"{n} twice. The answer is {2 * n}", f"#### {2 * n}")) for n in range(9)]


@given(
    st.sampled_from(KINDS), TEXT, TEXT, st.lists(st.tuples(TEXT, TEXT), max_size=3), st.sampled_from([Wording(), SHORT])
)
def test_what_is_rendered_is_read_back(kind, question, target, shots, wording):
    example = Example(kind, question, target, tuple(shots) if kind.startswith("ic") else ())
    assert parse(kind, example.prompt(wording), example.completion(wording), wording) == example


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [("3?", " 7"), ("Q: 3?\nA: 7", " 7"), ("Q: 3?\nA:", "7"), ("", ""), ("Q: \n\nQ: 3?\nA:", " 7")],
)
def test_texts_that_show_no_example_are_refused(prompt, completion):
    with pytest.raises(BadRecord, match="expected a prompt of zs_ao"):
        parse("zs_ao", prompt, completion)


def test_a_text_with_the_signs_around_it_is_refused():
    with pytest.raises(BadRecord, match="expected texts without"):
        list(examples([Problem("3?\nA: 4", "7", ("7",))], ("zs_ao",)))


def test_every_problem_is_in_every_format_and_shots_are_others():
    found = list(examples(PROBLEMS, KINDS, shots=3, seed=5))
    assert [one.kind for one in found[:6]] == ["zs_ao", "zs_cot", "zs_cot", "ic_ao", "ic_cot", "ic_cot"]
    assert len(found) == 6 * len(PROBLEMS)
    answers = {problem.question: problem.answer for problem in PROBLEMS}
    solutions = {problem.question: problem.solutions for problem in PROBLEMS}
    for one in found:
        assert len(one.shots) == (3 if one.kind.startswith("ic") else 0)
        assert one.question not in dict(one.shots)
        for question, target in (*one.shots, (one.question, one.target)):
            assert target in (solutions[question] if one.kind.endswith("cot") else [answers[question]])
    assert found == list(examples(PROBLEMS, KINDS, shots=3, seed=5))
    assert len({one.shots for one in found if one.kind == "ic_cot"}) > len(PROBLEMS)


def test_shots_come_from_the_pool_and_a_pool_too_small_is_refused():
    pool = PROBLEMS[:3]
    shown = {q for one in examples(PROBLEMS[3:], ("ic_ao",), shots=2, pool=pool) for q, _ in one.shots}
    assert shown <= {problem.question for problem in pool}
    for shots, some in ((3, pool), (0, pool)):
        with pytest.raises(BadSetting, match="fewer than the 3 problems"):
            list(examples(PROBLEMS, ("ic_ao",), shots=shots, pool=some))
    with pytest.raises(BadSetting, match="expected 2 questions beside"):
        list(examples(pool[:1], ("ic_ao",), shots=2, pool=pool[:1] * 5))


def test_only_right_solutions_are_used_and_questions_without_any_are_counted():
    wrong = [Problem("5?", "5", ("The answer is 6",)), Problem("6?", "6", ("#### 6", "#### 7"))]
    found, dropped = with_right_solutions([*PROBLEMS, *wrong], where="a file")
    assert dropped == 1
    assert found == [*PROBLEMS, Problem("6?", "6", ("#### 6",))]
    with pytest.raises(BadCorpus, match=r"of at least half of the questions, got none of 2 of 3, the first '5\?'"):
        with_right_solutions([wrong[0], wrong[0], PROBLEMS[0]], where="a file")


@pytest.fixture
def problems(tmp_path):
    rows = [
        {"question": f"{n}+1?", "answer": n + 1, "solutions": [f"The answer is {n + 1}", "#### 0"]} for n in range(80)
    ]
    rows.append({"question": "What is 3?", "answer": "It is 3.\n#### 3"})  # as GSM8K has it
    rows.append({"question": "wrong?", "answer": "1", "solutions": []})
    file = tmp_path / "problems.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_source_gives_prompts_with_completions_and_a_question_is_on_one_side(problems):
    found = list(read(f"formats:zs_ao+ic_cot@2:{problems}"))
    assert [one.form for one in found].count("zs_ao") == [one.form for one in found].count("ic_cot") == 81
    texts = [(one.text[: one.prompt], one.text[one.prompt :]) for one in found]
    assert ("Q: What is 3?\nA:", " 3") in texts
    assert all(
        len(parse(one.form, *text).shots) == 2 * (one.form == "ic_cot") for one, text in zip(found, texts, strict=True)
    )
    sides = {}
    for one, text in zip(found, texts, strict=True):
        sides.setdefault(one.question, set()).add(is_held_out(one, fraction=0.05))
        shown = {question for question, _ in parse(one.form, *text).shots}
        assert not any(is_held_out(other, fraction=PROMPTS_HELD_OUT) for other in found if other.question in shown)
    assert all(len(side) == 1 for side in sides.values())
    assert {True} in sides.values()


def test_a_store_says_what_was_dropped_and_rows_must_hold_all_shots(problems, tmp_path):
    store, _ = build_stores(f"formats:ic_cot@3:{problems}", characters(), tmp_path / "data")
    assert "dropped: 1 question of problems.jsonl without a right solution" in notes_of(store)
    longest = int((store.starts[1:] - store.starts[:-1]).max())
    require_rows(store, length=longest - 1)
    with pytest.raises(BadCorpus, match=r"problems with their shots to fit into rows of .* fewer shots"):
        require_rows(store, length=longest - 2)


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("formats:zs_all:{}", BadSetting, "got 'zs_all'"),
        ("formats:zs_cot@3:{}", BadSetting, "which zs_cot do not have"),
        ("formats:zs_cot:{}.txt", BadCorpus, "a path that does not exist"),
        ("formats:", BadCorpus, "expected a .jsonl or .json file of problems"),
    ],
)
def test_wrong_formats_and_files_are_refused(problems, source, error, words):
    with pytest.raises(error, match=words):
        list(read(source.format(problems)))


def test_a_record_that_is_no_problem_is_named(tmp_path):
    file = tmp_path / "problems.jsonl"
    file.write_text('{"question": "3?", "answer": "3"}\n')
    with pytest.raises(BadCorpus, match=r"problems.jsonl:1: expected 'solutions' to be a list of texts"):
        list(read(f"formats:{file}"))


FAULTY = (
    ("Which?\nA: 5\nB: 6", "#### 6", "zs_ao", True),
    ("Which?\nA: 5\nB: 6", "#### 6", "ic_ao@2", True),
    ("Which?\nA: 5\nB: 6", "#### 6", "zs_cot+ic_cot@2", False),
    ("3?", "It is 3.\n\nQ: 4?\n#### 3", "ic_cot@2", True),  # as a shot it would be two
    ("3?", "It is 3.\n\nQ: 4?\n#### 3", "zs_cot", False),
)


@pytest.mark.parametrize(("question", "answer", "formats", "faulty"), FAULTY)
@pytest.mark.parametrize("prompts", [False, True])
def test_one_question_with_the_signs_around_it_is_named_and_skipped(
    tmp_path, question, answer, formats, faulty, prompts
):
    file = tmp_path / "problems.jsonl"
    rows = [{"question": f"{n}?", "answer": f"#### {n}"} for n in range(30)]
    rows[11] = {"question": question, "answer": answer}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    bad = BadRecords(1)
    found = list(read(f"formats:{formats}:{file}", Columns(prompts=prompts), bad))
    assert len(found) == (30 - faulty) * (1 + formats.count("+"))
    assert bad.count == faulty
    assert all("problems.jsonl:12: the question" in one and "expected texts without" in one for one in bad.first)


def test_shots_without_solutions_are_of_all_problems(tmp_path):
    file = tmp_path / "problems.jsonl"
    file.write_text("".join(json.dumps({"question": f"{n}?", "answer": str(n)}) + "\n" for n in range(30)))
    found = prompts_of(f"formats:ic_ao@2:{file}", columns=Columns(prompts=True))
    assert [len(parse("ic_ao", one.asked, " ").shots) for one in found] == [2] * 30
    with pytest.raises(BadSetting, match="fewer than the 0 problems with solutions"):
        prompts_of(f"formats:ic_cot@2:{file}", columns=Columns(prompts=True))


def test_prompts_alone_have_their_check_and_need_no_solutions(tmp_path):
    file = tmp_path / "problems.jsonl"
    file.write_text('{"question": "3?", "answer": "3"}\n{"question": "4?", "answer": "#### 4"}\n')
    found = prompts_of(f"formats:zs_ao+zs_cot:{file}", columns=Columns(prompts=True))
    assert [one.asked for one in found[:2]] == ["Q: 3?\nA:", "Q: 3?\nA: Let's think step by step."]
    right = [
        checked_of(one).passes(text, ended=True) for one in found for text in (" 3", "so 2 and 1. The answer is 4")
    ]
    assert right == [True, False, True, False, False, True, False, True]
