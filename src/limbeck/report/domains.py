"""Several teachers, one a domain, in words, and what each model reaches in each domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.report.start import Start, start_of
from limbeck.report.verdict import Difference
from limbeck.report.words import ORDER, TEACHER_OF, bounded, label, share, without_sign
from limbeck.types import Reading

HELD_OUT, KL = "held_out, ", "kl_teacher_student, "  # before a domain's name: the names of readings on its documents


def domains_of(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The teachers as run.json holds them; none where there is one for all."""
    found: list[dict[str, Any]] = (run.get("teacher") or {}).get("domains") or []
    return found


def teachers_of(teacher: Mapping[str, Any]) -> str | None:
    """The name of the teacher that run.json holds, or the names of several; None where it has none."""
    found = [str(one["name"]) for one in teacher.get("domains") or ()]
    return " and ".join(dict.fromkeys(found)) if found else teacher.get("name")


def stated_of(teacher: Mapping[str, Any]) -> dict[str, Any]:
    """Licence and origin as run.json holds them; no licence where several teachers state different ones, or not all one."""
    stated: dict[str, Any] = teacher.get("stated") or {}
    each = [one.get("stated") or {} for one in teacher.get("domains") or ()]
    if len({one.get("license") for one in (stated, *each)}) > 1:
        return {key: value for key, value in stated.items() if not key.startswith("license")}
    return stated


def licences_by_domain(teacher: Mapping[str, Any]) -> str:
    """What the README.md of each of several teachers names as its licence; "" where there is one teacher."""
    found = teacher.get("domains") or ()
    stated = ((one["name"], one.get("stated") or {}) for one in found)
    each = {
        name: own.get("license_name") or own.get("license") or "none that its README.md names" for name, own in stated
    }
    return "; ".join(f"{name}: {licence}" for name, licence in each.items())


def domains_sentence(run: Mapping[str, Any]) -> str:
    """What a model card says of several teachers; "" where there is one."""
    each = ", ".join(f"{one['domain']} by {one['name']}" for one in domains_of(run))
    return f"It had a teacher for each domain: {each}." if each else ""


def teachers_sentence(teacher: Mapping[str, Any]) -> str:
    """Which teacher has which rows, from what run.json holds of the teacher; "" where there is one for all."""
    found = teacher.get("domains")
    if not found:
        return ""
    each = ", ".join(f"{one['domain']} from {one['name']} ({share(one['share'])} of the rows)" for one in found)
    return f"teachers by domain: {each}; {found[0]['name']} is the first"


def domains_note(run: Mapping[str, Any], *, tasks: bool) -> str:
    """The note of a report about several teachers; "" where there is one. ``tasks``: whether standard tasks were measured."""
    found = domains_of(run)
    if not found:
        return ""
    first = found[0]["name"]
    given = (run.get("signature") or {}).get("student")
    made = "The one teacher of baselines is" if given else "The student is pruned from"
    said = teachers_sentence(run["teacher"]).partition(";")[0]
    on_tasks = f" On standard tasks each model is compared with {first}." if tasks else ""
    return (
        f"{said[:1].upper()}{said[1:]}. {made} {first}, the first. In tables 'teacher' is each document's own, with the "
        f"size and cost of {first}; equal compute counts the teacher of each row.{on_tasks}"
    )


def gains_note(gains: Mapping[str, Difference]) -> str:
    """By domain, what the student has less than the same distillation from the first teacher alone; "" without any.

    ``gains``: nats per token of that baseline above the student's, on the documents of each domain.
    """
    if not gains:
        return ""
    each = [
        f"{name} {bounded(*without_sign(one))} nats per token {'lower' if one.value >= 0 else 'higher'} ({one.n} documents)"
        for name, one in gains.items()
    ]
    return (
        f"By domain the student's loss against that from the first teacher alone: {'; '.join(each)}. These are single "
        "comparisons, and name no winner."
    )


def domain_rows(run: Mapping[str, Any], readings: Sequence[Reading]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """(headings, rows) of the table by domain: each model's nats per token there; empty where there is one teacher."""
    found = domains_of(run)
    start, names = start_of(run), [one["domain"] for one in found]
    values = {
        (one.model, one.name): one for one in sorted(readings, key=lambda one: (one.seed is None, -(one.seed or 0)))
    }
    models = [*(f"{TEACHER_OF}{name}" for name in names), *(model for model in ORDER if model != "teacher")]
    rows = []
    for model in models:
        cells = [values.get((model, f"{HELD_OUT}{name}")) for name in names]
        if any(cells):
            shown = [bounded(cell.value, cell.low, cell.high) if cell else "–" for cell in cells]
            rows.append((_label(model, found, start), shown))
    return names, rows


def _label(model: str, domains: Sequence[Mapping[str, Any]], start: Start) -> str:
    own = next((one for one in domains if model == f"{TEACHER_OF}{one['domain']}"), None)
    return label(model, start) if own is None else f"teacher of {own['domain']}: {own['name']}"
