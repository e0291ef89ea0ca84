"""The base classes of objectives (distillation losses): nats for each predicted token, and their gradient in the logits.

An objective never averages and never weights: the step does both, once, over all tokens of an update. It acts on each position
alone, so `objectives.fused` may call it on any piece of a batch. A user's objective needs only `forward`; limbeck's own also have
their gradient in closed form, several times faster than autograd.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import BadObjective
from limbeck.objectives.outcomes import OfOutcomes, Outcomes, differentiated
from limbeck.types import Chunk, Signal, tempered

Kind = TypeVar("Kind", bound="type[Objective]")


def objective(kind: Kind) -> Kind:
    """Marks limbeck's own objectives, ``@objective`` above the class, which `named.OBJECTIVES` finds. Changes nothing."""
    return kind


class Objective(torch.nn.Module, ABC):
    """A loss per predicted token, in nats. Objectives add and scale: ``0.5 * CrossEntropy() + 0.5 * ForwardKL()``.

    Subclasses define `forward`, and keep the parameters of the constructor as attributes of the same names, from which the
    objective's text form is made. State that changes in training belongs in buffers, and what is learned besides the student in
    parameters; both are in checkpoints.
    """

    needs_teacher: bool = True
    compares_pairs: bool = False  # whether it is a loss of two completions of a prompt (`objectives.preference`)
    per: ClassVar[str] = "nats/token"  # the unit of its mean in progress lines
    largest: int = 0  # with another tokenizer: how many of the teacher's largest probabilities it compares; 0: chunks
    merge: float = 0.0  # chunks end where the teacher's mass on a new word exceeds this; 0: at all common boundaries
    source: str | None = None  # file or module of a user's class, as `parse` reads it
    takes_queued: ClassVar[bool] = (
        False  # whether `advance` takes a loss that a device still computes, without waiting for it
    )
    _limits = False  # whether a closed form has met its limits
    _settled = False  # whether it is taken for granted that none meets them

    @abstractmethod
    def forward(self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk) -> Float[Tensor, " n"]:
        """The loss of each of n positions, in nats, differentiable in ``logits``.

        ``signal`` is the teacher's, None if ``needs_teacher`` is False. If `forward` uses no more of it than `against`, it also
        works with the top-k outcomes of captured logits (`Sparse`).
        """

    def value_and_gradient(
        self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n V"]]:
        """Nats of each position, and the gradient of each position's nats in its own logits (unweighted).

        The nats are differentiable in the objective's own parameters, if it has any, and in nothing else.

        Raises BadObjective if `forward` gives another shape than (n,), or nothing that depends on the logits.
        """
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            nats = self(leaf, signal, chunk)
            self._check(nats, logits)
            trains = any(p.requires_grad for p in self.parameters())
            (gradient,) = torch.autograd.grad(nats.sum(), leaf, retain_graph=trains)
        return (nats if trains else nats.detach()), gradient

    def of_outcomes(self, outcomes: Outcomes) -> Float[Tensor, " n"]:
        """Nats of each position from a few captured outcomes of the teacher, differentiable in them (`objectives.outcomes`).

        Objectives without this method use ``forward`` with top-k outcomes. Raises BadObjective, with the reason, if captured
        outcomes of this kind do not determine the loss.
        """
        raise unsupported(self, "it has no method of_outcomes")

    def slopes_of_outcomes(self, outcomes: Outcomes) -> OfOutcomes:
        """`of_outcomes` with the slopes of its nats, which here autograd finds. Raises BadObjective as that does."""
        return differentiated(self, outcomes)

    def of_chunks(self, log_p: Float[Tensor, " C"], log_q: Float[Tensor, " C"]) -> Float[Tensor, " C"]:
        """Nats of each chunk from log-likelihoods of it by teacher and student, differentiable in the student's.

        It is used with a teacher of another tokenizer (`objectives.chunks`). Raises BadObjective if likelihoods of chunks do not
        determine the loss.
        """
        raise BadObjective(
            f"{self}: it compares teacher and student token by token, which needs one tokenizer; with another tokenizer only "
            "likelihoods of common chunks of text and sorted probabilities are known. Use ALM or ULD, alone or with "
            "CrossEntropy: --objective 'CrossEntropy + ALM'"
        )

    def of_largest(self, p: Float[Tensor, "n k+1"], q: Float[Tensor, "n k+1"]) -> Float[Tensor, " n"]:
        """Nats of each position from the ``largest`` probabilities of teacher p and student q, differentiable in q.

        Both are sorted, largest first, padded with 0 if a vocabulary has fewer; the mass of all others is last
        (`objectives.largest`). Raises BadObjective if a subclass sets ``largest`` and lacks this method.
        """
        raise BadObjective(
            f"{self}: expected a method of_largest, since the class sets largest to {self.largest}: write one"
        )

    def settle(self) -> None:
        """Called after a step on a device that computes in the background, where looking at each block would wait for it.

        From then on closed forms of which none has met a value that is not finite are no longer looked at. If one does later, the
        loss of its step is not finite, which a step always looks at.
        """
        for part in self.modules():
            if isinstance(part, Objective):
                part._settled = not part._limits

    def settled(self) -> dict[str, bool]:
        """For each part, by its name in `named_modules`, whether its blocks are no longer looked at; empty before `settle`.

        A checkpoint has it, since a part that is looked at and one that is not may end a later step in different ways.
        """
        parts = {name: part for name, part in self.named_modules() if isinstance(part, Objective)}
        known = any(part._settled or part._limits for part in parts.values())
        return {name: part._settled for name, part in parts.items()} if known else {}

    def restore_settled(self, settled: Mapping[str, bool]) -> None:
        """Restores what `settled` gave; a part that is not named is looked at, as before the first step."""
        for name, part in self.named_modules():
            if isinstance(part, Objective):
                part._settled, part._limits = settled.get(name, False), not settled.get(name, True)

    def within_limits(self, nats: Float[Tensor, " n"]) -> bool:
        """Whether the nats of a closed form are finite, so that it holds."""
        if self._settled:
            return True
        finite = math.isfinite(float(nats.detach().sum()))
        self._limits |= not finite
        return finite

    def begin(self, steps: int) -> None:
        """Called before the first step of a training of ``steps`` steps. Sets schedules to their start."""

    @property
    def follows(self) -> bool:
        """Whether `advance` needs the loss as a number, so that a step must be finished before the next one."""
        return type(self).advance is not Objective.advance and not self.takes_queued

    def tallies(self) -> list[Tensor]:
        """Sums over the tokens of a step that `advance` reads, those of its parts too: their buffers named ``tally``.

        The step sets them to 0 before its first token, and `advance` finds the sums over all ranks.
        """
        found = (dict(part.named_buffers(recurse=False)) for part in self.modules() if isinstance(part, Objective))
        return [buffers["tally"] for buffers in found if "tally" in buffers]

    def advance(self, loss: float) -> None:
        """Called after each optimiser step with its mean loss in nats, the same on every rank. Schedules advance here only.

        In a sum every term gets the loss of the whole sum.
        """

    def __add__(self, other: Objective) -> Sum:
        return Sum([*terms_of(self), *terms_of(other)])

    def __rmul__(self, weight: float) -> Sum:
        return Sum([(weight * w, term) for w, term in terms_of(self)])

    __mul__ = __rmul__

    @property
    def short(self) -> str:
        """The objective's name without parameters, for progress lines."""
        return type(self).__name__

    def __repr__(self) -> str:
        """The text that `parse` reads back."""
        names = [name for name in parameter_names(type(self)) if hasattr(self, name)]
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{self.source + ':' if self.source else ''}{type(self).__name__}({values})"

    def _check(self, nats: Tensor, logits: Tensor) -> None:
        if nats.shape != logits.shape[:1]:
            raise BadObjective(
                f"{self}: forward must give one number for each of {len(logits)} positions, shape ({len(logits)},), "
                f"but gave shape {tuple(nats.shape)}; do not average or weight in forward"
            )
        if not nats.requires_grad:
            raise BadObjective(
                f"{self}: expected a loss that depends on the student's logits, but forward gave one without a gradient: use "
                "logits in forward, without detach"
            )


class Pair:
    """Teacher's and student's distributions at a block of positions and one temperature, each computed once, at first use.

    Arithmetic in place halves the cost, since temporaries evict each other from the processor's cache. A formula gets a tensor
    that it may overwrite from `own`, which copies only if ``shared``, that is, if other terms of a sum need it too.
    """

    def __init__(
        self, logits: Tensor, signal: Signal | None, temperature: float | Tensor, *, shared: bool = False
    ) -> None:
        self.logits, self.signal, self.temperature, self.shared = logits, signal, temperature, shared

    @cached_property
    def log_q(self) -> Tensor:
        """The student's log-probabilities at the temperature, (n, V), in nats."""
        return tempered(self.logits, self.temperature).log_softmax(-1)

    @cached_property
    def log_p(self) -> Tensor:
        """The teacher's log-probabilities at the temperature, (n, V), in nats."""
        assert self.signal is not None, "the objective needs a teacher"
        return self.signal.log_p(self.temperature)

    @cached_property
    def p(self) -> Tensor:
        """The teacher's probabilities at the temperature, (n, V)."""
        return self.log_p.exp()

    def own(self, name: Literal["log_q", "log_p", "p"]) -> Tensor:
        """The tensor (n, V) of this name, which the caller may overwrite."""
        value: Tensor = getattr(self, name)
        if self.shared:
            return value.clone()
        del self.__dict__[name]
        return value


class ClosedForm(Objective):
    """An objective with a gradient in closed form.

    Both sides' logits are divided by the temperature. The loss is multiplied by the temperature to the power ``order``, 2 for a
    loss that is quadratic near its minimum (Hinton et al., arXiv 1503.02531, sec. 2), so that the size of gradients, and the
    meaning of weights in a sum, do not depend on the temperature.
    """

    temperature: float = 1.0
    order: int = 2

    @abstractmethod
    def closed_form(self, pair: Pair, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Nats (n,) and their gradient (n, V) in the logits divided by the temperature. Log-probabilities are finite.

        The caller may overwrite the gradient. Logits and signal must not be written to.
        """

    def value_and_gradient(
        self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n V"]]:
        """As `Objective.value_and_gradient`, in closed form."""
        return self.of_pair(Pair(logits, signal, self.temperature), chunk)

    def of_pair(self, pair: Pair, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """`value_and_gradient`, (n,) and (n, V), from distributions that other terms of a sum may share."""
        nats, gradient = self.closed_form(pair, chunk)
        if not self.within_limits(nats):
            # Logits of -inf, or an infinite divergence: `forward` handles the limits.
            return Objective.value_and_gradient(self, pair.logits, pair.signal, chunk)
        if self.temperature == 1.0:
            return nats, gradient
        return nats * self.temperature**self.order, gradient.mul_(self.temperature ** (self.order - 1))


class Sum(Objective):
    """A weighted sum of objectives, without nesting. Terms at the same temperature share their softmaxes.

    Raises BadObjective for a weight that is not a positive number.
    """

    def __init__(self, terms: Sequence[tuple[float, Objective]]) -> None:
        super().__init__()
        for weight, term in terms:
            in_range(f"the weight of {term}", weight, 0, math.inf)
        self.weights = [float(weight) for weight, _ in terms]
        self.terms = torch.nn.ModuleList(term for _, term in terms)
        self.needs_teacher = any(term.needs_teacher for _, term in terms)
        self.compares_pairs = any(term.compares_pairs for _, term in terms)
        if alone := [term.short for _, term in terms if self.compares_pairs and not term.compares_pairs]:
            raise BadObjective(
                f"{', '.join(alone)}: a loss of each token, beside one that compares two completions of a prompt: leave one of "
                "the two out; DPO(sft=1.0) also learns the preferred completions"
            )

    def __iter__(self) -> zip[tuple[float, Objective]]:
        return zip(self.weights, cast("Iterable[Objective]", self.terms), strict=True)

    def forward(self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk) -> Float[Tensor, " n"]:
        """The weighted sum of the terms' nats."""
        return sum((weight * term(logits, signal, chunk) for weight, term in self), logits.new_zeros(len(logits)))

    def value_and_gradient(
        self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n V"]]:
        """As `Objective.value_and_gradient`, each term in its own way."""
        temperatures = Counter(term.temperature for _, term in self if isinstance(term, ClosedForm))
        pairs = {t: Pair(logits, signal, t, shared=count > 1) for t, count in temperatures.items()}
        nats, gradient = logits.new_zeros(len(logits)), None
        for weight, term in self:
            if isinstance(term, ClosedForm):
                value, slope = term.of_pair(pairs[term.temperature], chunk)
            else:
                value, slope = term.value_and_gradient(logits, signal, chunk)
            with torch.enable_grad():  # of a term's own parameters
                nats = nats + weight * value
            gradient = slope.mul_(weight) if gradient is None else gradient.add_(slope, alpha=weight)
        assert gradient is not None, "a sum has terms"
        return nats, gradient

    def begin(self, steps: int) -> None:
        """Calls `begin` of every term."""
        for _, term in self:
            term.begin(steps)

    @property
    def follows(self) -> bool:
        """Whether a term follows the loss; that is for each to say."""
        return False

    def advance(self, loss: float) -> None:
        """Calls `advance` of every term with the loss of the whole sum."""
        for _, term in self:
            term.advance(loss)

    @property
    def short(self) -> str:
        """Weights and names of its terms."""
        return "+".join(f"{weight:g}*{term.short}" for weight, term in self)

    def __repr__(self) -> str:
        return " + ".join(f"{weight!r} * {term!r}" for weight, term in self)


class Counting(Objective):
    """An objective that counts its steps in the buffer ``step``, and on the host, so that no device is asked for the number."""

    takes_queued = True
    step: Tensor
    _count: int | None = None  # None where the buffer alone knows

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def begin(self, steps: int) -> None:
        """Sets the count to 0."""
        self.step.zero_()
        self._count = 0

    def counted(self) -> int:
        """Counts one step; gives its number, from 1."""
        self._count = 1 + (int(self.step) if self._count is None else self._count)
        self.step.fill_(self._count)
        return self._count

    def _load_from_state_dict(self, *given: Any, **named: Any) -> None:
        super()._load_from_state_dict(*given, **named)
        self._count = None


def unsupported(objective: Objective, why: str) -> BadObjective:
    """The error that an objective cannot be computed from captured outcomes, and why."""
    return BadObjective(
        f"{objective}: cannot be computed from a few captured outcomes of the teacher: {why}. Use a live teacher, or ForwardKL, "
        "SkewKL or TAID"
    )


def parameter_names(kind: type[Objective]) -> list[str]:
    """The names of the constructor's parameters of an objective."""
    parameters = inspect.signature(kind).parameters.values()
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def in_range(what: str, value: float, low: float, high: float, *, closed: bool = False) -> None:
    """Raises BadObjective unless low < value < high, with ``closed`` unless low <= value <= high."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and math.isfinite(value) and (low <= value <= high if closed else low < value < high):
        return
    sign = "<=" if closed else "<"
    bounds = (
        f"a number > {low:g}"
        if high == math.inf
        else f"a number with {low:g} {sign} {what.split()[-1]} {sign} {high:g}"
    )
    raise BadObjective(f"{what} must be {bounds}, got {value!r}")


def terms_of(objective: Objective) -> list[tuple[float, Objective]]:
    """(weight, objective) of each term of a sum; for any other objective (1, itself)."""
    return list(objective) if isinstance(objective, Sum) else [(1.0, objective)]
