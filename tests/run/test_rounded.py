"""AdamW with moments in bfloat16: the update of AdamW, rounding that keeps means, and the same bits after a stop."""

import copy

import pytest
import torch

from limbeck.errors import BadSetting
from limbeck.objectives import CrossEntropy, ForwardKL
from limbeck.run.eight_bit import adamw_8bit
from limbeck.run.optim import adamw, set_rates
from limbeck.run.rounded import RoundedAdamW, rounded
from tests.helpers.models import llama, tokenizer
from tests.run.test_run import build, weights

TOK = tokenizer()


def noise(count, seed=0):
    return torch.randint(0, 2**16, (count,), dtype=torch.int32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("x", [1.0, -1.0, 1.00390625, 3.14159, -2.71828e-20, 1e38, 0.0])
def test_rounding_gives_one_of_two_neighbours_and_keeps_the_mean(x):
    given = torch.full((200_000,), x)
    found = rounded(given, noise(len(given)))
    nearest = torch.tensor(x).bfloat16()
    if float(nearest) == float(torch.tensor(x)):
        assert torch.equal(found, given.bfloat16())  # what bfloat16 holds stays
        return
    low, high = sorted(set(found.tolist()))
    assert abs(low) < abs(x) < abs(high) or abs(high) < abs(x) < abs(low)
    assert torch.nextafter(torch.tensor(low).bfloat16(), torch.tensor(high).bfloat16()) == high
    step = high - low
    assert found.double().mean() == pytest.approx(x, abs=4 * step / len(given) ** 0.5)


def test_what_is_not_finite_stays():
    found = rounded(
        torch.tensor([float("inf"), -float("inf"), float("nan")]), torch.full((3,), 65535, dtype=torch.int32)
    )
    assert found[0] == float("inf")
    assert found[1] == -float("inf")
    assert found[2].isnan()


def pair(dtype=torch.float32):
    """Two equal models with gradients, and optimisers of both kinds."""
    model = torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.Linear(30, 20)).to(dtype)
    other = copy.deepcopy(model)
    found = [adamw(m, [], weight_decay=0.1, kind=kind) for m, kind in ((model, "adamw"), (other, "adamw-bf16"))]
    for optimizer in found:
        set_rates(optimizer, 0, steps=10, peak=1e-2, schedule="constant")
    return (model, other), found


def test_the_first_update_is_that_of_adamw():
    models, optimizers = pair()
    for model, optimizer in zip(models, optimizers, strict=True):
        for number, parameter in enumerate(model.parameters()):
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        optimizer.step()
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    state = next(iter(optimizers[1].state.values()))
    assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.bfloat16


@pytest.mark.long
def test_later_updates_follow_it_and_pieces_change_nothing(monkeypatch):
    """After 30 steps they differ by the rounding of moments, a few parts in a thousand of the way."""
    (one, other), optimizers = pair()
    start = torch.cat([p.detach().flatten().clone() for p in one.parameters()])
    third = copy.deepcopy(other)
    optimizers.append(adamw(third, [], weight_decay=0.1, kind="adamw-bf16"))
    set_rates(optimizers[2], 0, steps=10, peak=1e-2, schedule="constant")
    for step in range(30):
        for number, (model, optimizer) in enumerate(zip((one, other, third), optimizers, strict=True)):
            for place, parameter in enumerate(model.parameters()):
                generator = torch.Generator().manual_seed(100 * step + place)
                parameter.grad = 1 + torch.randn(parameter.shape, generator=generator)
            monkeypatch.setattr("limbeck.run.rounded._BLOCK", {"cpu": 7 if number == 2 else 2**18})
            optimizer.step()
    ways = [torch.cat([p.detach().flatten() for p in model.parameters()]) - start for model in (one, other, third)]
    for way in ways[1:]:
        assert 0 < (way - ways[0]).norm() < 0.01 * ways[0].norm()


def test_weights_in_bfloat16_take_up_what_rounding_to_nearest_would_lose():
    """100 updates of 1/2,000 of the weight each: to nearest it would stay, at random it moves by 5 % on average."""
    weight = torch.nn.Parameter(torch.ones(4_000, dtype=torch.bfloat16))
    optimizer = RoundedAdamW([weight], betas=(0.9, 0.95))
    for _ in range(100):
        optimizer.param_groups[0]["lr"] = 5e-4
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert weight.dtype == torch.bfloat16
    assert float(weight.detach().float().mean()) == pytest.approx(0.95, abs=0.002)


@pytest.mark.long
@pytest.mark.parametrize("how", [{}, {"weights": "bfloat16", "bf16": True}], ids=["float32", "bfloat16"])
def test_a_stopped_run_continues_to_the_same_bits(tmp_path, how):
    data = tmp_path / "data"
    data.mkdir()
    how |= {"optimizer": "adamw-bf16", "schedule": "constant"}
    whole = build(tmp_path / "whole", data, make=ForwardKL, steps=4, **how)
    whole.train()
    build(tmp_path / "stopped", data, make=ForwardKL, steps=2, **how).train()
    again = build(tmp_path / "stopped", data, make=ForwardKL, steps=4, **how)
    again.train()
    assert torch.equal(weights(again), weights(whole))
    assert weights(whole).dtype == torch.float32
    small = [p for p in whole.student.model.parameters() if p.ndim >= 2]
    assert all(torch.equal(p, p.bfloat16().float()) for p in small) is ("weights" in how)


def test_the_usual_optimiser_is_fused_adamw():
    optimizer = adamw(llama(tok=TOK).model, [], weight_decay=0.1)
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.defaults["fused"]


def test_an_optimiser_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setattr("limbeck.packages.find_spec", lambda name: None)
    with pytest.raises(BadSetting, match=r"--optimizer adamw-8bit.*torchao.*pip install 'limbeck\[quant\]'"):
        adamw_8bit([torch.nn.Parameter(torch.zeros(3))], betas=(0.9, 0.95))


@pytest.mark.extras
def test_eight_bits_train_and_continue_to_the_same_bits(tmp_path):
    data = tmp_path / "data"
    data.mkdir()

    def student():
        return llama(hidden=64, seed=2, tok=TOK)  # matrices of 4,096 elements and more

    how = {"optimizer": "adamw-8bit", "schedule": "constant", "make": CrossEntropy, "student": student}
    with torch.compiler.set_stance("force_eager"):
        whole = build(tmp_path / "whole", data, steps=4, **how)
        whole.train()
        build(tmp_path / "stopped", data, steps=2, **how).train()
        again = build(tmp_path / "stopped", data, steps=4, **how)
        again.train()
    assert torch.equal(weights(again), weights(whole))
    plain = build(tmp_path / "plain", data, steps=4, **how | {"optimizer": "adamw"})
    start = weights(build(tmp_path / "start", data, steps=4, **how))
    plain.train()
    way = weights(plain) - start
    assert 0 < (weights(whole) - weights(plain)).norm() < 0.1 * way.norm()
