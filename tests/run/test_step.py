"""The step does not depend on how its rows are cut up, and never updates with a loss that is not a number."""

import copy
import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.errors import NonFiniteLoss, NothingToLearn
from limbeck.objectives import TAID, CrossEntropy, EntropySelect, ForwardKL
from limbeck.run.optim import adamw, learning_rate
from limbeck.run.step import LossTerm, train_step
from limbeck.run.world import alone
from tests.helpers.models import batch, frozen, llama, tokenizer

TOK = tokenizer()
TEACHER = frozen(llama(layers=3, seed=1, tok=TOK, pad=5))
OBJECTIVES = [CrossEntropy, ForwardKL, EntropySelect, lambda: 0.5 * CrossEntropy() + 0.5 * TAID(alpha=0.1)]


def updated(objective, batches, steps=2):
    """Weights, losses and the objective's state after some steps on the same micro-batches."""
    student = llama(seed=2, tok=TOK)
    optimizer = adamw(student.model, objective.parameters(), weight_decay=0.1)
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 1e-2
    objective.begin(10)
    terms = [LossTerm(rows, objective, TEACHER) for rows in batches]
    losses = [train_step(student, terms, optimizer, mesh=alone()).loss for _ in range(steps)]
    return torch.cat([p.detach().flatten() for p in student.model.parameters()]), losses, objective.state_dict()


@pytest.mark.parametrize("make", OBJECTIVES)
@settings(max_examples=8)
@given(cuts=st.sets(st.integers(1, 5)), seed=st.integers(0, 100))
def test_a_step_does_not_depend_on_micro_batches(make, cuts, seed):
    whole = batch(6, vocab=len(TOK), seed=seed)
    edges = [0, *sorted(cuts), 6]
    pieces = [whole.rows(slice(a, b)) for a, b in itertools.pairwise(edges)]
    one, losses_one, state_one = updated(make(), [whole])
    many, losses_many, state_many = updated(make(), pieces)
    assert losses_many[0] == pytest.approx(losses_one[0], rel=1e-6)
    # Adam divides by second moments, so where a gradient is next to nothing its rounding moves a weight: all are taken together
    assert losses_many == pytest.approx(losses_one, rel=1e-4)
    start = torch.cat([p.detach().flatten() for p in llama(seed=2, tok=TOK).model.parameters()])
    assert (many - one).norm() < 1e-3 * (one - start).norm()
    for key, value in state_one.items():
        torch.testing.assert_close(state_many[key], value, rtol=1e-5, atol=1e-6)


@settings(max_examples=8)
@given(seed=st.integers(0, 100))
def test_a_masked_token_counts_exactly_nothing(seed):
    rows = batch(3, vocab=len(TOK), seed=seed)
    targets = torch.where(rows.weight > 0, rows.targets, (rows.targets + 7) % len(TOK))
    one = updated(ForwardKL(), [rows])
    other = updated(ForwardKL(), [dataclasses.replace(rows, targets=targets)])
    assert torch.equal(one[0], other[0])
    assert one[1] == other[1]


def test_packing_documents_apart_or_together_is_the_same_step():
    """Two documents in one row, or each in a row of its own padded with weight 0."""
    together = dataclasses.replace(batch(1, 16, vocab=len(TOK)), weight=torch.ones(1, 16))
    cut = int((together.position[0] == 0).nonzero()[1])
    weight = together.weight.clone()
    weight[0, cut - 1] = 0  # its target opens the next document
    together = dataclasses.replace(together, weight=weight)

    def alone_in_row(start, stop):
        def part(tensor, fill=0):
            row = torch.full((1, 16), fill, dtype=tensor.dtype)
            row[0, : stop - start] = tensor[0, start:stop]
            return row

        position = torch.arange(16)[None]
        return dataclasses.replace(
            together,
            **{name: part(getattr(together, name)) for name in ("tokens", "targets", "weight", "document")},
            position=position,
        )

    packed = updated(ForwardKL(), [together], steps=1)
    apart = updated(ForwardKL(), [alone_in_row(0, cut), alone_in_row(cut, 16)], steps=1)
    assert apart[1] == pytest.approx(packed[1], rel=1e-5)
    torch.testing.assert_close(apart[0], packed[0], rtol=0, atol=2e-4)


def test_nothing_is_updated_when_the_loss_is_not_a_number():
    student = llama(seed=2, tok=TOK)
    broken = copy.deepcopy(TEACHER)
    broken.model.get_output_embeddings().weight.data[3] = float("nan")
    objective = TAID()
    objective.begin(10)
    optimizer = adamw(student.model, [], weight_decay=0.1)
    before = copy.deepcopy(student.model.state_dict())
    state = copy.deepcopy(objective.state_dict())
    with pytest.raises(NonFiniteLoss, match="loss nan nats"):
        train_step(student, [LossTerm(batch(vocab=len(TOK)), objective, broken)], optimizer, mesh=alone())
    assert all(torch.equal(before[name], tensor) for name, tensor in student.model.state_dict().items())
    assert all(torch.equal(state[name], tensor) for name, tensor in objective.state_dict().items())


def test_a_step_without_weight_is_refused():
    rows = batch(vocab=len(TOK))
    student = llama(tok=TOK)
    optimizer = adamw(student.model, [], weight_decay=0.0)
    empty = dataclasses.replace(rows, weight=torch.zeros_like(rows.weight))
    with pytest.raises(NothingToLearn, match="got 1 micro-batches without one"):
        train_step(student, [LossTerm(empty, CrossEntropy())], optimizer, mesh=alone())


@pytest.mark.parametrize("schedule", ["wsd", "cosine", "constant"])
@given(steps=st.integers(1, 300))
def test_a_learning_rate_rises_to_its_peak_and_never_above(schedule, steps):
    rates = [learning_rate(i, steps=steps, peak=1e-3, schedule=schedule) for i in range(steps)]
    assert max(rates) <= 1e-3 * (1 + 1e-12)
    assert min(rates) > 0
    if steps > 20:
        assert max(rates) == pytest.approx(1e-3)
    if steps >= 30:  # from here on the rise takes two steps or more
        assert rates[0] <= 1e-3 / 2
