"""Low-rank adapters: linear layers plus products of two narrow matrices, which alone are trained (LoRA).

LoRA (Hu et al., arXiv 2106.09685, sec. 4.1): ``y = W x + b + (alpha / rank) B A x`` with W frozen, A (rank, inputs) and
B (outputs, rank). B begins at 0, so that an adapted model begins as what it was; A is drawn as the paper's code draws it. All
linear layers of the decoder get one. Its embeddings and head, gates and routers, and experts, which are no linear layers, get
none. `merge` adds the products to the weights, which leaves an ordinary model. W may be held in 4 bits (`students.nf4`); it is
then those numbers that the products are added to.

LoRA-XS (Bałazy et al., arXiv 2405.17604) freezes A and B too, and trains R (rank, rank) between them: ``y = W x + b + (alpha /
rank) B R A x``. Where A and B come from is in `students.subspaces`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from limbeck.errors import BadModel, BadSetting, first_line
from limbeck.models.language_model import LanguageModel
from limbeck.students.nf4 import Nf4Linear
from limbeck.types import Batch

_NARROW = 16  # inputs or outputs below which a layer is a gate or a router, and gets no adapter
A, B, R = "lora_A", "lora_B", "lora_R"  # their names in a layer's state; of A and B as in files of adapters


@dataclass(frozen=True)
class AdapterPlan:
    """The adapters of a model: their ``rank``, and ``alpha``, by which their products are scaled as alpha / rank.

    ``subspace``: what A and B are frozen at (`students.subspaces`), "" where they are trained. ``four_bit``: whether the weights
    under them are held in 4 bits.
    """

    rank: int
    alpha: float
    subspace: str = ""
    four_bit: bool = False

    @property
    def scale(self) -> float:
        """The factor on the product of both matrices."""
        return self.alpha / self.rank


class AdaptedLayer(Protocol):
    """A linear layer with an adapter, of Transformers', of torch's kind or in 4 bits; ``base`` is the layer without it."""

    base: tuple[nn.Module]
    weight: nn.Parameter
    lora_A: nn.Parameter
    lora_B: nn.Parameter
    lora_R: nn.Parameter | None
    scale: float

    def product(self) -> Float[Tensor, "..."]:
        """What the adapter adds to the weight, in its shape, in float64."""


@dataclass(frozen=True)
class Subspace:
    """The frozen matrices A (rank, inputs) and B (outputs, rank) of a layer, and where R (rank, rank) between them begins."""

    a: Float[Tensor, "rank inputs"]
    b: Float[Tensor, "outputs rank"]
    start: Float[Tensor, "rank rank"]


class AdaptedLinear(nn.Linear):
    """`torch.nn.Linear` with an adapter. It takes the weights of ``base`` as they are."""

    def __init__(self, base: nn.Linear, scale: float, inside: Subspace | tuple[Tensor, Tensor]) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.scale, self.base = scale, (base,)  # in a tuple, so that it is no part of the model
        self.lora_A, self.lora_B, self.lora_R = _matrices(inside, self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output plus the adapter's."""
        return super().forward(input) + _added(input, cast("AdaptedLayer", self))

    def product(self) -> Float[Tensor, "outputs inputs"]:
        """What the adapter adds to the weight, in float64."""
        return _product(cast("AdaptedLayer", self))


class AdaptedNf4(Nf4Linear):
    """`AdaptedLinear` with its weight taken to 4 bits."""

    def __init__(self, adapted: AdaptedLinear) -> None:
        super().__init__(adapted)
        self.scale, self.base = adapted.scale, (Nf4Linear(self),)
        self.lora_A, self.lora_B, self.lora_R = adapted.lora_A, adapted.lora_B, adapted.lora_R

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output plus the adapter's."""
        return super().forward(input) + _added(input, cast("AdaptedLayer", self))

    def product(self) -> Float[Tensor, "outputs inputs"]:
        """What the adapter adds to the weight, in float64."""
        return _product(cast("AdaptedLayer", self))


