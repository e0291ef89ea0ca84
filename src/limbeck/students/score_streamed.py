"""Importance scores of a teacher that is read from disk layer by layer: all rows in one layer, then in the next.

Sums over rows are taken in the order of the rows, for each layer, as with the teacher in memory: the scores are the same bits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from limbeck.models.anatomy import Anatomy
from limbeck.models.observing import hooked
from limbeck.models.streamed import Passing, StreamedModel
from limbeck.students.tally import Tally, gate_of, keep_read, loss_of, taps_of
from limbeck.students.weighted import HEAD, Matrix, matrices, weights_of
from limbeck.types import Batch


def add_sizes(teacher: StreamedModel, anatomy: Anatomy, rows: Iterable[Batch], tally: Tally) -> None:
    """Adds rows, each a batch of its own, with the sizes of activations."""
    with _tapped(teacher, anatomy) as seen:
        for passing in teacher.passing(rows, span=tally.span):
            _add(passing, anatomy, tally)
            if passing.layer == anatomy.sizes.layers:
                tally.size("hidden", -1, passing.batch, passing.after)  # of the last norm
            for name, activations in seen.items():
                for place, activation in enumerate(activations, passing.layer * len(activations)):
                    tally.size(name, place, passing.batch, activation)
                activations.clear()


def add_weighted(teacher: StreamedModel, anatomy: Anatomy, rows: Iterable[Batch], tally: Tally) -> None:
    """Adds rows, each a batch of its own, with the weights that read them and the sizes of what these read."""
    read: list[tuple[Matrix, nn.Module, Tensor]] = []

    def keep(matrix: Matrix, module: nn.Module) -> RemovableHandle:
        return module.register_forward_pre_hook(lambda _, inputs: read.append((matrix, module, inputs[0])))

    with hooked([keep(matrix, module) for matrix, module in matrices(teacher.whole.model, anatomy)]):
        for passing in teacher.passing(rows, span=tally.span):
            _add(passing, anatomy, tally)
            if passing.layer == anatomy.sizes.layers:
                tally.weighted.add(HEAD, passing.batch, passing.after, lambda: teacher.loaded_head().weight)
            for matrix, module, inputs in read:
                tally.weighted.add(matrix, passing.batch, inputs, partial(weights_of, module, anatomy))
            read.clear()


def add_turns(teacher: StreamedModel, anatomy: Anatomy, rows: Iterable[Batch], tally: Tally) -> None:
    """Adds rows, each a batch of its own, with how much layers rotate them, and nothing of what is in the layers."""
    for passing in teacher.passing(rows, span=tally.span):
        _add(passing, anatomy, tally)


def add_gradients(teacher: StreamedModel, anatomy: Anatomy, rows: Iterable[Batch], tally: Tally) -> None:
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

        for returning in teacher.returning(rows, passed=passed, loss=loss_of, taken=taken, span=tally.span):
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
    """Adds how much a layer rotates a row, alone and with those before it; counts the row behind the last layer."""
    if passing.layer < anatomy.sizes.layers:
        tally.turn(passing.layer, passing.batch, passing.before, passing.after)
        if passing.earlier is not None and tally.span is not None:
            tally.turn_over(passing.layer + 1 - tally.span, passing.batch, passing.earlier, passing.after)
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
