"""A step on a device that computes in the background waits for nothing; its loss is read one step late.

The meta device has no values, so that whatever would read one there raises: a number, a list, a mask as an index, a copy back.
"""

import copy
import dataclasses
import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from limbeck.disk import read_lines
from limbeck.errors import NonFiniteLoss
from limbeck.host import on_host
from limbeck.models import inside
from limbeck.objectives import fused, parse
from limbeck.objectives.base import Objective, terms_of
from limbeck.objectives.named import OBJECTIVES
from limbeck.run import behind, step, world
from limbeck.run import run as run_module
from limbeck.run import watch as watch_module
from limbeck.run.lockstep import train_lockstep
from limbeck.run.moment import Moment
from limbeck.run.optim import adamw
from limbeck.run.routed import RoutedStep
from limbeck.run.run import Plan, Run
from limbeck.run.save import best_step, checkpoints
from limbeck.run.selection import Rule
from limbeck.run.step import LossTerm, train_step
from limbeck.run.watch import Watch
from limbeck.run.world import alone
from limbeck.teachers.routed import RoutedTeacher
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


def test_a_step_with_several_teachers_reads_nothing_from_its_device(meta, monkeypatch):
    student, objective, rows = llama(seed=2, tok=TOK), parse("ForwardKL"), batch(4, vocab=len(TOK))
    teachers = [frozen(llama(seed=seed, tok=TOK)) for seed in (1, 3)]
    for model in (student, *teachers):
        model.model.to(meta)
    objective.settle()
    routed = RoutedTeacher(teachers, lambda some: on_host(some.row) % 2)
    terms = [LossTerm(rows.to(meta).rows(part), objective, routed) for part in (slice(0, 2), slice(2, 4))]
    done = RoutedStep(routed)(student, terms, fused_adamw(student.model, monkeypatch), mesh=alone(meta))
    assert done.tokens == rows.weight.sum()


def test_the_first_step_looks_at_each_block(meta, monkeypatch):
    student = llama(seed=2, tok=TOK)
    student.model.to(meta)
    optimizer = fused_adamw(student.model, monkeypatch)
    with pytest.raises((NotImplementedError, RuntimeError)):
        train_step(student, [LossTerm(batch().to(meta), parse("CrossEntropy"))], optimizer, mesh=alone(meta))


def test_limits_that_were_met_are_looked_at_further():
    objective = parse("0.5*CrossEntropy + 0.5*ForwardKL")
    (_, first), (_, second) = terms_of(objective)
    assert first.within_limits(torch.ones(2))
    assert not second.within_limits(torch.tensor([1.0, torch.inf]))
    objective.settle()
    assert first.within_limits(torch.full((2,), torch.nan))  # taken for granted
    assert not second.within_limits(torch.full((2,), torch.nan))


@pytest.fixture
def queued(monkeypatch):
    """Lets the CPU be taken for a device that computes in the background."""
    for name in ("behind", "step", "world", "run"):
        monkeypatch.setattr(f"limbeck.run.{name}.queues", lambda device: True)


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


def run_of(folder, teacher, objective="ForwardKL", **plan):
    how = Plan(**{"steps": 6, "rows": 2, "lr": 1e-2, "max_norm": 0.5} | plan)
    return Run(folder, "student", llama(seed=2, tok=TOK), teacher, Corpus(), parse(objective), how, alone())


def trained(folder, teacher, **plan):
    run = run_of(folder, teacher, **plan)
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
def test_a_loss_that_is_read_late_says_what_was_computed_since(tmp_path):
    teacher = Breaks(frozen(llama(layers=3, seed=1, tok=TOK)), 3)
    with pytest.raises(
        NonFiniteLoss, match=r"at step 3 of 6\. It updated nothing\. Step 4 was computed before"
    ) as error:
        trained(tmp_path, teacher, save_every=2)
    assert "document 6." in str(error.value)
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-000002"]


@pytest.mark.usefixtures("queued")
def test_weights_are_measured_and_kept_only_after_losses_that_are_numbers(tmp_path):
    measured = []

    def batches():
        measured.append(len(read_lines(tmp_path / "metrics.jsonl")))
        return [batch(vocab=len(TOK))]

    run = run_of(tmp_path, Breaks(frozen(llama(layers=3, seed=1, tok=TOK)), 4))
    run.rule, run.watch = Rule(2, best=True), Watch(batches, 99, frozenset({0, 2, 4, 6}))
    with pytest.raises(NonFiniteLoss, match=r"at step 4 of 6\. The weights were not updated\."):
        run.train()
    assert measured == [0, 2]  # each after the losses of all steps before it
    assert best_step(tmp_path) in (0, 2)


