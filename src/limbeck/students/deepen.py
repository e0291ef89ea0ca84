"""Deepens a decoder by copies of its layers, behind one another or each behind its own.

*Stack* repeats the whole decoder, as G_stack does, the best of the operators compared in arXiv 2405.15319. *Interleave* puts the
copies of a layer behind it, as LLaMA Pro does (arXiv 2401.02415, sec. 3.2). A copied layer either keeps its weights, as in
G_stack, and the logits change; or it is an identity, as in LLaMA Pro: what it adds to the hidden channels is multiplied by zeros,
which training moves, and the logits stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from limbeck.errors import BadShape
from limbeck.models.anatomy import Anatomy, Kind, resized
from limbeck.models.build import build
from limbeck.models.language_model import LanguageModel

STACK, INTERLEAVE = "stack", "interleave"
COPIES, IDENTITY = "copies", "identity"
PUBLISHED = {STACK: COPIES, INTERLEAVE: IDENTITY}  # what a new layer is unless that is said


def order(op: str, layers: int, wanted: int) -> list[int]:
    """The old layer of which each of ``wanted`` layers is a copy. Raises BadShape for a stack that is no multiple."""
    if op == INTERLEAVE:
        return [layer * layers // wanted for layer in range(wanted)]
    if wanted % layers:
        more = -(-wanted // layers) * layers
        raise BadShape(
            f"layers={wanted} is no multiple of the model's {layers}, and stack repeats all of them; give layers={more}, or "
            "--op interleave, which repeats some"
        )
    return [layer % layers for layer in range(wanted)]


@torch.no_grad()
def deepen(model: LanguageModel, layers: Sequence[int], *, identity: bool) -> PreTrainedModel:
    """A decoder whose layers are copies of these of the model, the first of each as it is.

    The others are ``identity`` layers or plain copies. The model is not changed.
    """
    anatomy = Anatomy.of(model.config)
    config = resized(model.config, layers=layers, sizes=replace(anatomy.sizes, layers=len(layers)))
    with torch.random.fork_rng(devices=[]):  # building makes random weights, all of which are overwritten below
        deep = build(config, dtype=model.model.dtype).to(model.device)
    theirs, prefix = dict(model.model.named_parameters()), f"{anatomy.kind.layers}."
    silent = writers(anatomy) if identity else {}
    for name, parameter in deep.named_parameters():
        if not name.startswith(prefix):
            parameter.copy_(theirs[name])
            continue
        number, local = name.removeprefix(prefix).split(".", 1)
        again = layers[int(number)] in layers[: int(number)]
        if again and local in silent:
            parameter.fill_(silent[local])
        else:
            parameter.copy_(theirs[f"{prefix}{layers[int(number)]}.{local}"])
    return deep


def writers(anatomy: Anatomy) -> dict[str, float]:
    """The tensors of a layer that everything it adds to the hidden channels is multiplied by, and the value that adds nothing.

    They are the output maps of attention and FFN with their biases; where norms follow these, the weights of the norms, since a
    norm of zeros divides gradients by the root of its epsilon.
    """
    kind = anatomy.kind
    norms = [name for name in anatomy.inside if _follows(kind, name)]
    if norms:
        return dict.fromkeys(norms, -1.0 if kind.scaled_embedding else 0.0)  # Gemma's norms multiply by 1 + weight
    maps = tuple(f"{name}." for name in (kind.attention_out, kind.ffn_out))
    return {name: 0.0 for name in anatomy.inside if name.startswith(maps)}


def _follows(kind: Kind, name: str) -> bool:
    """Whether a tensor is of a norm over the hidden channels behind attention or FFN."""
    module, _, _ = name.rpartition(".")
    return kind.inside[name] == ("hidden",) and "norm" in module and module not in kind.readers
