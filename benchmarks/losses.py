"""Loss and gradients from hidden states to the head's weight: limbeck's objectives, the bare products, and the peers.

    python benchmarks/losses.py                                               # this processor, one thread
    python benchmarks/losses.py --device cuda --dtype bfloat16 --tokens 8192 --vocab 128256 --student 4096 --teacher 4096

Every contender gets the hidden states and heads of a student and a teacher, and leaves the gradients of the student's two.
On a processor the CPU time of this process is counted, on a GPU the time between two events; contenders take turns within
each repeat, so that noise of the machine hits all alike. Peers that are not installed are left out, and named.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from circumstances import made_by
from torch import Tensor
from torch.nn import functional

import limbeck  # noqa: F401  (sets what torch must see before it is imported)
from limbeck.objectives import fused, fused_backward, parse
from limbeck.objectives.fused import release
from limbeck.objectives.parse import OURS
from limbeck.types import Batch, Head, Outputs

CHUNK = 256  # positions of one bare product


@dataclass
class Inputs:
    """What every contender starts from. Logits have a spread of 2 (student) and 3 (teacher)."""

    hidden: Tensor
    weight: Tensor
    teacher_hidden: Tensor
    teacher_weight: Tensor
    targets: Tensor

    @staticmethod
    def make(arguments: argparse.Namespace) -> Inputs:
        """The same for the same arguments."""
        generator = torch.Generator().manual_seed(0)

        def random(rows: int, width: int, spread: float) -> Tensor:
            values = torch.randn(rows, width, generator=generator) * spread
            return values.to(arguments.device, getattr(torch, arguments.dtype))

        return Inputs(
            random(arguments.tokens, arguments.student, 1.0).requires_grad_(),
            random(arguments.vocab, arguments.student, 2 / arguments.student**0.5).requires_grad_(),
            random(arguments.tokens, arguments.teacher, 1.0),
            random(arguments.vocab, arguments.teacher, 3 / arguments.teacher**0.5),
            torch.randint(0, arguments.vocab, (arguments.tokens,), generator=generator).to(arguments.device),
        )


Contender = Callable[[Inputs], Tensor]


@dataclass
class Measured:
    """Seconds of each repeat, peak memory above the inputs, and how far the gradient is from the naive loss's."""

    seconds: list[float] = field(default_factory=list)
    peak_mib: float = 0.0
    loss: float = float("nan")
    gradient_error: float | None = None


def products(inputs: Inputs) -> Tensor:
    """The four matrix products that no dense loss can avoid, in two reused buffers."""
    with torch.no_grad():
        n = len(inputs.hidden)
        student = inputs.hidden.new_empty(min(CHUNK, n), len(inputs.weight))
        teacher = torch.empty_like(student)
        hidden_gradient, weight_gradient = torch.empty_like(inputs.hidden), torch.zeros_like(inputs.weight)
        for start in range(0, n, CHUNK):
            part = slice(start, start + CHUNK)
            hidden = inputs.hidden[part]
            torch.mm(hidden, inputs.weight.t(), out=student[: len(hidden)])
            torch.mm(inputs.teacher_hidden[part], inputs.teacher_weight.t(), out=teacher[: len(hidden)])
            torch.mm(student[: len(hidden)], inputs.weight, out=hidden_gradient[part])
            weight_gradient.addmm_(student[: len(hidden)].t(), hidden)
    return torch.zeros(())


def naive(inputs: Inputs) -> Tensor:
    """Forward KL over all logits at once."""
    student = (inputs.hidden @ inputs.weight.t()).float()
    with torch.no_grad():
        teacher = (inputs.teacher_hidden @ inputs.teacher_weight.t()).float()
    loss = functional.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="batchmean")
    loss.backward()
    return loss.detach()


def ours(text: str) -> Contender:
    """An objective of limbeck."""
    objective = parse(text)

    def run(inputs: Inputs) -> Tensor:
        n = len(inputs.hidden)
        student = Outputs(inputs.hidden[None], Head(inputs.weight), len(inputs.weight))
        teacher = Outputs(inputs.teacher_hidden[None], Head(inputs.teacher_weight), len(inputs.weight))
        nothing = torch.zeros_like(inputs.targets)[None]
        weight = torch.ones(1, n, device=inputs.hidden.device)
        row = torch.zeros(1, dtype=torch.int64, device=inputs.hidden.device)
        batch = Batch(nothing, inputs.targets[None], weight, nothing, nothing, row)
        signal = teacher if objective.needs_teacher else None
        return fused_backward(objective.to(inputs.hidden.device), student, signal, batch, scale=1 / n)

    return run


