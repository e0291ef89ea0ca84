"""The search among learning rates: it goes on beyond an end where the best lies, and says where it ended."""

import math

import pytest

from limbeck.papers.lab.search import FURTHER, BestRates, searched


def trained(best, seen, width=1.0):
    """Losses that are lowest at the rate ``best`` of each arm; None, diverged, far above it."""

    def losses(trials):
        seen.append(list(trials))
        return [None if rate > 100 * best[arm] else (math.log(rate / best[arm]) / width) ** 2 for arm, rate in trials]

    return losses


def test_a_best_rate_inside_those_tried_needs_no_further_one():
    seen = []
    found = searched(["a", "b"], (0.5, 1.0, 2.0), trained({"a": 1.0, "b": 1.1}, seen))
    assert found == {"a": 1.0, "b": 1.0}
    assert seen == [[("a", 0.5), ("a", 1.0), ("a", 2.0), ("b", 0.5), ("b", 1.0), ("b", 2.0)]]
    assert (found.number, found.doubt) == ("3", "")


def test_the_search_goes_on_where_the_best_is_at_an_end():
    seen = []
    found = searched(["low", "high", "in"], (3e-4, 1e-3, 3e-3), trained({"low": 9e-5, "high": 9e-3, "in": 1e-3}, seen))
    assert found == {"low": 9e-5, "high": 9e-3, "in": 1e-3}
    assert seen[1] == [("low", 9e-5), ("high", 9e-3)]
    assert seen[2] == [("low", 2.7e-5), ("high", 0.027)]  # the best was at an end again
    assert len(seen) == 3
    assert (found.number, found.doubt) == ("3 to 5", "")
    assert found.tried["low"] == (3e-4, 1e-3, 3e-3, 9e-5, 2.7e-5)


def test_it_ends_after_some_further_rates_and_says_that_a_better_one_may_lie_beyond():
    seen = []
    found = searched(["a", "b"], (1.0, 2.0, 4.0), trained({"a": 1000.0, "b": 2.0}, seen))
    assert found == {"a": 4.0 * 2**FURTHER, "b": 2.0}
    assert len(found.tried["a"]) == 3 + FURTHER
    assert found.doubt == " The best rate of a is at an end of those tried."


def test_a_training_that_diverges_is_the_worst_and_nothing_follows_where_all_did():
    assert searched(["a"], (1.0, 1000.0), trained({"a": 1.0}, [])) == {"a": 1.0}
    seen = []
    assert searched(["a"], (1000.0, 3000.0, 9000.0), trained({"a": 1.0}, seen))["a"] == 1000.0
    assert len(seen) == 1


def test_a_rate_that_was_tried_ends_the_search():
    """Of a grid so fine that the next rate is rounded to one of it."""
    assert searched(["a"], (1.0, 1.001, 1.002), lambda trials: [abs(rate - 5) for _, rate in trials])["a"] == 1.002


def test_a_single_rate_needs_no_training():
    found = searched(["a"], (0.3,), lambda trials: pytest.fail("nothing is to be trained"))
    assert found == {"a": 0.3}
    assert (found.number, found.doubt) == ("1", "")


def test_of_two_rates_each_is_at_an_end():
    assert BestRates({"a": 1.0}, {"a": (1.0, 2.0)}).doubt == ""
