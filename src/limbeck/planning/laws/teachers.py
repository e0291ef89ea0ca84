"""Recommendations of a teacher, or of training without one, by several planners over the same candidates.

The planners are the ratio rule (`laws.ratio`), the published distillation law (`laws.distillation`) and a law fitted to a pilot
(`laws.fit`). Their results differ and are not combined. The best teacher is seldom the best choice. Minima are flat, so the
*cheapest teacher within epsilon of the best* is usually recommended. If the teacher's FLOPs count, training on more text
without a teacher is often better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from limbeck.planning.checks.price import Price
from limbeck.planning.cost.size import Size
from limbeck.planning.laws.distillation import COMPUTE_OPTIMAL, MEASURED, PUBLISHED, RATIO, RELATIVE_ERROR
from limbeck.planning.laws.estimate import Estimate

if TYPE_CHECKING:  # scipy takes a second to load, and a plan without a pilot's points does not need it
    from limbeck.planning.laws.ratio import RatioFit

_HALVINGS = 50

Verdict = Literal["distil", "any", "cross-entropy", "unknown"]


@dataclass(frozen=True)
class Model:
    """A teacher or a student, as planners use it.

    ``parameters`` counts all parameters, ``body`` those without embeddings and head, and ``multiplied`` those that take part in a
    matrix product for each token. ``size`` is None if only one number of parameters is known, which is all three counts then.
    """

    name: str
    parameters: float
    body: float
    multiplied: float
    size: Size | None = None

    @classmethod
    def of_count(cls, name: str, parameters: float) -> Model:
        """A model that has only a number of parameters, without a configuration."""
        return cls(name, parameters, parameters, parameters)

    @classmethod
    def of_size(cls, name: str, size: Size) -> Model:
        """A model with the size of its configuration."""
        return cls(name, size.parameters, size.body, size.multiplied, size)

    def forward_flops(self, length: int) -> float:
        """FLOPs of a forward pass per token in rows of ``length`` tokens, layer by layer; 2 N if only a number N is known."""
        return 2.0 * self.multiplied if self.size is None else self.size.forward_flops(length)


@dataclass(frozen=True)
class Task:
    """A student, its training tokens, and whether the teacher's forward passes are paid (otherwise its logits are cached).

    ``uses`` is the number of times that training uses the logits of one pass. ``epsilon`` is the tolerance in nats per token.
    ``teacher_tokens`` is the number of training tokens of teachers, None for 20 per parameter. Rows of text have ``length``
    tokens.
    """

    student: Model
    tokens: float
    paid: bool
    epsilon: float
    teacher_tokens: float | None
    uses: float = 1.0
    length: int = 1024

    def price(self, teacher: Model) -> Price:
        """The price of the teacher's logits in the student's compute. Logits that are not paid have infinitely many uses."""
        passes = teacher.forward_flops(self.length) / (3 * self.student.forward_flops(self.length))
        return Price(passes, self.uses if self.paid else math.inf)

    def flops(self, teacher: Model | None, tokens: float) -> float:
        """FLOPs of a training: three forward passes of the student per token, and one of a paid teacher per token it computes.

        For models with only a number of parameters it is 6 N_S D + 2 N_T D, as in arXiv 2311.07052.
        """
        per_token = 3 * self.student.forward_flops(self.length)
        if teacher is not None and self.paid:
            per_token += teacher.forward_flops(self.length) / self.uses
        return per_token * tokens

    def tokens_for(self, flops: float, teacher: Model | None) -> float:
        """The number of training tokens for a budget of FLOPs. Without a paid teacher, it is larger."""
        return flops / self.flops(teacher, 1)

    def seen_by(self, teacher: Model) -> float:
        """The number of training tokens of a teacher."""
        return COMPUTE_OPTIMAL * teacher.body if self.teacher_tokens is None else self.teacher_tokens


@dataclass(frozen=True)
class Row:
    """One way to train the student: with a teacher, or by cross-entropy alone (teacher None). Losses are in nats per token.

    ``loss`` is the loss after all tokens, for ``flops``. For the same FLOPs, cross-entropy alone trains on ``alone_tokens`` and
    reaches ``alone_loss``. ``break_even`` is the number of uses of the teacher's logits from which the teacher is better than
    that: inf if no number is enough, None if no logits are paid. ``budget_loss`` is the loss after ``budget_tokens``, the tokens
    of this row for ``budget_flops``, which are the FLOPs of the most expensive row.
    """

    teacher: str | None
    parameters: float
    teacher_loss: float | None
    flops: float
    loss: Estimate
    alone_tokens: float
    alone_loss: float
    budget_flops: float
    budget_tokens: float
    budget_loss: Estimate
    break_even: float | None = None

    @property
    def gain(self) -> float:
        """The student's advantage over cross-entropy alone for the same FLOPs, in nats per token."""
        return self.alone_loss - self.loss.value