def compiled() -> Contender:
    """ForwardKL of limbeck, whose work on a block of logits is compiled by torch.compile into loops of its own."""

    @torch.compile(dynamic=True)
    def block(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        log_p, log_q = teacher.log_softmax(-1), student.log_softmax(-1)
        p = log_p.exp()
        return (p * (log_p - log_q)).sum(-1), log_q.exp() - p

    run, eager = ours("ForwardKL"), fused.value_and_gradient

    def run_compiled(inputs: Inputs) -> Tensor:
        vars(fused)["value_and_gradient"] = lambda objective, logits, signal, chunk: block(logits, signal.logits)
        try:
            return run(inputs)
        finally:
            vars(fused)["value_and_gradient"] = eager

    return run_compiled


def liger(beta: float) -> Contender:
    """Liger's fused linear JSD; beta = 0 is forward KL. Compiled on a GPU, as it is by default; eager here."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    def run(inputs: Inputs) -> Tensor:
        loss_of = LigerFusedLinearJSDLoss(
            weight_hard_loss=0.0, weight_soft_loss=1.0, beta=beta, compiled=inputs.hidden.is_cuda
        )
        loss = loss_of(inputs.hidden, inputs.weight, inputs.teacher_hidden, inputs.teacher_weight, inputs.targets)
        loss.backward()
        return loss.detach()

    return run


def trl(beta: float) -> Contender:
    """The loss of TRL's GKD trainer on full logits; beta = 0 is forward KL."""
    from trl.experimental.gkd import GKDTrainer

    def run(inputs: Inputs) -> Tensor:
        student = inputs.hidden @ inputs.weight.t()
        with torch.no_grad():
            teacher = inputs.teacher_hidden @ inputs.teacher_weight.t()
        loss = GKDTrainer.generalized_jsd_loss(student[None], teacher[None], labels=inputs.targets[None], beta=beta)
        loss.backward()
        return loss.detach()

    return run


def trl_chunked(beta: float) -> Contender:
    """TRL's chunked divergence from hidden states; beta = 0 is forward KL."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    def run(inputs: Inputs) -> Tensor:
        values = ChunkedDivergenceFunction.apply(
            inputs.hidden, inputs.weight, None, inputs.teacher_hidden, inputs.teacher_weight, None, beta
        )
        loss = values[0].mean()
        loss.backward()
        return loss.detach()

    return run


PEERS = {
    "Liger fused, forward KL": lambda: liger(0.0),
    "Liger fused, JSD 0.5": lambda: liger(0.5),
    "TRL, forward KL": lambda: trl(0.0),
    "TRL, JSD 0.5": lambda: trl(0.5),
    "TRL chunked, forward KL": lambda: trl_chunked(0.0),
    "compiled blocks, ForwardKL": compiled,
}


def contenders(wanted: str) -> tuple[dict[str, Contender], list[str]]:
    """Those whose name holds one of the wanted words (all for none), and the peers that cannot be had here."""
    words = [word.strip().lower() for word in wanted.split(";") if word.strip()]
    found: dict[str, Contender] = {"matrix products alone": products, "naive forward KL": naive}
    missing = []
    for text in [*OURS, "0.5*CrossEntropy + 0.5*ForwardKL"]:
        found[f"limbeck {text}"] = ours(text)
    for name, make in PEERS.items():
        if words and not any(word in name.lower() for word in words):
            continue
        try:
            found[name] = make()
        except (ImportError, RuntimeError) as error:
            missing.append(f"{name}: {type(error).__name__}: {error}")
    keep = {name for name in found if not words or any(word in name.lower() for word in words)}
    return {name: run for name, run in found.items() if name in keep | {"matrix products alone"}}, missing


class Clock:
    """Seconds and peak memory of one call, on a processor or a GPU."""

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")
        self.seconds = self.peak_mib = 0.0

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Sets ``seconds`` and ``peak_mib`` to those of the block."""
        gc.collect()
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            torch.cuda.synchronize()
            self.seconds = start.elapsed_time(end) / 1000
            self.peak_mib = (torch.cuda.max_memory_allocated() - before) / 2**20
        else:
            ctypes.CDLL(None).malloc_trim(0)  # freed memory still held would hide what the call takes
            Path("/proc/self/clear_refs").write_text("5")
            resident, begun = _status_mib("VmRSS"), time.process_time()
            yield
            self.seconds = time.process_time() - begun
            self.peak_mib = _status_mib("VmHWM") - resident


def _status_mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key + ":"))


