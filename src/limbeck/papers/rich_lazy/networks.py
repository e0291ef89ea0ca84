"""A recurrent network trained from starts of equal size and different rank, and how far training moved it.

The network is h_t = W relu(h_{t-1}) + V x_t with logits U relu(h_T) (arXiv 2310.08513, sec. 3, with steps as long as the time
constant). W is a Gaussian matrix cut to rank r by its singular values, and scaled back to its size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from limbeck.probes.change import stable_rank

CHOICE, MATCH = "two-alternative choice", "delayed match"
STEPS_OF_TASK, NOISE = 8, 0.5
GAIN, RATE, MOMENTUM, BATCH = 1.25, 3e-3, 0.9, 32
SMOOTH = 0.98  # of the running mean of the loss
_PROBED = 64  # trials on which kernels are compared


@dataclass(frozen=True)
class NetworkCell:
    """A training of ``units`` from a start of ``rank``. It ends at the loss ``level``, or after ``most`` steps.

    Change is read there, and after ``matched`` steps.
    """

    name: str
    task: str
    rank: int
    units: int
    level: float
    matched: int
    most: int
    seed: int


Weights = dict[str, Tensor]


def train_network(cell: NetworkCell, device: str) -> dict[str, Any]:
    """Change of a network at equal loss and after equal steps, the steps, and the stable rank of its start.

    ``failed`` is true if the loss was never reached. Computed on the CPU, whatever the device: it is small.
    """
    generator = torch.Generator().manual_seed(cell.seed)
    weights = start_of(cell, generator)
    before = {name: weight.clone() for name, weight in weights.items()}
    probe = trials(cell.task, _PROBED, torch.Generator().manual_seed(10_000 + cell.seed))[0]
    velocity = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    mean, matched, step = float("nan"), None, 0
    while step < cell.most and not mean <= cell.level:
        step += 1
        inputs, answers = trials(cell.task, BATCH, generator)
        loss, gradients = _gradients(weights, inputs, answers)
        for name, gradient in gradients.items():
            velocity[name].mul_(MOMENTUM).add_(gradient)
            weights[name] = weights[name] - RATE * velocity[name]
        mean = loss if step == 1 else SMOOTH * mean + (1 - SMOOTH) * loss
        if step == cell.matched:
            matched = change(before, weights, probe)
    return {
        "failed": not mean <= cell.level,
        "steps": step,
        "stable_rank": stable_rank(before["recurrent"]),
        "at_loss": change(before, weights, probe),
        "at_steps": matched,
    }


def start_of(cell: NetworkCell, generator: torch.Generator) -> Weights:
    """The weights before training. Starts of one seed differ in the recurrent matrix alone."""
    n, channels = cell.units, 2
    full = GAIN * torch.randn(n, n, generator=generator) / n**0.5
    weights = {
        "recurrent": full,
        "input": torch.randn(n, channels, generator=generator) / channels**0.5,
        "output": torch.randn(2, n, generator=generator) / n**0.5,
    }
    left, values, right = torch.linalg.svd(full)
    cut = (left[:, : cell.rank] * values[: cell.rank]) @ right[: cell.rank]
    return weights | {"recurrent": cut * (full.norm() / cut.norm())}


def trials(task: str, count: int, generator: torch.Generator) -> tuple[Float[Tensor, "B T 2"], Int[Tensor, " B"]]:
    """Trials of a task: inputs and the right answers, 0 or 1.

    In *two-alternative choice* one of two noisy inputs is larger on average. In *delayed match* an input is shown for two steps,
    and one for the last two, either the same or the other.
    """
    noise = NOISE * torch.randn(count, STEPS_OF_TASK, 2, generator=generator)
    first, answers = (torch.randint(2, (count,), generator=generator) for _ in range(2))
    if task == CHOICE:
        return noise + F.one_hot(answers, 2)[:, None].float(), answers
    inputs = noise
    inputs[:, :2] += F.one_hot(first, 2)[:, None].float() * 2
    inputs[:, -2:] += F.one_hot((first + answers) % 2, 2)[:, None].float() * 2
    return inputs, answers


def change(before: Weights, after: Weights, inputs: Float[Tensor, "B T 2"]) -> dict[str, float]:
    """‖W - W0‖ (Frobenius) of the recurrent matrix, and the alignment of representations and of its tangent kernel."""
    moved = float((after["recurrent"] - before["recurrent"]).norm())
    grams: list[Callable[[Weights], Tensor]] = [lambda w: states(w, inputs), lambda w: _jacobian(w, inputs)]
    found = [_cosine(rows(before), rows(after)) for rows in grams]
    return {"moved": moved, "representation": found[0], "tangent": found[1]}


def states(weights: Weights, inputs: Float[Tensor, "B T 2"]) -> Float[Tensor, "B n"]:
    """The activity at the time of the decision."""
    hidden = torch.zeros(len(inputs), len(weights["recurrent"]))
    for step in range(inputs.shape[1]):
        hidden = hidden.relu() @ weights["recurrent"].T + inputs[:, step] @ weights["input"].T
    return hidden.relu()


def _logits(weights: Weights, inputs: Float[Tensor, "B T 2"]) -> Float[Tensor, "B 2"]:
    return states(weights, inputs) @ weights["output"].T


def _gradients(weights: Weights, inputs: Tensor, answers: Tensor) -> tuple[float, Weights]:
    leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    loss = F.cross_entropy(_logits(leaves, inputs), answers)
    found = torch.autograd.grad(loss, list(leaves.values()))
    return float(loss.detach()), dict(zip(leaves, found, strict=True))


def _jacobian(weights: Weights, inputs: Float[Tensor, "B T 2"]) -> Float[Tensor, "B nn"]:
    """The gradient of the difference of both logits with respect to the recurrent matrix, a row for each trial."""

    def margin(recurrent: Tensor, one: Tensor) -> Tensor:
        logits = _logits(weights | {"recurrent": recurrent}, one[None])[0]
        return logits[1] - logits[0]

    gradient = torch.func.vmap(torch.func.grad(margin), in_dims=(None, 0))
    return gradient(weights["recurrent"], inputs).flatten(1)


def _cosine(a: Float[Tensor, "B n"], b: Float[Tensor, "B m"]) -> float:
    """The cosine of the Gram matrices of two sets of rows."""
    first, second = a.double() @ a.double().T, b.double() @ b.double().T
    return float((first * second).sum() / (first.norm() * second.norm()).clamp_min(1e-300))
