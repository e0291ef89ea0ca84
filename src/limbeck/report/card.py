"""README.md of a student's folder: its origin, its measured quality, how to load it."""

from __future__ import annotations

import itertools
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.report.adapted import adapted_sentence, corrected_sentence
from limbeck.report.before import trained_before
from limbeck.report.domains import domains_sentence, licences_by_domain, stated_of, teachers_of
from limbeck.report.experts import experts_sentence
from limbeck.report.grown import grown_from
from limbeck.report.masked import masked_sentence
from limbeck.report.quantised import quantised_sentence
from limbeck.report.screen import over_seeds
from limbeck.report.start import Start, start_of
from limbeck.report.tasks import card_rows
from limbeck.report.words import bounded, count, label
from limbeck.terminal import visible
from limbeck.types import Reading

_ROWS = (
    ("held_out", "nats per token"),
    ("bits_per_byte", "bits per byte"),
    ("perplexity", "perplexity"),
    ("kl_teacher_student", "KL(teacher ‖ student), nats per token"),
    ("top1_agreement", "top-1 agreement with the teacher"),
    ("ece", "expected calibration error"),
)
_LATER = {"adapters", "quantised"}  # in a lineage: how a student was trained, not what it was made of
_LEAST = {"perplexity": 1}  # decimals, of others three
_MODELS = (
    "teacher",
    "teacher-given",
    "cut",
    "student",
    "cut+ce",
    "cut+ce@flops",
    "attention",
    "ptq",
    "off-policy",
    "off-policy@flops",
    "unmasked",
    "ce",
    "full",
    "full@flops",
    "uncorrected",
    "uncorrected@flops",
    "one-teacher",
    "one-teacher@flops",
)


def model_card(
    run: Mapping[str, Any], readings: Sequence[Reading], notes: Sequence[str] = (), *, then: str = ""
) -> str:
    """A model card in Markdown with YAML front matter, from run.json, the readings and the notes of a verdict.

    ``then`` is the command that trains a student which is only pruned. What is not known is left out.
    """
    teacher, student = run.get("teacher") or {}, run.get("student") or {}
    name = teacher.get("name", "an unnamed teacher")
    stated = stated_of(teacher)
    front = front_matter(name, stated, tags=() if _is_only_grown(run) else ("distillation",))
    title = f"{plain(name)}, grown" if _is_only_grown(run) else f"Student of {plain(teachers_of(teacher) or name)}"
    body = ["---", "", f"# {title}", "", _origin(run, student, teacher), ""]
    if run.get("verdict"):
        body += [plain(str(run["verdict"])), ""]
    if notes:
        body += [*(f"- {plain(note)}" for note in notes), ""]
    table = measured_table(readings, start_of(run))
    if table:
        body += ["## Measured on held-out text", "", *table, ""]
    tasks = card_rows(readings, _MODELS, start_of(run))
    if tasks:
        body += ["## Standard tasks", "", *tasks, ""]
    if then:
        body += _pruned(run, then)
    body += how_to_load(ours=_is_ours(run))
    before, after = ("small model", "grown one") if _is_only_grown(run) else ("teacher", "student")
    licence = licence_in(stated)
    which = f" (the {before}'s README.md names: {plain(licence)})" if licence else ""
    if each := licences_by_domain(teacher):
        before, which = "teachers", f" ({plain(each)})"
    body += [f"The licences of the {before}{which} and of the text apply to the {after} too.", ""]
    return visible("\n".join(front + body))


def front_matter(base: str, stated: Mapping[str, Any], *, tags: Sequence[str] = ()) -> list[str]:
    """The lines of YAML that a card begins with, but for its end: the model before, and the licence as ``stated`` of it."""
    front = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags:"]
    front += [f"- {tag}" for tag in (*tags, "limbeck")]
    known = {"base_model": base if _is_hub_id(base) else stated.get("base_model")}
    known |= {key: stated.get(key) for key in ("license", "license_name", "license_link")}
    # A JSON string is a YAML string, whatever a name holds.
    return front + [f"{key}: {json.dumps(value)}" for key, value in known.items() if isinstance(value, str)]