@dataclass(frozen=True)
class Recommendation:
    """The recommendation of one planner. ``best`` and ``cheapest`` name candidates; None is cross-entropy alone, or unknown.

    ``said`` is the recommendation in a sentence. ``teacher`` is the best teacher size, even if no candidate has it, in the
    parameters that this planner counts.
    """

    planner: str
    verdict: Verdict
    said: str
    best: str | None
    cheapest: str | None
    teacher: Estimate | float | None
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


class Predictor(Protocol):
    """The protocol of a law that predicts losses, for `by_loss`. `DistillationFit` is one."""

    def predict(self, parameters: float, tokens: float, teacher_loss: float) -> Estimate:
        """Nats per token of a distilled student."""
        ...

    def predict_alone(self, parameters: float, tokens: float) -> Estimate:
        """Nats per token of the student trained on text alone."""
        ...


class PublishedLaw:
    """The published law. The interval of each prediction is its published error of about 1 %."""

    def predict(self, parameters: float, tokens: float, teacher_loss: float) -> Estimate:
        """Nats per token of a distilled student."""
        return _within(PUBLISHED.predict(parameters, tokens, teacher_loss))

    def predict_alone(self, parameters: float, tokens: float) -> Estimate:
        """Nats per token of the student trained on text alone."""
        return _within(PUBLISHED.supervised.predict(parameters, tokens))


def _within(loss: float) -> Estimate:
    return Estimate(float(loss), float(loss * (1 - RELATIVE_ERROR)), float(loss * (1 + RELATIVE_ERROR)))


def by_published_ratio(task: Task, candidates: Sequence[Model]) -> Recommendation:
    """The recommendation of the published rule (arXiv 2311.07052): a teacher of about 2.5 times the student's size."""
    best = RATIO * task.student.parameters
    notes = [
        "measured on students pruned from their teachers, below 3B parameters; it ignores tokens and the teacher's cost"
    ]
    if task.student.parameters > 3e9:
        notes.append(f"extrapolated: a student of {task.student.parameters:,.0f} parameters")
    return _by_ratio("ratio rule, published", task, candidates, best, lambda m: m.parameters, notes)


def by_fitted_ratio(task: Task, candidates: Sequence[Model], fit: RatioFit, *, arm: str) -> Recommendation:
    """The recommendation of a ratio rule fitted to a pilot's points."""
    name = f"ratio rule, your pilot ({arm})"
    notes = [str(valley) for valley in fit.valleys]
    best = fit.best_teacher(task.student.body)
    if best is None or best.value <= 0:
        if fit.flat:
            text = f"any teacher in this range will do, so the cheapest: {min(candidates, key=_cost).name}"
            return Recommendation(name, "any", text, None, min(candidates, key=_cost).name, None, (), tuple(notes))
        return Recommendation(
            name, "unknown", "your pilot found no best size of teacher", None, None, None, (), tuple(notes)
        )
    return _by_ratio(name, task, candidates, best, lambda m: m.body, notes)


def _by_ratio(
    name: str,
    task: Task,
    candidates: Sequence[Model],
    best: Estimate | float,
    size: Callable[[Model], float],
    notes: list[str],
) -> Recommendation:
    value = best.value if isinstance(best, Estimate) else best
    nearest = min(candidates, key=lambda m: abs(np.log(size(m) / value)))
    share = size(nearest) / value
    text = (
        f"a teacher of about {value:,.3g} parameters; of the candidates {nearest.name} is nearest ({share:.2f} of it)"
    )
    return Recommendation(
        name, "distil", text, nearest.name, nearest.name, best, (), (*notes, "a ratio predicts no loss")
    )


