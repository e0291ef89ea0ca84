"""Shared layers: an auxiliary decoder whose layers share weights, from which students of several depths are expanded.

The auxiliary is distilled once. In stages (SWS, arXiv 2404.16897) the layers of a stage have one set of weights; on a line (TLEG,
arXiv 2312.05614) layer l of L has base + l/L slope. A student copies them into as many layers as it has, and is trained further.
Layers share parameters, not modules: each keeps its own place in the key-value cache and its own kind of attention.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from limbeck.errors import BadShape
from limbeck.models.anatomy import Anatomy, resized
from limbeck.models.build import build
from limbeck.models.language_model import LanguageModel
from limbeck.models.trim.model import lineage_of_vocabulary
from limbeck.students.shape import Shape

LINEAGE = "learngene"  # in a student's lineage
STAGES, LINEAR = "stages", "linear"


@dataclass(frozen=True)
class Sharing:
    """How the ``layers`` of an auxiliary decoder share weights: in so many ``stages``, or all on one line where that is None.

    Raises BadShape for stages that are not between 1 and the layers, and for a line of one layer.
    """

    layers: int
    stages: int | None = None

    def __post_init__(self) -> None:
        if self.stages is None and self.layers < 2:
            raise BadShape(f"{self.layers} layer is no line of layers: give 2 or more")
        if self.stages is not None and not 1 <= self.stages <= self.layers:
            raise BadShape(
                f"{self.layers} layers cannot share weights in {self.stages} stages: give 1 to {self.layers}"
            )

    @property
    def kind(self) -> str:
        """The name of the sharing: "stages" or "linear"."""
        return LINEAR if self.stages is None else STAGES

    def stage_of(self, layers: int) -> tuple[int, ...]:
        """The stage of each layer of a decoder of so many, the auxiliary or a student; of a line all are one stage.

        The order is kept, and stages that have a layer more than others come first: 12 layers in 5 stages are
        0 0 0 1 1 1 2 2 3 3 4 4, as published. Raises BadShape for fewer layers than stages, and for more than the auxiliary has.
        """
        stages = self.stages or 1
        if not stages <= layers <= self.layers:
            shown = (
                "on a line" if self.stages is None else f"of stages {' '.join(map(str, self.stage_of(self.layers)))}"
            )
            raise BadShape(
                f"{layers} layers cannot be expanded from {self.layers} layers {shown}: give {stages} to {self.layers}"
            )
        each, more = divmod(layers, stages)
        return tuple(stage for stage in range(stages) for _ in range(each + (stage < more)))

    def sources(self, layers: int) -> tuple[int, ...]:
        """The auxiliary's layer from which each layer of a student takes its settings, and its norms where those are its own.

        Within a stage the copies are spread evenly over the auxiliary's layers of that stage.
        """
        theirs = _by_stage(self.stage_of(self.layers))
        ours = _by_stage(self.stage_of(layers))
        return tuple(their[at] for their, our in zip(theirs, ours, strict=True) for at in evenly(len(their), len(our)))

    def place(self, layer: int, layers: int) -> float:
        """Where a layer is on the line: l / L, as published."""
        return layer / layers


def evenly(among: int, count: int) -> tuple[int, ...]:
    """``count`` of the numbers from 0 to ``among`` - 1, evenly spaced from the first to the last; a single one is the first."""
    if count == 1:
        return (0,)
    return tuple((2 * i * (among - 1) + count - 1) // (2 * (count - 1)) for i in range(count))


@torch.no_grad()
def from_teacher(teacher: LanguageModel, sharing: Sharing) -> LanguageModel:
    """A trainable decoder of as many layers as the auxiliary, of layers of the teacher, before they are shared.

    Each stage starts from one layer of the teacher, and these are evenly spaced from its first to its last; on a line each layer
    starts from one. Everything outside the layers is the teacher's. Raises BadShape for fewer teacher layers than that, and
    BadModel for an architecture that cannot be pruned.
    """
    depth, wanted = Anatomy.of(teacher.config).sizes.layers, sharing.stages or sharing.layers
    if wanted > depth:
        raise BadShape(f"{teacher.name} has {depth} layers, from which {wanted} cannot be taken: give at most {depth}")
    taken = evenly(depth, wanted)
    layers = [taken[stage] for stage in sharing.stage_of(sharing.layers)] if sharing.stages else list(taken)
    return _decoder(teacher, layers, _reader(teacher, layers), {"teacher": teacher.name, "kept": {"layers": layers}})


@torch.no_grad()
def share(model: LanguageModel, sharing: Sharing) -> None:
    """Makes the layers of a decoder share their weights, in place: it is then the auxiliary.

    A stage takes the weights of its first layer; norms stay each layer's own, since one for several layers would fix the ratio of
    what each adds to the hidden states (the published code shares them too). A line is the least-squares fit to the layers,
    norms too. Raises BadShape for another number of layers, and BadModel for an architecture that cannot be pruned.
    """
    anatomy = Anatomy.of(model.config)
    layers = anatomy.layers_of(model.model)
    if len(layers) != sharing.layers:
        raise BadShape(
            f"{model.name} has {len(layers)} layers, the auxiliary {sharing.layers}: give a model of as many layers"
        )
    for name in anatomy.inside:
        owners = [_owner(layer, name) for layer in layers]
        if sharing.stages is None:
            _draw_line([module for module, _ in owners], owners[0][1], sharing)
        elif not _is_norm(name):
            for stage in _by_stage(sharing.stage_of(sharing.layers)):
                first, attribute = owners[stage[0]]
                for layer in stage[1:]:
                    setattr(owners[layer][0], attribute, getattr(first, attribute))


@torch.no_grad()
def expand(auxiliary: LanguageModel, sharing: Sharing, layers: int) -> LanguageModel:
    """A trainable student of so many layers, each with weights of its own, from a decoder whose layers `share`.

    Embeddings, last norm and head are copied. With as many layers as the auxiliary its logits are the auxiliary's, bit by bit.
    Raises BadShape for a number of layers that the sharing does not allow.
    """
    sources = sharing.sources(layers)
    read = _reader(auxiliary, sources)
    if sharing.stages is None:
        read = _line_reader(auxiliary, sharing, layers)
    before = dict(auxiliary.lineage or {})
    kept = before.get("kept", {}).get("layers")
    facts = {"kind": sharing.kind, "layers": sharing.layers, "stages": list(sharing.stage_of(layers))}
    lineage = before | {LINEAGE: facts}
    lineage.pop("kept", None)
    if kept and sharing.stages is not None:
        lineage["kept"] = {"layers": [kept[source] for source in sources]}
    return _decoder(auxiliary, sources, read, lineage)


Read = Callable[[str, int | None], Tensor]  # a tensor by its name inside a layer and the student's layer, None: outside


def _decoder(model: LanguageModel, layers: Sequence[int], read: Read, lineage: dict[str, Any]) -> LanguageModel:
    """A trainable decoder with the settings of these layers of a model, and with weights that are read by name."""
    anatomy = Anatomy.of(model.config)
    config = resized(model.config, layers=layers, sizes=anatomy.sizes)
    with torch.random.fork_rng(devices=[]):  # building makes random weights, all of which are overwritten below
        made = build(config, dtype=model.model.dtype).to(model.device)
    prefix = f"{anatomy.kind.layers}."
    for name, parameter in made.named_parameters():
        if name.startswith(prefix):
            number, local = name.removeprefix(prefix).split(".", 1)
            parameter.copy_(read(local, int(number)))
        else:
            parameter.copy_(read(name, None))
    made.generation_config = copy.deepcopy(model.model.generation_config)
    about = lineage | {"shape": asdict(Shape.of(config))} | lineage_of_vocabulary(model)
    return LanguageModel(made.requires_grad_(True).train(), model.tokenizer, model.name, about)


def _reader(model: LanguageModel, layers: Sequence[int]) -> Read:
    """Reads the tensors of these layers of a model, and those outside its layers."""
    theirs = Anatomy.of(model.config).layers_of(model.model)

    def read(name: str, layer: int | None) -> Tensor:
        module, attribute = _owner(model.model if layer is None else theirs[layers[layer]], name)
        tensor: Tensor = getattr(module, attribute)
        return tensor

    return read


def _line_reader(auxiliary: LanguageModel, sharing: Sharing, layers: int) -> Read:
    """Reads the points of the auxiliary's line at the places of a student's layers."""
    first = Anatomy.of(auxiliary.config).layers_of(auxiliary.model)[0]
    outside = _reader(auxiliary, ())

    def read(name: str, layer: int | None) -> Tensor:
        if layer is None:
            return outside(name, None)
        module, attribute = _owner(first, name)
        ends = _ends(module, attribute)
        return _Line(sharing.place(layer, layers))(ends.original0, ends.original1)

    return read


class _Line(nn.Module):
    """The point base + place x slope of a line, as the weight of a module (`torch.nn.utils.parametrize`)."""

    def __init__(self, place: float) -> None:
        super().__init__()
        self._place = place

    def forward(self, base: Tensor, slope: Tensor) -> Tensor:
        return base + self._place * slope

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return weight, torch.zeros_like(weight)


def _draw_line(modules: Sequence[nn.Module], attribute: str, sharing: Sharing) -> None:
    """Puts the weights of the same name in all layers on one line, that of least squares, whose two ends they share."""
    places = [sharing.place(layer, sharing.layers) for layer in range(sharing.layers)]
    weights = torch.stack([getattr(module, attribute) for module in modules])
    middle = sum(places) / len(places)
    away = torch.tensor([place - middle for place in places], dtype=weights.dtype, device=weights.device)
    slope = torch.tensordot(away, weights, dims=1) / away.square().sum()
    for module, place in zip(modules, places, strict=True):
        parametrize.register_parametrization(module, attribute, _Line(place))
    ends = [_ends(module, attribute) for module in modules]
    ends[0].original0.copy_(weights.mean(0) - middle * slope)
    ends[0].original1.copy_(slope)
    for other in ends[1:]:
        other.original0, other.original1 = ends[0].original0, ends[0].original1


def _ends(module: nn.Module, attribute: str) -> Any:
    """The base (``original0``) and the slope (``original1``) of a weight on a line."""
    parametrizations: Any = module.parametrizations
    return parametrizations[attribute]


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module and the attribute of a parameter by its dotted name."""
    path, _, attribute = name.rpartition(".")
    return module.get_submodule(path), attribute


def _is_norm(name: str) -> bool:
    """Whether a parameter inside a layer belongs to a norm."""
    module = name.split(".")[-2]
    return "norm" in module or module.startswith("ln_")


def _by_stage(stages: Sequence[int]) -> list[list[int]]:
    """The layers of each stage."""
    return [[layer for layer, _ in group] for _, group in groupby(enumerate(stages), key=lambda one: one[1])]
