"""Importance scores for pruning: every layer, head, FFN neuron and hidden channel of a teacher, from a calibration sample.

What is inside layers is scored by a method. *activation* (Minitron, arXiv 2407.14679, eqs. 1-3) is the mean size over the
positions of a sequence, then the Euclidean norm over sequences. *gradient* (arXiv 2311.07052) puts a gate of 1 on a unit; the
score is the mean over sequences of |dL/dgate|. No gate is built: dL/dgate is the sum over positions of activation times
dL/dactivation, which is that of w dL/dw over the weights that read the unit. The absolute value is taken per sequence, so
sequences must not be summed first. *wanda* is the sum over the weights that read a unit of their sizes times those of their
inputs (`weighted`).

Layers are scored by *influence*, the block influence 1 - cos(in, out) of each (ShortGPT, arXiv 2403.03853), or in one of two
ways that look for those that go together (`depth`). *random* is the control that each score has to beat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from limbeck.errors import BadCorpus, BadSetting
from limbeck.models.anatomy import Anatomy
from limbeck.models.language_model import LanguageModel
from limbeck.models.observing import evaluating, hooked
from limbeck.models.streamed import StreamedModel
from limbeck.students.depth import GREEDY_ROWS, greedy, scores_of_blocks
from limbeck.students.score_streamed import add_gradients, add_sizes, add_turns, add_weighted
from limbeck.students.tally import Scores, Tally, gate_of, grouped, keep_read, loss_of, taps_of
from limbeck.students.weighted import HEAD, Matrix, matrices, weights_of
from limbeck.types import Batch

METHODS = ("activation", "gradient", "wanda", "random")
DEPTHS = ("influence", "angular", "greedy", "random")
_STREAMED = {"activation": add_sizes, "gradient": add_gradients, "wanda": add_weighted, "random": add_turns}


def score(
    teacher: LanguageModel | StreamedModel,
    batches: Iterable[Batch],
    *,
    method: str = "activation",
    depth: str | None = None,
    keep: int | None = None,
    seed: int = 0,
) -> Scores:
    """Importance scores of a teacher's units from a sample of rows. Each row is a sequence; positions of weight 0 do not count.

    Each row is computed alone, so a teacher that is read layer by layer has the scores of the same one in memory, bit by bit.
    ``depth`` scores layers, None: by block influence, with the random method at random. ``keep`` is how many layers are kept, for
    which angular and greedy choose; None: all but one. Greedy reads the first few rows. Random scores use only ``seed``, no text.

    Raises BadSetting for an unknown method or depth and for a greedy one of a teacher that is read layer by layer, BadCorpus for
    a sample without tokens of weight > 0, and BadModel for an architecture that cannot be pruned.
    """
    depth = depth or ("random" if method == "random" else "influence")
    for given, allowed in ((method, METHODS), (depth, DEPTHS)):
        if given not in allowed:
            raise BadSetting(f"importance is scored by one of {', '.join(allowed)}; got {given!r}")
    anatomy = Anatomy.of((teacher.whole if isinstance(teacher, StreamedModel) else teacher).config)
    keep = max(1, anatomy.sizes.layers - 1) if keep is None else keep
    rows, observed = [], method != "random" or depth in ("influence", "angular")
    if observed or depth == "greedy":
        rows = [one for one in _rows(batches) if float(one.weight.sum()) > 0]
        if not rows:
            raise BadCorpus("the calibration sample has no row with a token of weight > 0; give more text to score on")
    layers = _greedy(teacher, anatomy, rows, keep) if depth == "greedy" else None  # refuses before anything is computed
    removed = anatomy.sizes.layers - keep
    tally = Tally(anatomy, teacher.device, span=removed if depth == "angular" and removed else None)
    if observed:
        _observe(teacher, anatomy, rows, tally, method)
    drawn = _random(anatomy, seed, teacher.device)
    units = {**drawn} if method == "random" else {"layers": drawn["layers"], **tally.units(method)}
    if layers is None and depth != "random":
        layers = tally.influences() if tally.span is None else scores_of_blocks(tally.mean_angles(), removed + keep)
    if layers is not None:
        units["layers"] = layers
    return Scores(**units, method=method, depth=depth)


def _greedy(teacher: LanguageModel | StreamedModel, anatomy: Anatomy, rows: list[Batch], keep: int) -> Tensor:
    if isinstance(teacher, StreamedModel):
        raise BadSetting(
            f"{teacher.name} is larger than the memory that is free, and greedy runs it again for each layer that may go, which "
            "would read its files thousands of times: score layers by influence or angular, or use a machine with more memory"
        )
    return greedy(teacher, anatomy, rows[:GREEDY_ROWS], keep=keep)


def _rows(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Each row as a batch of its own."""
    for batch in batches:
        yield from (batch.rows(slice(row, row + 1)) for row in range(batch.tokens.shape[0]))


