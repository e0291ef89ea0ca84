"""A capture of logits in this process: a teacher's logits of a text are computed once and kept, with their bias and variance.

Every stage leaves its result in the folder and is skipped when it is there; logits continue at the row. `Begun` is a capture
that has come to its first row.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from limbeck.config import CaptureSettings
from limbeck.corpora import Rows, TokenStore, require_rows
from limbeck.corpora.mixture import Mixture, plain
from limbeck.corpora.opening import begin_with
from limbeck.corpora.source import resolve as resolve_source
from limbeck.corpora.tokenizer import fingerprint
from limbeck.disk import (
    claims,
    finite,
    link_or_copy,
    read_json,
    require_undamaged,
    whole_folder,
    write_json,
    write_rows,
    write_text,
    writing,
)
from limbeck.ending import Ending, show_ending
from limbeck.errors import BadSetting, Mismatch
from limbeck.jobs.capture.certificate import OBJECTIVES, certify
from limbeck.jobs.capture.codecs import choose_codec, sample_of, show
from limbeck.jobs.capture.logits import LogitSource, check_capture, check_together, open_source, rows_in_flight
from limbeck.jobs.capture.progress import progress
from limbeck.jobs.common.captured import CERTIFICATE, COST, CUT, DATA, HELD_OUT, MEASURED, SAMPLES
from limbeck.jobs.common.environment import Environment, environment_of, row_length
from limbeck.jobs.common.folder import (
    WITHIN,
    claim,
    now,
    packed_as,
    read_run,
    reserve,
    same_corpus,
    signature_of,
    text_of_run,
    update,
)
from limbeck.jobs.common.held_out import HeldOut
from limbeck.jobs.common.mixture import wanted_tokens
from limbeck.jobs.common.opening import open_documents
from limbeck.jobs.common.packing import packed
from limbeck.jobs.common.sample import first_documents
from limbeck.jobs.common.text import columns_of, stores_of
from limbeck.jobs.pair.student import METHOD, multiple_of, shrink_stored, size_name
from limbeck.jobs.pair.trimmed import load_teacher, stored_teacher
from limbeck.jobs.pair.unigram import check_knowledge, compare_to_unigram, of_source
from limbeck.jobs.pair.unpacked import unpacked_cost
from limbeck.jobs.pair.vocabulary import trimmed_in_run
from limbeck.models.configuration import load_config
from limbeck.models.language_model import LanguageModel
from limbeck.models.led import LedModel, leading, led
from limbeck.models.load import verified_folder
from limbeck.models.streamed import StreamedModel
from limbeck.models.trim.folder import open_vocabulary
from limbeck.models.weightless import save_without_weights
from limbeck.planning.checks.finding import show as show_findings
from limbeck.probes import cost, counted, measure, samples
from limbeck.probes.cost import SPREAD
from limbeck.report.capture_card import CARD, capture_card, next_of_capture
from limbeck.report.words import count, duration
from limbeck.run.log import console
from limbeck.run.micro import micro_rows
from limbeck.run.sharded import Sharded
from limbeck.run.world import alone
from limbeck.students.shape import choose as choose_shape
from limbeck.teachers import Coding, LogitCache, NumberedRows, capture_outcomes
from limbeck.teachers.cache import CODECS, MANIFEST, check_made_from, missing_so_far, packed_signal
from limbeck.teachers.codec import Codec, Sampled, TopK
from limbeck.teachers.ref import (
    ANSWERS,
    DESCRIPTION,
    VOCABULARY,
    LocalRef,
    TeacherRef,
    computed_here,
    teacher_ref,
)
from limbeck.teachers.remote.served import ServedTeacher

_SAME = "Give all machines the same teacher and text, by the same paths"
HELD_OUT_BYTES = 192  # of a held-out token: few, so that readings of fidelity are sharp


@dataclass(frozen=True)
class Part:
    """Some of the rows: those of a machine."""

    first: int
    rows: int


@dataclass(frozen=True)
class Begun:
    """A capture of logits whose teacher, text and codec are there, so that rows can be computed; ``part`` is those of a shard.

    ``run`` is what its run.json holds.
    """

    settings: CaptureSettings
    teacher: TeacherRef
    environment: Environment
    run: dict[str, Any]
    source: LogitSource
    held_out: TokenStore
    rows: Rows
    part: Part
    codec: Codec

    @property
    def made_from(self) -> dict[str, Any]:
        """The origin of the logits: the teacher, its tokenizer and number format, the text and its packing."""
        return self.source.made_from | _text(self.rows.store)

    @property
    def batch_rows(self) -> int:
        """The number of rows of one query."""
        return _batch_rows(self.source, self.rows.length, self.environment)


@claims()
def capture_here(
    settings: CaptureSettings,
    *,
    tokenised: Path | None = None,
    vocabulary: Path | None = None,
    environment: Environment | None = None,
    most: Sequence[int] | None = None,
) -> dict[str, Any]:
    """`capture` of logits in this process, or in those of torchrun that hold a part of the teacher each."""
    started = time.monotonic()
    teacher = teacher_ref(settings.teacher, settings.tokenizer)
    environment = environment or environment_of(settings, computed_here(teacher))
    world = environment.world
    if world.size > 1 and not isinstance(world, Sharded):
        raise BadSetting(
            "capture is one process: let each machine take a part with --shard 1/2, --shard 2/2, then merge; for a teacher that "
            "does not fit one device add --mesh shard"
        )
    check_capture(settings, teacher)
    if isinstance(world, Sharded):
        check_together(settings, teacher)
    teacher, derived = _with_vocabulary(settings, teacher, environment, vocabulary)
    if not isinstance(world, Sharded):
        with _begin(settings, teacher, environment, derived, tokenised=tokenised, most=most) as begun:
            return _capture(begun, started)
    with _led(settings, teacher, world, environment) as first:
        if first is None:
            return {}
        alone_here = Environment(alone(world.device), environment.bf16)
        with _begin(settings, teacher, alone_here, derived, first) as begun:
            return _capture(begun, started)


@contextmanager
def begin_here(settings: CaptureSettings) -> Iterator[Begun]:
    """A capture in this process that has come to its first row, where that is not computed yet. Raises as `capture`."""
    teacher = teacher_ref(settings.teacher, settings.tokenizer)
    environment = environment_of(settings, computed_here(teacher))
    check_capture(settings, teacher)
    with claims():
        teacher, derived = _with_vocabulary(settings, teacher, environment, None)
        with _begin(settings, teacher, environment, derived) as begun:
            yield begun


def capture_part(
    settings: CaptureSettings, part: Part, folder: Path, *, made_from: Mapping[str, Any], device: str
) -> None:
    """Computes some rows of the capture that began in the settings' folder, into ``folder``; a stopped one continues.

    Raises Mismatch where teacher or text are not what it was ``made_from``, or the type of device is not ``device``.
    """
    teacher = teacher_ref(settings.teacher, settings.tokenizer)
    environment = environment_of(settings, computed_here(teacher))
    if (ours := environment.world.device.type) != device:
        raise Mismatch(
            f"this machine computes on {ours}, the one that prepared the capture on {device}: give all machines the same kind of "
            "device and a torch for it, or --device cpu"
        )
    run = read_run(settings.out)
    if isinstance(teacher, LocalRef) and "vocabulary" in run["signature"]:
        teacher = replace(teacher, vocabulary=settings.out / VOCABULARY)
    length, apart = run["signature"]["length"], settings.model_copy(update={"out": folder})
    with open_source(apart, teacher, environment, length=length, k=None) as source:
        if "frame" in run:
            begin_with(source.about, run["frame"]["begin"])
        source = _identified(source)
        store, held_out = text_of_run(settings.out)
        rows = Rows(store, length=length)
        begun = Begun(apart, teacher, environment, run, source, held_out, rows, part, _codec(run))
        check_made_from(settings.out, made_from, begun.made_from, holds="a capture from", remedy=_SAME)
        _capture_rows(begun)


@contextmanager
def _begin(
    settings: CaptureSettings,
    teacher: TeacherRef,
    environment: Environment,
    derived: Mapping[str, Any],
    together: LanguageModel | None = None,
    *,
    tokenised: Path | None = None,
    most: Sequence[int] | None = None,
) -> Iterator[Begun]:
    """Everything before the first row, in a folder that is claimed. ``together``: the teacher, where others compute too.

    ``derived``: what the signature holds of its vocabulary.
    """
    length = _length(settings, teacher, environment)
    run = claim(settings.out, signature_of(settings, "capture", length=length, bf16=environment.bf16, **derived))
    if tokenised is not None and tokenised.is_dir():
        link_or_copy(tokenised, settings.out / DATA)
    with open_source(
        settings, teacher, environment, length=length, k=run["codec"]["k"] if "codec" in run else None, led=together
    ) as source:
        source = _opened(settings, teacher, source, run, environment)
        if "text" not in run:  # which a continued capture has checked
            _look(settings, source, length=length, environment=environment)
        most = wanted_tokens(settings) if most is None else most
        if source.served and Mixture.of(settings.data) is not None and most and "text" not in run:
            update(settings.out, run, **{WITHIN: list(most)})  # each row is paid for
        store, held_out = stores_of(settings, source.about, environment, most=most)
        require_rows(store, length=length)
        same_corpus(settings.out, run, store, held_out)
        rows = Rows(store, length=length)
        show_findings(
            [f for f in [packed(store, length=length, context=source.about.context)] if f.level != "ok"], console
        )
        wanted = rows.n_rows if settings.tokens is None else min(rows.n_rows, -(-settings.tokens // length))
        part = _part(wanted, settings.shard)
        if not (settings.out / DESCRIPTION / "config.json").exists():
            save_without_weights(source.about, settings.out / DESCRIPTION)
        verified_folder(settings.out / DESCRIPTION)
        if "codec" not in run:
            _choose(settings, run, source, rows, wanted)
        yield Begun(settings, teacher, environment, run, source, held_out, rows, part, _codec(run))


def _capture(begun: Begun, started: float) -> dict[str, Any]:
    """The rows of a capture, and with the first shard what all have in common; gives its result."""
    settings, run, source = begun.settings, begun.run, begun.source
    _announce(begun)
    if first := settings.shard[0] == 1:  # for all shards
        _cut(begun)
        _held_out(begun)
    logits = _capture_rows(begun)
    found = _certificate(begun, logits) if first else None
    if "ended" not in run:
        update(settings.out, run, ended=now(), seconds=round(time.monotonic() - started, 1))
    read = begun.rows.layout.read(begun.part.first, begun.part.first + begun.part.rows)
    size = sum(file.stat().st_size for file in (settings.out / ANSWERS).glob("*.arrow"))
    _end(settings, run, source, found, tokens=read, stored=size, took=time.monotonic() - started)
    if first:
        write_json(settings.out / CERTIFICATE, found)  # last: who finds it needs no more of the teacher
    result = {"out": str(settings.out), "rows": logits.rows, "tokens": read, "bytes": size}
    return result | {"certificate": found}


@contextmanager
def _led(
    settings: CaptureSettings, teacher: TeacherRef, world: Sharded, environment: Environment
) -> Iterator[LanguageModel | None]:
    """The teacher in parts on the first process, which the others follow; None on these, once it needs them no more."""
    if not isinstance(teacher, LocalRef) or teacher.vocabulary is None:
        with leading(settings.teacher, world.layout, device=world.device, dtype=environment.dtype) as found:
            yield found
        return
    with led(load_teacher(teacher, environment)) as together:
        yield None if together is None else together[0]


def _with_vocabulary(
    settings: CaptureSettings, teacher: TeacherRef, environment: Environment, given: Path | None
) -> tuple[TeacherRef, dict[str, Any]]:
    """The teacher with the trimmed vocabulary of this capture, and what its signature holds of that.

    It is that in the folder ``given``, or what --vocab asks for.
    """
    if not isinstance(teacher, LocalRef):
        return teacher, {}
    if given is None:
        teacher = trimmed_in_run(settings, teacher, environment)
    else:
        teacher = replace(teacher, vocabulary=settings.out / VOCABULARY)
        reserve(settings.out)
        if not (settings.out / VOCABULARY).is_dir():
            with whole_folder(settings.out / VOCABULARY) as beside:
                link_or_copy(given, beside)
    if teacher.vocabulary is None:
        return teacher, {}
    return teacher, {"vocabulary": open_vocabulary(teacher.vocabulary).digest}


def _opened(
    settings: CaptureSettings,
    teacher: TeacherRef,
    source: LogitSource,
    run: dict[str, Any],
    environment: Environment,
) -> LogitSource:
    """The source, after it was chosen what its documents begin with."""
    texts = first_documents(settings, teacher).texts
    findings = open_documents(settings, source.about, source.whole, texts, run=run, world=environment.world)
    show_findings(findings, console)
    return _identified(source)


def _identified(source: LogitSource) -> LogitSource:
    """The source with the identity of its tokenizer, after it was set what documents begin with."""
    return replace(source, made_from=source.made_from | {"tokenizer": fingerprint(source.about.tokenizer)})


def _length(settings: CaptureSettings, teacher: TeacherRef, environment: Environment) -> int:
    """Tokens of a row. Raises a LimbeckError where the text is missing, or a student of --params cannot be made."""
    described = teacher.config_source
    resolve_source(plain(settings.data), columns_of(settings))
    config = load_config(described)
    context, extra = getattr(config, "max_position_embeddings", None), teacher.extra_tokens
    length = row_length(settings, context, environment.world.device, name=str(described), extra=extra)
    for size in settings.params:
        choose_shape(config, parameters=size, multiple=multiple_of(settings.qat))  # or say now that there is none
    if len({size_name(size) for size in settings.params}) < len(settings.params):
        raise BadSetting(
            f"--params {','.join(map(str, settings.params))}: sizes that differ by less than 1 % are one student"
        )
    return length


def _end(
    settings: CaptureSettings,
    run: dict[str, Any],
    source: LogitSource,
    found: dict[str, Any] | None,
    *,
    tokens: int,
    stored: int,
    took: float,
) -> None:
    """Writes the card and prints the last screen."""
    out, (shard, of) = settings.out, settings.shard
    student = f"--params {settings.params[0]}" if settings.params else "--student STUDENT" if source.served else None
    then = next_of_capture(out, student=student)
    card = capture_card(run, found, teacher=source.about.name, tokens=tokens, stored=stored, then=then)
    write_text(out / CARD, card)
    part = f", part {shard} of {of}" if of > 1 else ""
    headline = (
        f"{count(tokens)} tokens of {source.about.name} in {stored / 1e6:,.1f} MB{part}; it took {duration(took)}"
    )
    if of > 1:
        then = f"limbeck cache merge MERGED {shlex.quote(str(out))} OTHER_PARTS"
    rows = [["tokens", "bytes", "bytes/token"], [f"{tokens:,}", f"{stored:,}", f"{stored / max(1, tokens):.1f}"]]
    if found is not None:
        rows = [[*rows[0], "codec"], [*rows[1], str(found["codec"])]]
    show_ending(Ending(headline, rows, {"card": out / CARD, "logits": out}, then), console)


def _look(settings: CaptureSettings, source: LogitSource, *, length: int, environment: Environment) -> None:
    """Stops at a teacher that predicts the text no better than a unigram model, and prints the comparison."""
    items = of_source(plain(settings.data), source.about, columns_of(settings))
    found = compare_to_unigram(
        source.logits, items, vocab=source.about.vocab, length=length, device=environment.world.device
    )
    check_knowledge(found, source.about.name, anyway=settings.any_teacher)


def _part(rows: int, shard: tuple[int, int]) -> Part:
    number, of = shard
    if of > rows:
        raise BadSetting(f"--shard {number}/{of}: the text has {rows:,} rows only; share it among fewer machines")
    first, stop = ((number - 1) * rows // of, number * rows // of)
    return Part(first, stop - first)


def _choose(settings: CaptureSettings, run: dict[str, Any], source: LogitSource, rows: Rows, wanted: int) -> None:
    codec: Codec
    measured: list[dict[str, Any]] = []
    size = settings.bytes_per_token
    if isinstance(source.logits, ServedTeacher):
        codec = TopK.within(source.about.vocab, source.logits.k, size)
    else:
        codec, measured = choose_codec(source.logits, rows, size=size, kind=settings.kind, seed=settings.seed)
    if measured:
        message = "; ".join(
            f"{m['codec']} at {m['bytes']} bytes: bias {m['damage']['ForwardKL']['bias']['value']:.4f}, noise "
            f"{m['damage']['ForwardKL']['noise']['value']:.4f}"
            for m in measured
        )
        console.print(f"codecs measured on forward KL's gradient: {message}; chose {codec}")
    kind = "drawn" if isinstance(codec, Sampled) else "coarse"
    update(settings.out, run, rows=wanted, codec={"kind": kind} | vars(codec), kinds=finite(measured))


def _codec(run: dict[str, Any]) -> Codec:
    values = dict(run["codec"])
    return CODECS[values.pop("kind")](**values)


def _announce(begun: Begun) -> None:
    """Prints the size, and the time by a test query; a server is not queried for this, since it may cost money.

    Of a capture whose rows are there already nothing is printed.
    """
    if (begun.settings.out / ANSWERS / MANIFEST).exists():
        return
    codec, rows, part = begun.codec, begun.rows, begun.part
    teacher, places = begun.source.about, part.rows * rows.length
    if WITHIN in begun.run:
        shown = ", ".join(f"{one['tokens']:,} tokens of {one['source']}" for one in rows.store.manifest["sources"])
        console.print(f"text: the server is queried for what the mixture takes: {shown}")
    tokens = rows.layout.read(part.first, part.first + part.rows)
    message = (
        f"teacher {teacher.name}: {teacher.parameters_count:,} parameters, {teacher.vocab:,} tokens\n"
        f"{part.rows:,} rows of {rows.length} with {tokens:,} tokens, {codec} outcomes in {codec.bytes} bytes each: "
        f"{places * codec.bytes / 1e6:,.1f} MB"
    )
    if not teacher.packs:
        some = rows.rows_of(np.arange(part.first, part.first + min(part.rows, 64)))
        console.print(f"note: {unpacked_cost(teacher.name, some.position)}")
    seconds = _estimate(begun)
    console.print(message if seconds is None else f"{message}, in about {duration(seconds)}")


def _estimate(begun: Begun) -> float | None:
    """Seconds that all logits will take: from one query, or from one layer where a query reads all weights."""
    teacher, rows, part, device = begun.source.whole, begun.rows, begun.part, begun.environment.world.device
    if teacher is None:
        return None
    some = np.arange(part.first, part.first + min(part.rows, micro_rows(rows.length, device)))
    batch = rows.rows_of(some).to(device)
    if isinstance(teacher, StreamedModel):
        return teacher.seconds(batch, rows=part.rows)
    start = time.perf_counter()
    with torch.no_grad():
        packed_signal(batch, teacher(batch), Coding(begun.codec, seed=0))
    return (time.perf_counter() - start) / len(some) * part.rows


def _capture_rows(begun: Begun) -> LogitCache:
    """The logits of the part, in the settings' folder."""
    source, rows, part, codec, batch_rows = begun.source, begun.rows, begun.part, begun.codec, begun.batch_rows
    folder = begun.settings.out / ANSWERS

    def rows_of(numbers: Any) -> Any:
        return rows.rows_of(numbers).to(begun.environment.world.device)

    _expect(source, folder, codec, rows.store, rows=part.rows, length=rows.length, batch_rows=batch_rows)
    with progress(part.rows, what="row") as report:
        return capture_outcomes(
            source.logits,
            NumberedRows(rows_of, rows.length, part.rows, batch_rows, part.first),
            folder,
            coding=Coding(codec, begun.settings.seed, source.cells),
            made_from=begun.made_from,
            report=lambda done: report(done, done * rows.length),
        )


