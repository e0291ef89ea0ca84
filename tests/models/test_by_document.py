"""The GPU's ways of attention inside documents equal the CPU's: with windows, shared keys and sinks."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.nn.attention.flex_attention import flex_attention

from limbeck.host import on_host, part_of, sent
from limbeck.models import by_document, inside
from limbeck.models.by_document import (
    Layout,
    attend_by_document,
    attend_compiled,
    attend_flash,
    attend_flex,
    attend_masked,
)

LENGTHS = (70, 3, 55, 1, 127)  # two rows of 128
HEADS, GROUPS, WIDTH = 4, 2, 16
KINDS = [(window, sinks) for window in (None, 20) for sinks in (False, True)]


def made(device="cpu", dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, heads, 128, WIDTH, generator=generator) for heads in (HEADS, GROUPS, GROUPS)]
    sinks = torch.randn(HEADS, generator=generator)
    return [part.to(device, dtype) for part in (*parts, sinks)]


def exact(q, k, v, sinks, window):
    """By softmax over what a token sees, in float64."""
    q, k, v = (part.double().cpu() for part in (q, k, v))
    k, v = (part.repeat_interleave(HEADS // GROUPS, 1) for part in (k, v))
    scores = 0.3 * q @ k.mT
    number = torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS)).view(2, 1, 128)
    back = torch.arange(128)[:, None] - torch.arange(128)
    seen = (number[..., None] == number[..., None, :]) & (back >= 0) & (back < (window or 128))
    weights = scores.masked_fill(~seen, -torch.inf).exp()
    total = weights.sum(-1, keepdim=True)
    if sinks is not None:
        total = total + sinks.double().cpu().exp()[:, None, None]
    return (weights / total @ v).transpose(1, 2)


@pytest.mark.filterwarnings("ignore:flex_attention called without")  # which no CPU differentiates
@pytest.mark.parametrize(("window", "sinks"), KINDS)
@torch.no_grad()
def test_every_way_is_exact(window, sinks):
    q, k, v, sink = made()
    sink = sink if sinks else None
    layout, expected = Layout.of(LENGTHS, 2, q.device), exact(q, k, v, sink, window)
    options = {"scale": 0.3, "window": window, "sinks": sink}
    ways = {
        "flex": attend_flex(flex_attention, q, k, v, layout, **options),
        "dense": attend_masked(q, k, v, layout.mask(window), scale=0.3, sinks=sink),
        "chosen": attend_by_document(q, k, v, layout, **options),
        "CPU": inside.attend_inside(q, k, v, LENGTHS, **options),
    }
    for name, found in ways.items():
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.long
@torch.no_grad()
def test_more_kinds_of_rows_than_pytorch_keeps_programs_are_compiled(monkeypatch):
    """Without an error PyTorch computes what is beyond its limit by attention that keeps all scores; here nothing is."""
    counter = CompileCounter()
    flex = torch.compile(flex_attention, backend=counter, fullgraph=True)

    def attended(rows, length, window):
        layout = Layout.of((length - 3, 3) * rows, rows, torch.device("cpu"))
        q, k, v = (torch.randn(rows, count, length, 16) for count in (4, 2, 2))
        found = attend_compiled(flex, q, k, v, layout, scale=0.3, window=window, sinks=None)
        expected = attend_masked(q, k, v, layout.mask(window), scale=0.3)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)

    kinds = [(2, 32, None), (3, 32, None), (2, 32, 7)]
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=1):  # its own
        for kind in kinds:
            attended(*kind)
    assert counter.frame_count == len(kinds)
    monkeypatch.setattr(by_document, "_PROGRAMS", len(kinds))
    attended(2, 48, 7)  # under a dense mask where no more are kept
    assert counter.frame_count == len(kinds)
    torch._dynamo.reset()


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("shares", [True, False])
def test_flash_attention_is_given_what_it_takes(window, shares):
    """Its arguments, by an implementation of its signature; older versions share no keys themselves."""
    q, k, v, _ = made()

    def attend(q, k, v, begins, ends, most_q, most_k, *, scale, window_size, enable_gqa=True):
        assert begins.dtype == torch.int32
        assert (most_q, most_k) == (127, 127)
        assert window_size[1] == 0
        out = []
        for start, stop in zip(begins.tolist(), ends.tolist()[1:], strict=False):
            part = [x[start:stop].transpose(0, 1) for x in (q, k, v)]
            if shares:
                part[1:] = [x.repeat_interleave(HEADS // GROUPS, 0) for x in part[1:]]
            seen = torch.ones(stop - start, stop - start, dtype=torch.bool).tril()
            seen = seen if window_size[0] < 0 else seen.triu(-window_size[0])
            scores = (scale * part[0] @ part[1].mT).masked_fill(~seen, -torch.inf)
            out.append((scores.softmax(-1) @ part[2]).transpose(0, 1))
        return torch.cat(out)

    def older(q, k, v, begins, ends, most_q, most_k, *, scale, window_size):
        return attend(q, k, v, begins, ends, most_q, most_k, scale=scale, window_size=window_size)

    flash = attend if shares else older
    found = attend_flash(flash, q, k, v, Layout.of(LENGTHS, 2, q.device), scale=0.3, window=window)
    torch.testing.assert_close(found.double(), exact(q, k, v, None, window), rtol=1e-5, atol=1e-5)


def test_what_was_sent_is_known_on_the_host():
    tensor = torch.arange(12).view(3, 4)
    there = sent(tensor, "meta")
    assert there.device.type == "meta"
    assert on_host(there) is tensor
    assert torch.equal(on_host(part_of(there, slice(1, 3))), tensor[1:])
    assert torch.equal(on_host(part_of(there, torch.tensor([2, 0]))), tensor[[2, 0]])
    with pytest.raises(NotImplementedError):
        on_host(there + 1)  # another tensor, which nothing on the host is equal to


@pytest.mark.gpu
@pytest.mark.parametrize(("window", "sinks"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_gives_outputs_and_gradients_of_the_dense_mask(window, sinks, dtype):
    results = []
    for way in ("chosen", "dense"):
        q, k, v, sink = (part.requires_grad_() for part in made("cuda:0", dtype if way == "chosen" else torch.float32))
        sink = sink if sinks else None
        layout = Layout.of(LENGTHS, 2, q.device)
        if way == "chosen":
            out = attend_by_document(q, k, v, layout, scale=0.3, window=window, sinks=sink)
        else:
            out = attend_masked(q, k, v, layout.mask(window), scale=0.3, sinks=sink)
        (out.float() * torch.arange(out.numel(), device=out.device).view_as(out).sin()).sum().backward()
        results.append([x.float() for x in (out.detach(), q.grad, k.grad, v.grad, *([sink.grad] if sinks else []))])
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).norm() < (0.02 if dtype == torch.bfloat16 else 0.005) * theirs.norm()
