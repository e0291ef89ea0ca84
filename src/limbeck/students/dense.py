"""Makes a dense decoder of a mixture of experts, from which students are pruned as from any other.

An FFN of a mixture adds the outputs of the experts that a token is routed to, each times its routing weight. Concatenated experts
add theirs too (arXiv 2605.28207, sec. 3), but for every token, so that each has one factor for all, in its output map: its mean
routing weight on a sample of text. With *chosen*, the dense FFN has the experts of the largest mean weight, as many as a token is
routed to. With *merged*, each of these is the mean, by routing weight, of itself and of the others whose router rows are most
similar to its own. A shared expert follows, times the mean of its gate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.errors import BadCorpus, BadModel, BadSetting
from limbeck.models.build import build
from limbeck.models.experts import dense_config, expert_count, is_sparse, normalises, shared_width
from limbeck.models.language_model import LanguageModel
from limbeck.models.observing import evaluating, hooked
from limbeck.types import Batch

CHOSEN, MERGED = "chosen", "merged"
EXPERTS = (CHOSEN, MERGED)
LINEAGE = "experts"  # in a model's lineage: how a mixture of experts became dense

Group = list[tuple[int, float]]  # experts with their shares of one merged expert


@dataclass(frozen=True)
class Routing:
    """Means over the tokens of a sample, by layer: routing ``weight`` of each expert, and the ``shared`` expert's gate.

    An expert that a token is not routed to has weight 0. Dense layers have zeros.
    """

    weight: Float[Tensor, "L E"]
    shared: Float[Tensor, " L"]


@torch.no_grad()
def make_dense(teacher: LanguageModel, batches: Iterable[Batch], *, method: str = CHOSEN) -> LanguageModel:
    """A frozen dense decoder of a mixture of experts, on its device; other models are given back as they are.

    ``method`` is one of `EXPERTS`, ``batches`` a sample of rows on which routing is measured; positions of weight 0 do not
    count. Its lineage tells which experts each FFN is made of. Raises BadSetting for an unknown method, BadCorpus for a sample
    without tokens of weight > 0, and BadModel where the dense family has no place for the mixture.
    """
    if method not in EXPERTS:
        raise BadSetting(f"experts become a dense FFN by one of {', '.join(EXPERTS)}; got {method!r}")
    config = dense_config(teacher.config)
    if config is teacher.config:
        return teacher
    routing = routing_of(teacher, batches)
    with torch.random.fork_rng(devices=[]):  # building makes random weights, all of which are overwritten below
        model = build(config, dtype=teacher.model.dtype).to(teacher.device)
    layers = teacher.model.get_submodule("model.layers")
    groups = [
        _groups(teacher, layer, routing, method) if is_sparse(teacher.config, layer) else []
        for layer in range(len(routing.weight))
    ]
    theirs = dict(teacher.model.named_parameters())
    for name, parameter in model.named_parameters():
        if name in theirs:
            parameter.copy_(theirs[name])
    for layer, (module, inside) in enumerate(zip(layers, groups, strict=True)):
        if inside:
            for name, weight in _ffn(module.mlp, inside, routing, layer).items():
                model.get_parameter(f"model.layers.{layer}.mlp.{name}_proj.weight").copy_(weight)
    model.generation_config = teacher.model.generation_config
    lineage = {**(teacher.lineage or {}), LINEAGE: _lineage(teacher, groups, routing, method)}
    return LanguageModel(model.eval().requires_grad_(False), teacher.tokenizer, teacher.name, lineage)


def lineage_of_experts(model: LanguageModel) -> dict[str, Any]:
    """What a student made of a model says of its experts; nothing where it had none."""
    named = (model.lineage or {}).get(LINEAGE)
    return {} if named is None else {LINEAGE: named}


def routing_of(teacher: LanguageModel, batches: Iterable[Batch]) -> Routing:
    """The mean routing weights of a mixture of experts on a sample. Raises BadCorpus for one without tokens of weight > 0."""
    if not teacher.packs:
        raise BadModel(f"{teacher.name}: expected a mixture of experts whose documents can be packed; give a --student")
    layers, experts = teacher.config.num_hidden_layers, expert_count(teacher.config)
    weight = torch.zeros(layers, experts, dtype=torch.float64, device=teacher.device)
    shared, total = torch.zeros(layers, dtype=torch.float64, device=teacher.device), 0.0
    with evaluating(teacher.model):
        for batch in batches:
            with _routed(teacher) as seen:
                teacher(batch)
            counts = batch.weight.reshape(-1).double()
            total += float(counts.sum())
            for layer, (routed, gate) in seen.items():
                weight[layer] += counts @ routed.double()
                shared[layer] += 0.0 if gate is None else counts @ gate.double()
    if total == 0:
        raise BadCorpus("the sample has no row with a token of weight > 0; give more text to measure routing on")
    return Routing(weight / total, shared / total)


@contextmanager
def _routed(teacher: LanguageModel) -> Iterator[dict[int, tuple[Tensor, Tensor | None]]]:
    """Collects, by layer, the routing weights (N, E) of all tokens of a batch, and the gate (N,) of a shared expert."""
    seen: dict[int, tuple[Tensor, Tensor | None]] = {}

    def hook(layer: int, block: nn.Module) -> Any:
        def observe(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            hidden = inputs[0].flatten(0, -2)
            gate = getattr(block, "shared_expert_gate", None)
            seen[layer] = (
                routing_weights(hidden, block, teacher.config),
                None if gate is None else gate(hidden)[:, 0].sigmoid(),
            )

        return observe

    handles = [
        layer.mlp.register_forward_pre_hook(hook(number, layer.mlp))
        for number, layer in enumerate(teacher.model.get_submodule("model.layers"))
        if is_sparse(teacher.config, number)
    ]
    with hooked(handles):
        yield seen


def routing_weights(hidden: Float[Tensor, "N D"], block: Any, config: Any) -> Float[Tensor, "N E"]:
    """The weight of each expert's output for each token: the softmax of the router, 0 outside the top k."""
    probability = F.linear(hidden, block.gate.weight).softmax(-1, dtype=torch.float)
    top = probability.topk(config.num_experts_per_tok, dim=-1)
    values = top.values / top.values.sum(-1, keepdim=True) if normalises(config) else top.values
    return torch.zeros_like(probability).scatter_(-1, top.indices, values)


