"""Random prompts with constraints: one answer follows all of them, their words say what is checked, and seeds give them again."""

from itertools import combinations, islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.corpora.tasks.checked_prompts import passes
from limbeck.corpora.tasks.constraints import Constraint, constraints_of
from limbeck.corpora.tasks.constraints.answers import answer_to
from limbeck.corpora.tasks.constraints.contradictions import contradiction
from limbeck.corpora.tasks.constraints.families import FAMILIES
from limbeck.corpora.tasks.constraints.measures import CASED, SCRIPTS, letters_of, strangers
from limbeck.corpora.tasks.constraints.prompts import draw_prompts
from limbeck.corpora.tasks.constraints.vocabulary import WORDS
from limbeck.corpora.tasks.constraints.worded import worded
from limbeck.errors import BadTask

APART = [{"json", family} for family in ("bullets", "sections", "starts", "ends", "repeat", "language")]
APART += [{"language", "sections"}, {"language", "repeat"}, {"starts", "repeat"}]


def drawn(n, **keys):
    return list(islice(draw_prompts(**keys), n))


@settings(max_examples=8)
@given(st.integers(0, 2**32 - 1))
def test_one_answer_follows_all_constraints_of_a_prompt(seed):
    """So none contradict one another, as a file with the prompts is read without an error."""
    for one in drawn(12, difficulty=(1, 5), seed=seed):
        record = one.record(7)
        assert all(passes(record, one.answer))
        assert constraints_of(record["instruction_id_list"], record["kwargs"], "here") == one.constraints
        assert not any(passes(record, ""))
        assert list(record) == ["key", "prompt", "instruction_id_list", "kwargs"]


def test_constraints_that_one_answer_follows_are_not_said_to_contradict_one_another():
    found = drawn(120, difficulty=(1, 4), seed=1)
    constraints = [constraint for one in found for constraint in one.constraints]
    pairs = set[tuple[int, int]]()
    for one in found[:8]:
        followed = [place for place, constraint in enumerate(constraints) if constraint.follows(one.answer)]
        pairs |= set(combinations(followed, 2))
    assert len(pairs) > 5000
    for one, other in (map(constraints.__getitem__, pair) for pair in pairs):
        assert not contradiction(one.kind, one.arguments, other.kind, other.arguments), (one, other)


def test_every_family_is_drawn_and_none_that_was_not_asked_for():
    found = drawn(200)
    assert {constraint.kind for one in found for constraint in one.constraints} == set(FAMILIES)
    assert {len(one.constraints) for one in found} == {1, 2, 3}
    assert len({one.prompt for one in found}) == 200
    assert {len(one.constraints) for one in drawn(20, families=("json", "length", "ends"))} == {1, 2}  # json has no end
    two = drawn(20, families=("length", "lacks", "length"), difficulty=(2, 2))
    assert all({constraint.kind for constraint in one.constraints} == {"length", "lacks"} for one in two)


def test_a_seed_gives_the_same_prompts_again_whatever_their_number():
    assert drawn(5, seed=3) == drawn(9, seed=3)[:5]
    assert drawn(5, seed=3) != drawn(5, seed=4)


@pytest.mark.parametrize(("one", "other"), list(combinations(FAMILIES, 2)))
def test_two_families_stand_in_one_prompt_or_are_known_not_to(one, other):
    if {one, other} in APART:
        with pytest.raises(BadTask, match=f"expected at most 1, .* never both {one} and {other},"):
            drawn(1, families=(one, other), difficulty=(2, 2))
    else:
        (found,) = drawn(1, families=(one, other), difficulty=(2, 2))
        assert all(constraint.follows(found.answer) for constraint in found.constraints)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"families": ("lenght",)},
            r"unknown family 'lenght'; did you mean 'length'\? There are: length, count, .*repeat\.",
        ),
        ({"families": ()}, "expected at most 0, .* and the families are none: give more families"),
        ({"difficulty": (0, 2)}, "expected a difficulty of 1 constraint or more"),
        ({"difficulty": (3, 2)}, "the smaller number first, got 3..2"),
        ({"families": ("json", "ends", "case"), "difficulty": (1, 3)}, "at most 2, .* never both json and ends, and"),
        ({"difficulty": (15, 15)}, "difficulty 15: expected at most 12"),
    ],
)
def test_what_cannot_be_drawn_is_refused(keys, message):
    with pytest.raises(BadTask, match=message):
        drawn(1, **keys)


def test_prompts_that_run_out_are_counted(monkeypatch):
    monkeypatch.setattr("limbeck.corpora.tasks.constraints.prompts.TOPICS", ("a key",))
    with pytest.raises(
        BadTask, match=r"16 prompts are all that were found with 1 constraint of the families case: give"
    ):
        drawn(17, families=("case",), difficulty=(1, 1))  # 8 requests, two cases


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        ("length", {"unit": "words", "at_least": 5}, "Use at least 5 words."),
        ("length", {"unit": "sentences", "at_most": 1}, "Use at most 1 sentence."),
        ("length", {"unit": "paragraphs", "at_least": 2, "at_most": 3}, "between 2 and 3 paragraphs, with a blank line between"),
        ("count", {"text": "k", "at_least": 1}, 'Use the letter "k" at least once in all.'),
        ("count", {"text": "!", "at_least": 2, "at_most": 2}, "Use exclamation marks exactly 2 times in all."),
        ("contains", {"words": ["a", "b", "c"]}, 'Use the words "a", "b" and "c".'),
        ("lacks", {"texts": [",", "k"]}, 'Do not use commas or the letter "k" anywhere.'),
        ("forbidden", {"words": ["cat"]}, 'Do not use the word "cat".'),
        ("frequency", {"word": "cat", "at_most": 11}, 'Use the word "cat" at most 11 times.'),
        ("json", {"keys": ["a"]}, 'one valid JSON object with the key "a"'),
        ("sections", {"marker": "Part", "at_least": 2, "at_most": 2}, 'on a line of its own: "Part 1", "Part 2" and so on.'),
    ],
)  # fmt: skip
def test_a_prompt_says_what_is_checked(kind, arguments, words):
    assert words in worded(Constraint(kind, arguments))


def test_no_answer_is_found_to_what_cannot_be_followed():
    apart = [Constraint("length", {"unit": "words", "at_most": 2}), Constraint("contains", {"words": ["a", "b", "c"]})]
    assert answer_to(apart, np.random.default_rng(0)) is None


def test_words_are_of_their_script():
    assert set(WORDS) < set(SCRIPTS)
    assert all(not strangers(letters_of(" ".join(words)), script) for script, words in WORDS.items())
    assert all(len(set(words)) == len(words) for words in WORDS.values())


def test_scripts_with_capitals_are_known():
    cased = {
        letter for letter in map(chr, range(0x2D30)) if letter.isalpha() and (letter.islower() or letter.isupper())
    }
    letters = letters_of("".join(cased))
    assert {script for script in SCRIPTS if strangers(letters, script) != letters} == CASED
