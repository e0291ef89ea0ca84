"""The fused walk: the same numbers as dense float64 autograd, whatever the chunks, masks, padding, caps and precisions."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.errors import BadObjective, Mismatch
from limbeck.objectives import CrossEntropy, Objective, fused, fused_backward, fused_nats, parse, walk
from limbeck.objectives.fused import Sizes
from limbeck.teachers.draw import top_k
from limbeck.types import Batch, ChunkTargets, Head, Outputs, Signal

VOCAB = 37


class Skewed(Objective):
    """A user's objective with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.power = torch.nn.Parameter(torch.tensor(1.5))

    def forward(self, logits, signal, chunk):
        log_p, log_q = signal.against(logits)
        return (log_p.exp() * (log_p - log_q).abs().pow(self.power)).sum(-1)


NAMES = [
    "CrossEntropy",
    "ForwardKL",
    "ForwardKL(temperature=2)",
    "ReverseKL",
    "JensenShannon(beta=0.3)",
    "SkewKL",
    "SkewReverseKL",
    "TotalVariation",
    "AdaptiveKL",
    "DKD",
    "CTKD(start=3, ramp=0)",
    "TAID",
    "0.5*CrossEntropy + 0.3*TAID + 0.2*ReverseKL",
    "Skewed",
    "0.5*CTKD(start=3, ramp=0) + 0.5*CrossEntropy",
    "Ramp(of=CTKD(start=3, ramp=0))",
    "0.3*Skewed + CrossEntropy",
]
DIVERGENCES = [name for name in NAMES if "CrossEntropy" not in name]


def make(name):
    if name.startswith("0.3*Skewed"):
        return 0.3 * Skewed() + CrossEntropy()
    return Skewed() if name == "Skewed" else parse(name)