def _observe(
    teacher: LanguageModel | StreamedModel, anatomy: Anatomy, rows: list[Batch], tally: Tally, method: str
) -> None:
    """Adds all rows to the tally."""
    if isinstance(teacher, StreamedModel):
        _STREAMED[method](teacher, anatomy, rows, tally)
        return
    with evaluating(teacher.model):
        for row in rows:
            if method in ("activation", "gradient"):
                _add(teacher, anatomy, row, tally, gradient=method == "gradient")
                continue
            weighed = _weighed(teacher, anatomy, row, tally) if method == "wanda" else hooked([])
            with torch.no_grad(), _turned(anatomy, teacher, row, tally), weighed:
                teacher(row)
            tally.count(row)


def _add(teacher: LanguageModel, anatomy: Anatomy, row: Batch, tally: Tally, *, gradient: bool) -> None:
    """Adds one row to the tally: a forward pass, and for gradients a backward pass to activations, but not to weights."""
    model = teacher.model
    taps = taps_of(model, anatomy)
    with (
        torch.set_grad_enabled(gradient),
        _turned(anatomy, teacher, row, tally),
        _tapped(model, anatomy, taps, gradient) as seen,
    ):
        outputs = teacher(row)
        if gradient:
            flat = [(name, layer, activation) for name in taps for layer, activation in enumerate(seen[name])]
            activations = [activation for _, _, activation in flat]
            gates = list(map(gate_of, activations, torch.autograd.grad(loss_of(row, outputs), activations)))
            for (name, layer, _), gate in zip(flat, gates, strict=True):
                if name != "hidden":
                    tally.gate(name, layer, gate)
            tally.gate_hidden(gates[-len(seen["hidden"]) :])
        else:
            for name, activations in seen.items():
                for place, activation in enumerate(activations):
                    tally.size(name, place, row, activation)
    tally.count(row)


@contextmanager
def _tapped(
    model: nn.Module, anatomy: Anatomy, taps: dict[str, list[nn.Module]], gradient: bool
) -> Iterator[dict[str, list[Tensor]]]:
    """Collects the inputs of the "heads" and "ffn" modules and what is read of the hidden channels at the "hidden" ones."""
    seen: dict[str, list[Tensor]] = {name: [] for name in taps}
    handles = keep_read(anatomy, taps["hidden"], seen["hidden"].append)

    def keep_input(name: str) -> Callable[..., None]:
        return lambda module, inputs: seen[name].append(inputs[0])

    for name in ("heads", "ffn"):
        handles += [module.register_forward_pre_hook(keep_input(name)) for module in taps[name]]
    if gradient:
        # A frozen teacher has no graph: start one at the embeddings.
        embedding = model.get_input_embeddings()  # type: ignore[operator]
        handles.append(embedding.register_forward_hook(lambda module, inputs, output: output.detach().requires_grad_()))
    with hooked(handles):
        yield seen


@contextmanager
def _turned(anatomy: Anatomy, teacher: LanguageModel, row: Batch, tally: Tally) -> Iterator[None]:
    """Adds, for one row, how much each layer rotates its input, and how much it and those before it do."""
    handles = []
    read: list[Tensor] = []  # inputs of layers, where angles over several are measured

    def layer_hook(layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, named: Any, output: Any) -> None:
            before = inputs[0] if inputs else named["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            tally.turn(layer, row, before, after)
            if tally.span is not None:
                read.append(before.detach())
                if (first := layer + 1 - tally.span) >= 0:
                    tally.turn_over(first, row, read[first], after)

        return hook

    for layer, module in enumerate(anatomy.layers_of(teacher.model)):
        handles.append(module.register_forward_hook(layer_hook(layer), with_kwargs=True))
    with hooked(handles):
        yield


def _weighed(teacher: LanguageModel, anatomy: Anatomy, row: Batch, tally: Tally) -> AbstractContextManager[None]:
    """Adds, for one row, what the matrices of all layers and the head read."""

    def add(matrix: Matrix, module: nn.Module) -> RemovableHandle:
        weights = partial(weights_of, module, anatomy)
        return module.register_forward_pre_hook(lambda _, inputs: tally.weighted.add(matrix, row, inputs[0], weights))

    last = anatomy.readers(teacher.model)[-1]
    read_by_head = last.register_forward_hook(
        lambda _, __, output: tally.weighted.add(HEAD, row, output, lambda: teacher.head.weight)
    )
    return hooked([*(add(matrix, module) for matrix, module in matrices(teacher.model, anatomy)), read_by_head])


def _random(anatomy: Anatomy, seed: int, device: torch.device) -> dict[str, Tensor]:
    """Uniform scores by their names in `Scores`, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    sizes = anatomy.sizes
    shapes = {  # the order in which they are drawn
        "heads": (sizes.layers, sizes.heads),
        "layers": (sizes.layers,),
        "ffn": (sizes.layers, sizes.ffn),
        "hidden": (sizes.hidden,),
    }
    found = {name: torch.rand(*shape, generator=generator).to(device) for name, shape in shapes.items()}
    return found | {"kv_heads": grouped(found["heads"], anatomy)}
