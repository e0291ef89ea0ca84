"""The policy step: its gradient is that of the exact expectation, and log-probabilities are those of a plain forward pass."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from limbeck.errors import BadSetting
from limbeck.models.build import new_model
from limbeck.objectives.fused import fused_backward
from limbeck.objectives.policy import PolicyGradient
from limbeck.run.policy import (
    SAMPLED,
    PolicyWeights,
    Rollout,
    Scores,
    advantages,
    leave_one_out,
    policy_loss,
    rows_of,
    scores,
    slopes,
)
from limbeck.types import Head, Outputs
from tests.helpers.zoo import CONFIGS, words

OUTCOMES = list(product((0, 1), repeat=2))  # what can be sampled: two tokens of two
BETA = 0.3


@pytest.fixture
def toy():
    """Logits of the first token, of the second given it, and of the answer 1 given both; and log q0 of each outcome."""
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(7, generator=generator, dtype=torch.float64, requires_grad=True)
    return table, table.detach() + 0.5 * torch.randn(7, generator=generator, dtype=torch.float64)


def log_q(table):
    """(log q(z), log q(y|z)) of all outcomes of the toy."""
    first = torch.nn.functional.logsigmoid(torch.stack([-table[0], table[0]]))
    second = torch.nn.functional.logsigmoid(torch.stack([-table[1:3], table[1:3]], -1))
    answer = torch.nn.functional.logsigmoid(table[3:])
    return torch.stack([first[a] + second[a, b] for a, b in OUTCOMES]), answer


def gradient_of_the_loss(toy, weights, reward=None):
    """The expected gradient of the loss of two samples, over all pairs of outcomes."""
    table, start = toy
    log_z, log_y = log_q(table)
    log_start, probability = log_q(start)[0], log_z.detach().exp()
    total = torch.zeros((), dtype=torch.float64)
    for pair in product(range(4), repeat=2):
        chosen = torch.tensor([pair])
        now = Scores(log_z[chosen], log_y[chosen])
        own = None if reward is None else reward[chosen]
        total = total + probability[chosen].prod() * policy_loss(now, log_start[chosen], weights, reward=own)
    return torch.autograd.grad(total, table)[0]


def test_the_gradient_is_that_of_the_exact_expectation(toy):
    table, start = toy
    log_z, log_y = log_q(table)
    objective = (log_z.exp() * (log_y - BETA * (log_z - log_q(start)[0]))).sum()
    expected = torch.autograd.grad(objective, table)[0]
    assert expected.abs().min() > 1e-3
    torch.testing.assert_close(gradient_of_the_loss(toy, PolicyWeights(1, 1, BETA)), -expected, rtol=1e-12, atol=1e-14)


def test_each_half_is_its_own_expectation(toy):
    """The policy half holds the rewards fixed, the answer half what is sampled."""
    table, start = toy
    log_z, log_y = log_q(table)
    value = (log_y - BETA * (log_z - log_q(start)[0])).detach()
    halves = {
        PolicyWeights(1, 0, BETA): (log_z.exp() * value).sum(),
        PolicyWeights(0, 1, BETA): (log_z.detach().exp() * log_y).sum(),
    }
    for weights, expectation in halves.items():
        expected = torch.autograd.grad(expectation, table, retain_graph=True)[0]
        torch.testing.assert_close(gradient_of_the_loss(toy, weights), -expected, rtol=1e-12, atol=1e-14)


def test_a_reward_takes_the_place_of_the_answers_likelihood(toy):
    table, _ = toy
    reward = torch.tensor([0.0, 1.0, 0.0, 2.0], dtype=torch.float64)
    expected = torch.autograd.grad((log_q(table)[0].exp() * reward).sum(), table)[0]
    found = gradient_of_the_loss(toy, PolicyWeights(1, 0, 0), reward)
    torch.testing.assert_close(found, -expected, rtol=1e-12, atol=1e-14)


def test_a_sample_is_compared_with_the_others_of_its_question():
    found = leave_one_out(torch.tensor([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]]))
    torch.testing.assert_close(found, torch.tensor([[-3.0, -1.5, 4.5], [0.0, 0.0, 0.0]]))


def test_scores_are_log_probabilities_of_a_forward_pass():
    model = new_model(CONFIGS["llama"], words(), 0)
    rollouts = [
        [Rollout((4, 5), (6, 7, 8), (9,)), Rollout((4, 5), (), (9,))],
        [Rollout((10,), (11,), (12, 13)), Rollout((10,), (14, 15, 16, 17), (12, 13))],
    ]
    found = scores(model, rollouts)
    for question, samples in enumerate(rollouts):
        for number, one in enumerate(samples):
            ids = torch.tensor([[*one.prompt, *one.sampled, *one.answer]])
            logits = model.model(input_ids=ids).logits[0, :-1, : model.vocab]
            log_p = logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
            _, sampled, answer = log_p.split([len(one.prompt) - 1, len(one.sampled), len(one.answer)])
            torch.testing.assert_close(found.sampled[question, number], sampled.sum(), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(found.answer[question, number], answer.sum(), rtol=1e-5, atol=1e-5)


def test_what_cannot_be_scored_is_refused():
    one = Scores(torch.zeros(3, 1), torch.zeros(3, 1))
    with pytest.raises(BadSetting, match="at least 2 samples of a question"):
        policy_loss(one, torch.zeros(3, 1), PolicyWeights())
    assert policy_loss(one, torch.zeros(3, 1), PolicyWeights(policy=0)) == 0  # has no baseline
    for weights in ({"policy": -1.0}, {"policy": 0.0, "answer": 0.0}):
        with pytest.raises(BadSetting, match="expected weights of at least 0"):
            replace(PolicyWeights(), **weights)
    with pytest.raises(BadSetting, match="a prompt and an answer"):
        scores(new_model(CONFIGS["llama"], words(), 0), [[Rollout((4,), (5,), ())]])


class Toy:
    """The toy as a model of tokens 0 and 1: hidden states name what was read, and the head's second row is the table."""

    def __init__(self, table):
        self.weight = torch.stack([torch.zeros_like(table), table.detach()]).requires_grad_()

    def __call__(self, batch):
        first, second = batch.tokens[:, 1], batch.tokens[:, 2]
        read = torch.stack([torch.zeros_like(first), 1 + first, 3 + 2 * first + second], -1)
        hidden = torch.nn.functional.one_hot(read, 7).double()
        return Outputs(hidden, Head(self.weight), 2)