class Tied:
    """A run's device with a clock that each piece of work moves on: the seconds between two moments are those of the device."""

    def __init__(self):
        self.now = 0.0

    def of(self, device):
        return Moment(self.now)


@pytest.mark.usefixtures("queued")
def test_seconds_of_a_step_are_its_own_in_lockstep_and_beside_a_measurement(tmp_path, monkeypatch):
    clock = Tied()
    for module in (run_module, watch_module):
        monkeypatch.setattr(module, "Moment", clock)
    teacher = frozen(llama(layers=3, seed=1, tok=TOK))

    def taking(seconds):
        def update(*terms, **how):
            clock.now += seconds
            return train_step(*terms, **how)

        return update

    def batches():
        clock.now += 32.0
        return [batch(vocab=len(TOK))]

    runs = [run_of(tmp_path / str(seconds), teacher) for seconds in (2, 8)]
    for run, seconds in zip(runs, (2.0, 8.0), strict=True):
        run.update = taking(seconds)
    runs[0].watch = Watch(batches, 99, frozenset({3}))
    train_lockstep(runs, label="")
    for run, seconds in zip(runs, (2.0, 8.0), strict=True):
        rows = read_lines(run.folder / "metrics.jsonl")
        tokens = np.diff([0, *(row["tokens"] for row in rows)])
        assert [row["tokens_per_s"] for row in rows] == [round(count / seconds, 1) for count in tokens]
    (row,) = read_lines(runs[0].folder / "held_out.jsonl")
    assert row["seconds"] == 32.0


def test_seconds_on_a_gpu_are_those_between_events_of_its_queue(monkeypatch):
    class Event:
        def __init__(self, *, enable_timing):
            assert enable_timing
            self.waited = False

        def record(self, stream):
            self.stream = stream

        def synchronize(self):
            self.waited = True

        def elapsed_time(self, later):
            assert later.waited
            assert self.stream == later.stream == "stream of cuda:0"
            return 2500.0  # ms

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    begun, ended = (Moment.of(torch.device("cuda", 0)) for _ in range(2))
    assert ended.since(begun) == 2.5


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


class Limits:
    """A teacher that gives some tokens no probability at all in one of its calls, so that closed forms meet their limits."""

    def __init__(self, teacher, call):
        self.teacher, self.left, self.name, self.vocab = teacher, call, "limits", teacher.vocab

    def __call__(self, rows):
        outputs, self.left = self.teacher(rows), self.left - 1
        if self.left:
            return outputs
        bias = torch.zeros(len(outputs.head.weight))
        bias[5:9] = -torch.inf
        return dataclasses.replace(outputs, head=dataclasses.replace(outputs.head, bias=bias))


def outcome(run):
    """Weights and objective, or the error, after a training."""
    try:
        run.train()
    except NonFiniteLoss as error:
        return str(error).split(" at step")[0]
    tensors = [*run.student.model.parameters(), *run.objective.state_dict().values()]
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


STATEFUL = "0.5*TAID(alpha=0.1) + Ramp(of=SkewKL()) + CTKD + EntropySelect"


def test_every_objective_with_state_is_looked_at():
    changed = {name for name in OBJECTIVES if OBJECTIVES[name].advance is not Objective.advance}
    assert changed == {type(part).__name__ for _, part in terms_of(parse(STATEFUL))}


@pytest.mark.parametrize("met", [1, 3, 9])
@pytest.mark.usefixtures("queued")
def test_a_run_that_is_killed_ends_as_one_that_is_not(tmp_path, met):
    """Whatever an objective learned of its limits before the kill: ``met``, the step at which it meets them."""
    live = frozen(llama(layers=3, seed=1, tok=TOK))
    whole = outcome(run_of(tmp_path / "whole", Limits(live, met), STATEFUL, steps=4))
    first = run_of(tmp_path / "killed", Limits(live, met), STATEFUL, steps=4, save_every=2)
    going = first.steps([])
    while next(going) < 2:
        pass
    going.close()  # nothing is saved after the checkpoint
    assert [path.name for path in checkpoints(tmp_path / "killed")] == ["step-000002"]
    again = outcome(run_of(tmp_path / "killed", Limits(live, met - 2), STATEFUL, steps=4, save_every=2))
    assert again == whole if isinstance(whole, str) else torch.equal(again, whole)
