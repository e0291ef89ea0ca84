"""`limbeck capture --text`: a teacher's completions of prompts as a training text.

Sequence-level distillation (Kim & Rush, arXiv 1606.07947, sec. 3.2) trains a student on sequences that its teacher generates.
The paper finds them by beam search, limbeck samples them. No log-probabilities are needed. So the teacher may return text only,
and the student may have another tokenizer.

A journal contains the completions until all are there. Then they are written in the order of the prompts. With --judge checks
only those are written that pass the checks of their prompts (rejection sampling, as in arXiv 2508.03178).
"""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.config import CaptureSettings
from limbeck.corpora.prompt import digest
from limbeck.corpora.records import SPLIT
from limbeck.corpora.strategies import Strategy
from limbeck.corpora.tasks.checked import Checked
from limbeck.disk import check_sums, claims, sums, whole
from limbeck.ending import Ending, show_ending
from limbeck.errors import BadFolder, BadSetting
from limbeck.generation.served import LENGTH, STOP, ServedCompletions
from limbeck.jobs.capture.choosing import BLANK, CHECKS, LEAKED, LEFT_OUT, UNCHECKED, UNFIT, WITHHELD
from limbeck.jobs.capture.completions import (
    SAMPLING,
    GenerationFacts,
    Task,
    announce,
    check_flags,
    checks_of,
    complete,
    connected,
    cost,
    digest_of_checks,
    generator_of,
    identity,
    problem_of,
    read_prompts,
)
from limbeck.jobs.capture.journal import Journal
from limbeck.jobs.capture.systems import systems_of
from limbeck.jobs.common.environment import Environment, environment_of
from limbeck.jobs.common.folder import claim, now, signature_of, update
from limbeck.report.words import duration, share
from limbeck.run.log import console
from limbeck.teachers.ref import ServedRef, computed_here, teacher_ref

TEXT = "text.jsonl"
PART = "text.jsonl.part"
_NAMES = {WITHHELD: "filtered", BLANK: "empty", LEAKED: LEAKED, UNFIT: UNFIT}  # in run.json
_REJECTED = "rejected"  # in run.json: a completion that fails its check
_SHOWN = 200  # characters of one
_REWRITTEN = "copy it again, or capture again into another --out; if you changed it on purpose, use it as it is"


@claims()
def capture_text(settings: CaptureSettings) -> dict[str, Any]:
    """Generates a teacher's completions of prompts; gives ``{"out", "text", "prompts", "samples", "stopped", "distinct", ...}``.

    Raises BadSetting for several processes or flags that do not apply, and the errors of a faulty text, teacher or server.
    """
    started = time.monotonic()
    source = teacher_ref(settings.teacher)
    check_flags(settings, "--text", served=isinstance(source, ServedRef))
    environment = environment_of(settings, computed_here(source))
    if environment.world.size > 1:
        raise BadSetting(
            "capture --text is one process: give each machine a part of the prompts as its --data, and an --out of its own"
        )
    prompts, systems = read_prompts(settings), systems_of(settings)
    checks = checks_of(settings, prompts)
    task = Task(settings, source, prompts, systems.before(prompts), systems, settings.out / PART)
    with connected(settings, source) as teacher:
        run = claim(settings.out, _signature(task, environment, teacher))
        if run.get("written", {}).get("failed") == 0 and (settings.out / TEXT).exists():
            check_sums(settings.out, run.get("files", {}), error=BadFolder, remedy=_REWRITTEN)
            (settings.out / PART).unlink(missing_ok=True)
        else:
            _go_on(task, checks, environment, run, teacher)
    _show(task, run, time.monotonic() - started)
    return {"out": str(settings.out), "text": str(settings.out / TEXT)} | run["written"]


def _go_on(
    task: Task,
    checks: Sequence[Checked | None],
    environment: Environment,
    run: dict[str, Any],
    teacher: ServedCompletions | Path,
) -> None:
    """Generates the missing samples, and writes the text."""
    part = task.settings.out / PART
    with Journal(part, task.samples) as journal:
        writer = generator_of(task, environment, teacher, run, journal)
        announce(task, writer, journal)
        failed = complete(task, run, writer, journal)
        _finish(task, checks, run, journal, failed)
    if not failed:
        part.unlink(missing_ok=True)


def _signature(task: Task, environment: Environment, teacher: ServedCompletions | Path) -> dict[str, Any]:
    settings, prompts = task.settings, task.asked
    how = {name: getattr(settings, name) for name in SAMPLING} | identity(teacher, environment)
    how |= task.systems.facts
    if settings.judge == CHECKS:
        how |= {"judge": settings.judge, "checks": digest_of_checks(task.prompts)}
    return signature_of(settings, "capture --text", prompts=digest(prompts), **how)


