"""Fits the distillation scaling law to a pilot's points, with intervals, and tests it on held-out cells.

The method is that of Hoffmann et al. (arXiv 2203.15556, sec. 3.3) and Busbridge et al. (arXiv 2502.08606, app. F): Huber's loss
on differences of log-losses, minimised by L-BFGS from the best points of a grid. Least squares in a trust region then refine the
optimum, because the valleys of these laws are narrow. In this step, Huber's threshold is 1.345 standard deviations of the
estimated noise, which has 95 % of the efficiency of least squares under normal noise (Holland & Welsch 1977, Commun. Stat. A 6,
813). The papers' fixed 1e-3 lies below the noise of small models: there the loss is nearly absolute, and bootstraps badly.
Intervals are a bootstrap of the residuals. They are widened from the normal distribution to Student's t, since the parameters
use degrees of freedom, and taken both ways (`Estimate.both_ways`). They contained the true value in 93 to 98 % of 200 simulated
pilots (docs/results/law-coverage).

A pilot does not identify all of the student's parameters. While (L_T / (L d1))^(1/f1) is small, only c1 d1^(-1/f1) matters, and
it is small for any useful teacher. Where size limits the student more than tokens do, only alpha gamma matters. So d1 and gamma'
keep their published values, which hardly changes predictions. The intervals of B' and beta' are wide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats
from scipy.optimize import least_squares, minimize
from scipy.special import expit

from limbeck.errors import BadPoints, NotConverged
from limbeck.planning.laws.distillation import PUBLISHED, DistillationLaw, SupervisedLaw
from limbeck.planning.laws.estimate import LEVEL, Estimate
from limbeck.planning.laws.points import Point

HUBER = 1e-3  # of a log-loss: errors above 0.1 % count by their size, not its square (1e-4 to 1e-3 in the papers)
_TUNED = 1.345  # Huber's threshold in standard deviations of the noise
_SETTLING = 2  # iterations of estimating noise and optimum from each other
DRAWS = 100
_EVALUATIONS = 200  # limit of a refinement, which needs 10 to 40
_REFINED = 8  # points of the grid from which L-BFGS starts
_HELD_OUT = 0.2  # share of the cells that the test's fit does not use

Array = Float[np.ndarray, "..."]
# From the parameters (P,): the error of each point's log-loss (points,), and its derivatives (points, P).
Residuals = Callable[[Array], tuple[Array, Array]]

# The search is over logarithms of parameters, except c0.
_SUPERVISED = ("A", "B", "E", "alpha", "beta", "gamma")
_STUDENT = ("A", "B", "alpha", "beta", "c0", "c1", "f1")
_BOUNDS = {
    "A": (-5.0, 40.0),
    "B": (-5.0, 40.0),
    "E": (-8.0, 3.0),
    "alpha": (-3.0, 1.0),
    "beta": (-3.0, 1.0),
    "gamma": (-3.0, 1.0),
    "c0": (-10.0, 15.0),
    "c1": (-50.0, 12.0),
    "f1": (-4.5, 1.0),
}
_NO_GAP = -50.0  # log c1 of a law without a capacity gap


@dataclass(frozen=True)
class HeldOut:
    """Mean relative error of the predicted loss on held-out cells, with a capacity gap and without."""

    error: float
    error_without_gap: float
    cells: int

    @property
    def gap_helps(self) -> bool:
        """Whether the law with a capacity gap predicts held-out cells better than the law without."""
        return self.error < self.error_without_gap


@dataclass(frozen=True)
class Validation:
    """Cross-validation: how well fits predict the cells that they left out. Each cell is left out once.

    ``error`` is the mean relative error over cells. ``gain`` is how much larger the error of a law without a capacity gap is.
    Their intervals are from resampling cells.
    """

    error: Estimate
    gain: Estimate
    cells: int


@dataclass(frozen=True)
class DistillationFit:
    """A law fitted to points. ``draws`` has the bootstrap draws of each parameter as an array.

    ``noise`` is the standard deviation of a log-loss around the law. ``intervals`` has the interval of each parameter by name,
    with the prefix "supervised." for those of the supervised law. ``sizes`` are the smallest and largest student.
    """

    law: DistillationLaw
    draws: DistillationLaw
    points: int
    noise: float
    intervals: Mapping[str, Estimate]
    held_out: HeldOut
    sizes: tuple[float, float]

    def predict(self, parameters: float, tokens: float, teacher_loss: float) -> Estimate:
        """The expected loss of a distilled student in nats per token. The interval excludes the noise of a single run."""
        args = (parameters, tokens, teacher_loss)
        return Estimate.both_ways(self.law.predict(*args), self.draws.predict(*args), positive=True)

    def predict_alone(self, parameters: float, tokens: float) -> Estimate:
        """The expected loss of a student trained on text alone, in nats per token."""
        args = (parameters, tokens)
        return Estimate.both_ways(
            self.law.supervised.predict(*args), self.draws.supervised.predict(*args), positive=True
        )

    def best_teacher(self, parameters: float, tokens: float) -> Estimate:
        """Parameters of the best teacher at 20 tokens per parameter. A bound is infinite if the points set no limit."""
        return Estimate.of(self.law.best_teacher(parameters, tokens), self.draws.best_teacher(parameters, tokens))


def fit_distillation_law(points: Sequence[Point], *, draws: int = DRAWS, seed: int = 0) -> DistillationFit:
    """The law fitted to points: its supervised part to those without a teacher, the student's part to the others.

    Raises BadPoints if there are too few different points, and NotConverged if the search finds no optimum.
    """
    alone = [p for p in points if not p.distilled]
    distilled = [p for p in points if p.distilled]
    _enough(alone, distilled)
    rng = np.random.default_rng(seed)
    text = _fit_supervised(alone)
    text_draws = _bootstrap(text, draws, rng)
    student = _fit_student(distilled, _supervised(text.theta))
    law = _law(text.theta, student.theta)
    # The student's law of each draw uses the supervised law of that draw, so that it contains the uncertainty of both fits.
    student_draws = np.empty((draws, len(_STUDENT)))
    noise = _shaken(student, rng, draws)
    for k in range(draws):
        one = _student_residuals(distilled, _supervised(text_draws[k]))
        student_draws[k] = student.again(_shifted(one, noise[k]))
    many = _law(text_draws.T, student_draws.T)
    return DistillationFit(
        law=law,
        draws=many,
        points=len(points),
        noise=student.noise,
        intervals=_intervals(law, many),
        held_out=_try_out(distilled, law, student, rng),
        sizes=(min(p.student_params for p in points), max(p.student_params for p in points)),
    )


@dataclass(frozen=True)
class SupervisedFit:
    """The law of models trained on text alone, the bootstrap draws of its parameters as arrays, and their intervals."""

    law: SupervisedLaw
    draws: SupervisedLaw
    points: int
    noise: float
    intervals: Mapping[str, Estimate]

    def predict(self, parameters: float, tokens: float) -> Estimate:
        """The expected loss in nats per token. The interval excludes the noise of a single run."""
        args = (parameters, tokens)
        return Estimate.both_ways(self.law.predict(*args), self.draws.predict(*args), positive=True)


def fit_supervised_law(points: Sequence[Point], *, draws: int = DRAWS, seed: int = 0) -> SupervisedFit:
    """The supervised law fitted to points without a teacher.

    Raises BadPoints if there are too few different points, and NotConverged if the search finds no optimum.
    """
    alone = [p for p in points if not p.distilled]
    _enough_alone(alone)
    found = _fit_supervised(alone)
    many = _bootstrap(found, draws, np.random.default_rng(seed))
    law, laws = _supervised(found.theta), _supervised(many.T)
    return SupervisedFit(law, laws, len(alone), found.noise, _intervals_of(law, laws, _SUPERVISED))


def _enough_alone(alone: Sequence[Point]) -> None:
    sizes, tokens = {p.student_params for p in alone}, {p.student_tokens for p in alone}
    if len(alone) < len(_SUPERVISED) + 2 or len(sizes) < 3 or len(tokens) < 3:
        raise BadPoints(
            f"the supervised law has {len(_SUPERVISED)} parameters and needs {len(_SUPERVISED) + 2} points without a teacher, "
            f"of 3 sizes and 3 numbers of tokens; there are {len(alone)}, of {len(sizes)} and {len(tokens)}. Train more, "
            "or plan with the published law"
        )


def _enough(alone: Sequence[Point], distilled: Sequence[Point]) -> None:
    _enough_alone(alone)
    unknown = sum(p.teacher_loss is None for p in distilled)
    if unknown:
        raise BadPoints(
            f"{unknown} distilled points have no teacher_loss, which is all the law knows of a teacher; measure it"
        )
    sizes, tokens, teachers = (
        {getattr(p, f) for p in distilled} for f in ("student_params", "student_tokens", "teacher_loss")
    )
    if len(distilled) < len(_STUDENT) + 2 or len(sizes) < 2 or len(tokens) < 2 or len(teachers) < 3:
        raise BadPoints(
            f"the student's law has {len(_STUDENT)} parameters and needs {len(_STUDENT) + 2} distilled points, of 2 sizes, "
            f"2 numbers of tokens and 3 teachers; there are {len(distilled)}, of {len(sizes)}, {len(tokens)} and {len(teachers)}"
            ". Distil more, or plan with the published law"
        )


def _supervised(theta: Array) -> SupervisedLaw:
    return SupervisedLaw(**dict(zip(_SUPERVISED, np.exp(theta), strict=True)))


def _law(text: Array, student: Array) -> DistillationLaw:
    values = {name: value if name == "c0" else np.exp(value) for name, value in zip(_STUDENT, student, strict=True)}
    return DistillationLaw(supervised=_supervised(text), gamma=PUBLISHED.gamma, d1=PUBLISHED.d1, **values)


def _fit_supervised(alone: Sequence[Point]) -> _Found:
    residuals = _supervised_residuals(alone)
    loss = np.array([p.student_loss for p in alone])
    size, tokens = (np.median([np.log(getattr(p, f)) for p in alone]) for f in ("student_params", "student_tokens"))
    starts = []
    for share, alpha, beta, gamma in product((0.3, 0.6, 0.9), (0.2, 0.4, 0.7), (0.2, 0.4, 0.7), (0.4, 1.0)):
        term = (
            np.log((np.median(loss) - share * loss.min()) / 2) / gamma
        )  # both terms are equal at the middle of the points
        starts.append(
            [term + alpha * size, term + beta * tokens, np.log(share * loss.min()), *np.log([alpha, beta, gamma])]
        )
    return _search(residuals, np.array(starts), _SUPERVISED)


def _fit_student(distilled: Sequence[Point], supervised: SupervisedLaw) -> _Found:
    return _search(_student_residuals(distilled, supervised), _student_starts(distilled), _STUDENT)


def _student_starts(distilled: Sequence[Point]) -> Array:
    gap = max(1e-3, float(np.median([p.student_loss - (p.teacher_loss or 0.0) for p in distilled])))
    teacher = np.median([np.log(p.teacher_loss or 1.0) for p in distilled])
    size, tokens = (np.median([np.log(getattr(p, f)) for p in distilled]) for f in ("student_params", "student_tokens"))
    starts = []
    grid = product((0.2, 0.4, 0.7), (0.3, 0.6), (0.0, 2.5), (0.1, 10.0, 500.0), (0.05, 0.1, 0.3))
    for alpha, beta, c0, c1, f1 in grid:
        term = (np.log(gap / 2) + c0 * teacher) / PUBLISHED.gamma
        starts.append([term + alpha * size, term + beta * tokens, *np.log([alpha, beta]), c0, *np.log([c1, f1])])
    return np.array(starts)


def _supervised_residuals(points: Sequence[Point]) -> Residuals:
    n, d, seen = (np.log([getattr(p, f) for p in points]) for f in ("student_params", "student_tokens", "student_loss"))

    def residuals(theta: Array) -> tuple[Array, Array]:
        a, b, e, alpha, beta, gamma = theta
        power, slopes = _power(a, b, alpha, beta, gamma, n, d)
        loss = np.exp(e) + power
        columns = np.column_stack([slopes[0], slopes[1], np.full_like(n, np.exp(e)) / power, *slopes[2:]])
        return np.log(loss) - seen, columns * (power / loss)[:, None]

    return residuals


def _student_residuals(points: Sequence[Point], supervised: SupervisedLaw) -> Residuals:
    n, d, t, seen = (
        np.log([getattr(p, f) for p in points])
        for f in ("student_params", "student_tokens", "teacher_loss", "student_loss")
    )
    behind = t - np.log(supervised.predict(np.exp(n), np.exp(d))) - np.log(PUBLISHED.d1)

    def residuals(theta: Array) -> tuple[Array, Array]:
        a, b, alpha, beta, c0, c1, f1 = theta
        power, slopes = _power(a, b, alpha, beta, np.log(PUBLISHED.gamma), n, d)
        x, strength = behind / np.exp(f1), np.exp(c1 + f1)
        above = np.exp(np.minimum(np.log(power) - c0 * t - strength * np.logaddexp(0.0, x), 50.0))
        loss = np.exp(t) + above
        gap = -strength * np.logaddexp(0.0, x)
        columns = np.column_stack([*slopes[:4], -t, gap, gap + strength * expit(x) * x])
        return np.log(loss) - seen, columns * (above / loss)[:, None]

    return residuals


def _power(
    a: float, b: float, alpha: float, beta: float, gamma: float, n: Array, d: Array
) -> tuple[Array, tuple[Array, Array, Array, Array, Array]]:
    """(A/N^alpha + B/D^beta)^gamma, and the slopes of its logarithm along log A, log B, log alpha, log beta, log gamma."""
    alpha, beta, gamma = np.exp(alpha), np.exp(beta), np.exp(gamma)
    by_size, by_tokens = a - alpha * n, b - beta * d
    total = np.logaddexp(by_size, by_tokens)
    share = gamma * np.exp(by_size - total)
    rest = gamma * np.exp(by_tokens - total)
    slopes = (share, rest, -alpha * n * share, -beta * d * rest, gamma * total)
    return np.exp(np.minimum(gamma * total, 50.0)), slopes


@dataclass(frozen=True)
class _Found:
    """A fit: the parameters with the least Huber loss, with the threshold ``scale``."""

    residuals: Residuals
    theta: Array
    scale: float
    names: Sequence[str]

    @property
    def noise(self) -> float:
        """Standard deviation of a log-loss around the law."""
        left = self.residuals(self.theta)[0]
        return float(np.std(left) * _inflation(len(left), len(self.theta)))

    def again(self, residuals: Residuals) -> Array:
        """The parameters for slightly different points, searched from these."""
        return np.asarray(_polish(residuals, self.theta, self.names, self.scale).x)


def _search(residuals: Residuals, starts: Array, names: Sequence[str]) -> _Found:
    """The parameters with the least Huber loss: L-BFGS from the best starts, then a refinement of the best result."""
    bounds = np.array([_BOUNDS[name] for name in names])

    def objective(theta: Array) -> tuple[float, Array]:
        r, slopes = residuals(theta)
        small = np.abs(r) <= HUBER
        value = np.where(small, 0.5 * r**2, HUBER * (np.abs(r) - 0.5 * HUBER)).mean() / HUBER**2
        return float(value), (np.where(small, r, HUBER * np.sign(r)) @ slopes) / len(r) / HUBER**2

    starts = np.clip(starts, *bounds.T)
    first = sorted(starts, key=lambda start: objective(start)[0])[:_REFINED]
    ends = [
        minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 1000})
        for start in first
    ]
    ends.sort(key=lambda end: float(end.fun))
    polished = [_polish(residuals, end.x, names, HUBER) for end in ends[:3]]
    best = min(polished, key=lambda end: float(end.cost))
    if not best.success:
        raise NotConverged(
            f"the fit found no optimum from {len(first)} starts ({best.message}); more different points make one",
            best=dict(zip(names, best.x.tolist(), strict=True)),
        )
    found = _Found(residuals, np.asarray(best.x), HUBER, names)
    for _ in range(_SETTLING):
        left = residuals(found.theta)[0]
        deviation = 1.4826 * np.median(np.abs(left)) * _inflation(len(left), len(names))
        found = replace(found, scale=max(HUBER, _TUNED * float(deviation)))
        found = replace(found, theta=found.again(residuals))
    return found


def _polish(residuals: Residuals, theta: Array, names: Sequence[str], scale: float) -> Any:
    """Minimises Huber's loss in a trust region from a near start. A parameter at its bound stays near it."""
    low, high = np.array([_BOUNDS[name] for name in names]).T
    inside = np.clip(theta, low + 1e-9, high - 1e-9)
    return least_squares(
        lambda x: residuals(x)[0],
        inside,
        jac=lambda x: residuals(x)[1],
        bounds=(low, high),
        loss="huber",
        f_scale=scale,
        x_scale="jac",
        ftol=1e-6,
        xtol=1e-6,
        max_nfev=_EVALUATIONS,
    )


