"""Captured outcomes of all tokens, restricted to kept ones: conditional probabilities, and what objectives make of padding."""

import math

import numpy as np
import pytest
import torch

from limbeck.corpora import Rows
from limbeck.objectives import TAID, ForwardKL, JensenShannon, ReverseKL, SkewKL
from limbeck.objectives.outcomes import value_and_gradient
from limbeck.teachers import Coding, LogitCache, NumberedRows, capture_outcomes
from limbeck.teachers.codec import Sampled, TopK
from limbeck.teachers.draw import sample_outcomes
from limbeck.teachers.trimmed import TrimmedCache
from limbeck.types import Chunk, Sparse
from tests.helpers.models import frozen, llama, stores, tokenizer

ROWS, LENGTH = 6, 16


@pytest.fixture
def caches(tmp_path):
    """(all tokens, kept ones, their ids, a batch) of captured outcomes of a kind."""
    tok = tokenizer()
    train, _ = stores(tmp_path, tok)
    teacher, rows = frozen(llama(layers=2, seed=1, tok=tok)), Rows(train, length=LENGTH)
    kept = np.sort(np.random.default_rng(0).permutation(len(tok))[: len(tok) // 2])

    def captured(codec):
        numbered = NumberedRows(rows.rows_of, LENGTH, ROWS, batch_rows=2)
        capture_outcomes(teacher, numbered, tmp_path / "cache", coding=Coding(codec(len(tok)), 3), made_from={})
        batch = rows.rows_of(np.arange(ROWS))
        return LogitCache(tmp_path / "cache"), TrimmedCache(tmp_path / "cache", kept), kept, batch

    return captured


def test_top_outcomes_are_conditional_on_no_dropped_one(caches):
    """p(token | not one of the captured tokens that are left out), and the same of the rest: they sum to 1."""
    whole, trimmed, kept, batch = caches(lambda vocab: TopK(vocab, 6))
    before, after = whole(batch), trimmed(batch)
    seen = 0
    for place in range(len(before.ids)):
        p = dict(zip(before.ids[place].tolist(), before.log_p[place].double().exp().tolist(), strict=True))
        dropped = sum(mass for token, mass in p.items() if token not in kept)
        expected = {
            int(np.searchsorted(kept, token)): mass / (1 - dropped) for token, mass in p.items() if token in kept
        }
        real = after.weight[place] > 0
        if not expected:
            assert not real.any()
            assert after.rest[place] == -math.inf
            assert batch.weight.reshape(-1)[place] == 0 or trimmed.masked(batch).weight.reshape(-1)[place] == 0
            continue
        seen += dropped > 0
        found = dict(zip(after.ids[place][real].tolist(), after.log_p[place][real].exp().tolist(), strict=True))
        assert found == pytest.approx(expected, rel=1e-4)
        rest = float(before.rest[place].double().exp()) / (1 - dropped)
        assert float(after.rest[place].exp()) == pytest.approx(rest, rel=1e-4)
        assert float(after.weight[place].sum() + after.rest[place].exp()) == pytest.approx(1, abs=1e-5)
    assert seen > 20


@pytest.mark.parametrize(
    "objective", [ForwardKL(), ReverseKL(), JensenShannon(), SkewKL(), TAID()], ids=lambda one: type(one).__name__
)
def test_padding_changes_no_objective(objective):
    """The same value and gradient as without it, from outcomes and through the common support."""
    torch.manual_seed(0)
    logits = torch.randn(1, 12, dtype=torch.float64)
    log_p = torch.tensor([[0.5, 0.2, 0.1]], dtype=torch.float64).log()
    rest = torch.tensor([0.2], dtype=torch.float64).log()
    plain = Sparse(torch.tensor([[3, 7, 9]]), log_p, log_p.exp(), 12, rest)
    low = torch.full((1, 1), -60.0, dtype=torch.float64)
    none = torch.zeros(1, 1, dtype=torch.float64)
    padded = Sparse(
        torch.tensor([[3, 3, 7, 3, 9]]),
        torch.cat([log_p[:, :1], low, log_p[:, 1:2], low, log_p[:, 2:]], -1),
        torch.cat([log_p.exp()[:, :1], none, log_p.exp()[:, 1:2], none, log_p.exp()[:, 2:]], -1),
        12,
        rest,
    )
    chunk = Chunk(torch.tensor([7]), torch.ones(1), torch.zeros(1, dtype=torch.int64))
    objective = objective.double()
    objective.begin(10)
    found = [value_and_gradient([(1.0, objective)], logits.clone(), signal, chunk) for signal in (plain, padded)]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-14)
    supports = [torch.stack(signal.against(logits)).exp() for signal in (plain, padded)]
    assert supports[1][:, :, [0, 2, 4, 5]].equal(supports[0])
    assert supports[1][:, :, [1, 3]].max() < 1e-25


def test_sampled_outcomes_estimate_the_kept_mass_without_bias_and_its_quotient_nearly(caches):
    """Over all random numbers of systematic sampling: the mean is the mass; that of a quotient is off by Var/M² at most."""
    generator = torch.Generator().manual_seed(0)
    uniform = (torch.arange(4096) + 0.5) / 4096
    worst = 0.0
    for _ in range(20):
        log_p = (1.5 * torch.randn(1, 60, generator=generator)).log_softmax(-1)
        kept = torch.rand(60, generator=generator) < 0.8
        signal, head = sample_outcomes(log_p.expand(4096, -1).contiguous(), 8, uniform)
        there = kept[signal.ids]
        mass = torch.where(there, signal.weight, 0.0).double().sum(-1)
        true = float(log_p.exp()[0, kept].double().sum())
        assert float(mass.mean()) == pytest.approx(true, abs=2e-3)
        exact = there & (torch.arange(8) < head[:, None])
        share = torch.where(exact, signal.weight, 0.0).double().sum(-1)
        off = abs(float((share / mass).mean()) - float(share[0]) / true)
        bound = float(mass.var()) / float(mass.min()) ** 2
        assert off <= bound + 1e-3
        worst = max(worst, off)
    assert worst > 1e-4  # it is a ratio, and not unbiased


def test_restricted_samples_are_divided_by_their_sum(caches):
    whole, trimmed, kept, batch = caches(lambda vocab: Sampled(vocab, 6))
    before, after = whole(batch), trimmed(batch)
    there = torch.from_numpy(np.isin(before.ids.numpy(), kept))
    mass = torch.where(there, before.weight, 0.0).sum(-1, keepdim=True)
    known = mass.squeeze(-1) > 0
    torch.testing.assert_close(after.weight[known], (torch.where(there, before.weight, 0.0) / mass)[known])
    assert after.rest is None
    assert known.any()
    assert trimmed.vocab == len(kept)
