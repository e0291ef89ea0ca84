"""Values that are read out of real text: which entries a text has, what rows show, and that answers are scored exactly."""

from itertools import islice

import numpy as np
import pytest

from limbeck.corpora.tasks.names import names_a_thing
from limbeck.corpora.tasks.values import FORMS, Entry, entries_of, question, sample_rows
from limbeck.errors import BadTask
from limbeck.generation.greedy import generate_greedy
from limbeck.models.build import new_model
from limbeck.models.decoder import LimbeckConfig
from limbeck.planning.cost.size import Size
from limbeck.probes.completions import log_likelihood
from limbeck.probes.pass_until import spelled
from limbeck.probes.values import (
    Scores,
    Values,
    _share,
    measure_values,
    pooled,
    recalled,
    rows_by_length,
    score,
    values,
)
from tests.helpers.models import llama, tokenizer

CODE = '''def copytree(src, dst):
    """Recursively copy a directory tree and return it."""

    def no_words(x):
        """Short."""

class Thread:
    r"""A class that represents a thread of control."""
'''
PROSE = (
    "Anarchism is a political philosophy and movement. It is the best. Mount Ida was the highest mountain of all. He said that "
    "Rome is a city.\nThe Nile is the longest river in Africa."
)
TREE, THREAD = (
    Entry("copytree", "Recursively copy a", 'def copytree(src, dst):\n    """', " directory tree and return it."),
    Entry("Thread", "A class that", 'class Thread:\n    """', " represents a thread of control."),
)
ANARCHISM = Entry("Anarchism", "a political philosophy", "Anarchism is", " and movement")


def test_entries_are_definitions_of_code_and_of_prose():
    assert entries_of([CODE]) == [TREE, THREAD]
    found = entries_of([PROSE])
    assert found[0] == ANARCHISM
    assert [(one.name, one.value) for one in found[1:]] == [
        ("Mount Ida", "the highest mountain"),
        ("The Nile", "the longest river"),
    ]


NO_NAMES = [  # subjects of sentences of Wikipedia and of docstrings
    "It", "He", "She also", "These", "That", "There", "Such", "Here", "Their decrease in prevalence", "One way", "Each item",
    "Some believed it", "Another common emblem", "Other notable forms", "An astronomer", "A module's spec", "The country",
    "Because Python", "Although Lincoln", "If Hecate", "So the Muses who", "But because he", "In Archaic Greece he",
    "It seems that it", "The largest of these", "Significantly more rare", "Also of major importance", "This module",
    "Among the first associates", "Guelzo states that Lincoln", "Lincoln believed Chase", "Key issues As anarchism",
    "Amateur astronomers While there", "SynopsisAnimalia", "GeographyAlabama", "European settlementThe Spanish",
    "Prometheus Prometheus", "Feminist Feminist anthropology", "Contest with Cinyras", "Acacias with wild olives", "The",
]  # fmt: skip
NAMES = [
    "Anarchism", "Mount Ida", "The Nile", "Black carbon", "The fennec fox", "The head of state", "Heavy industry and mining",
    "Jordan-Hare Stadium", "Hyrie or Thyrie", "Noah Haynes Swayne", "UAB", "Algeria's first president", "The Scots-Irish",
    "Battle of Hastings",
]  # fmt: skip


@pytest.mark.parametrize("name", NO_NAMES)
def test_pronouns_and_other_function_words_are_no_names(name):
    assert not names_a_thing(name)
    assert entries_of([f"{name} is a political philosophy of old."]) == []


@pytest.mark.parametrize("name", NAMES)
def test_names_of_things_are_names(name):
    assert names_a_thing(name)
    assert [one.name for one in entries_of([f"{name} is a political philosophy of old."])] == [name]


