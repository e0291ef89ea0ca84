"""Every mixer: its forms agree, it sees its own document's past alone, and it equals its paper or Transformers.

All in float64 and tiny, so that what differs is a fault and no rounding.
"""

import math
import sys
from dataclasses import replace
from itertools import pairwise
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import Mamba2Config, MambaConfig, RwkvConfig
from transformers.models.mamba.modeling_mamba import MambaMixer
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer
from transformers.models.rwkv.modeling_rwkv import RwkvSelfAttention

from limbeck.errors import BadModel
from limbeck.models.mixers import decay, delta, gla, selective
from limbeck.models.mixers.convolution import ShortConv, long_convolution
from limbeck.models.mixers.decay import decaying_sums
from limbeck.models.mixers.delta import Gates, delta_rule
from limbeck.models.mixers.documents import Documents
from limbeck.models.mixers.gla import channelwise_sums
from limbeck.models.mixers.linear import MAPS, taylor
from limbeck.models.mixers.mixer import Dims, Mixer, multiplied
from limbeck.models.mixers.named import MIXERS
from limbeck.models.mixers.norm import RMSNorm
from limbeck.models.mixers.pattern import build, parse, pattern_of
from limbeck.models.mixers.rwkv4 import wkv
from limbeck.models.mixers.scan import scan
from limbeck.models.mixers.selective import selective_scan
from limbeck.models.mixers.ssm import SPECTRA, DiagonalSSM

DIMS = Dims(width=8, heads=2, kv_heads=1, head_dim=4, layer=1, layers=3, length=40, chunk=8)
PATTERNS = [
    *("attention", "attention:rope=false", "swa:5", "swa:3,rope=false", "repeats", "topk:30", "conv", "conv:2"),
    "longconv",
    *("longconv:implicit,gated=true", "linear:elu", "linear:taylor,features=3", "linear:identity", "based:4", "retnet"),
    *("retnet:1", "gla", "deltanet", "gdn", "h3:8", "hyena", "mamba:4", "mamba2:state=6,head=4", "rwkv4"),
    *(f"s4d:{spectrum},state=6,method={method}" for spectrum in SPECTRA for method in ("zoh", "bilinear")),
]
SPARSE = "topk:3"  # which changes few tokens, so a test that needs all of them changed would fail
T = 23
# Three documents; one that continues into a second; padding on the left, as masks and as generation count it.
POSITION = torch.stack(
    [
        torch.cat([torch.arange(5), torch.arange(11), torch.arange(7)]),
        torch.cat([torch.arange(22), torch.arange(1)]),
        torch.cat([torch.zeros(4, dtype=torch.long), torch.arange(19)]),
        torch.cat([torch.ones(4, dtype=torch.long), torch.arange(19)]),
    ]
)
TOKENS = torch.randint(5, POSITION.shape, generator=torch.Generator().manual_seed(0))
PACKED = Documents.of(POSITION, TOKENS)


def one(length: int) -> Documents:
    """A row that is one document."""
    return Documents.alone(1, length, tokens=torch.arange(length)[None] % 6)


@pytest.fixture(autouse=True)
def _exact():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def rows(*, count: int = len(POSITION), length: int = T) -> torch.Tensor:
    return torch.randn(count, length, DIMS.width)


def made(text: str, dims: Dims = DIMS) -> Mixer:
    return build(text, dims).eval()


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-12) -> None:
    assert a.shape == b.shape
    a, b = a.detach(), b.detach()
    assert (a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max()))


def test_every_mixer_is_tested():
    assert {text.partition(":")[0] for text in PATTERNS} == set(MIXERS), "add a pattern of the new mixer to PATTERNS"


@pytest.mark.parametrize("text", [*PATTERNS, SPARSE])
@torch.no_grad()
def test_parallel_recurrent_and_chunked_forms_agree_also_in_pieces(text):
    mixer, x, documents = made(text), rows(), PACKED
    y, none = mixer(x, documents)
    assert none is None
    close(mixer.parallel(x, documents), y)
    close(mixer.recurrent(x, documents)[0], y)
    state, pieces = mixer.fresh(x), []
    for start, stop in ((0, 6), (6, 7), (7, 19), (19, T)):
        piece, state = mixer(x[:, start:stop], documents.piece(start, stop), state)
        pieces.append(piece)
    close(torch.cat(pieces, 1), y)


@pytest.mark.parametrize("text", [*PATTERNS, SPARSE])
@torch.no_grad()
def test_a_packed_or_padded_row_is_each_document_alone(text):
    mixer, x = made(text), rows()
    y, _ = mixer(x, PACKED)
    for row, pieces in enumerate([((0, 5), (5, 16), (16, 23)), ((0, 22), (22, 23)), ((4, 23),), ((4, 23),)]):
        for start, stop in pieces:
            here = Documents.alone(1, stop - start, tokens=TOKENS[row : row + 1, start:stop])
            alone, _ = mixer(x[row : row + 1, start:stop], here)
            close(y[row : row + 1, start:stop], alone)