def licence_in(stated: Mapping[str, Any]) -> str:
    """The name of a licence as it was stated, "" where none was."""
    return str(stated.get("license_name") or stated.get("license") or "")


def how_to_load(*, ours: bool) -> list[str]:
    """The lines that load a model with Transformers; ``ours``: one of a class of limbeck's own."""
    lines = ["## Load", "", "```python", "from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
    code = ""
    if ours:
        code = ", trust_remote_code=True"
        lines += [
            "# the folder carries its code; `import limbeck`, where it is installed, serves in place of trust_remote_code"
        ]
    lines += [f'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder"{code})']
    return [*lines, f'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder"{code})', "```", ""]


def _pruned(run: Mapping[str, Any], then: str) -> list[str]:
    """How a pruned student or a grown model was made, its sizes beside those before, and the command that trains it."""
    before, after = run["teacher"]["shape"], run["student"]["shape"]
    rows = [f"| {axis.replace('_', ' ')} | {before[axis]:,} | {after[axis]:,} |" for axis in after]
    heads = "| | small | grown |" if _is_only_grown(run) else "| | teacher | student |"
    shape = [heads, "|---|---|---|", *rows, ""]
    scored = _chosen(run.get("lineage") or {})
    made = ["## Made by", "", "```sh", plain(shlex.join(run["command"])), "```", ""]
    return [
        "## Shape",
        "",
        *shape,
        *([scored, ""] if scored else []),
        "## Train it",
        "",
        "```sh",
        plain(then),
        "```",
        "",
        *made,
    ]


def _is_only_grown(run: Mapping[str, Any]) -> bool:
    """Whether a model was grown from a smaller one, and has not been trained since."""
    return "grown" in (run.get("lineage") or {}) and not run.get("objective")


def _is_ours(run: Mapping[str, Any]) -> bool:
    """Whether the student is a decoder of limbeck's own, which Transformers runs by the code beside its weights."""
    factors = (run.get("lineage") or {}).get("low_rank")
    return bool(run.get("conversion")) or (factors is not None and not factors["dense"])


def _chosen(lineage: Mapping[str, Any]) -> str:
    """A sentence about how units were scored, or how factors were fitted, "" where that is not known."""
    if factors := lineage.get("low_rank"):
        ranks = [rank for rank, _ in factors["ranks"].values()]
        apart = f", {factors['sparse']:.1%} of their entries apart" if factors["sparse"] else ""
        out = " They are multiplied out, so that the model is as large as its teacher." if factors["dense"] else ""
        return (
            f"The matrices of its layers are factors of rank {min(ranks)} to {max(ranks)} with {factors['keep']:.0%} of their "
            f"parameters{apart}, fitted by {plain(str(factors['method']))}.{out}"
        )
    by = [str(lineage[name]) for name in ("method", "depth") if name in lineage]
    scored = f"Units to keep were scored by {plain(', layers by '.join(by))}." if by else ""
    return f"{experts_sentence(lineage['experts'])} {scored}" if "experts" in lineage else scored


def _origin(run: Mapping[str, Any], student: Mapping[str, Any], teacher: Mapping[str, Any]) -> str:
    sizes = [count(model["parameters"]) for model in (student, teacher) if model.get("parameters")]
    parts = [f"A language model of {sizes[0]} parameters" if sizes else "A language model"]
    since, use = "", ": distil it before use"
    if (run.get("lineage") or {}).keys() - _LATER:
        made, since = "pruned from its teacher", " since pruning"
        if run.get("conversion"):
            made = "made from its teacher with other mixers for attention"
        elif "learngene" in run["lineage"]:
            made, since = "expanded from layers of its teacher that a family shares", ""
        elif "low_rank" in run["lineage"]:
            made, since = "made of low-rank factors of its teacher's matrices", ""
        grown = plain(grown_from(run["lineage"]))
        parts.append(grown or made + (f" ({sizes[1]})" if len(sizes) == 2 else ""))
        since, use = (" since then", "") if grown else (since, use)
    text = ", ".join(parts)
    if run.get("objective"):
        text += f" and distilled with `{plain(str(run['objective']))}`"
    tokens = (run.get("plan") or {}).get("tokens")
    text += (
        f" on {count(tokens)} tokens." if tokens else ("." if run.get("plan") else f", and not trained{since}{use}.")
    )
    if tokens and student.get("dtype") not in (None, "float32"):
        mixed = (run.get("signature") or {}).get("bf16")
        how = "mixed precision (weights in float32, products in bfloat16)" if mixed else "float32"
        text += f" It was trained in {how} and rounded to {student['dtype']} at the end; measured is the rounded model."
    text += (
        f" {trained_before(run.get('lineage') or {})}".rstrip()
        + quantised_sentence(run)
        + adapted_sentence(run)
        + corrected_sentence(run)
        + f" {plain(domains_sentence(run))}".rstrip()
        + masked_sentence(run)
    )
    mixers = (run.get("conversion") or {}).get("mixers")
    return text + (f" Its layers mix with {plain(_in_order(mixers))}." if mixers else "")


def _in_order(mixers: Sequence[str]) -> str:
    """`based, attention, 3 x based`: mixers from the first layer to the last."""
    runs = [(name, len(list(same))) for name, same in itertools.groupby(mixers)]
    return ", ".join(name if many == 1 else f"{many} x {name}" for name, many in runs)


def measured_table(
    readings: Sequence[Reading],
    start: Start,
    *,
    shown: Sequence[tuple[str, str]] = _ROWS,
    order: Sequence[str] = _MODELS,
    what: str = "documents",
) -> list[str]:
    """The models' readings as a table of Markdown: (reading, its name) in the rows, models in this order in the columns.

    ``what`` was held out. Rows that are over different numbers of them say how many.
    """
    # The reading over all seeds, where there is one, stands for those of each seed.
    found = over_seeds(readings)
    models = [model for model in order if any(key[0] == model for key in found)]
    rows = [(key, name) for key, name in shown if any((model, key) in found for model in models)]
    if not rows:
        return []
    read = {key: max(reading.n for (_, name), reading in found.items() if name == key) for key, _ in rows}
    apart = len(set(read.values())) > 1
    n = "n" if apart else f"{read[rows[0][0]]:,}"
    seeds = len({r.seed for r in readings if r.model == "student" and r.name == rows[0][0] and r.seed is not None})
    also = f" and {seeds} seeds" if seeds > 1 else ""
    return [
        "| | " + " | ".join(label(model, start) for model in models) + " |",
        "|---|" + "---|" * len(models),
        *(
            f"| {name}{f' (n = {read[key]:,})' if apart else ''} | "
            + " | ".join(_value(found.get((model, key)), least=_LEAST.get(key, 3)) for model in models)
            + " |"
            for key, name in rows
        ),
        "",
        f"± or what is in brackets is a 95 % interval over {n} held-out {what}{also}.",
    ]


def _value(reading: Reading | None, *, least: int) -> str:
    if reading is None or not math.isfinite(reading.value):
        return "–"
    return bounded(reading.value, reading.low, reading.high, least=least)


def _is_hub_id(name: str) -> bool:
    """Whether a name is `owner/name`: what the hub can link to. A folder's path is not."""
    parts = name.split("/")
    return len(parts) == 2 and all(part and part[0] not in ".~" for part in parts)


def plain(text: str) -> str:
    """One line without what Markdown or HTML would act on."""
    return " ".join(text.split()).replace("<", "&lt;").replace("`", "'").replace("|", "\\|").replace("[", "\\[")
