"""Importance scores for pruning: every layer, head, FFN neuron and hidden channel of a teacher, from a calibration sample.

There are two methods and a control. *activation* (Minitron, arXiv 2407.14679, eqs. 1-3) is the mean size over the positions of a
sequence, then the Euclidean norm over sequences. *gradient* (arXiv 2311.07052) puts a gate of 1 on a unit; the score is the mean
over sequences of |dL/dgate|. No gate is built: dL/dgate is the sum over positions of activation times dL/dactivation. The
absolute value is taken per sequence, so sequences must not be summed first. *random* is the control that any method has to beat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import BadCorpus, BadSetting
from limbeck.models.anatomy import Anatomy
from limbeck.models.language_model import LanguageModel
from limbeck.models.observing import evaluating, hooked
from limbeck.models.streamed import StreamedModel
from limbeck.students.score_streamed import add_gradients, add_sizes
from limbeck.students.tally import Scores, Tally, gate_of, keep_read, loss_of, taps_of
from limbeck.types import Batch

METHODS = ("activation", "gradient", "random")
DEPTHS = ("influence", "angular")


def score(
    teacher: LanguageModel | StreamedModel,
    batches: Iterable[Batch],
    *,
    method: str = "activation",
    depth: str = "influence",
    seed: int = 0,
) -> Scores:
    """Importance scores of a teacher's units from a sample of rows. Each row is a sequence; positions of weight 0 do not count.

    Each row is computed alone, so a teacher that is read layer by layer has the scores of the same one in memory, bit by bit.
    ``depth`` scores layers by block influence 1 - cos(in, out) (ShortGPT, arXiv 2403.03853), or by the angle between them in
    units of pi (arXiv 2403.17887), as a mean over positions. The random method uses only ``seed``, no text.

    Raises BadSetting for an unknown method or depth, BadCorpus for a sample without tokens of weight > 0, and BadModel for an
    architecture that cannot be pruned.
    """
    for given, allowed in ((method, METHODS), (depth, DEPTHS)):
        if given not in allowed:
            raise BadSetting(f"importance is scored by one of {', '.join(allowed)}; got {given!r}")
    anatomy = Anatomy.of((teacher.whole if isinstance(teacher, StreamedModel) else teacher).config)
    if method == "random":
        return _random(anatomy, seed, teacher.device)
    rows = (one for one in _rows(batches) if float(one.weight.sum()) > 0)
    tally = Tally(anatomy, teacher.device)
    if isinstance(teacher, StreamedModel):
        (add_gradients if method == "gradient" else add_sizes)(teacher, anatomy, rows, tally)
    else:
        with evaluating(teacher.model):
            for row in rows:
                _observe(teacher, anatomy, row, tally, gradient=method == "gradient")
    if tally.rows == 0:
        raise BadCorpus("the calibration sample has no row with a token of weight > 0; give more text to score on")
    return tally.scores(method, depth)


def _rows(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Each row as a batch of its own."""
    for batch in batches:
        yield from (batch.rows(slice(row, row + 1)) for row in range(batch.tokens.shape[0]))


def _observe(teacher: LanguageModel, anatomy: Anatomy, row: Batch, tally: Tally, *, gradient: bool) -> None:
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
    """Adds, for one row, how much each layer rotates its input."""
    handles = []

    def layer_hook(layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, named: Any, output: Any) -> None:
            before = inputs[0] if inputs else named["hidden_states"]
            tally.turn(layer, row, before, output[0] if isinstance(output, tuple) else output)

        return hook

    for layer, module in enumerate(anatomy.layers_of(teacher.model)):
        handles.append(module.register_forward_hook(layer_hook(layer), with_kwargs=True))
    with hooked(handles):
        yield


def _random(anatomy: Anatomy, seed: int, device: torch.device) -> Scores:
    """Uniform scores, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    sizes = anatomy.sizes

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(device)

    heads = draw(sizes.layers, sizes.heads)
    return Scores(
        layers=draw(sizes.layers),
        heads=heads,
        kv_heads=heads.unflatten(1, (sizes.kv_heads, -1)).sum(-1),
        ffn=draw(sizes.layers, sizes.ffn),
        hidden=draw(sizes.hidden),
        method="random",
    )