@pytest.mark.parametrize("text", PATTERNS)
@torch.no_grad()
def test_a_later_token_changes_nothing_before_it_and_an_earlier_one_does(text):
    mixer, x = made(text), rows(count=1)
    documents = one(T)
    changed = x.clone()
    changed[:, 12] += 1
    y, z = mixer(x, documents)[0], mixer(changed, documents)[0]
    assert torch.allclose(y[:, :12], z[:, :12], rtol=0, atol=1e-13)
    assert (y - z)[:, 12:14].abs().amax((0, 2)).min() > 1e-9


@pytest.mark.parametrize("text", [*PATTERNS, SPARSE])
def test_gradients_reach_every_parameter_and_are_those_of_the_recurrence(text):
    mixer, x, documents = made(text), rows(), PACKED
    into = torch.randn_like(x)
    chunked = torch.autograd.grad((mixer(x, documents)[0] * into).sum(), list(mixer.parameters()))
    recurrent = torch.autograd.grad((mixer.recurrent(x, documents)[0] * into).sum(), list(mixer.parameters()))
    for (name, _), a, b in zip(mixer.named_parameters(), chunked, recurrent, strict=True):
        assert a.isfinite().all(), name
        assert a.abs().sum() > 0, name
        close(a, b, 1e-9)


@pytest.mark.parametrize("text", [*PATTERNS, SPARSE])
@torch.no_grad()
def test_state_bytes_are_those_of_the_state(text):
    mixer = made(text)
    for length in (1, 2, 9, 41):
        x = rows(count=1, length=length)
        _, state = mixer(x, one(length), mixer.fresh(x))
        assert mixer.state_bytes(length) == sum(part.nbytes for part in state.values())


@pytest.mark.parametrize("text", [*PATTERNS, SPARSE])
@torch.no_grad()
def test_a_text_longer_than_the_longest_is_read_the_same_in_pieces(text):
    mixer, x = made(text), rows(count=1, length=50)
    documents = one(50)
    first, state = mixer(x[:, :30], documents.piece(0, 30), mixer.fresh(x))
    second, _ = mixer(x[:, 30:], documents.piece(30, 50), state)
    close(torch.cat([first, second], 1), mixer(x, documents)[0])


@pytest.mark.parametrize("text", PATTERNS)
def test_autocast_rounds_the_maps_and_not_the_sums(text):
    torch.set_default_dtype(torch.float32)
    mixer, x, documents = made(text), rows().float(), PACKED
    wide = mixer(x, documents)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow, _ = mixer(x, documents)
    assert (narrow - wide).norm() < 0.03 * wide.norm()
    narrow.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in mixer.parameters())


@pytest.mark.parametrize("text", ["longconv:implicit", "hyena"])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_filter_of_many_taps_is_not_rounded(text, kind):
    torch.set_default_dtype(torch.float32)
    mixer = build(text, replace(DIMS, length=4096)).to(kind)
    exact = build(text, replace(DIMS, length=4096)).double()
    exact.load_state_dict(mixer.state_dict())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mixer.filter()
    torch.testing.assert_close(found.double(), exact.filter(), atol=1e-5, rtol=1e-4)


# The recurrences, against loops


@st.composite
def packed(draw):
    """Positions of two rows of at most 20 tokens in random documents. The first of each row may continue an earlier one."""
    length = draw(st.integers(1, 20))
    found = []
    for _ in range(2):
        position, place = [], draw(st.sampled_from([0, 3]))
        for _ in range(length):
            position.append(place)
            place = 0 if draw(st.integers(0, 4)) == 0 else place + 1
        found.append(position)
    return torch.tensor(found)