def _text(store: TokenStore) -> dict[str, Any]:
    """The origin of the logits of a store's rows: its text, and how it is packed into rows."""
    return {"corpus": store.manifest["corpus_sha256"]} | packed_as(store)


def _batch_rows(source: LogitSource, length: int, environment: Environment) -> int:
    """Rows of one query. A server has more, since several are in flight."""
    if source.served:
        return rows_in_flight(source.served)
    together = source.logits.processes if isinstance(source.logits, LedModel) else 1
    return together * micro_rows(length, environment.world.device)


def _expect(
    source: LogitSource, folder: Path, codec: Codec, store: TokenStore, *, rows: int, length: int, batch_rows: int
) -> None:
    """Sets the number of tokens of all queries in a server's client. A small share of them may fail."""
    if source.served:
        layout = store.layout(length)
        learned = layout.packed.learned / (layout.rows * length)
        missing = missing_so_far(folder, codec, length=length, batch_rows=batch_rows)
        source.served.expect(round(rows * length * learned), missing=missing)


def _held_out(begun: Begun) -> None:
    """The teacher's measurements for a report, and its logits of the rows that students are measured on.

    A served teacher has only the logits: cost, samples and largest KL are not measured.
    """
    settings, source, store, environment = begun.settings, begun.source, begun.held_out, begun.environment
    length = begun.rows.length
    held_out = HeldOut(store, length=length, environment=environment)
    vocab, rows = source.about.vocab, len(held_out.sample)
    codec: Codec = Sampled.within(vocab, HELD_OUT_BYTES)
    if source.served:
        k = source.served.k
        codec = TopK.within(vocab, k, max(HELD_OUT_BYTES, TopK(vocab, k).bytes))
    batch_rows, folder = begun.batch_rows, settings.out / HELD_OUT
    _expect(source, folder, codec, store, rows=rows, length=length, batch_rows=batch_rows)
    capture_outcomes(
        source.logits,
        NumberedRows(held_out.rows_of, length, rows, batch_rows),
        folder,
        coding=Coding(codec, settings.seed, source.cells),
        made_from=source.made_from | _text(store),
    )
    file, teacher = settings.out / MEASURED, source.whole
    if teacher is None:
        return
    if all((settings.out / name).exists() for name in (COST, SAMPLES, MEASURED)):
        require_undamaged(file.parent)
        return
    with writing(file):
        file.parent.mkdir(exist_ok=True)
    if isinstance(teacher, LanguageModel):
        if not teacher.in_one_process:
            console.print(f"speed and peak memory of the teacher are left out: {SPREAD}")
        costs, wrote = cost("teacher", teacher), samples(teacher, None, store)
    else:
        console.print(
            "speed, peak memory and samples of the teacher are left out: each generated token would read all weights"
        )
        costs, wrote = counted("teacher", source.about), []
    write_rows(settings.out / COST, [reading.row() for reading in costs])
    write_rows(settings.out / SAMPLES, wrote)
    measured = measure(teacher, None, held_out.batches(), documents=store.documents, cells=source.cells)
    measured.save(file)