def by_published_law(task: Task, candidates: Sequence[Model]) -> Recommendation:
    """The recommendation of the published distillation law (arXiv 2502.08606)."""
    outside = [m for m in (task.student, *candidates) if not MEASURED[0] <= m.body <= MEASURED[1]]
    notes = [f"about {RELATIVE_ERROR:.0%} error of each loss; differences between teachers are surer than that"]
    if outside:
        notes.append(
            f"extrapolated: the published runs had {MEASURED[0] / 1e6:.0f}M to {MEASURED[1] / 1e9:.1f}B parameters; outside: "
            + ", ".join(m.name for m in outside)
        )
    best = float(PUBLISHED.best_teacher(task.student.body, task.tokens))
    if not np.isfinite(best):
        notes.append("the law sees no end: the larger the teacher the better, up to 1000 times the student")
    losses = {m.name: float(PUBLISHED.supervised.predict(m.body, task.seen_by(m))) for m in candidates}
    return by_loss("distillation law, published", task, candidates, PublishedLaw(), losses, best, notes)


def by_loss(
    name: str,
    task: Task,
    candidates: Sequence[Model],
    law: Predictor,
    teacher_losses: dict[str, float],
    best_size: Estimate | float | None,
    notes: Sequence[str],
) -> Recommendation:
    """The recommendation of a law of losses: candidates by their gain over cross-entropy alone, which is one of the rows.

    The gain is at equal FLOPs: cross-entropy alone trains on more tokens if the teacher is paid, else on the same number.
    ``teacher_losses`` has the loss of each candidate by name, in nats per token.
    """
    dearest = max(task.flops(m, task.tokens) for m in candidates)
    rows = [
        _row(task, law, None, None, dearest),
        *(_row(task, law, m, teacher_losses[m.name], dearest) for m in candidates),
    ]
    best = max(rows, key=lambda row: row.gain)
    near = [row for row in rows if row.gain >= best.gain - task.epsilon]
    cheapest = min(near, key=lambda row: (row.flops, row.parameters))
    distilled = [row for row in rows if row.teacher is not None]
    if cheapest.teacher is None:
        verdict: Verdict = "cross-entropy"
        most = max(row.gain for row in distilled)
        text = f"distilling does not pay here: train with cross-entropy (at equal FLOPs the best teacher gains {most:+.3f} nats)"
    elif len(distilled) > 1 and all(row in near for row in distilled):
        verdict = "any"
        text = f"any teacher in this range will do, so the cheapest: {cheapest.teacher} ({cheapest.gain:+.3f} nats)"
    else:
        verdict = "distil"
        text = f"{cheapest.teacher}: {cheapest.gain:+.3f} nats against cross-entropy at equal FLOPs"
        if cheapest is not best:
            text += f"; {best.teacher} is best by {best.gain - cheapest.gain:.4f}, less than epsilon"
    return Recommendation(name, verdict, text, best.teacher, cheapest.teacher, best_size, tuple(rows), tuple(notes))


def _row(task: Task, law: Predictor, teacher: Model | None, teacher_loss: float | None, budget: float) -> Row:
    student = task.student.body

    def loss(tokens: float) -> Estimate:
        return (
            law.predict_alone(student, tokens) if teacher_loss is None else law.predict(student, tokens, teacher_loss)
        )

    flops, budget_tokens = task.flops(teacher, task.tokens), task.tokens_for(budget, teacher)
    alone_tokens = task.tokens_for(flops, None)
    return Row(
        teacher=None if teacher is None else teacher.name,
        parameters=0 if teacher is None else teacher.parameters,
        teacher_loss=teacher_loss,
        flops=flops,
        loss=loss(task.tokens),
        budget_flops=budget,
        budget_tokens=budget_tokens,
        budget_loss=loss(budget_tokens),
        alone_tokens=alone_tokens,
        alone_loss=law.predict_alone(student, alone_tokens).value,
        break_even=None
        if teacher is None or not task.paid
        else _break_even(task, law, teacher, loss(task.tokens).value),
    )


def _break_even(task: Task, law: Predictor, teacher: Model, loss: float) -> float:
    """Uses of a teacher's logits from which a student with this loss is better at equal compute; 1 for one or less."""
    price = task.price(teacher)

    def alone(ratio: float) -> float:
        return law.predict_alone(task.student.body, ratio * task.tokens).value

    low, high = 1.0, price.ratio_at(1)
    if alone(low) <= loss:
        return math.inf
    if alone(high) >= loss:
        return 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if alone(middle) > loss else (low, middle)
    return price.uses_at((low + high) / 2)


def _cost(model: Model) -> float:
    return model.multiplied
