"""`limbeck capture --text`: a teacher's completions of prompts as a training text.

Sequence-level distillation (Kim & Rush, arXiv 1606.07947, sec. 3.2) trains a student on sequences that its teacher generates.
The paper finds them by beam search, limbeck samples them. No log-probabilities are needed. So the teacher may return text only,
and the student may have another tokenizer.

A journal contains the completions until all are there. Then they are written in the order of the prompts.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from limbeck.config import CaptureSettings, flag_of
from limbeck.corpora import Prompt, prompts_of
from limbeck.corpora.faults import BadRecords
from limbeck.corpora.prompt import digest, repeats, under
from limbeck.disk import check_sums, claims, sums, whole
from limbeck.ending import Ending, show_ending
from limbeck.errors import BadCorpus, BadFolder, BadSetting
from limbeck.generation.generators import Batches, Generator, LocalGenerator, Sampling, ServedGenerator, check_context
from limbeck.generation.served import FILTERED, LENGTH, STOP, ServedCompletions
from limbeck.jobs.capture.journal import Journal
from limbeck.jobs.capture.progress import progress
from limbeck.jobs.common.environment import Environment, environment_of
from limbeck.jobs.common.folder import claim, now, signature_of, update
from limbeck.jobs.common.text import columns_of
from limbeck.jobs.pair.unigram import check_knowledge, compare_to_unigram, of_prompts
from limbeck.models.load import load
from limbeck.models.source import resolve, weights_digest
from limbeck.models.vocabulary import require_rows_of
from limbeck.report.words import count, duration, share
from limbeck.report.words import size as in_bytes
from limbeck.run.log import console
from limbeck.teachers.ref import ServedRef, TeacherRef, computed_here, teacher_ref
from limbeck.teachers.remote.http import QueryFailed, RetryPolicy
from limbeck.teachers.remote.served import MOST_MISSING, REMEDY, too_many_missing

TEXT = "text.jsonl"
PART = "text.jsonl.part"
LEAKED = "leaked"  # a completion that repeats the system message
_SHOWN = 200  # characters of one
_REWRITTEN = "copy it again, or capture again into another --out; if you changed it on purpose, use it as it is"
_NO_ANSWERS = 3  # failures before any completion after which the capture stops
_BYTES_PER_TOKEN = 4  # of English text, roughly; what a server's tokenizer makes of a prompt is not known before

_REMEDY = REMEDY | {
    "status 400": "shorten the prompts that run.json names or give a smaller --max-new-tokens, if they are too long",
    "status 404": "give conversations ('messages') to a server that cannot continue a text",
}

_NOT_WITH_TEXT = (
    "eval_data",
    "length",
    "bytes_per_token",
    "kind",
    "tokenizer",
    "shard",
    "ray",
    "shards",
    "stream",
    "device_memory",
    "params",
    "qat",
    "vocab",
    "frame",
)
_ONLY_WITH_TEXT = ("max_new_tokens", "temperature", "samples", "system", "price")
_OF_A_SERVER = ("in_flight", "time_limit", "price")


@claims()
def capture_text(settings: CaptureSettings) -> dict[str, Any]:
    """Generates a teacher's completions of prompts; gives ``{"out", "text", "prompts", "samples", "stopped", "distinct", ...}``.

    Raises BadSetting for several processes or flags that do not apply, and the errors of a faulty text, teacher or server.
    """
    started = time.monotonic()
    source = teacher_ref(settings.teacher)
    _check_flags(settings, source)
    environment = environment_of(settings, computed_here(source))
    if environment.world.size > 1:
        raise BadSetting(
            "capture --text is one process: give each machine a part of the prompts as its --data, and an --out of its own"
        )
    bad = BadRecords(settings.skip_bad or 0)
    prompts = prompts_of(settings.data, most=_most_prompts(settings), columns=columns_of(settings), bad=bad)
    if bad.count:
        console.print(f"text: skipped: {bad.count:,} records that cannot be read, the first {bad.first[0]}")
    system = _system(settings)
    task = _Task(settings, source, prompts, under(prompts, system) if system else prompts, system)
    with _teacher(task) as teacher:
        run = claim(settings.out, _signature(task, environment, teacher))
        if run.get("written", {}).get("failed") == 0 and (settings.out / TEXT).exists():
            check_sums(settings.out, run.get("files", {}), error=BadFolder, remedy=_REWRITTEN)
            (settings.out / PART).unlink(missing_ok=True)
        else:
            _go_on(task, run, _writer(task, environment, teacher, run))
    _show(task, run, time.monotonic() - started)
    return {"out": str(settings.out), "text": str(settings.out / TEXT)} | run["written"]


@dataclass(frozen=True)
class _Task:
    """The prompts, the teacher that completes them, and the settings.

    ``asked`` are the prompts as the teacher reads them, under the ``system`` message if there is one.
    """

    settings: CaptureSettings
    teacher: TeacherRef
    prompts: Sequence[Prompt]
    asked: Sequence[Prompt]
    system: str

    @property
    def samples(self) -> int:
        """The number of completions of all prompts."""
        return len(self.prompts) * self.settings.samples

    @property
    def sampling(self) -> Sampling:
        """The settings of sampling."""
        settings = self.settings
        return Sampling(settings.max_new_tokens, settings.temperature, settings.samples, settings.seed)


def _go_on(task: _Task, run: dict[str, Any], writer: Generator) -> None:
    """Generates the missing samples, and writes the text."""
    part = task.settings.out / PART
    with Journal(part, task.samples) as journal:
        _announce(task, writer, journal)
        failed = _generate(task, run, writer, journal)
        _finish(task, run, journal, failed)
    if not failed:
        part.unlink(missing_ok=True)


def check_alone(settings: CaptureSettings) -> None:
    """Raises BadSetting if flags of --text are set without it."""
    for name in _ONLY_WITH_TEXT:
        if name in settings.model_fields_set:
            raise BadSetting(f"{_flag(name)}: it sets how a teacher generates text; add --text, or leave it out")


def _check_flags(settings: CaptureSettings, teacher: TeacherRef) -> None:
    given, served = settings.model_fields_set, isinstance(teacher, ServedRef)
    for name in _NOT_WITH_TEXT:
        if name in given:
            raise BadSetting(
                f"{_flag(name)}: it sets how logits of a text are kept, and with --text the teacher generates one; leave out "
                "one of the two"
            )
    for name in _OF_A_SERVER:
        if name in given and not served:
            raise BadSetting(
                f"{_flag(name)}: it is for a teacher on a server, and {settings.teacher} is none; leave it out"
            )
    if settings.samples > 1 and settings.temperature == 0:
        raise BadSetting(
            f"--samples {settings.samples}: at --temperature 0 they would all be the same; give a higher temperature, or one "
            "sample"
        )


def _system(settings: CaptureSettings) -> str:
    """The system message that the teacher reads; "" for none. Raises BadSetting for an empty one, BadCorpus for a bad file."""
    given = settings.system
    if given is None:
        return ""
    text = given
    if given.startswith("@"):
        try:
            text = Path(given[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadCorpus(f"--system {given}: expected a text file in UTF-8 after the @: {error}") from error
    if not text.strip():
        raise BadSetting(
            f"--system {given}: expected a message for the teacher, got an empty one: write it, or leave it out"
        )
    return text.strip()


def _flag(name: str) -> str:
    return flag_of(CaptureSettings, name)


def _most_prompts(settings: CaptureSettings) -> int | None:
    """The number of prompts for which --tokens is enough, whatever their completions."""
    each = settings.max_new_tokens * settings.samples
    if settings.tokens is None:
        return None
    if settings.tokens < each:
        raise BadSetting(
            f"--tokens {settings.tokens}: {settings.samples} x {settings.max_new_tokens} may be written to one prompt; give "
            f"{each} or more, or a smaller --max-new-tokens"
        )
    return settings.tokens // each


@contextmanager
def _teacher(task: _Task) -> Iterator[ServedCompletions | Path]:
    """The teacher: the folder of a model, or a connected server."""
    settings, teacher = task.settings, task.teacher
    if not isinstance(teacher, ServedRef):
        yield resolve(teacher.name)
        return
    served = ServedCompletions.at(
        teacher.address,
        most=settings.max_new_tokens,
        temperature=settings.temperature,
        in_flight=settings.in_flight,
        retry=RetryPolicy(limit=settings.time_limit),
    )
    with served:
        yield served


def _signature(task: _Task, environment: Environment, teacher: ServedCompletions | Path) -> dict[str, Any]:
    settings, prompts = task.settings, task.asked
    how = {name: getattr(settings, name) for name in ("max_new_tokens", "temperature", "samples")}
    if isinstance(teacher, Path):
        how |= {"weights": weights_digest(teacher), "bf16": environment.bf16}
    else:
        how |= {"served": json.dumps(teacher.server_info, sort_keys=True)}
    if task.system:
        how["system"] = task.system
    return signature_of(settings, "capture --text", prompts=digest(prompts), **how)


def _writer(task: _Task, environment: Environment, teacher: ServedCompletions | Path, run: dict[str, Any]) -> Generator:
    settings, prompts = task.settings, task.asked
    if isinstance(teacher, ServedCompletions):
        return ServedGenerator(teacher, prompts, task.sampling)
    model = load(settings.teacher, device=environment.world.device, dtype=environment.dtype)
    tokens = [prompt.tokens(model.tokenizer) for prompt in prompts]
    for prompt, ids in zip(prompts, tokens, strict=True):
        require_rows_of(model.tokenizer, ids, model.vocab, where=prompt.name)
    check_context(model, prompts, tokens, most=settings.max_new_tokens)
    if not (settings.out / PART).exists():  # a continued capture has checked it
        read = of_prompts(prompts, model.tokenizer)
        found = compare_to_unigram(
            model, read, vocab=model.vocab, length=model.context, device=environment.world.device
        )
        check_knowledge(found, model.name, anyway=settings.any_teacher)
    if "batches" not in run:  # another start of this run, perhaps with less memory free, is to make the same ones
        longest = max(map(len, tokens)) + settings.max_new_tokens
        update(settings.out, run, batches=asdict(Batches.of(model, longest=longest)))
    return LocalGenerator(model, tokens, task.sampling, Batches(**run["batches"]))


def _announce(task: _Task, writer: Generator, journal: Journal) -> None:
    """Prints the largest amount of generated text and its price before the first prompt."""
    settings, prompts = task.settings, task.asked
    total, size = task.samples, sum(prompt.bytes for prompt in prompts) * settings.samples
    most = total * settings.max_new_tokens
    samples = "" if settings.samples == 1 else f" x {settings.samples} samples"
    console.print(
        f"{writer.about}\n{len(prompts):,} prompts{samples}, of {in_bytes(size)}; at most {settings.max_new_tokens:,} tokens are "
        f"generated for each, {count(most)} in all" + (f"; {journal.done:,} are there already" if journal.done else "")
    )
    if settings.price:
        prompt, answer = (price / 1e6 for price in settings.price)
        console.print(
            f"at most ${most * answer:,.2f} for what is written, and about ${size / _BYTES_PER_TOKEN * prompt:,.2f} for the "
            f"prompts ({_BYTES_PER_TOKEN} bytes a token)"
        )


def _generate(task: _Task, run: dict[str, Any], writer: Generator, journal: Journal) -> list[dict[str, Any]]:
    """Fills the journal; gives the samples without a completion. Raises BadServer if there are too many."""
    total, failed = task.samples, _Failures(task)
    before = run.get("repeated", 0)
    try:
        with progress(total, what="sample") as report:
            report(journal.done, journal.tokens)
            for number, answer in writer.generate(journal.missing()):
                if isinstance(answer, QueryFailed):
                    failed.add(number, answer, total=total, answered=journal.done)
                else:
                    journal.add({"number": number} | asdict(answer))
                report(journal.done, journal.tokens)
    finally:
        update(task.settings.out, run, failed=failed.rows, repeated=before + writer.repeated)
    return failed.rows


class _Failures:
    """Samples without a completion, counted by the reason."""

    def __init__(self, task: _Task) -> None:
        self._teacher, self._settings, self._prompts = task.teacher, task.settings, task.prompts
        self._kinds: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self.rows: list[dict[str, Any]] = []

    def add(self, number: int, failed: QueryFailed, *, total: int, answered: int) -> None:
        """Counts a failure. Raises BadServer if there are too many, or some before any sample was ``answered``."""
        prompt, sample = divmod(number, self._settings.samples)
        place = {"document": self._prompts[prompt].name, "prompt": prompt, "sample": sample}
        self.rows.append(place | {"reason": str(failed)})
        self._kinds[failed.kind] += 1
        self._examples.setdefault(failed.kind, f"{failed} (first of {self._prompts[prompt].name})")
        assert isinstance(self._teacher, ServedRef), "a model in memory answers every prompt"
        address = self._teacher.address
        if not answered and len(self.rows) >= _NO_ANSWERS:
            raise too_many_missing(
                address, f"all of the first {len(self.rows)} prompts", self._kinds, self._examples, remedies=_REMEDY
            )
        if len(self.rows) > max(1, MOST_MISSING * total):
            raise too_many_missing(
                address, f"{len(self.rows):,} of {total:,} samples", self._kinds, self._examples, remedies=_REMEDY
            )


def _finish(task: _Task, run: dict[str, Any], journal: Journal, failed: Sequence[dict[str, Any]]) -> None:
    """Writes the text in the order of the prompts, and counts its contents."""
    settings, prompts = task.settings, task.prompts
    kinds, read, wrote, kept = Counter[str](), GenerationFacts(), GenerationFacts(), GenerationFacts()
    different = set[bytes]()
    with whole(settings.out / TEXT) as file:
        for number in filter(journal.__contains__, range(len(prompts) * settings.samples)):
            row = journal.row(number)
            prompt, sample = divmod(number, settings.samples)
            kind = _kind(row, task.system)
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
                record |= {key: value for key, value in (about | {"sample": sample}).items() if key not in record}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
    found: dict[str, Any] = {"prompts": len(prompts), "samples": kinds[STOP] + kinds[LENGTH], "stopped": kinds[STOP]}
    found |= {"distinct": len(different), "empty": kinds["empty"], "filtered": kinds["filtered"], "failed": len(failed)}
    found |= {LEAKED: kinds[LEAKED]} if task.system else {}
    found |= {"prompt_tokens": read.total, "tokens": wrote.total, "kept_tokens": kept.total}
    update(settings.out, run, written=found, ended=now(), files=sums(settings.out, [TEXT]))


def _kind(row: Mapping[str, Any], system: str) -> str:
    """How a completion ended, or why it is left out."""
    if row["finish"] == FILTERED:
        return "filtered"
    if not row["text"].strip() and not row.get("calls"):
        return "empty"
    return LEAKED if system and repeats(row["text"], system) else str(row["finish"])


class GenerationFacts:
    """A sum of numbers that a server may omit. The sum is unknown then, None."""

    def __init__(self) -> None:
        self.total: int | None = 0

    def add(self, value: int | None) -> None:
        """Adds a number."""
        self.total = None if value is None or self.total is None else self.total + value


def _show(task: _Task, run: dict[str, Any], seconds: float) -> None:
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
        f"{_cost(task, run)}; it took {duration(seconds)}",
        places={"text": task.settings.out / TEXT},
        then=_next(task) if lines else "",
    )
    show_ending(ending, console)


_LEFT_OUT = {
    LEAKED: "with words of the system message, which the student will not read",
    "empty": "empty",
    "filtered": "kept back by the server's content filter",
    "failed": "without an answer, which run.json names; the same command asks for them again",
}


def _cost(task: _Task, run: dict[str, Any]) -> str:
    settings = task.settings
    prompt, answer = run["written"]["prompt_tokens"], run["written"]["tokens"]
    if prompt is None or answer is None:
        return f"the server does not say how many tokens it read and wrote; {run['repeated']:,} requests repeated"
    message = f"{prompt:,} tokens of prompts, {answer:,} written"
    if isinstance(task.teacher, ServedRef):
        message += f", {run['repeated']:,} requests repeated"
    if settings.price:
        message += f", ${(prompt * settings.price[0] + answer * settings.price[1]) / 1e6:,.2f}"
    return message


def _next(task: _Task) -> str:
    """The command that trains on the text. It needs the weights of the teacher for its report, so a server cannot be one."""
    served = isinstance(task.teacher, ServedRef)
    teacher = "STUDENT --student STUDENT" if served else shlex.quote(task.teacher.name)
    return (
        f"limbeck distil --teacher {teacher} --data {shlex.quote(str(task.settings.out / TEXT))} --objective CrossEntropy "
        "--out runs/written"
    )
