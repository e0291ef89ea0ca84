"""What is wanted of a student: an objective gives nats for each predicted token, and its gradient in the logits.

An objective never averages and never weights: the step does both, once, over everything that one update sees. It acts
on each position alone, which is why `objectives.fused` may call it on any piece of a batch. A user's objective needs
only `forward`; what limbeck ships also has its gradient in closed form, several times faster than autograd's.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Literal, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import BadObjective
from limbeck.objectives.outcomes import Outcomes
from limbeck.types import Chunk, Signal, tempered

Kind = TypeVar("Kind", bound="type[Objective]")


def objective(kind: Kind) -> Kind:
    """Marks limbeck's own objectives, ``@objective`` above the class, which `named.OBJECTIVES` finds. Changes nothing."""
    return kind


class Objective(torch.nn.Module, ABC):
    """A loss per predicted token, in nats. Objectives add and scale: ``0.5 * CrossEntropy() + 0.5 * ForwardKL()``.

    Parameters of the constructor are kept as attributes of the same name, which is how an objective prints itself.
    State that moves in training lives in buffers; what is learned beside the student, in parameters.
    """

    needs_teacher: bool = True
    largest: int = 0  # how many of a teacher's largest probabilities it compares where tokens differ; 0: chunks
    merge: float = (
        0.0  # chunks end where the teacher's mass on a new word is more than this; 0: at all common boundaries
    )
    source: str | None = None  # file or module of a class that is not ours, as `parse` reads it

    @abstractmethod
    def forward(self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk) -> Float[Tensor, "n"]:
        """Nats of each of n positions. ``signal`` is the teacher's, None where ``needs_teacher`` is False.

        Of a coarse `Sparse` signal too, if it asks no more of it than `against`.
        """

    def value_and_gradient(
        self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n V"]]:
        """Nats of each position, and the gradient of each position's nats in its own logits (unweighted).

        The nats carry a graph to the objective's own parameters where it has any, and to nothing else.
        """
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            nats = self(leaf, signal, chunk)
            self._check(nats, logits)
            trains = any(p.requires_grad for p in self.parameters())
            (gradient,) = torch.autograd.grad(nats.sum(), leaf, retain_graph=trains)
        return (nats if trains else nats.detach()), gradient

    def of_outcomes(self, outcomes: Outcomes) -> Float[Tensor, "n"]:
        """Nats of each position from a few outcomes of the teacher's, differentiable in them: see `objectives.outcomes`.

        What does not have it is computed by ``forward`` where `Sparse.against` can answer. Raises BadObjective, with the
        reason, where outcomes of this kind do not suffice.
        """
        raise refused(self, "it has no form for that")

    def of_chunks(self, log_p: Float[Tensor, "C"], log_q: Float[Tensor, "C"]) -> Float[Tensor, "C"]:
        """Nats of each chunk from both likelihoods of it, differentiable in the student's: see `objectives.chunks`.

        Raises BadObjective where likelihoods of chunks do not suffice.
        """
        raise BadObjective(
            f"{self}: compares teacher and student outcome by outcome, which takes one vocabulary; of a teacher with another "
            "tokenizer only the likelihoods of common chunks of text are known, and its probabilities without what they are of. "
            "Take ALM or ULD, alone or with CrossEntropy: --objective 'CrossEntropy + ALM'"
        )

    def of_largest(self, p: Float[Tensor, "n k+1"], q: Float[Tensor, "n k+1"]) -> Float[Tensor, "n"]:
        """Nats of each position from both sides' ``largest`` probabilities and what they leave, differentiable in the student's.

        Of both largest first, padded with 0 where a vocabulary has fewer, the mass of all others last: `objectives.largest`.
        """
        raise BadObjective(
            f"{self}: expected a method of_largest, since it asks for {self.largest} largest probabilities: write one"
        )

    def begin(self, steps: int) -> None:
        """Told before the first step of a training of so many steps. Schedules go back to their start."""

    def advance(self, loss: float) -> None:
        """Told after each optimiser step its mean loss in nats, the same on every rank. State moves here and only here.

        Inside a sum every term is told the loss of the whole sum.
        """

    def __add__(self, other: Objective) -> Sum:
        return Sum([*terms_of(self), *terms_of(other)])

    def __rmul__(self, weight: float) -> Sum:
        return Sum([(weight * w, term) for w, term in terms_of(self)])

    __mul__ = __rmul__

    @property
    def short(self) -> str:
        """Its name alone, as a line of progress has it."""
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
                f"but gave shape {tuple(nats.shape)}; leave averaging and weighting to the step"
            )
        if not nats.requires_grad:
            raise BadObjective(
                f"{self}: what forward gives does not depend on the student's logits; there is nothing to learn"
            )


