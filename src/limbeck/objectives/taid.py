"""TAID: the target moves from the student's own distribution to the teacher's (Shing et al., arXiv 2501.16937, sec. 3).

p_t = softmax((1 - t) z_q + t z_p), with the student's logits z_q detached. The loss is KL(p_t || q), its gradient q - p_t. Near
t = 0 that is t times the gradient of reverse KL, at t = 1 that of forward KL. The authors report the cross-entropy H(p_t, q): the
same gradient, another value. Their t also advances in evaluation, in each micro-batch, and separately on each rank; ours advances
once per optimiser step, from the loss of the whole step.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck import divergence
from limbeck.errors import BadObjective
from limbeck.host import queues
from limbeck.objectives.base import ClosedForm, Counting, Pair, in_range, objective, unsupported
from limbeck.objectives.basic import forward_kl
from limbeck.objectives.outcomes import Outcomes
from limbeck.types import Chunk, Signal

Schedule = Literal["adaptive", "linear", "exp"]

# The paper's 5e-4 over its about 16 thousand steps. The adaptive part beats the linear ramp only where alpha x steps >
# 2, which a fixed 5e-4 does not reach in 4,000 steps.
_ALPHA_STEPS = 8.0


@objective
class TAID(Counting, ClosedForm):
    """KL(p_t || q) in nats, with t rising from ``start`` to ``end`` over the training (arXiv 2501.16937).

    Schedules: "linear" in steps. "adaptive", the paper's: never below linear, rising by alpha sigmoid(m) (1 - t) a step,
    where m is the mean relative decrease of the loss over about 1 / (1 - beta) steps. "exp", the adaptive schedule at a constant
    loss: end - (end - start) exp(-alpha step / 2), which approaches ``end`` without reaching it. alpha "auto" is 8 / steps.

    The adaptive part adapts little: losses of steps differ by a few per cent, m stays within about 0.01 of 0, and sigmoid(m)
    within 0.003 of a half. So t follows a curve that alpha fixes, and not the student's progress; with the paper's alpha = 5e-4
    that curve is above the linear one only from 4,000 steps on, and TAID is linear in shorter trainings.

    Raises BadObjective for a parameter out of range.
    """

    t: Tensor
    momentum: Tensor
    previous: Tensor

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

    def remark(self, steps: int) -> str:
        """The effect of the adaptive part in a training of ``steps`` steps, in words; "" for the other schedules."""
        if self.schedule != "adaptive":
            return ""
        if self.alpha != "auto" and float(self.alpha) * steps <= 2:
            return (
                f"TAID's adaptive part has no effect: with alpha={self.alpha:g} in {steps:,} steps t is the linear ramp"
            )
        return f"TAID's t follows a curve fixed by alpha; the loss changes it by less than 1 % in {steps:,} steps"

    def forward(self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk) -> Float[Tensor, " n"]:
        """KL(p_t || q) at the temperature, times temperature squared; in nats (n,)."""
        assert signal is not None, f"{self} needs a teacher"
        return self.temperature**2 * divergence.kl(*self._towards(logits, signal).against(logits, self.temperature))

    def of_outcomes(self, outcomes: Outcomes) -> Float[Tensor, " n"]:
        """KL(p_t || q) in nats, with p_t = q^(1-t) p^t / Z over the captured outcomes.

        It is exact among top-k outcomes and the rest. From sampled ones Z = E_p (q/p)^(1-t) is a mean over samples, so p_t has a
        bias that decreases as 1 / K. Raises BadObjective at a temperature other than 1.
        """
        if self.temperature != 1.0:
            raise unsupported(self, "they are probabilities at temperature 1, from which no other temperature follows")
        log_q, t = outcomes.log_q.detach(), self.t.to(outcomes.log_q.dtype)
        log_weight = torch.where(
            outcomes.weight > 0, outcomes.weight.log() + (1 - t) * (log_q - outcomes.log_p), -math.inf
        )
        log_norm = log_weight.logsumexp(-1, keepdim=True)
        p_t = (log_weight - log_norm).exp()
        log_target = (1 - t) * log_q + t * outcomes.log_p - log_norm
        return torch.where(p_t > 0, p_t * (log_target - outcomes.log_q), 0.0).sum(-1)

    def closed_form(self, pair: Pair, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Nats (n,) and gradient (n, V), which is q - p_t."""
        assert pair.signal is not None, f"{self} needs a teacher"
        mixed = Pair(pair.logits, self._towards(pair.logits, pair.signal), self.temperature)
        mixed.log_q = pair.own("log_q")
        return forward_kl(mixed)

    def begin(self, steps: int) -> None:
        """Sets t to its start, for a training of ``steps`` steps."""
        super().begin(steps)
        self.steps = steps
        self.t.fill_(self.start)
        for buffer in (self.momentum, self.previous):
            buffer.zero_()

    def advance(self, loss: float | Tensor) -> None:
        """Advances t by one step, from the step's loss in nats. Raises BadObjective if `begin` was not called."""
        if self.steps <= 0:
            raise BadObjective("TAID: the number of steps is not set: call begin(steps) before the first step")
        step = self.counted()
        done = min(1.0, step / self.steps)
        linear = self.start + (self.end - self.start) * done
        alpha = _ALPHA_STEPS / self.steps if self.alpha == "auto" else float(self.alpha)
        if self.schedule == "linear":
            self.t.fill_(min(self.end, linear))
        elif self.schedule == "exp":
            self.t.fill_(min(self.end, self.end - (self.end - self.start) * math.exp(-alpha * step / 2)))
        else:
            self.t.fill_(self._further(loss, alpha, first=step == 1)).clamp_(min(self.end, linear), self.end)

    def _further(self, loss: float | Tensor, alpha: float, *, first: bool) -> float | Tensor:
        """t increased by the relative decrease of the loss; at the first step t itself. Where they are on a device, so is it."""
        t, before = _value(self.t), _value(self.previous)
        self.previous.fill_(loss)
        if first:
            return t
        momentum = self.beta * _value(self.momentum) + (1 - self.beta) * (before - loss) / (before + 1e-15)
        self.momentum.fill_(momentum)
        # the sigmoid, in a form that cannot overflow
        half = (momentum / 2).tanh() if isinstance(momentum, Tensor) else math.tanh(momentum / 2)
        return t + alpha * (1 - t) * (0.5 + 0.5 * half)

    def _towards(self, logits: Tensor, signal: Signal) -> Signal:
        return Signal(torch.lerp(logits.detach(), signal.logits, self.t.to(logits.dtype)))


def _value(buffer: Tensor) -> float | Tensor:
    """What a buffer holds: a number where reading it waits for nothing."""
    return buffer.clone() if queues(buffer.device) else float(buffer)
