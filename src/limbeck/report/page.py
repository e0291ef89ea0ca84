"""report.html: one file that needs no network, made only from what the run's folder holds.

This module chooses the numbers and words; page.html lays them out. Every text comes from models, documents or the user, so the
template escapes all of it.
"""

from __future__ import annotations

import datetime
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from limbeck.disk import write_text
from limbeck.probes.calibration import reliability
from limbeck.probes.interval import FEWEST_DOCUMENTS
from limbeck.report.before import trained_before
from limbeck.report.decision import by_chance, rows_decided, rule, too_few
from limbeck.report.domains import domain_rows, domains_of, teachers_of
from limbeck.report.experts import experts_sentence
from limbeck.report.figures import (
    Curve,
    HeldOutCurve,
    held_out_curves,
    loss_curves,
    optimiser_curves,
    reliability_plot,
    reward_curves,
    task_points,
)
from limbeck.report.folder import RunFolder
from limbeck.report.pretrained import trained_how
from limbeck.report.rewarded import rewarded_rows
from limbeck.report.rollouts import generated_in, watched_in
from limbeck.report.samples import in_whole_words
from limbeck.report.start import Start, is_tuning, start_of
from limbeck.report.state import fewer, state_rows
from limbeck.report.tasks import headline_scores, task_table
from limbeck.report.trained import chosen, used_table
from limbeck.report.tuned import FORGOTTEN
from limbeck.report.words import (
    LABELS,
    ORDER,
    TEACHER_OF,
    bounded,
    count,
    counted,
    duration,
    label,
    plus_minus,
    share,
    size,
)
from limbeck.terminal import visible
from limbeck.types import Reading

_SURPRISES, _PER_DOCUMENT = 10, 2
_FROM_START = (
    "student",
    "cut+ce",
    "cut+ce@flops",
    "full",
    "full@flops",
    "uncorrected",
    "uncorrected@flops",
    "one-teacher",
    "one-teacher@flops",
    "data-alone",
    "chosen",
    "unmasked",
    "ce",
)  # arms that begin as the student does
_SHOWN = ("teacher", "student", "cut", "cut+ce", "model")  # in the reliability plot

# Columns of the table of models, after size and nats: heading, reading, how its value is written.
_COLUMNS = (
    ("bits/byte", "bits_per_byte", "{:.3f}"),
    ("perplexity", "perplexity", "{:.2f}"),
    ("KL to teacher", "kl_teacher_student", "{:.3f}"),
    ("top-1 agreement", "top1_agreement", "{:.1%}"),
    ("acceptance", "acceptance", "{:.1%}"),
    ("ECE", "ece", "{:.1%}"),
)
# Of a tuning, whose reference is the model before it.
_TUNED_COLUMNS = (
    ("pairs right", "pair_accuracy", "{:.1%}"),
    ("bits/byte", "bits_per_byte", "{:.3f}"),
    ("KL from before", "kl_teacher_student", "{:.3f}"),
    ("other text", "other_held_out", "{:.3f}"),
    ("KL there", "other_kl_teacher_student", "{:.3f}"),
    ("ECE", "ece", "{:.1%}"),
)
_COSTS = (
    ("parameters", "parameters", count),
    ("of these, embeddings", "embedding_parameters", count),
    ("weights on disk", "weights_on_disk", size),
    ("peak memory", "peak_memory", size),
    ("prefill, tokens/s", "prefill", count),
    ("decode, tokens/s", "decode", count),
)
_MEASURED = ("peak_memory", "prefill", "decode")  # costs that depend on the machine and the hour
_RECALL = {
    "recall_hits": "recall hits, nats/token",
    "share_of_hits": "share of tokens that are hits",
    "elsewhere": "elsewhere, nats/token",
    "gap": "gap to attention, nats/token",
    "gap_on_hits": "of it on hits, nats a hit",
    "gap_elsewhere": "elsewhere, nats a token there",
    "gap_share_on_hits": "share of the gap that lies on hits",
    "first_reading": "a passage, nats/token",
    "second_reading": "the same passage again",
    "recalled": "easier by",
}
_GAP_BY_BIN, _BACK = "gap_on_hits, ", " tokens back"  # the first are in readings.jsonl alone
_AXES = (
    ("layers", "layers"),
    ("hidden", "hidden width"),
    ("heads", "heads"),
    ("kv_heads", "key-value heads"),
    ("ffn", "FFN width"),
)
_CONFIG = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "ffn": "intermediate_size",
}


