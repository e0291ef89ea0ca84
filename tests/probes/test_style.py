"""The probe style: whether greedy answers match the pattern of their strategy, and what they would match by chance."""

import json
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from limbeck.errors import BadCorpus, BadSetting
from limbeck.probes import style
from limbeck.probes.style import probe_style
from tests.helpers.models import llama

STYLES = """
[steps]
system = "first write down every step that you take"
pattern = '=.*=\\s*\\d+$'

[word]
system = "answer with one word"
pattern = '^[a-z]+$'
"""


@dataclass
class Context:
    task: str | None = None
    styles: str | None = None
    notes: list[str] = field(default_factory=list)

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def asked(tmp_path):
    """Four prompts of one strategy and two of the other."""
    kinds = ["steps", "steps", "word", "steps", "word", "steps"]
    rows = [{"prompt": f"the cat {i}", "strategy": kind, "answer": "3"} for i, kind in enumerate(kinds)]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "styles.toml").write_text(STYLES)
    return Context(str(tmp_path / "asked.jsonl"), str(tmp_path / "styles.toml"))


def probed(monkeypatch, context, answers, others=None):
    """The readings of a model that answers so, and of a teacher that answers as ``others`` say."""
    model, teacher = llama(seed=1), llama(seed=2)
    said = {id(model): answers, id(teacher): others}
    monkeypatch.setattr(
        style,
        "greedy_answers",
        lambda one, tokens, most: [
            SimpleNamespace(text=text, finish="stop" if text else "length", tokens=len(text)) for text in said[id(one)]
        ],
    )
    found = list(probe_style(model, None if others is None else teacher, context))
    assert len({one.name for one in found}) == len(found)
    return {one.name: one for one in found}


def test_answers_are_counted_by_the_style_of_their_strategy(monkeypatch, asked):
    found = probed(
        monkeypatch, asked, ["1+1=2=3", "cat", "dog", "2=1+1=3", "", "so first write down every step that you take"]
    )
    assert found["style_fitting"].value == pytest.approx(3 / 6)
    assert (found["style_fitting_of_steps"].value, found["style_fitting_of_steps"].n) == (2 / 4, 4)
    assert (found["style_fitting_of_word"].value, found["style_fitting_of_word"].n) == (1 / 2, 2)
    assert found["style_known"].value == pytest.approx(4 / 6)
    assert found["style_ended"].value == pytest.approx(5 / 6)
    assert found["style_right"].value == pytest.approx(2 / 6)
    assert found["style_repeats_message"].value == pytest.approx(1 / 6)
    assert found["style_tokens"].value == pytest.approx((7 + 3 + 3 + 7 + 0 + 44) / 6)
    assert found["style_tokens"].unit == "tokens/answer"
    # of five other answers: two in steps, or one where the own one is in steps; and one word or two
    chance = [1 / 5, 2 / 5, 1 / 5, 1 / 5, 2 / 5, 2 / 5]
    assert found["style_by_chance"].value == pytest.approx(sum(chance) / 6)
    beyond = found["style_fitting_minus_chance"]
    assert beyond.value == pytest.approx(3 / 6 - sum(chance) / 6)
    assert beyond.low < beyond.value < beyond.high
    assert asked.notes == ["6 prompts of 2 strategies, answered without an instruction"]


def test_one_style_for_all_fits_no_more_than_by_chance(monkeypatch, asked):
    found = probed(monkeypatch, asked, ["1+1=2=3"] * 6)
    assert found["style_fitting"].value == found["style_by_chance"].value == pytest.approx(4 / 6)
    assert found["style_fitting_minus_chance"].value == pytest.approx(0)


def test_a_teacher_is_compared_answer_by_answer(monkeypatch, asked):
    found = probed(monkeypatch, asked, ["1+1=2=3"] * 6, ["cat"] * 6)
    assert found["teacher_style_fitting"].value == pytest.approx(2 / 6)
    assert found["style_fitting_minus_teacher"].value == pytest.approx(2 / 6)
    assert found["style_tokens_minus_teacher"].value == 4


def test_a_model_is_asked_without_an_instruction(asked):
    model = llama(seed=1)
    found = {one.name: one for one in probe_style(model, None, asked)}
    assert found["style_fitting"].n == 6
    assert 0 < found["style_tokens"].value <= style.MOST


def test_what_is_missing_is_named(asked, tmp_path):
    model = llama(seed=1)

    def refused(error, said, *, prompts=None, styles=None):
        context = Context(asked.task, asked.styles)
        if prompts is not None:
            (tmp_path / "some.jsonl").write_text(prompts)
            context.task = str(tmp_path / "some.jsonl")
        if styles is not None:
            (tmp_path / "some.toml").write_text(styles)
            context.styles = str(tmp_path / "some.toml")
        with pytest.raises(error, match=said):
            list(probe_style(model, None, context))

    for context in (Context(None, asked.styles), Context(asked.task, None)):
        with pytest.raises(BadSetting, match=r"needs prompts with a 'strategy' .* give --(task|styles)"):
            list(probe_style(model, None, context))
    with pytest.raises(BadCorpus, match=r"--styles gone\.toml: expected a text file"):
        list(probe_style(model, None, Context(asked.task, "gone.toml")))
    refused(BadCorpus, "expected a pattern of each strategy.*got none of word", styles="word = 'answer with one word'")
    refused(
        BadCorpus,
        r"some.jsonl:1: expected a 'strategy' that --styles has a pattern for \(steps, word\), got none",
        prompts='{"prompt": "the cat"}\n',
    )
    refused(BadCorpus, "got 'quick'", prompts='{"prompt": "the cat", "strategy": "quick"}\n')
