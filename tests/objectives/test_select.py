"""EntropySelect: which tokens it keeps, what they count, and that no cut of a step changes that."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.errors import BadObjective
from limbeck.objectives import CrossEntropy, EntropySelect
from limbeck.run.optim import adamw
from limbeck.run.step import LossTerm, train_step
from limbeck.run.world import alone
from limbeck.types import Chunk
from tests.helpers.models import batch, llama, tokenizer


def position(n=400, vocab=11, seed=0, spread=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(n, vocab, generator=generator, dtype=torch.float64)
    targets = torch.distributions.Categorical(logits=logits / 2).sample()
    return logits, Chunk(targets, torch.ones(n))


def margins(logits, targets, weight):
    """By the formula, token by token."""
    found = []
    for row, target in zip(logits, targets, strict=True):
        q = row.softmax(-1)
        found.append(float(-q[target].log() + weight * (q * q.log()).sum()))
    return torch.tensor(found, dtype=torch.float64)


def trained(objective, logits, chunk):
    """The objective after a step on these positions."""
    objective.begin(10)
    objective.value_and_gradient(logits, None, chunk)
    objective.advance(1.0)
    objective.tally.zero_()
    return objective


def test_all_tokens_count_before_the_first_step():
    logits, chunk = position()
    for ours, plain in zip(
        EntropySelect().value_and_gradient(logits, None, chunk),
        CrossEntropy().value_and_gradient(logits, None, chunk),
        strict=True,
    ):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize(("keep", "weight"), [(0.8, 0.8), (0.5, 0.0), (0.25, 1.0)])
def test_the_tokens_with_the_largest_margin_are_kept(keep, weight):
    logits, chunk = position()
    objective = trained(EntropySelect(keep=keep, weight=weight), logits, chunk)
    nats, gradient = objective.value_and_gradient(logits, None, chunk)
    expected = margins(logits, chunk.targets, weight)
    kept = nats > 0
    assert expected[kept].min() > expected[~kept].max()
    assert kept.double().mean() == pytest.approx(keep, abs=0.005)
    plain, slope = CrossEntropy().value_and_gradient(logits, None, chunk)
    torch.testing.assert_close(nats, torch.where(kept, plain / keep, 0.0))
    torch.testing.assert_close(gradient, torch.where(kept[:, None], slope / keep, 0.0))
    leaf = logits.clone().requires_grad_()
    value = objective(leaf, None, chunk)
    torch.testing.assert_close(value.detach(), nats)
    torch.testing.assert_close(torch.autograd.grad(value.sum(), leaf)[0], gradient)


def test_of_tokens_that_are_next_to_certain_a_share_is_kept_too():
    """Margins of 1e-4 nats and less are told apart."""
    logits = torch.zeros(300, 7, dtype=torch.float64)
    logits[:, 0] = torch.linspace(9, 14, 300, dtype=torch.float64)
    chunk = Chunk(torch.zeros(300, dtype=torch.long), torch.ones(300))
    objective = trained(EntropySelect(keep=0.6), logits, chunk)
    kept = objective.value_and_gradient(logits, None, chunk)[0] > 0
    assert kept.float().mean() == pytest.approx(0.6, abs=0.05)


def test_tokens_count_by_their_weight():
    logits, chunk = position(seed=3)
    weight = torch.where(torch.arange(len(logits)) % 2 == 0, 1.0, 0.0)
    ours = trained(EntropySelect(keep=0.5), logits, Chunk(chunk.targets, weight))
    half = trained(EntropySelect(keep=0.5), logits[::2], Chunk(chunk.targets[::2], torch.ones(len(logits) // 2)))
    assert torch.equal(ours.threshold, half.threshold)


def test_the_threshold_follows_what_the_student_learns():
    objective = EntropySelect(keep=0.7)
    objective.begin(100)
    for step in range(60):
        logits, chunk = position(seed=step, spread=0.5 if step < 30 else 4.0)
        nats, _ = objective.value_and_gradient(logits, None, chunk)
        if step in (29, 59):
            assert (nats > 0).double().mean() == pytest.approx(0.7, abs=0.08)
        objective.advance(1.0)
        objective.tally.zero_()


def test_evaluation_counts_nothing():
    logits, chunk = position()
    objective = trained(EntropySelect(), logits, chunk)
    objective(logits, None, chunk)
    assert objective.tally.sum() == 0


def test_what_is_not_a_number_or_infinite_stays_visible():
    logits, chunk = position(n=8)
    objective = trained(EntropySelect(keep=0.1), logits, chunk)
    logits[2] = math.nan
    assert objective.value_and_gradient(logits, None, chunk)[0][2].isnan()
    logits, chunk = position(n=8)
    logits[2, chunk.targets[2]] = -math.inf
    assert objective.value_and_gradient(logits, None, chunk)[0][2] == math.inf


def test_its_state_is_saved_and_restored():
    logits, chunk = position()
    objective = trained(EntropySelect(), logits, chunk)
    other = EntropySelect()
    other.load_state_dict(objective.state_dict())
    assert "tally" not in objective.state_dict()
    further, here = position(seed=5)
    for one in (objective, other):
        one.value_and_gradient(further, None, here)
        one.advance(1.0)
    assert torch.equal(objective.threshold, other.threshold)
    objective.begin(3)
    assert objective.threshold == -math.inf


def test_a_step_counts_its_own_tokens_once_in_whatever_parts():
    tok = tokenizer()
    whole = batch(6, vocab=len(tok), seed=1)

    @settings(max_examples=6)
    @given(cuts=st.sets(st.integers(1, 5)))
    def check(cuts):
        edges = [0, *sorted(cuts), 6]
        student, objective = llama(seed=2, tok=tok), EntropySelect(keep=0.5)
        objective.begin(5)
        optimizer = adamw(student.model, objective.parameters(), weight_decay=0.0)
        terms = [LossTerm(whole.rows(slice(a, b)), objective) for a, b in itertools.pairwise(edges)]
        found = []
        for _ in range(2):
            train_step(student, terms, optimizer, mesh=alone())
            found.append(objective.tally.clone())
        assert [float(one.sum()) for one in found] == [whole.total] * 2
        torch.testing.assert_close(objective.seen, 0.9 * found[0] + found[1])

    check()


def test_an_attribute_of_that_name_is_no_buffer_of_sums():
    class Named(CrossEntropy):
        tally = ("a", "list")

    assert Named().tallies() == []
    assert len((0.5 * EntropySelect() + 0.5 * Named()).tallies()) == 1


@pytest.mark.parametrize("values", [{"keep": 0}, {"keep": 1}, {"weight": -0.1}, {"weight": 1.5}])
def test_parameters_out_of_range_are_refused(values):
    (name,) = values
    with pytest.raises(BadObjective, match=f"EntropySelect: {name} must be a number"):
        EntropySelect(**values)
