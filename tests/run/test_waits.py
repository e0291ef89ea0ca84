"""A step on a device that computes in the background waits for nothing; its loss is read one step late.

The meta device has no values, so that whatever would read one there raises: a number, a list, a mask as an index, a copy back.
"""

import copy
import dataclasses
import json
from contextlib import nullcontext

import pytest
import torch

from limbeck.errors import NonFiniteLoss
from limbeck.models import inside
from limbeck.models.mixers.precision import full_products
from limbeck.objectives import fused, parse
from limbeck.run import behind, step, world
from limbeck.run.optim import adamw
from limbeck.run.run import Plan, Run
from limbeck.run.step import LossTerm, train_step
from limbeck.run.world import alone
from limbeck.types import Sparse
from tests.helpers.models import batch, frozen, llama, tokenizer

TOK = tokenizer()


@pytest.fixture
def meta(monkeypatch):
    """Takes away what the meta device lacks: autocast, and a list of devices with operations on many tensors."""
    monkeypatch.setattr(fused, "exact", lambda hidden: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *device: False)
    monkeypatch.setattr(torch.nn.utils.clip_grad, "_device_has_foreach_support", lambda device: True)
    return torch.device("meta")


def fused_adamw(model, monkeypatch):
    """What the meta device lacks as well: fused AdamW, whose update is left out."""
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.defaults["fused"] = True
    monkeypatch.setattr(optimizer, "step", lambda: None)
    return optimizer


class Outcomes:
    """A teacher that was captured: the top-k outcomes, on the host, sent to the batch's device."""

    name, vocab = "captured", len(TOK)

    def __call__(self, rows):
        n = rows.weight.numel()
        log_p, ids = torch.randn(n, self.vocab).log_softmax(-1).topk(4)
        return Sparse(ids, log_p, log_p.exp(), self.vocab, torch.log1p(-log_p.exp().sum(-1))).to(rows.tokens.device)


@pytest.mark.parametrize("teacher", ["live", "captured"])
@pytest.mark.parametrize(
    "text",
    [
        "ForwardKL",
        "0.5*CrossEntropy + 0.5*SkewKL(alpha=0.2)",
        "0.5*CrossEntropy + 0.5*TAID",
        "TAID(schedule='exp')",
        "Ramp(of=TAID())",
        "CTKD",
    ],
)
def test_a_step_reads_nothing_from_its_device(meta, monkeypatch, teacher, text):
    student, objective = llama(seed=2, tok=TOK), parse(text)
    assert student.config._attn_implementation == inside.NAME
    student.model.to(meta)
    objective.begin(100)
    objective.to(meta)
    if teacher == "captured" and text == "CTKD":
        return  # captured outcomes are at temperature 1
    live = frozen(llama(layers=3, seed=1, tok=TOK))
    live.model.to(meta)
    optimizer = fused_adamw(student.model, monkeypatch)
    objective.settle()  # after a step in which each block was looked at
    rows = batch(4, vocab=len(TOK)).to(meta)
    terms = [
        LossTerm(rows.rows(part), objective, live if teacher == "live" else Outcomes())
        for part in (slice(0, 2), slice(2, 4))
    ]
    done = train_step(student, terms, optimizer, mesh=alone(meta))
    assert done.tokens == batch(4, vocab=len(TOK)).weight.sum()
    assert optimizer.found_inf.device == meta
    assert student.model.get_output_embeddings().weight.grad is not None
    with pytest.raises((NotImplementedError, RuntimeError)):
        _ = done.loss  # which the host reads when it likes


def test_the_first_step_looks_at_each_block(meta, monkeypatch):
    student = llama(seed=2, tok=TOK)
    student.model.to(meta)
    optimizer = fused_adamw(student.model, monkeypatch)
    with pytest.raises((NotImplementedError, RuntimeError)):
        train_step(student, [LossTerm(batch().to(meta), parse("CrossEntropy"))], optimizer, mesh=alone(meta))


def test_limits_that_were_met_are_looked_at_further():
    objective = parse("0.5*CrossEntropy + 0.5*ForwardKL")
    first, second = objective.terms
    assert first.within_limits(torch.ones(2))
    assert not second.within_limits(torch.tensor([1.0, torch.inf]))
    objective.settle()
    assert first.within_limits(torch.full((2,), torch.nan))  # taken for granted
    assert not second.within_limits(torch.full((2,), torch.nan))