def _groups(teacher: LanguageModel, layer: int, routing: Routing, method: str) -> list[Group]:
    """The experts of each part of a dense FFN, ordered by the number of the first."""
    weight = routing.weight[layer]
    count = int(teacher.config.num_experts_per_tok)
    first = weight.argsort(descending=True, stable=True)[:count].sort().values.tolist()
    if method == CHOSEN:
        return [[(expert, 1.0)] for expert in first]
    rows = F.normalize(teacher.model.get_parameter(f"model.layers.{layer}.mlp.gate.weight").double(), dim=-1)
    nearest = (rows @ rows[first].T).argmax(-1)
    nearest[first] = torch.arange(count, device=nearest.device)
    return [_shares((nearest == place).nonzero()[:, 0].tolist(), weight) for place in range(count)]


def _shares(experts: Sequence[int], weight: Float[Tensor, " E"]) -> Group:
    """Experts with their shares of the routing weight that they have together; equal ones where they have none."""
    total = float(weight[list(experts)].sum())
    return [(expert, float(weight[expert]) / total if total else 1 / len(experts)) for expert in experts]


def _factors(groups: Sequence[Group], weight: Float[Tensor, " E"]) -> list[float]:
    """The factor of each part: its experts' routing weight, as a share of that of all parts, times the weight of all experts."""
    parts = [float(sum(weight[expert] for expert, _ in group)) for group in groups]
    return [part / sum(parts) * float(weight.sum()) for part in parts]


def _ffn(block: Any, groups: Sequence[Group], routing: Routing, layer: int) -> dict[str, Tensor]:
    """The matrices of the dense FFN that stands for a mixture: gate and up (F, D), down (D, F)."""
    gate_up, down = block.experts.gate_up_proj, block.experts.down_proj  # (E, 2 f, D), (E, D, f)

    def mean(weight: Tensor, group: Group) -> Tensor:
        return weight[group[0][0]] if len(group) == 1 else sum(share * weight[expert] for expert, share in group)  # type: ignore[return-value]

    halves = [mean(gate_up, group).chunk(2) for group in groups]
    factors = _factors(groups, routing.weight[layer])
    found = {
        "gate": [half[0] for half in halves],
        "up": [half[1] for half in halves],
        "down": [factor * mean(down, group) for factor, group in zip(factors, groups, strict=True)],
    }
    shared = getattr(block, "shared_expert", None)
    if shared is not None:
        found["gate"].append(shared.gate_proj.weight)
        found["up"].append(shared.up_proj.weight)
        found["down"].append(float(routing.shared[layer]) * shared.down_proj.weight)
    return {name: torch.cat(parts, 1 if name == "down" else 0) for name, parts in found.items()}


def _lineage(
    teacher: LanguageModel, groups: Sequence[Sequence[Group]], routing: Routing, method: str
) -> dict[str, Any]:
    """How the experts of each layer became an FFN; ``routed``: the share of all routing weight that the chosen ones have."""
    weight = routing.weight
    chosen = sum(
        float(weight[layer][expert]) for layer, inside in enumerate(groups) for group in inside for expert, _ in group
    )
    return {
        "of": teacher.name,
        "method": method,
        "experts": [int(teacher.config.num_experts_per_tok), expert_count(teacher.config)],
        "shared": shared_width(teacher.config),
        "layers": [[[expert for expert, _ in group] for group in inside] for inside in groups],
        "routed": chosen / float(weight.sum()),
    }
