"""Every objective: value and gradient against its formula in float64, its state, its parameters, how it adds up."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.errors import BadObjective
from limbeck.objectives import (
    CTKD,
    DKD,
    TAID,
    AdaptiveKL,
    CrossEntropy,
    EntropySelect,
    ForwardKL,
    JensenShannon,
    Objective,
    Ramp,
    ReverseKL,
    SkewKL,
    SkewReverseKL,
    TotalVariation,
)
from limbeck.objectives.adaptive import least_of_head
from limbeck.types import Chunk, Signal


class Squared(Objective):
    """A user's objective: half the squared distance of the probabilities, with a parameter of its own."""

    def __init__(self, gain: float = 1.0):
        super().__init__()
        self.gain = gain
        self.bias = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, logits, signal, chunk):
        log_p, log_q = signal.against(logits)
        return self.gain * self.bias * 0.5 * (log_p.exp() - log_q.exp()).square().sum(-1)


def selecting():
    """One that leaves tokens out."""
    chosen = EntropySelect(keep=0.6)
    chosen.threshold.fill_(0.5)
    return chosen


OBJECTIVES = [
    CrossEntropy(),
    selecting(),
    ForwardKL(),
    ForwardKL(temperature=2.5),
    ReverseKL(),
    ReverseKL(temperature=0.7),
    JensenShannon(),
    JensenShannon(beta=0.1, temperature=3.0),
    SkewKL(),
    SkewKL(alpha=0.9, temperature=2.0),
    SkewReverseKL(),
    TotalVariation(),
    TotalVariation(temperature=2.0),
    AdaptiveKL(),
    AdaptiveKL(mu=0.95, temperature=2.0),
    DKD(),
    DKD(alpha=0.3, beta=2.0, temperature=2.0),
    CTKD(start=3.0, ramp=0.0),
    TAID(),
    TAID(start=0.1, temperature=2.0),
    Ramp(),
    Ramp(of=TAID(), start=0.9),
    0.3 * CrossEntropy() + 0.7 * ForwardKL(),
    0.5 * ReverseKL() + 0.2 * TAID() + 0.3 * JensenShannon() + 2.0 * AdaptiveKL() + 0.1 * DKD(),
    Squared(),
]
DIVERGENCES = [o for o in OBJECTIVES if o.needs_teacher and "CrossEntropy" not in repr(o)]
named = pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)


