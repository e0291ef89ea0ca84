"""Attention inside documents in bfloat16: plain products (limbeck.models.causal) beside PyTorch's fused attention.

    python benchmarks/attention.py
    python benchmarks/attention.py --heads 9 --groups 3 --width 64 --pairs 9 --out attention.json
    python benchmarks/attention.py --model builtin:smollm2-135m --data stories.jsonl

The two take turns, forward and with gradients, on rows whose documents have these lengths. The CPU time of one thread is counted,
and ratios are taken pair by pair. Above 1 plain products are faster. The error is that of outputs and gradients beside float64.
With a model and a text, its nats per token in mixed precision are given for both, and in float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from formats import facts, in_turn
from torch import Tensor
from torch.nn import functional as F

from limbeck.models import inside
from limbeck.models.causal import attend_short
from limbeck.models.inside import attend_fused
from limbeck.models.load import load

ROWS = {
    "40 documents of 20": [20] * 40,
    "40 documents of 10 to 49": list(range(10, 50)),
    "16 documents of 64": [64] * 16,
    "100, 130, 120 and 162": [100, 130, 120, 162],
    "200, 312, 90 and 422": [200, 312, 90, 422],
    "2 documents of 512": [512] * 2,
    "1 document of 1024": [1024],
}


def main() -> None:
    """Prints the ratios, and writes all figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=9, help="query heads (default 9)")
    parser.add_argument("--groups", type=int, default=3, help="key heads (default 3)")
    parser.add_argument("--width", type=int, default=64, help="channels of a head (default 64)")
    parser.add_argument("--pairs", type=int, default=7, help="pairs of each (default 7)")
    parser.add_argument("--model", help="also the losses of this model")
    parser.add_argument("--data", type=Path, help="on the first documents of this file, each cut at 1,000 tokens")
    parser.add_argument("--documents", type=int, default=100, help="how many (default 100)")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    found = []
    for name, lengths in ROWS.items():
        found.append({"row": name, **measured(lengths, given.heads, given.groups, given.width, given.pairs)})
        print(shown(found[-1]), flush=True)
    result = {"heads": given.heads, "groups": given.groups, "width": given.width, "rows": found}
    if given.model:
        result["losses"] = losses(given.model, given.data, given.documents)
        print(", ".join(f"{name} {nats:.4f}" for name, nats in result["losses"]["nats_per_token"].items()))
    if given.out:
        given.out.write_text(json.dumps(facts() | result, indent=1) + "\n", encoding="utf-8")


def shown(found: dict[str, Any]) -> str:
    """A line with the ratios of a row."""
    ratios = {kind: sorted(a / b for a, b in zip(*found[kind].values(), strict=True)) for kind in ("forward", "both")}
    said = (f"{kind} {statistics.median(r):.2f} ({r[0]:.2f} to {r[-1]:.2f})" for kind, r in ratios.items())
    errors = ", ".join(f"{name} {error:.4f}" for name, error in found["errors"].items())
    return f"{found['row']}: {', '.join(said)}; errors {errors}"


def measured(lengths: list[int], heads: int, groups: int, width: int, pairs: int) -> dict[str, Any]:
    """CPU seconds of both, forward and with gradients, in turn; and their largest relative error."""
    torch.manual_seed(0)
    exact = [torch.randn(sum(lengths), many, width).bfloat16().double() for many in (heads, groups, groups)]
    grad = torch.randn(sum(lengths), heads, width)
    scale = width**-0.5
    kinds = {
        "fused": partial(attend_fused, lengths=lengths, scale=scale, dropout=0.0),
        "plain": partial(attend_short, lengths=lengths, scale=scale),
    }
    parts = [part.bfloat16().requires_grad_() for part in exact]
    right = gradients(kinds["fused"], [part.requires_grad_() for part in exact], grad)
    errors = {
        name: max(
            float((ours.double() - part).norm() / part.norm())
            for ours, part in zip(gradients(attend, parts, grad), right, strict=True)
        )
        for name, attend in kinds.items()
    }
    both = {name: partial(gradients, attend, parts, grad) for name, attend in kinds.items()}
    forward = {name: partial(torch.no_grad()(attend), *parts) for name, attend in kinds.items()}
    return {"forward": in_turn(forward, pairs), "both": in_turn(both, pairs), "errors": errors}


def gradients(attend: Callable[..., Tensor], parts: list[Tensor], grad: Tensor) -> list[Tensor]:
    """The output and the gradients of the parts."""
    out = attend(*parts)
    return [out.detach(), *torch.autograd.grad(out, parts, grad.to(out.dtype))]


def losses(name: str, data: Path, documents: int) -> dict[str, Any]:
    """Nats per token of a model on the first documents of a jsonl file, in float32 and with each attention in bfloat16."""
    model = load(name)
    texts = [json.loads(line)["text"] for line in data.read_text(encoding="utf-8").splitlines()[:documents]]
    rows = [torch.tensor([model.tokenizer(text)["input_ids"][:1000]]) for text in texts]
    nats: dict[str, float] = {}
    for kind, short in {"float32": inside.SHORT, "fused": 0, "plain": inside.SHORT}.items():
        inside.SHORT = short
        nats[kind] = 0.0
        for tokens in rows:
            position = torch.arange(tokens.shape[1])[None]
            mixed = torch.autocast("cpu", torch.bfloat16, enabled=kind != "float32")
            with torch.no_grad(), inside.packed(position), mixed:
                logits = model.model(input_ids=tokens, position_ids=position, use_cache=False).logits
            nats[kind] += float(F.cross_entropy(logits[0, :-1].float(), tokens[0, 1:], reduction="sum"))
    count = sum(tokens.shape[1] - 1 for tokens in rows)
    nats = {kind: total / count for kind, total in nats.items()}
    return {"model": name, "documents": len(rows), "tokens": count, "nats_per_token": nats}


if __name__ == "__main__":
    main()
