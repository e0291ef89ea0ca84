"""The tables below a page's first one, computed from the committed files.

usage: tables.py writes them between the marks of each page, `<!-- table NAME: begin -->` and its end; a test compares them.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, median

import pyarrow.parquet as pq
from study_rows import HERE, bounds, read

MARKS = re.compile(r"(<!-- table (\S+): begin -->\n\n).*?(\n\n<!-- table \2: end -->)", re.DOTALL)
Lines = list[Sequence[str]]


def table(head: str, lines: Lines) -> str:
    """A table with a head of cells between bars."""
    columns = head.split("|")
    rows = [[one.strip() for one in columns], ["---"] * len(columns), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def spread(values: Sequence[float], digits: int = 0) -> str:
    """The median with the least and the most."""
    middle, least, most = (f"{one:,.{digits}f}" for one in (median(values), min(values), max(values)))
    return f"{middle} ({least} to {most})"


def within(found: dict, digits: int = 3, *, sign: str = "") -> str:
    """A value with its interval."""
    value, low, high = (f"{one:{sign}.{digits}f}" for one in bounds(found))
    return f"{value} ({low} to {high})"


# Speed and memory


def end_to_end() -> str:
    runs = read("performance/distil.json")["runs"]

    def of(contender: str, key: str) -> list[float]:
        return [run[key] for run in runs if run["contender"] == contender]

    lines = []
    for name, key, digits, aim in (
        ("real tokens per CPU-second", "tokens_per_cpu_s", 0, "2.6"),
        ("share of the FLOP floor", "floor_share", 2, "0.55"),
        ("peak above the models, MiB", "peak_mib", 0, "0.33"),
        ("CPU seconds to the first finished step", "first_step_cpu_s", 1, "1"),
        ("held-out cross-entropy, nats", "held_out_ce_nats", 3, ""),
        ("held-out KL to the teacher, nats", "held_out_kl_nats", 4, ""),
    ):
        cells = [
            spread(of(one, key), digits) if aim else f"{median(of(one, key)):.{digits}f}"
            for one in ("limbeck", "trl", "plain")
        ]
        ratio = f"{median(of('limbeck', key)) / median(of('trl', key)):.2f}" if aim and aim != "0.55" else ""
        lines.append([name, *cells, ratio, aim])
    return table(" | limbeck | TRL GKD | plain padded loop | limbeck : TRL | aim", lines)


def losses() -> str:
    ours, theirs = (
        {one["contender"]: one for one in read(f"performance/{file}.json")["results"]}
        for file in ("losses-limbeck", "losses")
    )
    matrix = 2048 * 32_000 * 4 / 2**20  # MiB of logits
    lines = []
    for found, names in ((ours, [name for name in ours if name.startswith("limbeck")]), (theirs, PEERS)):
        products = median(found["matrix products alone"]["seconds"])
        rows = [(median(found[name]["seconds"]) / products, name, found[name]["peak_mib"] / matrix) for name in names]
        lines += [
            [name, f"{times:.2f}", f"{memory:.2f}" if memory < 1 else f"{memory:.1f}"]
            for times, name, memory in sorted(rows)
        ]
    return table("contender | times the bare products | extra memory, (T, V) matrices", lines)


PEERS = (
    *("naive forward KL", "Liger fused, forward KL", "Liger fused, JSD 0.5"),
    *("TRL, forward KL", "TRL, JSD 0.5", "TRL chunked, forward KL"),
)


def captured() -> str:
    lines = [
        [
            one["format"].replace("drawn", "sampled").replace("likeliest", "top-k"),
            f"{one['vocab']:,}",
            str(one["bytes"]),
            f"{one['encode_tokens_per_s']:,.0f}",
            f"{one['decode_tokens_per_s'] / 1e6:.2f} M",
        ]
        for one in read("performance/caches.json")["formats"]
    ]
    return table("kept | vocabulary | bytes a token | packed, tokens/s | read, tokens/s", lines)


def served() -> str:
    found, lines = read("performance/served.json"), []
    for name in ("bare", "limbeck"):
        speeds = [pair[f"{name}_tokens_per_s"] for pair in found["pairs"]]
        busy = [pair[f"{name}_tokens_per_cpu_s"] for pair in found["pairs"] if f"{name}_tokens_per_cpu_s" in pair]
        share = f"{100 * median(speeds) / found['most_tokens_per_s']:.0f} %"
        lines.append([name, spread(speeds), share, spread(busy) if busy else "–"])
    bound = f"{found['most_tokens_per_s']:,.0f}"
    return table(
        f"client | tokens a second | of the server's bound, {bound} | tokens per CPU-second of the client", lines
    )


def recall() -> str:
    lines = []
    for name, one in read("performance/mqar.json")["results"].items():
        digits = 0 if one["ratio"] > 10 else 2
        value, least, most = (f"{one[key]:.{digits}f}" for key in ("ratio", "least", "most"))
        lines.append([name, value, f"{least} to {most}", "100" if name.startswith("rows") else "2"])
    return table("what | times as fast | pair by pair | aim", lines)


def cost() -> str:
    worst = read("performance/cost.json")["worst"]
    names = {
        "the constants were fitted on these": "those that the memory constants were fitted on",
        "never seen by them": "those that had no part in them",
    }
    lines = [
        [names[name], f"{100 * one['memory_ratio']:.1f} %", f"{100 * one['time_ratio']:.0f} %"]
        for name, one in worst.items()
    ]
    return table("pairs | memory off by, at most | time off by, at most", lines)


# Conversion


def readings(folder: str) -> dict[tuple[str, str], dict]:
    """By model and name; all seeds together where there are several."""
    found = sorted(read(f"{folder}/readings.jsonl"), key=lambda one: one["seed"] is None)
    return {(one["model"], one["name"]): one for one in found}


SLICES = (
    ("perplexity", "perplexity", 2),
    ("nats per token", "held_out", 3),
    ("on recall hits", "recall_hits", 3),
    ("of these, bigram seen 11 to 100 times in training", "recall_hits, seen 11-100", 3),
    ("101 to 1,000 times", "recall_hits, seen 101-1000", 3),
    ("over 1,000 times", "recall_hits, seen over 1000", 3),
    ("elsewhere", "elsewhere", 3),
    ("the second reading of a passage is easier by", "recalled", 3),
)


def converted() -> str:
    found, models = readings("conversion"), ("teacher", "cut", "student", "attention")
    lines = []
    for name, key, digits in SLICES:
        cells = [
            within(found[model, key], digits)
            if key in ("perplexity", "recalled")
            else f"{found[model, key]['value']:.{digits}f}"
            for model in models
        ]
        lines.append([name, *cells])
    return table(" | teacher | matched, not distilled | **converted student** | attention everywhere", lines)


def damage() -> str:
    found = read("conversion/conversion.json")
    kept = max(found["damage"], key=lambda one: one["damage"])
    lines = []
    for one in found["damage"]:
        layer = "no layer" if one["layer"] is None else f"layer {one['layer']}"
        name = f"**{layer}** (keeps it)" if one is kept else layer
        more = "" if one["layer"] is None else f"{one['damage']:.3f}"
        lines.append([name, f"{one['hits']:.3f}", more, f"{one['elsewhere']:.3f}"])
    return table("attention replaced in | nats on recall hits | more than before | elsewhere", lines)


def delta() -> str:
    based, gdn = readings("conversion"), readings("conversion/gdn")
    lines = []
    for name, key, digits in (SLICES[1], SLICES[2], *SLICES[-2:]):
        lines.append(
            [
                name,
                *(within(one, digits) for one in (based["student", key], gdn["student", key], based["attention", key])),
            ]
        )
    return table(" | based, one layer kept | **gdn, two layers kept** | attention everywhere", lines)


# Mixers


def size(number: float) -> str:
    return f"{number / 2**20:.1f} MiB" if number >= 2**20 else f"{number / 2**10:.1f} KiB"


def mixers() -> str:
    found = read("mixers/mixers.json")
    measured = {(one["mixer"], one["length"]): one for one in found["measured"]}
    lines = []
    for name, one in found["counted"].items():
        times = [
            ", ".join(f"{measured[name, length][f'{task}_to_attention']['median']:.2f}" for length in (512, 2048, 8192))
            for task in ("training", "decoding")
        ]
        lines.append(
            [
                name,
                f"[{one['paper']}](https://arxiv.org/abs/{one['paper']})",
                ", ".join(size(one[f"state_bytes_{length}"]) for length in (2048, 32768)),
                ", ".join(f"{one[f'flops_{length}'] / 1e6:.2f}" for length in (2048, 32768)),
                *times,
            ]
        )
    return table(
        "mixer | arXiv | state at 2k, 32k | MFLOP a token at 2k, 32k | training at 512, 2k, 8k | decoding at 512, 2k, 8k",
        lines,
    )


def peers() -> str:
    lines = []
    for one in read("mixers/mixers.json")["peers"]:
        value, least, most = (f"{one['theirs_to_ours'][key]:.1f}" for key in ("median", "least", "most"))
        micro = [f"{1e6 * one[key]:.0f}" for key in ("ours_s_per_token", "theirs_s_per_token")]
        lines.append([one["mixer"], *micro, f"{value} ({least} to {most})", str(one["repeats"])])
    return table("mixer | ours, µs a token | Transformers', µs a token | times ours | runs", lines)


# Streamed, pass-until, stories, verdicts


def streamed() -> str:
    found = read("streamed/streamed.json")
    lines = [
        [name, f"{found[key]['peak_bytes'] / 1e6:.1f} MB", f"{found[key]['seconds']:.0f}"]
        for name, key in (
            (f"streamed, limit {found['limit_bytes'] / 1e6:.1f} MB", "streamed"),
            ("in memory", "resident"),
        )
    ]
    return table(" | peak above the start | seconds", lines)


def pass_rates() -> str:
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
    found = read("pass-until/results.json")
    truth, lines = found["measured"][-1]["pass_rate"], []
    for one, name in zip(found["predictions"], ("the mean", "each instance"), strict=True):
        held = "yes" if one["low"] <= truth <= one["high"] else "no"
        lines.append([name, within(one), f"{one['value'] / truth - 1:+.0%}", held])
    return table(f"fitted to | prediction for {found['measured'][-1]['parameters']:,} | error | interval held", lines)


def estimators() -> str:
    lines = []
    for size, model in read("pass-until/results.json")["estimators"].items():
        for one in model["rows"]:
            cells = [one["estimator"], str(one["successes"]), f"{one['relative_bias']:+.1%}", f"{one['coverage']:.1%}"]
            lines.append([f"{int(size):,}", f"{model['exact_mean']:.5f}", *cells])
    return table("parameters | exact mean rate | estimator | r | bias | intervals that hold the truth", lines)


def rates() -> str:
    found = read("verdicts/results.json")["rows"]
    by = {(one["seeds"], one["baselines"]): one for one in found}

    def cell(one: dict) -> str:
        if not one["share"]:
            return "none"
        share, low, high = (100 * one[key] for key in ("share", "low", "high"))
        return f"{share:.1f} % ({low:.1f} to {high:.1f})"

    lines = []
    for seeds in sorted({one["seeds"] for one in found}):
        lines.append(
            [str(seeds), *(cell(by[seeds, many][rule]) for rule in ("interval", "verdict") for many in (1, 4))]
        )
    return table("seeds | interval excludes 0, one baseline | any of four | verdict, one baseline | any of four", lines)


def levels() -> str:
    found = read("stories/results.json")["levels"]
    once, ten = found["single-use"], found["ten-uses"]
    short = found["cross-entropy on the short text, by epochs"]
    lines = [
        ["500k tokens once", *(within(once[arm]) for arm in ("student", "cut+ce", "cut+ce@flops"))],
        ["50k tokens ten times", within(ten["student"]), within(short["10"]), within(short["equal compute"])],
    ]
    lines += [
        [f"50k tokens, {epochs} epoch{'s' * (epochs != '1')}", "", within(short[epochs]), ""]
        for epochs in ("1", "2", "4", "7")
    ]
    return table("nats per token | the student | cross-entropy, equal tokens | cross-entropy, equal compute", lines)


ARMS = {
    "teacher": "teacher",
    "cut": "pruned, untrained",
    "student": "**student (pruned, forward KL)**",
    "cut+ce": "pruned, cross-entropy, equal tokens",
    "cut+ce@flops": "pruned, cross-entropy, equal compute",
    "fresh+kd": "fresh start, forward KL",
}


def longer() -> str:
    found, lines = readings("stories"), []
    for model, name in ARMS.items():
        cells = [within(found[model, "held_out"]), f"{found[model, 'bits_per_byte']['value']:.3f}"]
        own = model == "teacher"
        cells.append("–" if own else f"{found[model, 'kl_teacher_student']['value']:.3f}")
        cells.append("–" if own else f"{100 * found[model, 'top1_agreement']['value']:.1f} %")
        lines.append([name, *cells])
    return table("model | nats per token | bits per byte | KL(teacher ‖ model) | top-1 agreement", lines)


# Packing

SHOWN = {  # of each text the lengths of rows that are shown, and its name
    "preference": ("`preference`", (256, 1024, 2048)),
    "alpaca": ("`alpaca`", (256, 512)),
    "gsm8k": ("`gsm8k`", (256, 512)),
    "tinystories": ("stories", (256, 1024)),
    "c4": ("C4", (1024,)),
    "python": ("Python files", (1024,)),
}


def lacking() -> str:
    lines = []
    for text, (name, lengths) in SHOWN.items():
        found = read("packing/results.json")["texts"][text]
        for number, length in enumerate(lengths):
            stream, whole = (found["rows"][kind][str(length)] for kind in ("stream", "whole"))
            shares = stream["lacking"], whole["lacking"], whole["padding"], whole["read_again"]
            first = ["", ""] if number else [name, f"{found['documents']:,}, {found['median']:,.0f}"]
            lines.append([*first, f"{length:,}", *(f"{100 * share:.1f}" for share in shares)])
    return table("text | documents, median tokens | rows of | stream | whole | padding | read again", lines)


def students() -> str:
    found, lines = read("packing/results.json"), []
    for text, student, learns in (
        ("stories", "pruned out of the teacher, forward KL", "stories"),
        ("answers", "from scratch, cross-entropy", "answers of `gsm8k`"),
    ):
        one = found[text]
        above, losses = one["whole_above_stream"], [f"{one['nats'][kind]:.3f}" for kind in ("stream", "whole")]
        difference = f"{within(above, sign='+')}, {above['documents']} documents"
        lines.append([student, learns, *losses, difference, one["verdict"]])
    return table("student | learns | stream | whole | difference | verdict", lines)


# Captured logits, two tokenizers


KINDS = {
    "live": "live",
    "drawn": "sampled",
    "coarse": "top-k and the rest",
    "likeliest without the rest": "top-k alone",
}


def captures(text: str) -> str:
    lines, before = [], ""
    for one in read(f"caches/{text}.json")["rows"]:
        first = "" if one["objective"] == before else one["objective"]
        before = one["objective"]
        kind = KINDS[one["kind"]] + (f", {one['bytes']} bytes" if one["bytes"] else "")
        above = (
            ["", ""]
            if one["kind"] == "live"
            else [within(one[key], sign="+") for key in ("nats_above_live", "kl_above_live")]
        )
        lines.append([first, kind, f"{one['nats']:.3f}", *above, within(one["ece"])])
    return table("objective | teacher | nats | above live | KL to the teacher above live | ECE", lines)


def aligned() -> str:
    lines = []
    for text in ("stdlib", "stories"):
        found = read(f"alignment/{text}.json")
        for one in found["rows"]:
            tokenizer = one["tokenizer"].partition(",")[0]
            above = [
                "" if not any(bounds(one[key])) else within(one[key], sign="+")
                for key in ("above_cross_entropy", "above_kd_with_the_teachers_tokenizer")
            ]
            lines.append(
                [
                    f"`{found['teacher']['name'].rpartition('/')[2]}`",
                    f"{tokenizer}, {found['students'][tokenizer]['vocab']}",
                    f"`{one['objective']}`",
                    f"{one['bits_per_byte']['value']:.3f}",
                    *above,
                ]
            )
    return table(
        "teacher | student's tokenizer | objective | bits per byte | above cross-entropy | above KD with the teacher's tokenizer",
        lines,
    )


# The capacity gap


def thousands(number: float) -> str:
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


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "performance.md": {
        "end-to-end": end_to_end,
        "losses": losses,
        "captured": captured,
        "served": served,
        "recall": recall,
        "cost": cost,
    },
    "conversion/README.md": {"converted": converted, "damage": damage, "gdn": delta},
    "mixers/README.md": {"mixers": mixers, "peers": peers},
    "streamed/README.md": {"streamed": streamed},
    "pass-until/README.md": {"estimators": estimators, "rates": pass_rates, "predicted": predicted},
    "verdicts/README.md": {"rates": rates},
    "packing/README.md": {"lacking": lacking, "students": students},
    "stories/README.md": {"levels": levels, "longer": longer},
    "caches/README.md": {text: partial(captures, text) for text in ("stories", "stdlib")},
    "capacity-gap/README.md": {
        f"{name}-{text}": partial(made, text)
        for text in ("stories", "stdlib")
        for name, made in (("ladder", ladder), ("valleys", valleys))
    },
    "alignment/README.md": {"aligned": aligned},
}


def written(page: Path) -> str:
    """A page with its tables of today."""
    made = TABLES[str(page.relative_to(HERE))]
    return MARKS.sub(lambda found: found[1] + made[found[2]]() + found[3], page.read_text(encoding="utf-8"))


def named(page: Path) -> list[str]:
    """The tables that a page has marks for."""
    return [found[2] for found in MARKS.finditer(page.read_text(encoding="utf-8"))]


if __name__ == "__main__":
    for name in TABLES:
        page = HERE / name
        page.write_text(written(page), encoding="utf-8")
