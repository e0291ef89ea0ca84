"""Mixers taught to give what the attention they replace gives, layer by layer, before the whole student is distilled.

Stage "mixers": the output of each new mixer against that of the attention in its place; stage "blocks": that of its whole layer
(Bick et al., arXiv 2408.10189, sec. 3, without their first step on matrices; Zhang et al., arXiv 2410.10254, sec. 3.1). Every
layer reads the hidden states of the model with attention, not those of the student, so layers learn apart from each other, and
the graph of one is gone before the next is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.config import Stage
from limbeck.errors import NonFiniteLoss, NothingToLearn
from limbeck.models.decoder import LimbeckForCausalLM, LimbeckLayer
from limbeck.models.language_model import LanguageModel
from limbeck.models.mixers.documents import Documents
from limbeck.models.mixers.precision import exact
from limbeck.run.step import Step
from limbeck.run.world import World
from limbeck.types import Batch

UNIT = "relative"  # the squared error as a share of what is to be given, squared


@dataclass(frozen=True)
class Match:
    """One step of a stage, in the place of `run.step.train_step`: ``layers`` of the student against those of ``reference``.

    The reference is the same student with attention everywhere. What it gives is the loss as a share of what is to be given: of
    a block, of what it adds to its input. Mean over the layers and all real tokens; 0 is perfect.
    """

    reference: LimbeckForCausalLM
    layers: Sequence[int]
    stage: Stage

    def trained(self, student: LimbeckForCausalLM) -> None:
        """Lets the parameters of this stage learn, and no others."""
        student.requires_grad_(False)
        for number in self.layers:
            layer = layer_of(student, number)
            (layer.mixer if self.stage == "mixers" else layer).requires_grad_(True)

    def __call__(
        self,
        student: LanguageModel,
        teacher: Any,
        objective: Any,
        optimizer: torch.optim.Optimizer,
        batches: Sequence[Batch],
        *,
        world: World,
        max_norm: float,
    ) -> Step:
        """Updates the student once. Teacher, objective and the limit on gradients take no part.

        AdamW does not see how large a layer's error is; one limit on the gradients of all layers would bring it back in.
        """
        model = student.model
        assert isinstance(model, LimbeckForCausalLM)
        real = world.sum(float(sum((batch.document >= 0).sum() for batch in batches)))
        if real == 0:
            raise NothingToLearn(
                "all tokens of a step are padding, so there is nothing to match: give more text with --data"
            )
        optimizer.zero_grad(set_to_none=True)
        wrong, wanted = torch.zeros(2, len(self.layers), dtype=torch.float64)
        for batch in batches:
            for place, (error, size) in enumerate(self._errors(model, batch)):
                with exact(error):  # autocast is for the way forward
                    (error.sum() / real).backward()
                wrong[place] += float(error.detach().sum())
                wanted[place] += float(size.sum())
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        world.sum_gradients(trained)
        shares = [world.sum(float(a)) / max(world.sum(float(b)), 1e-30) for a, b in zip(wrong, wanted, strict=True)]
        loss = sum(shares) / len(shares)
        norm = float(torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None], foreach=True))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            optimizer.zero_grad(set_to_none=True)
            raise NonFiniteLoss(f"loss {loss} {UNIT}, gradient norm {norm}")
        optimizer.step()
        return Step(loss=loss, tokens=real, grad_norm=norm)

    def _errors(
        self, student: LimbeckForCausalLM, batch: Batch
    ) -> Iterator[tuple[Float[Tensor, "n"], Float[Tensor, "n"]]]:
        """For each layer the mean squared error at each real token, and the mean square of what is wanted there."""
        documents, real = Documents.of(batch.position, batch.tokens), batch.document >= 0
        with torch.no_grad():
            x = self.reference.model.embed_tokens(batch.tokens)
        for number in range(max(self.layers) + 1):
            layer = layer_of(self.reference, number)
            with torch.no_grad():
                normed = layer.mixer_norm(x)
                mixed, _ = layer.mixer(normed, documents)
                after = layer.after(x, mixed)
            if number in self.layers:
                ours = layer_of(student, number)
                if self.stage == "mixers":
                    found, target = ours.mixer(normed, documents)[0], mixed
                else:
                    found, target = ours(x, documents, None)[0] - x, after - x
                yield (found.float() - target.float()).square().mean(-1)[real], target.float().square().mean(-1)[real]
            x = after


def layer_of(model: LimbeckForCausalLM, number: int) -> LimbeckLayer:
    """A layer of a model."""
    layer = model.model.layers[number]
    assert isinstance(layer, LimbeckLayer)
    return layer