def position(n=7, vocab=23, seed=0, spread=3.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (spread * torch.randn(2, n, vocab, generator=generator, dtype=torch.float64)).to(dtype)
    chunk = Chunk(torch.randint(0, vocab, (n,), generator=generator), torch.rand(n, generator=generator))
    return student, Signal(teacher), chunk


def by_autograd(objective, logits, signal, chunk):
    leaf = logits.clone().requires_grad_()
    nats = objective(leaf, signal, chunk)
    return nats.detach(), torch.autograd.grad(nats.sum(), leaf)[0]


@named
def test_closed_form_is_the_formula_and_its_gradient(objective):
    logits, signal, chunk = position()
    before = logits.clone(), signal.logits.clone()
    nats, gradient = objective.value_and_gradient(logits, signal, chunk)
    expected, slope = by_autograd(objective, logits, signal, chunk)
    torch.testing.assert_close(nats.detach(), expected)
    torch.testing.assert_close(gradient, slope)
    assert torch.equal(logits, before[0])
    assert torch.equal(signal.logits, before[1])


@named
def test_float32_is_close_to_float64(objective):
    logits, signal, chunk = position(dtype=torch.float32)
    nats, gradient = objective.value_and_gradient(logits, signal, chunk)
    expected, slope = by_autograd(objective, logits.double(), Signal(signal.logits.double()), chunk)
    torch.testing.assert_close(nats.detach().double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("objective", DIVERGENCES, ids=repr)
@given(seed=st.integers(0, 10_000), spread=st.floats(0.1, 30))
def test_never_negative_and_zero_with_zero_gradient_at_equality(objective, seed, spread):
    logits, signal, chunk = position(n=3, seed=seed, spread=spread, dtype=torch.float32)
    assert (objective.value_and_gradient(logits, signal, chunk)[0] >= 0).all()
    nats, gradient = objective.value_and_gradient(signal.logits.clone(), signal, chunk)
    assert nats.max() < 1e-6
    assert gradient.abs().max() < 2e-6


@named
@given(seed=st.integers(0, 10_000))
def test_order_of_the_vocabulary_does_not_matter(objective, seed):
    logits, signal, chunk = position(seed=seed)
    order = torch.randperm(23, generator=torch.Generator().manual_seed(seed + 1))
    moved = Chunk(order.argsort()[chunk.targets], chunk.weight)
    nats, gradient = objective.value_and_gradient(logits, signal, chunk)
    again, slope = objective.value_and_gradient(logits[:, order], Signal(signal.logits[:, order]), moved)
    torch.testing.assert_close(again, nats)
    torch.testing.assert_close(slope, gradient[:, order])


@named
def test_each_position_stands_alone(objective):
    logits, signal, chunk = position()
    nats, gradient = objective.value_and_gradient(logits, signal, chunk)
    part = slice(2, 5)
    some, slope = objective.value_and_gradient(logits[part], signal.part(part), chunk.part(part))
    torch.testing.assert_close(some, nats[part])
    torch.testing.assert_close(slope, gradient[part])


@named
def test_finite_200_logits_apart(objective):
    logits, signal, chunk = position(dtype=torch.float32)
    logits[:, 0], signal.logits[:, 0] = 200.0, -200.0
    logits[:, 1], signal.logits[:, 1] = -200.0, 200.0
    nats, gradient = objective.value_and_gradient(logits, signal, chunk)
    assert nats.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("objective", [o for o in DIVERGENCES if "TAID" not in repr(o)], ids=repr)
def test_tokens_neither_model_can_say_change_nothing(objective):
    logits, signal, chunk = position()
    never = torch.full((len(logits), 2), -math.inf, dtype=logits.dtype)
    nats, gradient = objective.value_and_gradient(logits, signal, chunk)
    again, slope = objective.value_and_gradient(
        torch.cat([logits, never], 1), Signal(torch.cat([signal.logits, never], 1)), chunk
    )
    torch.testing.assert_close(again, nats)
    torch.testing.assert_close(slope, torch.cat([gradient, torch.zeros_like(never)], 1))


def test_a_position_of_infinite_divergence_is_infinite():
    logits, signal, chunk = position()
    signal.logits[2, 4] = -math.inf
    nats, _ = ReverseKL().value_and_gradient(logits, signal, chunk)
    assert nats[2] == math.inf
    assert nats[:2].isfinite().all()


def test_not_a_number_stays_visible():
    logits, signal, chunk = position()
    logits[1, 3] = math.nan
    nats, _ = ForwardKL().value_and_gradient(logits, signal, chunk)
    assert nats[1].isnan()


@pytest.mark.parametrize("make", [ForwardKL, ReverseKL, TotalVariation, JensenShannon, SkewKL, DKD])
def test_gradients_keep_their_size_as_the_temperature_rises(make):
    logits, signal, chunk = position(spread=1.0)
    norms = [make(temperature=t).value_and_gradient(logits, signal, chunk)[1].norm() for t in (50.0, 400.0)]
    assert norms[1] / norms[0] == pytest.approx(1, abs=0.1)


# --- adaptive KL ------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 1000), mu=st.floats(0.01, 0.99), spread=st.floats(0.01, 6))
def test_head_holds_no_more_than_the_mass_and_the_next_token_would(seed, mu, spread):
    generator = torch.Generator().manual_seed(seed)
    p = (spread * torch.randn(4, 5000, generator=generator, dtype=torch.float64)).softmax(-1)
    head = p >= least_of_head(p, mu)[:, None]
    held, following = torch.where(head, p, 0.0).sum(-1), torch.where(head, 0.0, p).amax(-1)
    assert ((held <= mu + 1e-12) | (head.sum(-1) == 1)).all()
    assert (held + following > mu - 1e-12).all()


def test_the_token_that_crosses_mu_is_not_of_the_head():
    """p = 0.4, 0.3, 0.2, 0.1 and mu = 0.5: the head is the first token; with q = 0.1, 0.2, 0.3, 0.4 its part is 0.3 of 0.8."""
    p, q = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).double(), torch.tensor([[0.1, 0.2, 0.3, 0.4]]).double()
    forward, reverse = (float((a * (a / b).log()).sum()) for a, b in ((p, q), (q, p)))
    nats, _ = AdaptiveKL().value_and_gradient(q.log(), Signal(p.log()), Chunk(torch.tensor([0]), torch.ones(1)))
    assert float(nats) == pytest.approx(0.375 * forward + 0.625 * reverse)
    assert [float(least_of_head(p, mu)) for mu in (0.5, 0.75, 0.1)] == pytest.approx(
        [0.4, 0.3, 0.4]
    )  # the first always


# --- DKD --------------------------------------------------------------------------------------------------------------


def test_dkd_with_the_teachers_doubt_as_weight_is_forward_kl():
    logits, signal, chunk = position(n=1)
    doubt = 1 - signal.logits.softmax(-1)[0, chunk.targets[0]]
    nats, gradient = DKD(alpha=1.0, beta=float(doubt)).value_and_gradient(logits, signal, chunk)
    expected, slope = ForwardKL().value_and_gradient(logits, signal, chunk)
    torch.testing.assert_close(nats, expected)
    torch.testing.assert_close(gradient, slope)


# --- CTKD -------------------------------------------------------------------------------------------------------------


def test_ctkd_learns_the_temperature_up_the_loss():
    logits, signal, chunk = position()
    objective = CTKD(start=5.0, ramp=0.0)
    (theta,) = objective.parameters()
    optimizer = torch.optim.SGD([theta], lr=1e-3)
    values = []
    for _ in range(5):
        optimizer.zero_grad()
        nats, _ = objective.value_and_gradient(logits, signal, chunk)
        nats.sum().backward()
        values.append(float(nats.detach().sum()))
        optimizer.step()
    assert all(later > earlier for earlier, later in pairwise(values))


def test_ctkd_closed_form_has_the_reversed_gradient_of_theta():
    logits, signal, chunk = position()
    objective = CTKD(start=3.0, ramp=0.0).double()
    (theta,) = objective.parameters()
    factor = torch.rand(len(logits), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    closed = torch.autograd.grad(objective.value_and_gradient(logits, signal, chunk)[0], theta, factor)[0]
    formula = torch.autograd.grad(objective(logits, signal, chunk), theta, factor)[0]
    torch.testing.assert_close(closed, formula)

    def loss(value):
        with torch.no_grad():
            theta.fill_(value)
            return (factor * objective(logits, signal, chunk)).sum()

    at, step = float(theta.detach()), 1e-5
    uphill = (loss(at + step) - loss(at - step)) / (2 * step)
    torch.testing.assert_close(closed, -uphill, rtol=1e-6, atol=0)


def test_ctkd_reversal_grows_over_the_ramp():
    objective = CTKD(start=3.0, ramp=0.5)
    objective.begin(8)
    strengths = [float(objective.reversal)]
    for _ in range(8):
        objective.advance(1.0)
        strengths.append(float(objective.reversal))
    assert strengths == sorted(strengths)
    assert strengths[0] == 0
    assert strengths[2] == pytest.approx(0.5)
    assert strengths[4:] == [1.0] * 5


# --- TAID -------------------------------------------------------------------------------------------------------------


@given(t=st.floats(0, 1, allow_subnormal=False), seed=st.integers(0, 1000))
def test_taid_gradient_is_q_less_the_mixture(t, seed):
    logits, signal, chunk = position(seed=seed)
    objective = TAID(start=t)
    mixture = ((1 - t) * logits + t * signal.logits).softmax(-1)
    gradient = objective.value_and_gradient(logits, signal, chunk)[1]
    torch.testing.assert_close(gradient, logits.softmax(-1) - mixture)


def test_taid_at_its_ends_is_forward_kl_and_nothing():
    logits, signal, chunk = position()
    expected = ForwardKL().value_and_gradient(logits, signal, chunk)
    for got, wanted in zip(TAID(start=1.0).value_and_gradient(logits, signal, chunk), expected, strict=True):
        torch.testing.assert_close(got, wanted)
    assert TAID(start=0.0).value_and_gradient(logits, signal, chunk)[0].max() < 1e-12


def test_taid_moves_once_per_step_and_never_in_evaluation():
    logits, signal, chunk = position()
    objective = TAID()
    objective.begin(100)
    state = {k: v.clone() for k, v in objective.state_dict().items()}
    for _ in range(20):
        objective(logits, signal, chunk)
        objective.value_and_gradient(logits, signal, chunk)
    assert all(torch.equal(v, state[k]) for k, v in objective.state_dict().items())
    objective.advance(2.0)
    assert objective.t == pytest.approx(0.4 + 0.6 / 100)
    assert objective.step == 1


def test_taid_adaptive_follows_the_paper():
    objective = TAID(start=0.2, alpha=0.05, beta=0.9)
    objective.begin(1000)
    t, momentum, losses = 0.2, 0.0, [3.0, 2.5, 2.7, 1.9]
    for n, loss in enumerate(losses, start=1):
        linear = 0.2 + 0.8 * n / 1000
        if n > 1:
            momentum = 0.9 * momentum + 0.1 * (losses[n - 2] - loss) / (losses[n - 2] + 1e-15)
            t = max(linear, t + 0.05 / (1 + math.exp(-momentum)) * (1 - t))
        else:
            t = linear
        objective.advance(loss)
        assert objective.t == pytest.approx(t)


def test_taid_state_is_saved_and_restored():
    first = TAID()
    first.begin(50)
    for n in range(10):
        first.advance(3.0 - 0.1 * n)
    second = TAID()
    second.begin(50)
    second.load_state_dict(first.state_dict())
    for objective in (first, second):
        objective.advance(1.5)
    assert first.state_dict() == second.state_dict()
    first.begin(50)
    assert float(first.t) == 0.4
    assert int(first.step) == 0


@pytest.mark.parametrize("schedule", ["adaptive", "linear", "exp"])
@given(steps=st.integers(1, 60), losses=st.lists(st.floats(1e-3, 20), min_size=1, max_size=60))
def test_taid_t_only_rises_and_stays_in_range(schedule, steps, losses):
    objective = TAID(start=0.3, end=0.9, schedule=schedule)
    objective.begin(steps)
    before = 0.3
    for loss in losses:
        objective.advance(loss)
        assert before <= float(objective.t) <= 0.9
        before = float(objective.t)


def test_taid_schedules_are_what_they_say():
    ends = {}
    for schedule in ("adaptive", "linear", "exp"):
        objective = TAID(schedule=schedule)
        objective.begin(200)
        path = []
        for _ in range(200):
            objective.advance(2.0)  # a loss that stands still
            path.append(float(objective.t))
        ends[schedule] = path
    assert ends["linear"][99] == pytest.approx(0.7)
    assert ends["linear"][-1] == ends["adaptive"][-1] == 1.0
    assert ends["exp"][49] == pytest.approx(1 - 0.6 * math.exp(-8 / 200 * 50 / 2))
    assert ends["adaptive"][49] == pytest.approx(ends["exp"][49], abs=0.01)


def test_taid_auto_alpha_makes_the_path_independent_of_the_number_of_steps():
    halfway = []
    for steps in (100, 1000):
        objective = TAID()
        objective.begin(steps)
        for _ in range(steps // 4):
            objective.advance(2.0)
        halfway.append(float(objective.t))
    assert halfway[0] == pytest.approx(halfway[1], abs=0.01)
    assert halfway[0] > 0.4 + 0.6 / 4 + 0.1


def test_taid_without_begin_names_what_to_call():
    with pytest.raises(BadObjective, match=r"call begin\(steps\) before the first step"):
        TAID().advance(1.0)


# --- sums -------------------------------------------------------------------------------------------------------------


def test_sums_are_flat_and_weighted():
    total = 2 * (0.5 * CrossEntropy() + ForwardKL()) + ReverseKL() * 0.25
    assert [(weight, type(term).__name__) for weight, term in total] == [
        (1.0, "CrossEntropy"),
        (2.0, "ForwardKL"),
        (0.25, "ReverseKL"),
    ]
    assert total.needs_teacher
    assert not (0.5 * CrossEntropy() + CrossEntropy()).needs_teacher


def test_sum_has_the_state_and_parameters_of_its_terms():
    total = 0.5 * TAID() + 0.5 * CTKD(ramp=0.0)
    total.begin(10)
    total.advance(2.0)
    assert float(total.state_dict()["terms.0.t"]) > 0.4
    assert len(list(total.parameters())) == 1
    logits, signal, chunk = position()
    nats, _ = total.value_and_gradient(logits, signal, chunk)
    nats.sum().backward()
    assert next(total.parameters()).grad != 0


def test_a_users_omission_is_an_error():
    class Averages(Objective):
        def forward(self, logits, signal, chunk):
            return logits.logsumexp(-1).mean()

    class Constant(Objective):
        def forward(self, logits, signal, chunk):
            return signal.logits.logsumexp(-1)

    logits, signal, chunk = position()
    with pytest.raises(BadObjective, match=r"one number for each of 7 positions, shape \(7,\), but gave shape \(\)"):
        Averages().value_and_gradient(logits, signal, chunk)
    with pytest.raises(BadObjective, match="expected a loss that depends on the student's logits"):
        Constant().value_and_gradient(logits, signal, chunk)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ForwardKL(temperature=0), r"ForwardKL: temperature must be a number > 0, got 0"),
        (lambda: ForwardKL(temperature=math.nan), "got nan"),
        (lambda: ForwardKL(temperature="hot"), "got 'hot'"),
        (lambda: SkewKL(alpha=1.5), r"SkewKL: alpha must be a number with 0 < alpha < 1, got 1.5"),
        (lambda: SkewReverseKL(alpha=-0.1), r"SkewReverseKL: alpha must be a number with 0 < alpha < 1, got -0.1"),
        (lambda: JensenShannon(beta=0), r"JensenShannon: beta must be a number with 0 < beta < 1, got 0"),
        (lambda: AdaptiveKL(mu=1), r"AdaptiveKL: mu must be a number with 0 < mu < 1, got 1"),
        (lambda: DKD(alpha=-1), r"DKD: alpha must be a number with 0 <= alpha"),
        (lambda: DKD(alpha=0, beta=0), "expected alpha or beta to be > 0, got 0 for both"),
        (lambda: CTKD(low=4.0, start=2.0), "start must lie between low and high, got low=4.0, start=2.0, high=21.0"),
        (lambda: TAID(start=1.2), r"TAID: start must be a number with 0 <= start <= 1, got 1.2"),
        (lambda: TAID(start=0.9, end=0.5), "start must be <= end, got start=0.9, end=0.5"),
        (lambda: TAID(alpha=0), r"TAID: alpha \(or 'auto'\) must be a number > 0, got 0"),
        (lambda: TAID(beta=1.0), r"TAID: beta must be a number with 0 < beta < 1, got 1.0"),
        (lambda: TAID(schedule="cosine"), "schedule must be one of adaptive, linear, exp, got 'cosine'"),
        (lambda: -1 * ForwardKL(), r"the weight of ForwardKL\(temperature=1.0\) must be a number > 0, got -1"),
    ],
)
def test_parameters_out_of_range_are_named_with_their_range(make, message):
    with pytest.raises(BadObjective, match=message):
        make()


