"""Checks every objective against its formula on the user's machine.

Each objective runs through the fused head, in float32 and bfloat16, with different chunk sizes, masks, padded vocabularies and
micro-batches. Its loss and gradients are compared with autograd in float64 over all logits at once. A faulty processor, driver or
build of torch shows here before it affects a student.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from limbeck.objectives import Objective, fused_backward, parse
from limbeck.objectives.fused import Sizes
from limbeck.objectives.named import OBJECTIVES
from limbeck.objectives.parse import OURS
from limbeck.types import Batch, Head, Outputs, Signal

# Largest allowed relative errors: of the loss, and of a gradient by norms. In bfloat16 logits are rounded by up to a 256th.
TOLERANCE = {torch.float32: (1e-5, 1e-4), torch.bfloat16: (0.02, 0.1)}

# The slope of sorted probabilities jumps where a teacher's and a student's cross, and rounded logits carry some across.
_JUMPS = {"ULD": 3}

_ROWS, _LENGTH, _WIDTH, _VOCAB, _SCALE = 3, 17, 16, 97, 0.1
OF_TOKENS = tuple(name for name in OURS if not OBJECTIVES[name].compares_pairs)  # objectives of single positions
_SETTINGS = ("FKL(temperature=2)", "CTKD(ramp=0)", "0.5*CE + 0.5*FKL", "0.3*JSD + 0.7*TAID")


@dataclass(frozen=True)
class Row:
    """The largest errors of one objective on one device in one precision, over ``cases`` cases."""

    objective: str
    device: str
    dtype: str
    cases: int
    loss_error: float
    gradient_error: float
    passed: bool


def main() -> int:
    """Runs the selftest on the CPU and on CUDA if available, and prints its table. Gives the exit status: 0 if all passed."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    rows = [row for device in devices for row in run_selftest(device=device)]
    Console().print(_table(rows))
    failed = sum(not row.passed for row in rows)
    print(
        f"{len(rows) - failed} of {len(rows)} passed, {sum(row.cases for row in rows)} cases, torch {torch.__version__}"
    )
    return 1 if failed else 0


def run_selftest(*, device: str = "cpu") -> list[Row]:
    """Runs the selftest on a device; gives one row for every objective in float32 and in bfloat16."""
    names = [*OF_TOKENS, *_SETTINGS]
    with torch.random.fork_rng(devices=[]):
        return [_check(name, device, dtype) for dtype in TOLERANCE for name in names]


def _check(name: str, device: str, dtype: torch.dtype) -> Row:
    """The largest errors of one objective over all cases."""
    most_loss, most_gradient = TOLERANCE[dtype]
    loss_errors, gradient_errors = [], []
    for case in _cases(device, dtype):
        loss, gradients = _fused(parse(name).to(device), case)
        expected, slopes = _dense(parse(name).to(device), case)
        loss_errors.append(abs(float(loss - expected)) / abs(float(expected)))
        for got, slope in zip(gradients, slopes, strict=True):
            gradient_errors.append(float((got - slope).norm() / (slope.norm() + 1e-12)))
    return Row(
        name,
        device,
        str(dtype).removeprefix("torch."),
        cases=len(loss_errors),
        loss_error=_worst(loss_errors),
        gradient_error=_worst(gradient_errors),
        passed=_worst(loss_errors) <= most_loss and _worst(gradient_errors) <= most_gradient * _JUMPS.get(name, 1),
    )


def _worst(errors: list[float]) -> float:
    """The largest error; NaN if one is NaN, which Python's max may miss."""
    return float(torch.tensor(errors, dtype=torch.float64).max())


@dataclass(frozen=True)
class _Case:
    """One student, teacher and batch, with chunk sizes and micro-batches."""

    student: Outputs
    teacher: Outputs
    batch: Batch
    sizes: Sizes
    micro_batches: int


