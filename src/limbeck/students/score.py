"""Importance scores for pruning: every layer, head, FFN neuron and hidden channel of a teacher, from a calibration sample.

There are two methods and a control. *activation* (Minitron, arXiv 2407.14679, eqs. 1-3) is the mean size over the positions of a
sequence, then the Euclidean norm over sequences. *gradient* (arXiv 2311.07052) puts a gate of 1 on a unit; the score is the mean
over sequences of |dL/dgate|. No gate is built: dL/dgate is the sum over positions of activation times dL/dactivation. The
absolute value is taken per sequence, so sequences must not be summed first. *random* is the control that any method has to beat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.errors import BadCorpus, BadSetting
from limbeck.models.anatomy import Anatomy
from limbeck.models.language_model import LanguageModel
from limbeck.types import Batch

METHODS = ("activation", "gradient", "random")
DEPTHS = ("influence", "angular")


@dataclass(frozen=True)
class Scores:
    """Importance scores; more important units have higher ones. Scores of one kind are comparable within a layer.

    ``kv_heads`` are sums over the query heads of a group.
    """

    layers: Float[Tensor, " L"]
    heads: Float[Tensor, "L H"]
    kv_heads: Float[Tensor, "L KV"]
    ffn: Float[Tensor, "L F"]
    hidden: Float[Tensor, " D"]
    method: str


def score(
    teacher: LanguageModel,
    batches: Iterable[Batch],
    *,
    method: str = "activation",
    depth: str = "influence",
    seed: int = 0,
) -> Scores:
    """Importance scores of a teacher's units from a sample of rows. Each row is a sequence; positions of weight 0 do not count.

    ``depth`` scores layers by block influence 1 - cos(in, out) (ShortGPT, arXiv 2403.03853), or by the angle between them in
    units of pi (arXiv 2403.17887), as a mean over positions. The random method uses only ``seed``, no text.

    Raises BadSetting for an unknown method or depth, BadCorpus for a sample without tokens of weight > 0, and BadModel for an
    architecture that cannot be pruned.
    """
    for given, allowed in ((method, METHODS), (depth, DEPTHS)):
        if given not in allowed:
            raise BadSetting(f"importance is scored by one of {', '.join(allowed)}; got {given!r}")
    anatomy = Anatomy.of(teacher.config)
    if method == "random":
        return _random(anatomy, seed, teacher.device)
    tally = _Tally(anatomy, teacher.device)
    training = teacher.model.training
    teacher.model.eval()
    try:
        for batch in batches:
            for row in range(batch.tokens.shape[0]):
                one = batch.rows(slice(row, row + 1))
                if float(one.weight.sum()) > 0:
                    _observe(teacher, anatomy, one, tally, gradient=method == "gradient")
    finally:
        teacher.model.train(training)
    if tally.rows == 0:
        raise BadCorpus("the calibration sample has no row with a token of weight > 0; give more text to score on")
    return tally.scores(method, depth)


class _Tally:
    """Sums over the rows seen so far."""

    def __init__(self, anatomy: Anatomy, device: torch.device) -> None:
        sizes = anatomy.sizes
        self.anatomy = anatomy
        self.rows = 0
        self.weight = 0.0

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        self.influence, self.angle = zeros(sizes.layers), zeros(sizes.layers)
        self.heads, self.ffn = zeros(sizes.layers, sizes.heads), zeros(sizes.layers, sizes.ffn)
        self.hidden = zeros(sizes.layers * len(anatomy.kind.reading_norms) + 1, sizes.hidden)

    def scores(self, method: str, depth: str) -> Scores:
        """The scores over all rows so far."""
        layers = (self.influence if depth == "influence" else self.angle) / self.weight
        # Activation: the square root of a sum of squares over rows. Gradient: a mean over rows.
        close = (lambda total: total / self.rows) if method == "gradient" else torch.sqrt
        heads = close(self.heads).float()
        return Scores(
            layers=layers.float(),
            heads=heads,
            kv_heads=heads.unflatten(1, (self.anatomy.sizes.kv_heads, -1)).sum(-1),
            ffn=close(self.ffn).float(),
            hidden=close(self.hidden).sum(0).float(),  # over norms
            method=method,
        )


def _observe(teacher: LanguageModel, anatomy: Anatomy, row: Batch, tally: _Tally, *, gradient: bool) -> None:
    """Adds one row to the tally: a forward pass, and for gradients a backward pass to activations, but not to weights."""
    model = teacher.model
    taps = {
        "heads": anatomy.attention_outs(model),
        "ffn": anatomy.ffn_outs(model),
        "hidden": anatomy.reading_norms(model),
    }
    with (
        torch.set_grad_enabled(gradient),
        _turned(anatomy, teacher, row, tally),
        _tapped(model, taps, gradient) as seen,
    ):
        outputs = teacher(row)
        weight = row.weight.reshape(-1)
        if gradient:
            losses = nn.functional.cross_entropy(
                outputs.logits().to(_wide(outputs.hidden)), row.targets.reshape(-1), reduction="none"
            )
            loss = (weight * losses).sum() / weight.sum()
            flat = [(name, layer, activation) for name in taps for layer, activation in enumerate(seen[name])]
            gradients = torch.autograd.grad(loss, [activation for _, _, activation in flat])
            _add_gates(tally, flat, gradients, anatomy)
        else:
            _add_sizes(tally, seen, weight / weight.sum(), anatomy)
    tally.rows += 1
    tally.weight += float(row.weight.sum())


def _add_gates(tally: _Tally, flat: list[tuple[str, int, Tensor]], gradients: Any, anatomy: Anatomy) -> None:
    """Adds |dL/dgate| of one row. All norms share the gates of the hidden channels, so these are summed first."""
    hidden = torch.zeros_like(tally.hidden[0])
    for (name, layer, activation), gradient in zip(flat, gradients, strict=True):
        gate = (activation.detach().to(_wide(activation)) * gradient).sum((0, 1)).double()  # (channels,)
        if name == "heads":
            tally.heads[layer] += gate.unflatten(0, (anatomy.sizes.heads, -1)).sum(-1).abs()
        elif name == "ffn":
            tally.ffn[layer] += gate.abs()
        else:
            hidden += gate
    tally.hidden[0] += hidden.abs()


def _add_sizes(tally: _Tally, seen: dict[str, list[Tensor]], share: Float[Tensor, " T"], anatomy: Anatomy) -> None:
    """Adds the square of the mean size over positions of one row's activations. A head's size is its Euclidean norm."""
    share = share.to(_wide(seen["hidden"][0]))
    for layer, activation in enumerate(seen["heads"]):
        norms = activation[0].to(_wide(activation)).unflatten(-1, (anatomy.sizes.heads, -1)).norm(dim=-1)  # (T, H)
        tally.heads[layer] += (share @ norms).double() ** 2
    for layer, activation in enumerate(seen["ffn"]):
        tally.ffn[layer] += (share @ activation[0].to(_wide(activation)).abs()).double() ** 2
    for norm, activation in enumerate(seen["hidden"]):
        tally.hidden[norm] += (share @ activation[0].to(_wide(activation)).abs()).double() ** 2


@contextmanager
def _tapped(model: nn.Module, taps: dict[str, list[nn.Module]], gradient: bool) -> Iterator[dict[str, list[Tensor]]]:
    """Collects the inputs of the "heads" and "ffn" modules and the outputs of the "hidden" ones."""
    seen: dict[str, list[Tensor]] = {name: [] for name in taps}
    handles = []

    def keep_input(name: str) -> Callable[..., None]:
        return lambda module, inputs: seen[name].append(inputs[0])

    def keep_output(module: nn.Module, inputs: Any, output: Tensor) -> None:
        seen["hidden"].append(output)

    for name in ("heads", "ffn"):
        handles += [module.register_forward_pre_hook(keep_input(name)) for module in taps[name]]
    handles += [module.register_forward_hook(keep_output) for module in taps["hidden"]]
    if gradient:
        # A frozen teacher has no graph: start one at the embeddings.
        embedding = model.get_input_embeddings()  # type: ignore[operator]
        handles.append(embedding.register_forward_hook(lambda module, inputs, output: output.detach().requires_grad_()))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _turned(anatomy: Anatomy, teacher: LanguageModel, row: Batch, tally: _Tally) -> Iterator[None]:
    """Adds, for one row, how much each layer rotates its input."""
    weight = row.weight[0].double()
    handles = []

    def layer_hook(layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, named: Any, output: Any) -> None:
            before = (inputs[0] if inputs else named["hidden_states"]).detach()[0].double()
            after = (output[0] if isinstance(output, tuple) else output).detach()[0].double()
            cosine = nn.functional.cosine_similarity(before, after, dim=-1).clamp(-1, 1)
            tally.influence[layer] += (weight * (1 - cosine)).sum()
            tally.angle[layer] += (weight * torch.arccos(cosine) / torch.pi).sum()

        return hook

    for layer, module in enumerate(anatomy.layers_of(teacher.model)):
        handles.append(module.register_forward_hook(layer_hook(layer), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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


def _wide(tensor: Tensor) -> torch.dtype:
    """The tensor's format, at least float32, because sums of many small products lose bits in smaller formats."""
    return torch.promote_types(tensor.dtype, torch.float32)
