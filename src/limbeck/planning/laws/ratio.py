"""The ratio rule: the best teacher of a student with S parameters has about 2.5 S. Fits the rule to a pilot's points.

The published rule ("Towards the Law of Capacity Gap in Distilling Language Models", arXiv 2311.07052) is T* = 2.498 S - 11.498,
in millions, with R² 0.9957, over students pruned from their teachers, below 3B (`laws.distillation.RATIO`).

The loss over teacher sizes, a valley, can be too flat for a pilot to find its minimum. So a fit reports for each student size
whether the loss has an optimum between the ends, falls, rises, or shows only noise, and how deep a dip it would have detected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy import stats

from limbeck.errors import BadPoints
from limbeck.planning.laws.estimate import LEVEL, Estimate
from limbeck.planning.laws.points import Point

DRAWS = 2000
_POWER = 0.8  # probability of detecting a dip of the detectable depth

Kind = Literal["optimum", "falling", "rising", "flat", "unclear"]
Array = Float[np.ndarray, "..."]


@dataclass(frozen=True)
class Valley:
    """The losses of one student size over its teachers: a quadratic in x = log(teacher / student).

    ``kind`` is "optimum" if the loss has a minimum between the ends, "falling" or "rising" from the smallest teacher to the
    largest, "flat" if it is no different from noise, or "unclear" if it changes but the points do not locate its minimum.
    ``ratio`` is T*/S, None without an optimum. ``detectable_nats`` is the smallest dip in the middle of these ratios, below
    the ends, that such points show with a probability of 80 %. ``curvature`` is in nats per (log ratio)^2.
    """

    student: float
    kind: Kind
    ratio: Estimate | None
    curvature: Estimate
    detectable_nats: float
    noise_nats: float
    lowest: float
    highest: float
    points: int

    def __str__(self) -> str:
        seen = f"student {self.student:,.0f}: {self.points} points, ratios {self.lowest:.3g} to {self.highest:.3g}: "
        limit = f"a dip of {self.detectable_nats:.2g} nats would have been seen"
        match self.kind:
            case "optimum":
                assert self.ratio is not None
                return seen + f"best at {self.ratio.value:.2f} ({self.ratio.low:.2f} to {self.ratio.high:.2f})"
            case "falling":
                return seen + "the larger the teacher the better, to the end: no optimum inside"
            case "rising":
                return seen + "the smaller the teacher the better, to the end: no optimum inside"
            case "flat":
                return seen + f"flat, any teacher will do; {limit}"
        return seen + f"the teacher matters, where its best size is the points do not say; {limit}"


@dataclass(frozen=True)
class RatioFit:
    """T* = slope x S + intercept, in parameters, through the optima of student sizes that have one.

    With a single such size the intercept is 0, and there is no R². ``slope`` and ``intercept`` are None if no size has an
    optimum: the pilot does not determine the best teacher then, and ``valleys`` have the reasons.
    """

    valleys: tuple[Valley, ...]
    slope: Estimate | None
    intercept: Estimate | None
    r2: float | None
    slopes: Array
    intercepts: Array

    @property
    def flat(self) -> bool:
        """Whether the loss of no student size depends on its teacher."""
        return all(valley.kind == "flat" for valley in self.valleys)

    def row(self) -> dict[str, Any]:
        """The fit as JSON, without the bootstrap draws."""
        return {name: value for name, value in asdict(self).items() if name not in ("slopes", "intercepts")}

    def best_teacher(self, student: float) -> Estimate | None:
        """Parameters of the best teacher of a student; None if the pilot found no optimum."""
        if self.slope is None or self.intercept is None:
            return None
        value = self.slope.value * student + self.intercept.value
        return Estimate.of(value, self.slopes * student + self.intercepts)

    def predict(self, student: float, teacher: float) -> float | None:
        """The excess loss of a student over that with the best teacher, in nats per token; None if there is no optimum.

        The curvature in log(teacher / student) is the mean over the sizes with an optimum.
        """
        best = self.best_teacher(student)
        if best is None or best.value <= 0:
            return None
        curvature = np.mean([v.curvature.value for v in self.valleys if v.kind == "optimum"])
        return float(curvature * np.log(teacher / best.value) ** 2)


def fit_ratio_law(points: Sequence[Point], *, draws: int = DRAWS, seed: int = 0) -> RatioFit:
    """The ratio rule fitted to points: a valley per student size, a line through their optima, and bootstrap intervals.

    The points must be of one arm, with one number of tokens per size, and have teachers. Sizes with fewer than 3 teachers, or
    fewer than 5 points, are left out. Raises BadPoints if no size is left, if a size has several numbers of tokens, or if
    pruned and randomly initialised students are mixed.
    """
    distilled = [p for p in points if p.teacher_params is not None]
    arms = {p.arm for p in distilled}
    if len(arms) > 1:
        raise BadPoints(
            "a ratio law needs one arm: cut students carry what was cut away of them, fresh ones do not; fit each alone"
        )
    rng = np.random.default_rng(seed)
    by_size: dict[float, list[Point]] = {}
    for point in distilled:
        by_size.setdefault(point.student_params, []).append(point)
    groups = [(size, group) for size, group in sorted(by_size.items()) if _is_valley(size, group)]
    alarm = (1 - LEVEL) / max(
        1, len(groups)
    )  # corrected, so that noise makes any of the valleys other than flat in 5 % of pilots
    fitted = [_valley(size, group, draws, rng, alarm=alarm) for size, group in groups]
    if not fitted:
        raise BadPoints(
            f"a ratio law needs a student size with 5 distilled points of 3 teachers; the {len(distilled)} distilled points have "
            "none. Distil from more teachers"
        )
    chosen = [(valley, found) for valley, found in fitted if valley.kind == "optimum"]
    valleys = tuple(valley for valley, _ in fitted)
    if not chosen:
        return RatioFit(valleys, None, None, None, np.empty(0), np.empty(0))
    sizes = np.array([valley.student for valley, _ in chosen])
    best = np.array([valley.student * valley.ratio.value for valley, _ in chosen if valley.ratio is not None])
    slope, intercept, r2 = _line(sizes, best)
    slopes, intercepts, _ = _line(sizes, np.stack([found for _, found in chosen], axis=-1) * sizes)
    return RatioFit(
        valleys,
        Estimate.of(float(slope), slopes),
        Estimate.of(float(intercept), intercepts),
        float(r2) if len(sizes) > 2 else None,
        slopes,
        intercepts,
    )


def _is_valley(size: float, group: Sequence[Point]) -> bool:
    tokens = {p.student_tokens for p in group}
    if len(tokens) > 1:
        seen = ", ".join(f"{t:,.0f}" for t in sorted(tokens))
        raise BadPoints(
            f"the students of {size:,.0f} parameters saw different numbers of tokens ({seen}), and the best teacher moves with "
            "them; give points of one number"
        )
    return len(group) >= 5 and len({p.teacher_params for p in group}) >= 3


def _valley(
    size: float, group: Sequence[Point], draws: int, rng: np.random.Generator, *, alarm: float
) -> tuple[Valley, Array]:
    """A valley, and the ratio T*/S of each bootstrap draw, (draws,): infinite or 0 for a draw without a minimum."""
    x = np.log([p.teacher_params / size for p in group if p.teacher_params is not None])
    y = np.array([p.student_loss for p in group])
    design = np.column_stack([np.ones_like(x), x - x.mean(), (x - x.mean()) ** 2])
    inverse = np.linalg.inv(design.T @ design)
    weights = inverse @ design.T
    theta = weights @ y
    residuals = y - design @ theta
    free = len(y) - 3
    noise = float(np.sqrt(residuals @ residuals / free))
    bent = np.sqrt(inverse[2, 2]) * noise
    t = stats.t.ppf((1 + LEVEL) / 2, free)
    half = (x.max() - x.min()) / 2
    # The fit's degrees of freedom make residuals too small; draws are spread as Student's t.
    spread = np.sqrt(len(y) / free) * t / stats.norm.ppf((1 + LEVEL) / 2)
    drawn = theta + spread * rng.choice(residuals - residuals.mean(), size=(draws, len(y))) @ weights.T
    ratios = _bottom(drawn, x)
    curvature = Estimate(float(theta[2]), float(theta[2] - t * bent), float(theta[2] + t * bent))
    ratio = Estimate.of(float(_bottom(theta[None], x)[0]), ratios)
    kind = _kind(theta, x, y, noise, curvature, ratio, alarm)
    valley = Valley(
        student=size,
        kind=kind,
        ratio=ratio if kind == "optimum" else None,
        curvature=curvature,
        detectable_nats=float((t + stats.t.ppf(_POWER, free)) * bent * half**2),
        noise_nats=noise,
        lowest=float(np.exp(x.min())),
        highest=float(np.exp(x.max())),
        points=len(y),
    )
    return valley, ratios


def _bottom(theta: Float[np.ndarray, "draws 3"], x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " draws"]:
    """T*/S of each parabola. Without a minimum, it is the end to which the parabola falls, 0 or infinite."""
    _, slope, bend = theta.T
    with np.errstate(divide="ignore", over="ignore"):
        inside = np.exp(np.minimum(x.mean() - slope / (2 * np.where(bend > 0, bend, np.nan)), 700.0))
    return np.where(bend > 0, inside, np.where(slope > 0, 0.0, np.inf))


def _kind(theta: Array, x: Array, y: Array, noise: float, curvature: Estimate, ratio: Estimate, alarm: float) -> Kind:
    explained = float(((np.mean(y) - y) ** 2).sum() - noise**2 * (len(y) - 3))
    surely = stats.f.sf(explained / 2 / noise**2, 2, len(y) - 3) < alarm if noise > 0 else explained > 0
    if not surely:
        return "flat"
    if curvature.low > 0 and np.exp(x.min()) < ratio.low and ratio.high < np.exp(x.max()):
        return "optimum"
    slopes = [theta[1] + 2 * theta[2] * (end - x.mean()) for end in (x.min(), x.max())]
    if max(slopes) <= 0:
        return "falling"
    return "rising" if min(slopes) >= 0 else "unclear"


def _line(sizes: Float[np.ndarray, " n"], best: Float[np.ndarray, "*draws n"]) -> tuple[Array, Array, Array]:
    """Slope, intercept and R² of T* over S. Squares are weighted by 1/S², since the error of an optimum is proportional to S."""
    if len(sizes) == 1:
        return best[..., 0] / sizes[0], np.zeros(best.shape[:-1]), np.ones(best.shape[:-1])
    w = sizes**-2.0 / (sizes**-2.0).sum()
    with np.errstate(invalid="ignore"):
        s, t = (w * sizes).sum(), (w * best).sum(-1)
        slope = (w * (sizes - s) * best).sum(-1) / (w * (sizes - s) ** 2).sum()
        intercept = t - slope * s
        rest = (w * (best - slope[..., None] * sizes - intercept[..., None]) ** 2).sum(-1)
        total = (w * (best - t[..., None]) ** 2).sum(-1)
        r2 = 1 - rest / total
    return np.nan_to_num(slope, nan=np.inf), np.nan_to_num(intercept, nan=-np.inf), r2
