"""Every claim and measurement of the studies as a row of short cells, computed from the committed files.

A claim was judged by a criterion: confirmed, refuted or inconclusive. What had none is "measured"; what had an aim instead is
"aim met" or "aim missed". A claim whose criterion stands and whose study was not run is "not yet run".
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

import chat_page
import scores_criterion
import shapes_criterion
import smollm2_stages_criterion
import values_criterion

from limbeck.papers import recipe
from limbeck.papers.lab.recipe import count_of
from limbeck.probes.interval import wilson

HERE = Path(__file__).parent
REAL_PAIR = HERE / "performance" / "real-pair.json"
REAL_MODEL = HERE / "performance" / "real-model.json"
JUDGED = ("confirmed", "refuted", "inconclusive")
NOT_RUN = "not yet run"


@dataclass(frozen=True)
class Row:
    """A line of a table. ``page`` and ``study`` say where from; ``bounds`` are value, low and high where a figure draws it."""

    page: str
    study: str
    claim: str
    verdict: str
    effect: str
    n: str
    bounds: tuple[float, float, float] | None = None


@cache
def read(file: str):
    """A committed file of results, as JSON or JSON lines."""
    text = (HERE / file).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if file.endswith(".jsonl") else json.loads(text)


def there(study: str) -> bool:
    """Whether a study has results. One that was added but not run has no page yet."""
    return (HERE / study / "results.json").exists()


def bounds(found: dict) -> tuple[float, float, float]:
    """(value, low, high) of an interval as JSON."""
    return found["value"], found["low"], found["high"]


def interval(found: dict, *, digits: int = 3, unit: str = "nats per token") -> str:
    """An interval from JSON as text with its unit."""
    return f"{found['value']:+.{digits}f} ({found['low']:+.{digits}f} to {found['high']:+.{digits}f}) {unit}"


def sign(found: dict) -> str:
    """Confirmed where an interval lies below 0, refuted where it lies above."""
    return "confirmed" if found["high"] < 0 else "refuted" if found["low"] > 0 else "inconclusive"


def papers() -> Iterator[Row]:
    """Claims of papers that `limbeck reproduce` judged."""
    files = sorted(HERE.glob("*/reproduction.json")) + sorted(HERE.glob("*/*/capacity-gap.json"))
    for file in files + sorted(HERE.glob("*/*/distillation-law.json")):
        found, parts = json.loads(file.read_text(encoding="utf-8")), file.relative_to(HERE).parts
        study = parts[0] if len(parts) == 2 else f"{found['recipe']}, {file.parent.name}"
        for one in found["judged"]:
            short = recipe(found["recipe"]).short_of(one["claim"])
            n = count_of(one["seen"], found["seeds"])
            yield Row(parts[0], study, short.claim, one["verdict"], short.effect_of(one["seen"]), n)


def pass_until() -> Iterator[Row]:
    """The law by the criterion of its page; the estimators had none."""
    found = read("pass-until/results.json")
    held_out, curvature = found["measured"][-1]["pass_rate"], found["law"]["curvature"]
    mean, each = found["predictions"]
    errors = [abs(one["value"] / held_out - 1) for one in (mean, each)]
    bends = curvature["low"] > 0 or curvature["high"] < 0
    verdict = "refuted" if bends or min(errors) > 0.2 else "confirmed" if errors[1] < errors[0] else "inconclusive"
    short = next(one for words, one in recipe("pass-until").short.items() if words.startswith("addition"))
    value, low, high = bounds(each)
    effect = f"measured {held_out:.3f}; predicted by instances {value:.3f} ({low:.3f} to {high:.3f})"
    n = f"{len(found['measured']) - 1} models fitted, 1 held out"
    yield Row("pass-until", "pass-until", short.claim, verdict, effect, n)
    tried = [row for model in found["estimators"].values() for row in model["rows"]]
    theirs, ours = ([row for row in tried if (row["estimator"] == "r/K") == first] for first in (True, False))
    covered = [100 * row["coverage"] for row in tried]
    n = f"{len(found['estimators'])} models, 50 draws of each instance"
    for claim, rows, digits in (("Bias of the mean rate by r/K", theirs, 0), ("Bias by (r-1)/(K-1)", ours, 1)):
        bias = [row["relative_bias"] for row in rows]
        waited = sorted({row["successes"] for row in rows})
        effect = f"{min(bias):+.{digits}%} to {max(bias):+.{digits}%}, r = {waited[0]} to {waited[-1]}"
        yield Row("pass-until", "pass-until", claim, "measured", effect, n)
    effect = f"{min(covered):.1f} % to {max(covered):.1f} %"
    yield Row("pass-until", "pass-until", "Exact 95 % intervals that hold the truth", "measured", effect, n)


def stories() -> Iterator[Row]:
    """Claims and measurements of the study stories."""
    found = read("stories/results.json")
    gains, n = found["student_better_by"], f"{found['documents']} stories, {len(found['seeds'])} seeds"
    once, ten = gains["single-use"]["cut+ce@flops"], gains["ten-uses"]["cut+ce@flops"]
    (best,) = [one for name, one in gains["ten-uses"].items() if "at its best" in name]
    even = found["break_even"]
    for claim, verdict, effect in (
        ("Read once: cross-entropy is better at equal compute", found["once"], f"student better by {interval(once)}"),
        (
            "Ten uses of kept logits: the student is better",
            found["ten times"],
            f"{interval(ten)} at equal compute, {interval(best, unit='than at the best epochs')}",
        ),
        (
            "A pass pays from 1 to 10 uses on",
            found["break-even"],
            f"{even['value']:.1f} ({even['low']:.1f} to {even['high']:.1f}) uses",
        ),
    ):
        yield Row("stories", "stories", claim, verdict, effect, n)


FLAGSHIP = {  # the claims of the study smollm2, and what each of their gains is over
    "equal tokens": ("20M: the student is better at equal tokens", ("",)),
    "equal compute": ("20M: the student is better at equal compute", ("", "than at the best epochs")),
    "start": ("20M: pruning is better than a fresh start", ("",)),
    "TAID": ("20M: TAID is better than forward KL", ("",)),
    "40M": ("40M: the student is better", ("at equal tokens", "at equal compute")),
}


def smollm2(folder: str = "smollm2") -> Iterator[Row]:
    """Claims of the study smollm2, once its runs were judged."""
    if not there(folder):
        return
    found = read(f"{folder}/results.json")
    n = f"{found['documents']} stories, {len(found['seeds'])} seeds"
    for key, (claim, against) in FLAGSHIP.items():
        effects = [
            interval(gain, unit=f"{'nats per token' * (number == 0)} {what}".strip())
            for number, (gain, what) in enumerate(zip(found["gains"][key], against, strict=True))
        ]
        yield Row("smollm2", "smollm2", claim, found["verdicts"][key], ", ".join(effects), n)


def law_smollm2() -> Iterator[Row]:
    """Claims of the study law-smollm2, once its runs were judged."""
    if there("law-smollm2"):
        yield from law_smollm2_rows(read("law-smollm2/results.json"))


LAW = {  # what each claim of law-smollm2 is called, before the arm that it is judged in
    "valley": "A teacher inside the ladder is better than both ends",
    "plan": "The planned teacher is as good as any, within 0.01 nats",
    "healing": "Healing the largest teacher on stories helps its students",
    "text, equal tokens": "The planned teacher beats text alone at equal tokens",
    "text, equal FLOPs": "The planned teacher beats text alone at equal FLOPs",
}


def law_smollm2_rows(found: dict) -> Iterator[Row]:
    """Claims of the study law-smollm2 from its results: a valley by its shape, others by their least gain."""
    n = f"{found['documents']} stories, {len(found['seeds'])} seeds"
    for name, one in found["claims"].items():
        claim, _, arm = (name, "", "") if name in LAW else name.partition(", ")
        gains = one["gains"]
        if claim == "plan":
            other = max(gains, key=lambda pair: gains[pair]["value"])
            effect = f"{interval(gains[other])}, {other.partition(' ')[0]} over it"
        elif claim == "valley":
            effect = f"{one['shape']}; 16m to 111m: {interval(gains['111m over 16m'])}"
        else:
            effect = interval(min(gains.values(), key=lambda gain: gain["value"]))
        yield Row("law-smollm2", "law-smollm2", f"{LAW[claim]}{f', {arm}' * bool(arm)}", one["verdict"], effect, n)


STAGES = {  # the claims of smollm2-stages
    "own texts": "On-policy: nearer to the teacher on its own texts, equal FLOPs",
    "stories": "On-policy costs nothing on stories, within 0.02 nats",
    "answers": "On-policy before chat is better on answers than more of the same",
    "chat": "Chat costs nothing on stories, within 0.02 nats",
}


def smollm2_stages() -> Iterator[Row]:
    """Claims of the study smollm2-stages; before it was run, what they are."""
    if there("smollm2-stages"):
        yield from smollm2_stages_rows(read("smollm2-stages/results.json"))
        return
    for claim in smollm2_stages_criterion.CLAIMS:
        seeds = f"{len(smollm2_stages_criterion.SEEDS)} seeds"
        yield Row("smollm2-stages", "smollm2, stages", STAGES[claim], NOT_RUN, "", seeds)


def smollm2_stages_rows(found: dict) -> Iterator[Row]:
    """Claims of the study smollm2-stages from its results, with the smallest of their differences."""
    for claim, one in found["claims"].items():
        other, least = min(one["gains"].items(), key=lambda gain: gain[1]["value"])
        text = "answers" if claim == "answers" else "stories"
        effect = f"{interval(least)}, than {other}"
        n = f"{found['documents'][text]} {text}, {len(found['seeds'])} seeds"
        yield Row("smollm2-stages", "smollm2, stages", STAGES[claim], one["verdict"], effect, n, bounds(least))


VALUES = {  # the claims of values by their beginning
    "context": "Attention reads back more than a tenth of the values",
    "attention": "Attention reads back more than every model of fixed state",
    "state": "Based reads back more with more state",
    "window": "Based reads back more than a window of no fewer bytes",
}


def values() -> Iterator[Row]:
    """Claims of the study values; before it was run, what they are."""
    if there("values"):
        yield from values_rows(read("values/results.json"))
        return
    for source in values_criterion.SOURCES:
        for name in values_criterion.CLAIMS:
            yield Row("values", values_study(source), values_claim(name), NOT_RUN, "", values_seeds())


def values_rows(found: dict) -> Iterator[Row]:
    """Claims of the study values from its results, with the smallest of their differences."""
    for name, one in found["claims"].items():
        source, _, claim = name.partition(": ")
        rows = found["rows"][source]
        pair, gain = min(one["gains"].items(), key=lambda pair: pair[1]["value"])
        share = interval({key: 100 * gain[key] for key in ("value", "low", "high")}, digits=1, unit="% of the values")
        least = f", the least: {pair}" if len(one["gains"]) > 1 else ""
        n = f"{rows['documents']} documents, {rows['rows'][str(values_criterion.LENGTH)]} rows, {values_seeds()}"
        yield Row("values", values_study(source), values_claim(claim), one["verdict"], share + least, n, bounds(gain))


def values_study(source: str) -> str:
    """What rows call the study on a source."""
    return f"values, {source.capitalize()}"


def values_claim(name: str) -> str:
    """A claim of values in words, with its budget."""
    claim, _, budget = name.partition(", ")
    return f"{VALUES[claim]}{f', {budget}' * bool(budget)}"


def values_seeds() -> str:
    """How many seeds judge the claims of values."""
    return f"{len(values_criterion.SEEDS)} seeds"


def shapes(folder: str = "shapes") -> Iterator[Row]:
    """Claims of the study shapes, with the smallest of their differences; before it was run, what they are."""
    if not there(folder):
        for claim in shapes_criterion.CLAIMS:
            yield Row("shapes", "shapes", shapes_claim(claim), NOT_RUN, "", f"{len(shapes_criterion.SEEDS)} seeds")
        return
    found = read(f"{folder}/results.json")
    for claim, one in found["claims"].items():
        name, gain = min(one["gains"].items(), key=lambda pair: pair[1]["value"])
        n = f"{found['documents'][name]} documents, {len(found['seeds'])} seeds"
        effect = f"{interval(gain)}, the least: {name}"
        yield Row("shapes", "shapes", shapes_claim(claim), one["verdict"], effect, n, bounds(gain))


def shapes_claim(name: str) -> str:
    """A claim of shapes in words, with its budget."""
    rule, _, budget = name.partition(", ")
    first = {
        "width": "narrower, of all layers,",
        "depth": "shallower, of full width,",
        "neurons": "of narrower MLPs alone",
    }
    return f"Students {first[rule]} are better than even ones, {budget}"


def scores(folder: str = "scores") -> Iterator[Row]:
    """Claims of the study scores, with the smallest of their differences; before it was run, what they are."""
    if not there(folder):
        for claim in scores_criterion.CLAIMS.values():
            yield Row("scores", "scores", claim, NOT_RUN, "", f"{len(scores_criterion.SEEDS)} seeds")
        return
    found = read(f"{folder}/results.json")
    for claim, one in found["claims"].items():
        name, gain = min(one["gains"].items(), key=lambda pair: pair[1]["value"])
        n = f"{found['documents'][name]} documents, {len(found['seeds'])} seeds"
        words = f"{scores_criterion.CLAIMS[claim]} ({one['pair']})"
        yield Row("scores", "scores", words, one["verdict"], f"{interval(gain)}, the least: {name}", n, bounds(gain))


def quantised(folder: str = "quantised") -> Iterator[Row]:
    """Claims and measurements of the study quantised, once its runs were judged."""
    if not (HERE / folder / "results.json").exists():
        return
    found = read(f"{folder}/results.json")
    n = f"{found['documents']} stories, {len(found['seeds'])} seeds"
    for name, kind in (("int4", "Q4_0"), ("int8", "Q8_0")):
        gain, verdict = found["gains"][name], found["verdicts"][name]
        claim = f"{kind}: training with its weights is better"
        yield Row("quantised", "quantised", claim, verdict, interval(gain, digits=4), n, bounds(gain))
    for name, kind in (("int4", "Q4_0"), ("int8", "Q8_0")):
        for arm, what in (("ptq", "quantised afterwards"), ("student", "trained with its weights")):
            above = found["above_plain"][name][arm]
            claim = f"{kind}, {what}: above the unquantised"
            yield Row("quantised", "quantised", claim, "measured", interval(above, digits=4), n, bounds(above))
        file = found["files"][name]
        claim, n_file = f"{kind} file in llama.cpp: above its student", f"{file['difference']['n']} stories, one seed"
        effect = interval(file["difference"], digits=4)
        yield Row("quantised", "quantised", claim, "measured", effect, n_file, bounds(file["difference"]))


def rates(folder: str = "rates") -> Iterator[Row]:
    """Claims of the study rates, once its runs were judged."""
    if not (HERE / folder / "results.json").exists():
        return
    found = read(f"{folder}/results.json")
    n = f"{found['documents']} stories, {len(found['seeds'])} seeds"
    for size, verdict in found["verdicts"].items():
        claim = f"A pruned student of {size[:-1]}M: 1e-3 is better than 5e-4"
        yield Row("rates", "rates", claim, verdict, interval(found["gains"][size]), n, bounds(found["gains"][size]))
    for size, others in found["above"].items():
        for rate, one in others.items():
            claim = f"A pruned student of {size[:-1]}M at {rate}: above 1e-3"
            yield Row("rates", "rates", claim, "measured", interval(one), n, bounds(one))


def caches() -> Iterator[Row]:
    """Claims and measurements of the study caches."""
    names = {"drawn": "Sampled logits", "likeliest without the rest": "Top-k without the rest"}
    for text in ("stories", "stdlib"):
        found = read(f"caches/{text}.json")
        for row in found["rows"]:
            if row["kind"] not in names:
                continue
            above, margin = row["nats_above_live"], found["margin_nats"]
            outside = above["low"] > margin or above["high"] < -margin
            yield Row(
                "caches",
                f"captured logits, {text}",
                f"{names[row['kind']]} equal the live teacher ({row['objective']}, {row['bytes']} bytes)",
                "confirmed" if row["equivalent"] else "refuted" if outside else "inconclusive",
                interval(above),
                f"{above['documents']} documents, {len(found['seeds'])} seeds",
                bounds(above),
            )


def alignment() -> Iterator[Row]:
    """Measurements of the study alignment."""
    for text in ("stories", "stdlib"):
        found = read(f"alignment/{text}.json")
        for row in found["rows"]:
            if row["arm"] in ("ALM", "ULD", "KL of shared tokens"):
                above = row["above_cross_entropy"]
                yield Row(
                    "alignment",
                    f"two tokenizers, {text}",
                    f"{row['arm']} beats cross-entropy alone",
                    sign(above),
                    interval(above, unit="bits per byte"),
                    f"{above['documents']} documents, {len(found['seeds'])} seeds",
                    bounds(above),
                )


def packing() -> Iterator[Row]:
    """Measurements of the study packing."""
    found = read("packing/results.json")
    for text in ("stories", "answers"):
        above = found[text]["whole_above_stream"]
        yield Row(
            "packing",
            f"packing, {text}",
            "Rows of whole documents make better students",
            sign(above),
            interval(above),
            f"{above['documents']} documents, {above['seeds']} seeds",
            bounds(above),
        )
    above = found["teacher"]["whole_above_stream"]
    yield Row(
        "packing",
        "packing, teacher",
        "Loss in rows of whole documents, above the stream's",
        "measured",
        interval(above),
        f"{above['documents']} documents, one model",
        bounds(above),
    )


def verdicts() -> Iterator[Row]:
    """Measurements of the study verdicts."""
    found = read("verdicts/results.json")
    rows = [row["verdict"] for row in found["rows"] if row["seeds"] >= 3]
    worst = max(rows, key=lambda row: row["high"])
    share, low, high = (100 * worst[key] for key in ("share", "low", "high"))
    first, last = found["seeds"]
    n = f"{last - first + 1} trainings"
    effect = f"at most {share:.1f} % ({low:.1f} to {high:.1f})"
    claim = "Three or five seeds name a false winner in at most 5 %"
    yield Row("verdicts", "verdicts", claim, found["judged"], effect, n)
    before = max((row["interval"] for row in found["rows"] if row["seeds"] == 1), key=lambda row: row["share"])
    share, low, high = (100 * before[key] for key in ("share", "low", "high"))
    effect = f"{share:.1f} % ({low:.1f} to {high:.1f})"
    yield Row("verdicts", "verdicts", "The interval alone: one seed, any of four baselines", "measured", effect, n)


def conversion() -> Iterator[Row]:
    """Claims and measurements of the study conversion."""
    for folder, name in (("conversion", "based"), ("conversion/gdn", "gdn")):
        found = {one["name"]: one for one in read(f"{folder}/verdict.json")["differences"]}
        readings = {(one["model"], one["name"]): one for one in read(f"{folder}/readings.jsonl") if one["seed"] is None}
        gained, closed = found["cut - student"], found["gap_closed"]
        n = f"{gained['n']} stories, {gained['seeds']} seeds"
        if "attention - student" in found:
            value, low, high = bounds(found["attention - student"])
            worse = {"value": -value, "low": -high, "high": -low}
            yield Row(
                "conversion",
                f"conversion, {name}",
                "Worse than attention everywhere by",
                "measured",
                interval(worse),
                n,
                bounds(worse),
            )
        share = [100 * one for one in bounds(closed)]
        yield Row(
            "conversion",
            f"conversion, {name}",
            "Distilling after matching gains",
            "measured",
            f"{interval(gained)}, {share[0]:.0f} % ({share[1]:.0f} to {share[2]:.0f}) of the gap",
            n,
            bounds(gained),
        )
        recalled = readings["student", "recalled"]
        yield Row(
            "conversion",
            f"conversion, {name}",
            "A second reading is easier by",
            "measured",
            interval(recalled),
            f"{recalled['n']} passages, {gained['seeds']} seeds",
            bounds(recalled),
        )


QUANTITIES = (  # what a law's intervals are of, by the beginning of their names
    ("Ratio rule: slope, intercept, best teacher", "ratio", ("slope", "intercept", "best teacher")),
    ("Distillation law: parameters of the student", "distillation", ("A", "B", "alpha", "beta", "c0", "c1", "f1")),
    ("Distillation law: parameters of the supervised law", "distillation", tuple(
        f"supervised.{one}" for one in ("A", "B", "E", "alpha", "beta", "gamma")
    )),
    ("Distillation law: predicted losses", "distillation", ("loss of", "supervised loss of")),
    ("Distillation law: the best teacher", "distillation", ("best teacher",)),
)  # fmt: skip


def law_coverage() -> Iterator[Row]:
    """By kind of quantity the least and the most share of intervals that hold the truth."""
    found = read("law-coverage/coverage.json")
    for claim, law, names in QUANTITIES:
        intervals = found["laws"][law]["intervals"].items()
        shares = [
            100 * one["coverage"]
            for name, one in intervals
            if name in names or name.startswith(tuple(one for one in names if " " in one))
        ]
        effect = f"{min(shares):.1f} % to {max(shares):.1f} %" if len(shares) > 1 else f"{shares[0]:.1f} %"
        n = (
            f"{len(shares)} quantities, {found['repetitions']} pilots"
            if len(shares) > 1
            else f"{found['repetitions']} pilots"
        )
        yield Row("law-coverage", "law-coverage", claim, "measured", effect, n)


def coverages() -> Iterator[Row]:
    """The share of every quantity with its interval, for the figure."""
    for law, of in read("law-coverage/coverage.json")["laws"].items():
        for quantity, one in of["intervals"].items():
            share = wilson(round(one["coverage"] * one["n"]), one["n"])
            at = 100 * share.value, 100 * share.low, 100 * share.high
            yield Row(
                "law-coverage",
                "law-coverage",
                f"{law}: {quantity}".removeprefix("distillation: "),
                "measured",
                "",
                "",
                at,
            )


def streamed() -> Iterator[Row]:
    """Measurements of the study streamed."""
    found = read("streamed/streamed.json")
    limit, peak, resident = (
        one / 1e6 for one in (found["limit_bytes"], found["streamed"]["peak_bytes"], found["resident"]["peak_bytes"])
    )
    n = f"{found['tokens']:,} tokens, one run"
    for claim, verdict, effect, value in (
        (
            "Streamed, the peak stays below the limit",
            "aim met" if peak < limit else "aim missed",
            f"{peak:.1f} of {limit:.1f} MB",
            peak,
        ),
        ("Peak with the teacher in memory", "measured", f"{resident:.1f} MB", resident),
        (
            "Time, streamed and in memory",
            "measured",
            f"{found['streamed']['seconds']:.0f} and {found['resident']['seconds']:.0f} s",
            None,
        ),
        ("Largest difference of a logit", "measured", f"{found['logits']['largest_difference']:g}", None),
    ):
        yield Row("streamed", "streamed", claim, verdict, effect, n, value and (value, value, value))


def mixers() -> Iterator[Row]:
    """Measurements of the speed of mixers."""
    found = read("mixers/mixers.json")
    for task in ("training", "decoding"):
        for length in (512, 8192):
            rows = [row for row in found["measured"] if row["length"] == length and row["mixer"] != "attention"]
            times = sorted((row[f"{task}_to_attention"]["median"], row["mixer"]) for row in rows)
            cheaper, repeats = sum(one < 1 for one, _ in times), rows[0]["repeats"]
            (least, first), (most, last) = times[0], times[-1]
            yield Row(
                "mixers",
                "mixers",
                f"Mixers cheaper than attention in {task} at {length:,} tokens",
                "measured",
                f"{cheaper} of {len(times)}; {least:.2f} ({first}) to {most:.2f} ({last}) of its time",
                f"{repeats} rows in turn" if task == "training" else "24 tokens in turn",
            )


def chat() -> Iterator[Row]:
    """Claims of the study on chat, once it has results."""
    if not there("smollm2-chat"):
        return
    found = read("smollm2-chat/results.json")
    seeds = f"{len(found['seeds'])} seeds"
    for claim, name in chat_page.CLAIMS.items():
        one, nats = found["gains"][claim], claim.startswith("logits")
        effect = interval(one) if nats else f"{chat_page.percent(one, sign='+')} of the constraints"
        n = f"{one['n']} {'answers' if nats else 'prompts'}, {seeds}"
        yield Row("smollm2-chat", "chat", name, found["verdicts"][claim], effect, n, bounds(one))


def beside(files: list[dict], contender: str, other: str, key: str) -> tuple[float, float, float]:
    """The ratio of two contenders' medians, and of single turns the least and the most."""
    mine, theirs = ([run[key] for run in files if run["contender"] == name] for name in (contender, other))
    turns = [a / b for a, b in zip(mine, theirs, strict=True)]
    return median(mine) / median(theirs), min(turns), max(turns)


