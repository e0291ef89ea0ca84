"""What a step takes: micro-batches with their own objectives and teachers, inputs of the student's own, a model's own nats."""

import copy
import dataclasses
from dataclasses import dataclass

import pytest
import torch

from limbeck.models.build import new_model
from limbeck.models.decoder import LimbeckConfig
from limbeck.models.mixers.mixer import Mixer
from limbeck.objectives import TAID, CrossEntropy, ForwardKL, Objective, fused_backward
from limbeck.run.optim import adamw, set_rates
from limbeck.run.run import Plan, Run
from limbeck.run.step import LossTerm, train_step
from limbeck.run.world import alone
from limbeck.types import Batch, ModelInputs, Outputs
from tests.helpers.models import batch, frozen, llama, tokenizer

TOK = tokenizer()
TEACHERS = [frozen(llama(layers=layers, seed=layers, tok=TOK)) for layers in (2, 3)]


def gradients(student) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in student.model.parameters()])


def test_a_step_adds_up_objectives_and_teachers_token_by_token():
    """The gradient is that of each micro-batch with its own objective and teacher, over the weight of all."""
    student = llama(seed=4, tok=TOK)
    rows = [batch(2, vocab=len(TOK), seed=seed) for seed in (0, 1, 2)]
    objectives = [ForwardKL(), ForwardKL(), CrossEntropy()]
    total = float(sum(one.weight.sum() for one in rows))
    expected = copy.deepcopy(student)
    parts = []
    for one, objective, teacher in zip(rows, objectives, [*TEACHERS, None], strict=True):
        signal = None if teacher is None else teacher(one)
        parts.append(float(fused_backward(objective, expected(one), signal, one, scale=1 / total)))
    optimizer = adamw(student.model, [], weight_decay=0.0)
    terms = [LossTerm(*term) for term in zip(rows, objectives, [*TEACHERS, None], strict=True)]
    step = train_step(student, terms, optimizer, mesh=alone(), max_norm=1e9)
    assert torch.equal(gradients(student), gradients(expected))
    assert step.loss == pytest.approx(sum(parts), abs=1e-12)
    assert step.tokens == total


def test_each_objective_advances_by_the_loss_of_its_own_tokens():
    losses = []

    class Recording(TAID):
        def advance(self, loss: float) -> None:
            losses.append(loss)

    one, other = batch(2, vocab=len(TOK), seed=0), batch(3, vocab=len(TOK), seed=1)
    terms = [LossTerm(one, Recording(), TEACHERS[0]), LossTerm(other, Recording(), TEACHERS[1])]
    for term in terms:
        term.objective.begin(10)
    student = llama(seed=4, tok=TOK)
    alone_ = [
        train_step(copy.deepcopy(student), [term], adamw(llama(tok=TOK).model, [], weight_decay=0.0), mesh=alone()).loss
        for term in terms
    ]
    losses.clear()
    train_step(student, terms, adamw(student.model, [], weight_decay=0.0), mesh=alone())
    assert losses == pytest.approx(alone_, rel=1e-6)  # weights are float32


def test_a_student_may_read_other_tokens_than_its_teacher():
    rows = batch(2, vocab=len(TOK))
    masked = dataclasses.replace(rows.inputs, tokens=torch.zeros_like(rows.tokens))
    both = dataclasses.replace(rows, student_inputs=masked)
    assert torch.equal(both.for_student().tokens, masked.tokens)
    assert torch.equal(both.rows(slice(1, 2)).for_student().tokens, masked.tokens[1:])
    assert rows.for_student() is rows
    student, expected = llama(seed=4, tok=TOK), llama(seed=4, tok=TOK)
    train_step(
        student, [LossTerm(both, ForwardKL(), TEACHERS[0])], adamw(student.model, [], weight_decay=0.0), mesh=alone()
    )
    blind = dataclasses.replace(rows, tokens=masked.tokens)
    total = float(rows.weight.sum())
    fused_backward(ForwardKL(), expected(blind), TEACHERS[0](rows), rows, scale=1 / total)
    scale = gradients(student).norm() / gradients(expected).norm()  # the step clips
    torch.testing.assert_close(gradients(student), gradients(expected) * scale, rtol=1e-6, atol=1e-9)


