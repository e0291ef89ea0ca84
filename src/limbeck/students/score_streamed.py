"""Importance scores of a teacher that is read from disk layer by layer: all rows in one layer, then in the next.

Sums over rows are taken in the order of the rows, for each layer, as with the teacher in memory: the scores are the same bits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from limbeck.models.anatomy import Anatomy
from limbeck.models.observing import hooked
from limbeck.models.streamed import Passing, StreamedModel
from limbeck.students.tally import Tally, gate_of, keep_read, loss_of, taps_of
from limbeck.types import Batch


def add_sizes(teacher: StreamedModel, anatomy: Anatomy, rows: Iterator[Batch], tally: Tally) -> None:
    """Adds rows, each a batch of its own, with the sizes of activations."""
    with _tapped(teacher, anatomy) as seen:
        for passing in teacher.passing(rows):
            _add(passing, anatomy, tally)
            if passing.layer == anatomy.sizes.layers:
                tally.size("hidden", -1, passing.batch, passing.after)  # of the last norm
            for name, activations in seen.items():
                for place, activation in enumerate(activations, passing.layer * len(activations)):
                    tally.size(name, place, passing.batch, activation)
                activations.clear()


def add_gradients(teacher: StreamedModel, anatomy: Anatomy, rows: Iterator[Batch], tally: Tally) -> None:
    """Adds rows, each a batch of its own, with the gradients of gates: through all layers, and back through them."""
    waiting: deque[list[Tensor]] = deque()  # gates of hidden channels of each row, from the last norm to the first
    with _tapped(teacher, anatomy) as seen:

        def passed(passing: Passing) -> None:
            _add(passing, anatomy, tally)
            taken()

        def taken() -> list[Tensor]:
            found = [activation for activations in seen.values() for activation in activations]
            for activations in seen.values():
                activations.clear()
            return found

        for returning in teacher.returning(rows, passed=passed, loss=loss_of, taken=taken):
            found = list(map(gate_of, returning.activations, returning.gradients))
            if returning.layer == anatomy.sizes.layers:
                tally.count(returning.batch)
                waiting.append(found)
                continue
            heads, ffn, *hidden = found
            tally.gate("heads", returning.layer, heads)
            tally.gate("ffn", returning.layer, ffn)
            gates = [*waiting.popleft(), *reversed(hidden)]  # rows come in the same order in each layer
            if returning.layer:
                waiting.append(gates)
            else:
                tally.gate_hidden(reversed(gates))


def _add(passing: Passing, anatomy: Anatomy, tally: Tally) -> None:
    """Adds how much a layer rotates a row; counts the row behind the last layer."""
    if passing.layer < anatomy.sizes.layers:
        tally.turn(passing.layer, passing.batch, passing.before, passing.after)
    else:
        tally.count(passing.batch)


@contextmanager
def _tapped(teacher: StreamedModel, anatomy: Anatomy) -> Iterator[dict[str, list[Tensor]]]:
    """Collects what is scored in the layer that runs. The last norm is left out: it runs for every layer."""
    taps = taps_of(teacher.whole.model, anatomy)
    seen: dict[str, list[Tensor]] = {name: [] for name in taps}
    *handles, last = keep_read(anatomy, taps["hidden"], seen["hidden"].append)
    last.remove()
    for name in ("heads", "ffn"):
        for module in taps[name]:
            handles.append(module.register_forward_pre_hook(lambda _, inputs, name=name: seen[name].append(inputs[0])))
    with hooked(handles):
        yield seen
