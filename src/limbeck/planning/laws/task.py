"""The scaling law of a task's pass rate over parameters, which predicts the score of a model before it is trained.

If the loss of each answer falls as a power of the parameters N, its pass rate is PU(N) = exp(-c N^-alpha), so F = log(-log PU)
is a line in log N (Hu et al., arXiv 2310.03262, sec. 4). The law is fitted twice: to the mean over instances, and to each
instance, whose predictions are then averaged. The second is usually closer, since a mean of such curves is not such a curve.

An instance without a pass has a low rate, not necessarily 0. So instances are fitted to their counts by the likelihood
p^x (1 - p)^(n - x), which needs no log 0 and holds for capped instances too. A few counts do not determine two numbers. So the
pairs (log c, alpha) have a common normal prior, which is fitted with them (empirical Bayes, with Laplace's approximation).

Intervals have two parts, added in squares on the scale of F: the choice of instances, by bootstrap, and the distance of trained
models from the line, by Student's t over all models. Seeds of one size are separate points of this regression, since resampling
two or three seeds would not show how much another one differs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.stats import t as student_t

from limbeck.errors import BadPoints

LEAST_SIZES = 3
SAME_SIZE = 0.02  # relative difference up to which two models are of one size
_RESAMPLES = 1000
_CEILING = 1 - 1e-9  # F of a rate of 1 is minus infinity
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(21)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()

Level = Literal["dataset", "instance"]


@dataclass(frozen=True)
class Point:
    """The results of a model with ``parameters`` on each instance of a task: ``successes`` of ``samples``, and ``rates``.

    The rates are unbiased estimates (`probes.pass_rate.unbiased`) or exact probabilities. All points of a law have the same
    instances in the same order.
    """

    parameters: int
    successes: Float[np.ndarray, " instances"]
    samples: Float[np.ndarray, " instances"]
    rates: Float[np.ndarray, " instances"]


@dataclass(frozen=True)
class Prediction:
    """An expected pass rate with its 95 % interval. ``below`` is true for a size below all sizes of the fit."""

    level: Level
    parameters: int
    value: float
    low: float
    high: float
    below: bool


@dataclass(frozen=True)
class Curvature:
    """The quadratic coefficient of F in log N with its 95 % interval, and its meaning.

    ``kind`` is "linear" if the interval contains 0, "convex" for growth slower than the law (sub-scaling), "concave" for faster
    growth (the paper's accelerated emergence, sec. 5), and "undetermined" with fewer than four models whose rate is neither 0
    nor 1.
    """

    value: float
    low: float
    high: float
    kind: Literal["linear", "convex", "concave", "undetermined"]


@dataclass(frozen=True)
class TaskLaw:
    """The law of one task. ``c`` and ``alpha`` are those of the mean rate; ``instance_alpha`` the mean over instances.

    ``sizes`` are the parameters of the models in ascending order. ``left_out`` are those without any pass, which the line of the
    mean excludes.
    """

    c: float
    alpha: float
    instance_alpha: float
    sizes: tuple[int, ...]
    left_out: tuple[int, ...]
    curvature: Curvature
    _points: tuple[Point, ...]
    _instances: _Instances

    def predict(self, parameters: int) -> tuple[Prediction, Prediction]:
        """The expected pass rate of a model of this size, by the law of the mean rate and by the laws of the instances."""
        below = parameters < min(self.sizes) * (1 - SAME_SIZE)
        return (
            Prediction("dataset", parameters, *self._dataset(parameters), below),
            Prediction("instance", parameters, *self._by_instance(parameters), below),
        )

    def _dataset(self, parameters: int) -> tuple[float, float, float]:
        used = [p for p in self._points if p.rates.mean() > 0]
        x = np.array([math.log(p.parameters) for p in used])
        rates = np.stack([p.rates for p in used])
        at = math.log(parameters)

        def line(means: Float[np.ndarray, "*draws models"]) -> Float[np.ndarray, "*draws"]:
            return _line_at(x, _f(means), at)

        value = float(line(rates.mean(1)))
        draws = np.array([line(rates[:, chosen].mean(1)) for chosen in _resamples(rates.shape[1])])
        return _interval(value, draws, _scatter(x, _f(rates.mean(1)) - _line_at(x, _f(rates.mean(1)), x), at))

    def _by_instance(self, parameters: int) -> tuple[float, float, float]:
        x = np.array([math.log(p.parameters) for p in self._points])
        at = math.log(parameters)
        expected = self._instances.rates(np.append(x, at))  # (instances, models + 1)
        means = np.array([p.rates.mean() for p in self._points])
        seen = means > 0
        off = _f(means[seen]) - _f(expected[:, :-1].mean(0)[seen])
        value = float(_f(expected[:, -1].mean()))
        draws = np.array([_f(expected[chosen, -1].mean()) for chosen in _resamples(len(expected))])
        return _interval(value, draws, _scatter(x[seen], off, at))


def fit(points: Sequence[Point]) -> TaskLaw:
    """The law of a task fitted to measured models.

    Raises BadPoints with fewer than three sizes, or if fewer than two sizes have any pass.
    """
    points = sorted(points, key=lambda point: point.parameters)
    sizes = distinct_sizes([point.parameters for point in points])
    if len(sizes) < LEAST_SIZES:
        raise BadPoints(
            f"expected models of at least {LEAST_SIZES} sizes, got {len(sizes)} ({', '.join(map(str, sizes)) or 'none'}): "
            "two points lie on every line; measure another size with limbeck probe --probe pass-until"
        )
    means = np.array([point.rates.mean() for point in points])
    seen = means > 0
    if len(distinct_sizes([p.parameters for p, some in zip(points, seen, strict=True) if some])) < 2:
        raise BadPoints(
            "fewer than 2 sizes of model passed any instance at all, so there is no line: raise --max-samples of the "
            "small ones, or measure larger models"
        )
    x = np.log([point.parameters for point in points])
    slope, intercept = np.polyfit(x[seen], _f(means[seen]), 1)
    instances = _Instances.fit(x, np.stack([p.successes for p in points], 1), np.stack([p.samples for p in points], 1))
    return TaskLaw(
        c=float(np.exp(intercept)),
        alpha=float(-slope),
        instance_alpha=float(-instances.slopes.mean()),
        sizes=tuple(point.parameters for point in points),
        left_out=tuple(point.parameters for point, some in zip(points, seen, strict=True) if not some),
        curvature=_curvature([p for p, some in zip(points, seen, strict=True) if some]),
        _points=tuple(points),
        _instances=instances,
    )


def distinct_sizes(parameters: Sequence[int]) -> list[int]:
    """The distinct sizes among numbers of parameters, ascending. Numbers within 2 % are one size."""
    found: list[int] = []
    for size in sorted(parameters):
        if not found or size > found[-1] * (1 + SAME_SIZE):
            found.append(size)
    return found


def same_size(a: int, b: int) -> bool:
    """Whether two numbers of parameters are one size: within 2 %."""
    return abs(a - b) <= SAME_SIZE * max(a, b)


def _f(rates: Float[np.ndarray, "*shape"] | float) -> Float[np.ndarray, "*shape"]:
    """F = log(-log rate). Rates must be above 0."""
    return np.log(-np.log(np.minimum(rates, _CEILING)))


def _rate(f: float) -> float:
    return math.exp(-math.exp(min(f, 50.0)))


def _line_at(x: np.ndarray, f: np.ndarray, at: float | np.ndarray) -> np.ndarray:
    """The value of the least-squares line through (x, f) at ``at``."""
    centre = x.mean()
    slope = ((x - centre) * (f - f.mean(-1, keepdims=True))).sum(-1) / ((x - centre) ** 2).sum()
    return f.mean(-1) + slope * (at - centre)


def _scatter(x: np.ndarray, off: np.ndarray, at: float) -> float:
    """Half the 95 % prediction interval of F for a new model at ``at``, from the residuals ``off`` of the models."""
    freedom = len(x) - 2
    if freedom < 1:
        return math.inf
    centred = (x - x.mean()) ** 2
    spread = math.sqrt(float((off**2).sum()) / freedom)
    leverage = 1 + 1 / len(x) + (at - x.mean()) ** 2 / centred.sum()
    return float(student_t.ppf(0.975, freedom)) * spread * math.sqrt(leverage)


def _interval(value: float, draws: np.ndarray, scatter: float) -> tuple[float, float, float]:
    """(rate, low, high) from F, its bootstrap draws and the scatter of models. F falls where the rate rises."""
    draws = draws[np.isfinite(draws)]
    low, high = np.percentile(draws, [2.5, 97.5])
    up = math.hypot(max(0.0, float(high) - value), scatter)
    down = math.hypot(max(0.0, value - float(low)), scatter)
    return _rate(value), _rate(value + up), _rate(value - down)


def _resamples(instances: int) -> Float[np.ndarray, "draws instances"]:
    """Indices of resampled instances, from a fixed seed."""
    return np.random.default_rng(0).integers(instances, size=(_RESAMPLES, instances))


def _curvature(points: Sequence[Point]) -> Curvature:
    x = np.log([p.parameters for p in points])
    x = x - x.mean()
    rates = np.stack([p.rates for p in points])
    # F of a rate at the ceiling is a rounding error
    inside = (rates.mean(1) > 0) & (rates.mean(1) < _CEILING)
    x, rates = x[inside], rates[inside]
    freedom = len(x) - 3
    if (
        freedom < 1
        or len(distinct_sizes([p.parameters for p, i in zip(points, inside, strict=True) if i])) < LEAST_SIZES
    ):
        return Curvature(math.nan, math.nan, math.nan, "undetermined")
    design = np.stack([np.ones_like(x), x, x**2], 1)
    solve = np.linalg.pinv(design)

    def quadratic(means: np.ndarray) -> float:
        return float((solve @ _f(means))[2])

    f = _f(rates.mean(1))
    value = quadratic(rates.mean(1))
    off = f - design @ (solve @ f)
    half = float(student_t.ppf(0.975, freedom)) * math.sqrt(
        float((off**2).sum()) / freedom * np.linalg.inv(design.T @ design)[2, 2]
    )
    means = [rates[:, chosen].mean(1) for chosen in _resamples(rates.shape[1])]
    draws = [quadratic(m) for m in means if (m > 0).all()]
    low, high = np.percentile(draws, [2.5, 97.5])
    low, high = value - math.hypot(value - low, half), value + math.hypot(high - value, half)
    kind: Literal["linear", "convex", "concave"] = "convex" if low > 0 else "concave" if high < 0 else "linear"
    return Curvature(value, float(low), float(high), kind)


@dataclass(frozen=True)
class _Instances:
    """A line of F for each instance, by its value at ``centre`` and its slope, with their covariance.

    ``at`` (instances, 2) has the most likely (F at the centre, slope), ``covariance`` (instances, 2, 2) their covariance.
    """

    centre: float
    at: Float[np.ndarray, "instances 2"]
    covariance: Float[np.ndarray, "instances 2 2"]

    @property
    def slopes(self) -> Float[np.ndarray, " instances"]:
        """The slopes of F in log N, which are minus alpha."""
        return self.at[:, 1]

    def rates(self, x: Float[np.ndarray, " places"]) -> Float[np.ndarray, "instances places"]:
        """The expected rate of each instance at log parameters ``x``, over the uncertainty of its line.

        It differs from the rate of the most likely line, since the rate is curved in F.
        """
        design = np.stack([np.ones_like(x), x - self.centre], 1)  # (places, 2)
        mean = self.at @ design.T
        spread = np.sqrt(np.einsum("pi,sij,pj->sp", design, self.covariance, design))
        f = mean[..., None] + spread[..., None] * _NODES
        found: np.ndarray = np.exp(-np.exp(np.minimum(f, 50))) @ _WEIGHTS
        return found

    @classmethod
    def fit(
        cls,
        x: Float[np.ndarray, " models"],
        passed: Float[np.ndarray, "instances models"],
        drawn: Float[np.ndarray, "instances models"],
    ) -> _Instances:
        """The lines and their common normal distribution, fitted in turns (EM) until they converge."""
        centre = float(x.mean())
        design = np.stack([np.ones_like(x), x - centre], 1)
        pooled = np.clip((passed.sum(0) + 0.5) / (drawn.sum(0) + 1.0), 1e-12, 1 - 1e-6)
        mean = np.linalg.lstsq(design, _f(pooled), rcond=None)[0]
        shared = np.diag([1.0, 0.25])
        at = np.tile(mean, (len(passed), 1))
        for _ in range(60):
            before = mean
            at, covariance = _most_likely(at, design, passed, drawn, mean, shared)
            mean = at.mean(0)
            around = at - mean
            # above 0: with equal instances, the estimate would approach 0 without end
            shared = around.T @ around / len(at) + covariance.mean(0) + 1e-6 * np.eye(2)
            if np.abs(mean - before).max() < 1e-5:
                break
        return cls(centre, at, covariance)


def _most_likely(
    at: np.ndarray,
    design: Float[np.ndarray, "models 2"],
    passed: np.ndarray,
    drawn: np.ndarray,
    mean: Float[np.ndarray, "2"],
    shared: Float[np.ndarray, "2 2"],
) -> tuple[Float[np.ndarray, "instances 2"], Float[np.ndarray, "instances 2 2"]]:
    """The most likely line of each instance given its counts and the common distribution, and its covariance.

    The method is Fisher scoring in F, where d log p = -e^F and d log(1 - p) = e^F p / (1 - p), for all instances at once. A step
    that makes an instance less likely is halved.
    """
    precision = np.linalg.inv(shared)

    def nats(line: np.ndarray) -> np.ndarray:
        g = np.exp(np.clip(line @ design.T, -25, 25))
        away = line - mean
        likelihood = (-passed * g + (drawn - passed) * np.log(-np.expm1(-g))).sum(1)
        return likelihood - 0.5 * np.einsum("si,ij,sj->s", away, precision, away)

    for _ in range(50):
        g = np.exp(np.clip(at @ design.T, -25, 25))
        odds = 1 / np.expm1(g)  # p / (1 - p)
        gradient = ((drawn - passed) * g * odds - passed * g) @ design - (at - mean) @ precision
        information = np.einsum("sm,mi,mj->sij", drawn * g**2 * odds, design, design) + precision
        step = np.linalg.solve(information, gradient[..., None])[..., 0]
        here, size = nats(at), np.ones(len(at))
        for _ in range(20):
            worse = ~(nats(at + size[:, None] * step) >= here - 1e-9)
            if not worse.any():
                break
            size[worse] /= 2
        at = at + size[:, None] * step
        if np.abs(size[:, None] * step).max() < 1e-7:
            break
    return at, np.linalg.inv(information)
