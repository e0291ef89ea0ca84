"""`limbeck rank`: which rationale comes first, what is left out of one, the file, and what is refused."""

import json
import sys
from pathlib import Path

import pytest
import torch

from limbeck import cli
from limbeck.corpora.tasks.final import final_answer, split_final
from limbeck.disk import read_lines
from limbeck.jobs.rank import job
from limbeck.jobs.rank.rationales import rationale_of
from limbeck.models.load import load
from limbeck.models.save import save
from tests.helpers.models import llama, tokenizer
from tests.jobs.test_generated import CHAT, lines


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rank") / "student"
    tok = tokenizer()
    tok.chat_template = CHAT
    save(llama(tok=tok, seed=3), folder)
    return folder


@pytest.fixture
def limbeck(monkeypatch, capsys):
    """Runs the command line in this process; gives (exit status, stdout, stderr)."""

    def run(*argv):
        monkeypatch.setattr(sys, "argv", ["limbeck", *map(str, argv)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("completion", "known", "expected"),
    [
        ("3+4=7. 7-2=5. The answer is 5", None, ("3+4=7. ", "answer is ", "5", False)),
        ("3+4=7. 7-2=5. The answer is 5", "7", ("", "answer is ", "7", False)),
        ("two and two\n#### 4", None, ("two and two\n", "#### ", "4", True)),
        ("so \\boxed{12} it is", None, ("so ", "\\boxed{", "12", True)),
        ("first 3, then 4", "4", ("", "Thus: ", "4", False)),
        ("nothing of it", "4", ("nothing of it\n", "Thus: ", "4", True)),
        ("it is 45 or 4.5", "4", ("it is 45 or 4.5\n", "Thus: ", "4", True)),
        ("9 and 9", "9", ("9 and 9\n", "Thus: ", "9", True)),  # which the question has
        ("2 at 600: 1,200. So it is. The answer is 1200", "1200", ("", "answer is ", "1200", False)),
        ("It rained. Yes, since it is wet. #### yes", "yes", ("It rained. ", "#### ", "yes", False)),
        ("two. three #### 12", "6 * 2 = 12 #### 12", ("two. three ", "#### ", "12", True)),  # a worked answer
        ("no mark", None, None),
    ],
)
def test_a_rationale_is_read_up_to_where_it_states_the_answer(completion, known, expected):
    found = rationale_of("what is 9?", completion, known=known, mark="Thus:")
    assert (found and (found.thought, found.mark, found.answer, found.whole)) == expected


@pytest.mark.parametrize("text", ["a #### 4", "the answer is: x y.\nmore", "\\boxed{\\frac{1}{2}}", "none", "answer: "])
def test_a_final_answer_and_what_stands_before_it_are_parts_of_the_text(text):
    found = split_final(text)
    assert final_answer(text) == (found and found[2])
    if found:
        assert text.startswith("".join(found))


def nats(model, *parts):
    """log q of the last part after the others."""
    tok = model.tokenizer
    ids = [tok(part, add_special_tokens=False)["input_ids"] for part in parts]
    whole = torch.tensor([[token for some in ids for token in some]])
    log_q = model.model(input_ids=whole).logits[0, :, : model.vocab].log_softmax(-1)
    size = len(ids[-1])
    return float(log_q[-size - 1 : -1].gather(-1, whole[0, -size:, None]).sum())


@pytest.mark.long
def test_the_best_rationale_is_written_first(limbeck, student, tmp_path, monkeypatch):
    thoughts = ["the cat sat", "a mat while one dog ran", "two red birds", "rain and sun"]
    asked = [{"role": "user", "content": "how many?"}]
    rows = [
        {"messages": [*asked, {"role": "assistant", "content": f"{thought}. #### 12"}], "document": f"old:{i}"}
        for i, thought in enumerate(thoughts)
    ]
    rows.append({"prompt": "else", "completion": "only one #### 3", "answer": 3})
    rows.append({"prompt": "else", "completion": "no answer at all"})
    rows.append({"prompt": "else", "completion": "three apples. The answer is 4", "answer": 3})
    rows.append({"prompt": "else", "completion": 7})
    lines(tmp_path / "rows.jsonl", rows)
    out = tmp_path / "new" / "ranked.jsonl"
    how = ("--student", student, "--data", tmp_path / "rows.jsonl", "--threads", 1, "--skip-bad", 1)
    status, shown, _ = limbeck("rank", *how, "--keep", 2, "--out", out)
    assert status == 0
    assert "3 of 5 completions of 2 prompts are written" in shown
    assert "1 prompts have one completion" in shown
    assert "left out: 1 completions without an answer" in shown
    assert "left out: 1 completion whose final answer is not the known one" in shown
    assert "skipped: 1 record that cannot be read" in shown

    model = load(student)
    before = "<|bos|>user: how many?<|eos|><|bos|>assistant: "
    alone = nats(model, before, "####", " 12")
    gains = [nats(model, before, f"{thought}. ####", " 12") - alone for thought in thoughts]
    best = sorted(range(4), key=lambda i: -gains[i])[:2]
    found = read_lines(out)
    assert [row["messages"][-1]["content"] for row in found[:2]] == [f"{thoughts[i]}. #### 12" for i in best]
    assert [row["gain_nats"] for row in found[:2]] == pytest.approx([gains[i] for i in best], abs=2e-3)
    assert [(row["place"], row["among"]) for row in found] == [(1, 4), (2, 4), (1, 1)]
    assert found[2]["answer"] == "3"

    status, shown, _ = limbeck("rank", *how, "--keep", 2, "--out", out, "--json")  # the same again
    result = json.loads(shown)
    assert [result[name] for name in ("written", "completions", "wrong", "left_out", "skipped")] == [3, 5, 1, 1, 1]
    monkeypatch.setattr(job, "position_scores", None)  # nothing is scored where the file is another one
    status, _, err = limbeck("rank", *how, "--out", out)
    assert status == 2
    assert "is there already, with another content" in err


@pytest.mark.parametrize("content", ["", "[]\n", "no json\n", '{"gain_nats": 1.0}\n'])
def test_a_file_of_something_else_is_refused_before_the_scoring(limbeck, student, tmp_path, monkeypatch, content):
    lines(tmp_path / "rows.jsonl", [{"prompt": "else", "completion": "only one #### 3"}])
    (tmp_path / "out").write_text(content)
    monkeypatch.setattr(job, "position_scores", None)
    status, _, err = limbeck("rank", "--student", student, "--data", tmp_path / "rows.jsonl", "--out", tmp_path / "out")
    assert status == 2
    assert "is there already, with another content" in err
    assert (tmp_path / "out").read_text() == content


def test_a_ranking_by_another_student_is_refused_before_the_scoring(limbeck, student, tmp_path, monkeypatch):
    rows = [{"prompt": f"ask {i}", "completion": f"rain and sun {i} #### many birds"} for i in range(20)]
    lines(tmp_path / "rows.jsonl", rows)
    how = ("--data", tmp_path / "rows.jsonl", "--threads", 1, "--out", tmp_path / "out")
    assert limbeck("rank", "--student", student, *how)[0] == 0
    save(llama(tok=tokenizer(), seed=4), tmp_path / "other")
    scored, gains = [], job._gains
    monkeypatch.setattr(job, "_gains", lambda model, some, **how: scored.append(len(some)) or gains(model, some, **how))
    status, _, err = limbeck("rank", "--student", tmp_path / "other", *how)
    assert status == 2
    assert "is there already, with another content" in err
    assert scored == [8]


def test_of_several_known_answers_that_which_a_completion_ends_in_counts(limbeck, student, tmp_path):
    lines(
        tmp_path / "rows.jsonl", [{"prompt": "how many?", "completion": "so #### twelve", "answer": ["12", "twelve"]}]
    )
    how = ("--student", student, "--data", tmp_path / "rows.jsonl", "--threads", 1)
    assert limbeck("rank", *how, "--out", tmp_path / "out")[0] == 0
    assert read_lines(tmp_path / "out")[0]["answer"] == "twelve"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"prompt": "a", "completion": "b"}], "expected completions with an answer"),
        ([{"prompt": "a"}], "expected completions with an answer"),
        ([{"prompt": "a", "completion": "#### 13", "answer": 12}], "got another in all 1"),
        ([{"prompt": "a", "completion": "the cat " * 99 + "#### 4"}], "fits the context of student"),
    ],
)
def test_what_cannot_be_ranked_is_refused(limbeck, student, tmp_path, rows, words):
    lines(tmp_path / "rows.jsonl", rows)
    status, _, err = limbeck("rank", "--student", student, "--data", tmp_path / "rows.jsonl", "--out", tmp_path / "out")
    assert status == 2
    assert words in err
    assert not (tmp_path / "out").exists()