@dataclass(frozen=True)
class Mark:
    """An interval on a scale from 0 to 100."""

    at: float
    low: float
    high: float


def write_report(folder: Path) -> Path:
    """Writes report.html into a run's folder, from the files there, and gives its path.

    Raises BadFolder where the folder holds no run, a damaged file, or cannot be written.
    """
    page, target = render(RunFolder.read(folder)), folder / "report.html"
    write_text(target, visible(page))
    return target


def environment() -> Environment:
    """The templates' environment; every value put into them is escaped."""
    made = Environment(
        loader=PackageLoader("limbeck", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["kept"] = _kept
    made.filters["stacked"] = _stacked
    return made


def _kept(text: str) -> Markup:
    """A text, escaped, in which no line breaks within a flag, before a unit's sign or behind a ±."""
    safe = re.sub(r"--[a-z][\w-]*", r'<span class="kept">\g<0></span>', str(escape(text)))
    return Markup(re.sub(r"(?<=\d) (?=%)|(?<=±) |(?<=\d) (?=±)", "&nbsp;", safe))  # escaped above


def _stacked(text: str) -> Markup:
    """A value with its interval: one in brackets is a small line of its own."""
    value, bracket, rest = text.partition(" (")
    return _kept(value) + Markup(" <small>({})</small>").format(rest.removesuffix(")")) if bracket else _kept(text)


def render(found: RunFolder) -> str:
    """The page as text."""
    run, start = found.run, start_of(found.run)
    return (
        environment()
        .get_template("page.html")
        .render(
            title=_title(run),
            subtitle=_subtitle(run),
            verdict=found.verdict,
            tiles=_tiles(found, start),
            columns=[heading for heading, *_ in _columns(found)],
            models=[] if found.reading("student", "reward") else _models(found, start),
            documents=_documents(found),
            seeds=_seeds(found),
            differences=_differences(found.verdict.get("differences", []), start),
            winners_by=rule([gain["seeds"] for gain, *_ in _decided(found.verdict.get("differences", []))]),
            start=start,
            domains=domain_rows(run, found.readings),
            recalled=_recalled(found),
            recalled_gaps=found.reading("student", "gap") is not None,
            everywhere="attention" in found.models,
            quantised_after="ptq" in found.models,
            recalled_models=[label(name, start) for name in _models_with(found, "recall_hits")],
            conversion=run.get("conversion") or {},
            there=found.models,
            rewarded=rewarded_rows(found.readings) if found.reading("student", "reward") else [],
            prompts=getattr(found.reading("student", "reward"), "n", 0),
            reward_curves=reward_curves(found.curves),
            answers=found.answers,
            curves=None if found.reading("student", "reward") else _curves(found, start),
            of_pairs=_of_pairs(found),
            held_out=_held_out(found, start),
            watched=_watched(found),
            apart=(found.run.get("plan") or {}).get("eval_every"),
            optimiser=optimiser_curves(found.curves, start=start, pairs=_of_pairs(found)),
            used=used_table(found.trained, found.run, start),
            reliability=reliability_plot(
                {name: reliability(found.measured[name]) for name in _SHOWN if name in found.measured}, start=start
            ),
            levelled=found.reading("teacher", "held_out") is not None,
            generated=_generated(found),
            trained=_trained(found),
            surprises=_surprises(found.surprises),
            samples=in_whole_words(found.samples),
            shape=_shape(found),
            layers=_layers(run),
            lineage=run.get("lineage") or {},
            before=trained_before(run.get("lineage") or {}),
            moved=_moved(found),
            alignment=_alignment(found.reading("student", "representation_alignment")),
            experts_sentence=experts_sentence,
            costs=_costs(found),
            fewer=fewer(run),
            tasks=task_table(found.readings),
            task_labels={name: label(name, start) for name in found.models},
            task_points=task_points(headline_scores(found.readings), start=start),
            captured=_captured(run),
            spent=_spent(found),
            read=run.get("read", []),
            findings=[finding for finding in run.get("doctor", []) if finding["level"] != "ok"],
            passed=[finding for finding in run.get("doctor", []) if finding["level"] == "ok"],
            command=_command(run),
            facts=_facts(run),
        )
    )


def _trained(found: RunFolder) -> str:
    """What the trained model is called in sentences."""
    return "tuned model" if is_tuning(found.run) else "student" if "student" in found.models else "model"


def _title(run: Mapping[str, Any]) -> str:
    teacher = teachers_of(run.get("teacher") or {})
    if is_tuning(run):
        return f"{(run.get('student') or {}).get('name', 'A model')}, tuned"
    if _from_scratch(run):
        return f"A model {trained_how(run)}"
    return f"A student of {teacher}" if teacher else "A run of limbeck"


def _from_scratch(run: Mapping[str, Any]) -> bool:
    """Whether it is a run of `pretrain`, which has a model and neither teacher nor student."""
    return (run.get("signature") or {}).get("job") == "pretrain"


def _curves(found: RunFolder, start: Start) -> Markup | None:
    if _from_scratch(found.run):
        return loss_curves([replace(curve, arm="model") for curve in found.curves], objective="CrossEntropy")
    teacher = found.reading("teacher", "held_out")
    level = None if teacher is None else teacher.value
    objective = str(found.run.get("objective", "distillation"))
    return loss_curves(found.curves, objective=objective, start=start, teacher=level, pairs=_of_pairs(found))


def _of_pairs(found: RunFolder) -> bool:
    """Whether the objective compares pairs, which its trainings count in place of tokens."""
    return found.reading("student", "pair_accuracy") is not None


def _held_out(found: RunFolder, start: Start) -> Markup | None:
    """Held-out loss of each arm before its training, where it starts from what was measured, and after it."""
    before, pairs = found.reading("cut", "held_out"), _of_pairs(found)
    by, curves = "step" if pairs else "tokens", []
    for arm in (name for name in ORDER if name not in ("teacher", "cut")):
        after, rows = found.reading(arm, "held_out"), [curve.rows for curve in found.curves if curve.arm == arm]
        if after is None or not rows:
            continue
        first = [(0.0, before)] if before and arm in _FROM_START else []
        watched = next((curve.rows for curve in found.watched if curve.arm == arm), ())
        during = [(float(row[by]), row["loss_nats"]) for row in watched]
        taken = _taken(found, arm, watched, by=by)
        end = float(rows[0][-1][by]) if taken is None else taken
        curves.append(HeldOutCurve(arm, [*first, (end, after)], during, taken))
    if _from_scratch(found.run) and (after := found.reading("model", "held_out")) and found.curves:
        watched = [row for curve in found.watched for row in curve.rows]
        during = [(float(row["tokens"]), row["loss_nats"]) for row in watched]
        taken = _taken(found, "model", watched, by="tokens")
        end = float(found.curves[0].rows[-1]["tokens"]) if taken is None else taken
        curves.append(HeldOutCurve("model", [(end, after)], during, taken))
    return held_out_curves(curves, teacher=found.reading("teacher", "held_out"), start=start, pairs=pairs)


def _taken(found: RunFolder, arm: str, watched: Sequence[Mapping[str, Any]], *, by: str) -> float | None:
    """The tokens, or the step, of the weights taken of an arm's first seed; None where they are those after its last step."""
    first = next((one for one in found.trained if one.arm == arm), None)
    if first is None or not chosen([first]):
        return None
    return next((float(row[by]) for row in watched if row["step"] == first.taken), None)


def _watched(found: RunFolder) -> str:
    """On how much the held-out loss was measured during the trainings, and what that cost; "" where it was not."""
    rows = [row for curve in found.watched for row in curve.rows]
    if not rows:
        return ""
    spent = sum(row["seconds"] for row in rows)
    training = sum(map(_seconds, found.curves))
    cost = f", which took {share(spent / training, digits=1)} of the time of the trainings" if training else ""
    return f"{counted(rows[0]['predictions'], 'prediction')} of {counted(rows[0]['n'], 'document')}{cost}"


def _generated(found: RunFolder) -> str:
    """What the student generated while it was trained, and what was measured of that."""
    trained, watched = (
        next((curve.rows for curve in curves if curve.arm == "student"), []) for curves in (found.curves, found.watched)
    )
    return " ".join(filter(None, (generated_in(trained), watched_in(watched))))


def _seconds(curve: Curve) -> float:
    """How long the steps of a training took."""
    total, before = 0.0, 0
    for row in curve.rows:
        if row.get("tokens_per_s"):
            total += (row["tokens"] - before) / row["tokens_per_s"]
        before = row["tokens"]
    return total


def _subtitle(run: Mapping[str, Any]) -> str:
    """One line: what was read, by what objective, when."""
    plan = run.get("plan") or {}
    parts = [str(run["objective"])] if run.get("objective") else []
    if answers := (run.get("teacher") or {}).get("answers"):
        parts.append(f"captured logits: {answers}")
    if plan.get("tokens"):
        most = "at most " if plan.get("patience") or plan.get("stop_when") else ""
        parts.append(f"{most}{count(plan['tokens'])} tokens read in {counted(plan.get('steps', 0), 'step')}")
    if run.get("seconds"):
        parts.append(duration(run["seconds"]))
    if run.get("started"):
        parts.append(_date(str(run["started"])))
    return " · ".join(parts)


def _date(text: str) -> str:
    try:
        return datetime.datetime.fromisoformat(text).strftime("%d %B %Y, %H:%M UTC").lstrip("0")
    except ValueError:
        return text


def _tiles(found: RunFolder, start: Start) -> list[tuple[str, str, str]]:
    """(what, number, beside what) for the row of large numbers."""
    if is_tuning(found.run):
        return _tiles_of_tuning(found)
    tiles = []
    student, teacher = (found.reading(model, "parameters") for model in ("student", "teacher"))
    if student and teacher:
        tiles.append(("parameters", count(student.value), f"{share(student.value / teacher.value)} of the teacher's"))
    # of models with different tokenizers only bits per byte can be compared
    aligned = "aligned" in (found.run.get("teacher") or {})
    name, words = ("bits_per_byte", "held-out bits per byte") if aligned else ("held_out", "held-out nats per token")
    student, teacher = (found.reading(model, name) for model in ("student", "teacher"))
    if student:
        beside = [_ends(student.low, student.high)] if student.low < student.high else []
        beside += [f"teacher {teacher.value:.3f}"] if teacher else []
        tiles.append((words, f"{student.value:.3f}", "; ".join(beside)))
    for difference in found.verdict.get("differences", []):
        if difference["name"] == "gap_closed" and difference["value"] is not None:
            tiles.append(_closed(found, difference, name, start))
    tiles += _equal_compute(found, start)
    student, teacher = (found.reading(model, "decode") for model in ("student", "teacher"))
    if student and teacher and not _captured(found.run):
        tiles.append(("generation speed", f"{student.value / teacher.value:.1f}×", f"{count(student.value)} tokens/s"))
    return tiles


def _tiles_of_tuning(found: RunFolder) -> list[tuple[str, str, str]]:
    """The same of a tuning: the loss before and after, and what was forgotten of other text."""
    tiles = []
    for name, what in (("reward", "reward of sampled answers"), ("greedy_passed", "of greedy answers pass all checks")):
        before, after = (found.reading(model, name) for model in ("cut", "student"))
        if before and after:
            shown = (lambda value: f"{value:.3f}") if name == "reward" else share
            tiles.append((what, shown(after.value), f"before {shown(before.value)}"))
    if pairs := found.reading("student", "pair_accuracy"):
        ends = f"{share(pairs.low)} to {share(pairs.high)}" if math.isfinite(pairs.low) else ""
        tiles.append(("of held-out pairs right", share(pairs.value), ends))
    before, after = (found.reading(model, "held_out") for model in ("cut", "student"))
    if before and after:
        beside = [_ends(after.low, after.high)] if after.low < after.high else []
        tiles.append(
            ("held-out nats per token", f"{after.value:.3f}", "; ".join([*beside, f"before {before.value:.3f}"]))
        )
    for one in found.verdict.get("differences", []):
        if one["name"] == FORGOTTEN and one["value"] is not None:
            sign = 1 if one["value"] >= 0 else -1
            ends = "" if one["low"] is None else _ends(*sorted((sign * one["low"], sign * one["high"])))
            what = f"nats per token {'more' if sign > 0 else 'fewer'} on other text"
            tiles.append((what, f"{sign * one['value']:.3f}", ends))
    return tiles


def _equal_compute(found: RunFolder, start: Start) -> list[tuple[str, str, str]]:
    """The tile of what the student gained, or lost, over cross-entropy of the same FLOPs, and what is decided of it."""
    for gain, outcome, chance in _decided(found.verdict.get("differences", [])):
        if gain["name"] == "cut+ce@flops - student":
            sign = 1 if gain["value"] >= 0 else -1
            ends = [] if gain["low"] is None else [_ends(*sorted((sign * gain["low"], sign * gain["high"])))]
            equal = "given the same compute at most" if chosen(found.trained) else "at equal compute"
            what = f"nats per token {'fewer' if sign > 0 else 'more'} than cross-entropy {equal}"
            return [(what, f"{sign * gain['value']:.3f}", "; ".join([*ends, _sentence(outcome, gain, chance, start)]))]
    return []


def _ends(low: float, high: float) -> str:
    return f"{low:.3f} to {high:.3f}"


def _closed(found: RunFolder, closed: Mapping[str, Any], name: str, start: Start) -> tuple[str, str, str]:
    """The tile of the gap that training closed, or by how much it left the student further away."""
    levels = [found.reading(model, name) for model in ("cut", "student", "cut+ce", "teacher")]
    before, student, alone, teacher = (reading.value if reading else math.nan for reading in levels)
    if closed["value"] < 0:
        number = f"{student - before:+.3f}" if student > before else "further"
        unit = "bits per byte" if name == "bits_per_byte" else "nats"
        return f"{unit}: training left the student further from the teacher than {start.name} was", number, ""
    beside = [f"{share(closed['low'])} to {share(closed['high'])}"] if closed["low"] is not None else []
    part = (before - alone) / (before - teacher) if before > teacher else math.nan
    if math.isfinite(part):
        beside.append(f"cross-entropy alone: {share(part)}")
    what = f"of the gap between {start.name} and the teacher closed"
    return what, share(closed["value"]), "; ".join(beside)


def _columns(found: RunFolder) -> list[tuple[str, str, str]]:
    """The columns of the table of models, after size and nats, of which some model has a reading."""
    columns = _TUNED_COLUMNS if is_tuning(found.run) else _COLUMNS
    return [column for column in columns if any(found.reading(model, column[1]) for model in found.models)]


def _models(found: RunFolder, start: Start) -> list[dict[str, Any]]:
    """Rows of the table of models: teacher first, then the student and what it is compared with."""
    known = [model for model in ORDER if model in found.models]
    names = known + [model for model in found.models if model not in LABELS]
    readings = [reading for name in names if (reading := found.reading(name, "held_out"))]
    marks = dict(zip([reading.model for reading in readings], _marks(readings), strict=True))
    columns = _columns(found)
    return [
        {
            "name": name,
            "label": label(name, start),
            "parameters": _parameters(found, name),
            "nats": _with_interval(found.reading(name, "held_out")),
            "mark": marks.get(name),
            "cells": [_cell(found.reading(name, reading), form) for _, reading, form in columns],
        }
        for name in names
    ]


def _documents(found: RunFolder) -> str:
    """The number of documents on which all models were measured, as a prefix such as ``18 ``; "" if unknown."""
    reading = found.reading("student", "held_out") or found.reading("model", "held_out")
    return "" if reading is None else f"{reading.n:,} "


def _seeds(found: RunFolder) -> int:
    """How many seeds of the student were measured."""
    names = ("held_out", "reward")
    return len({r.seed for r in found.readings if r.model == "student" and r.name in names and r.seed is not None})


def _models_with(found: RunFolder, name: str) -> list[str]:
    """The models that have a reading, in the order of the table of models."""
    return [model for model in ORDER if found.reading(model, name)]


def _recalled(found: RunFolder) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Rows of the table of recall: what was measured, on how many documents, and each model's value and interval."""
    models = _models_with(found, "recall_hits")
    shown = (r.name for r in found.readings if r.probe in ("slices", "recall") and not r.name.startswith(_GAP_BY_BIN))
    names = list(dict.fromkeys(shown))
    rows = []
    for name in names:
        readings = [found.reading(model, name) for model in models]
        shares = any(reading is not None and reading.unit == "share" for reading in readings)
        counts = sorted({reading.n for reading in readings if reading is not None})
        n = f"{counts[0]:,}" + (f" to {counts[-1]:,}" if len(counts) > 1 else "")
        rows.append((_recall_label(name), n, [_bounded(reading, shares=shares) for reading in readings]))
    return rows


def _recall_label(name: str) -> str:
    """A reading of recall in words: `recall_hits, seen 1-10` are pairs that the training text has so often."""
    if name.startswith("recall_hits, ") and name.endswith(_BACK):
        back = name.removeprefix("recall_hits, ").removesuffix(_BACK)
        return f"of pairs {back.replace('-', ' to ')} tokens back, nats/token"
    of, _, seen = name.partition(", seen ")
    if of != "recall_hits" or not seen:
        return _RECALL.get(name, name)
    often = "never seen" if seen == "0" else f"seen {seen.replace('-', ' to ')} times"
    return f"of pairs {often} in training, nats/token"


def _bounded(reading: Reading | None, *, shares: bool) -> tuple[str, str]:
    """A value, and its interval; of one or two documents their number, for no interval over them can be believed."""
    if reading is None or not math.isfinite(reading.value):
        return "–", ""
    if reading.n < FEWEST_DOCUMENTS:
        return share(reading.value, digits=1) if shares else f"{reading.value:.3f}", f"n = {reading.n}"
    if not shares:
        return _with_interval(reading)
    value, low, high = (100 * number for number in (reading.value, reading.low, reading.high))
    if not low < high:
        return f"{value:.1f} %", ""
    half = (high - low) / 2
    even = max(abs(value - half - low), abs(value + half - high)) <= 0.101
    return f"{value:.1f} %", f"± {half:.1f}" if even else f"({low:.1f} to {high:.1f})"


def _parameters(found: RunFolder, model: str) -> str:
    """As counted, or as run.json has it; the baselines have the student's shape and mixers, so its count is theirs.

    The student with attention everywhere has other mixers, and a count of its own.
    """
    if model == "attention":
        everywhere = (found.run.get("conversion") or {}).get("attention_parameters")
        return count(everywhere) if everywhere else "–"
    if _from_scratch(found.run):
        made = found.run.get("parameters")
        return count(made) if isinstance(made, int) else "–"
    own = next((one for one in domains_of(found.run) if model == f"{TEACHER_OF}{one['domain']}"), None)
    if own is not None:
        return count(own["parameters"])
    owner = "teacher" if model == "teacher" else "student"
    reading = found.reading(model, "parameters") or found.reading(owner, "parameters")
    number = reading.value if reading else (found.run.get(owner) or {}).get("parameters")
    return count(number) if number else "–"


def _with_interval(reading: Reading | None) -> tuple[str, str]:
    if reading is None or not math.isfinite(reading.value):
        return "–", ""
    value, _, beside = bounded(reading.value, reading.low, reading.high).partition(" ")
    return value, beside


def _cell(reading: Reading | None, form: str) -> str:
    if reading is None or not math.isfinite(reading.value):
        return "–"
    return form.format(reading.value).replace("%", " %")


def _marks(readings: Sequence[Reading]) -> list[Mark | None]:
    """Intervals on one scale that holds them all."""
    ends = [end for reading in readings for end in (reading.value, reading.low, reading.high) if math.isfinite(end)]
    if not ends:
        return [None] * len(readings)
    low, span = min(ends), (max(ends) - min(ends)) or 1.0
    return [_mark(reading.value, reading.low, reading.high, low, span) for reading in readings]


def _mark(value: float, low: float, high: float, start: float, span: float) -> Mark | None:
    if not math.isfinite(value):
        return None
    low, high = (end if math.isfinite(end) else value for end in (low, high))
    at, left, right = (round(3 + 94 * (end - start) / span, 2) for end in (value, low, high))
    return Mark(at, left, right)


def _differences(differences: Sequence[Mapping[str, Any]], start: Start) -> list[dict[str, Any]]:
    """Gains of the student in nats, on a scale with 0 in it; what gives no interval has no mark."""
    gains = [one for one in _decided(differences) if one[0]["unit"] == "nats/token"]
    ends = [0.0, *(d[key] for d, *_ in gains for key in ("value", "low", "high") if d[key] is not None)]
    lowest, span = min(ends), (max(ends) - min(ends)) or 1.0
    rows = []
    for gain, outcome, chance in gains:
        value, low, high = gain["value"], gain["low"], gain["high"]
        known = low is not None and high is not None
        text = bounded(value, low, high) if known else plus_minus(value, math.nan)
        mark = _mark(value, low if known else value, high if known else value, lowest, span)
        rows.append(
            {
                "label": label(gain["name"].removesuffix(" - student"), start),
                "text": text if value < 0 else f"+{text}",
                "mark": mark,
                "zero": round(3 + 94 * -lowest / span, 2),
                "state": outcome if outcome in ("better", "worse") else "open",
                "says": _sentence(outcome, gain, chance, start),
            }
        )
    return rows


def _decided(differences: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], str, float]]:
    """The differences that a verdict decided together, each with its decision and its probability by chance.

    Where an older limbeck noted no decision, they are those in nats per token.
    """
    compared = [
        one for one in differences if one["value"] is not None and one.get("outcome", one["unit"] == "nats/token")
    ]
    return [(one, *found) for one, found in zip(compared, rows_decided(compared), strict=True)]


