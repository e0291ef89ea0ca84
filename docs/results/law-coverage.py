"""How often the 95 % intervals of the fitted laws hold the truth: pilots are made up from known laws with noise, and fitted.

usage: law-coverage.py OUT.json [REPETITIONS]; half an hour of one core for 200, and continues where it was stopped. The pilots
are those a user might afford: 72 points for the ratio rule (4 student sizes, 6 teachers, 3 seeds), 85 for the distillation law,
noise of 0.2 % of a loss.
"""

import json
import sys
from collections import defaultdict
from itertools import product
from pathlib import Path

import numpy as np
from shared import made_by, versions

from limbeck.errors import NotConverged
from limbeck.planning.laws.distillation import PUBLISHED
from limbeck.planning.laws.fit import DRAWS, fit_distillation_law
from limbeck.planning.laws.points import Point
from limbeck.planning.laws.ratio import fit_ratio_law

SEED = 20261122
SLOPE, INTERCEPT = 2.5, 2e5
SIZES = (1.5e8, 3e8, 6e8, 1.2e9, 2.4e9)


def ratio_points(rng, *, noise=0.005, curvature=0.05):
    """A pilot whose optima lie on a line."""
    return [
        Point(
            s,
            20 * s,
            float(3 - 0.1 * np.log(s / 1e6) + curvature * off**2 + rng.normal(0, noise)),
            r * s,
            2.0,
            seed=seed,
        )
        for s, r, seed in product((1e6, 2e6, 4e6, 8e6), (1.25, 1.67, 2.5, 5, 10, 20), range(3))
        for off in [np.log(r * s / (SLOPE * s + INTERCEPT))]
    ]


def law_points(rng, *, noise=0.002):
    """A pilot of the published law: 25 models trained on text, 60 distilled."""
    text = PUBLISHED.supervised
    points = []
    for n, m in product(SIZES, (10, 20, 40, 80, 160)):
        points.append(Point(n, m * n, float(text.predict(n, m * n) * np.exp(rng.normal(0, noise)))))
    for n, m, t in product(SIZES[:4], (10, 40, 160), (3e8, 6e8, 1.2e9, 2.4e9, 5e9)):
        teacher = float(text.predict(t, 20 * t))
        loss = float(PUBLISHED.predict(n, m * n, teacher) * np.exp(rng.normal(0, noise)))
        points.append(Point(n, m * n, loss, t, teacher, 20 * t))
    return points


def ratio_hits(rng):
    """What is held by the intervals of one fit of the ratio rule."""
    fit = fit_ratio_law(ratio_points(rng), seed=int(rng.integers(2**31)))
    best = fit.best_teacher(3e6)
    if fit.slope is None or fit.intercept is None or best is None:
        return {"found no optimum": True}
    return {
        "slope": fit.slope.holds(SLOPE),
        "intercept": fit.intercept.holds(INTERCEPT),
        "best teacher of 3M": best.holds(SLOPE * 3e6 + INTERCEPT),
    }


def law_hits(rng):
    """What is held by the intervals of one fit of the distillation law."""
    fit = fit_distillation_law(law_points(rng), seed=int(rng.integers(2**31)))
    text = PUBLISHED.supervised
    hits = {}
    for name, interval in fit.intervals.items():
        law, _, field = name.rpartition(".")
        hits[name] = interval.holds(getattr(text if law else PUBLISHED, field))
    for n, m, t in ((4e8, 30, 2e9), (8e8, 60, 4e9), (2e9, 40, 8e9)):
        teacher = float(text.predict(t, 20 * t))
        hits[f"loss of {n:.0e} on {m * n:.0e} tokens, teacher {t:.0e}"] = fit.predict(n, m * n, teacher).holds(
            PUBLISHED.predict(n, m * n, teacher)
        )
        hits[f"supervised loss of {n:.0e} on {m * n:.0e} tokens"] = fit.predict_alone(n, m * n).holds(
            text.predict(n, m * n)
        )
    hits["best teacher of 6e8 on 5e10 tokens"] = fit.best_teacher(6e8, 5e10).holds(PUBLISHED.best_teacher(6e8, 5e10))
    return hits


def coverage(one, repetitions, kept):
    """Per quantity: of how many fits the interval held the truth, as a share and its standard error.

    What each repetition found is a line of the file ``kept``; those that are there are not done again.
    """
    text = kept.read_text(encoding="utf-8") if kept.exists() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()  # a kill may have cut the last
    with kept.open("w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)
        for k in range(len(lines), repetitions):
            try:
                hits = {name: bool(hit) for name, hit in one(np.random.default_rng([SEED, k])).items()}
            except NotConverged:
                hits = None
            lines.append(json.dumps(hits))
            file.write(lines[-1] + "\n")
            file.flush()
    held = defaultdict(list)
    found = [hits for line in lines[:repetitions] if (hits := json.loads(line)) is not None]
    for hits in found:
        for name, hit in hits.items():
            held[name].append(hit)
    rows = {
        name: {"coverage": float(np.mean(hits)), "se": float(np.std(hits) / np.sqrt(len(hits))), "n": len(hits)}
        for name, hits in held.items()
    }
    return {"not_converged": repetitions - len(found), "intervals": rows}


def main(out, repetitions=200):
    """Writes the table, the ratio rule's part as soon as it is there."""
    repetitions = int(repetitions)
    found = made_by("law-coverage.py", "law-coverage/coverage.json", str(repetitions)) | {
        "seed": SEED,
        "repetitions": repetitions,
        "bootstrap_draws": {"ratio": 2000, "distillation": DRAWS},
        "versions": versions("numpy", "scipy"),
        "laws": {},
    }
    laws = {"ratio": ratio_hits, "distillation": law_hits}
    parts = {name: Path(f"{out}.{name}.part") for name in laws}
    for name, one in laws.items():
        found["laws"][name] = coverage(one, repetitions, parts[name])
        Path(out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for part in parts.values():
        part.unlink()


if __name__ == "__main__":
    main(*sys.argv[1:])