def ratio(found: tuple[float, float, float], digits: int = 2) -> str:
    """A ratio with its bounds as text; one that was measured once has none."""
    value, low, high = (f"{one:.{digits}f}" for one in found)
    return value if found[1] == found[2] else f"{value} ({low} to {high})"


def performance() -> Iterator[Row]:
    """Measurements of performance.md."""
    runs = read("performance/distil.json")["runs"]
    n = f"{sum(run['contender'] == 'limbeck' for run in runs)} runs in turn"

    def row(claim, found, aim, met, n):
        verdict = "measured" if aim is None else "aim met" if met else "aim missed"
        goal = "" if aim is None else f", aim {aim:g}"
        effect, drawn = ratio(found, 0 if found[0] > 10 else 2) + goal, None if found[1] == found[2] else found
        return Row("performance.md", "performance", claim, verdict, effect, n, drawn)

    speed, memory, first = (
        beside(runs, "limbeck", "trl", key) for key in ("tokens_per_cpu_s", "peak_mib", "first_step_cpu_s")
    )
    yield row("Real tokens per CPU-second, times TRL's GKD", speed, 2.6, speed[0] >= 2.6, n)
    yield row("Peak memory above the models, times TRL's", memory, 0.33, memory[0] <= 0.33, n)
    yield row("CPU seconds to the first step, times TRL's", first, 1, first[0] <= 1, n)
    losses = {one["contender"]: one for one in read("performance/losses-limbeck.json")["results"]}
    products = losses["matrix products alone"]["seconds"]
    for name, aim in (("ForwardKL", 1.3), ("CTKD", None), ("AdaptiveKL", None)):
        seconds = losses[f"limbeck {name}"]["seconds"]
        turns = [a / b for a, b in zip(seconds, products, strict=True)]
        found = median(seconds) / median(products), min(turns), max(turns)
        yield row(f"{name}, times the bare products", found, aim, found[0] <= 1.3, f"{len(turns)} rounds in turn")
    kept = read("performance/caches.json")["training"]
    for name, share in kept["faster_than_live"].items():
        n = f"{kept['steps']} steps in turn"
        claim = f"Training from {name.replace('drawn', 'sampled').replace('likeliest', 'top-k')} outcomes, times live"
        yield Row("performance.md", "performance", claim, "measured", f"{share:.2f}", n, (share, share, share))
    for name, one in read("performance/mqar.json")["results"].items():
        found, aim = (one["ratio"], one["least"], one["most"]), 100 if name.startswith("rows") else 2
        yield row(f"mqar {name}: times a plain loop", found, aim, found[0] >= aim, f"{len(one['ours'])} pairs")
    if REAL_MODEL.exists():
        for claim, found, aim, met, n in real_model():
            yield row(claim, found, aim, met, n)
    for name, off, aim, n in estimates():
        verdict = "aim met" if off <= aim else "aim missed"
        yield Row("performance.md", "performance", f"Estimated {name}", verdict, f"{off:.1f} %, aim {aim} %", n)