def _sentence(outcome: str, gain: Mapping[str, Any], chance: float, start: Start) -> str:
    """The decision on a difference, shown beside its interval."""
    if outcome == "undecided":
        return too_few(gain["seeds"])
    if outcome in ("better", "worse"):
        name = "student" if start.trained == "student" else f"{start.trained} model"
        return f"the {name} is {outcome} ({by_chance(chance)})"
    beyond = gain["low"] is not None and not gain["low"] <= 0 <= gain["high"]
    return f"not distinguishable from chance ({by_chance(chance)})" if beyond else "no clear difference"


def _surprises(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The largest, at most two of a document, which would otherwise often fill the list alone."""
    chosen: list[Mapping[str, Any]] = []
    for row in rows:
        same = sum(other["document"] == row["document"] for other in chosen)
        if same < _PER_DOCUMENT and len(chosen) < _SURPRISES:
            chosen.append(row)
    return chosen


def _shape(found: RunFolder) -> list[tuple[str, str, str]]:
    """(axis, teacher's, student's); a student that cannot be cut, such as a converted one, has its shape in its configuration."""
    run = found.run
    if is_tuning(run):  # the shape is that of the model before
        return []
    teacher, student = (_sizes((run.get(key) or {}).get("shape")) for key in ("teacher", "student"))
    if teacher and not student:
        student = {axis: str(found.config[key]) for axis, key in _CONFIG.items() if key in found.config}
    rows = [
        (name, teacher.get(key, "–"), student.get(key, "–")) for key, name in _AXES if key in teacher or key in student
    ]
    counts = [(run.get(key) or {}).get("parameters") for key in ("teacher", "student")]
    if any(counts):
        teachers, students = (count(number) if number else "–" for number in counts)
        rows.append(("parameters", teachers, students))
    return rows


def _sizes(shape: Any) -> dict[str, str]:
    """A shape, given as a mapping or as `layers=4,hidden=48`."""
    if isinstance(shape, str):
        return dict(part.split("=", 1) for part in shape.split(",") if "=" in part)
    return {key: str(value) for key, value in (shape or {}).items()}


def _layers(run: Mapping[str, Any]) -> list[int | None]:
    """For each layer of the teacher the student's layer made of it, None where it was dropped."""
    kept = ((run.get("lineage") or {}).get("kept") or {}).get("layers")
    layers = _sizes((run.get("teacher") or {}).get("shape")).get("layers")
    if not kept or not layers:
        return []
    return [kept.index(layer) if layer in kept else None for layer in range(int(layers))]


def _moved(found: RunFolder) -> list[tuple[str, str, str, str]]:
    """(kind of matrix, how far it moved, its stable rank before, and after)."""
    return [
        (
            "all matrices" if row["kind"] == "all" else row["kind"],
            f"{row['moved']:.1%}",
            f"{row['rank_before']:.1f}",
            f"{row['rank_after']:.1f}",
        )
        for row in found.moved
    ]


def _alignment(reading: Reading | None) -> str:
    """The alignment of representations with its interval, as text; "" where it was not measured."""
    return "" if reading is None else bounded(reading.value, reading.low, reading.high)


def _costs(found: RunFolder) -> list[tuple[str, str, str, str]]:
    """(what, teacher's, student's, student's share of the teacher's)."""
    rows = []
    for name, key, form in _COSTS:
        teacher, student = found.reading("teacher", key), found.reading("student", key)
        if not (teacher or student):
            continue
        ratio = f"{student.value / teacher.value:.2f}×" if student and teacher and teacher.value else ""
        if _captured(found.run) and key in _MEASURED:
            ratio = ""
        rows.append((name, _ranged(teacher, form), _ranged(student, form), ratio))
    return rows + state_rows(found.run)


def _captured(run: Mapping[str, Any]) -> bool:
    """Whether the teacher's logits were captured before: its costs were measured then, perhaps elsewhere."""
    return "answers" in (run.get("teacher") or {})


def _ranged(reading: Reading | None, form: Any) -> str:
    if reading is None:
        return "–"
    if not reading.low < reading.high:  # no range, or none known
        return str(form(reading.value))
    return f"{form(reading.value)} ({form(reading.low)} to {form(reading.high)})"


def _spent(found: RunFolder) -> str:
    """The cost of the student's training: tokens, steps, speed, memory."""
    rows = next((curve.rows for curve in found.curves if curve.arm == "student"), [])
    if not rows:
        return ""
    rates = sorted(row["tokens_per_s"] for row in rows if row.get("tokens_per_s"))
    what = "pairs" if _of_pairs(found) else "tokens"
    parts = [f"{count(rows[-1]['tokens'])} {what} in {counted(rows[-1]['step'], 'step')}"]
    if rates:
        parts.append(f"{count(rates[len(rates) // 2])} {what}/s in the median step")
    peaks = [row["peak_rss_gib"] for row in rows if row.get("peak_rss_gib")]
    if peaks:
        parts.append(f"{max(peaks):.2f} GiB of resident memory at the peak")
    return ", ".join(parts)


def _command(run: Mapping[str, Any]) -> str:
    command = run.get("command", "")
    return command if isinstance(command, str) else shlex.join(command)


# Settings without a meaning, by what is trained.
_OF_ADAPTERS = {"full": ("rank", "alpha", "subspace"), "lora": ("subspace",), "qlora": ("subspace",)}


def _facts(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Versions, then settings, without those of adapters that the run does not have."""
    versions = [(key, str(value)) for key, value in (run.get("versions") or {}).items()]
    settings = run.get("settings") or run.get("signature") or {}
    none = _OF_ADAPTERS.get(settings.get("trained", ""), ())
    return versions + [(key, str(value)) for key, value in settings.items() if value is not None and key not in none]
