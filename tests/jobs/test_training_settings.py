"""The optimiser's settings: flags become a plan, and a run's signature has those that are not the default."""

import math
import sys

import pytest
import torch

from limbeck.config import DistilSettings, PretrainSettings, resolve
from limbeck.errors import BadFolder, BadSetting
from limbeck.jobs.common.folder import claim, signature_of
from limbeck.jobs.common.training import optimiser_facts, plan_of
from limbeck.run.optim import adamw, learning_rate
from limbeck.run.run import Plan

_SIZE = {"steps": 100, "rows": 4, "lr": 1e-3, "schedule": "wsd", "bf16": False}
_CHANGED = {"warmup": "10", "weight_decay": 0.1, "max_grad_norm": 0, "betas": "0.8,0.99", "save_every": "2h"}


def test_without_them_a_plan_is_as_it_was():
    assert plan_of(DistilSettings(), **_SIZE) == Plan(steps=100, rows=4, lr=1e-3)
    assert plan_of(PretrainSettings(), **_SIZE) == Plan(steps=100, rows=4, lr=1e-3)


def test_flags_become_a_plan():
    plan = plan_of(resolve(DistilSettings, None, _CHANGED), **_SIZE)
    assert (plan.warmup, plan.weight_decay, plan.betas) == (10, 0.1, (0.8, 0.99))
    assert (plan.max_norm, plan.save_every, plan.save_minutes) == (math.inf, sys.maxsize, 120.0)
    assert optimiser_facts(plan)["max_grad_norm"] is None  # JSON has no infinity
    steps = plan_of(resolve(DistilSettings, None, {"save_every": 50}), **_SIZE)
    assert (steps.save_every, steps.save_minutes) == (50, math.inf)
    optimizer = adamw(torch.nn.Linear(2, 2), [], weight_decay=plan.weight_decay, betas=plan.betas)
    assert [group["betas"] for group in optimizer.param_groups] == [(0.8, 0.99)] * 2


def test_a_warm_up_is_a_share_or_a_number_of_steps():
    rates = [learning_rate(step, steps=100, peak=1.0, schedule="constant", warmup=4) for step in range(6)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert rates == [learning_rate(step, steps=100, peak=1.0, schedule="constant", warmup=0.04) for step in range(6)]
    assert learning_rate(0, steps=100, peak=1.0, schedule="cosine", warmup=0) == 1.0


def test_a_warm_up_longer_than_the_training_is_refused():
    with pytest.raises(BadSetting, match=r"--warmup 100: the training has 100 steps, .* a share of them such as 0.05"):
        plan_of(DistilSettings(warmup=100), **_SIZE)


def test_a_signature_has_what_is_not_the_default():
    usual = signature_of(DistilSettings(), "distil")
    assert not usual.keys() & {*_CHANGED}
    said = {"warmup": 0.05, "weight_decay": 0.01, "max_grad_norm": 1, "betas": "0.9,0.95", "save_every": 200}
    assert signature_of(resolve(DistilSettings, None, said), "distil") == usual  # said or not, the same run
    changed = signature_of(resolve(DistilSettings, None, _CHANGED), "distil")
    expected = {"warmup": 10.0, "weight_decay": 0.1, "max_grad_norm": 0.0, "betas": [0.8, 0.99]}
    assert changed == usual | expected  # and not how often a checkpoint is saved


def test_another_weight_decay_is_another_run(tmp_path):
    claim(tmp_path, signature_of(DistilSettings(), "distil"))
    (tmp_path / "metrics.jsonl").write_text("")
    claim(tmp_path, signature_of(DistilSettings(save_every=7), "distil"))
    with pytest.raises(BadFolder, match=r"weight_decay: None there, 0.1 now"):
        claim(tmp_path, signature_of(DistilSettings(weight_decay=0.1), "distil"))
