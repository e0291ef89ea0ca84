"""TAID: the target walks from the student's own prediction to the teacher's (Shing et al., arXiv 2501.16937, sec. 3).

p_t = softmax((1 - t) z_q + t z_p) with the student's logits z_q held fixed; the loss is KL(p_t || q), its gradient q -
p_t. Near t = 0 that is t times the gradient of reverse KL, at t = 1 it is forward KL's. The authors report the
cross-entropy H(p_t, q): same gradient, another value. Their t also moves in evaluation, in each micro-batch and apart
on each rank; ours moves once per optimiser step, told the loss of the whole step.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck import divergence
from limbeck.errors import BadObjective
from limbeck.objectives.base import ClosedForm, Pair, in_range, objective, refused
from limbeck.objectives.basic import forward_kl
from limbeck.objectives.outcomes import Outcomes
from limbeck.types import Chunk, Signal

Schedule = Literal["adaptive", "linear", "exp"]

# The paper's 5e-4 over its about 16 thousand steps. The adaptive part beats the linear ramp only where alpha x steps >
# 2, which a fixed 5e-4 does not reach in 4,000 steps.
_ALPHA_STEPS = 8.0


@objective
class TAID(ClosedForm):
    """KL(p_t || q), t rising from ``start`` to ``end`` over the training.

    Schedules: "linear" in steps; "adaptive", the paper's: never below linear, and further by alpha sigmoid(m) (1 - t) a
    step, m the mean relative fall of the loss over about 1 / (1 - beta) steps; "exp", what the adaptive one comes to
    while the loss stands still: end - (end - start) exp(-alpha step / 2), which gets near ``end`` only. alpha "auto" is
    8 / steps.

    The adaptive part hardly adapts: losses of steps differ by a few per cent, m stays within some 0.01 of 0, and sigmoid(m)
    within 0.003 of a half. So at any length t follows a curve that is fixed by alpha, and not how the student gets on; with the
    paper's alpha = 5e-4 that curve is above the linear one only from 4,000 steps on, and below that many TAID is linear.
    """

    t: Tensor
    momentum: Tensor
    previous: Tensor
    step: Tensor

    def __init__(
        self,
        *,
        start: float = 0.4,
        end: float = 1.0,
        alpha: float | Literal["auto"] = "auto",
        beta: float = 0.99,
        schedule: Schedule = "adaptive",
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        in_range("TAID: start", start, 0, 1, closed=True)
        in_range("TAID: end", end, 0, 1, closed=True)
        in_range("TAID: beta", beta, 0, 1)
        in_range("TAID: temperature", temperature, 0, math.inf)
        if start > end:
            raise BadObjective(f"TAID: t rises, so start must be <= end, got start={start}, end={end}")
        if alpha != "auto":
            in_range("TAID: alpha (or 'auto')", alpha, 0, math.inf)
        if schedule not in get_args(Schedule):
            raise BadObjective(f"TAID: schedule must be one of {', '.join(get_args(Schedule))}, got {schedule!r}")
        self.start, self.end, self.beta, self.temperature = float(start), float(end), float(beta), float(temperature)
        self.alpha, self.schedule = alpha, schedule
        self.steps = 0
        for name, value in (("t", self.start), ("momentum", 0.0), ("previous", 0.0)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def remark(self, steps: int) -> str:
        """What becomes of the adaptive part in a training of so many steps; "" of the other schedules."""
        if self.schedule != "adaptive":
            return ""
        if self.alpha != "auto" and float(self.alpha) * steps <= 2:
            return f"TAID's adaptive part is without effect: with alpha={self.alpha:g} in {steps:,} steps t is the linear ramp"
        return (
            f"TAID's t follows a curve fixed by alpha; how the loss falls moves it by less than 1 % in {steps:,} steps"
        )

    def forward(self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk) -> Float[Tensor, "n"]:
        """KL(p_t || q) at the temperature, times temperature squared."""
        assert signal is not None, f"{self} needs a teacher"
        return self.temperature**2 * divergence.kl(*self._towards(logits, signal).against(logits, self.temperature))

    def of_outcomes(self, outcomes: Outcomes) -> Float[Tensor, "n"]:
        """KL(p_t || q) with p_t = q^(1-t) p^t / Z over the outcomes.

        Of a coarse signal that is exact among them. Of a drawn one Z = E_p (q/p)^(1-t) is a mean over draws, so p_t is right
        but for a bias that falls as 1 / K.
        """
        if self.temperature != 1.0:
            raise refused(self, "they are probabilities at temperature 1, and no other follows from them")
        log_q, t = outcomes.log_q.detach(), self.t.to(outcomes.log_q.dtype)
        log_weight = torch.where(
            outcomes.weight > 0, outcomes.weight.log() + (1 - t) * (log_q - outcomes.log_p), -math.inf
        )
        log_norm = log_weight.logsumexp(-1, keepdim=True)
        p_t = (log_weight - log_norm).exp()
        log_target = (1 - t) * log_q + t * outcomes.log_p - log_norm
        return torch.where(p_t > 0, p_t * (log_target - outcomes.log_q), 0.0).sum(-1)

    def closed_form(self, pair: Pair, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """The gradient is q - p_t."""
        assert pair.signal is not None, f"{self} needs a teacher"
        mixed = Pair(pair.logits, self._towards(pair.logits, pair.signal), self.temperature)
        mixed.log_q = pair.own("log_q")
        return forward_kl(mixed)

    def begin(self, steps: int) -> None:
        """Puts t at its start, and learns how long the way is."""
        self.steps = steps
        self.t.fill_(self.start)
        for buffer in (self.momentum, self.previous, self.step):
            buffer.zero_()

    def advance(self, loss: float) -> None:
        """Moves t."""
        if self.steps <= 0:
            raise BadObjective("TAID does not know how long its way is: call begin(steps) before the first step")
        self.step += 1
        done = min(1.0, int(self.step) / self.steps)
        linear = self.start + (self.end - self.start) * done
        alpha = _ALPHA_STEPS / self.steps if self.alpha == "auto" else float(self.alpha)
        if self.schedule == "linear":
            t = linear
        elif self.schedule == "exp":
            t = self.end - (self.end - self.start) * math.exp(-alpha * int(self.step) / 2)
        else:
            t = max(linear, self._further(loss, alpha))
        self.t.fill_(min(self.end, t))

    def _further(self, loss: float, alpha: float) -> float:
        """t moved on by how the loss fell; the first loss has none to be compared with."""
        t, before = float(self.t), float(self.previous)
        self.previous.fill_(loss)
        if int(self.step) == 1:
            return t
        momentum = self.beta * float(self.momentum) + (1 - self.beta) * (before - loss) / (before + 1e-15)
        self.momentum.fill_(momentum)
        return t + alpha * (1 - t) * (0.5 + 0.5 * math.tanh(momentum / 2))  # the sigmoid, which cannot overflow so

    def _towards(self, logits: Tensor, signal: Signal) -> Signal:
        return Signal(torch.lerp(logits.detach(), signal.logits, self.t.to(logits.dtype)))
