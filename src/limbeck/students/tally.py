"""Sums of importance over the rows of a sample, and the scores that they give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from limbeck.models.anatomy import Anatomy
from limbeck.students.weighted import WeightedInputs, wide
from limbeck.types import Batch, Outputs


@dataclass(frozen=True)
class Scores:
    """Importance scores; more important units have higher ones. Scores of one kind are comparable within a layer.

    ``kv_heads`` are sums over the query heads of a group. ``method`` scored units inside layers, ``depth`` the layers.
    """

    layers: Float[Tensor, " L"]
    heads: Float[Tensor, "L H"]
    kv_heads: Float[Tensor, "L KV"]
    ffn: Float[Tensor, "L F"]
    hidden: Float[Tensor, " D"]
    method: str
    depth: str

    def to(self, device: torch.device | str) -> Scores:
        """The same scores on another device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)


class Tally:
    """Sums over the rows seen so far. ``span``: over how many layers angles are measured; None: none are."""

    def __init__(self, anatomy: Anatomy, device: torch.device, *, span: int | None = None) -> None:
        sizes = anatomy.sizes
        self.anatomy, self.span = anatomy, span
        self.weighted = WeightedInputs(anatomy)
        self.rows = 0
        self.weight = 0.0

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        self.influence = zeros(sizes.layers)
        self.angles = zeros(0 if span is None else sizes.layers - span + 1)  # of blocks, by their first layer
        self.heads, self.ffn = zeros(sizes.layers, sizes.heads), zeros(sizes.layers, sizes.ffn)
        self.hidden = zeros(sizes.layers * len(anatomy.kind.readers) + 1, sizes.hidden)

    def count(self, row: Batch) -> None:
        """Counts a row that was added."""
        self.rows += 1
        self.weight += float(row.weight.sum())

    def turn(self, layer: int, row: Batch, before: Float[Tensor, "1 T D"], after: Float[Tensor, "1 T D"]) -> None:
        """Adds how much a layer rotates its input in one row."""
        self.influence[layer] += (row.weight[0].double() * (1 - _cosine(before, after))).sum()

    def turn_over(self, layer: int, row: Batch, before: Float[Tensor, "1 T D"], after: Float[Tensor, "1 T D"]) -> None:
        """Adds the angle, in units of pi, between the input of the ``span`` layers from this one on and their output."""
        self.angles[layer] += (row.weight[0].double() * torch.arccos(_cosine(before, after)) / torch.pi).sum()

    def size(self, name: str, place: int, row: Batch, activation: Float[Tensor, "1 T n"]) -> None:
        """Adds the square of the mean size over positions of one row's activations. A head's size is its Euclidean norm.

        ``place`` is a layer for "heads" and "ffn", and for "hidden" the place of a norm among all.
        """
        weight, sizes = row.weight.reshape(-1), activation[0].to(wide(activation))
        share = (weight / weight.sum()).to(sizes.dtype)
        if name == "heads":
            sizes = sizes.unflatten(-1, (self.anatomy.sizes.heads, -1)).norm(dim=-1)  # (T, H)
            self.heads[place] += (share @ sizes).double() ** 2
        else:
            getattr(self, name)[place] += (share @ sizes.abs()).double() ** 2

    def gate(self, name: str, layer: int, gate: Float[Tensor, " n"]) -> None:
        """Adds |dL/dgate| of one row in a layer, from the sums over its channels ("heads") or neurons ("ffn")."""
        if name == "heads":
            gate = gate.unflatten(0, (self.anatomy.sizes.heads, -1)).sum(-1)
        getattr(self, name)[layer] += gate.abs()

    def gate_hidden(self, gates: Iterable[Float[Tensor, " D"]]) -> None:
        """Adds those of one row's hidden channels. All norms share their gates, so these are summed first, in order."""
        hidden = torch.zeros_like(self.hidden[0])
        for gate in gates:
            hidden += gate
        self.hidden[0] += hidden.abs()

    def units(self, method: str) -> dict[str, Tensor]:
        """The scores of what layers are made of over all rows so far, by their names in `Scores`."""
        if method == "wanda":
            heads, ffn, hidden = self.weighted.units()
        else:
            # Activation: the square root of a sum of squares over rows. Gradient: a mean over rows.
            close = (lambda total: total / self.rows) if method == "gradient" else torch.sqrt
            heads, ffn = close(self.heads).float(), close(self.ffn).float()
            hidden = close(self.hidden).sum(0).float()  # over norms
        return {"heads": heads, "kv_heads": grouped(heads, self.anatomy), "ffn": ffn, "hidden": hidden}

    def influences(self) -> Float[Tensor, " L"]:
        """Block influence: the mean over positions of 1 - cos of each layer's input and output."""
        return (self.influence / self.weight).float()

    def mean_angles(self) -> Float[Tensor, " blocks"]:
        """The mean over positions of the angle over each block of ``span`` layers, in units of pi."""
        return (self.angles / self.weight).float()


def grouped(heads: Float[Tensor, "L H"], anatomy: Anatomy) -> Float[Tensor, "L KV"]:
    """Sums over the query heads of each group."""
    return heads.unflatten(1, (anatomy.sizes.kv_heads, -1)).sum(-1)


def loss_of(row: Batch, outputs: Outputs) -> Tensor:
    """The mean cross-entropy of a row."""
    weight = row.weight.reshape(-1)
    logits = outputs.logits().to(wide(outputs.hidden))
    losses = nn.functional.cross_entropy(logits, row.targets.reshape(-1), reduction="none")
    return (weight * losses).sum() / weight.sum()


def gate_of(activation: Float[Tensor, "1 T n"], gradient: Float[Tensor, "1 T n"]) -> Float[Tensor, " n"]:
    """dL/dgate of each channel of an activation."""
    return (activation.detach().to(wide(activation)) * gradient).sum((0, 1)).double()


def taps_of(model: PreTrainedModel, anatomy: Anatomy) -> dict[str, list[nn.Module]]:
    """The modules whose inputs ("heads", "ffn") or read channels ("hidden") are scored, in the order in which they run."""
    return {
        "heads": anatomy.attention_outs(model),
        "ffn": anatomy.ffn_outs(model),
        "hidden": anatomy.readers(model),
    }


def keep_read(anatomy: Anatomy, taps: Sequence[nn.Module], keep: Callable[[Tensor], None]) -> list[RemovableHandle]:
    """Hooks that give what is read of the hidden channels, (1, T, D), at each of the "hidden" modules; the last is a norm.

    Without norms in the layers it is their input, as a tensor of its own: its gradient must not be that of the residual stream.
    """

    def output_hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        keep(output)

    def input_hook(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        read = (inputs[0] if inputs else named["hidden_states"]).clone()
        keep(read)
        return ((read, *inputs[1:]), named) if inputs else ((), named | {"hidden_states": read})

    *inner, last = taps
    if anatomy.kind.unnormed:
        handles = [module.register_forward_pre_hook(input_hook, with_kwargs=True) for module in inner]
    else:
        handles = [module.register_forward_hook(output_hook) for module in inner]
    return [*handles, last.register_forward_hook(output_hook)]


def _cosine(before: Float[Tensor, "1 T D"], after: Float[Tensor, "1 T D"]) -> Float[Tensor, " T"]:
    found = nn.functional.cosine_similarity(before.detach()[0].double(), after.detach()[0].double(), dim=-1)
    return found.clamp(-1, 1)
