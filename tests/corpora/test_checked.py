"""Prompts whose answers are checked, and chains of operations, whose interpreter has a result for every text."""

from operator import add, mul, sub

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from limbeck.corpora.tasks.chains import ASKS, PARTS, Chain, Chains, chain_of, steps_hold, value
from limbeck.corpora.tasks.checked import Checked
from limbeck.errors import BadTask
from limbeck.models.build import new_model
from limbeck.probes.pass_until import log_probability, pass_until
from limbeck.probes.tasks import Instance, Task
from tests.helpers.zoo import CONFIGS, words

CHAIN = Chain(7, (("+", 5), ("-", 3), ("*", 2)))
TEXTS = st.text("0123456789+-*=;#[]>, so\n\0é٣²", max_size=24)


def chains(clauses=0.5):
    return st.builds(
        lambda seed, length: Chains(length, clauses).chains(np.random.default_rng(seed), 1)[0],
        st.integers(0, 10**6),
        st.integers(1, 6),
    )


def test_a_chain_is_computed_from_left_to_right():
    assert CHAIN.prompt == "7+5-3*2>"
    assert CHAIN.values == (7, 2, 9, 8)  # ((7 + 5) mod 10 - 3) mod 10 times 2, mod 10
    assert CHAIN.question().answer == "7+5=2;2-3=9;9*2=8;#8"
    assert CHAIN.question(twice=True).answer == "7+5=2, so 2;2-3=9, so 9;9*2=8, so 8;#8"
    assert CHAIN.question(derived=False).answer == "#8"
    assert Chain(7, CHAIN.operations, "4*6", 1).prompt == "7+5[4*6]-3*2>"


@given(chains())
def test_what_is_written_is_read_and_its_derivation_passes(chain):
    read = chain_of(chain.text)
    assert read is not None
    assert read.prompt == chain.prompt
    expected = chain.first
    for operator, number in chain.operations:
        expected = {"+": add, "-": sub, "*": mul}[operator](expected, number) % 10
    assert value(chain.text) == expected == int(chain.answer)
    for twice in (False, True):
        assert steps_hold(chain.derivation(twice=twice))
        assert chain.checked().check(chain.question(twice=twice).answer) == (True, True, True)
    assert chain.checked().check(chain.question(derived=False).answer) == (True, False, False)


@given(TEXTS, chains())
@example("7+5", CHAIN)
@example("7+5[", CHAIN)
@example("٣+٤", CHAIN)  # digits, but not of ASCII
@example("7+5\n", CHAIN)
@example("__import__('os').abort()", CHAIN)
def test_every_text_has_a_result_and_an_empty_one_passes_nothing(text, chain):
    found = value(text)
    assert found is None or (text.isascii() and found in range(10))
    holds = steps_hold(text)
    assert holds in (True, False)
    passed = chain.checked().check(text)
    assert len(passed) == len(PARTS)
    assert not passed[2] or passed[1]  # the chain's own derivation holds
    assert not any(chain.checked().check(""))


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("7+5=2;2-3=9;9*2=8;#8", (True, True, True)),
        ("7+5=2;2-3=9;9*2=8;#9", (False, True, True)),
        ("7+5=2;2-3=9;9*2=8;8", (False, False, False)),  # without the marker
        ("7+5=3;2-3=9;9*2=8;#8", (True, False, False)),  # a wrong result
        ("7+5=2;3-3=0;#8", (True, False, False)),  # a step that does not begin with the result before
        ("1+1=2;#8", (True, True, False)),  # right, and of another chain
        ("7+5=2, so 3;#8", (True, False, False)),
    ],
)
def test_each_part_is_checked(text, passed):
    assert CHAIN.checked().check(text) == passed


@pytest.mark.parametrize(
    ("check", "parts", "message"),
    [
        (
            lambda text: (True, bool(text)),
            ("polite", "long"),
            "an empty answer to fail in all parts, but it passes in polite",
        ),
        (lambda text: (False,), ("polite", "long"), "a result for each of its parts, got 1 for polite, long"),
        (lambda text: (), (), "got 0 for none"),
    ],
)
def test_a_check_that_an_empty_answer_passes_is_refused(check, parts, message):
    with pytest.raises(BadTask, match=message):
        Checked("Say please:", check, parts, longest=9)


def test_a_completion_passes_when_it_ends():
    checked = CHAIN.checked()
    right = CHAIN.question().answer
    assert checked.passes(right, ended=True) is True
    assert checked.passes(right, ended=False) is None
    assert checked.passes(right + "9", ended=True) is False
    assert checked.passes("x" * (checked.longest + 1), ended=False) is False


@pytest.mark.parametrize("options", [{"length": 0}, {"clauses": 1.5}, {"clauses": -0.1}])
def test_chains_of_nothing_are_refused(options):
    with pytest.raises(BadTask, match="expected at least 1 operation"):
        Chains(**options)


def test_a_share_of_chains_has_a_clause():
    drawn = Chains(4, 0.25).chains(np.random.default_rng(0), 2000)
    assert 0.21 < np.mean([bool(chain.clause) for chain in drawn]) < 0.29
    assert all(chain.prompt.endswith(ASKS) and len(chain.operations) == 4 for chain in drawn)
    assert Chains(4, 0.25).chains(np.random.default_rng(0), 9) == drawn[:9]


def test_checked_answers_have_pass_rates():
    """The same sampled completions, listed and checked, pass as often; only listed ones have an exact probability."""
    model = new_model(CONFIGS["llama"], words(), 0)
    model.model.eval()
    with torch.no_grad():
        model.model.lm_head.weight.zero_()  # all tokens alike
    listed = Instance("w1 w2", ("w3",))
    checked = Checked("w1 w2", lambda text: (text == "w3",), ("right",), longest=listed.longest)
    assert listed.name != checked.name
    of_listed, of_checked = (pass_until(model, Task("t", (one,)), successes=2)[0] for one in (listed, checked))
    assert (of_listed.successes, of_listed.samples) == (of_checked.successes, of_checked.samples)
    assert log_probability(model, Task("t", (listed, checked)))[1] is None
