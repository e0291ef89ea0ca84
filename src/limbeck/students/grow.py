"""Grows a decoder: a larger one of its architecture with its weights, wider (`widen`, `pad`), deeper (`deepen`) or both.

Two of one shape become one of twice the width by `students.mixture`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig

from limbeck.errors import BadModel, BadShape
from limbeck.models.anatomy import KINDS, SUPPORTED, Anatomy
from limbeck.models.language_model import LanguageModel
from limbeck.models.trim.model import lineage_of_vocabulary
from limbeck.students.deepen import COPIES, IDENTITY, INTERLEAVE, PUBLISHED, STACK, deepen, order
from limbeck.students.mixture import ORTHOGONAL, ZERO, doubled, side_by_side
from limbeck.students.pad import check_padding, pad
from limbeck.students.shape import Shape, shape_axes
from limbeck.students.widen import check_widths, widen

WIDEN, PAD, MIXTURE = "widen", "pad", "mixture"
OPS = (WIDEN, PAD, STACK, INTERLEAVE, MIXTURE)
_DEEPER = {PAD: INTERLEAVE}  # where an operator puts new layers, if not as its name says
LINEAGE = "grown"  # in a model's lineage: what it was grown from, and how


@dataclass(frozen=True)
class Growth:
    """How a decoder grows: to which ``shape``, by which of `OPS`; ``new_layers`` are copies or identities.

    ``seed`` draws the shares of copies.
    """

    op: str
    shape: Shape
    new_layers: str = COPIES
    seed: int = 0

    @property
    def exact(self) -> bool:
        """Whether the grown decoder has the logits of the small one."""
        return self.op in (WIDEN, PAD) or self.new_layers == IDENTITY


def growth(config: PreTrainedConfig, op: str, *, shape: str | None, new_layers: str | None, seed: int) -> Growth:
    """The growth of a decoder by any operator but a mixture. ``shape``: a text such as ``layers=8,hidden=128``.

    Without it, widen and pad double all widths, the others the layers. An axis that it leaves out stays; kv_heads stay a fixed
    part of heads. Raises BadModel for an architecture that cannot be grown, BadShape for a shape that this one does not grow to.
    """
    check_family(config)
    anatomy = Anatomy.of(config)
    now = Shape.of_anatomy(anatomy)
    if shape is None:
        wanted = doubled(now) if op in (WIDEN, PAD) else replace(now, layers=2 * now.layers)
    else:
        wanted = _wanted(now, shape_axes(shape))
    (check_padding if op == PAD else check_widths)(anatomy, config.model_type, wanted)
    if wanted == now:
        raise BadShape(f"the model has that shape already, {now}; give a larger one")
    if op == WIDEN and wanted.layers > now.layers:
        raise BadShape(
            f"layers={wanted.layers} is deeper than the model's {now.layers}, and widen adds no layers; give --op stack or "
            "--op interleave, which also widen to a shape"
        )
    if op in PUBLISHED:
        if wanted.layers == now.layers:
            raise BadShape(
                f"{op} adds layers, and the shape {wanted} has the model's {now.layers}; give more, or --op widen"
            )
        order(op, now.layers, wanted.layers)  # for its errors
    return Growth(op, wanted, new_layers or PUBLISHED.get(_DEEPER.get(op, op), COPIES), seed)


def _wanted(now: Shape, given: Mapping[str, int]) -> Shape:
    queries = now.heads // now.kv_heads
    if "heads" in given and "kv_heads" not in given and given["heads"] % queries == 0:
        return replace(now, **{**given, "kv_heads": given["heads"] // queries})
    return replace(now, **given)


def check_family(config: PreTrainedConfig) -> None:
    """Raises BadModel for a model whose architecture or weights cannot be grown."""
    if config.model_type not in KINDS:
        raise BadModel(
            f"a {config.model_type} model cannot be grown: limbeck grows {', '.join(SUPPORTED)} models; give one"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise BadModel(
            f"a {config.model_type} model with quantised weights cannot be grown: de-quantise it first (limbeck import MODEL "
            "--out FOLDER)"
        )


@torch.no_grad()
def grow(model: LanguageModel, how: Growth) -> LanguageModel:
    """A trainable larger decoder with the model's weights; the model is not changed.

    Its lineage has the operator, the shapes, the layer each layer is a copy of, and the seed. Raises as `growth`.
    """
    anatomy = Anatomy.of(model.config)
    now = Shape.of_anatomy(anatomy)
    facts: dict[str, Any] = {"op": how.op, "seed": how.seed}
    grown, layers = model, list(range(now.layers))
    if replace(how.shape, layers=now.layers) != now:
        wide = (pad if how.op == PAD else widen)(model, replace(how.shape, layers=now.layers), seed=how.seed)
        grown = LanguageModel(wide, model.tokenizer, model.name)
    if how.shape.layers > now.layers:
        layers = order(_DEEPER.get(how.op, how.op), now.layers, how.shape.layers)
        deep = deepen(grown, layers, identity=how.new_layers == IDENTITY)
        grown = LanguageModel(deep, model.tokenizer, model.name)
        facts |= {"layers": layers, "new_layers": how.new_layers}
    return _made(grown.model, [model], facts)


@torch.no_grad()
def grow_mixture(
    first: LanguageModel, second: LanguageModel, *, off_diagonal: str = ORTHOGONAL, scale: float = 1.0, seed: int = 0
) -> LanguageModel:
    """A trainable decoder of twice the width with two trained ones side by side, as `mixture.side_by_side`.

    Raises as that, and BadModel for an architecture that cannot be grown.
    """
    check_family(first.config)
    model = side_by_side(first, second, off_diagonal=off_diagonal, scale=scale, seed=seed)
    facts = {"op": MIXTURE, "seed": seed, "off_diagonal": off_diagonal, "scale": 0.0 if off_diagonal == ZERO else scale}
    return _made(model, [first, second], facts)


def _made(model: PreTrainedModel, sources: list[LanguageModel], facts: Mapping[str, Any]) -> LanguageModel:
    """The grown model with its lineage."""
    first = sources[0]
    model.generation_config = copy.deepcopy(first.model.generation_config)
    of = [
        {"name": one.name, "parameters": one.parameters_count, "shape": asdict(Shape.of(one.config))}
        | ({"lineage": dict(one.lineage)} if one.lineage else {})
        for one in sources
    ]
    lineage = {LINEAGE: {**facts, "of": of, "shape": asdict(Shape.of(model.config))}} | lineage_of_vocabulary(first)
    name = f"{first.name}-grown"
    return LanguageModel(model.requires_grad_(True).train(), first.tokenizer, name, lineage)
