"""DPO and APO: values and gradients of a pair against formulas in float64, and through the fused head."""

import math
from itertools import pairwise

import pytest
import torch

from limbeck.corpora.pair_rows import sides_of
from limbeck.errors import BadObjective
from limbeck.objectives import DPO, APODown, APOZero, parse
from limbeck.objectives.preference import Pairs
from limbeck.objectives.spec import ObjectiveSpec
from limbeck.run.optim import adamw
from limbeck.run.step import LossTerm, train_step
from limbeck.run.world import alone
from limbeck.types import Batch, PairTargets
from tests.helpers.models import llama, tokenizer

TOK = tokenizer()


def values(objective, log_q, log_p):
    """(loss, its gradient in log q) of one pair of 3 and 5 tokens."""
    both = torch.tensor([log_q], dtype=torch.float64, requires_grad=True)
    tokens = torch.tensor([[3.0, 5.0]], dtype=torch.float64)
    (loss,) = objective.of_pairs(Pairs(both, torch.tensor([log_p], dtype=torch.float64), tokens))
    (gradient,) = torch.autograd.grad(loss, both)
    return float(loss.detach()), gradient[0].tolist()


def sigma(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("objective", "value", "gradient"),
    [
        (DPO(beta=0.2), math.log(2), [-0.1, 0.1]),  # -beta sigma(0)
        (APOZero(beta=0.2), 1.0, [-0.05, 0.05]),  # beta sigma'(0) = beta / 4
        (APODown(beta=0.2), 1.0, [0.0, 0.05]),  # of the preferred side beta / 4 - beta / 4
        (DPO(beta=0.2, per_token=True), math.log(2), [-0.1 / 3, 0.1 / 5]),
        (DPO(beta=0.2, sft=0.6), math.log(2) + 0.6 * 7 / 3, [-0.1 - 0.2, 0.1]),
    ],
)
def test_values_at_the_start(objective, value, gradient):
    found, slope = values(objective, [-7.0, -9.0], [-7.0, -9.0])
    assert found == pytest.approx(value, abs=1e-12)
    assert slope == pytest.approx(gradient, abs=1e-12)


def test_values_after_a_move():
    """r = 0.5 (2, -1): the definitions of arXiv 2305.18290, eq. 7, and 2408.06266, sec. 4."""
    chosen, rejected = 1.0, -0.5
    expected = {
        DPO: -math.log(sigma(chosen - rejected)),
        APOZero: 1 - sigma(chosen) + sigma(rejected),
        APODown: sigma(chosen) + 1 - sigma(chosen - rejected),
    }
    for kind, value in expected.items():
        assert values(kind(beta=0.5), [-5.0, -10.0], [-7.0, -9.0])[0] == pytest.approx(value, abs=1e-12)


def pairs_of(rows=3, length=14, seed=0):
    """Rows of two pairs each: (batch, side of each position, -1 of prompts and padding)."""
    made = torch.Generator().manual_seed(seed)
    tokens = torch.randint(5, len(TOK), (rows, length), generator=made)
    position = torch.tensor([*range(3), *range(4), *range(2), *range(3), *range(2)]).expand(rows, length)
    side = torch.tensor([-1, 0, 0, -1, 1, 1, 1, -1, 2, -1, -1, 3, -1, -1]).expand(rows, length)
    side = torch.where(side >= 0, side + 4 * torch.arange(rows)[:, None], -1)
    weight = torch.zeros(rows, length)
    for pair in range(2 * rows):
        weight[side // 2 == pair] = 1 / float((side[side >= 0] // 2 == pair).sum())
    weight[side < 0] = 0
    document = torch.tensor([0] * 7 + [1] * 5 + [-1] * 2) + 2 * torch.arange(rows)[:, None]
    document[:, -2:] = -1
    targets = tokens.roll(-1, 1)
    return Batch(tokens, targets, weight, position, document, torch.arange(rows)), side


class Known:
    """A reference with log p by the number of the pair."""

    name = "before"

    def __init__(self, log_p):
        self.log_p = log_p

    def __call__(self, batch):
        side = sides_of(batch)
        pairs = int(side.max()) // 2 + 1
        document = batch.document.flatten()
        which = torch.stack([document[side // 2 == pair][0] for pair in range(pairs)])
        return PairTargets(torch.where(batch.weight.flatten() > 0, side, -1), self.log_p[which])


def dense(student, batch, side, objective, log_p):
    """The mean loss of the pairs from all logits."""
    log_q = student(batch).logits().double().log_softmax(-1)
    log_q = log_q.gather(-1, batch.targets.flatten()[:, None]).squeeze(-1)
    flat = side.flatten()
    sums = torch.stack([log_q[flat == number].sum() for number in range(log_p.numel())]).view_as(log_p)
    tokens = torch.stack([(flat == number).sum() for number in range(log_p.numel())]).view_as(log_p)
    return objective.of_pairs(Pairs(sums, log_p, tokens)).mean()


@pytest.mark.parametrize("text", ["DPO(beta=0.3)", "APODown(sft=0.5)", "0.5*APOZero + 2*DPO(per_token=true)"])
def test_a_step_has_the_gradient_of_the_formula_however_its_rows_are_cut(text):
    batch, side = pairs_of()
    log_p = -3 * torch.rand(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    terms = [(1.0, parse(text))] if "+" not in text else list(parse(text))
    reference = llama(seed=2, tok=TOK)
    loss = sum(part * dense(reference, batch, side, term, log_p) for part, term in terms)
    loss.backward()
    value, expected = float(loss.detach()), [p.grad for p in reference.model.parameters()]
    for edges in ([0, 3], [0, 1, 3]):
        student, objective = llama(seed=2, tok=TOK), parse(text)
        optimizer = adamw(student.model, (), weight_decay=0.0)
        parts = [LossTerm(batch.rows(slice(a, b)), objective, Known(log_p)) for a, b in pairwise(edges)]
        step = train_step(student, parts, optimizer, mesh=alone(), max_norm=1e9)
        assert step.loss == pytest.approx(value, rel=1e-5)
        for p, gradient in zip(student.model.parameters(), expected, strict=True):
            torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("DPO(beta=0)", "beta must be a number > 0"),
        ("DPO(per_token=2)", "per_token must be true or false"),
        ("DPO + 0.1*ForwardKL", "ForwardKL: a loss of each token, beside one that compares two completions"),
    ],
)
def test_what_is_no_loss_of_pairs_is_refused(text, message):
    with pytest.raises(BadObjective, match=message.replace("(", r"\(")):
        parse(text)


def test_text_has_no_pairs():
    with pytest.raises(BadObjective, match="limbeck tune --data pairs"):
        ObjectiveSpec.of("apo_zero")