def _finish(
    task: Task,
    checks: Sequence[Checked | None],
    run: dict[str, Any],
    journal: Journal,
    failed: Sequence[dict[str, Any]],
) -> None:
    """Writes the text in the order of the prompts, and counts its contents."""
    settings, prompts = task.settings, task.prompts
    kinds, read, wrote, kept = Counter[str](), GenerationFacts(), GenerationFacts(), GenerationFacts()
    different = set[bytes]()
    with whole(settings.out / TEXT) as file:
        for number in filter(journal.__contains__, range(len(prompts) * settings.samples)):
            row = journal.row(number)
            prompt, sample = divmod(number, settings.samples)
            kind = _kind(row, task.systems.of(prompts[prompt]))
            if checks and kind in (STOP, LENGTH):
                kind = _judged(checks[prompt], row["text"], kind)
            kinds[kind] += 1
            if kind == LEAKED and LEAKED not in run:
                run[LEAKED] = {"document": prompts[prompt].name, "text": row["text"]}
            read.add(row["prompt_tokens"])
            wrote.add(row["tokens"])
            if kind in (STOP, LENGTH):
                record = prompts[prompt].answered(row["text"], row.get("calls"))
                different.add(hashlib.sha256(json.dumps(record).encode()).digest()[:16])
                kept.add(row["tokens"])
                about = {"finish": kind, "tokens": row["tokens"], "document": prompts[prompt].name, "prompt": prompt}
                about |= task.systems.beside(prompts[prompt]) | {SPLIT: prompts[prompt].group}
                record |= {key: value for key, value in (about | {"sample": sample}).items() if key not in record}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
    found: dict[str, Any] = {"prompts": len(prompts), "samples": kinds[STOP] + kinds[LENGTH], "stopped": kinds[STOP]}
    found |= {"distinct": len(different), "empty": kinds["empty"], "filtered": kinds["filtered"], "failed": len(failed)}
    found |= {LEAKED: kinds[LEAKED]} if task.systems else {}
    found |= {UNFIT: kinds[UNFIT]} if task.systems.patterns else {}
    found |= {UNCHECKED: kinds[UNCHECKED], _REJECTED: kinds[_REJECTED]} if checks else {}
    found |= {"prompt_tokens": read.total, "tokens": wrote.total, "kept_tokens": kept.total}
    update(settings.out, run, written=found, ended=now(), files=sums(settings.out, [TEXT]))


def _kind(row: Mapping[str, Any], strategy: Strategy) -> str:
    """How a completion ended, or why it is left out."""
    problem = problem_of(row, strategy)
    return _NAMES[problem] if problem else str(row["finish"])


def _judged(check: Checked | None, text: str, kind: str) -> str:
    """How a completion ended that passes its check, or why it is left out. One that was cut off passes none."""
    if check is None:
        return UNCHECKED
    return kind if check.passes(text, ended=kind == STOP) else _REJECTED


def _show(task: Task, run: dict[str, Any], seconds: float) -> None:
    """Prints the text's size, quality and cost, and the next command."""
    settings, found, lines = task.settings, run["written"], run["written"]["samples"]
    console.print(f"{lines:,} samples of {found['prompts']:,} prompts in {settings.out / TEXT}")
    if lines:
        mean = "" if found["kept_tokens"] is None else f"{found['kept_tokens'] / lines:,.1f} tokens each on average, "
        console.print(
            f"{mean}{share(found['stopped'] / lines)} ended by themselves, {share(found['distinct'] / lines, digits=1)} are "
            "distinct"
        )
    if found["stopped"] < lines:
        console.print(
            "the others were cut off, and a student learns to end there too: give more --max-new-tokens, or remove the lines "
            'with "finish": "length"'
        )
    left_out = [f"{found[kind]:,} {why}" for kind, why in _LEFT_OUT.items() if found.get(kind)]
    if left_out:
        console.print(f"left out: {', '.join(left_out)}")
    if first := run.get(LEAKED):
        console.print(f"the first that repeats it answers {first['document']}: {first['text'][:_SHOWN]!r}")
    ending = Ending(
        f"{cost(task, run, found['prompt_tokens'], found['tokens'])}; it took {duration(seconds)}",
        places={"text": task.settings.out / TEXT},
        then=_next(task) if lines else "",
    )
    show_ending(ending, console)


_LEFT_OUT = {
    LEAKED: LEFT_OUT[LEAKED],
    UNFIT: LEFT_OUT[UNFIT],
    "empty": "empty",
    "filtered": LEFT_OUT[WITHHELD],
    UNCHECKED: LEFT_OUT[UNCHECKED],
    _REJECTED: "that fail the check of their prompt or were cut off",
    "failed": "without an answer, which run.json names; the same command asks for them again",
}


def _next(task: Task) -> str:
    """The command that trains on the text. It needs the weights of the teacher for its report, so a server cannot be one."""
    served = isinstance(task.model, ServedRef)
    teacher = "STUDENT --student STUDENT" if served else shlex.quote(task.model.name)
    return (
        f"limbeck distil --teacher {teacher} --data {shlex.quote(str(task.settings.out / TEXT))} --objective CrossEntropy "
        "--out runs/written"
    )