@pytest.mark.parametrize(
    ("name", "said", "value"),
    [
        ("copytree", "Recursively copy a directory tree.", "Recursively copy a"),
        ("__init__", "Cache the module name.", None),
        ("__lt__", "Whether this is less.", None),
        ("at", "Return a path-like object.", None),
        ("If", "Return a path-like object.", None),
        ("_load", "Return a new module.", "Return a new"),
        ("load", "Load the entry point.", None),  # the question has a word of it
        ("getopt", "getopt(args, options[, long_options]) -> opts, args", None),
        ("__add", "self + other", None),
        ("isfile", "Replacement for os.path.isfile", None),
        ("error", "error(msg : string)", None),
        ("memorial", "One of the largest", None),  # function words alone
        ("short", "Two words.", None),
        ("ends", "It has three.", "It has three"),
        ("part", "A method: which", None),
    ],
)
def test_a_value_is_three_words_that_the_name_does_not_have(name, said, value):
    found = entries_of([f'def {name}(x):\n    """{said}"""\n'])
    assert [one.value for one in found] == [value] * (value is not None)


def test_an_entry_knows_its_document():
    assert [(one.name, one.document) for one in entries_of(["nothing", CODE, PROSE])] == [
        ("copytree", 1),
        ("Thread", 1),
        ("Anarchism", 2),
        ("Mount Ida", 2),
        ("The Nile", 2),
    ]


def test_names_and_values_are_there_once():
    again = [CODE, CODE.replace("copytree", "other"), CODE.replace("A class that", "Another class that")]
    assert entries_of(again) == [TREE, THREAD]


@pytest.mark.parametrize(
    ("form", "prompt", "answer"),
    [
        (
            "fields",
            "copytree: Recursively copy a directory tree and return it.\nAnarchism: a political philosophy and movement\n"
            "copytree:",
            " Recursively copy a",
        ),
        (
            "definitions",
            'def copytree(src, dst):\n    """Recursively copy a directory tree and return it.\n'
            'Anarchism is a political philosophy and movement\ndef copytree(src, dst):\n    """',
            "Recursively copy a",
        ),
        (
            "tables",
            "| name | meaning |\n| --- | --- |\n| copytree | Recursively copy a |\n| Anarchism | a political philosophy |\n"
            "| copytree |",
            " Recursively copy a",
        ),
    ],
)
def test_a_row_shows_entries_and_asks_for_one(form, prompt, answer):
    found = question([TREE, ANARCHISM], form, TREE)
    assert (found.prompt, found.answer) == (prompt, answer)
    assert prompt.count(answer) == 1