def models(*, dtype=torch.float32, bias=False, scale=1.0, softcap=None, seed=0, rows=2, length=11, width=8):
    """Student and teacher with differently padded heads, and a batch where some positions have weight 0."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    head = Head(random(VOCAB + 5, width), random(VOCAB + 5) if bias else None, scale, softcap)
    student = Outputs(random(rows, length, width), head, VOCAB)
    teacher = Outputs(random(rows, length, 12), Head(random(VOCAB + 2, 12)), VOCAB)
    for tensor in leaves(student):
        tensor.requires_grad_()
    weight = torch.rand(rows, length, generator=generator) * (torch.rand(rows, length, generator=generator) > 0.3)
    zeros = torch.zeros(rows, length, dtype=torch.long)
    batch = Batch(
        zeros, torch.randint(0, VOCAB, (rows, length), generator=generator), weight, zeros, zeros, zeros[:, 0]
    )
    return student, teacher, batch


def leaves(outputs):
    found = [outputs.hidden, outputs.head.weight, outputs.head.bias]
    return [tensor for tensor in found if tensor is not None]


def dense(objective, student, teacher, batch, *, scale):
    """The loss and its gradients by autograd in float64 over all logits at once: hidden, weight, bias, own parameters."""
    objective = objective.double()
    tensors = [tensor.detach().double().requires_grad_() for tensor in leaves(student)]
    head = Head(tensors[1], tensors[2] if len(tensors) > 2 else None, student.head.scale, student.head.softcap)
    logits = Outputs(tensors[0], head, VOCAB).logits()
    said = Signal((teacher.hidden.double() @ teacher.head.weight.double().T).flatten(0, 1)[:, :VOCAB])
    weight = batch.weight.flatten().double()
    loss = scale * (weight * objective(logits, said, batch.flat()))[weight > 0].sum()
    learned = [*tensors, *objective.parameters()]
    return loss.detach(), torch.autograd.grad(loss, learned)


def fused_gradients(objective, student, teacher, batch, *, scale, sizes=None):
    loss = fused_backward(objective, student, teacher, batch, scale=scale, sizes=sizes or SMALL)
    return loss, [tensor.grad for tensor in [*leaves(student), *objective.parameters()]]


def test_a_cpu_gets_products_in_bfloat16_in_multiples_of_rows(monkeypatch):
    """It compiles each shape of a product, and batches train on any number of positions: 14 to 17 of 22 here."""
    shapes, multiply, counts = set(), torch.mm, set()

    def counted(a, b, **how):
        shapes.add((*a.shape, b.shape[1]))
        return multiply(a, b, **how)

    for seed in range(6):
        student, teacher, batch = models(dtype=torch.bfloat16, seed=seed, bias=True)
        counts.add(len(batch.counted))
        with monkeypatch.context() as watched:
            watched.setattr(torch, "mm", counted)
            watched.setattr(fused, "_SUM_ELEMENTS", 96)  # the head's gradient in four parts
            found = fused_gradients(make("ForwardKL"), student, teacher, batch, scale=0.7, sizes="auto")
        plain, said, _ = models(seed=seed, bias=True, dtype=torch.bfloat16)
        with monkeypatch.context() as whole:
            whole.setattr(fused, "_COMPILED_ROWS", 1)
            expected = fused_gradients(make("ForwardKL"), plain, said, batch, scale=0.7, sizes="auto")
        assert_close([found[0], *found[1]], [expected[0], *expected[1]], rtol=1e-2)
    assert len(counts) > 2
    of_head = {(12, 32, 8), (1, 32, 8), (VOCAB, 32, 1)}  # gradients of 37 rows by parts of 12, and of the bias
    assert shapes == {(32, 8, VOCAB), (32, 12, VOCAB), (32, VOCAB, 8)} | of_head


def assert_close(got, expected, *, rtol=2e-5):
    """By norms: single small entries may lose digits to their neighbours."""
    for one, other in zip(got, expected, strict=True):
        assert (one.double() - other).norm() <= rtol * other.norm() + 1e-6


SMALL = Sizes(chunk=3, block=2)  # so that a small batch has many of both, and odd ends


class SkewedOutcomes(Skewed):
    """The same from captured outcomes."""

    def of_outcomes(self, outcomes):
        return outcomes.expect((outcomes.log_p - outcomes.log_q).abs().pow(self.power))


@pytest.mark.parametrize("make", [Skewed, SkewedOutcomes, lambda: 0.5 * SkewedOutcomes() + 0.5 * Skewed()])
def test_parameters_of_an_objective_learn_from_captured_logits_too(make):
    student, teacher, batch = models()
    expected, gradients = dense(make(), student, teacher, batch, scale=0.1)
    captured = top_k(teacher.logits().log_softmax(-1), VOCAB - 1)  # and the rest, which is one token: nothing is merged
    loss, got = fused_gradients(make(), student, captured, batch, scale=0.1)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert_close(got, gradients)


def test_parameters_that_slopes_of_chunks_cannot_reach_are_refused():
    student, _, batch = models()
    number = batch.tokens.clone()
    chunks = ChunkTargets(number, torch.zeros(1), None)
    with pytest.raises(BadObjective, match="learns parameters of its own"):
        fused_backward(Skewed(), student, chunks, batch, scale=1.0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("head", [{}, {"bias": True, "scale": 0.5, "softcap": 4.0}], ids=["plain", "capped"])
def test_chunked_is_unchunked_is_dense(name, head):
    expected, gradients = dense(make(name), *models(**head), scale=0.1)
    for chunk, block in ((3, 2), (7, 7), (1000, 1000)):
        loss, got = fused_gradients(make(name), *models(**head), scale=0.1, sizes=Sizes(chunk, block))
        assert loss == pytest.approx(float(expected), rel=1e-5)
        assert_close(got, gradients)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_errs_as_its_products_do_and_not_more(name):
    student, teacher, batch = models(dtype=torch.bfloat16)
    expected, gradients = dense(make(name), student, teacher, batch, scale=0.1)
    loss, got = fused_gradients(make(name), student, teacher, batch, scale=0.1)
    assert loss == pytest.approx(float(expected), rel=0.03)
    # Logits of up to 15 are rounded to a 256th part; total variation's gradient jumps where p and q cross.
    assert_close(got, gradients, rtol=0.15 if name in ("TotalVariation", "AdaptiveKL", "Skewed") else 0.06)
    assert all(tensor.grad.dtype == torch.bfloat16 for tensor in leaves(student))


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_student_equal_to_its_teacher_has_nothing_to_learn(name):
    for chunk in (3, 1000):
        student, _, batch = models(width=12)
        teacher = Outputs(student.hidden.detach(), Head(student.head.weight.detach()[: VOCAB + 1].clone()), VOCAB)
        sizes = Sizes(chunk, chunk)
        loss, got = fused_gradients(make(name), student, teacher, batch, scale=1.0, sizes=sizes)
        assert abs(loss) < 1e-6
        assert fused_nats(make(name), student, teacher, batch, sizes=sizes).abs().max() < 1e-6
        assert max(gradient.abs().max() for gradient in got[:2]) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_masked_positions_count_exactly_nothing(name):
    expected, gradients = fused_gradients(make(name), *models(), scale=0.1)
    student, teacher, batch = models()
    masked = batch.weight == 0
    assert masked.any()
    for outputs in (student, teacher):
        outputs.hidden.data[masked] = torch.nan
    batch.targets[masked] = -100
    loss, got = fused_gradients(make(name), student, teacher, batch, scale=0.1)
    assert loss == expected
    for one, other in zip(got, gradients, strict=True):
        assert torch.equal(one, other)
    assert (student.hidden.grad[masked] == 0).all()
    nats = fused_nats(make(name), student, teacher, batch, sizes=SMALL)
    assert (nats[masked] == 0).all()
    assert nats.isfinite().all()


@pytest.mark.parametrize("name", ["CrossEntropy", "ForwardKL", "CTKD(start=3, ramp=0)", "Skewed"])
@settings(max_examples=8)
@given(seed=st.integers(0, 1000), cut=st.integers(1, 3))
def test_micro_batches_add_up(name, seed, cut):
    student, teacher, batch = models(seed=seed, rows=4)
    whole, expected = fused_gradients(make(name), student, teacher, batch, scale=0.2)
    student, teacher, batch = models(seed=seed, rows=4)
    objective, total = make(name), 0.0
    for part in (slice(0, cut), slice(cut, 4)):
        some = Outputs(student.hidden[part], student.head, VOCAB)
        said = Outputs(teacher.hidden[part], teacher.head, VOCAB)
        total += fused_backward(objective, some, said, batch.rows(part), scale=0.2, sizes=SMALL)
    got = [tensor.grad for tensor in [*leaves(student), *objective.parameters()]]
    assert total == pytest.approx(float(whole), rel=1e-5)
    assert_close(got, [gradient.double() for gradient in expected])


def test_nats_are_those_that_are_learned():
    student, teacher, batch = models()
    for name in NAMES:
        nats = fused_nats(make(name), student, teacher, batch, sizes=SMALL)
        loss = fused_backward(make(name), student, teacher, batch, scale=0.1)
        assert nats.shape == batch.weight.shape
        assert not nats.requires_grad
        assert 0.1 * (nats * batch.weight).sum() == pytest.approx(float(loss), rel=1e-5)


def test_a_tied_head_gathers_both_gradients():
    table = torch.randn(VOCAB + 3, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    _, teacher, batch = models()
    tokens = batch.targets.roll(1, dims=1)

    def outputs(weight):
        return Outputs(torch.tanh(weight[tokens]), Head(weight), VOCAB)

    fused_backward(parse("ForwardKL"), outputs(table), teacher, batch, scale=0.1, sizes=SMALL)
    exact = table.detach().double().requires_grad_()
    said = Signal((teacher.hidden.double() @ teacher.head.weight.double().T).flatten(0, 1)[:, :VOCAB])
    nats = parse("ForwardKL")(outputs(exact).logits(), said, batch.flat())
    (0.1 * (nats * batch.weight.flatten()).sum()).backward()
    assert_close([table.grad], [exact.grad])


def test_a_head_that_is_computed_passes_its_gradient_on():
    student, teacher, batch = models()
    base = student.head.weight.detach().clone().requires_grad_()
    gate = torch.ones(8, requires_grad=True)
    fused_backward(
        parse("ForwardKL"), Outputs(student.hidden, Head(base * gate), VOCAB), teacher, batch, scale=0.1, sizes=SMALL
    )
    _, expected = dense(parse("ForwardKL"), student, teacher, batch, scale=0.1)
    assert_close([base.grad, gate.grad], [expected[1], (expected[1] * base.detach()).sum(0)])


def test_what_is_frozen_gets_no_gradient():
    student, teacher, batch = models()
    student.head.weight.requires_grad_(False)
    fused_backward(parse("ForwardKL"), student, teacher, batch, scale=1.0)
    assert student.head.weight.grad is None
    assert student.hidden.grad is not None
    assert teacher.head.weight.grad is None


def test_a_batch_without_weight_is_0_and_leaves_no_gradient():
    student, teacher, batch = models()
    batch.weight.zero_()
    assert fused_backward(parse("ForwardKL"), student, teacher, batch, scale=1.0) == 0
    assert student.hidden.grad is None
    assert (fused_nats(parse("ForwardKL"), student, teacher, batch) == 0).all()


def test_autocast_chooses_the_precision_of_the_products_only():
    student, teacher, batch = models()
    expected, gradients = dense(parse("ReverseKL"), student, teacher, batch, scale=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, got = fused_gradients(parse("ReverseKL"), student, teacher, batch, scale=0.1)
    assert all(gradient.dtype == torch.float32 for gradient in got)
    error = abs(float(loss - expected)) / float(expected)
    assert 1e-6 < error < 0.02
    assert_close(got, gradients, rtol=0.03)


def test_the_way_back_through_the_student_is_not_under_autocast():
    student, teacher, batch = models()
    seen = []

    class Asked(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            seen.append(torch.is_autocast_enabled("cpu"))
            return grad

    hidden = Asked.apply(student.hidden.detach().requires_grad_())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fused_backward(parse("ForwardKL"), replace(student, hidden=hidden), teacher, batch, scale=0.1)
    assert seen == [False]


def test_a_training_position_sees_only_its_own_teacher():
    student, teacher, batch = models()
    positions = torch.tensor([20, 3, 7, 0, 21])
    seen = {}
    for which, logits, said, chunk in walk(student, teacher, batch, positions=positions, sizes=SMALL):
        for index, position in enumerate(positions[which].tolist()):
            seen[position] = logits[index].clone(), said.logits[index].clone(), int(chunk.targets[index])
    assert list(seen) == positions.tolist()
    teachers = (teacher.hidden @ teacher.head.weight.T).flatten(0, 1)[:, :VOCAB]
    for position, (logits, said, target) in seen.items():
        torch.testing.assert_close(logits, student.logits(slice(position, position + 1))[0].detach())
        torch.testing.assert_close(said, teachers[position])
        assert target == batch.targets.flatten()[position]


def test_different_vocabularies_are_refused():
    student, teacher, batch = models()
    other = Outputs(teacher.hidden, teacher.head, VOCAB + 1)
    with pytest.raises(
        Mismatch,
        match=r"the teacher has a vocabulary of 38 tokens, the student one of 37.*CrossEntropy, which needs no teacher",
    ):
        fused_backward(parse("ForwardKL"), student, other, batch, scale=1.0)


def test_no_more_than_a_few_chunks_of_logits_are_held():
    """Counts what is alive at once: two chunks of 60 of 600 positions, the head's gradient, a block's temporaries."""
    vocab, length = 8000, 600
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, length, 4, generator=generator, requires_grad=True)
    student = Outputs(hidden, Head(torch.randn(vocab, 4, generator=generator, requires_grad=True)), vocab)
    zeros = torch.zeros(1, length, dtype=torch.long)
    batch = Batch(zeros, zeros, torch.ones(1, length), zeros, zeros, zeros[:, 0])
    teacher = Outputs(hidden.detach(), student.head, vocab)
    with torch.profiler.profile(profile_memory=True) as profile:
        fused_backward(parse("ForwardKL"), student, teacher, batch, scale=1.0, sizes=Sizes(chunk=60, block=8))
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert 0 < peak < 0.3 * 4 * length * vocab


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_cuda_gives_what_the_processor_gives(name):
    expected, gradients = dense(make(name), *models(), scale=0.1)
    student, teacher, batch = models()
    student = Outputs(
        student.hidden.detach().cuda().requires_grad_(),
        Head(student.head.weight.detach().cuda().requires_grad_()),
        VOCAB,
    )
    teacher = Outputs(teacher.hidden.cuda(), Head(teacher.head.weight.cuda()), VOCAB)
    loss, got = fused_gradients(make(name).cuda(), student, teacher, batch.to("cuda"), scale=0.1)
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)
    assert_close([gradient.cpu() for gradient in got], gradients, rtol=1e-3)