class AdaptedConv1D(Conv1D):
    """Transformers' `Conv1D` (a linear layer whose weight is (inputs, outputs), as in GPT-2) with an adapter."""

    def __init__(self, base: Conv1D, scale: float, inside: Subspace | tuple[Tensor, Tensor]) -> None:
        nn.Module.__init__(self)
        self.nf, self.nx = base.nf, base.nx
        self.weight, self.bias = base.weight, base.bias
        self.scale, self.base = scale, (base,)
        self.lora_A, self.lora_B, self.lora_R = _matrices(inside, self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output plus the adapter's."""
        return cast("Tensor", super().forward(x)) + _added(x, cast("AdaptedLayer", self))

    def product(self) -> Float[Tensor, "inputs outputs"]:
        """What the adapter adds to the weight, in float64."""
        return _product(cast("AdaptedLayer", self)).t()


def adapt(
    model: LanguageModel, plan: AdapterPlan, *, seed: int, subspaces: Mapping[str, Subspace] | None = None
) -> None:
    """Freezes a model's weights and gives each linear layer of its decoder an adapter with random numbers from ``seed``.

    Where the plan has a subspace, each layer's is in ``subspaces`` by its name. Where it says so, the weights under adapters are
    taken to 4 bits, one layer after the other. Raises BadSetting for a rank above a layer's smaller side, BadModel where the
    model has no linear layers, some that cannot be held so, or computes without some of them (their adapters would never be
    trained).
    """
    check_rank(model.model, plan, name=model.name)
    generator = torch.Generator().manual_seed(seed)
    model.model.requires_grad_(False)
    for name, layer in dict(linear_layers(model.model)).items():
        inside = _drawn(layer, plan.rank, generator) if subspaces is None else subspaces[name]
        kind = AdaptedConv1D if isinstance(layer, Conv1D) else AdaptedLinear
        _replace(model, name, kind(layer, plan.scale, inside))
    require_used(model)
    if plan.four_bit:
        names = [*adapted_layers(model)]  # alone, so that each layer's weight is freed once it is taken to 4 bits
        for name in names:
            _replace(model, name, AdaptedNf4(cast("AdaptedLinear", model.model.get_submodule(name))))


def hold_in_half(model: LanguageModel, *, bf16: bool) -> None:
    """Keeps those weights under adapters in bfloat16 that are numbers of it, where it is computed in (``bf16``).

    The products of a training in mixed precision take them in that format anyway; so they need half the memory, and are not
    converted in each pass. No bit of the training or of what is merged changes. Those in 4 bits stay so.
    """
    for layer in adapted_layers(model).values() if bf16 else ():
        if isinstance(layer, AdaptedNf4):
            continue
        half = layer.weight.data.to(torch.bfloat16)
        if torch.equal(half.to(layer.weight), layer.weight.data):
            layer.weight.data = half


def check_rank(decoder: PreTrainedModel, plan: AdapterPlan, *, name: str) -> None:
    """Raises BadSetting for a rank above a layer's smaller side, BadModel where a decoder has no linear layers.

    BadModel also for layers that cannot be held in 4 bits where the plan says so. ``name`` names it in errors.
    """
    layers = dict(linear_layers(decoder))
    if not layers:
        raise BadModel(f"{name}: expected linear layers for adapters, found none: tune all its weights")
    if plan.four_bit and any(isinstance(layer, Conv1D) for layer in layers.values()):
        raise BadModel(
            f"{name}: expected linear layers of torch for weights in 4 bits, found those of GPT-2, which are transposed: give "
            "--trained lora"
        )
    for matrix, layer in layers.items():
        if plan.rank > min(layer.weight.shape):
            raise BadSetting(
                f"--rank {plan.rank}: the matrix {matrix} has {tuple(layer.weight.shape)} numbers, so no more than rank "
                f"{min(layer.weight.shape)}: give that or less"
            )


def linear_layers(decoder: PreTrainedModel, *, least: int = _NARROW) -> Iterator[tuple[str, nn.Linear | Conv1D]]:
    """(name, layer) of a decoder's linear layers in their order, without its output head and those narrower than ``least``."""
    head = decoder.get_output_embeddings()
    for name, module in decoder.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and module is not head and min(module.weight.shape) >= least:
            yield name, module


def adapted_layers(model: LanguageModel) -> dict[str, AdaptedLayer]:
    """The layers with an adapter by name, in the model's order."""
    found = model.model.named_modules()
    return {
        name: cast("AdaptedLayer", module)
        for name, module in found
        if isinstance(module, AdaptedLinear | AdaptedConv1D | AdaptedNf4)
    }


@contextmanager
def without_adapters(model: LanguageModel) -> Iterator[None]:
    """The model without its adapters, which are there again at the end; weights in 4 bits stay so. Nothing where it has none."""
    layers = adapted_layers(model)
    for name, layer in layers.items():
        _replace(model, name, layer.base[0].train(model.model.training))
    try:
        yield
    finally:
        for name, layer in layers.items():
            _replace(model, name, cast("nn.Module", layer))


@torch.no_grad()
def merge(model: LanguageModel) -> None:
    """Adds every adapter's product, computed in float64, to its weight, and puts ordinary layers back. All become trainable.

    To a weight that was held in 4 bits it is added as these have it.
    """
    for name, layer in adapted_layers(model).items():
        if isinstance(layer, AdaptedNf4):
            plain: nn.Module = layer.plain()
            layer.weight = plain.weight
        else:
            (plain,) = layer.base
            layer.weight.data = layer.weight.data.to(layer.lora_A)  # it may be held in half
        layer.weight.add_(layer.product().to(layer.weight))
        _replace(model, name, plain.train(model.model.training))
    model.model.requires_grad_(True)


def _replace(model: LanguageModel, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.model.get_submodule(parent), own, module)


def _drawn(layer: nn.Linear | Conv1D, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A, drawn uniformly up to 1 / sqrt(inputs), and B, which is 0."""
    outputs, inputs = outputs_and_inputs(layer)
    bound = 1 / math.sqrt(inputs)  # Kaiming's of a = sqrt(5), as in the paper's code
    return (torch.rand(rank, inputs, generator=generator) * 2 - 1) * bound, torch.zeros(outputs, rank)


def outputs_and_inputs(layer: nn.Linear | Conv1D) -> tuple[int, int]:
    """The numbers of outputs and inputs of a linear layer."""
    shape: tuple[int, int] = tuple(layer.weight.shape)
    return shape[::-1] if isinstance(layer, Conv1D) else shape


def _matrices(
    inside: Subspace | tuple[Tensor, Tensor], weight: Tensor
) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter | None]:
    """A, B and R as parameters, where and in the format that the weight is; those of a subspace but R are frozen."""
    frozen = isinstance(inside, Subspace)
    a, b = (inside.a, inside.b) if isinstance(inside, Subspace) else inside
    pair = [nn.Parameter(one.to(weight, copy=True), requires_grad=not frozen) for one in (a, b)]
    r = nn.Parameter(inside.start.to(weight, copy=True)) if isinstance(inside, Subspace) else None
    return pair[0], pair[1], r


def _added(x: Float[Tensor, "*shape inputs"], layer: AdaptedLayer) -> Float[Tensor, "*shape outputs"]:
    z = nn.functional.linear(x, layer.lora_A)
    z = z if layer.lora_R is None else nn.functional.linear(z, layer.lora_R)
    return nn.functional.linear(z, layer.lora_B) * layer.scale


def _is_four_bit(module: nn.Module) -> bool:
    return isinstance(module, Nf4Linear)


def _product(layer: AdaptedLayer) -> Float[Tensor, "outputs inputs"]:
    return layer.scale * (left_of(layer).double() @ layer.lora_A.detach().double())


def left_of(layer: AdaptedLayer) -> Float[Tensor, "outputs rank"]:
    """B, or the product of B and R, computed in float64: with A a plain LoRA."""
    b = layer.lora_B.detach()
    return b if layer.lora_R is None else (b.double() @ layer.lora_R.detach().double()).to(b)


def require_used(model: LanguageModel) -> None:
    """Raises BadModel where the model computes without one of its adapters: that one would have no gradient."""
    tokens = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    position = torch.arange(2, device=model.device)[None]
    batch = Batch(tokens, tokens, torch.ones_like(position, dtype=torch.float32), position, tokens, tokens[:, 0])
    try:
        model(batch).hidden.sum().backward()
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or not any(map(_is_four_bit, model.model.modules())):
            raise
        raise BadModel(
            f"{model.name}: expected a model that calls its linear layers, but weights in 4 bits are used in another way "
            f"({first_line(error)}): give --trained lora"
        ) from error
    layers = adapted_layers(model).items()
    unused = [name for name, layer in layers if (layer.lora_B if layer.lora_R is None else layer.lora_R).grad is None]
    model.model.zero_grad(set_to_none=True)
    if unused:
        raise BadModel(
            f"{model.name}: expected a model that calls its linear layers, but {len(unused)} of them have weights that are used "
            f"in another way ({', '.join(unused[:3])}), so their adapters would never be trained: tune all its weights"
        )
