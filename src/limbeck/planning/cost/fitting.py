"""Which way of computing a training fits into memory: the fastest of those that a user leaves open, or any that would."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal

from limbeck.planning.cost.memory import Format, MemoryUse, Optimizer
from limbeck.planning.cost.size import Size

FULL = 0.8  # share of the free memory that a training may need by its estimate
Peak = Callable[[MemoryUse, int], Mapping[str, int]]  # bytes by part, for rows of so many tokens
Checkpointing = Literal["auto", "none", "layers"]

# Optimisers and formats of weights that need less memory, the most first.
OTHERS: tuple[tuple[Optimizer, Format], ...] = (
    ("adamw-bf16", "float32"),
    ("adamw-8bit", "float32"),
    ("adamw-8bit", "bfloat16"),
)
SHARDED: tuple[tuple[Optimizer, Format], ...] = (
    ("adamw-bf16", "float32"),
    ("adamw-bf16", "bfloat16"),
)  # if weights are


@dataclass(frozen=True)
class Asked:
    """What a user asks of memory: ``rows`` None and ``checkpointing`` "auto" are chosen by what fits.

    ``usual`` rows are computed at once where memory is enough, of ``length`` tokens each. ``forward``: the share of the student's
    forward pass in the FLOPs of a step, which is computed once more where layers are checkpointed; None where they cannot be.
    ``others``: optimisers and formats of weights that the training could use instead.
    """

    usual: int
    length: int
    forward: float | None
    rows: int | None = None
    checkpointing: Checkpointing = "auto"
    optimizer: Optimizer = "adamw"
    weights: Format = "float32"
    document: int | None = None
    others: tuple[tuple[Optimizer, Format], ...] = OTHERS

    @property
    def use(self) -> MemoryUse:
        """What is used where memory is enough."""
        return MemoryUse(self.rows, self.checkpointing == "layers", self.optimizer, self.weights, self.document)

    def open(self) -> Iterator[MemoryUse]:
        """The ways that the user leaves open, the fastest first. All give the same gradients up to rounding."""
        rows = (self.rows,) if self.rows is not None else halves(self.usual)
        yield from self._sorted(rows, self._checkpointed(self.checkpointing), self.optimizer, self.weights)

    def any(self) -> Iterator[MemoryUse]:
        """All ways, those first that give the same gradients, and the fastest of them first."""
        for optimizer, weights in dict.fromkeys(((self.optimizer, self.weights), *self.others)):
            yield from self._sorted(halves(self.rows or self.usual), self._checkpointed("auto"), optimizer, weights)

    def slowdown(self, use: MemoryUse) -> float:
        """Roughly the time of a step relative to the usual way: passes that are computed twice, and products of few positions."""

        def of(rows: int | None) -> float:
            return 1 + 32 / ((rows or self.usual) * self.length)  # as of a streamed model (`models.memory`)

        return of(use.rows) / of(None) * (1 + (self.forward or 0.0) * use.checkpointed)

    def _checkpointed(self, asked: Checkpointing) -> tuple[bool, ...]:
        return {"none": (False,), "layers": (True,), "auto": (False, True) if self.forward is not None else (False,)}[
            asked
        ]

    def _sorted(
        self, rows: tuple[int, ...], checkpointed: tuple[bool, ...], optimizer: Optimizer, weights: Format
    ) -> list[MemoryUse]:
        found = [
            MemoryUse(
                None if number == self.usual and self.rows is None else number, twice, optimizer, weights, self.document
            )
            for number, twice in product(rows, checkpointed)
        ]
        return sorted(found, key=self.slowdown)


def forward_share(student: Size, teacher: Size | None, length: int) -> float:
    """The share of the student's forward pass in the FLOPs of a step."""
    once = student.forward_flops(length)
    return once / (3 * once + (0.0 if teacher is None else teacher.forward_flops(length)))


def halves(most: int) -> tuple[int, ...]:
    """``most`` and half as many each time, down to 1, as a step that runs out of memory tries them (`run.micro`)."""
    return (most, *halves(-(-most // 2))) if most > 1 else (most,)


def chosen(asked: Asked, peak: Peak, limit: float) -> MemoryUse:
    """The fastest way that the user leaves open and that fits into ``limit`` bytes; the smallest if none does."""
    ways = list(asked.open())
    return next((use for use in ways if needed(peak, use, asked) <= limit), smallest(ways, asked, peak))


def remedy(asked: Asked, peak: Peak, limit: float) -> MemoryUse | None:
    """The first of all ways that fits; None if none does."""
    return next((use for use in asked.any() if needed(peak, use, asked) <= limit), None)


def smallest(ways: Iterable[MemoryUse], asked: Asked, peak: Peak) -> MemoryUse:
    """The way that needs the least memory."""
    return min(ways, key=lambda use: needed(peak, use, asked))


def needed(peak: Peak, use: MemoryUse, asked: Asked) -> int:
    """Peak bytes of all parts."""
    return sum(peak(use, asked.length).values())


def flags(use: MemoryUse, asked: Asked) -> str:
    """The flags that differ from what is asked, as on the command line."""
    before = asked.use
    words = []
    if use.rows != before.rows:
        words.append(f"--micro-batch {use.rows or asked.usual}")
    if use.checkpointed != before.checkpointed:
        words.append(f"--checkpointing {'layers' if use.checkpointed else 'none'}")
    if use.optimizer != before.optimizer:
        words.append(f"--optimizer {use.optimizer}")
    if use.weights != before.weights:
        words.append(f"--weights-dtype {use.weights}")
    return " ".join(words)
