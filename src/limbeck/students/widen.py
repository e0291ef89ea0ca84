"""Widens a decoder without changing what it computes: each new channel, head or neuron is a copy of an old one.

What reads copies divides the old weight among them, so that their sum is what it was (Net2WiderNet: arXiv 1511.05641, sec. 3.3;
for Transformers bert2BERT: arXiv 2110.07143, sec. 3.1). A norm divides by the root mean square over the channels, which
copies leave as it is if each channel has equally many. The shares are unequal, since equal ones would give copies equal gradients
for ever (LEMON: arXiv 2310.07999, sec. 4.1). They differ from entry to entry of a matrix: with one share for a whole column the
gradients of copies differ by a factor alone, which Adam takes out again.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from limbeck.errors import BadShape
from limbeck.models.anatomy import HEAD, Anatomy
from limbeck.models.build import build
from limbeck.models.language_model import LanguageModel
from limbeck.students.kept import Kept
from limbeck.students.shape import Shape
from limbeck.students.shape import config_of as config_of_shape

_LEAST, _MOST = 0.1, 1.9  # of what shares are drawn from, before they are divided by their sum


def check_widths(anatomy: Anatomy, model_type: str, shape: Shape) -> None:
    """Raises BadShape unless a decoder can be widened to the channels, heads and neurons of this shape."""
    now = Shape.of_anatomy(anatomy)
    check_larger(now, shape)
    if shape.hidden % now.hidden:
        raise BadShape(
            f"hidden={shape.hidden} is no multiple of the model's {now.hidden}: norms are means over the channels, which copies "
            f"leave as they are only if each channel has equally many; give hidden={_next(shape.hidden, now.hidden)}, or --op pad"
        )
    queries = now.heads // now.kv_heads
    if shape.heads % shape.kv_heads or shape.heads // shape.kv_heads < queries:
        raise BadShape(
            f"heads={shape.heads} do not fit kv_heads={shape.kv_heads}: each key-value head has equally many query heads, at "
            f"least the model's {queries}; give heads={_next(shape.heads, shape.kv_heads * queries)}, or other kv_heads"
        )
    check_kind(anatomy, model_type, shape)


def check_larger(now: Shape, shape: Shape) -> None:
    """Raises BadShape for a shape that is smaller on some axis."""
    for axis, ours in asdict(shape).items():
        if ours < getattr(now, axis):
            raise BadShape(
                f"{axis}={ours} is less than the model's {getattr(now, axis)}: growth makes no axis smaller; give "
                f"{getattr(now, axis)} or more, or prune with limbeck shrink"
            )


def check_kind(anatomy: Anatomy, model_type: str, shape: Shape) -> None:
    """Raises BadShape for a shape that models of this architecture never have."""
    now, head_dim = Shape.of_anatomy(anatomy), anatomy.sizes.head_dim
    if anatomy.kind.square and shape.hidden != shape.heads * head_dim:
        raise BadShape(
            f"in {model_type} models hidden is heads x {head_dim}, got hidden={shape.hidden} with heads={shape.heads}; give "
            f"hidden={shape.heads * head_dim}, or other heads"
        )
    if "kv_heads" not in anatomy.kind.fields and shape.kv_heads != shape.heads:
        raise BadShape(
            f"in {model_type} models each head has keys and values of its own, got heads={shape.heads} with "
            f"kv_heads={shape.kv_heads}; leave kv_heads out"
        )
    if anatomy.kind.divides and shape.hidden % shape.heads:
        raise BadShape(
            f"in {model_type} models hidden is a multiple of heads, got hidden={shape.hidden} with heads={shape.heads}; give "
            f"hidden={_next(shape.hidden, math.lcm(now.hidden, shape.heads))}, or other heads"
        )
    normed = any(axes in (("heads",), ("kv",)) for name, axes in anatomy.inside.items() if "norm" in name)
    uneven = shape.kv_heads % now.kv_heads or (shape.heads // shape.kv_heads) % (now.heads // now.kv_heads)
    if normed and uneven:
        raise BadShape(
            f"in {model_type} models norms are means over all heads, so that each head has equally many copies; give heads "
            f"and kv_heads as the same multiple of {now.heads} and {now.kv_heads}"
        )


def _next(value: int, step: int) -> int:
    return -(-value // step) * step


@torch.no_grad()
def widen(model: LanguageModel, shape: Shape, *, seed: int) -> PreTrainedModel:
    """A decoder with the widths of ``shape`` and the model's layers that gives the model's logits, to rounding.

    ``seed`` draws the shares of copies. The model is not changed. Raises BadShape as `check_widths`.
    """
    anatomy = Anatomy.of(model.config)
    check_widths(anatomy, model.config.model_type, shape)
    widening = _Widening.of(anatomy, shape, torch.Generator().manual_seed(seed))
    with torch.random.fork_rng(devices=[]):  # building makes random weights, all of which are overwritten below
        wide = build(config_of_shape(shape, model.config), dtype=model.model.dtype).to(model.device)
    theirs = dict(model.model.named_parameters())
    for name, parameter in wide.named_parameters():
        parameter.copy_(widening.tensor(name, theirs[name].detach()))
    return wide


@dataclass(frozen=True)
class _Widening:
    """Of which old unit each new one is a copy, along every axis; ``scale`` multiplies the embeddings of a wider Gemma."""

    anatomy: Anatomy
    copied: Kept
    scale: float
    generator: torch.Generator

    @classmethod
    def of(cls, anatomy: Anatomy, shape: Shape, generator: torch.Generator) -> _Widening:
        now = Shape.of_anatomy(anatomy)
        queries, wanted = now.heads // now.kv_heads, shape.heads // shape.kv_heads
        groups = torch.arange(shape.kv_heads) % now.kv_heads
        heads = groups[:, None] * queries + torch.arange(wanted) % queries
        copied = Kept(
            layers=torch.arange(1),
            hidden=torch.arange(shape.hidden) % now.hidden,
            heads=heads.flatten()[None],
            kv_heads=groups[None],
            ffn=(torch.arange(shape.ffn) % now.ffn)[None],
        )
        scale = (now.hidden / shape.hidden) ** 0.5 if anatomy.kind.scaled_embedding else 1.0
        return cls(anatomy, copied, scale, generator)

    def tensor(self, name: str, theirs: Tensor) -> Tensor:
        """The wide tensor of a name, from the model's."""
        inside = name.startswith(f"{self.anatomy.kind.layers}.")
        local = name.removeprefix(f"{self.anatomy.kind.layers}.").partition(".")[2] if inside else name
        axes = (self.anatomy.inside if inside else self.anatomy.outside)[local]
        indices = [self.copied.along(axis, 0, self.anatomy.sizes).to(theirs.device) for axis in axes]
        part = theirs
        for dimension, index in enumerate(indices):
            part = part.index_select(dimension, index)
        if inside and len(axes) == 2:
            reads = 0 if self.anatomy.kind.transposed else 1
            return part * self._shares(part, indices[reads], theirs.shape[reads], reads)
        return part if inside else self._outside(name, part, indices[-1], theirs.shape[-1])

    def _outside(self, name: str, part: Tensor, index: Int[Tensor, " n"], width: int) -> Tensor:
        """Embeddings, final norm and head. What reads the hidden channels is the head; of a tied one the norm before it."""
        if name == HEAD:
            return part * self._shares(part, index, width, 1)
        final = name.startswith(f"{self.anatomy.kind.final_norm}.")
        if not final:
            return part * self.scale
        if not self.anatomy.tied:
            return part
        # One seed for weight and bias, which have the same shares.
        share = self._shares(part, index, width, 0, torch.Generator().manual_seed(self.generator.initial_seed() + 1))
        if self.anatomy.kind.scaled_embedding:
            return (1 + part) * share / self.scale - 1  # Gemma's norms multiply by 1 + weight
        return part * share

    def _shares(
        self,
        part: Tensor,
        index: Int[Tensor, " n"],
        width: int,
        dimension: int,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "..."]:
        """Shares of a tensor's shape; along a dimension those of the copies of one unit add up to 1."""
        if len(index) == width:
            return torch.ones((), device=part.device)
        drawn = torch.rand(part.shape, generator=generator or self.generator) * (_MOST - _LEAST) + _LEAST
        drawn = drawn.to(part.device)
        shape = [width if place == dimension else size for place, size in enumerate(part.shape)]
        sums = torch.zeros(shape, device=part.device).index_add_(dimension, index, drawn)
        return drawn / sums.index_select(dimension, index)
