"""`limbeck capture`: a teacher is asked about all of a text once, and what it said is kept, with what it is worth.

Every stage leaves its result in the folder and is skipped when it is there; answers continue at the row.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from limbeck.config import CaptureSettings
from limbeck.corpora import Rows, TokenStore, require_rows
from limbeck.corpora.build import build_training
from limbeck.corpora.source import resolve as resolve_source
from limbeck.corpora.tokenizer import fingerprint
from limbeck.disk import finite, read_json, write_json, writing
from limbeck.errors import BadSetting
from limbeck.jobs.capture.asked import Asked, about, asked, cells_of, check_memory
from limbeck.jobs.capture.captured import ANSWERS, CERTIFICATE, COST, HELD_OUT, MEASURED, SAMPLES, TEACHER
from limbeck.jobs.capture.certificate import OBJECTIVES, certify
from limbeck.jobs.capture.kinds import DECIDES, choose_codec, codecs_within, sample_of, show, show_kinds
from limbeck.jobs.folder import claim, now, same_corpus, signature_of, update
from limbeck.jobs.held_out import HeldOut
from limbeck.jobs.setup import Machine, machine, row_length
from limbeck.jobs.text import stores_of
from limbeck.models.load import LanguageModel, describe, load, load_config
from limbeck.models.source import resolve, weights_digest
from limbeck.models.streamed import StreamedModel
from limbeck.probes import cost, counted, measure, samples
from limbeck.report.words import count, duration
from limbeck.run.log import console
from limbeck.run.run import micro_rows
from limbeck.teachers import Cache, capture_outcomes
from limbeck.teachers.cache import CODECS, packed_answers
from limbeck.teachers.codec import Codec, Drawn

HELD_OUT_BYTES = 192  # of a held-out token: few, so that readings of fidelity are sharp
SIZES = (24, 48, 96, 160)  # bytes a token that `choose` looks at
_LINE_EVERY = 20.0


@dataclass(frozen=True)
class _Part:
    """The rows of this machine."""

    first: int
    rows: int


def capture(settings: CaptureSettings) -> dict[str, Any]:
    """Asks a teacher about a text, once; gives ``{"out", "rows", "tokens", "bytes", "certificate"}``."""
    started = time.monotonic()
    where = machine(settings)
    if where.world.size > 1:
        raise BadSetting(
            "capture is one process: let each machine take a part with --shard 1/2, --shard 2/2, then merge"
        )
    check_memory(settings)
    resolve_source(settings.data)
    config = load_config(settings.teacher)
    length = row_length(
        settings, getattr(config, "max_position_embeddings", None), where.world.device, name=settings.teacher
    )
    run = claim(settings.out, signature_of(settings, "capture", length=length, bf16=where.bf16))
    teacher = asked(settings, where, length=length)
    store, held_out = stores_of(settings, about(teacher), where)
    require_rows(store, length=length)
    same_corpus(settings.out, run, store, held_out)
    rows = Rows(store, length=length)
    wanted = rows.n_rows if settings.tokens is None else min(rows.n_rows, -(-settings.tokens // length))
    part = _part(wanted, settings.shard)
    if not (settings.out / TEACHER / "config.json").exists():
        describe(about(teacher), settings.out / TEACHER)
    if "codec" not in run:
        _choose(settings, run, teacher, rows, wanted)
    codec = _codec(run)
    made_from = {
        "teacher": weights_digest(resolve(settings.teacher)),
        "tokenizer": fingerprint(about(teacher).tokenizer),
        "dtype": str(where.dtype).removeprefix("torch."),
    }
    _announce(teacher, codec, rows, part, where)
    if first := settings.shard[0] == 1:  # for all shards
        _held_out(settings, teacher, held_out, made_from, length=length, where=where)
    answers = _answers(settings, teacher, rows, part, codec, made_from, where)
    found = _certificate(settings, teacher, rows, codec) if first else None
    if "ended" not in run:
        update(settings.out, run, ended=now(), seconds=round(time.monotonic() - started, 1))
    size = sum(file.stat().st_size for file in (settings.out / ANSWERS).glob("*.arrow"))
    console.print(
        f"{count(answers.rows * length)} tokens in {size / 1e6:,.1f} MB; it took {duration(time.monotonic() - started)}."
    )
    result = {"out": str(settings.out), "rows": answers.rows, "tokens": answers.rows * length, "bytes": size}
    return result | {"certificate": found}


def choose(settings: CaptureSettings) -> dict[str, Any]:
    """Measures several kinds and sizes on a sample of the text, and shows bytes against what is lost; nothing is kept."""
    where = machine(settings)
    resolve_source(settings.data)
    teacher = load(settings.teacher, device=where.world.device, dtype=where.dtype)
    length = row_length(settings, teacher.context, where.world.device, name=teacher.name)
    with tempfile.TemporaryDirectory() as folder:
        store = build_training(settings.data, teacher.tokenizer, folder, end=teacher.end, progress=console.is_terminal)
        require_rows(store, length=length)
        sizes = sorted({*SIZES, settings.bytes_per_token})
        codecs = [codec for size in sizes for codec in codecs_within(teacher.vocab, size, settings.kind)]
        sample = sample_of(teacher, Rows(store, length=length), seed=settings.seed)
        found = certify(sample, codecs, objectives=[DECIDES], seed=settings.seed)
    show_kinds(found, console)
    return {"teacher": settings.teacher, "kinds": finite([certificate.row() for certificate in found])}


def _part(rows: int, shard: tuple[int, int]) -> _Part:
    number, of = shard
    if of > rows:
        raise BadSetting(f"--shard {number}/{of}: the text has {rows:,} rows only; share it among fewer machines")
    first, stop = ((number - 1) * rows // of, number * rows // of)
    return _Part(first, stop - first)


def _choose(settings: CaptureSettings, run: dict[str, Any], teacher: Asked, rows: Rows, wanted: int) -> None:
    codec, measured = choose_codec(teacher, rows, size=settings.bytes_per_token, kind=settings.kind, seed=settings.seed)
    if measured:
        said = "; ".join(
            f"{m['codec']} at {m['bytes']} bytes: bias {m['damage']['ForwardKL']['bias']['value']:.4f}, noise "
            f"{m['damage']['ForwardKL']['noise']['value']:.4f}"
            for m in measured
        )
        console.print(f"kinds measured on forward KL's gradient: {said}; {codec} it is")
    kind = "drawn" if isinstance(codec, Drawn) else "coarse"
    update(settings.out, run, rows=wanted, codec={"kind": kind} | vars(codec), kinds=measured)


def _codec(run: dict[str, Any]) -> Codec:
    values = dict(run["codec"])
    return CODECS[values.pop("kind")](**values)


def _announce(teacher: Asked, codec: Codec, rows: Rows, part: _Part, where: Machine) -> None:
    """Says the size, and the time from one question that is asked now."""
    seconds = _foretold(teacher, codec, rows, part, where)
    tokens = part.rows * rows.length
    console.print(
        f"teacher {teacher.name}: {about(teacher).parameters_count:,} parameters, {teacher.vocab:,} tokens\n"
        f"{part.rows:,} rows of {rows.length} = {tokens:,} tokens, {codec} outcomes in {codec.bytes} bytes each: "
        f"{tokens * codec.bytes / 1e6:,.1f} MB, in about {duration(seconds)}"
    )


def _foretold(teacher: Asked, codec: Codec, rows: Rows, part: _Part, where: Machine) -> float:
    """Seconds that all answers will take: from one question, or from one layer where a question reads all weights."""
    some = np.arange(part.first, part.first + min(part.rows, micro_rows(rows.length, where.world.device)))
    batch = rows.rows_of(some).to(where.world.device)
    if isinstance(teacher, StreamedModel):
        return teacher.seconds(batch, rows=part.rows)
    start = time.perf_counter()
    with torch.no_grad():
        packed_answers(batch, teacher(batch), codec, seed=0)
    return (time.perf_counter() - start) / len(some) * part.rows


def _answers(
    settings: CaptureSettings,
    teacher: Asked,
    rows: Rows,
    part: _Part,
    codec: Codec,
    made_from: dict[str, Any],
    where: Machine,
) -> Cache:
    def rows_of(numbers: Any) -> Any:
        return rows.rows_of(numbers).to(where.world.device)

    with _progress(part.rows, rows.length) as report:
        return capture_outcomes(
            teacher,
            rows_of,
            settings.out / ANSWERS,
            first=part.first,
            rows=part.rows,
            length=rows.length,
            together=micro_rows(rows.length, where.world.device),
            codec=codec,
            seed=settings.seed,
            made_from=made_from | {"corpus": rows.store.manifest["corpus_sha256"]},
            cells=cells_of(teacher),
            report=report,
        )


def _held_out(
    settings: CaptureSettings,
    teacher: Asked,
    store: TokenStore,
    made_from: dict[str, Any],
    *,
    length: int,
    where: Machine,
) -> None:
    """What a report will say of the teacher, and its answers to the rows that students are measured on."""
    held_out = HeldOut(store, length=length, machine=where)
    capture_outcomes(
        teacher,
        held_out.rows_of,
        settings.out / HELD_OUT,
        rows=len(held_out.sample),
        length=length,
        together=micro_rows(length, where.world.device),
        codec=Drawn.within(teacher.vocab, HELD_OUT_BYTES),
        seed=settings.seed,
        made_from=made_from | {"corpus": store.manifest["corpus_sha256"]},
        cells=cells_of(teacher),
    )
    file = settings.out / MEASURED
    if file.exists():
        return
    with writing(file):
        file.parent.mkdir(exist_ok=True)
    if isinstance(teacher, LanguageModel):
        costs, wrote = cost("teacher", teacher), samples(teacher, None, store)
    else:
        console.print(
            "speed, peak memory and samples of the teacher's writing are left out: each token it writes would read all weights"
        )
        costs, wrote = counted("teacher", about(teacher)), []
    write_json(settings.out / COST, [reading.row() for reading in costs])
    write_json(settings.out / SAMPLES, wrote)
    measured = measure(teacher, None, held_out.batches(), documents=store.documents, cells=cells_of(teacher))
    measured.save(file)


def _certificate(settings: CaptureSettings, teacher: Asked, rows: Rows, codec: Codec) -> dict[str, Any]:
    file = settings.out / CERTIFICATE
    if not file.exists():
        found = certify(
            sample_of(teacher, rows, seed=settings.seed),
            [codec],
            objectives=OBJECTIVES,
            seed=settings.seed,
            cells=cells_of(teacher),
        )
        show(found[0], console)
        write_json(file, finite(found[0].row()))
    result: dict[str, Any] = read_json(file)
    return result


@contextmanager
def _progress(rows: int, length: int) -> Iterator[Callable[[int], None]]:
    """Told how many rows are done: a bar, or a line now and then, with the time that is left."""
    started, last, before = time.monotonic(), -_LINE_EVERY / 2, -1
    columns = (
        TextColumn("capture"),
        BarColumn(),
        TextColumn("{task.completed:,}/{task.total:,} rows"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
        task = bars.add_task("capture", total=rows)

        def report(done: int) -> None:
            nonlocal last, before
            bars.update(task, completed=done)
            spent = time.monotonic() - started
            if before < 0:  # a capture that goes on does not begin at 0
                before = done
            elif not console.is_terminal and spent - last > _LINE_EVERY:
                last = spent
                rate = (done - before) / spent
                console.print(
                    f"row {done:,} of {rows:,}; {rate * length:,.0f} tokens/s; {duration((rows - done) / rate)} left"
                )

        yield report
