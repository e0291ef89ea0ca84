"""The distillation scaling law: the loss of a student from its size, its tokens and its teacher's loss.

Busbridge et al., "Distillation Scaling Laws", arXiv 2502.08606: eq. 2 for training on text alone, eq. 8 for distillation, with
the coefficients of the appendix (73 and 697 runs on English C4, muP, pure distillation at temperature 1; about 1 % error).
N counts parameters without embeddings, and D counts tokens. Losses are in nats per token.

A teacher enters the law through its loss only, and a *better* teacher can give a worse student (the capacity gap). The term of
the gap has the exponents -c1 f1 = -47 and 1/f1 = 11, so everything is computed in logarithms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

# Floats, or arrays that broadcast. A law of arrays represents many laws, such as bootstrap draws.
Number = Any

# Range of sizes of the published runs, in parameters without embeddings. Outside it, the law extrapolates.
MEASURED = (143e6, 12.6e9)
RELATIVE_ERROR = 0.01  # of the published law's predictions, as the paper says
# The ratio rule, best teacher over student: the slope of T* = 2.498 S - 11.498 (millions, R² 0.9957; arXiv 2311.07052). With the
# intercept T* would be negative below S = 4.6M.
RATIO = 2.498
COMPUTE_OPTIMAL = (
    20  # tokens per parameter (Hoffmann et al., arXiv 2203.15556), assumed for teachers of unknown training
)


@dataclass(frozen=True)
class SupervisedLaw:
    """The loss of a model trained on text alone: L(N, D) = E + (A / N^alpha + B / D^beta)^gamma (arXiv 2502.08606, eq. 2)."""

    A: Number
    B: Number
    E: Number
    alpha: Number
    beta: Number
    gamma: Number

    def predict(self, parameters: Number, tokens: Number) -> Number:
        """The loss in nats per token for N = ``parameters`` without embeddings and D = ``tokens``."""
        return self.E + np.exp(self.gamma * _log_sum(self, parameters, tokens))


@dataclass(frozen=True)
class DistillationLaw:
    """The loss of a student with a teacher of loss L_T (arXiv 2502.08606, eq. 8). L is the student's loss on text alone.

    L_S = L_T + L_T^-c0 (1 + (L_T / (L d1))^(1/f1))^(-c1 f1) (A / N^alpha + B / D^beta)^gamma
    """

    supervised: SupervisedLaw
    A: Number
    B: Number
    alpha: Number
    beta: Number
    gamma: Number
    c0: Number
    c1: Number
    f1: Number
    d1: Number

    def predict(self, parameters: Number, tokens: Number, teacher_loss: Number) -> Number:
        """The loss in nats per token of a student of ``parameters`` parameters, distilled on ``tokens`` tokens."""
        alone = self.supervised.predict(parameters, tokens)
        teacher = np.log(teacher_loss)
        gap = np.logaddexp(0.0, (teacher - np.log(alone) - np.log(self.d1)) / self.f1)
        learned = self.gamma * _log_sum(self, parameters, tokens)
        return teacher_loss + np.exp(learned - self.c0 * teacher - self.c1 * self.f1 * gap)

    def of_teacher(self, parameters: Number, tokens: Number, teacher: Number, teacher_tokens: Number) -> Number:
        """The loss in nats per token of a student, with its teacher given by parameters and training tokens."""
        return self.predict(parameters, tokens, self.supervised.predict(teacher, teacher_tokens))

    def best_teacher(
        self, parameters: float, tokens: float, *, tokens_per_parameter: float = COMPUTE_OPTIMAL
    ) -> Number:
        """Parameters of the best teacher trained on ``tokens_per_parameter`` tokens per parameter; inf if larger is better.

        The search covers 1 to 1000 times the student's size. The minimum is flat, so a smaller teacher often costs little.
        """
        sizes = parameters * np.geomspace(1.0, 1000.0, 601)
        one = np.ndim(self.c1) == 0
        law = self if one else at_each(self)
        losses = np.atleast_2d(law.of_teacher(parameters, tokens, sizes, tokens_per_parameter * sizes))
        best = np.where(losses.argmin(-1) == len(sizes) - 1, np.inf, sizes[losses.argmin(-1)])
        return float(best[0]) if one else best

    def without_gap(self) -> DistillationLaw:
        """The same law without a capacity gap (c1 = 0), the baseline for predictions."""
        return replace(self, c1=0.0)


def at_each(law: DistillationLaw) -> DistillationLaw:
    """Many laws as columns, so that each broadcasts against a row of sizes."""
    columns = {name: np.asarray(value)[..., None] for name, value in vars(law).items() if name != "supervised"}
    alone = {name: np.asarray(value)[..., None] for name, value in vars(law.supervised).items()}
    return DistillationLaw(supervised=SupervisedLaw(**alone), **columns)


def _log_sum(law: SupervisedLaw | DistillationLaw, parameters: Number, tokens: Number) -> Number:
    """log(A / N^alpha + B / D^beta)."""
    return np.logaddexp(np.log(law.A) - law.alpha * np.log(parameters), np.log(law.B) - law.beta * np.log(tokens))


PUBLISHED = DistillationLaw(
    supervised=SupervisedLaw(A=3355.0, B=18186.0, E=1.220, alpha=0.408, beta=0.431, gamma=0.452),
    A=2243.0,
    B=24181.0,
    alpha=0.321,
    beta=0.637,
    gamma=0.764,
    c0=2.549,
    c1=522.6,
    f1=0.090,
    d1=1.315,
)
