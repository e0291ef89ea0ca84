"""What is trained: the arms of the recipe mixture-growth, and one training of it."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.students.shape import Shape

NET, CONTINUED, AVERAGE, WIDENED, SCRATCH = "net", "continued", "average", "widened", "from random weights"
ZERO, ORTHOGONAL, LITTLE, COPY, RANDOM = "zeros", "orthogonal", "orthogonal, a tenth", "copies", "random, a tenth"
# What is off the diagonal, and its size. The paper's new coefficients are as large as the others'; a tenth of that is ours.
MIXTURES = {
    ZERO: ("zero", 0.0),
    ORTHOGONAL: ("orthogonal", 1.0),
    LITTLE: ("orthogonal", 0.1),
    COPY: ("copy", 1.0),
    RANDOM: ("random", 0.1),
}
GROWN = (*MIXTURES, WIDENED)


@dataclass(frozen=True)
class Cell:
    """A training of an arm for ``steps`` steps of ``rows`` rows, from the ``nets`` that earlier cells of these names left.

    ``shape`` is that of the trained model. The average of two nets is not trained, and has 0 steps. ``kept``: the model is left
    for others. A ``tuning`` is measured on documents of the training text that it does not read. The rows come in an order of
    ``data_seed``; ``seed`` is that of new weights and of shares of copies.
    """

    name: str
    arm: str
    shape: Shape
    nets: tuple[str, ...]
    seed: int
    data_seed: int
    rate: float
    steps: int
    rows: int
    length: int
    measured: int
    kept: bool = False
    tuning: bool = False