def read(position: torch.Tensor, update, answer, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A recurrence, token by token and row by row: state ← update(b, t, state), 0 at the start of a document, then the output."""
    out, after = [], []
    for b in range(position.shape[0]):
        now, line = state[b], []
        for t in range(position.shape[1]):
            now = update(b, t, now * float(position[b, t] > 0))
            line.append(answer(b, t, now))
        out.append(torch.stack(line))
        after.append(now)
    return torch.stack(out), torch.stack(after)


@given(packed(), st.sampled_from([1, 4, 16]), st.booleans())
def test_decaying_sums_are_the_recurrence(position, size, decays):
    b, t = position.shape
    q, k, v, before = torch.randn(b, 1, t, 3), torch.randn(b, 1, t, 3), torch.randn(b, 2, t, 5), torch.randn(b, 2, 3, 5)
    log = -3 * torch.rand(b, 2, t) if decays else None
    a = torch.zeros(b, 2, t).exp() if log is None else log.exp()
    y, after = decaying_sums(q, k, v, log, documents=Documents.of(position), before=before, size=size)
    expected = read(
        position,
        lambda r, i, s: a[r, :, i, None, None] * s + k[r, :, i, :, None] * v[r, :, i, None, :],
        lambda r, i, s: (q[r, :, i, :, None] * s).sum(-2),
        before,
    )
    close(y, expected[0].transpose(1, 2))
    close(after, expected[1])


@given(packed(), st.sampled_from([1, 4, 16]), st.booleans())
def test_the_delta_rule_is_the_recurrence(position, size, decays):
    b, t = position.shape
    q, v, before = torch.randn(b, 2, t, 3), torch.randn(b, 2, t, 5), torch.randn(b, 2, 3, 5)
    k = F.normalize(torch.randn(b, 2, t, 3), dim=-1)
    log, strength = (-3 * torch.rand(b, 2, t) if decays else None), torch.rand(b, 2, t)
    a = torch.ones(b, 2, t) if log is None else log.exp()
    y, after = delta_rule(q, k, v, Gates(strength, log), documents=Documents.of(position), before=before, size=size)

    def update(r, i, s):
        s = a[r, :, i, None, None] * s
        error = v[r, :, i] - (k[r, :, i, :, None] * s).sum(-2)
        return s + strength[r, :, i, None, None] * k[r, :, i, :, None] * error[:, None, :]

    expected = read(position, update, lambda r, i, s: (q[r, :, i, :, None] * s).sum(-2), before)
    close(y, expected[0].transpose(1, 2), 1e-10)
    close(after, expected[1], 1e-10)


@given(packed(), st.sampled_from([1, 4, 16]))
def test_channelwise_sums_are_the_recurrence(position, size):
    b, t = position.shape
    q, k, v, before = torch.randn(b, 2, t, 3), torch.randn(b, 2, t, 3), torch.randn(b, 2, t, 5), torch.randn(b, 2, 3, 5)
    log = -3 * torch.rand(b, 2, t, 3)
    y, after = channelwise_sums(q, k, v, log, documents=Documents.of(position), before=before, size=size)
    expected = read(
        position,
        lambda r, i, s: log.exp()[r, :, i, :, None] * s + k[r, :, i, :, None] * v[r, :, i, None, :],
        lambda r, i, s: (q[r, :, i, :, None] * s).sum(-2),
        before,
    )
    close(y, expected[0].transpose(1, 2))
    close(after, expected[1])


def test_a_decay_that_is_all_but_total_overflows_nowhere():
    torch.set_default_dtype(torch.float32)
    q, k, v = (torch.randn(1, 1, 40, 4, requires_grad=True) for _ in range(3))
    documents = Documents.alone(1, 40)
    for y, _ in (
        channelwise_sums(q, k, v, torch.full((1, 1, 40, 4), -200.0), documents=documents, before=None, size=16),
        decaying_sums(q, k, v, torch.full((1, 1, 40), -200.0), documents=documents, before=None, size=16),
    ):
        close(y, (q * k).sum(-1, keepdim=True) * v, 1e-5)  # each token sees itself alone
        assert all(grad.isfinite().all() for grad in torch.autograd.grad(y.sum(), (q, k, v)))


@given(st.integers(1, 30), st.booleans())
def test_the_scan_is_the_recurrence_and_so_is_its_gradient(length, remembers):
    a, b = torch.rand(2, length, 3), torch.randn(2, length, 3)
    a[0, length // 2] = 0
    before = torch.randn(2, 3) if remembers else None
    inputs = [part.requires_grad_() for part in (a, b, before) if part is not None]
    h, expected = before if remembers else torch.zeros(2, 3), []
    for t in range(length):
        h = a[:, t] * h + b[:, t]
        expected.append(h)
    into = torch.randn(2, length, 3)
    theirs = torch.autograd.grad((torch.stack(expected, 1) * into).sum(), inputs)
    y = scan(a, b, before)
    close(y, torch.stack(expected, 1))
    for ours, other in zip(torch.autograd.grad((y * into).sum(), inputs), theirs, strict=True):
        close(ours, other)


@pytest.mark.parametrize("numbers", [1, 2**20])
def test_the_gradient_of_mambas_scan_is_its_derivative(numbers, monkeypatch):
    monkeypatch.setattr(selective, "_CACHED", numbers)
    start = torch.zeros(2, 20, dtype=torch.bool)
    start[0, 7] = start[1, 0] = start[1, 17] = True
    shapes = [(2, 20, 2), (2, 20, 2), (3, 2), (2, 20, 3), (2, 20, 3), (2, 3, 2)]
    inputs = tuple(torch.rand(shape, requires_grad=True) for shape in shapes)

    def run(u, delta, a, b, c, before):
        return selective_scan(u, delta, -a, b, c, start=start, before=before)

    assert torch.autograd.gradcheck(run, inputs, atol=1e-7)


@given(packed())
def test_a_convolution_stays_in_its_document(position):
    b, t = position.shape
    u, filters, recent = torch.randn(b, t, 3), torch.randn(6, 3), torch.randn(b, 5, 3)
    documents, everything = Documents.of(position), torch.cat([recent, u], 1)
    expected = torch.zeros(b, t, 3)
    for row in range(b):
        for i in range(t):
            for back in range(min(6, int(documents.reach[row, i]) + 1)):
                expected[row, i] += filters[back] * everything[row, 5 + i - back]
    y, after = long_convolution(u, filters, documents, recent)
    close(y, expected)
    close(after, everything[:, -5:])
    short = ShortConv(3, 6)
    short.weight.data = filters.flip(0).mT.contiguous()
    close(short(u, documents, recent)[0], expected)


# The papers' statements


@given(packed())
def test_documents_apart_take_less_than_twice_their_tokens(position):
    documents = Documents.of(position)
    groups = list(documents.apart())
    assert torch.cat([group.tokens for group in groups]).sort().values.equal(torch.arange(position.numel()))
    for group in groups:
        assert len(group.place.unique()) == len(group.tokens) > math.prod(group.shape) / 2
        assert int(group.place.max()) < math.prod(group.shape)


@pytest.mark.parametrize(("position", "held"), [([[0, 1, 2, 3, 4]], 0), ([[0, 1, 0, 1, 2], [3, 4, 5, 0, 0]], 2)])
def test_the_gradient_of_a_short_convolution_is_its_derivative(position, held):
    position = torch.tensor(position)
    conv = ShortConv(3, 4, bias=True)
    u = torch.randn(*position.shape, 3, requires_grad=True)
    recent = torch.randn(len(position), held, 3, requires_grad=True) if held else None

    def outputs(u, *parameters):
        state, *values = parameters if held else (None, *parameters)
        named = dict(zip(("weight", "bias"), values, strict=True))
        return torch.func.functional_call(conv, named, (u, Documents.of(position), state))

    torch.autograd.gradcheck(outputs, (u, *((recent,) if held else ()), conv.weight, conv.bias))


@pytest.mark.parametrize("shape", [(5,), (2, 3, 5)])
def test_a_norm_is_that_of_pytorch_and_so_is_its_gradient(shape):
    ours, theirs = RMSNorm(5, 1e-3), torch.nn.RMSNorm(5, 1e-3)
    for norm in (ours, theirs):
        norm.weight.data.copy_(torch.arange(5) - 1.5)
    x = torch.randn(shape, requires_grad=True)
    y, z = ours(x), theirs(x)
    torch.testing.assert_close(y, z)
    back = torch.randn(shape)
    found, expected = (torch.autograd.grad(each, (x, norm.weight), back) for each, norm in ((y, ours), (z, theirs)))
    torch.testing.assert_close(found, expected)
    torch.autograd.gradcheck(ours, (x,))
    once = torch.autograd.grad(ours(x).sum(), x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="does not require grad"):
        once.sum().backward()


@pytest.mark.parametrize("name", ["elu", "taylor"])
@torch.no_grad()
def test_linear_attention_is_a_weighted_mean(name):
    mixer, x = made(f"linear:{name},features=3"), rows(count=1)
    q, k = (
        MAPS[name](F.linear(x, part.weight).unflatten(-1, (2, 3)).transpose(1, 2))
        for part in (mixer.q_proj, mixer.k_proj)
    )
    weights = (q @ k.mT).tril()
    v = mixer.v_proj(x).unflatten(-1, (2, 4)).transpose(1, 2)
    y = (weights / weights.sum(-1, keepdim=True)) @ v
    close(mixer(x, Documents.alone(1, T))[0], mixer.o_proj(y.transpose(1, 2).flatten(2)))


def test_the_taylor_map_is_the_expansion_of_exp_to_second_order():
    q, k = torch.randn(50, 4), torch.randn(50, 4)
    s = (q * k).sum(-1) / 2
    close((taylor(q) * taylor(k)).sum(-1), 1 + s + s**2 / 2)
    assert taylor(q).shape[-1] == 1 + 4 + 16


@torch.no_grad()
def test_a_window_sees_itself_and_the_tokens_just_before():
    mixer, x = made("swa:5,rope=false"), rows(count=1)
    q = mixer.q_proj(x).unflatten(-1, (2, 4)).transpose(1, 2)
    k, v = (project(x)[:, None] for project in (mixer.k_proj, mixer.v_proj))
    back = torch.arange(T)[:, None] - torch.arange(T)
    scores = (q @ k.mT / 2).masked_fill((back < 0) | (back >= 5), -math.inf)
    close(mixer(x, Documents.alone(1, T))[0], mixer.o_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)))


@torch.no_grad()
def test_attention_of_repeats_is_attention_where_a_token_occurred_before_in_its_document():
    mixer, plain, x = made("repeats"), made("attention"), rows()
    plain.load_state_dict(mixer.state_dict())
    y, attended = mixer(x, PACKED)[0], plain(x, PACKED)[0]
    for b in range(len(x)):
        for t in range(T):
            past = TOKENS[b, t - int(PACKED.reach[b, t]) : t]
            close(y[b, t], attended[b, t] * float(TOKENS[b, t] in past))
    with pytest.raises(BadModel, match="give input_ids, not inputs_embeds"):
        mixer(x, Documents.of(POSITION[:, :T]))


@torch.no_grad()
def test_topk_attends_where_a_score_is_among_the_highest_of_its_document_so_far():
    mixer, plain, x = made(SPARSE), made("attention"), rows()
    plain.load_state_dict({name: p for name, p in mixer.state_dict().items() if "score" not in name})
    x[:, 8] = x[:, 7]  # of equal scores the earlier is higher
    score = mixer.score(x)[..., 0]
    chosen, attended = torch.zeros(len(x), T), plain(x, PACKED)[0]
    for b in range(len(x)):
        for t in range(T):
            before = score[b, t - int(PACKED.reach[b, t]) : t]
            chosen[b, t] = float((before >= score[b, t]).sum() < 3)
    assert 0 < chosen.sum() < 0.8 * chosen.numel()
    close(mixer(x, PACKED)[0], attended * (score.sigmoid() * chosen)[..., None])
    close(mixer.train()(x, PACKED)[0], attended * score.sigmoid()[..., None])


@pytest.mark.parametrize(("length", "k"), [(36, 6), (37, 7), (1, 1)])
def test_topk_chooses_as_many_as_the_root_of_the_longest_text(length, k):
    assert made("topk", replace(DIMS, length=length)).k == k


@torch.no_grad()
def test_what_topk_leaves_alone_follows_from_no_later_token():
    mixer, x = made(SPARSE), rows(count=1)
    y = mixer(x, one(T))[0]
    for t in range(1, T):
        close(mixer(x[:, :t], one(t))[0], y[:, :t])


@torch.no_grad()
def test_retention_is_its_parallel_formula():
    mixer, x = made("retnet"), rows(count=1)
    position = torch.arange(T)
    gamma = 1 - 2.0 ** (-5 - torch.arange(2))
    fades = gamma[:, None, None] ** (position[:, None] - position).clamp_min(0)
    turn = torch.polar(torch.ones(T, 2), position[:, None] * torch.tensor([1.0, 0.01]))  # theta^(-2i/4)
    q, k, v = (p(x).unflatten(-1, (2, -1)).transpose(1, 2) for p in (mixer.q_proj, mixer.k_proj, mixer.v_proj))
    q, k = (torch.complex(part[..., :2], part[..., 2:]) * turn for part in (q, k))
    y = ((q @ k.mH).real / 2 * fades).tril() @ v
    y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    y = y.transpose(1, 2).flatten(2) * F.silu(mixer.g_proj(x))
    close(mixer(x, Documents.alone(1, T))[0], mixer.o_proj(y), 1e-6)  # angles are float32, as everywhere


@pytest.mark.parametrize("method", ["zoh", "bilinear"])
@torch.no_grad()
def test_a_state_space_is_its_differential_equation_made_discrete(method):
    ssm = DiagonalSSM(1, 4, spectrum="inv", method=method)
    step = float(ssm.log_step.exp())
    a = torch.complex(-ssm.A_log.exp(), ssm.A_imag)
    if method == "zoh":  # x' = A x + u with u held: the exponential of [[A, 1], [0, 0]]
        pairs = [expm(step * torch.tensor([[value, 1], [0, 0]]).numpy()) for value in a.tolist()]
        moves, enters = (torch.tensor([pair[0, i] for pair in pairs]) for i in (0, 1))
    else:  # the trapezoid rule: x_t - x_{t-1} = step (A (x_t + x_{t-1}) / 2 + u_t)
        moves, enters = (1 + step * a / 2) / (1 - step * a / 2), step / (1 - step * a / 2)
    u, state, expected = torch.randn(30), torch.zeros(2, dtype=torch.complex128), []
    for value in u:
        state = moves * state + enters * value
        expected.append(2 * (torch.complex(ssm.C_real, ssm.C_imag) * state).sum().real + ssm.D[0] * value)
    y, _ = ssm(u[None, :, None], Documents.alone(1, 30), None)
    close(y[0, :, 0], torch.stack(expected), 1e-10)


def test_spectra_are_those_of_the_paper():
    # Of N = 64: eigenvalues of the normal part of HiPPO-LegS from numpy.linalg.eigvals of the whole matrix, and the formulas.
    assert SPECTRA["legs"](64, 2)[1, [-1, -2, -3, 0]].imag.tolist() == pytest.approx(
        [1303.3, 433.0, 258.2, 0.264], abs=0.05
    )
    assert SPECTRA["inv"](64, 1)[0, [0, 1, 2, -1]].imag.tolist() == pytest.approx(
        [1283.4, 414.2, 240.4, 0.323], abs=0.05
    )
    assert SPECTRA["lin"](6, 1)[0].imag.tolist() == pytest.approx([0, math.pi, 2 * math.pi])
    assert all((SPECTRA[name](64, 2).real == -0.5).all() for name in ("legs", "inv", "lin"))
    assert SPECTRA["real"](6, 2).tolist() == [[-1, -2, -3, -4, -5, -6]] * 2


def test_a_real_spectrum_stays_real_in_as_many_parameters():
    real, other = made("s4d:init=real,state=6").ssm, made("s4d:init=lin,state=6").ssm
    assert sum(p.numel() for p in real.parameters()) == sum(p.numel() for p in other.parameters())
    assert real.A_imag is None
    assert real.C_imag is None


def test_a_random_spectrum_has_unit_scale_in_every_channel():
    found = SPECTRA["random"](64, 400)
    assert found.shape == (400, 32)
    assert float((-found.real).median()) == pytest.approx(0.5, abs=0.03)
    assert float(found.imag.std()) == pytest.approx(1, abs=0.03)
    assert not (found[0] == found[1]).any()


def test_initial_values_are_those_of_the_papers():
    steps = torch.cat([F.softplus(made("mamba:4").dt_proj.bias) for _ in range(20)])
    assert 1e-3 <= steps.min() < 5e-3 < 0.03 < steps.max() <= 0.1
    assert made("mamba:4").A_log.exp()[:4].tolist() == pytest.approx([1, 2, 3, 4])
    assert torch.cat([made("mamba2:state=6,head=4").A_log.exp() for _ in range(9)]).clamp(1, 16).unique().numel() > 30
    rwkv = made("rwkv4")
    assert rwkv.decay[[0, -1]].tolist() == pytest.approx([-5, 3])
    assert rwkv.first[:3].tolist() == pytest.approx([math.log(0.3), math.log(0.3) + 0.5, math.log(0.3) - 0.5])
    ssm = made("s4d").ssm
    assert ssm.A_log.exp().tolist() == pytest.approx([0.5] * len(ssm.A_log))
    assert -7 < ssm.log_step.min() <= ssm.log_step.max() < -2.3


def test_rwkv_takes_keys_of_any_size():
    torch.set_default_dtype(torch.float32)
    k, v = 60 * torch.randn(1, 40, 3), torch.randn(1, 40, 3)
    w, u, documents = torch.tensor([0.01, 1.0, 20.0]), torch.randn(3), Documents.alone(1, 40)
    y, _ = wkv(k, v, w, u, documents=documents, before=None)
    place = torch.arange(40)
    back = (place[:, None] - place - 1)[..., None]
    exponents = k.double()[0] - back * w.double()
    exponents = torch.where(back == -1, k.double()[0] + u.double(), exponents).masked_fill(back < -1, -math.inf)
    close(y[0].double(), (exponents.softmax(1) * v.double()[0]).sum(1), 1e-4)


# Transformers' own modules, with the same weights


def same(ours: Mixer, theirs: torch.nn.Module, **names: str) -> None:
    given = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        other = given.pop(names.get(name.replace(".", "__"), name))
        assert other.numel() == parameter.numel()
        parameter.data.copy_(other.data.reshape(parameter.shape))
    assert not given


CONV = {"conv__weight": "conv1d.weight", "conv__bias": "conv1d.bias"}


@torch.no_grad()
def test_mamba_is_that_of_transformers():
    config = MambaConfig(hidden_size=8, state_size=4, num_hidden_layers=1)
    theirs, ours = MambaMixer(config, 0).double(), made("mamba:4")
    theirs.conv1d.reset_parameters()
    theirs.out_proj.reset_parameters()
    same(ours, theirs, **CONV)
    x = rows(count=2)
    close(ours(x, Documents.alone(2, T))[0], theirs(x), 1e-6)  # theirs is float32 within


@torch.no_grad()
def test_mamba2_is_that_of_transformers():
    config = Mamba2Config(
        hidden_size=8, state_size=6, num_heads=4, head_dim=4, n_groups=1, chunk_size=8, num_hidden_layers=1,
        layer_norm_epsilon=1e-6,
    )  # fmt: skip
    theirs, ours = Mamba2Mixer(config, 0).double(), made("mamba2:state=6,head=4")
    same(ours, theirs, **CONV)
    x = rows(count=2)
    close(ours(x, Documents.alone(2, T))[0], theirs(x), 1e-6)


@torch.no_grad()
def test_rwkv_is_that_of_transformers():
    theirs, ours = RwkvSelfAttention(RwkvConfig(hidden_size=8, num_hidden_layers=3), 1).double(), made("rwkv4")
    for parameter in (theirs.time_decay, theirs.time_first):
        parameter.normal_()
    for parameter in (theirs.time_mix_key, theirs.time_mix_value, theirs.time_mix_receptance):
        parameter.uniform_()
    names = {"r_blend": "time_mix_receptance", "k_blend": "time_mix_key", "v_blend": "time_mix_value"}
    names |= {"decay": "time_decay", "first": "time_first", "r_proj__weight": "receptance.weight"}
    names |= {"k_proj__weight": "key.weight", "v_proj__weight": "value.weight", "o_proj__weight": "output.weight"}
    same(ours, theirs, **names)
    x = rows(count=2)
    close(ours(x, Documents.alone(2, T))[0], theirs(x)[0], 1e-6)


# The kernels of flash-linear-attention, which need a GPU: here something of the same interface stands in for them


def kernel(step):
    """A recurrence with the arguments of kernels: one row (1, N, H, ...) and the offsets of its documents."""

    def call(*, q, k, v, scale, initial_state, output_final_state, cu_seqlens, **more):
        assert q.shape[0] == 1
        assert output_final_state
        assert len({part.dtype for part in (q, k, v)}) == 1
        assert initial_state.dtype == more["g"].dtype == torch.float32
        out, after = torch.empty_like(v), initial_state.double().clone()
        for document, (start, stop) in enumerate(pairwise(cu_seqlens)):
            for t in range(start, stop):
                here = {name: part[0, t].double() for name, part in (("k", k), ("v", v), *more.items())}
                after[document] = step(after[document], **here)
                out[0, t] = scale * (q[0, t].double()[..., None] * after[document]).sum(-2)
        return out, after

    return call


def _add(s, k, v, g):
    return g.exp()[(...,) + (None,) * (3 - g.ndim)] * s + k[..., None] * v[:, None]


def _replace(s, k, v, g, beta):
    s = g.exp()[:, None, None] * s
    return s + beta[:, None, None] * k[..., None] * (v - (k[..., None] * s).sum(-2))[:, None]


@pytest.mark.parametrize("text", ["retnet", "mamba2:state=6,head=4", "gla", "deltanet", "gdn"])
@torch.no_grad()
def test_the_seam_hands_kernels_what_they_take(text, monkeypatch):
    torch.set_default_dtype(torch.float32)
    for name, call in (("simple_gla", kernel(_add)), ("gla", kernel(_add)), ("gated_delta_rule", kernel(_replace))):
        module = ModuleType(f"fla.ops.{name}")
        setattr(module, f"chunk_{name}", call)
        monkeypatch.setitem(sys.modules, f"fla.ops.{name}", module)
    mixer, x, documents = made(text), rows().float(), PACKED
    first, rest = documents.piece(0, 9), documents.piece(9, T)

    def run():
        y, state = mixer(x[:, :9], first, mixer.fresh(x))
        z, state = mixer(x[:, 9:], rest, state)
        return torch.cat([y, z], 1), [part for name, part in sorted(state.items()) if name != "recent"]

    expected, states = run()
    called = []
    for module in (decay, delta, gla):
        monkeypatch.setattr(module, "have_kernels", lambda q: called.append(1) or True)
    y, others = run()
    assert len(called) == 2
    close(y, expected, 1e-5)
    for ours, theirs in zip(states, others, strict=True):
        close(theirs.float(), ours, 1e-5)


# What a mixer costs: width 8 in 2 heads of 4 channels, chunks of 8 tokens


# What each token takes besides products with weights in a row of 16, by hand from the formulas.
MIXING = {
    "attention": 2 * 2 * 8.5 * 8,  # 8.5 tokens are seen on average, scores and values of 8 channels
    "swa:5": 2 * 2 * (1 + 2 + 3 + 4 + 12 * 5) / 16 * 8,
    "repeats": 2 * 2 * 8.5 * 8,
    "topk:30": 2 * 2 * 8.5 * 8,
    "conv": 0,
    "longconv": (2 * 2.5 * 32 * 5 / 16 + 6) * 8,  # two transforms of 32 numbers, and a complex product for each token
    "hyena": (2 * 2.5 * 32 * 5 / 16 + 6) * 8,
    "s4d:legs,state=6,method=zoh": (2 * 2.5 * 32 * 5 / 16 + 6) * 8,
    "h3:8": 2 * (2 * 2.5 * 32 * 5 / 16 + 6) * 8,
    # of a head: scores with 8 tokens of K channels, as many values of V, K V into the state and out of it
    "linear:elu": 2 * 2 * (8 * 16 + 8 * 5 + 2 * 16 * 5),
    "linear:taylor,features=3": 2 * 2 * (8 * 13 + 8 * 5 + 2 * 13 * 5),
    "linear:identity": 2 * 2 * (8 * 16 + 8 * 4 + 2 * 16 * 4),
    "based:4": 2 * 2 * (8 * 21 + 8 * 5 + 2 * 21 * 5),
    "retnet": 2 * 2 * (8 * 4 + 8 * 8 + 2 * 4 * 8),
    "gla": 2 * (3 * 8 * 2 + 2 * (8 * 4 + 2 * 2 * 4)),
    "mamba2:state=6,head=4": 2 * (8 * 6 + 4 * (8 * 4 + 2 * 6 * 4)),
    # and the triangular system: 8 for each column of K and V, less what is read of the state
    "deltanet": 2 * (2 * (8 * 4 + 8 * 4 + 8 * 4 + 3 * 4 * 4) + 8 * (4 + 4)),
    "gdn": 2 * (2 * (8 * 4 + 8 * 4 + 8 * 8 + 3 * 4 * 8) + 8 * (4 + 8)),
    "mamba:4": 6 * 16 * 4,
    "rwkv4": 8 * 8,
}


@pytest.mark.parametrize("text", MIXING)
def test_flops_are_those_of_the_formulas(text):
    mixer = made(text)
    assert mixer.mixing_flops(16) == pytest.approx(MIXING[text])
    assert mixer.flops(16) - mixer.mixing_flops(16) == 2 * multiplied(mixer)


def test_flops_of_every_mixer_are_counted():
    assert {text.partition(":")[0] for text in MIXING} == set(MIXERS), "add the new mixer's FLOPs to MIXING"


# Taps of short convolutions, and what else is no product of matrices, which torch's counter does not see.
UNSEEN = {
    "conv": 2 * 3 * 8,
    "gla": 2 * 8 * 2,
    "deltanet": 2 * 4 * 24 + 2 * 8 * (4 + 4),
    "gdn": 2 * 4 * 32 + 2 * 8 * (4 + 8),
    "mamba:4": 2 * 4 * 16 + 4 * 16 * 4,
    "mamba2:state=6,head=4": 2 * 4 * 28,
    "rwkv4": 8 * 8,
    "longconv": MIXING["longconv"],
    "s4d:legs,state=6,method=zoh": MIXING["longconv"],
}
# Of attention it counts the whole square, and of windows both blocks.
HIDDEN = {
    **dict.fromkeys(("attention", "repeats", "topk:30"), 2 * 2 * 7.5 * 8),
    "swa:5": 2 * 2 * 10 * 8 * 20 / 16 - MIXING["swa:5"],
}


@pytest.mark.parametrize("text", [text for text in MIXING if text not in ("hyena", "h3:8")])  # filters cost most there
@torch.no_grad()
def test_flops_are_those_that_torch_counts(text):
    mixer, x = made(text), rows(count=64, length=16)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        mixer(x, Documents.alone(64, 16, tokens=torch.zeros(64, 16, dtype=torch.long)))
    seen = counter.get_total_flops() / (64 * 16)
    assert seen == pytest.approx(mixer.flops(16) + HIDDEN.get(text, 0) - UNSEEN.get(text, 0), rel=0.01)


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        *(("attention", 100), ("swa:5", 4), ("topk:3", 100), ("conv", 0), ("longconv", 0), ("rwkv4", 0), ("h3:8", 0)),
        *(("linear:elu", 16), ("based:4", 1 + 4 + 10), ("retnet", 4), ("gla", 2), ("gdn", 4), ("mamba:5", 5)),
        ("mamba2:state=6,head=4", 6),
    ],
)
def test_a_state_keeps_as_many_pairs_apart_as_keys_have_channels(text, pairs):
    assert made(text).pairs(100) == pairs
    assert made(text).pairs(1) == min(1, pairs)


@torch.no_grad()
def test_mapped_keys_of_the_taylor_map_span_the_stated_number_of_dimensions():
    assert torch.linalg.matrix_rank(taylor(torch.randn(100, 4))) == made("based:4").pairs(100)


# Patterns


def test_a_pattern_is_mixers_between_commas():
    assert pattern_of("conv, based,conv,swa:64") == ["conv", "based", "conv", "swa:64"]
    assert pattern_of("attention*1,gdn*3") == ["attention", "gdn", "gdn", "gdn"]
    assert pattern_of("s4d:init=inv,state=32*2,conv") == ["s4d:init=inv,state=32"] * 2 + ["conv"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("conv,bassed", "'bassed': there is no mixer 'bassed', the nearest is 'based'"),
        ("conv,,gla", "'': there is no mixer ''; there are attention"),
        ("gla*0", "'gla*0': expected a whole number from 1 to 1000 behind *, as in gdn*3, got '0'"),
        ("gla*1000000000", "from 1 to 1000 behind *"),
        ("swa:64*2,rope=false", "got '2,rope=false'"),
        ("conv,taps=3", "'taps=3': there is no mixer 'taps=3'"),
    ],
)
def test_what_is_no_pattern_is_an_error(text, message):
    with pytest.raises(BadModel) as error:
        pattern_of(text)
    assert message in str(error.value)


def test_a_pattern_names_a_mixer_and_its_options():
    assert parse("swa") == ("swa", {"window": 64, "rope": True})
    assert parse("swa:32,rope=false") == ("swa", {"window": 32, "rope": False})
    assert parse("s4d:method=bilinear") == ("s4d", {"init": "legs", "state": 64, "method": "bilinear"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "atention",
            "'atention': there is no mixer 'atention', the nearest is 'attention'; there are attention, based, ",
        ),
        ("swa:windw=3", "the mixer swa has no option 'windw', the nearest is 'window'; it takes window, rope"),
        ("gla:8", "the mixer gla has no option ''; it takes none"),
        ("swa:0", "expected window to be a whole number above 0, got '0'"),
        ("swa:3,false", "expected OPTION=VALUE behind the first comma, got 'false'"),
        ("swa:rope=no", "expected rope to be true or false, got 'no'"),
        ("s4d:invv", "expected init to be legs or inv or lin or real or random, got 'invv', the nearest is 'inv'"),
    ],
)
def test_an_unknown_mixer_is_an_error_that_names_the_known_ones(text, message):
    with pytest.raises(BadModel) as error:
        parse(text)
    assert message in str(error.value)


def test_dimensions_that_do_not_fit_are_errors():
    with pytest.raises(BadModel, match="do not make whole heads of 5; give head="):
        build("mamba2:head=5", DIMS)
    with pytest.raises(BadModel, match="expected an even state=, got 5"):
        build("s4d:state=5", DIMS)
