"""A teacher known by a few outcomes: what objectives make of it, against float64 autograd over all of them."""

import math

import pytest
import torch

from limbeck import divergence
from limbeck.errors import BadObjective, Mismatch
from limbeck.objectives import CrossEntropy, ForwardKL, Objective, fused_backward, fused_nats, parse
from limbeck.objectives.fused import Sizes, value_and_gradient
from limbeck.objectives.outcomes import Outcomes, differentiated
from limbeck.types import Batch, Chunk, Head, Outputs, Signal, Sparse

VOCAB = 23
SUMS = [
    "ForwardKL",
    "SkewKL",
    "TotalVariation",
    "TAID",
    "Ramp(of=SkewKL(), start=0.3)",
    "0.3*CrossEntropy + 0.5*ForwardKL + 0.2*TAID(start=0.2)",
]
COARSE = [*SUMS, "ReverseKL", "JensenShannon(beta=0.3)", "SkewReverseKL", "0.5*ReverseKL + 0.5*CrossEntropy"]


class Doubled(ForwardKL):
    """A user's own, of limbeck's."""

    def of_outcomes(self, outcomes):
        return 2 * super().of_outcomes(outcomes)


class Squares(Objective):
    """A user's own."""

    def forward(self, logits, signal, chunk):
        log_p, log_q = signal.against(logits)
        return ((log_p.exp() - log_q.exp()) ** 2).sum(-1)


