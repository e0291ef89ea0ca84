"""Estimators against exact probabilities, and a held-out model's score against the law: numbers and figures of this folder.

Called by ../pass-until.sh with the folder of its runs and this one.
"""

import json
import sys
from pathlib import Path

import matplotlib
import numpy as np

from limbeck.jobs.folder import now, versions
from limbeck.jobs.pass_until import read_results
from limbeck.jobs.predict import point_of
from limbeck.plan.task_law import fit
from limbeck.probes.pass_rate import exact_interval, ratio, unbiased
from limbeck.probes.pass_until import Count

matplotlib.use("agg")
from matplotlib.figure import Figure

REPEATS, CAP, SUCCESSES = 50, 10_000, (1, 2, 4, 10)


def simulate(p: np.ndarray, r: int, generator: np.random.Generator) -> list[Count]:
    """What the sampler would count where these are the probabilities."""
    waited = r + generator.negative_binomial(r, p)
    counts = []
    for rate, k in zip(p, waited.tolist(), strict=True):
        if k <= CAP:
            counts.append(Count("", r, k, capped=False))
            continue
        passed = r
        while passed >= r:
            passed = int(generator.binomial(CAP, rate))
        counts.append(Count("", passed, CAP, capped=True))
    return counts


def estimators(exact: np.ndarray) -> list[dict]:
    """Relative bias of the mean rate and coverage of each instance's interval, by model's mean rate and r."""
    rows = []
    for r in SUCCESSES:
        generator = np.random.default_rng(r)
        drawn = [simulate(np.repeat(p, REPEATS), r, generator) for p in exact]
        known: dict[Count, tuple[float, float]] = {}
        held = []
        for p, counts in zip(exact, drawn, strict=True):
            known |= {c: exact_interval(c) for c in set(counts) - known.keys()}
            held.append(np.mean([known[c][0] <= p <= known[c][1] for c in counts]))
        for name, estimate in (("r/K", ratio), ("(r-1)/(K-1)", unbiased)):
            if r == 1 and estimate is unbiased:
                continue
            means = np.array([estimate(counts).mean() for counts in drawn])
            rows.append(
                {
                    "estimator": name,
                    "successes": r,
                    "relative_bias": float(means.mean() / exact.mean() - 1),
                    "coverage": float(np.mean(held)),
                }
            )
    return rows


def main(runs: Path, out: Path) -> None:
    results = read_results(runs / "points")
    results.sort(key=lambda r: r.parameters)
    largest = results[-1].parameters
    fitted = [r for r in results if r.parameters < largest]
    law = fit([point_of(r) for r in fitted])
    bias = {}
    for result in (fitted[0], next(r for r in fitted if r.parameters > 40_000)):
        exact = np.exp([c.log_p for c in result.counts])
        bias[result.parameters] = {"exact_mean": float(exact.mean()), "rows": estimators(exact)}
    measured = [
        {
            "parameters": result.parameters,
            "pass_rate": result.about["readings"]["pass_rate"]["value"],
            "low": result.about["readings"]["pass_rate"]["low"],
            "high": result.about["readings"]["pass_rate"]["high"],
            "exact": result.about["readings"]["pass_rate_exact"]["value"],
        }
        for result in results
    ]
    predictions = [vars(p) for p in law.predict(largest)]
    found = {
        "command": "bash docs/results/pass-until.sh",
        "versions": versions(),
        "seed": 0,
        "date": now(),
        "measured": measured,
        "law": {"c": law.c, "alpha": law.alpha, "instance_alpha": law.instance_alpha, "curvature": vars(law.curvature)},
        "predictions": predictions,
        "estimators": bias,
    }
    (out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    draw_estimators(bias, out / "estimators.png")
    draw_law(law, measured, predictions, out / "law.png")


def draw_estimators(bias: dict, path: Path) -> None:
    figure = Figure(figsize=(8.4, 3.2), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2)
    for found, style in zip(bias.values(), ("-", "--"), strict=True):
        for name, color in (("r/K", "#c2410c"), ("(r-1)/(K-1)", "#1d4ed8")):
            rows = [row for row in found["rows"] if row["estimator"] == name]
            label = f"{name}, mean rate {found['exact_mean']:.2g}"
            r = [row["successes"] for row in rows]
            left.plot(
                r, [100 * row["relative_bias"] for row in rows], style, marker="o", ms=4, color=color, label=label
            )
        rows = [row for row in found["rows"] if row["estimator"] == "r/K"]
        r, held = [row["successes"] for row in rows], [100 * row["coverage"] for row in rows]
        right.plot(r, held, style, marker="o", ms=4, color="#444444", label=f"mean rate {found['exact_mean']:.2g}")
    left.axhline(0, color="#999999", lw=0.8)
    left.set(
        title="Bias of the mean pass rate", xlabel="passes waited for, r", ylabel="% of the exact rate", yscale="symlog"
    )
    right.axhline(95, color="#999999", lw=0.8)
    right.set(title="Exact intervals that hold the truth", xlabel="passes waited for, r", ylabel="%", ylim=(90, 100))
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks(SUCCESSES, [str(r) for r in SUCCESSES])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=7)
    figure.savefig(path)


def draw_law(law, measured: list[dict], predictions: list[dict], path: Path) -> None:
    figure = Figure(figsize=(6.4, 3.8), layout="constrained", dpi=110)
    axes = figure.subplots()
    sizes = np.geomspace(17_000, 180_000, 60)
    for level, color in (("dataset", "#c2410c"), ("instance", "#1d4ed8")):
        curve = [next(p for p in law.predict(round(n)) if p.level == level).value for n in sizes]
        axes.plot(
            sizes, curve, color=color, lw=1.2, label=f"law of the {'mean' if level == 'dataset' else 'instances'}"
        )
    for p, shift in zip(predictions, (0.97, 1.03), strict=True):
        color = "#c2410c" if p["level"] == "dataset" else "#1d4ed8"
        low = max(p["low"], 1e-5)
        axes.plot([p["parameters"] * shift] * 2, [low, p["high"]], color=color, lw=1)
        axes.plot(p["parameters"] * shift, p["value"], "D", ms=5, color=color)
    largest = max(m["parameters"] for m in measured)
    for held, name, face in ((False, "measured, fitted", "#222222"), (True, "measured, held out", "white")):
        chosen = [m for m in measured if (m["parameters"] == largest) == held]
        axes.plot(
            [m["parameters"] for m in chosen],
            [m["pass_rate"] for m in chosen],
            "o",
            ms=6,
            mfc=face,
            mec="#222222",
            ls="",
            label=name,
        )
    axes.set(xscale="log", yscale="log", ylim=(1e-4, 2), xlabel="parameters", ylabel="pass rate")
    ticks = sorted({m["parameters"] for m in measured})
    axes.set_xticks(ticks, [f"{t / 1000:.0f}k" for t in ticks])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