@dataclass
class Penalised:
    """A model that adds nats for large hidden states at each position."""

    model: object
    name: str = "penalised"

    @property
    def vocab(self) -> int:
        return self.model.vocab

    def __call__(self, batch: Batch) -> Outputs:
        outputs = self.model(batch)
        return dataclasses.replace(outputs, extra=0.1 * outputs.hidden.square().mean(-1))


def test_a_model_adds_nats_of_its_own_to_each_token():
    rows = batch(2, vocab=len(TOK))
    student, plain = llama(seed=4, tok=TOK), llama(seed=4, tok=TOK)
    total = float(rows.weight.sum())
    found = fused_backward(CrossEntropy(), Penalised(student)(rows), None, rows, scale=1 / total)
    outputs = Penalised(plain)(rows)
    nats = torch.nn.functional.cross_entropy(outputs.logits(), rows.targets.flatten(), reduction="none")
    loss = ((nats.view_as(rows.weight) + outputs.extra) * rows.weight).sum() / total
    loss.backward()
    assert float(found) == pytest.approx(loss.item(), rel=1e-6)
    assert float(found) > float(fused_backward(CrossEntropy(), student(rows), None, rows, scale=1 / total))
    student.model.zero_grad()
    fused_backward(CrossEntropy(), Penalised(student)(rows), None, rows, scale=1 / total)
    torch.testing.assert_close(gradients(student), gradients(plain), rtol=1e-4, atol=5e-7)


class Sparing:
    """A decoder whose mixers are charged for what they add to the residual stream: an auxiliary loss of each layer's mixer."""

    def __init__(self, model, charge: float) -> None:
        self.model, self.name, self.vocab, self.charge = model, "sparing", model.vocab, charge
        self.added: list[torch.Tensor] = []
        for module in model.model.modules():
            if isinstance(module, Mixer):
                module.register_forward_hook(lambda _, inputs, outputs: self.added.append(outputs[0].square().mean(-1)))

    def __call__(self, batch: Batch) -> Outputs:
        self.added.clear()
        outputs = self.model(batch)
        return dataclasses.replace(outputs, extra=self.charge * sum(self.added))


def mixed():
    config = {"mixers": ["gla", "swa:4"], "vocab_size": len(TOK), "hidden_size": 32, "intermediate_size": 32}
    return new_model(LimbeckConfig(**config, num_attention_heads=2, chunk_size=8), TOK, 3, name="mixed")


def test_an_auxiliary_loss_of_mixers_is_trained_through_a_step():
    """The step's loss and gradients are those of the whole sum, by autograd; what is charged gets small, what is not does not."""
    rows = batch(2, vocab=len(TOK))
    student, dense = Sparing(mixed(), 0.5), Sparing(mixed(), 0.5)
    optimizer = adamw(student.model.model, [], weight_decay=0.0)
    step = train_step(student, [LossTerm(rows, CrossEntropy())], optimizer, mesh=alone(), max_norm=1e9)
    outputs = dense(rows)
    assert len(dense.added) == 2
    nats = torch.nn.functional.cross_entropy(outputs.logits(), rows.targets.flatten(), reduction="none")
    loss = ((nats.view_as(rows.weight) + outputs.extra) * rows.weight).sum() / rows.weight.sum()
    loss.backward()
    assert step.loss == pytest.approx(loss.item(), rel=1e-6)
    torch.testing.assert_close(gradients(student.model), gradients(dense.model), rtol=1e-4, atol=1e-6)

    def added_after(charge: float) -> float:
        student = Sparing(mixed(), charge)
        optimizer = adamw(student.model.model, [], weight_decay=0.0)
        set_rates(optimizer, 0, steps=1, peak=3e-3, schedule="constant")
        for _ in range(20):
            train_step(student, [LossTerm(rows, CrossEntropy())], optimizer, mesh=alone())
        student(rows)
        return float(sum(student.added).mean().detach())

    assert added_after(100.0) < added_after(0.0) / 10


