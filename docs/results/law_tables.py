"""Tables of laws: scores predicted before training, and the best teacher of a student."""

from functools import partial
from statistics import mean

import pyarrow.parquet as pq
from cells import Tables, table, within
from study_rows import HERE, bounds, read


def pass_rates() -> str:
    """Pass rates of two models of each size, with 95 % intervals over instances; the largest model was held out of the fits."""
    *rows, last = read("pass-until/results.json")["measured"]
    lines = []
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        digits = 5 if first["pass_rate"] < 1e-3 else 4
        rates = [
            f"{one['pass_rate']:.{digits}f} ({one['low']:.{digits}f} to {one['high']:.{digits}f})"
            for one in (first, second)
        ]
        lines.append([f"{first['parameters']:,}", *rates])
    lines.append([f"{last['parameters']:,}, held out", f"{last['pass_rate']:.3f} (exact {last['exact']:.4f})", "–"])
    return table("parameters | pass rate (95 %, over instances), first model | second model", lines)


def predicted() -> str:
    """Pass rate that each fit predicts for the held-out model, its relative error, and whether its interval held."""
    found = read("pass-until/results.json")
    truth, lines = found["measured"][-1]["pass_rate"], []
    for one, name in zip(found["predictions"], ("the mean", "each instance"), strict=True):
        held = "yes" if one["low"] <= truth <= one["high"] else "no"
        lines.append([name, within(one), f"{one['value'] / truth - 1:+.0%}", held])
    return table(f"fitted to | prediction for {found['measured'][-1]['parameters']:,} | error | interval held", lines)


def estimators() -> str:
    """Relative bias and coverage of each estimator of a pass rate, by model and number of successes, against exact rates."""
    lines = []
    for size, model in read("pass-until/results.json")["estimators"].items():
        for one in model["rows"]:
            cells = [one["estimator"], str(one["successes"]), f"{one['relative_bias']:+.1%}", f"{one['coverage']:.1%}"]
            lines.append([f"{int(size):,}", f"{model['exact_mean']:.5f}", *cells])
    return table("parameters | exact mean rate | estimator | r | bias | intervals that hold the truth", lines)


def thousands(number: float) -> str:
    """A count in thousands, rounded: 12345 is 12k."""
    return f"{number / 1e3:.0f}k"


def ladder(text: str) -> str:
    """Mean losses of seeds by student and arm, a column for each teacher trained once. The best is bold but in flat rows."""
    points = pq.read_table(HERE / "capacity-gap" / text / "points.parquet").to_pylist()
    fits = read(f"capacity-gap/{text}/capacity-gap.json")["numbers"]["fits"]
    kinds = {(arm, one["student"]): one["kind"] for arm, fit in fits.items() for one in fit["valleys"]}
    usual = {one["teacher_params"]: 0.0 for one in points if one["teacher"]}
    for size in usual:
        usual[size] = min(one["teacher_tokens"] for one in points if one["teacher_params"] == size)
    sizes, lines = sorted(usual), []
    alone = {one["student_params"] for one in points}
    for arm in ("cut", "fresh"):
        for student in sorted(
            alone & {one["student_params"] for one in points if one["arm"] == arm and one["teacher"]}
        ):
            tokens = max(one["student_tokens"] for one in points if one["student_params"] == student)
            mine = [one for one in points if one["student_params"] == student and one["student_tokens"] == tokens]
            found = [
                [
                    one["student_loss"]
                    for one in mine
                    if one["arm"] == arm and one["teacher_params"] == size and one["teacher_tokens"] == usual[size]
                ]
                for size in sizes
            ]
            text_alone = [one["student_loss"] for one in mine if not one["teacher"]]
            means = [mean(losses) if losses else None for losses in found]
            best = min(one for one in means if one is not None) if kinds[arm, student] != "flat" else None
            cells = ["–" if one is None else f"**{one:.3f}**" if one == best else f"{one:.3f}" for one in means]
            lines.append([f"{thousands(student)}, {arm}", *cells, f"{mean(text_alone):.3f}"])
    return table(f"student, arm | {' | '.join(map(thousands, sizes))} | text alone, fresh", lines)


def valleys(text: str) -> str:
    """The best teacher of each student, or why there is none, and the slope over all."""
    fits, lines = read(f"capacity-gap/{text}/capacity-gap.json")["numbers"]["fits"], []
    for arm, fit in fits.items():
        for one in fit["valleys"]:
            name = f"best teacher over student, {thousands(one['student'])}, {arm}"
            if one["kind"] == "optimum":
                value, low, high = bounds(one["ratio"])
                lines.append([name, f"{value:.2f}", f"{low:.2f} to {high:.2f}"])
            elif one["kind"] == "flat":
                lines.append([name, "flat", f"a dip of {one['detectable_nats']:.3f} nats would have been seen"])
            else:
                lines.append([name, f"the smallest tried, {one['lowest']:.1f} times, is best", "no optimum inside"])
        if sum(one["kind"] == "optimum" for one in fit["valleys"]) > 1:
            value, low, high = bounds(fit["slope"])
            lines.append([f"slope of best teacher over student, {arm}", f"{value:.2f}", f"{low:.2f} to {high:.2f}"])
    return table(" | found | 95 % interval", lines)


TABLES: Tables = {
    "pass-until/README.md": {"estimators": estimators, "rates": pass_rates, "predicted": predicted},
    "capacity-gap/README.md": {
        f"{name}-{text}": partial(made, text)
        for text in ("stories", "stdlib")
        for name, made in (("ladder", ladder), ("valleys", valleys))
    },
}
