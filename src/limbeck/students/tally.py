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
from limbeck.types import Batch, Outputs


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

    def to(self, device: torch.device | str) -> Scores:
        """The same scores on another device."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items() if name != "method"})


class Tally:
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
        self.hidden = zeros(sizes.layers * len(anatomy.kind.readers) + 1, sizes.hidden)

    def count(self, row: Batch) -> None:
        """Counts a row that was added."""
        self.rows += 1
        self.weight += float(row.weight.sum())

    def turn(self, layer: int, row: Batch, before: Float[Tensor, "1 T D"], after: Float[Tensor, "1 T D"]) -> None:
        """Adds how much a layer rotates its input in one row."""
        weight = row.weight[0].double()
        cosine = nn.functional.cosine_similarity(before.detach()[0].double(), after.detach()[0].double(), dim=-1)
        cosine = cosine.clamp(-1, 1)
        self.influence[layer] += (weight * (1 - cosine)).sum()
        self.angle[layer] += (weight * torch.arccos(cosine) / torch.pi).sum()

    def size(self, name: str, place: int, row: Batch, activation: Float[Tensor, "1 T n"]) -> None:
        """Adds the square of the mean size over positions of one row's activations. A head's size is its Euclidean norm.

        ``place`` is a layer for "heads" and "ffn", and for "hidden" the place of a norm among all.
        """
        weight, sizes = row.weight.reshape(-1), activation[0].to(_wide(activation))
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


def loss_of(row: Batch, outputs: Outputs) -> Tensor:
    """The mean cross-entropy of a row."""
    weight = row.weight.reshape(-1)
    logits = outputs.logits().to(_wide(outputs.hidden))
    losses = nn.functional.cross_entropy(logits, row.targets.reshape(-1), reduction="none")
    return (weight * losses).sum() / weight.sum()


def gate_of(activation: Float[Tensor, "1 T n"], gradient: Float[Tensor, "1 T n"]) -> Float[Tensor, " n"]:
    """dL/dgate of each channel of an activation."""
    return (activation.detach().to(_wide(activation)) * gradient).sum((0, 1)).double()


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


def _wide(tensor: Tensor) -> torch.dtype:
    """The tensor's format, at least float32, because sums of many small products lose bits in smaller formats."""
    return torch.promote_types(tensor.dtype, torch.float32)