def _cut(begun: Begun) -> None:
    """Students of the sizes in --params, pruned by importance on the training text, in the number format of the teacher."""
    settings, ref, source, environment = begun.settings, begun.teacher, begun.source, begun.environment
    store, length = begun.rows.store, begun.rows.length
    for size in settings.params:
        name = size_name(size) + ("" if settings.qat is None else "-blocks")  # beside one of another shape
        folder, runs = settings.out / CUT / name, source.whole
        if (folder / "config.json").exists():
            verified_folder(folder)
            continue
        assert runs is not None, "check_capture refuses others"
        assert isinstance(ref, LocalRef), "check_capture refuses others"
        teacher = stored_teacher(ref, environment)
        begin_with(teacher.about, source.about.tokenizer.bos_token)
        shape = choose_shape(teacher.about.config, parameters=size, multiple=multiple_of(settings.qat))
        student = shrink_stored(
            shape, teacher, runs, store, length=length, environment=environment, method=METHOD, seed=settings.seed
        )
        student.save(folder)
        console.print(f"a student of {student.about.parameters_count:,} parameters was pruned: {folder}")


def _certificate(begun: Begun, logits: LogitCache) -> dict[str, Any]:
    """What the kept outcomes do to gradients, as JSON; that of a capture which came to its end is read."""
    file, teacher = begun.settings.out / CERTIFICATE, begun.source.whole
    if teacher is None:
        return _of_served(begun.codec, logits)
    if file.exists():
        there: dict[str, Any] = read_json(file)
        return there
    found = certify(
        sample_of(teacher, begun.rows, seed=begun.settings.seed),
        [begun.codec],
        objectives=OBJECTIVES,
        seed=begun.settings.seed,
        cells=begun.source.cells,
    )
    show(found[0], console)
    row: dict[str, Any] = finite(found[0].row())
    return row


def _of_served(codec: Codec, logits: LogitCache) -> dict[str, Any]:
    """The report of a server's logits, whose bias and variance need its whole distributions."""
    positions, missing = logits.rows * logits.length, logits.missing
    console.print(
        f"{missing:,} of {positions:,} positions have no answer, and count nothing. What {codec} outcomes do to an objective's "
        "gradient was not measured: that needs the teacher's whole distributions, which a server does not give. Its cost, its "
        "samples and its own readings are left out for the same reason."
    )
    return {
        "codec": str(codec),
        "bytes": codec.bytes,
        "positions": positions,
        "unanswered": missing,
        "damage": None,
        "left_out": "bias and noise of gradients, exact mass, KL: a server does not give whole distributions",
    }
