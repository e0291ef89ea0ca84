"""Checks of answers by a program, masses of a student beside its teacher's, and tunings: exact values."""

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from limbeck.disk import write_json
from limbeck.errors import BadFolder
from limbeck.jobs.common.task import RESULT
from limbeck.papers.lab.checks import checks_of
from limbeck.papers.lab.tuning import TuningPlan, Tunings
from limbeck.papers.taid_gap.judging import HEAD
from limbeck.papers.taid_gap.mass import COLUMNS, _columns, masses
from limbeck.types import Batch, Head, Outputs

CALL, PURPOSE = "How is os.path.join called?", "What does os.path.join do?"


@pytest.mark.parametrize(
    ("answer", "ended", "passed"),
    [
        (" join(a, *p, sep='/')", True, {"ends", "right", "call", "name"}),
        (" join(a, *p, sep='/')", False, {"right", "call", "name"}),
        (" join(a, b)", True, {"ends", "call", "name"}),
        (" joined(a, b)", True, {"ends", "call"}),
        (" join(a,b)", True, {"ends", "name"}),  # not as Python writes it
        (" join(a, a)", True, {"ends", "call", "name"}),  # a syntax that only compiling refuses
        (" join(a", True, {"ends", "name"}),
        (" join(a): return a #)", True, {"ends", "name"}),
        (" join(a): pass\ndef f(b)", True, {"ends", "name"}),
        (" Join the parts.", True, {"ends"}),
        (" join(\0)", True, {"ends", "name"}),
        (" join(" + "(" * 5000, True, {"ends", "name"}),
        ("  ", True, set()),
    ],
)
def test_an_answer_about_a_call(answer, ended, passed):
    checks = checks_of(CALL, answer, "join(a, *p, sep='/')", ended=ended)
    assert set(checks) == {"ends", "right", "call", "name"}
    assert {name for name, found in checks.items() if found} == passed


@pytest.mark.parametrize(
    ("answer", "passed"),
    [
        (" Join the parts.", {"ends", "right", "sentence"}),
        (" Join some parts!", {"ends", "sentence"}),
        (" join the parts.", {"ends"}),
        (" Join parts.", {"ends"}),
        (" Join the parts", {"ends"}),
        (" Join the\nparts.", {"ends"}),
        ("", set()),
    ],
)
def test_an_answer_about_a_purpose(answer, passed):
    checks = checks_of(PURPOSE, answer, "Join the parts.", ended=True)
    assert set(checks) == {"ends", "right", "sentence"}
    assert {name for name, found in checks.items() if found} == passed


# Masses


def logs(weights):
    """Log-probabilities proportional to some weights, (1, V)."""
    row = torch.tensor([weights], dtype=torch.float64)
    return (row / row.sum()).log()


def test_head_and_tail_are_by_the_teachers_ranking():
    p, q = logs(range(1, 21)), logs([20, *range(1, 20)])  # 20 outcomes: the head has 10, the tail 4
    head, tail, kl, reverse_kl, one = _columns(p, q)[0].tolist()
    assert head == pytest.approx(sum(range(10, 20)) / 210)
    assert tail == pytest.approx((20 + 1 + 2 + 3) / 210)
    rows = [(a / 210, b / 210) for a, b in zip(range(1, 21), [20, *range(1, 20)], strict=True)]
    assert kl == pytest.approx(sum(a * math.log(a / b) for a, b in rows))
    assert reverse_kl == pytest.approx(sum(b * math.log(b / a) for a, b in rows))
    assert one == 1


def test_the_order_of_the_vocabulary_does_not_matter():
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    p, q = logs(range(1, 21)), logs([20, *range(1, 20)])
    torch.testing.assert_close(_columns(p[:, order], q[:, order]), _columns(p, q))


def test_a_student_that_averages_has_a_heavier_tail_and_one_that_collapses_a_heavier_head():
    p = logs([2.0**-i for i in range(20)])
    flat, sharp = logs([1.5**-i for i in range(20)]), logs([4.0**-i for i in range(20)])
    same, averaged, collapsed = (_columns(p, q)[0] for q in (p, flat, sharp))
    assert collapsed[0] > same[0] > averaged[0]
    assert collapsed[1] < same[1] < averaged[1]
    assert same[2] == same[3] == 0


class Fixed:
    """A model with the same logits at all positions, whatever it reads."""

    name, vocab = "fixed", 20

    def __init__(self, log_q):
        self._head = Head(log_q.float().T.contiguous(), None, 1.0, None)

    def __call__(self, batch):
        return Outputs(torch.ones(*batch.tokens.shape, 1), self._head, self.vocab)


def test_masses_are_summed_by_document_over_what_has_weight():
    zeros = torch.zeros(2, 3, dtype=torch.int64)
    weight = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    document = torch.tensor([[0, 0, 0], [2, 2, 2]])
    batch = Batch(zeros, zeros, weight, zeros, document, torch.arange(2))
    p, q = logs(range(1, 21)), logs([20, *range(1, 20)])
    found = masses(Fixed(q), Fixed(p), [batch, replace(batch, weight=1 - weight)], documents=3)
    assert found.shape == (3, len(COLUMNS))
    assert found[:, -1].tolist() == [3, 0, 3]
    assert HEAD == 10
    np.testing.assert_allclose(found[0], 3 * _columns(p, q)[0].numpy(), rtol=1e-5)
    np.testing.assert_allclose(found[2], found[0])


# Tunings


def test_a_folder_with_another_tuning_of_this_name_is_refused(tmp_path):
    tunings = Tunings(tmp_path, 32, 256, "cpu", 1)
    plan = TuningPlan("x-seed0", "trainings/cells/x-seed0/student", 0, 512, 4)
    folder = tunings.folder / plan.name
    folder.mkdir(parents=True)
    write_json(folder / RESULT, {"plan": asdict(plan), "loss": 1.0, "cpu_seconds": 2.0, "files": {}})
    assert tunings.result(plan)["loss"] == 1.0
    assert tunings.cpu_seconds() == 2.0
    with pytest.raises(BadFolder, match=r"x-seed0: expected the tuning .*'lr_factor': 2.0.*, got .*'lr_factor': 1.0"):
        tunings.do([replace(plan, lr_factor=2.0)])


def test_the_rate_of_a_tuning_is_that_of_the_lowest_loss_and_never_one_that_diverged(tmp_path):
    tunings = Tunings(tmp_path, 32, 256, "cpu", 1)
    kinds = {name: TuningPlan(f"{name}-seed7", "start", 7, 512, 4) for name in ("x", "y")}
    losses = {"x": {1.0: 2.5, 2.0: 2.4, 4.0: 2.6}, "y": {1.0: 2.5, 2.0: None, 0.5: 2.7}}
    for name, factor, loss in [(name, *one) for name, of in losses.items() for one in of.items()]:
        tried = replace(kinds[name], name=f"{name}-seed7-rate{factor:g}", lr_factor=factor)
        (tunings.folder / tried.name).mkdir(parents=True)
        result = {"plan": asdict(tried), "loss": loss, "cpu_seconds": 1.0, "files": {}}
        write_json(tunings.folder / tried.name / RESULT, result)
    assert tunings.rates(kinds, (1.0, 2.0)) == {"x": 2.0, "y": 1.0}
    assert tunings.rates(kinds, (0.5,)) == {"x": 0.5, "y": 0.5}


def test_tokens_of_a_tuning_are_whole_steps(tmp_path):
    assert Tunings(tmp_path, 32, 256, "cpu", 1).tokens_read(1_000) == 3 * 256
    assert Tunings(tmp_path, 32, 256, "cpu", 1).tokens_read(10) == 256
