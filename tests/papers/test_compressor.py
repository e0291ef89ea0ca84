"""The recipe compressor: its published space counted whole, its search, shapes of equal bytes, each verdict, and a tiny run."""

import json
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from transformers import LlamaConfig

import limbeck
from limbeck.jobs.pilot.grid import Scale
from limbeck.models.anatomy import Anatomy
from limbeck.papers import recipe
from limbeck.papers.compressor import recipe as compressor
from limbeck.papers.compressor import space as its_space
from limbeck.papers.compressor.judging import (
    Order,
    judge_choice,
    judge_compute,
    judge_proxy,
    judge_published,
    judge_search,
)
from limbeck.papers.compressor.recipe import rank_correlation, share_found
from limbeck.papers.compressor.shapes import BYTES_APART, Axes, at_equal_bytes
from limbeck.papers.compressor.space import (
    FFN,
    HEADS,
    HIDDEN,
    LAYERS,
    PUBLISHED,
    VOCABULARY,
    Encoder,
    fittest,
    searched,
)
from limbeck.papers.lab.recipe import count_of
from limbeck.probes.interval import Interval
from limbeck.students.shape import Budget
from tests.helpers.models import write_corpus

AXES = (HEADS, HIDDEN, FFN, LAYERS, VOCABULARY)


@pytest.fixture(scope="module")
def best():
    """The fittest point for each published size."""
    return {megabytes: fittest(megabytes) for megabytes in PUBLISHED}


def test_the_space_has_as_many_points_as_the_paper_says():
    assert np.prod([len(axis) for axis in AXES]) == 10_944_000


def test_the_optimum_at_3_megabytes_is_the_published_configuration(best):
    found = best[3]
    assert found == PUBLISHED[3]
    assert found.megabytes() == pytest.approx(3.06164)
    assert found.gflops() == pytest.approx(2.253, abs=5e-4)
    judged = judge_published(3, found)
    assert judged.verdict == "confirmed"
    assert "fitness 2.192" in judged.seen


@pytest.mark.parametrize(
    ("megabytes", "right", "gflops", "theirs"),
    [(25, Encoder(8, 320, 32, 12, 2000), 10.5956, 9.1804), (50, Encoder(8, 448, 160, 12, 1000), 18.5816, 15.8964)],
)
def test_larger_published_configurations_are_beaten_and_lie_outside_of_the_space(
    megabytes, right, gflops, theirs, best
):
    found, published = best[megabytes], PUBLISHED[megabytes]
    assert found == right
    assert (found.gflops(), published.gflops()) == (pytest.approx(gflops, abs=1e-4), pytest.approx(theirs, abs=1e-4))
    judged = judge_published(megabytes, found)
    assert judged.verdict == "refuted"
    assert "16 heads are not in the released space" in judged.seen


def test_the_optimum_is_the_deepest_model_with_almost_the_smallest_vocabulary(best):
    """FLOPs per byte are most in a corner, so that the fitness also prefers what is slowest."""
    assert [(one.layers, one.heads) for one in best.values()] == [(max(LAYERS), max(HEADS))] * 3
    assert max(one.vocab for one in best.values()) == 2000


def test_the_search_stays_in_the_space_and_is_no_fitter_than_the_fittest(best, monkeypatch):
    monkeypatch.setattr(its_space, "_GENERATIONS", 20)
    found = searched(3, seed=1)
    assert all(gene in axis for gene, axis in zip(astuple(found), AXES, strict=True))
    assert 0 < found.fitness(3) <= best[3].fitness(3)
    assert found == searched(3, seed=1)
    monkeypatch.setattr(its_space, "_GENERATIONS", 0)
    assert searched(3, seed=1).fitness(3) < found.fitness(3)


def test_points_as_fit_as_the_fittest_are_found(best):
    beaten = replace(best[3], vocab=2000)
    share = share_found(3, best[3], [best[3], beaten, best[3], best[3]])
    assert (share.value, share.n) == (0.75, 4)


CONFIG = LlamaConfig(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=4,
    num_attention_heads=8,
    tie_word_embeddings=True,
)


def test_shapes_of_equal_bytes_go_from_the_fewest_flops_to_the_most():
    budget, axes, length = Budget(100_000, "float16"), Axes(6, 64, 8), 64
    shapes = at_equal_bytes(Anatomy.of(CONFIG), budget, axes, number=4, length=length)
    assert len(shapes) == len(set(shapes)) == 4
    for shape in shapes:
        body = 4 * shape.hidden**2 + 3 * shape.hidden * shape.ffn + 2 * shape.hidden
        parameters = 512 * shape.hidden + shape.layers * body + shape.hidden
        assert abs(2 * parameters / budget.most - 1) <= BYTES_APART
    flops = [flops_of(shape, length) for shape in shapes]
    assert flops == sorted(flops)
    steps = np.diff(np.log(flops))
    assert steps.max() < 2 * steps.min()


def flops_of(shape, length):
    """Two for each weight, head included, and two for each of the channels of a query's keys and values, half of them unseen."""
    matrices = shape.layers * (4 * shape.hidden**2 + 3 * shape.hidden * shape.ffn)
    return 2 * (matrices + 512 * shape.hidden) + 2 * (length + 1) * shape.layers * shape.hidden


def test_the_rank_correlation_is_spearmans():
    rng = np.random.default_rng(0)
    flops = [3.0, 1.0, 4.0, 2.0, 5.0]
    level = np.array([1.0, 1.6, 1.1, 1.4, 1.2])
    tokens = rng.integers(50, 100, size=20)
    losses = []
    for one in level:
        nats = tokens * (one + rng.normal(0, 0.01, size=(3, 20)))
        losses.append(np.stack([nats, np.broadcast_to(tokens, nats.shape)], -1))
    found = rank_correlation(losses, flops)
    assert found.value == pytest.approx(spearmanr(flops, -level).statistic)
    assert found.value < 1
    assert -1 <= found.low <= found.value <= found.high <= 1


