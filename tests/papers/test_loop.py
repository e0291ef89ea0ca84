"""The training loop of recipes: it ends where a look or a loss says so, and a failed step changes nothing."""

import math

import pytest
import torch

from limbeck.papers.lab.loop import CLIP, Trained, adamw_of, cosine, train_steps


@pytest.fixture
def model():
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2)


def loss_of(model, x=1.0):
    return model(torch.full((4, 3), x)).square().mean()


def trained(model, *, steps=5, loss=None, **keys):
    optimizer = adamw_of(model, rate=0.01, weight_decay=0.1)
    return train_steps(model, optimizer, loss or (lambda _: loss_of(model)), lambda _, peak: peak, steps=steps, **keys)


def test_it_takes_as_many_steps_as_it_was_given_and_looks_after_each(model):
    looks, before = [], loss_of(model).item()
    assert trained(model, look=lambda *found: looks.append(found)) == Trained(5, failed=False)
    assert looks == [(step, False) for step in range(1, 6)]
    assert loss_of(model).item() < before


def test_a_look_ends_it(model):
    assert trained(model, look=lambda step, failed: step == 2) == Trained(2, failed=False)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_it_before_the_update(model, broken):
    kept, looks = [], []

    def loss(step):
        kept.append([p.detach().clone() for p in model.parameters()])
        return loss_of(model) * (broken if step == 3 else 1.0)

    found = trained(model, loss=loss, look=lambda *seen: looks.append(seen))
    assert found == Trained(3, failed=True)
    assert found.updates == 2
    assert looks[-1] == (3, True)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), kept[-1], strict=True))


def test_gradients_are_clipped_and_rates_are_those_of_the_step(model):
    seen = []
    optimizer = adamw_of(model, rate=0.1, weight_decay=0.0, betas=(0.9, 0.98))

    def look(step, failed):
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
        seen.append((norm.item(), [group["lr"] for group in optimizer.param_groups]))
        return False

    train_steps(model, optimizer, lambda _: 1e3 * loss_of(model), cosine(20), steps=2, look=look)
    assert [rates[1] for _, rates in seen] == [0.05, 0.1]
    assert [rates[0] for _, rates in seen] == [0.0005, 0.001]  # of what is declared slow, were there any
    assert all(norm == pytest.approx(CLIP, rel=1e-4) for norm, _ in seen)
    assert optimizer.param_groups[1]["betas"] == (0.9, 0.98)


def test_without_a_slow_group_all_parameters_are_alike(model):
    model.SLOW = ("weight",)
    slow, matrices, _ = adamw_of(model, rate=0.1, weight_decay=0.3).param_groups
    assert [p is model.weight for p in slow["params"]] == [True]
    assert matrices["params"] == []
    alike = adamw_of(model, rate=0.1, weight_decay=0.3, slow=None).param_groups
    assert [(len(g["params"]), g["peak"], g["weight_decay"]) for g in alike] == [
        (0, 0.1, 0),
        (1, 0.1, 0.3),
        (1, 0.1, 0),
    ]
