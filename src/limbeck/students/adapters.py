"""Low-rank adapters: linear layers plus products of two narrow matrices, which alone are trained (LoRA).

LoRA (Hu et al., arXiv 2106.09685, sec. 4.1): ``y = W x + b + (alpha / rank) B A x`` with W frozen, A (rank, inputs) and
B (outputs, rank). B begins at 0, so that an adapted model begins as what it was; A is drawn as the paper's code draws it. All
linear layers of the decoder get one, not its embeddings and head. `merge` adds the products to the weights, which leaves an
ordinary model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from limbeck.errors import BadModel, BadSetting
from limbeck.models.language_model import LanguageModel
from limbeck.types import Batch

A, B = "lora_A", "lora_B"  # their names in a layer's state, as in files of adapters


@dataclass(frozen=True)
class AdapterPlan:
    """The adapters of a model: their ``rank``, and ``alpha``, by which their products are scaled as alpha / rank."""

    rank: int
    alpha: float

    @property
    def scale(self) -> float:
        """The factor on the product of both matrices."""
        return self.alpha / self.rank


class AdaptedLayer(Protocol):
    """A linear layer with an adapter, of Transformers' or of torch's kind; ``base`` is the layer without it, of one weight."""

    base: tuple[nn.Module]
    weight: nn.Parameter
    lora_A: nn.Parameter
    lora_B: nn.Parameter
    scale: float

    def product(self) -> Float[Tensor, "..."]:
        """What the adapter adds to the weight, in its shape, in float64."""


class AdaptedLinear(nn.Linear):
    """`torch.nn.Linear` with an adapter. It takes the weights of ``base`` as they are."""

    def __init__(self, base: nn.Linear, rank: int, scale: float, generator: torch.Generator) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.scale, self.base = scale, (base,)  # in a tuple, so that it is no part of the model
        self.lora_A, self.lora_B = _matrices(self.weight, self.in_features, self.out_features, rank, generator)

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output plus the adapter's."""
        return super().forward(input) + _added(input, self.lora_A, self.lora_B, self.scale)

    def product(self) -> Float[Tensor, "outputs inputs"]:
        """What the adapter adds to the weight, in float64."""
        return self.scale * (self.lora_B.detach().double() @ self.lora_A.detach().double())


class AdaptedConv1D(Conv1D):
    """Transformers' `Conv1D` (a linear layer whose weight is (inputs, outputs), as in GPT-2) with an adapter."""

    def __init__(self, base: Conv1D, rank: int, scale: float, generator: torch.Generator) -> None:
        nn.Module.__init__(self)
        self.nf, self.nx = base.nf, base.nx
        self.weight, self.bias = base.weight, base.bias
        self.scale, self.base = scale, (base,)
        self.lora_A, self.lora_B = _matrices(self.weight, self.nx, self.nf, rank, generator)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output plus the adapter's."""
        return cast("Tensor", super().forward(x)) + _added(x, self.lora_A, self.lora_B, self.scale)

    def product(self) -> Float[Tensor, "inputs outputs"]:
        """What the adapter adds to the weight, in float64."""
        return self.scale * (self.lora_B.detach().double() @ self.lora_A.detach().double()).t()


def adapt(model: LanguageModel, plan: AdapterPlan, *, seed: int) -> None:
    """Freezes a model's weights and gives each linear layer of its decoder an adapter with random numbers from ``seed``.

    Raises BadSetting for a rank above a layer's smaller side, BadModel where the model has no linear layers, or computes without
    some of them (their adapters would never be trained).
    """
    generator = torch.Generator().manual_seed(seed)
    layers = dict(linear_layers(model))
    if not layers:
        raise BadModel(f"{model.name}: expected linear layers for adapters, found none: tune all its weights")
    for name, layer in layers.items():
        if plan.rank > min(layer.weight.shape):
            raise BadSetting(
                f"--rank {plan.rank}: the matrix {name} has {tuple(layer.weight.shape)} numbers, so no more than rank "
                f"{min(layer.weight.shape)}: give that or less"
            )
    model.model.requires_grad_(False)
    for name, layer in layers.items():
        kind = AdaptedConv1D if isinstance(layer, Conv1D) else AdaptedLinear
        _replace(model, name, kind(layer, plan.rank, plan.scale, generator))
    _require_used(model)


def linear_layers(model: LanguageModel) -> Iterator[tuple[str, nn.Linear | Conv1D]]:
    """(name, layer) of the linear layers of a decoder in their order, without its output head."""
    head = model.model.get_output_embeddings()
    for name, module in model.model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and module is not head:
            yield name, module


def adapted_layers(model: LanguageModel) -> dict[str, AdaptedLayer]:
    """The layers with an adapter by name, in the model's order."""
    found = model.model.named_modules()
    return {
        name: cast("AdaptedLayer", module)
        for name, module in found
        if isinstance(module, AdaptedLinear | AdaptedConv1D)
    }


def adapter_weights(model: LanguageModel) -> dict[str, Tensor]:
    """The adapters' matrices by name, such as ``model.layers.0.mlp.up_proj.lora_A``."""
    return {
        f"{name}.{matrix}": getattr(layer, matrix).detach()
        for name, layer in adapted_layers(model).items()
        for matrix in (A, B)
    }


@torch.no_grad()
def merge(model: LanguageModel) -> None:
    """Adds every adapter's product, computed in float64, to its weight, and puts ordinary layers back. All become trainable."""
    for name, layer in adapted_layers(model).items():
        layer.weight.add_(layer.product().to(layer.weight))
        (plain,) = layer.base
        _replace(model, name, plain.train(model.model.training))
    model.model.requires_grad_(True)


def _replace(model: LanguageModel, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.model.get_submodule(parent), own, module)


def _matrices(
    weight: Tensor, inputs: int, outputs: int, rank: int, generator: torch.Generator
) -> tuple[nn.Parameter, nn.Parameter]:
    """A, drawn uniformly up to 1 / sqrt(inputs), and B, which is 0, in float32 where the weight is."""
    bound = 1 / math.sqrt(inputs)  # Kaiming's of a = sqrt(5), as in the paper's code
    a = (torch.rand(rank, inputs, generator=generator) * 2 - 1) * bound
    return nn.Parameter(a.to(weight.device)), nn.Parameter(torch.zeros(outputs, rank, device=weight.device))


def _added(x: Float[Tensor, "*shape inputs"], a: Tensor, b: Tensor, scale: float) -> Float[Tensor, "*shape outputs"]:
    return nn.functional.linear(nn.functional.linear(x, a), b) * scale


def _require_used(model: LanguageModel) -> None:
    """Raises BadModel where the model computes without one of its adapters: that one would have no gradient."""
    tokens = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    position = torch.arange(2, device=model.device)[None]
    batch = Batch(tokens, tokens, torch.ones_like(position, dtype=torch.float32), position, tokens, tokens[:, 0])
    model(batch).hidden.sum().backward()
    unused = [name for name, layer in adapted_layers(model).items() if layer.lora_B.grad is None]
    model.model.zero_grad(set_to_none=True)
    if unused:
        raise BadModel(
            f"{model.name}: expected a model that calls its linear layers, but {len(unused)} of them have weights that are used "
            f"in another way ({', '.join(unused[:3])}), so their adapters would never be trained: tune all its weights"
        )
