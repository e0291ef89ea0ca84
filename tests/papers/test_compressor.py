"""Compressor (arXiv 2208.07120): its published search space, counted whole, beside the configurations that it published.

The paper searches it by a genetic algorithm. Parameters and FLOPs are those of its code (soarsmu/Compressor, flops.py), for an
encoder that reads 514 tokens; so is the fitness: GFLOPs less the megabytes in float32 by which the size misses the target.
"""

from dataclasses import astuple, dataclass

import numpy as np
import pytest

S = 514  # tokens that are read
HEADS, HIDDEN, FFN = (1, 2, 4, 8), range(16, 769, 16), range(32, 3041, 32)
LAYERS, VOCABULARY = range(1, 13), range(1000, 50_001, 1000)


@dataclass(frozen=True)
class Encoder:
    """A point of the space, or arrays of points."""

    heads: int
    hidden: int
    ffn: int
    layers: int
    vocab: int

    def megabytes(self):
        h, i = self.hidden, self.ffn
        layer = 4 * (h * h + h) + 2 * h * i + i + h + 4 * h
        outside = (self.vocab + S + 3) * h + 2 * (h * h + h) + 2 * h + 2
        return 4 * (outside + self.layers * layer) / 1e6

    def gflops(self):
        h, i, a = self.hidden, self.ffn, self.heads
        layer = 8 * h * h + 4 * h * S + 10 * a * S + 4 * h * i + 9 * i + 20 * h + 5
        embedding = 2 * h * self.vocab + 2 * h * S + 15 * h  # as if looking a token up were a product
        return S * (self.layers * layer + embedding + 2 * h * h + 15 * h) / 1e9

    def fitness(self, megabytes):
        return self.gflops() - abs(megabytes - self.megabytes())


# As the repository has them: heads, hidden, FFN, layers, vocabulary.
PUBLISHED = {
    3: Encoder(8, 96, 64, 12, 1000),
    25: Encoder(16, 432, 128, 6, 1000),
    50: Encoder(16, 480, 576, 6, 6000),
}


@pytest.fixture(scope="module")
def space():
    axes = np.ix_(HEADS, HIDDEN, FFN, LAYERS, VOCABULARY)
    assert np.prod([axis.size for axis in axes]) == 10_944_000
    return Encoder(*axes)


def best(space, megabytes):
    """The fittest point of all."""
    fitness = space.fitness(megabytes)
    index = np.unravel_index(int(fitness.argmax()), fitness.shape)
    return Encoder(*(int(axis.ravel()[place]) for axis, place in zip(astuple(space), index, strict=True)))


def test_the_optimum_at_3_megabytes_is_the_published_configuration(space):
    found = best(space, 3)
    assert found == PUBLISHED[3]
    assert found.megabytes() == pytest.approx(3.06164)
    assert found.gflops() == pytest.approx(2.253, abs=5e-4)


@pytest.mark.parametrize(
    ("megabytes", "right", "gflops", "theirs"),
    [(25, Encoder(8, 320, 32, 12, 2000), 10.5956, 9.1804), (50, Encoder(8, 448, 160, 12, 1000), 18.5816, 15.8964)],
)
def test_larger_published_configurations_are_beaten_and_lie_outside_of_the_space(
    megabytes, right, gflops, theirs, space
):
    found, published = best(space, megabytes), PUBLISHED[megabytes]
    assert found == right
    assert (found.gflops(), published.gflops()) == (pytest.approx(gflops, abs=1e-4), pytest.approx(theirs, abs=1e-4))
    assert found.fitness(megabytes) > published.fitness(megabytes)
    assert published.heads not in HEADS


def test_the_optimum_is_the_deepest_model_with_almost_the_smallest_vocabulary(space):
    """FLOPs per byte are most in a corner, so that the fitness also prefers what is slowest."""
    found = [best(space, megabytes) for megabytes in (3, 25, 50)]
    assert [(one.layers, one.heads) for one in found] == [(max(LAYERS), max(HEADS))] * 3
    assert max(one.vocab for one in found) == 2000
