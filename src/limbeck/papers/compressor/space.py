"""The search space that Compressor published, counted whole, with its fitness, its genetic search and its configurations.

Parameters, FLOPs and the search are those of the paper's code (soarsmu/Compressor, flops.py and searcher.py), for an encoder
that reads 514 tokens. The fitness is GFLOPs less the megabytes in float32 by which the size misses the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from random import Random
from typing import Any

import numpy as np

_READ = 514  # tokens
HEADS, HIDDEN, FFN = (1, 2, 4, 8), range(16, 769, 16), range(32, 3041, 32)
LAYERS, VOCABULARY = range(1, 13), range(1000, 50_001, 1000)
_AXES: tuple[Sequence[int], ...] = (HEADS, HIDDEN, FFN, LAYERS, VOCABULARY)  # in the order of the genes
_RUNS, _GENERATIONS, _POPULATION = 10, 100, 50
_CROSSOVER = 0.6  # its probability; the alternative is a mutation
_Genes = tuple[int, ...]


@dataclass(frozen=True)
class Encoder:
    """A point of the space, or an array of points for each axis."""

    heads: Any
    hidden: Any
    ffn: Any
    layers: Any
    vocab: Any

    def megabytes(self) -> Any:
        """Megabytes (1e6 bytes) of its parameters in float32."""
        h, i = self.hidden, self.ffn
        layer = 4 * (h * h + h) + 2 * h * i + i + h + 4 * h
        outside = (self.vocab + _READ + 3) * h + 2 * (h * h + h) + 2 * h + 2
        return 4 * (outside + self.layers * layer) / 1e6

    def gflops(self) -> Any:
        """GFLOPs (1e9) of a forward pass over 514 tokens."""
        h, i, a = self.hidden, self.ffn, self.heads
        layer = 8 * h * h + 4 * h * _READ + 10 * a * _READ + 4 * h * i + 9 * i + 20 * h + 5
        embedding = 2 * h * self.vocab + 2 * h * _READ + 15 * h  # as if looking a token up were a product
        return _READ * (self.layers * layer + (embedding + 2 * h * h + 15 * h)) / 1e9

    def fitness(self, megabytes: float) -> Any:
        """What the paper's search maximises for a target size in megabytes."""
        return self.gflops() - abs(megabytes - self.megabytes())

    def __str__(self) -> str:
        return f"{self.layers} layers, width {self.hidden}, {self.heads} heads, FFN {self.ffn}, vocabulary {self.vocab}"


PUBLISHED = {  # by megabytes, as the paper's repository has them
    3: Encoder(8, 96, 64, 12, 1000),
    25: Encoder(16, 432, 128, 6, 1000),
    50: Encoder(16, 480, 576, 6, 6000),
}


def fittest(megabytes: float) -> Encoder:
    """The point of the highest fitness of all 10,944,000, by counting each."""
    space = Encoder(*np.ix_(*_AXES))
    fitness = space.fitness(megabytes)
    index = np.unravel_index(int(fitness.argmax()), fitness.shape)
    return Encoder(*(int(axis.ravel()[place]) for axis, place in zip(astuple(space), index, strict=True)))


def searched(megabytes: float, seed: int) -> Encoder:
    """The point that the paper's genetic search finds: the best of ten runs, each from a random population."""
    rng = Random(seed)
    found = [_evolved(megabytes, rng) for _ in range(_RUNS)]
    return max(found, key=lambda one: float(one.fitness(megabytes)))


def _evolved(megabytes: float, rng: Random) -> Encoder:
    """The fittest point of the last generation. The fittest of parents and children survive, and none is there twice."""
    population: dict[_Genes, float] = {}

    def add(genes: _Genes) -> None:
        while genes in population:
            genes = _mutated(genes, rng)
        population[genes] = Encoder(*genes).fitness(megabytes)

    for _ in range(_POPULATION):
        add(tuple(rng.choice(axis) for axis in _AXES))
    for _ in range(_GENERATIONS):
        parents = list(population)
        for _ in range(_POPULATION // 2):
            one, other = rng.sample(parents, 2)
            for child in _children(one, other, rng):
                add(child)
        population = dict(sorted(population.items(), key=lambda one: -one[1])[:_POPULATION])
    return Encoder(*next(iter(population)))


def _children(one: _Genes, other: _Genes, rng: Random) -> tuple[_Genes, _Genes]:
    """Two parents crossed at one place, or each mutated."""
    if rng.random() < _CROSSOVER:
        place = rng.randrange(1, len(_AXES))
        return one[:place] + other[place:], other[:place] + one[place:]
    return _mutated(one, rng), _mutated(other, rng)


def _mutated(genes: _Genes, rng: Random) -> _Genes:
    """Other values of all genes from a random one on."""
    place = rng.randrange(len(genes))
    return genes[:place] + tuple(
        _other(axis, gene, rng) for axis, gene in zip(_AXES[place:], genes[place:], strict=True)
    )


def _other(axis: Sequence[int], gene: int, rng: Random) -> int:
    while (found := rng.choice(axis)) == gene:
        pass
    return found