def run_all(chosen: dict[str, Contender], inputs: Inputs, *, device: str, repeats: int) -> dict[str, Measured]:
    """Every contender in turn: once to warm up, ``repeats`` times for the clock, once for the memory.

    In that last round nothing is kept from earlier calls, so buffers that a contender uses again count too.
    """
    clock, results = Clock(device), {name: Measured() for name in chosen}
    exact: tuple[Tensor, Tensor] | None = None
    for repeat in range(repeats + 2):
        for name, run in chosen.items():
            inputs.hidden.grad = inputs.weight.grad = None
            if repeat == repeats + 1:
                release()
            with clock.measure():
                loss = run(inputs)
            result = results[name]
            result.loss = float(loss)
            if repeat == repeats + 1:
                result.peak_mib = clock.peak_mib
            elif repeat:
                result.seconds.append(clock.seconds)
            elif inputs.hidden.grad is not None and inputs.weight.grad is not None:
                if name.startswith("naive"):
                    exact = inputs.hidden.grad.clone(), inputs.weight.grad.clone()
                if exact and any(word in name for word in ("forward KL", "limbeck ForwardKL")):
                    pairs = zip((inputs.hidden.grad, inputs.weight.grad), exact, strict=True)
                    result.gradient_error = max(float((got - e).norm() / e.norm()) for got, e in pairs)
        print(f"round {repeat} of {repeats + 1}", file=sys.stderr, flush=True)
    return results


def table(results: dict[str, Measured], *, tokens: int, vocab: int) -> str:
    """As Markdown. Memory is also given in matrices of (tokens x vocabulary) in float32."""
    base = statistics.median(results["matrix products alone"].seconds)
    unit = tokens * vocab * 4 / 2**20
    lines = [
        "| contender | seconds | min..max | x products | peak MiB | in (T, V) | gradient error |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        middle, low, high = statistics.median(result.seconds), min(result.seconds), max(result.seconds)
        error = "" if result.gradient_error is None else f"{result.gradient_error:.0e}"
        lines.append(
            f"| {name} | {middle:.3f} | {low:.3f}..{high:.3f} | {middle / base:.2f} "
            f"| {result.peak_mib:.0f} | {result.peak_mib / unit:.2f} | {error} |"
        )
    return "\n".join(lines)


def circumstances(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the numbers depend on."""
    found = made_by("transformers", "liger-kernel", "trl")
    hardware = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else found["processor"]
    return found | {"hardware": hardware, "threads": torch.get_num_threads()}


def main() -> None:
    """Reads the command line, measures, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description="Loss kernels: time and memory from hidden states to gradients.")
    parser.add_argument("--tokens", type=int, default=2048, help="positions, T")
    parser.add_argument("--vocab", type=int, default=32_000, help="tokens of the vocabulary, V")
    parser.add_argument("--student", type=int, default=256, help="hidden width of the student")
    parser.add_argument("--teacher", type=int, default=512, help="hidden width of the teacher")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--dtype", default="float32", choices=["float32", "bfloat16"], help="of hidden states and heads"
    )
    parser.add_argument("--repeats", type=int, default=5, help="rounds after the one that warms up")
    parser.add_argument("--contenders", default="", help="parts of names, separated by semicolons; all without")
    parser.add_argument("--json", type=Path, help="write the results there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chosen, missing = contenders(arguments.contenders)
    results = run_all(chosen, Inputs.make(arguments), device=arguments.device, repeats=arguments.repeats)
    facts = circumstances(arguments)
    print(
        f"{facts['hardware']}, {arguments.dtype}, T={arguments.tokens}, V={arguments.vocab}, versions {facts['versions']}\n"
    )
    print(table(results, tokens=arguments.tokens, vocab=arguments.vocab))
    for line in missing:
        print(f"left out: {line}")
    if arguments.json:
        rows = [{"contender": name} | vars(result) for name, result in results.items()]
        setting = {name: value for name, value in vars(arguments).items() if name != "json"}
        arguments.json.write_text(json.dumps(facts | {"setting": setting, "results": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