def pair(n=7, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (2 * torch.randn(n, VOCAB, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    return student, teacher, Chunk(torch.randint(VOCAB, (n,), generator=generator), torch.ones(n, dtype=dtype))


def whole(teacher):
    """All outcomes, in an order of their own at each position."""
    ids = torch.stack([torch.randperm(VOCAB, generator=torch.Generator().manual_seed(i)) for i in range(len(teacher))])
    log_p = teacher.log_softmax(-1).gather(-1, ids)
    return Sparse(ids, log_p, log_p.exp(), VOCAB)


def likeliest(teacher, k):
    log_p, ids = teacher.log_softmax(-1).topk(k)
    return Sparse(ids, log_p, log_p.exp(), VOCAB, rest=torch.log1p(-log_p.exp().sum(-1)))


def coarsened(logits, ids):
    """log q of some outcomes and of all others together."""
    log_q = logits.log_softmax(-1)
    others = log_q.scatter(-1, ids, -math.inf).logsumexp(-1, keepdim=True)
    return torch.cat([log_q.gather(-1, ids), others], -1)


@pytest.mark.parametrize("text", SUMS)
def test_all_outcomes_are_the_dense_signal(text):
    student, teacher, chunk = pair()
    objective = parse(text)
    objective.begin(10)
    nats, gradient = value_and_gradient(objective, student, whole(teacher), chunk)
    expected = objective.value_and_gradient(student, Signal(teacher), chunk)
    torch.testing.assert_close(nats, expected[0])
    torch.testing.assert_close(gradient, expected[1])


@pytest.mark.parametrize("k", [1, 5, VOCAB - 1])
@pytest.mark.parametrize("text", [*COARSE, "Squares"])
def test_likeliest_and_rest_are_a_coarser_distribution(text, k):
    student, teacher, chunk = pair()
    objective = Squares() if text == "Squares" else parse(text)
    objective.begin(10)
    signal = likeliest(teacher, k)
    nats, gradient = value_and_gradient(objective, student, signal, chunk)
    leaf = student.clone().requires_grad_()
    # the coarse distributions are a teacher and a student of K + 1 tokens; the target's own likelihood is not coarse
    log_p, log_q = torch.cat([signal.log_p, signal.rest[:, None]], -1), coarsened(leaf, signal.ids)
    terms = [(1.0, objective)] if not hasattr(objective, "terms") else list(objective)
    expected = torch.zeros(len(leaf), dtype=leaf.dtype)
    for weight, term in terms:
        term.begin(10)
        if "CrossEntropy" in repr(term):
            expected = expected + weight * term(leaf, None, chunk)
        else:
            expected = expected + weight * term(log_q, Signal(log_p), chunk)
    torch.testing.assert_close(nats, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), leaf)[0])


@pytest.mark.parametrize("objective", [ForwardKL(), CrossEntropy(), Doubled()])
@pytest.mark.parametrize("has_rest", [True, False])
def test_slopes_in_closed_form_are_those_of_autograd(objective, has_rest):
    generator = torch.Generator().manual_seed(0)
    log_p, log_q = (torch.randn(5, 4, generator=generator, dtype=torch.float64).log_softmax(-1) for _ in range(2))
    weight = log_p.exp()
    log_p[2, 3], weight[2, 3] = -math.inf, 0.0  # an outcome without mass
    outcomes = Outcomes(log_p, log_q, weight, log_q[:, 1], has_rest)
    ours, theirs = objective.slopes_of_outcomes(outcomes), differentiated(objective, outcomes)
    torch.testing.assert_close(ours.nats, theirs.nats)
    for mine, other in ((ours.outcomes, theirs.outcomes), (ours.target, theirs.target)):
        assert (mine is None) == (other is None)
        if mine is not None:
            torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("name", ["kl", "reverse_kl", "jensen_shannon", "skew_kl", "total_variation"])
def test_a_coarser_distribution_never_differs_more(name):
    student, teacher, _ = pair(50)
    signal = likeliest(teacher, 4)
    coarse = getattr(divergence, name)(
        torch.cat([signal.log_p, signal.rest[:, None]], -1), coarsened(student, signal.ids)
    )
    fine = getattr(divergence, name)(teacher.log_softmax(-1), student.log_softmax(-1))
    assert (coarse <= fine + 1e-12).all()


@pytest.mark.parametrize(
    "text", ["ReverseKL", "JensenShannon", "SkewReverseKL", "DKD", "AdaptiveKL", "CTKD", "Squares"]
)
def test_what_draws_cannot_say_is_refused_with_the_reason(text):
    student, teacher, chunk = pair()
    objective = Squares() if text == "Squares" else parse(text)
    with pytest.raises((BadObjective, Mismatch), match=r"[Uu]se (a|another) "):
        value_and_gradient(objective, student, whole(teacher), chunk)


@pytest.mark.parametrize("text", ["ForwardKL(temperature=2)", "TAID(temperature=2)", "DKD", "AdaptiveKL", "CTKD"])
def test_what_the_likeliest_and_the_rest_cannot_say_is_refused_with_the_reason(text):
    student, teacher, chunk = pair()
    with pytest.raises(BadObjective, match="cannot be computed from a few captured outcomes of the teacher: "):
        value_and_gradient(parse(text), student, likeliest(teacher, 5), chunk)


def test_padding_counts_nothing():
    student, teacher, chunk = pair()
    full = whole(teacher)
    ids, log_p, weight = full.ids.clone(), full.log_p.clone(), full.weight.clone()
    ids[:, 10:], log_p[:, 10:], weight[:, 10:] = 0, -math.inf, 0.0
    short = Sparse(ids[:, :10], log_p[:, :10], weight[:, :10], VOCAB)
    for text in SUMS:
        objective = parse(text)
        objective.begin(10)
        padded = value_and_gradient(objective, student, Sparse(ids, log_p, weight, VOCAB), chunk)
        alone = value_and_gradient(objective, student, short, chunk)
        for a, b in zip(padded, alone, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("sizes", [Sizes(4, 2), Sizes(100, 100), "auto"])
def test_the_fused_walk_gives_each_position_its_own_answer(sizes):
    generator = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn(2, 6, 5, generator=generator), torch.randn(VOCAB + 3, 5, generator=generator)
    teacher = 2 * torch.randn(12, VOCAB, generator=generator)
    targets = torch.randint(VOCAB, (2, 6), generator=generator)
    mask = (torch.rand(2, 6, generator=generator) > 0.3).float()
    zeros = torch.zeros(2, 6, dtype=torch.int64)
    batch = Batch(zeros, targets, mask, zeros, zeros, torch.arange(2))
    signal, objective = likeliest(teacher, 5), parse("0.5*ForwardKL + 0.5*CrossEntropy")

    def total(use):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        use(Outputs(h, Head(w), VOCAB))
        return h.grad, w.grad

    def dense(outputs):
        nats, _ = value_and_gradient(objective, outputs.logits().detach(), signal, batch.flat())
        log_p, log_q = torch.cat([signal.log_p, signal.rest[:, None]], -1), coarsened(outputs.logits(), signal.ids)
        own = 0.5 * divergence.kl(log_p, log_q) + 0.5 * parse("CrossEntropy")(outputs.logits(), None, batch.flat())
        torch.testing.assert_close(nats, own.detach())
        (own * mask.flatten()).sum().backward()

    fused = total(lambda outputs: fused_backward(objective, outputs, signal, batch, scale=1.0, sizes=sizes))
    for a, b in zip(fused, total(dense), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    nats = fused_nats(objective, Outputs(hidden, Head(weight), VOCAB), signal, batch, sizes=sizes)
    assert (nats[mask == 0] == 0).all()
    assert (nats[mask > 0] > 0).all()


def test_a_student_of_another_vocabulary_is_refused():
    _, teacher, _ = pair(6, dtype=torch.float32)
    zeros = torch.zeros(1, 6, dtype=torch.int64)
    batch = Batch(zeros, zeros, torch.ones(1, 6), zeros, zeros, torch.zeros(1, dtype=torch.int64))
    student = Outputs(torch.zeros(1, 6, 4), Head(torch.zeros(VOCAB + 1, 4)), VOCAB + 1)
    with pytest.raises(
        Mismatch, match=f"the teacher has a vocabulary of {VOCAB} tokens, the student one of {VOCAB + 1}"
    ):
        fused_backward(parse("ForwardKL"), student, likeliest(teacher, 3), batch, scale=1.0)
