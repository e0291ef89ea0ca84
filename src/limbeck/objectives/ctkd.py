"""Curriculum temperature: forward KL at a temperature learned against the student (Li et al., arXiv 2211.16231).

The temperature's gradient is reversed: the optimiser lowers the loss in the student's weights and raises it in the temperature.
For that it must be given the objective's ``parameters()``. The reversal grows from 0 to 1 over the first part of the training, so
the curriculum begins with the easy task.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck import divergence
from limbeck.errors import BadObjective
from limbeck.objectives.base import Counting, in_range, objective, unsupported
from limbeck.objectives.outcomes import Outcomes
from limbeck.types import Chunk, Signal


@objective
class CTKD(Counting):
    """T^2 KL(p_T || q_T) in nats, with T = low + (high - low) sigmoid(theta); theta is learned to raise it (arXiv 2211.16231).

    ``start`` is the temperature at the beginning (the paper's theta = 1), ``ramp`` the share of the training over which the
    reversal of theta's gradient grows to its full strength. Raises BadObjective for a parameter out of range.
    """

    reversal: Tensor

    def __init__(self, *, low: float = 1.0, high: float = 21.0, start: float = 15.6, ramp: float = 0.1) -> None:
        super().__init__()
        in_range("CTKD: low", low, 0, math.inf)
        in_range("CTKD: high", high, 0, math.inf)
        in_range("CTKD: ramp", ramp, 0, 1, closed=True)
        in_range("CTKD: start", start, 0, math.inf)
        if not low < start < high:
            raise BadObjective(f"CTKD: start must lie between low and high, got low={low}, start={start}, high={high}")
        self.low, self.high, self.start, self.ramp = float(low), float(high), float(start), float(ramp)
        self.theta = torch.nn.Parameter(torch.tensor(self._theta_at_start()))
        self.register_buffer("reversal", torch.tensor(0.0 if ramp else 1.0, dtype=torch.float64))
        self.steps = 0

    @property
    def temperature(self) -> Tensor:
        """The current temperature T, a scalar. Its gradient in theta is not reversed."""
        return self.low + (self.high - self.low) * self.theta.sigmoid()

    def forward(self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk) -> Float[Tensor, " n"]:
        """T^2 KL at the temperature, in nats (n,); its gradient in theta is reversed."""
        assert signal is not None, f"{self} needs a teacher"
        temperature = _reverse(self.temperature, self.reversal).to(logits.dtype)
        # Divided by a temperature, a logit of -inf has no slope in it. Outcomes without probability count nothing.
        none, least = signal.logits.isneginf(), torch.finfo(logits.dtype).min
        logits = logits.masked_fill(none & logits.isneginf(), least)
        teacher = Signal(signal.logits.masked_fill(none, torch.finfo(signal.logits.dtype).min))
        return temperature**2 * divergence.kl(*teacher.against(logits, temperature))

    def of_outcomes(self, outcomes: Outcomes) -> Float[Tensor, " n"]:
        """Raises BadObjective: captured outcomes are at temperature 1."""
        raise unsupported(self, "they are probabilities at temperature 1, and its temperature is learned")

    def value_and_gradient(
        self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n V"]]:
        """As `Objective.value_and_gradient`, in closed form.

        With a = log p and b = log q at the temperature, d(T^2 KL)/dT = T (2 KL + E_p b - E_q b - cov_p(a, a - b)). At a
        high temperature that is a small difference of large numbers. So the mean of a is subtracted from a and b, E_p b - E_q b
        is one sum, and the sum of q - p, which is 0 apart from rounding, is added to KL. The error in float32 is then 1e-6 of
        the slope, and a thousandth without these steps.
        """
        assert signal is not None, f"{self} needs a teacher"
        with torch.enable_grad():
            learned = self.temperature.to(logits.dtype)
        fixed = learned.detach()
        log_p, log_q = signal.against(logits, fixed)
        p, q = log_p.exp(), log_q.exp()
        weighted = p * log_p
        mean = weighted.sum(-1, keepdim=True)
        log_p.sub_(mean)
        log_q.sub_(mean)
        torch.mul(p, log_p, out=weighted)
        log_ratio = log_p.sub_(log_q)
        covariance = weighted.mul_(log_ratio).sum(-1)
        gradient = q.sub_(p)
        kl = log_ratio.mul_(p).sum(-1) + gradient.sum(-1)
        if not self.within_limits(kl):
            return super().value_and_gradient(logits, signal, chunk)
        slope = fixed * (2 * kl - log_q.mul_(gradient).sum(-1) - covariance)
        with torch.enable_grad():
            nats = fixed**2 * kl.clamp_(min=0) - self.reversal.to(kl.dtype) * slope * (learned - fixed)
        return nats, gradient.mul_(fixed)

    def begin(self, steps: int) -> None:
        """Sets the temperature and the ramp to their start, for a training of ``steps`` steps."""
        super().begin(steps)
        self.steps = steps
        self.reversal.fill_(self._reversal(0))
        self.theta.data.fill_(self._theta_at_start())

    def advance(self, loss: float | Tensor) -> None:
        """Increases the reversal, along half a cosine."""
        self.reversal.fill_(self._reversal(self.counted()))

    def _reversal(self, step: int) -> float:
        done = min(1.0, step / (self.ramp * self.steps)) if self.ramp * self.steps > 0 else 1.0
        return 0.5 * (1 - math.cos(math.pi * done))

    def _theta_at_start(self) -> float:
        return math.log((self.start - self.low) / (self.high - self.start))


def _reverse(value: Tensor, strength: Tensor) -> Tensor:
    """The same value, with its gradient multiplied by -``strength``."""
    fixed = value.detach()
    return fixed - strength.to(fixed.dtype) * (value - fixed)
