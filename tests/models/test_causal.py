"""Attention of short documents by plain products equals the formula, with its gradient."""

import math
import random

import pytest
import torch

from limbeck.models.causal import _Layout, attend_short


def formula(q, k, v, lengths, scale):
    """softmax(scale * QK^T) V over earlier tokens, document by document and head by head."""
    out, start = [], 0
    for length in lengths:
        document = slice(start, start + length)
        heads = []
        for head in range(q.shape[1]):
            group = head * k.shape[1] // q.shape[1]
            scores = scale * q[document, head] @ k[document, group].T
            later = torch.ones(length, length).triu(1).bool()
            heads.append(scores.masked_fill(later, -math.inf).softmax(-1) @ v[document, group])
        out.append(torch.stack(heads, 1))
        start += length
    return torch.cat(out)


@pytest.mark.parametrize(
    "lengths",
    [[1], [4, 4, 4], [5, 1, 1, 9, 1, 5, 30, 8], [130, 2, 130, 300], [1, 33, 129]],
    ids=["one token", "all alike", "several sizes", "several blocks", "rising"],
)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_attention_and_gradients_are_those_of_the_formula(lengths, groups):
    torch.manual_seed(len(lengths))
    parts = [
        torch.randn(sum(lengths), heads, width, dtype=torch.float64)
        for heads, width in ((4, 6), (groups, 6), (groups, 3))
    ]
    results = []
    for attend in (attend_short, formula):
        own = [part.clone().requires_grad_() for part in parts]
        out = attend(*own, lengths, scale=0.3)
        (out * torch.arange(out.numel(), dtype=out.dtype).view_as(out).sin()).sum().backward()
        results.append([out.detach(), *(part.grad for part in own)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_what_is_added_to_a_document_changes_nothing():
    torch.manual_seed(0)
    q, k, v = (torch.randn(9, 2, 4, dtype=torch.float64) for _ in range(3))
    alone = attend_short(q[:5], k[:5], v[:5], [5], scale=1.0)
    poisoned = [torch.cat([part[:5], torch.full_like(part[5:], 1e9)]) for part in (q, k, v)]
    torch.testing.assert_close(attend_short(*poisoned, [5, 4], scale=1.0)[:5], alone)


def test_documents_run_in_a_few_sizes_in_batches_of_a_power_of_two():
    """A CPU compiles each shape of a product in bfloat16, so that rows of many documents should share them."""
    generator, shapes = random.Random(0), set()
    for _ in range(300):
        lengths = [generator.randint(1, 1024) for _ in range(generator.randint(2, 40))]
        groups = _Layout.of(tuple(lengths)).groups
        assert sum(count for count, _ in groups) == len(lengths)
        assert sum(count * size for count, size in groups) < sum(lengths) + 64 * len(lengths)
        shapes |= set(groups)
    assert {count for count, _ in shapes} <= {1, 2, 4, 8, 16, 32}
    assert {size for _, size in shapes} <= {1, 8, 16, *range(32, 257, 32), *range(320, 1025, 64)}


def test_gradients_reach_only_what_needs_them():
    q, k, v = (torch.randn(6, 2, 4, dtype=torch.float64) for _ in range(3))
    attend_short(q, k.requires_grad_(), v, [6], scale=1.0).sum().backward()
    assert [part.grad is not None for part in (q, k, v)] == [False, True, False]
