"""The selftest: passes on a sound machine, and would not on an unsound one."""

import pytest
import torch

from limbeck import selftest
from limbeck.objectives import ForwardKL
from limbeck.selftest import OF_TOKENS


@pytest.fixture(scope="module")
def rows():
    return selftest.run_selftest()


@pytest.mark.long
def test_every_objective_passes_in_both_precisions(rows):
    assert {row.objective for row in rows} >= set(OF_TOKENS)
    assert {row.dtype for row in rows} == {"float32", "bfloat16"}
    assert all(row.cases == 16 for row in rows)
    assert [row for row in rows if not row.passed] == []


@pytest.mark.long
def test_bfloat16_is_seen_to_be_coarser(rows):
    error = {(row.objective, row.dtype): row.gradient_error for row in rows}
    assert all(error[name, "bfloat16"] > 10 * error[name, "float32"] for name in OF_TOKENS)


@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_a_gradient_that_is_wrong_once_changes_the_exit_status(monkeypatch, capsys, factor):
    right, calls = ForwardKL.closed_form, []

    def wrong(self, pair, chunk):
        nats, gradient = right(self, pair, chunk)
        calls.append(1)
        return nats, gradient * factor if len(calls) == 3 else gradient

    monkeypatch.setattr(ForwardKL, "closed_form", wrong)
    monkeypatch.setattr(selftest, "OF_TOKENS", ["ForwardKL", "CrossEntropy"])
    monkeypatch.setattr(selftest, "_SETTINGS", ())
    monkeypatch.setattr(selftest, "TOLERANCE", {torch.float32: selftest.TOLERANCE[torch.float32]})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert selftest.main() == 1
    printed = capsys.readouterr().out
    assert "WRONG" in printed
    assert "1 of 2 passed, 32 cases" in printed


def test_a_sound_machine_prints_a_table_and_exits_with_0(monkeypatch, capsys):
    monkeypatch.setattr(selftest, "OF_TOKENS", ["ReverseKL"])
    monkeypatch.setattr(selftest, "_SETTINGS", ())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert selftest.main() == 0
    printed = capsys.readouterr().out
    assert "ReverseKL" in printed
    assert "2 of 2 passed, 32 cases" in printed