def _inflation(points: int, parameters: int) -> float:
    """The factor by which the residuals of a fit with so many parameters are too small."""
    return float(np.sqrt(points / (points - parameters)))


def _shaken(found: _Found, rng: np.random.Generator, draws: int) -> Array:
    """What to add to the measured log-losses, (draws, points): the law's own value and a residual of a random point.

    All points have the same noise in the logarithm of the loss. A residual is enlarged by the degrees of freedom that the fit
    used, and by the ratio of Student's t to the normal at the interval's level, since the noise itself is an estimate.
    """
    left = found.residuals(found.theta)[0]
    points, parameters = len(left), len(found.theta)
    unsure = stats.t.ppf((1 + LEVEL) / 2, points - parameters) / stats.norm.ppf((1 + LEVEL) / 2)
    scaled = (left - left.mean()) * _inflation(points, parameters) * unsure
    return left + rng.choice(scaled, size=(draws, points))


def _shifted(residuals: Residuals, by: Array) -> Residuals:
    def shifted(theta: Array) -> tuple[Array, Array]:
        found, slopes = residuals(theta)
        return found - by, slopes

    return shifted


def _bootstrap(found: _Found, draws: int, rng: np.random.Generator) -> Array:
    """The parameters of each draw (draws, parameters)."""
    return np.stack([found.again(_shifted(found.residuals, one)) for one in _shaken(found, rng, draws)])


