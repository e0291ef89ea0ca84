"""Which layers go where a student has fewer: a block by the angle over it, or one after the other by measured loss.

*angular* (arXiv 2403.17887, sec. 3): of all blocks of as many consecutive layers as go, the one with the smallest angle between
its input and its output. The paper measures at the last position of a text, limbeck at all, since rows hold several texts.
*greedy* (SLEB, arXiv 2402.09025, alg. 1): the layer without which the loss is the least goes, then of those that are left the
next one. As with every score, the first and the last layer go only after all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.models.anatomy import Anatomy
from limbeck.models.language_model import LanguageModel
from limbeck.models.observing import evaluating
from limbeck.students.tally import loss_of
from limbeck.types import Batch

GREEDY_ROWS = 8  # of a sample that greedy reads: it computes each once for every layer that may go, again and again


def scores_of_blocks(angles: Float[Tensor, " blocks"], layers: int) -> Float[Tensor, " L"]:
    """Scores of so many ``layers`` by which the block with the smallest angle goes: 0 inside it, 1 outside.

    ``angles`` are those of the blocks that begin with the first layer, the second and so on. Of equal ones the first block goes.
    """
    removed = layers - len(angles) + 1
    inner = angles[1:-1]  # blocks without the first and the last layer
    first = 1 + int(inner.argmin()) if len(inner) else int(angles.argmin())
    scores = torch.ones(layers, device=angles.device)
    scores[first : first + removed] = 0
    return scores


@torch.no_grad()
def greedy(teacher: LanguageModel, anatomy: Anatomy, rows: Sequence[Batch], *, keep: int) -> Float[Tensor, " L"]:
    """Scores by which layers go one by one until ``keep`` are left: the number of layers gone before each; kept ones have L.

    The loss is that of all positions of ``rows``, each a batch of its own, by their weight. What comes before a layer is computed
    once for all layers that are tried without it. Removing r of L layers computes about r (L - r/2)^2 / 2 layers for each row.
    """
    count = anatomy.sizes.layers
    scores = torch.full((count,), float(count), device=teacher.device)
    left = list(range(count))
    with evaluating(teacher.model), _fewer(anatomy.layers_of(teacher.model)) as layers:
        for number in range(count - keep):
            tried = left[1:-1] or left
            losses = torch.zeros(len(tried), dtype=torch.float64, device=teacher.device)
            for row in rows:
                layers.begin = None
                teacher(row)
                for place, layer in enumerate(tried):
                    layers.begin = layer
                    losses[place] += loss_of(row, teacher(row)).double() * row.weight.sum()
            gone = tried[int(losses.argmin())]
            left.remove(gone)
            layers.gone.add(gone)
            scores[gone] = number
    return scores


class _Fewer:
    """Layers of which those ``gone`` pass on what they read.

    With ``begin`` a forward pass leaves out this layer, and begins behind it with what it read in the pass before that had none.
    """

    def __init__(self, count: int) -> None:
        self.gone: set[int] = set()
        self.begin: int | None = None
        self._read: list[Tensor | None] = [None] * count

    def replacement(self, number: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The forward of a layer."""

        def replacement(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self.begin is None:
                self._read[number] = hidden
            elif number == self.begin:
                read = self._read[number]
                assert read is not None, "a pass through all layers comes first"
                return read
            before = self.begin is not None and number < self.begin
            return hidden if before or number in self.gone else forward(hidden, *args, **kwargs)

        return replacement


@contextmanager
def _fewer(layers: Sequence[nn.Module]) -> Iterator[_Fewer]:
    """Layers that may be left out, whole again afterwards."""
    found = _Fewer(len(layers))
    for number, layer in enumerate(layers):
        vars(layer)["forward"] = found.replacement(number, layer.forward)
    try:
        yield found
    finally:
        for layer in layers:
            vars(layer).pop("forward")