def estimates() -> Iterator[tuple[str, float, int, str]]:
    """(what is estimated, largest error in percent, aim, n) of memory and time."""
    memory, times = read("performance/memory.json"), read("performance/cost.json")["shapes"]
    for part, name in (("others", "new"), ("fitted", "fitted")):
        off = max(100 * one[part] for one in memory["worst"].values() if part in one)
        n = f"{len(memory['cells'])} trainings of {len(memory['shapes'])} pairs in all"
        yield f"memory off by at most, {name} pairs", off, 10, n
    yield (
        "time off by at most",
        max(100 * abs(one["time_ratio"] - 1) for one in times),
        25,
        f"{len(times)} pairs of models",
    )


def real_model() -> Iterator[tuple[str, tuple[float, float, float], float, bool, str]]:
    """(claim, value with its bounds, aim, whether it is met, n) of what it costs to take a real model in and to hand one out."""
    found = read("performance/real-model.json")
    kept, items = found["vocabulary"]["tokens"][1], found["tasks"]["items"]
    for claim, seconds, aim in (
        ("CPU seconds to de-quantise a GGUF file of 135M", found["import_cpu_s"], 30.0),
        ("CPU seconds to choose a trimmed vocabulary", found["vocabulary"]["trimming_cpu_s"], 20.0),
        ("CPU seconds to write a GGUF file of 50M", found["export"]["write_cpu_s"], 20.0),
    ):
        yield claim, (seconds, seconds, seconds), aim, seconds <= aim, "one run"
    for claim, ratios, aim, what in (
        (f"A step with {kept:,} tokens, times one with all", found["vocabulary"]["ratios"], 1.5, "pairs of steps"),
        ("Standard tasks, times lm-eval's own model", found["tasks"]["ratios"], 1.0, f"pairs of {items} items"),
    ):
        value = median(ratios)
        yield claim, (value, min(ratios), max(ratios)), aim, value >= aim, f"{len(ratios)} {what}"