def _cases(device: str, dtype: torch.dtype) -> Iterator[_Case]:
    """Chunks of 5 positions or all, nothing masked or about a third, heads padded or not, one micro-batch or three."""
    for chunk, masked, padded, micro_batches in product((5, 1000), (False, True), (0, 7), (1, _ROWS)):
        generator = torch.Generator().manual_seed(_VOCAB + padded)

        def random(*shape: int, generator: torch.Generator = generator) -> Tensor:
            return torch.randn(*shape, generator=generator).to(device, dtype)

        heads = [Head(random(_VOCAB + rows, _WIDTH) * (2 / _WIDTH**0.5)) for rows in (padded, padded // 2)]
        student, teacher = (Outputs(random(_ROWS, _LENGTH, _WIDTH), head, _VOCAB) for head in heads)
        weight = torch.rand(_ROWS, _LENGTH, generator=generator) + 0.1
        if masked:
            weight *= torch.rand(_ROWS, _LENGTH, generator=generator) > 0.3
        targets = torch.randint(0, _VOCAB, (_ROWS, _LENGTH), generator=generator)
        nothing = torch.zeros_like(targets)
        batch = Batch(nothing, targets, weight, nothing, nothing, nothing[:, 0]).to(device)
        yield _Case(student, teacher, batch, Sizes(chunk, block=2 if chunk == 5 else chunk), micro_batches)


def _fused(objective: Objective, case: _Case) -> tuple[Tensor, list[Tensor]]:
    """Loss, and gradients of hidden states, head and the objective's parameters, by the fused head."""
    hidden, weight = (t.clone().requires_grad_() for t in (case.student.hidden, case.student.head.weight))
    loss = torch.zeros((), dtype=torch.float64, device=hidden.device)
    for rows in torch.arange(_ROWS).chunk(case.micro_batches):
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        student = Outputs(hidden[part], Head(weight), _VOCAB)
        teacher = Outputs(case.teacher.hidden[part], case.teacher.head, _VOCAB)
        batch = case.batch.rows(part)
        loss += fused_backward(objective, student, teacher, batch, scale=_SCALE, sizes=case.sizes)
    learned = [hidden, weight, *objective.parameters()]
    return loss, [t.grad.double() for t in learned if t.grad is not None]


def _dense(objective: Objective, case: _Case) -> tuple[Tensor, list[Tensor]]:
    """The same by autograd, in float64, over all logits at once."""
    objective = objective.double()
    hidden, weight = (t.double().requires_grad_() for t in (case.student.hidden, case.student.head.weight))
    logits = Outputs(hidden, Head(weight), _VOCAB).logits()
    teacher_logits = Outputs(case.teacher.hidden.double(), Head(case.teacher.head.weight.double()), _VOCAB).logits()
    nats = objective(logits, Signal(teacher_logits), case.batch.flat())
    loss = _SCALE * (nats * case.batch.weight.flatten().double()).sum()
    return loss.detach(), list(torch.autograd.grad(loss, [hidden, weight, *objective.parameters()]))


def _table(rows: list[Row]) -> Table:
    """The results as a table for the terminal."""
    allowed = "; ".join(f"{str(dtype)[6:]} {loss:g} and {gradient:g}" for dtype, (loss, gradient) in TOLERANCE.items())
    jumps = "".join(f"; {times} times that in the gradient of {name}, which jumps" for name, times in _JUMPS.items())
    table = Table(
        title="every objective against its formula in float64: largest relative errors",
        caption=f"allowed in loss and gradient: {allowed}{jumps}",
        box=box.SIMPLE_HEAD,
    )
    for column in ("objective", "device", "precision"):
        table.add_column(column, overflow="fold")
    for column in ("cases", "loss", "gradient", ""):
        table.add_column(column, justify="right")
    for row in rows:
        verdict = "[green]ok[/]" if row.passed else "[bold red]WRONG[/]"
        errors = f"{row.loss_error:.1e}", f"{row.gradient_error:.1e}"
        table.add_row(row.objective, row.device, row.dtype, str(row.cases), *errors, verdict)
    return table