def _intervals(law: DistillationLaw, many: DistillationLaw) -> dict[str, Estimate]:
    text = _intervals_of(law.supervised, many.supervised, _SUPERVISED)
    return _intervals_of(law, many, _STUDENT) | {f"supervised.{name}": found for name, found in text.items()}


def _intervals_of(law: object, many: object, names: Sequence[str]) -> dict[str, Estimate]:
    return {name: Estimate.both_ways(getattr(law, name), getattr(many, name), positive=name != "c0") for name in names}


def _try_out(distilled: Sequence[Point], law: DistillationLaw, fit: _Found, rng: np.random.Generator) -> HeldOut:
    """Fits without some cells and predicts them, with a capacity gap and without."""
    cells = list(dict.fromkeys(p.cell for p in distilled))
    hidden = {cells[i] for i in rng.permutation(len(cells))[: max(1, round(_HELD_OUT * len(cells)))]}
    seen = [p for p in distilled if p.cell not in hidden]
    unseen = [p for p in distilled if p.cell in hidden]
    residuals = _student_residuals(seen, law.supervised)
    check = _student_residuals(unseen, law.supervised)
    with_gap = fit.again(residuals)
    gapless, at = _without(residuals, _STUDENT.index("c1")), np.delete(fit.theta, _STUDENT.index("c1"))
    names = tuple(name for name in _STUDENT if name != "c1")
    without = np.insert(_polish(gapless, at, names, fit.scale).x, _STUDENT.index("c1"), _NO_GAP)
    errors = [float(np.abs(np.expm1(check(x)[0])).mean()) for x in (with_gap, without)]
    return HeldOut(error=errors[0], error_without_gap=errors[1], cells=len(hidden))


