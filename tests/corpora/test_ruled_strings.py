"""Ruled strings: every rule passes and fails where it should, and a drawn string follows its own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.corpora.tasks.ruled_strings import KINDS, LETTERS, LONGEST, SHORTEST, RuledString, RuledStrings
from limbeck.errors import BadTask


@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [
        ("#3", ("abc", "hhh"), ("ab", "abcd")),
        ("+b", ("b", "abc"), ("ac", "h")),
        ("-b", ("a", "ac"), ("ab", "b")),
        ("^a", ("a", "ab"), ("ba", "b")),
        ("$a", ("a", "ba"), ("ab", "b")),
        ("=c", ("cc", "cac"), ("c", "ccc", "ab")),
    ],
)
def test_a_rule_passes_and_fails(rule, right, wrong):
    check = RuledString((rule,), "a").checked().check
    assert all(check(text) == (True,) for text in right)
    assert all(check(text) == (False,) for text in (*wrong, "", " ", "abz", "a b", "A", "\u00e4", "ab\n"))


@given(st.integers(0, 2**32 - 1), st.integers(1, len(KINDS)))
def test_a_drawn_string_follows_its_rules_of_different_kinds(seed, rules):
    (one,) = RuledStrings(rules).strings(np.random.default_rng(seed), 1)
    assert one.checked().check(one.answer) == (True,) * rules
    assert len({rule[0] for rule in one.rules}) == rules
    assert SHORTEST <= len(one.answer) <= LONGEST
    assert set(one.answer) <= set(LETTERS)
    assert one.prompt == " ".join(one.rules) + ">"


@given(st.text(max_size=20))
def test_checks_are_total(text):
    passed = RuledString(("#3", "+a", "-b", "^a", "$c", "=c"), "acc").checked().check(text)
    assert all(isinstance(one, bool) for one in passed)
    assert not any(passed) or set(text) <= set(LETTERS)


def test_all_kinds_are_drawn_and_questions_are_repeated_by_a_seed():
    def drawn(seed):
        return RuledStrings(2).strings(np.random.default_rng(seed), 200)

    assert {rule[0] for one in drawn(0) for rule in one.rules} == set(KINDS)
    assert drawn(0) == drawn(0) != drawn(1)


@pytest.mark.parametrize("rules", [0, 7])
def test_a_number_of_rules_that_there_is_not_is_refused(rules):
    with pytest.raises(BadTask, match=f"expected 1 to 6 rules, got {rules}"):
        RuledStrings(rules)