def real_pair() -> Iterator[Row]:
    """The claims of benchmarks/real_pair.py, once it was run."""
    if not REAL_PAIR.exists():
        return
    found = read(str(REAL_PAIR.relative_to(HERE)))
    words = {
        "equal time": "Trimmed, fewer bits per byte than both peers after equal CPU time",
        "engine": "With all tokens, fewer bits per byte than both peers after equal CPU time",
        "equal tokens": f"At most {found['margin']:g} bits per byte above a packed loop after equal tokens",
    }
    documents = found["setting"]["held_out_documents"]
    for claim, one in found["claims"].items():
        n = f"{documents} documents, {len(found['seeds' if claim == 'equal tokens' else 'time_seeds'])} seeds"
        effects = [f"{peer}: {interval(of, unit='bits per byte')}" for peer, of in one["differences"].items() if of]
        yield Row("performance.md", "performance", words[claim], one["verdict"], "; ".join(effects), n)


@cache
def rows() -> list[Row]:
    """All rows: claims with a verdict first."""
    found = [
        *smollm2(),
        *law_smollm2(),
        *chat(),
        *smollm2_stages(),
        *values(),
        *scores(),
        *shapes(),
        *quantised(),
        *rates(),
        *stories(),
        *caches(),
        *alignment(),
        *packing(),
        *verdicts(),
        *papers(),
        *pass_until(),
        *conversion(),
    ]
    found += [*law_coverage(), *streamed(), *mixers(), *performance(), *real_pair()]
    return sorted(found, key=lambda row: row.verdict not in JUDGED)
