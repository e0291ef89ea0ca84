"""`limbeck chat`: lines of a pipe are answered one by one, a person sees two models side by side."""

import io
import json

import pytest

from limbeck.config import ChatSettings
from limbeck.generation.greedy import generate_greedy
from limbeck.generation.growing import GrowingText
from limbeck.generation.local import decoded_completion
from limbeck.generation.streamed import streamed
from limbeck.jobs.chat.job import chat
from limbeck.models.load import load
from limbeck.models.save import save
from limbeck.terminal import Terminal
from tests.helpers.models import llama, tokenizer
from tests.models.test_trim import encode, tokenizer_of

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}a:{% endif %}"


@pytest.fixture
def place(tmp_path):
    save(llama(seed=1), tmp_path / "student")
    chatty = llama(seed=2)
    chatty.tokenizer.chat_template = TEMPLATE
    save(chatty, tmp_path / "teacher")
    return tmp_path


def settings(place, **keys) -> ChatSettings:
    given = {"model": str(place / "student"), "max_new_tokens": 6, "threads": 1, "device": "cpu"}
    return ChatSettings(**given | keys)


def test_lines_of_a_pipe_are_answered_as_json(place, capsys):
    lines = io.StringIO("the cat\n\nsat on\n")
    chat(settings(place, beside=str(place / "teacher"), json=True), lines, Terminal())
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["prompt"] for row in rows] == ["the cat", "sat on"]
    model = load(place / "student")
    for row in rows:
        own, other = row["answers"]
        assert [own["model"], other["model"]] == [str(place / "student"), str(place / "teacher")]
        ids = model.tokenizer(row["prompt"]).input_ids  # begins with bos
        tokens = [token for token, _ in zip(generate_greedy(model, ids), range(6), strict=False)]
        if model.end not in tokens:
            assert own["text"] == model.tokenizer.decode(tokens, skip_special_tokens=True).rstrip("\ufffd")
            assert own["tokens"] == 6
        assert own["tokens_per_second"] == own["tokens"] / own["seconds"]
    # one with a template keeps the conversation: what it reads grows
    first, second = (row["answers"][1]["read"] for row in rows)
    assert second > first


def test_control_characters_of_an_answer_are_shown_not_executed(place, capsys, monkeypatch):
    monkeypatch.setattr("limbeck.jobs.chat.answer.decoded_completion", lambda *_: "a\x1b[31mb")
    chat(settings(place), io.StringIO("the cat\n"), Terminal())
    assert capsys.readouterr().out == "a\\x1b[31mb\n\n"


class Typed(io.StringIO):
    """Lines of a keyboard."""

    def isatty(self) -> bool:
        return True


def test_a_person_sees_answers_side_by_side(place):
    screen = io.StringIO()
    console = Terminal(file=screen, force_terminal=True, width=100, color_system=None)
    chat(settings(place, beside=str(place / "teacher")), Typed("the cat\n\n"), console)
    last = screen.getvalue().rsplit("student", 1)[1]
    facts = next(line for line in last.splitlines() if "tokens/s" in line)
    assert facts.count("tokens/s") == 2
    assert facts.count("kB") == 2


def test_a_conversation_longer_than_the_context_loses_its_earliest_turns(place, capsys):
    words = " ".join(["the cat sat on a mat"] * 6)
    lines = io.StringIO("\n".join([words] * 6))
    model = str(place / "teacher")
    chat(settings(place, model=model, max_new_tokens=20, json=True), lines, Terminal())
    rows = [json.loads(line)["answers"][0] for line in capsys.readouterr().out.splitlines()]
    context = load(model).context
    assert len(rows) == 6
    assert all(row["read"] + row["tokens"] <= context for row in rows)
    assert sum(row["read"] for row in rows) > context


def test_sampling_follows_the_seed(place):
    import numpy as np

    model = load(place / "student")
    ids = tokenizer()("the cat").input_ids

    def drawn(seed: int) -> list[int]:
        source = streamed(model, ids, temperature=1.0, random=np.random.default_rng(seed))
        return [token for token, _ in zip(source, range(8), strict=False)]

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in range(4)}) > 1


TEXTS = (
    "it's 12 o'clock, isn't it?  two  spaces\n\n\tnew lines",
    "naïve café über straße — “quoted” 猫が好き 🙂🙃 done żółw",
    " a space at its beginning, and at its end ",
)


@pytest.mark.parametrize("kind", ["byte-level", "ignore_merges", "sentencepiece", "unigram", "wordpiece"])
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("before", ["", "the cat", "猫が"])
def test_text_that_grows_is_that_of_all_tokens(kind, text, before):
    """At each token at which no character is cut, and never anything that is taken back."""
    tok = tokenizer_of(kind)
    prompt, tokens = tok(before).input_ids, encode(tok, text)
    growing, seen = GrowingText(tok, prompt), [""]
    for number, token in enumerate(tokens, 1):
        seen.append(growing.add(token))
        assert seen[-1].startswith(seen[-2])
        whole = tok.decode([*prompt, *tokens[:number]], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if not whole.endswith("\ufffd"):
            assert seen[-1] == decoded_completion(tok, prompt, tokens[:number])
    assert seen[-1] == decoded_completion(tok, prompt, tokens)
    assert len(set(seen)) > 5


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
def test_bytes_that_are_no_character_do_not_stop_the_text(kind):
    tok = tokenizer_of(kind)
    bad = encode(tok, "é")[-1]  # its last byte, which begins no character
    tokens = [*encode(tok, "a b"), *[bad] * 40, *encode(tok, " and then")]
    growing = GrowingText(tok, [])
    assert [growing.add(token) for token in tokens][-1].endswith("and then")


def test_a_long_text_is_not_decoded_anew_at_each_token(monkeypatch):
    tok = tokenizer_of("byte-level")
    tokens, read = encode(tok, TEXTS[0] * 20), []
    decode = type(tok).decode
    monkeypatch.setattr(
        type(tok), "decode", lambda self, ids, **keys: read.append(len(ids)) or decode(self, ids, **keys)
    )
    growing = GrowingText(tok, tokens[:50])
    for token in tokens:
        growing.add(token)
    assert len(tokens) > 300
    assert sum(read) < 4 * len(tokens) + 200