BETTER, NONE = Interval(0.1, 0.05, 0.15, 40), Interval(0.0, -0.004, 0.004, 40)
WIDE, WORSE = Interval(0.1, -0.1, 0.3, 40), Interval(-0.1, -0.2, -0.05, 40)


@pytest.mark.parametrize(
    ("ranks", "most", "verdict"),
    [
        (Interval(0.9, 0.7, 1.0, 40), BETTER, "confirmed"),
        (Interval(0.9, 0.7, 1.0, 40), WIDE, "inconclusive"),
        (Interval(0.9, 0.7, 1.0, 40), NONE, "refuted"),
        (Interval(0.9, 0.7, 1.0, 40), WORSE, "refuted"),
        (Interval(0.9, -0.1, 1.0, 40), BETTER, "inconclusive"),
        (Interval(0.5, 0.3, 0.7, 40), BETTER, "inconclusive"),
        (Interval(0.2, 0.1, 0.3, 40), BETTER, "refuted"),
    ],
)
def test_an_order_is_judged_at_equal_tokens_and_at_equal_flops(ranks, most, verdict):
    order = Order(ranks, most)
    assert judge_proxy(order, seeds=3).verdict == judge_compute(order, seeds=3).verdict == verdict
    assert judge_proxy(order, seeds=2).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("gain", "slower", "verdict"),
    [
        (BETTER, 0.5, "confirmed"),
        (BETTER, 1.2, "inconclusive"),  # the balanced shape is slower
        (WIDE, 0.5, "inconclusive"),
        (NONE, 1.0, "refuted"),
        (WORSE, 0.5, "refuted"),
        (WORSE, 1.2, "inconclusive"),
    ],
)
def test_the_choice_of_the_fitness_is_judged(gain, slower, verdict):
    judged = judge_choice(gain, (0.6, 0.55), slower, seeds=3)
    assert judged.verdict == verdict
    assert "it keeps 60.0%, the balanced one 55.0%" in judged.seen


@pytest.mark.parametrize(
    ("shares", "verdict"),
    [
        ([Interval(0.9, 0.7, 0.98, 20)] * 3, "confirmed"),
        ([Interval(0.9, 0.7, 0.98, 20), Interval(0.5, 0.3, 0.7, 20)], "inconclusive"),
        ([Interval(0.9, 0.7, 0.98, 20), Interval(0.1, 0.03, 0.3, 20)], "refuted"),
    ],
)
def test_a_search_is_judged(shares, verdict):
    assert judge_search(dict(zip(PUBLISHED, shares, strict=False))).verdict == verdict


def test_claims_are_shown_in_a_few_words(best):
    order = Order(Interval(0.9, 0.7, 1.0, 40), BETTER)
    judged = [
        judge_published(25, best[25]),
        judge_compute(order, seeds=3),
        judge_choice(BETTER, (0.6, 0.5), 0.5, seeds=3),
    ]
    shown = [(recipe("compressor").short_of(one.claim), one) for one in judged]
    assert [(short.claim, count_of(one.seen, 3)) for short, one in shown] == [
        ("The published 25 MB configuration is the best of its space", "10,944,000 points"),
        ("The order stays at equal training FLOPs", "40 documents, 3 seeds"),
        ("The fitness chooses better than a balanced shape", "40 documents, 3 seeds"),
    ]
    assert shown[1][0].effect_of(judged[1].seen) == "rank correlation +0.90 (+0.70 to +1.00)"
    assert shown[2][0].effect_of(judged[2].seen) == "+0.1000 (+0.0500 to +0.1500) nats better than the balanced shape"
    assert shown[0][0].effect_of(judged[0].seen).count("fitness ") == 2


TINY = compressor.Size(
    1, 24_000, 2, Axes(4, 32, 8), 40_000, (1.0,), Scale(12_000, 2.0, 4.0, 259, 32, 256, 1_024, 0.05, 50.0, 8)
)


@pytest.mark.recipe
def test_a_tiny_run_has_all_claims_and_continues(tmp_path, monkeypatch):
    monkeypatch.setitem(compressor.SIZES, "smoke", TINY)
    keys = {
        "scale": "smoke",
        "data": str(write_corpus(tmp_path, 300)),
        "out": tmp_path / "out",
        "seeds": 2,
        "workers": 1,
    }
    first = limbeck.reproduce("compressor", **keys)
    assert len(first["judged"]) == 7
    numbers = first["numbers"]
    fewest, most = (name for name in numbers["flops_per_token"] if name != compressor.PLANNED)
    tokens = numbers["tokens_at_equal_flops"]
    assert tokens[fewest] == 1_024 > tokens[most]
    cost = [tokens[name] * numbers["flops_per_token"][name] for name in (fewest, most)]
    assert cost[1] == pytest.approx(cost[0], rel=0.3)  # in whole steps
    assert numbers["loss_nats"][fewest] == numbers["loss_nats_at_equal_flops"][fewest]
    assert numbers["loss_nats"][most] != numbers["loss_nats_at_equal_flops"][most]
    page = Path(first["out"], "README.md").read_text()
    assert all(judged["criterion"] in page and judged["seen"] in page for judged in first["judged"])
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("result.json")}
    again = limbeck.reproduce("compressor", **keys)
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("result.json")}
    assert json.dumps(again["judged"]) == json.dumps(first["judged"])