class PerSequence(Objective):
    """Cross-entropy, which also sums the nats of each sequence of the batch."""

    needs_teacher = False

    def __init__(self) -> None:
        super().__init__()
        self.sums = {}

    def forward(self, logits, signal, chunk):
        nats = torch.nn.functional.cross_entropy(logits, chunk.targets, reduction="none")
        for sequence, value in zip(chunk.sequence.tolist(), nats.tolist(), strict=True):
            self.sums[sequence] = self.sums.get(sequence, 0.0) + value
        return nats


def test_an_objective_can_sum_over_a_sequence():
    rows = batch(3, vocab=len(TOK))
    starts = (rows.position == 0).sum() + (rows.position[:, 0] != 0).sum()
    assert rows.sequence.flatten()[-1] == starts - 1
    assert rows.sequence[:, 0].tolist() == [0, *(rows.sequence[:-1, -1] + 1).tolist()]
    student, objective = llama(seed=4, tok=TOK), PerSequence()
    fused_backward(objective, student(rows), None, rows, scale=1.0)
    nats = torch.nn.functional.cross_entropy(student(rows).logits(), rows.targets.flatten(), reduction="none")
    counts = rows.weight.flatten() > 0
    for sequence in rows.sequence.unique().tolist():
        here = (rows.sequence.flatten() == sequence) & counts
        assert objective.sums.get(sequence, 0.0) == pytest.approx(nats[here].sum().item(), rel=1e-5, abs=1e-6)


class Rollouts:
    """A corpus that makes its rows as they are taken."""

    length, seed = 16, 0

    def __init__(self) -> None:
        self.given = 0

    def take(self, rows: int) -> Batch:
        self.given += rows
        return batch(rows, 16, vocab=len(TOK), seed=self.given)

    def documents(self, rows: int) -> list[str]:
        return [f"rollout {number}" for number in range(self.given - rows, self.given)]

    def state_dict(self) -> dict:
        return {"given": self.given}

    def load_state_dict(self, state: dict) -> None:
        self.given = state["given"]


@dataclass(frozen=True)
class Counting:
    """A mesh that is one process, and counts what a run asks of it."""

    calls: dict

    def __getattr__(self, name):
        value = getattr(alone(), name)
        if not callable(value):
            return value

        def counted(*args, **named):
            self.calls[name] = self.calls.get(name, 0) + 1
            return value(*args, **named)

        return counted


def test_a_run_takes_any_corpus_and_any_mesh(tmp_path):
    student, calls = llama(seed=4, tok=TOK), {}
    plan = Plan(steps=4, rows=2, lr=1e-3, save_every=2)
    run = Run(tmp_path, "run", student, TEACHERS[0], Rollouts(), ForwardKL(), plan, Counting(calls))
    run.train()
    again = llama(seed=4, tok=TOK)
    Run(tmp_path / "again", "run", again, TEACHERS[0], Rollouts(), ForwardKL(), plan, alone()).train()
    assert all(torch.equal(a, b) for a, b in zip(student.model.parameters(), again.model.parameters(), strict=True))
    assert calls["clip"] == calls["sum_gradients"] == 4
    assert calls["begin"] == 4  # micro-batches
    assert calls["share"] == 2 * 3  # checkpoints: begun, written, complete


def test_inputs_are_the_parts_of_a_batch_that_a_model_reads():
    rows = batch(2, vocab=len(TOK))
    assert rows.inputs == ModelInputs(rows.tokens, rows.position, rows.document)
