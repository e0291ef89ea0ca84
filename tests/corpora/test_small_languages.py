"""Small languages of expressions: what programs give, and that interpreters are total."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.corpora.tasks.small_languages import (
    ORDERS,
    POOR,
    RICH,
    SIGNS,
    WORDS,
    Language,
    descriptions,
    drawn_language,
    inputs,
    passes,
)


def value(description: str, a: int, b: int, c: int) -> int:
    """What a description says for one input, operation by operation."""
    names = {"a": a, "b": b, "c": c}
    found = names.get(description[0]) if description[0] in names else int(description[0])
    for word, operand in zip(description[1::2], description[2::2], strict=True):
        other = names[operand] if operand in names else int(operand)
        found = {"p": found + other, "t": found * other, "l": found - other}[word] % 10
    return found % 10


def test_programs_are_those_of_the_docstring():
    assert RICH.program("apbt3") == "((a+b)*3)"
    assert POOR.program("apbt3") == "%@ab3"
    assert Language("postfix", "+*-").program("apbt3") == "ab+3*"


@given(st.integers(0, 2**32), st.integers(1, 5), st.sampled_from([RICH, POOR, Language("postfix", "~|=")]))
def test_a_program_gives_what_its_description_says(seed, operations, language):
    (one,) = descriptions(np.random.default_rng(seed), 1, operations)
    found = language.run(language.program(one))
    assert found is not None
    for place in (0, 7, 123, 999):
        assert found[place] == value(one, *(int(inputs()[name][place]) for name in "abc"))
    assert passes(language.program(one), one, language)


def test_another_expression_of_equal_value_passes_and_one_of_another_value_fails():
    assert passes("(b+a)", "apb", RICH)
    assert passes("((a+a)+a)", "at3", RICH)
    assert passes("@ba", "apb", POOR)
    assert not passes("(b-a)", "alb", RICH)
    assert passes("&ab", "alb", POOR)
    assert not passes("&ba", "alb", POOR), "the first operand is the one that is lessened"
    assert not passes("@ab", "apb", RICH), "a program of the other language"


@pytest.mark.parametrize(
    "text",
    ["", "+", "(", ")", "()", "(a)", "a+b", "((a+b)", "(a+b))", "(a+b)c", "(a?b)", "(a+)", "(+ab)", "(a(b)", "ab", "ä", "\0",
     ")a+b(", "(a+b*c)", "(" * 5000, "(a+" * 3000 + "a"],
)  # fmt: skip
def test_what_is_no_program_is_wrong(text):
    assert RICH.run(text) is None
    assert not passes(text, "apb", RICH)


@pytest.mark.parametrize("text", ["", "@", "@a", "ab", "@abc", "@@ab", "@aü", "\0", "%" * 5000, "@ab@ab"])
def test_what_is_no_prefix_program_is_wrong(text):
    assert POOR.run(text) is None


@given(st.text(alphabet="ab3+*-@%&()?", max_size=30) | st.text(max_size=20), st.sampled_from(ORDERS))
def test_interpreters_are_total(text, order):
    found = Language(order, "+*-").run(text)
    assert found is None or (found.shape == (1000,) and ((found >= 0) & (found < 10)).all())


def test_deep_programs_need_no_stack_of_calls():
    deep = "apb" * 1 + "p1" * 20_000
    assert RICH.run(RICH.program(deep[:2001])) is not None
    assert POOR.run("@" * 20_000 + "a" * 20_001) is not None


def test_descriptions_are_different_and_not_excluded():
    first = descriptions(np.random.default_rng(0), 200, 3)
    other = descriptions(np.random.default_rng(1), 200, 3, frozenset(first))
    assert len({*first, *other}) == 400
    assert {word for one in first for word in one[1::2]} == set(WORDS)
    assert all(len(one) == 7 for one in first)
    with pytest.raises(ValueError, match="too few"):
        descriptions(np.random.default_rng(0), 3 * 13 * 13 + 1, 1)


def test_drawn_languages_are_of_all_orders_and_never_the_poor_one():
    generator = np.random.default_rng(0)
    drawn = [drawn_language(generator) for _ in range(300)]
    assert {one.order for one in drawn} == set(ORDERS)
    assert POOR not in drawn
    assert all(len(set(one.signs)) == 3 and set(one.signs) <= set(SIGNS) for one in drawn)
