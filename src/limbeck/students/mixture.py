"""Puts two trained decoders of one shape side by side in one of twice the width (MixtureGrowth: arXiv 2311.04251).

Each matrix of the large decoder has the matrices of the two on its diagonal. Off the diagonal, where one reads the other, are new
mixtures. In the paper a matrix is a mixture of templates that the layers share, W_l = sum over k of a_lk T_k, and what is grown
has new coefficients. A decoder trained without templates has them all the same: an orthonormal basis T of its layers' matrices of
one kind, by which the coefficients a_l of each layer are exact. A new mixture is then a sum of layers' matrices:

- *orthogonal*: coefficients orthogonal to those of the layer, along the template that explains least of the layers, and as large.
- *copy*: the layer's own coefficients.
- *random*: no mixture but Gaussian numbers of the same size, a control.
- *zero*: nothing. The two stay apart but for the norms, and the logits are the mean of theirs; a control too.

The released code gives new coefficients the norm 1, whatever those of the layers are; here they are multiples of the layers' own.
Norms over the channels are over those of both decoders now, so that the logits are not quite the mean of theirs even with *zero*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from limbeck.errors import BadModel, BadShape, Mismatch
from limbeck.models.anatomy import HEAD, Anatomy, Sizes
from limbeck.models.build import build
from limbeck.models.language_model import LanguageModel
from limbeck.students.kept import Kept
from limbeck.students.shape import Shape
from limbeck.students.shape import config_of as config_of_shape

ORTHOGONAL, COPY, RANDOM, ZERO = "orthogonal", "copy", "random", "zero"
OFF_DIAGONAL = (ORTHOGONAL, ZERO, COPY, RANDOM)
_APART = frozenset(
    {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"}
)  # of no meaning here


def doubled(shape: Shape) -> Shape:
    """The shape of two decoders side by side."""
    return replace(
        shape, hidden=2 * shape.hidden, heads=2 * shape.heads, kv_heads=2 * shape.kv_heads, ffn=2 * shape.ffn
    )


def check_pair(first: LanguageModel, second: LanguageModel, off_diagonal: str) -> None:
    """Raises Mismatch for models of two vocabularies or configurations, BadModel and BadShape for others that do not fit."""
    if first.tokenizer.get_vocab() != second.tokenizer.get_vocab():
        raise Mismatch(
            f"{first.name} and {second.name} have two tokenizers; a mixture is of two trainings of one model with one tokenizer: "
            "give such a second one"
        )
    ours, theirs = first.config.to_dict(), second.config.to_dict()
    other = sorted(key for key in {*ours, *theirs} - _APART if ours.get(key) != theirs.get(key))
    if other:
        values = ", ".join(f"{key} ({ours.get(key)}, {theirs.get(key)})" for key in other)
        raise Mismatch(
            f"{first.name} and {second.name} differ in {values}; a mixture is of two trainings of one configuration: give "
            "such a second one"
        )
    anatomy = Anatomy.of(first.config)
    shared = sorted(name for name, axes in anatomy.inside.items() if axes == ("head_dim",))
    if shared:
        raise BadModel(
            f"a {first.config.model_type} model has one {shared[0]} for all heads, so that those of two models cannot be put "
            "side by side; grow one by --op widen"
        )
    if off_diagonal == ORTHOGONAL and anatomy.sizes.layers < 2:
        raise BadShape(
            f"{first.name} has one layer, whose matrices are their own only template, so that no other mixture is orthogonal to "
            "it; give --off-diagonal zero or copy"
        )


@torch.no_grad()
def side_by_side(
    first: LanguageModel, second: LanguageModel, *, off_diagonal: str = ORTHOGONAL, scale: float = 1.0, seed: int = 0
) -> PreTrainedModel:
    """A decoder of twice the width with both on its diagonal. ``off_diagonal`` is one of `OFF_DIAGONAL`, times ``scale``.

    ``seed`` draws random numbers. Neither model is changed. Raises as `check_pair`.
    """
    check_pair(first, second, off_diagonal)
    anatomy = Anatomy.of(first.config)
    shape = doubled(Shape.of_anatomy(anatomy))
    with torch.random.fork_rng(devices=[]):  # building makes random weights, all of which are overwritten below
        model = build(config_of_shape(shape, first.config), dtype=first.model.dtype).to(first.device)
    wide = replace(anatomy.sizes, **asdict(shape))
    members = tuple(dict(one.model.named_parameters()) for one in (first, second))
    pairing = _Pairing(anatomy, wide, members, off_diagonal, scale, torch.Generator().manual_seed(seed))
    for name, parameter in model.named_parameters():
        pairing.fill(name, parameter)
    return model


def mixtures(matrices: Float[Tensor, "L ..."], layer: int) -> Float[Tensor, "..."]:
    """The mixture of the templates of these layers' matrices that is orthogonal to a layer's, as large as it (Frobenius norm).

    Of the orthogonal directions it is the one nearest to the template that explains least of the layers.
    """
    flat = matrices.flatten(1).double()
    values, vectors = torch.linalg.eigh(flat @ flat.T)  # ascending; vectors of layers
    known = values > values[-1] * len(flat) * torch.finfo(torch.float32).eps
    vectors, sizes = vectors[:, known], values[known].sqrt()
    largest = vectors.abs().argmax(0)
    vectors = vectors * vectors[largest, torch.arange(len(sizes))].sign()  # eigenvectors have no sign of their own
    own = vectors[layer] * sizes  # the layer's coefficients; templates are vectors.T @ flat / sizes
    for template in range(len(sizes)):
        new = -own * own[template] / own.square().sum().clamp_min(torch.finfo(torch.float64).tiny)
        new[template] += 1
        if float(new.norm()) > _LITTLE:
            new = new * (own.norm() / new.norm())
            return ((new / sizes) @ vectors.T @ flat).to(matrices.dtype).reshape(matrices.shape[1:])
    return torch.zeros_like(matrices[layer])  # all layers are multiples of one matrix


_LITTLE = 1e-3  # of a unit vector that is left when its part along a layer is taken away


@dataclass(frozen=True)
class _Pairing:
    """Fills the tensors of the large decoder from those of the two, its ``members``."""

    anatomy: Anatomy
    wide: Sizes
    members: Sequence[Mapping[str, Tensor]]
    off_diagonal: str
    scale: float
    generator: torch.Generator

    def fill(self, name: str, tensor: Tensor) -> None:
        """Fills the tensor of a name."""
        prefix = f"{self.anatomy.kind.layers}."
        inside = name.startswith(prefix)
        local = name.removeprefix(prefix).partition(".")[2] if inside else name
        axes = (self.anatomy.inside if inside else self.anatomy.outside)[local]
        places = [[self._place(axis, member).to(tensor.device) for axis in axes] for member in range(2)]
        tensor.zero_()
        for member, theirs in enumerate(self.members):
            if not inside:
                self._put(tensor, places[member], self._outside(name, theirs[name]))
                continue
            self._put(tensor, places[member], theirs[name])
            if len(axes) == 2 and self.off_diagonal != ZERO:
                reads = 0 if self.anatomy.kind.transposed else 1
                crossed = [places[1 - member if place == reads else member][place] for place in range(2)]
                self._put(tensor, crossed, self.scale * self._crossing(name, local, theirs))

    def _place(self, axis: str, member: int) -> Tensor:
        """Where a member's part is along an axis of the large decoder."""
        now = self.anatomy.sizes

        def units(count: int) -> Tensor:
            return torch.arange(count) + member * count

        where = Kept(
            layers=torch.arange(1),
            hidden=units(now.hidden),
            heads=units(now.heads)[None],
            kv_heads=units(now.kv_heads)[None],
            ffn=units(now.ffn)[None],
        )
        return where.along(axis, 0, self.wide)

    @staticmethod
    def _put(tensor: Tensor, places: Sequence[Tensor], part: Tensor) -> None:
        tensor[torch.meshgrid(*places, indexing="ij")] = part.to(tensor)

    def _outside(self, name: str, part: Tensor) -> Tensor:
        """Embeddings, final norm and head: the logits are the mean of the members'."""
        gemma = self.anatomy.kind.scaled_embedding
        scale = 0.5**0.5 if gemma else 1.0  # Gemma multiplies embeddings by the root of its width
        if name == HEAD:
            return part / 2
        if not name.startswith(f"{self.anatomy.kind.final_norm}."):
            return part * scale
        if not self.anatomy.tied:
            return part
        return (1 + part) / (2 * scale) - 1 if gemma else part / 2

    def _crossing(self, name: str, local: str, theirs: Mapping[str, Any]) -> Tensor:
        """What a member has off the diagonal: how it reads the other."""
        own: Tensor = theirs[name]
        if self.off_diagonal == COPY:
            return own
        if self.off_diagonal == RANDOM:
            drawn = torch.randn(own.shape, generator=self.generator).to(own.device)
            return drawn * (own.norm() / drawn.norm())
        prefix = f"{self.anatomy.kind.layers}."
        layers = torch.stack([theirs[f"{prefix}{layer}.{local}"] for layer in range(self.anatomy.sizes.layers)])
        return mixtures(layers, int(name.removeprefix(prefix).partition(".")[0]))
