"""Layer-by-layer matching of new mixers to the attention that they replace, before the whole student is distilled.

Stage "mixers" matches the output of each new mixer to that of the attention in its place; stage "blocks" matches the output of
its whole layer (Bick et al., arXiv 2408.10189, sec. 3, without their first step on matrices; Zhang et al., arXiv 2410.10254, sec.
3.1). Every layer gets the hidden states of the model with attention, not the student's. So layers are trained independently, and
the graph of one is freed before the next is built.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.config import Stage
from limbeck.errors import NonFiniteLoss, NothingToLearn
from limbeck.models.decoder import LimbeckForCausalLM, LimbeckLayer
from limbeck.models.language_model import LanguageModel
from limbeck.models.mixers.documents import Documents
from limbeck.models.mixers.precision import exact
from limbeck.run.mesh import Mesh
from limbeck.run.micro import MicroBatch
from limbeck.run.step import LossTerm, Step
from limbeck.types import Batch

UNIT = "relative"  # the squared error as a share of the squared target


@dataclass(frozen=True)
class Match:
    """One optimiser step of a stage, used instead of `run.step.train_step`: matches ``layers`` of the student to ``reference``.

    The reference is the same student with attention in all layers. The loss is the mean squared error as a share of the mean
    squared target, over the layers and all real tokens; 0 is a perfect match. The target of a block is what it adds to its input.
    """

    reference: LimbeckForCausalLM
    layers: Sequence[int]
    stage: Stage

    def trained(self, student: LimbeckForCausalLM) -> None:
        """Makes the parameters of this stage trainable, and no others."""
        student.requires_grad_(False)
        for number in self.layers:
            layer = layer_of(student, number)
            (layer.mixer if self.stage == "mixers" else layer).requires_grad_(True)

    def __call__(
        self,
        student: LanguageModel,
        terms: Sequence[LossTerm],
        optimizer: torch.optim.Optimizer,
        *,
        mesh: Mesh,
        max_norm: float,
        micro: MicroBatch,
    ) -> Step:
        """Updates the student once, on the batches of the terms. Objectives and the limit on gradients take no part.

        AdamW is invariant to the scale of a layer's error; clipping the norm over all layers would undo that. ``micro``: how many
        rows are computed at once, fewer where memory runs out.

        Raises NothingToLearn if all tokens are padding, OutOfMemory if a single row is too much, NonFiniteLoss before the update
        if the loss or a gradient is not finite.
        """
        model = student.model
        assert isinstance(model, LimbeckForCausalLM)
        batches = [term.batch for term in terms]
        real = mesh.sum(float(sum((batch.document >= 0).sum() for batch in batches)))
        if real == 0:
            raise NothingToLearn(
                "expected tokens to match in every step, got a step with padding only: give more text with --data"
            )

        def clear() -> None:
            optimizer.zero_grad(set_to_none=True)

        def gradients(parts: list[LossTerm]) -> tuple[Tensor, Tensor]:
            """Adds the gradients of all parts; gives the summed errors of each layer, and the sizes of its targets."""
            wrong, wanted = torch.zeros(2, len(self.layers), dtype=torch.float64)
            for part in parts:
                for place, (error, size) in enumerate(self._errors(model, part.batch)):
                    with exact(error):  # autocast is for the forward pass
                        (error.sum() / real).backward()
                    wrong[place] += float(error.detach().sum())
                    wanted[place] += float(size.sum())
            return wrong, wanted

        clear()
        wrong, wanted = micro.fitted(terms, gradients, clear)
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        mesh.sum_gradients(trained)
        shares = [mesh.sum(float(a)) / max(mesh.sum(float(b)), 1e-30) for a, b in zip(wrong, wanted, strict=True)]
        loss = sum(shares) / len(shares)
        norm = float(mesh.clip([p.grad for p in trained if p.grad is not None], math.inf))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            clear()
            raise NonFiniteLoss(f"loss {loss} {UNIT}, gradient norm {norm}")
        optimizer.step()
        return Step(real, torch.tensor([loss, norm], dtype=torch.float64), UNIT)

    def _errors(
        self, student: LimbeckForCausalLM, batch: Batch
    ) -> Iterator[tuple[Float[Tensor, " n"], Float[Tensor, " n"]]]:
        """For each layer the mean squared error at each real token, and the mean square of the target there."""
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
    """Layer ``number`` of a model, counted from 0."""
    layer = model.model.layers[number]
    assert isinstance(layer, LimbeckLayer)
    return layer