@pytest.fixture
def queued(monkeypatch):
    """Lets the CPU be taken for a device that computes in the background."""
    for module in (behind, step, world):
        monkeypatch.setattr(module, "queues", lambda device: True)


class Corpus:
    """The same rows again and again, in a place that is saved."""

    length, seed = 16, 0

    def __init__(self):
        self.taken = 0

    def take(self, rows):
        self.taken += rows
        return batch(rows, vocab=len(TOK), seed=self.taken)

    def documents(self, rows):
        return [f"document {self.taken}"]

    def state_dict(self):
        return {"row": self.taken}

    def load_state_dict(self, state):
        self.taken = state["row"]


class Breaks:
    """A teacher whose answers are no numbers from one call on."""

    def __init__(self, teacher, call):
        self.teacher, self.left, self.name, self.vocab = teacher, call, "broken", teacher.vocab

    def __call__(self, rows):
        outputs, self.left = self.teacher(rows), self.left - 1
        return outputs if self.left > 0 else dataclasses.replace(outputs, hidden=outputs.hidden * torch.nan)


def trained(folder, teacher, **plan):
    run = Run(
        folder,
        "student",
        llama(seed=2, tok=TOK),
        teacher,
        Corpus(),
        parse("ForwardKL"),
        Plan(steps=6, rows=2, lr=1e-2, max_norm=0.5, **plan),
        alone(),
    )
    run.train()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return run, [(row["step"], row["loss_nats"], row["grad_norm"]) for row in rows]


def test_late_or_at_once_the_weights_have_the_same_bits(tmp_path, monkeypatch):
    teacher = frozen(llama(layers=3, seed=1, tok=TOK))
    at_once, losses = trained(tmp_path / "at_once", teacher)
    for module in (behind, step, world):
        monkeypatch.setattr(module, "queues", lambda device: True)
    late, late_losses = trained(tmp_path / "late", teacher)
    assert losses == late_losses
    assert [number for number, *_ in losses] == [1, 2, 3, 4, 5, 6]
    for a, b in zip(at_once.student.model.parameters(), late.student.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.usefixtures("queued")
def test_a_loss_that_is_not_a_number_ends_the_run_before_a_checkpoint(tmp_path):
    teacher = Breaks(frozen(llama(layers=3, seed=1, tok=TOK)), 4)
    with pytest.raises(
        NonFiniteLoss, match=r"loss nan nats, .* at step 4 of 6\. The weights were not updated\. "
    ) as error:
        trained(tmp_path, teacher, save_every=2)
    assert "document 8." in str(error.value)  # two rows a step
    assert "step-000002" in str(error.value)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-000002"]


@pytest.mark.usefixtures("queued")
def test_the_device_leaves_the_update_out_itself():
    student, broken = llama(seed=2, tok=TOK), frozen(llama(layers=3, seed=1, tok=TOK))
    broken.model.get_output_embeddings().weight.data[3] = torch.nan
    optimizer = adamw(student.model, [], weight_decay=0.1)
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    objective = parse("ForwardKL")
    before = copy.deepcopy(student.model.state_dict())
    done = train_step(student, [LossTerm(batch(vocab=len(TOK)), objective, broken)], optimizer, mesh=alone())
    assert all(torch.equal(before[name], tensor) for name, tensor in student.model.state_dict().items())
    assert all(not state["exp_avg"].any() and state["step"] == 0 for state in optimizer.state.values())
    with pytest.raises(NonFiniteLoss, match="loss nan nats"):
        _ = done.loss


def test_a_head_is_cast_once_a_step():
    weight = llama(seed=2, tok=TOK).head.weight
    with fused.fixed_weights():
        first, again = (fused._in_format(weight, torch.bfloat16) for _ in range(2))
        assert first is again
        assert torch.equal(first, weight.detach().bfloat16())
    assert fused._in_format(weight, torch.bfloat16) is not first  # the next step has other weights
    assert not fused._in_format(weight, torch.float32).requires_grad


def test_heads_are_computed_in_full_where_layers_are_not(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    with full_products():
        pass
    assert asked == []
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    with full_products():
        assert asked == ["highest"]
    assert asked == ["highest", "high"]