# --- Ramp -------------------------------------------------------------------------------------------------------------


@given(start=st.floats(0, 1, allow_subnormal=False), done=st.integers(0, 10))
def test_a_ramp_weighs_what_it_ramps_and_moves_once_per_step(start, done):
    logits, signal, chunk = position()
    objective = Ramp(of=ReverseKL(), start=start)
    objective.begin(10)
    for _ in range(done):
        objective.advance(1.0)
    weight = start + (1 - start) * done / 10
    expected = ReverseKL().value_and_gradient(logits, signal, chunk)
    for got, wanted in zip(objective.value_and_gradient(logits, signal, chunk), expected, strict=True):
        torch.testing.assert_close(got, weight * wanted)
    objective.begin(10)
    assert float(objective.weight) == start


def test_a_ramp_saves_its_own_state_and_that_of_what_it_ramps():
    first, second = Ramp(of=TAID()), Ramp(of=TAID())
    for objective in (first, second):
        objective.begin(50)
    for n in range(10):
        first.advance(3.0 - 0.1 * n)
    second.load_state_dict(first.state_dict())
    for objective in (first, second):
        objective.advance(1.5)
    assert first.state_dict() == second.state_dict()
    assert float(first.weight) == pytest.approx(0.4 + 0.6 * 11 / 50)
    assert int(first.of.step) == 11


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"of": "ForwardKL"}, r"one objective, as in Ramp\(of=ForwardKL\(\)\), got 'ForwardKL'; ramps add up"),
        ({"of": 0.5 * ForwardKL()}, r"got 0.5 \* ForwardKL\(temperature=1.0\); ramps add up"),
        ({"start": 2.0}, "Ramp: start must be a number with 0 <= start <= 1, got 2.0"),
        ({"start": 0.5, "end": 0.2}, "rises, so start must be <= end, got start=0.5, end=0.2"),
    ],
)
def test_a_ramp_that_cannot_be_is_refused(values, message):
    with pytest.raises(BadObjective, match=message):
        Ramp(**values)


def test_a_ramp_must_know_its_way():
    with pytest.raises(BadObjective, match="Ramp: the number of steps is not set"):
        Ramp().advance(1.0)


def test_taid_with_the_papers_alpha_is_linear_below_four_thousand_steps_with_a_note():
    """A step adds alpha / 2 of what is left to 1, and the ramp 1 / steps of the whole way: less where alpha x steps < 2."""
    paper, ramp = TAID(alpha=5e-4), TAID(schedule="linear")
    for objective in (paper, ramp):
        objective.begin(400)
    for n in range(400):
        for objective in (paper, ramp):
            objective.advance(3.0 * 0.995**n * (1.05 if n % 2 else 0.95))
        assert float(paper.t) == float(ramp.t)
    assert "has no effect" in paper.remark(400)
    assert "has no effect" not in paper.remark(5000)
    assert "fixed by alpha" in TAID().remark(400)
    assert ramp.remark(400) == ""