class Pair:
    """The two distributions of a block of positions at one temperature, each computed once, at first use.

    Arithmetic in place halves its cost: temporaries push each other out of the processor's cache. So a formula asks for
    what it will overwrite with `own`, which copies only where ``shared`` says that other terms of a sum need it too.
    """

    def __init__(
        self, logits: Tensor, signal: Signal | None, temperature: float | Tensor, *, shared: bool = False
    ) -> None:
        self.logits, self.signal, self.temperature, self.shared = logits, signal, temperature, shared

    @cached_property
    def log_q(self) -> Tensor:
        """The student's log-probabilities."""
        return tempered(self.logits, self.temperature).log_softmax(-1)

    @cached_property
    def log_p(self) -> Tensor:
        """The teacher's log-probabilities."""
        assert self.signal is not None, "the objective needs a teacher"
        return self.signal.log_p(self.temperature)

    @cached_property
    def p(self) -> Tensor:
        """The teacher's probabilities."""
        return self.log_p.exp()

    def own(self, name: Literal["log_q", "log_p", "p"]) -> Tensor:
        """One of these, for the caller to overwrite."""
        value: Tensor = getattr(self, name)
        if self.shared:
            return value.clone()
        del self.__dict__[name]
        return value


class ClosedForm(Objective):
    """An objective whose gradient is written out.

    With a temperature the logits of both are divided by it first. The result is multiplied by temperature to the power
    ``order``, 2 for what is quadratic near its minimum (Hinton et al., arXiv 1503.02531, sec. 2): gradients keep their
    size as the temperature rises, so weights in a sum keep their meaning.
    """

    temperature: float = 1.0
    order: int = 2

    @abstractmethod
    def closed_form(self, pair: Pair, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Nats, and their gradient in the logits at the temperature; may assume finite log-probabilities.

        The gradient is a tensor the caller may overwrite; logits and signal are never written to.
        """

    def value_and_gradient(
        self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n V"]]:
        """As `Objective.value_and_gradient`, in closed form."""
        return self.of_pair(Pair(logits, signal, self.temperature), chunk)

    def of_pair(self, pair: Pair, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """`value_and_gradient` of distributions that other terms of a sum may share."""
        nats, gradient = self.closed_form(pair, chunk)
        if not math.isfinite(float(nats.detach().sum())):
            # Logits of -inf, or a divergence that truly is infinite: the formula knows the limits.
            return Objective.value_and_gradient(self, pair.logits, pair.signal, chunk)
        if self.temperature == 1.0:
            return nats, gradient
        return nats * self.temperature**self.order, gradient.mul_(self.temperature ** (self.order - 1))


class Sum(Objective):
    """A weighted sum of objectives, flat. Terms at one temperature share their softmaxes."""

    def __init__(self, terms: Sequence[tuple[float, Objective]]) -> None:
        super().__init__()
        for weight, term in terms:
            in_range(f"the weight of {term}", weight, 0, math.inf)
        self.weights = [float(weight) for weight, _ in terms]
        self.terms = torch.nn.ModuleList(term for _, term in terms)
        self.needs_teacher = any(term.needs_teacher for _, term in terms)

    def __iter__(self) -> zip[tuple[float, Objective]]:
        return zip(self.weights, cast("Iterable[Objective]", self.terms), strict=True)

    def forward(self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk) -> Float[Tensor, "n"]:
        """The weighted sum of the terms' nats."""
        return sum((weight * term(logits, signal, chunk) for weight, term in self), logits.new_zeros(len(logits)))

    def value_and_gradient(
        self, logits: Float[Tensor, "n V"], signal: Signal | None, chunk: Chunk
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n V"]]:
        """As `Objective.value_and_gradient`, each term in its own way."""
        temperatures = Counter(term.temperature for _, term in self if isinstance(term, ClosedForm))
        pairs = {t: Pair(logits, signal, t, shared=count > 1) for t, count in temperatures.items()}
        nats, gradient = logits.new_zeros(len(logits)), None
        for weight, term in self:
            if isinstance(term, ClosedForm):
                value, slope = term.of_pair(pairs[term.temperature], chunk)
            else:
                value, slope = term.value_and_gradient(logits, signal, chunk)
            nats = nats + weight * value
            gradient = slope.mul_(weight) if gradient is None else gradient.add_(slope, alpha=weight)
        assert gradient is not None, "a sum has terms"
        return nats, gradient

    def begin(self, steps: int) -> None:
        """Tells every term."""
        for _, term in self:
            term.begin(steps)

    def advance(self, loss: float) -> None:
        """Tells every term the loss of the whole sum."""
        for _, term in self:
            term.advance(loss)

    @property
    def short(self) -> str:
        """Weights and names of its terms."""
        return "+".join(f"{weight:g}*{term.short}" for weight, term in self)

    def __repr__(self) -> str:
        return " + ".join(f"{weight!r} * {term!r}" for weight, term in self)


def refused(objective: Objective, why: str) -> BadObjective:
    """That an objective cannot be computed from the outcomes a teacher left."""
    return BadObjective(
        f"{objective}: cannot be computed from a few outcomes of the teacher: {why}. Take a live teacher, or ForwardKL, SkewKL "
        "or TAID"
    )


def parameter_names(kind: type[Objective]) -> list[str]:
    """What the constructor of an objective can be given by name."""
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
    """(weight, objective) of each term; of an objective that is no sum, itself."""
    return list(objective) if isinstance(objective, Sum) else [(1.0, objective)]