def many(n: int = 40) -> list[Entry]:
    return [Entry(f"name{i}", f"value{i} is here", f"name{i} is", " and more", i // 4) for i in range(n)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [150, 400])
def test_rows_fit_and_the_answer_is_in_them_alone_with_the_entry(form, length):
    rows = sample_rows(many(), form, len, length=length, rows=60, generator=np.random.default_rng(0))
    assert len(rows) == 60
    for row in rows:
        assert len(row.question.prompt + row.question.answer) <= length
        assert row.question.prompt.count(row.question.answer) == 1
        assert row.question.answer not in row.without.prompt
        assert row.without.answer == row.question.answer
        last = row.question.prompt.rpartition("\n")[2]
        assert last == row.without.prompt.rpartition("\n")[2]
        assert row.entries >= 2
        assert int(row.question.answer.split()[0].removeprefix("value")) // 4 == row.document
    # a fixed row: with the longest entries none more would fit
    longest = max(len(one.shown(form)) + 1 for one in many())
    used = max(len(row.question.prompt + row.question.answer) for row in rows)
    assert used > length - 2 * longest - 2
    asked = {row.question.prompt.rpartition("\n")[2] for row in rows}
    assert len(asked) > 20


def test_rows_in_which_another_entry_has_the_answer_are_left_out():
    told = [Entry("one", "value is here", "one is", ""), Entry("two", "other is there", "two is", ", as Value is here")]
    rows = sample_rows(told, "fields", len, length=200, rows=40, generator=np.random.default_rng(0))
    assert 0 < len(rows) < 40
    assert {row.question.answer for row in rows} == {" other is there"}


def test_rows_with_one_entry_ask_nothing():
    assert sample_rows(many(), "fields", len, length=40, rows=5, generator=np.random.default_rng(0)) == []


def models():
    tok = tokenizer()
    yield "llama", llama()
    for mixers in (["attention"], ["swa:8"], ["conv", "based:4"], ["gdn"]):
        config = LimbeckConfig(
            vocab_size=len(tok),
            hidden_size=32,
            intermediate_size=32,
            mixers=mixers,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=tok.bos_token_id,
            eos_token_id=tok.eos_token_id,
            pad_token_id=tok.pad_token_id,
        )
        yield ",".join(mixers), new_model(config, tok, 0, name="small")


@pytest.mark.parametrize(("name", "model"), list(models()), ids=[name for name, _ in models()])
def test_an_answer_is_scored_as_greedy_generation_and_likelihood_have_it(name, model):
    """In one batch of rows of several lengths; one answer is what the model itself generates, so it is exact."""
    prompts = ["the cat", "a dog sat on the mat and", "the"]
    asked = [question([], "fields", Entry(prompt, "of no use", "", "")) for prompt in prompts]
    mine, _ = spelled(model, asked[1].prompt, asked[1].answer)
    own = model.tokenizer.decode(list(islice(generate_greedy(model, mine), 3)))
    asked.append(type(asked[0])(asked[1].prompt, own))
    found = score(model, asked)
    pairs = [(one.prompt, one.answer) for one in asked]
    np.testing.assert_allclose(found.nats, -log_likelihood(model, pairs), rtol=1e-4)
    for one, exact, tokens in zip(asked, found.exact, found.tokens, strict=True):
        prompt, answer = spelled(model, one.prompt, one.answer)
        assert len(answer) == tokens
        assert exact == (list(islice(generate_greedy(model, prompt), len(answer))) == answer)
    alone = [score(model, [one]) for one in asked]
    np.testing.assert_allclose(found.nats, [float(one.nats[0]) for one in alone], rtol=1e-4)


@pytest.mark.long
def test_readings_are_of_all_forms_and_lengths_that_fit():
    model = dict(islice(models(), 1, 2))["attention"]
    texts = [
        "\n".join(f"Name{i} is a thing{i} of kind{i} that is here." for i in range(n, n + 5)) for n in range(0, 20, 5)
    ]
    readings = {one.name: one for one in values(model, texts, seed=3)}
    rows = rows_by_length(model, texts, seed=3)
    assert {f"values_{length}" for length in rows} <= set(readings)
    length = max(rows)
    scored = [measure_values(model, some) for some in rows[length].values()]
    both = pooled(scored)
    assert readings[f"values_{length}"].value == both.shown.exact.mean()
    assert readings[f"values_{length}_without"].value == both.without.exact.mean()
    assert readings[f"values_{length}"].n == 4, "documents, since rows of one are not independent"
    gained = (both.without.nats.sum() - both.shown.nats.sum()) / both.shown.tokens.sum()
    assert readings[f"values_{length}_recalled"].value == pytest.approx(gained)
    assert readings[f"values_{length}_state_bytes"].value == Size.of(model.model.config).state_bytes(length, 4)
    assert {reading.unit for reading in readings.values()} == {"share", "nats/token", "bytes"}
    alone = next(one for one in values(model, ["\n".join(texts)], seed=3) if one.name == f"values_{length}_recalled")
    assert np.isnan([alone.low, alone.high]).all(), "one document has no interval"


def test_intervals_have_all_rows_of_a_document_as_one():
    """Rows of which each is there five times have the interval of the rows themselves, not a narrower one."""
    generator = np.random.default_rng(0)
    exact, nats = generator.integers(0, 2, 12).astype(float), generator.normal(2, 1, (2, 12))

    def of(times: int) -> Values:
        shown, without = (Scores(np.tile(exact, times), np.tile(one, times), np.full(12 * times, 3.0)) for one in nats)
        return Values(shown, without, np.tile(np.arange(12), times))

    assert of(5).rows.tolist() == [5] * 12
    once, often = (_share(one, one.shown) for one in (of(1), of(5)))
    assert often.n == once.n == 12
    assert (often.value, often.low, often.high) == pytest.approx((exact.mean(), once.low, once.high))
    assert 0 < once.low < once.value < once.high < 1
    first, second = recalled(of(1)), recalled(of(5))
    assert (second.value, second.low, second.high) == pytest.approx((first.value, first.low, first.high))
    assert first.value == pytest.approx((nats[1] - nats[0]).sum() / 36)


def test_a_text_without_definitions_is_an_error_that_says_what_is_looked_for():
    with pytest.raises(BadTask, match=r"0 names with values .*--data"):
        values(llama(), ["nothing here"])
