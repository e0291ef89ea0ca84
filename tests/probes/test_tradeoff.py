"""The probe tradeoff: gains on a target and losses on guards, of prompts with answers and of text."""

import json
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

import limbeck
from limbeck.config import ProbeSettings
from limbeck.errors import BadCorpus, BadSetting
from limbeck.generation.served import STOP
from limbeck.probes import tradeoff
from limbeck.probes.tradeoff import Scored, names_of, probe_tradeoff, scored
from tests.helpers.models import llama, write_corpus, write_teacher

RIGHT = np.array([1, 1, 1, 0, 1, 0, 1, 1, 1, 0], dtype=float)
ONES = np.ones(10)


@dataclass
class Context:
    target: str | None = None
    guard: tuple[str, ...] | None = None
    notes: list[str] = field(default_factory=list)

    def note(self, text):
        self.notes.append(text)


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_a_gain_is_more_passes_or_fewer_nats():
    gain = Scored(RIGHT, ONES, "share").better_than(Scored(np.zeros(10), ONES, "share"))
    assert gain.value == pytest.approx(0.7)
    assert gain.low > 0
    same = Scored(RIGHT, ONES, "share").better_than(Scored(RIGHT, ONES, "share"))
    assert same.low < same.value == 0 < same.high
    tokens = np.arange(1.0, 11.0)
    fewer = Scored(2 * tokens, tokens, "nats/token").better_than(Scored(2.5 * tokens, tokens, "nats/token"))
    assert fewer.value == pytest.approx(0.5)
    assert Scored(2 * tokens, tokens, "nats/token").level.value == pytest.approx(2)


def test_passes_and_nats_are_read_of_a_target_and_guards(tmp_path, monkeypatch):
    model, parent = llama(seed=1), llama(seed=2)
    sums = write(tmp_path / "sums.jsonl", [{"prompt": f"{n}+1=", "answer": str(n + 1)} for n in range(6)])
    text = write(
        tmp_path / "text.jsonl", [{"text": "the cat sat on a mat"}, {"text": "a dog ran"}, {"text": "two birds"}]
    )
    passing = {id(model): [True] * 6, id(parent): [True, True, False, False, False, False]}
    monkeypatch.setattr(
        tradeoff,
        "_passes",
        lambda one, prompts, checks: Scored(np.array(passing[id(one)], float), np.ones(len(prompts)), "share"),
    )
    context = Context(sums, (text, text))
    found = {one.name: one for one in probe_tradeoff(model, parent, context)}
    assert found["sums"].value == 1
    assert found["gain_on_sums"].value == pytest.approx(4 / 6)
    loss = found["loss_on_text"]
    assert loss.value == pytest.approx(found["text"].value - found["parent_text"].value)
    assert (loss.unit, loss.n) == ("nats/token", 3)
    assert found["loss_on_text_2"].value == loss.value
    assert context.notes[0].startswith("gain on")
    assert "+66.7 points" in context.notes[0]


@pytest.mark.long
def test_nats_of_a_text_are_those_of_the_probe_of_likelihood(tmp_path):
    write_teacher(tmp_path)
    write_corpus(tmp_path)
    text, teacher = str(tmp_path / "text.jsonl"), str(tmp_path / "teacher")
    keys = {"device": "cpu", "threads": 1}
    found = limbeck.probe(teacher, teacher=teacher, probe="tradeoff", target=text, guard=text, **keys)["readings"]
    whole = limbeck.probe(teacher, data=text, **keys)["readings"]
    assert found["gain_on_text"]["value"] == 0
    assert found["text"]["value"] == pytest.approx(whole["held_out"]["value"], rel=0.2)  # of other rows


def test_completions_are_generated_and_checked(tmp_path):
    model = llama(seed=1)
    prompts = write(tmp_path / "sums.jsonl", [{"prompt": "the cat", "answer": "7"}, {"prompt": "a dog", "answer": "8"}])
    (found,) = scored(prompts, model)
    assert (found.unit, found.sums.tolist(), found.counts.tolist()) == ("share", [0, 0], [1, 1])


@pytest.mark.parametrize(
    ("text", "finish", "passed"), [("", "length", 0), ("7", "length", 0), ("7", STOP, 1), ("", STOP, 0)]
)
def test_a_completion_passes_if_it_ended_with_the_right_answer(tmp_path, monkeypatch, text, finish, passed):
    prompts = write(tmp_path / "sums.jsonl", [{"prompt": "the cat", "answer": "7"}])
    answer = SimpleNamespace(text=text, finish=finish)
    monkeypatch.setattr(tradeoff, "greedy_answers", lambda model, tokens, most: [answer] * len(tokens))
    (found,) = scored(prompts, llama(seed=1))
    assert found.sums.tolist() == [passed]


def test_what_is_missing_is_named(tmp_path):
    model = llama(seed=1)
    for parent, context, words in (
        (None, Context("a", ("b",)), "give that with --teacher"),
        (model, Context(None, ("b",)), "needs --target"),
        (model, Context("a"), "needs --guard"),
    ):
        with pytest.raises(BadSetting, match=words):
            list(probe_tradeoff(model, parent, context))
    mixed = write(tmp_path / "mixed.jsonl", [{"prompt": "3", "answer": "4"}, {"prompt": "5"}])
    with pytest.raises(BadCorpus, match="beside every prompt or none, got 1 of 2"):
        scored(mixed, model)
    blank = write(tmp_path / "blank.jsonl", [{"text": " "}])
    with pytest.raises(BadCorpus, match="expected text"):
        scored(blank, model)


def test_only_the_first_items_are_read_and_the_flag_says_how_many(tmp_path):
    (flag,) = ProbeSettings.model_fields["target"].metadata
    assert f"first {tradeoff.ITEMS} items" in flag.help
    texts = write(tmp_path / "text.jsonl", [{"text": "a dog"}] * 3 + [{"text": "the cat sat"}])
    prompts = write(tmp_path / "sums.jsonl", [{"prompt": "the cat", "answer": "7"}] * 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tradeoff, "ITEMS", 3)
        assert [len(scored(source, llama(seed=1))[0].sums) for source in (texts, prompts)] == [3, 3]


def test_names_are_those_of_files_and_differ():
    assert names_of(["a/x.jsonl", "b/x.jsonl", "formats:zs_cot:y.jsonl", "hf:name"]) == ["x", "x_2", "y", "name"]
    assert names_of(["a/x.jsonl", "b/x.jsonl", "c/x.jsonl"]) == ["x", "x_2", "x_3"]
    assert names_of(["x_2.jsonl", "a/x.jsonl", "b/x.jsonl", "c/x.jsonl"]) == ["x_2", "x", "x_3", "x_4"]