def cross_validate(points: Sequence[Point], *, folds: int = 5, draws: int = 2000, seed: int = 0) -> Validation:
    """Cross-validates the law over distilled cells in ``folds``, with a capacity gap and without.

    The supervised law is fitted once, to all points without a teacher, since none of them is predicted. Raises BadPoints if
    there are too few different points, and NotConverged if a search finds no optimum.
    """
    alone, distilled = [p for p in points if not p.distilled], [p for p in points if p.distilled]
    _enough(alone, distilled)
    supervised = _supervised(_fit_supervised(alone).theta)
    rng = np.random.default_rng(seed)
    cells = list(dict.fromkeys(p.cell for p in distilled))
    fold = dict(zip(cells, (rng.permutation(len(cells)) % folds).tolist(), strict=True))
    at = _STUDENT.index("c1")
    names = tuple(name for name in _STUDENT if name != "c1")
    errors: dict[Any, list[Array]] = {cell: [] for cell in cells}
    for one in range(folds):
        seen, unseen = ([p for p in distilled if (fold[p.cell] == one) == hidden] for hidden in (False, True))
        fit = _fit_student(seen, supervised)
        with_gap = fit.theta
        starts = np.unique(np.delete(_student_starts(seen), at, axis=1), axis=0)
        without = np.insert(_search(_without(fit.residuals, at), starts, names).theta, at, _NO_GAP)
        check = _student_residuals(unseen, supervised)
        both = np.abs(np.expm1([check(theta)[0] for theta in (with_gap, without)]))  # (2, unseen)
        for point, error in zip(unseen, both.T, strict=True):
            errors[point.cell].append(error)
    means = np.array([np.mean(found, axis=0) for found in errors.values()])  # (cells, 2)
    drawn = means[rng.integers(len(cells), size=(draws, len(cells)))].mean(1)
    error, rest = means.mean(0)
    return Validation(Estimate.of(error, drawn[:, 0]), Estimate.of(rest - error, drawn[:, 1] - drawn[:, 0]), len(cells))


def _without(residuals: Residuals, index: int) -> Residuals:
    """Residuals without a capacity gap: log c1 is fixed at a value that makes none."""

    def gapless(theta: Array) -> tuple[Array, Array]:
        found, slopes = residuals(np.insert(theta, index, _NO_GAP))
        return found, np.delete(slopes, index, axis=1)

    return gapless
