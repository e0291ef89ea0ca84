"""The arms of factors: how each fits the linear maps of a teacher's layers to the inputs of a calibration sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.models.language_model import LanguageModel
from limbeck.models.observing import hooked
from limbeck.students.factor import Budget, Factors, Moments, factored, linears
from limbeck.types import Batch

SVD, ASVD, WHITENED, APART, TRIMMED, ABSOLUTE = "svd", "asvd", "whitened", "whitened, apart", "trimmed", "absolute"
ARMS = (SVD, ASVD, WHITENED, APART, TRIMMED, ABSOLUTE)
SPARSE = 0.02  # share of entries kept apart by APART
TRIM = 0.05  # share of the tokens with the largest inputs that TRIMMED leaves out
TOKENS, STEPS = 512, 200  # of the fit of absolute errors
RATE, DECAY = 0.02, 0.98  # of its steps, as a share of a factor's norm


@torch.no_grad()
def factors_of(
    arm: str, teacher: LanguageModel, batches: Sequence[Batch], keep: float, seed: int
) -> Iterator[tuple[str, Factors]]:
    """The factors of each linear map by name. Batches are the calibration sample; ``keep`` is the share of parameters."""
    maps = linears(teacher)
    budget = Budget(keep, SPARSE if arm == APART else 0.0)
    inputs = inputs_of(teacher, batches, maps)
    for name, part in maps.items():
        rank, apart = budget.of(part.out_features, part.in_features, name)
        yield name, _fitted(arm, part.weight, inputs[name], rank, apart, seed)


def _fitted(arm: str, weight: Tensor, x: Float[Tensor, "N n"], rank: int, apart: int, seed: int) -> Factors:
    if arm == TRIMMED:
        sizes = x.norm(dim=1)
        x = x[sizes <= sizes.quantile(1 - TRIM)]
    method = arm if arm in (SVD, ASVD) else WHITENED
    found = factored(weight, moments_of(x), rank, apart, method=method)
    return absolute_factors(weight, x, found, seed) if arm == ABSOLUTE else found


def moments_of(x: Float[Tensor, "N n"]) -> Moments:
    """The moments of N inputs."""
    wide = x.double()
    return Moments(wide.T @ wide / len(x), wide.abs().mean(0))


def absolute_factors(weight: Float[Tensor, "m n"], x: Float[Tensor, "N n"], start: Factors, seed: int) -> Factors:
    """Factors that minimise the mean of |W x - left right x|_1, by sub-gradient steps that shrink geometrically.

    They start from those of the squares, since from a small random start the steps do not arrive for inputs whose sizes differ
    by orders of magnitude. Of all steps the best is taken.
    """
    generator = torch.Generator().manual_seed(seed)
    x = x[torch.randperm(len(x), generator=generator)[:TOKENS].to(x.device)]
    wanted = x @ weight.T
    left, right = start.left.clone(), start.right.clone()
    best = (float("inf"), left, right)
    for step in range(STEPS + 1):
        inner = x @ right.T
        rest = inner @ left.T - wanted
        error = float(rest.abs().mean())
        if error < best[0]:
            best = (error, left, right)
        sign = rest.sign()
        pulls = (sign.T @ inner, left.T @ sign.T @ x)
        left, right = (_moved(part, pull, RATE * DECAY**step) for part, pull in zip((left, right), pulls, strict=True))
    return Factors(best[1], best[2], start.places, start.values)


def _moved(part: Tensor, pull: Tensor, share: float) -> Tensor:
    """A factor after a step against its sub-gradient, as long as this share of the factor."""
    return part - share * part.norm() / pull.norm().clamp_min(1e-12) * pull


def inputs_of(
    model: LanguageModel, batches: Sequence[Batch], maps: Mapping[str, nn.Linear]
) -> dict[str, Float[Tensor, "N n"]]:
    """What each linear map reads at all positions of weight > 0. Maps that read the same tensor share it."""
    seen: dict[str, list[Tensor]] = {name: [] for name in maps}
    model.model.eval()
    for batch in batches:
        mask = batch.weight.flatten() > 0
        with _read(maps) as read:
            model(batch)
        kept: dict[int, Tensor] = {}
        for name, tensor in read.items():
            seen[name].append(kept.setdefault(id(tensor), tensor.flatten(0, -2)[mask]))
    joined: dict[tuple[int, ...], Tensor] = {}
    return {name: _once(joined, parts) for name, parts in seen.items()}


def _once(joined: dict[tuple[int, ...], Tensor], parts: list[Tensor]) -> Tensor:
    key = tuple(map(id, parts))
    if key not in joined:
        joined[key] = torch.cat(parts)
    return joined[key]


@contextmanager
def _read(maps: Mapping[str, nn.Linear]) -> Iterator[dict[str, Tensor]]:
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs: found.update({name: inputs[0]})

    handles: list[Any] = [part.register_forward_pre_hook(keep(name)) for name, part in maps.items()]
    with hooked(handles):
        yield found