@pytest.mark.parametrize("reward", [None, torch.tensor([0.0, 1.0, 0.0, 2.0], dtype=torch.float64)])
def test_the_loss_of_positions_has_the_gradient_of_the_exact_expectation(toy, reward):
    """The same, as a training step computes it: in the fused head, from slopes that are known before."""
    table, start = toy
    weights = PolicyWeights(1, 1.0 if reward is None else 0.0, BETA)
    (log_z, log_y), log_start = log_q(table), log_q(start)[0]
    value = log_y if reward is None else reward
    objective = (log_z.exp() * (value - BETA * (log_z - log_start))).sum()
    expected = torch.autograd.grad(objective, table)[0]

    model, probability = Toy(table), log_z.detach().exp()
    for pair in product(range(4), repeat=2):
        chosen = torch.tensor([pair])
        batch, parts = rows_of([Rollout((0,), OUTCOMES[one], (1,)) for one in pair])
        if reward is not None:
            parts = parts * (parts == SAMPLED)
        at = model(batch).logits().detach().view(2, 3, 2).log_softmax(-1)
        now = Scores(log_z.detach()[chosen], log_y.detach()[chosen])
        advantage = advantages(
            now, log_start[chosen].detach(), weights, reward=None if reward is None else reward[chosen]
        )
        own = at.gather(-1, batch.targets[..., None]).squeeze(-1)
        weight, worth = slopes(own, parts, advantage.flatten(), answer=weights.answer)
        assert weight.sum(-1).tolist() == pytest.approx([1.0, 1.0])
        rows = replace(batch, weight=weight)
        found = fused_backward(PolicyGradient(), model(rows), worth, rows, scale=float(probability[chosen].prod()) / 2)
        loss = policy_loss(now, log_start[chosen].detach(), weights, reward=None if reward is None else reward[chosen])
        assert float(found) == pytest.approx(float(loss * probability[chosen].prod()), rel=1e-12)
    torch.testing.assert_close(model.weight.grad[1], -expected, rtol=1e-12, atol=1e-14)
