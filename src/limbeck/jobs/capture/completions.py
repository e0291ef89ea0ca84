"""Completions of prompts by one model, in memory or on a server, kept in a journal until all are there.

A killed command continues after the last whole line, with the same completions: each has its own random numbers, and batches
follow from all prompts.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from limbeck.config import CaptureSettings, flag_of
from limbeck.corpora import Prompt, prompts_of
from limbeck.corpora.faults import BadRecords
from limbeck.corpora.prompt import repeats
from limbeck.corpora.records import CHECKS as FIELDS_OF_CHECKS
from limbeck.corpora.strategies import Strategy
from limbeck.corpora.tasks.checked import Checked
from limbeck.corpora.tasks.checked_prompts import checked_of
from limbeck.errors import BadSetting, BadTask
from limbeck.generation.generators import Batches, Generator, LocalGenerator, Sampling, ServedGenerator, prompt_tokens
from limbeck.generation.served import FILTERED, ServedCompletions
from limbeck.jobs.capture.choosing import BLANK, CHECKS, LEAKED, LIKELIHOOD, UNFIT, WITHHELD
from limbeck.jobs.capture.journal import Journal
from limbeck.jobs.capture.progress import progress
from limbeck.jobs.capture.systems import Systems
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.folder import update
from limbeck.jobs.common.text import columns_of
from limbeck.jobs.pair.unigram import check_knowledge_of
from limbeck.models.load import load
from limbeck.models.source import resolve, weights_digest
from limbeck.report.words import count
from limbeck.report.words import size as in_bytes
from limbeck.run.log import console
from limbeck.teachers.ref import ServedRef, TeacherRef
from limbeck.teachers.remote.http import QueryFailed, RetryPolicy
from limbeck.teachers.remote.served import MOST_MISSING, REMEDY, too_many_missing

_NO_ANSWERS = 3  # failures before any completion after which the capture stops
_BYTES_PER_TOKEN = 4  # of English text, roughly; what a server's tokenizer makes of a prompt is not known before

_REMEDY = REMEDY | {
    "status 400": "shorten the prompts that run.json names or give a smaller --max-new-tokens, if they are too long",
    "status 404": "give conversations ('messages') to a server that cannot continue a text",
}


SAMPLING = ("max_new_tokens", "temperature", "samples")  # settings that decide completions, besides the seed
_OF_LOGITS = (
    *("eval_data", "length", "bytes_per_token", "kind", "tokenizer", "shard", "ray", "shards"),
    *("stream", "device_memory", "params", "qat", "vocab", "frame"),
)
_OF_TEXT = (*SAMPLING, "system", "price")
_OF_A_SERVER = ("in_flight", "time_limit", "price")


@dataclass(frozen=True)
class Task:
    """Prompts, the ``model`` that completes them, and the settings; ``part`` is the file of the journal.

    ``asked`` are the prompts as the model reads them, under the system messages of ``systems`` if there are any.
    """

    settings: CaptureSettings
    model: TeacherRef
    prompts: Sequence[Prompt]
    asked: Sequence[Prompt]
    systems: Systems
    part: Path
    role: Literal["teacher", "student"] = "teacher"

    @property
    def samples(self) -> int:
        """The number of completions of all prompts."""
        return len(self.prompts) * self.settings.samples

    @property
    def sampling(self) -> Sampling:
        """The settings of sampling. A student's random numbers are others than those of its teacher."""
        settings = self.settings
        how = Sampling(settings.max_new_tokens, settings.temperature, settings.samples, settings.seed)
        return how.apart(self.role) if self.role == "student" else how

    def key(self, name: str) -> str:
        """The name of a fact about this model in run.json."""
        return name if self.role == "teacher" else f"{self.role}_{name}"


class GenerationFacts:
    """A sum of numbers that a server may omit. The sum is unknown then, None."""

    def __init__(self) -> None:
        self.total: int | None = 0

    def add(self, value: int | None) -> None:
        """Adds a number."""
        self.total = None if value is None or self.total is None else self.total + value


def check_alone(settings: CaptureSettings) -> None:
    """Raises BadSetting if flags of --text and --pairs are set without either."""
    for name in (*_OF_TEXT, "judge"):
        if name in settings.model_fields_set:
            raise BadSetting(
                f"{_flag(name)}: it sets how a model generates text; add --text or --pairs, or leave it out"
            )


def check_flags(settings: CaptureSettings, what: str, *, served: bool, but: Sequence[str] = ()) -> None:
    """Raises BadSetting for flags that do not apply with ``what``, --text or --pairs; those named in ``but`` do."""
    given, checks = settings.model_fields_set, settings.judge == CHECKS
    if what == "--text" and "judge" in given and not checks:
        raise BadSetting(
            f"{_flag('judge')} {settings.judge}: it says what is preferred in pairs; add --pairs in place of --text, or give "
            f"--judge {CHECKS}, which keeps the texts that pass"
        )
    if not checks and (columns := [name for name, _ in settings.columns or () if name in FIELDS_OF_CHECKS]):
        raise BadSetting(
            f"--columns {columns[0]}=...: only --judge checks reads what completions are checked by; leave it out"
        )
    for name in _OF_LOGITS:
        if name in given and name not in but:
            raise BadSetting(
                f"{_flag(name)}: it sets how logits of a text are kept, and with {what} the "
                f"{'teacher generates one' if what == '--text' else 'student generates texts'}; leave out one of the two"
            )
    for name in _OF_A_SERVER:
        if name in given and not served:
            raise BadSetting(
                f"{_flag(name)}: it is for a teacher on a server, and {settings.teacher} is none; leave it out"
            )
    if "any_teacher" in given and served and settings.judge != LIKELIHOOD:
        raise BadSetting(
            f"{_flag('any_teacher')}: what a teacher knows of a text is only measured where its log-probabilities are read, and "
            f"{settings.teacher} writes texts: leave it out"
        )
    if settings.samples > 1 and settings.temperature == 0:
        raise BadSetting(
            f"--samples {settings.samples}: at --temperature 0 they would all be the same; give a higher temperature, or one "
            "sample"
        )


def _flag(name: str) -> str:
    return flag_of(CaptureSettings, name)


def read_prompts(settings: CaptureSettings) -> list[Prompt]:
    """The prompts in --data, as many as --tokens is enough for. Raises BadCorpus for too many bad records."""
    bad = BadRecords(settings.skip_bad or 0)
    prompts = prompts_of(settings.data, most=_most_prompts(settings), columns=columns_of(settings), bad=bad)
    if bad.count:
        console.print(f"text: skipped: {bad.count:,} records that cannot be read, the first {bad.first[0]}")
    return prompts


def checks_of(settings: CaptureSettings, prompts: Sequence[Prompt]) -> list[Checked | None]:
    """The check of each prompt, None for one without; [] with another --judge. Raises BadTask where no prompt has one."""
    if settings.judge != CHECKS:
        return []
    checks = [checked_of(prompt) for prompt in prompts]
    if not any(checks):
        raise BadTask(
            f"{settings.data}: expected prompts with a check, an 'answer' or constraints ('instruction_id_list' and 'kwargs') "
            f"beside each, got none in {len(prompts):,}: add them, give another name with --columns answer=solution, or take "
            "another --judge"
        )
    return checks


def digest_of_checks(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of the fields that say the checks of prompts."""
    fields = [prompt.document.checked_by for prompt in prompts]
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()


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
def connected(settings: CaptureSettings, model: TeacherRef) -> Iterator[ServedCompletions | Path]:
    """The folder of a model, or a connected server."""
    if not isinstance(model, ServedRef):
        yield resolve(model.name)
        return
    served = ServedCompletions.at(
        model.address,
        most=settings.max_new_tokens,
        temperature=settings.temperature,
        in_flight=settings.in_flight,
        retry=RetryPolicy(limit=settings.time_limit),
    )
    with served:
        yield served


def identity(model: ServedCompletions | Path, environment: Environment) -> dict[str, Any]:
    """What decides the completions of a model, for the signature of a run."""
    if isinstance(model, Path):
        return {"weights": weights_digest(model), "bf16": environment.bf16}
    return {"served": json.dumps(model.server_info, sort_keys=True)}


def generator_of(
    task: Task, environment: Environment, model: ServedCompletions | Path, run: dict[str, Any], journal: Journal
) -> Generator:
    """What generates the completions of a task that the journal lacks.

    Raises Mismatch for prompts without room, or before the first completion for a teacher that knows nothing.
    """
    settings, prompts = task.settings, task.asked
    if isinstance(model, ServedCompletions):
        return ServedGenerator(model, prompts, task.sampling)
    loaded = load(task.model.name, device=environment.world.device, dtype=environment.dtype)
    tokens = prompt_tokens(loaded, prompts, most=settings.max_new_tokens)
    if task.role == "teacher" and not journal.done:  # a continued capture has checked it
        device, anyway = environment.world.device, settings.any_teacher
        check_knowledge_of(loaded, loaded, prompts, length=loaded.context, device=device, anyway=anyway)
    if task.key("batches") not in run:  # another start, perhaps with less memory free, is to make the same ones
        longest = max(map(len, tokens)) + settings.max_new_tokens
        update(settings.out, run, **{task.key("batches"): asdict(Batches.of(loaded, longest=longest))})
    return LocalGenerator(loaded, tokens, task.sampling, Batches(**run[task.key("batches")]), role=task.role)


def announce(task: Task, writer: Generator, journal: Journal) -> None:
    """Prints the largest amount of generated text and its price before the first prompt."""
    settings, prompts = task.settings, task.asked
    total, size = task.samples, sum(prompt.bytes for prompt in prompts) * settings.samples
    most = total * settings.max_new_tokens
    samples = "" if settings.samples == 1 else f" x {settings.samples} samples"
    console.print(
        f"{writer.about}\n{len(prompts):,} prompts{samples}, of {in_bytes(size)}; at most {settings.max_new_tokens:,} tokens are "
        f"generated for each, {count(most)} in all" + (f"; {journal.done:,} are there already" if journal.done else "")
    )
    if settings.price and isinstance(task.model, ServedRef):
        prompt, answer = (price / 1e6 for price in settings.price)
        console.print(
            f"at most ${most * answer:,.2f} for what is written, and about ${size / _BYTES_PER_TOKEN * prompt:,.2f} for the "
            f"prompts ({_BYTES_PER_TOKEN} bytes a token)"
        )


def complete(task: Task, run: dict[str, Any], writer: Generator, journal: Journal) -> list[dict[str, Any]]:
    """Fills the journal; gives the samples without a completion. Raises BadServer if there are too many."""
    total, failed = task.samples, _Failures(task)
    before = run.get(task.key("repeated"), 0)
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
        facts = {task.key("failed"): failed.rows, task.key("repeated"): before + writer.repeated}
        update(task.settings.out, run, **facts)
    return failed.rows


def cost(task: Task, run: dict[str, Any], prompt: int | None, answer: int | None) -> str:
    """What a model read and wrote, in tokens of ``prompt`` and ``answer``; None where a server does not say."""
    settings = task.settings
    repeated = run.get(task.key("repeated"), 0)  # not there if the command that wrote the last completion was killed
    if prompt is None or answer is None:
        return f"the server does not say how many tokens it read and wrote; {repeated:,} requests repeated"
    message = f"{prompt:,} tokens of prompts, {answer:,} written"
    if isinstance(task.model, ServedRef):
        message += f", {repeated:,} requests repeated"
    if settings.price:
        message += f", ${(prompt * settings.price[0] + answer * settings.price[1]) / 1e6:,.2f}"
    return message


def problem_of(row: Mapping[str, Any], strategy: Strategy) -> str:
    """Why a completion in a journal is left out, as in `choosing.LEFT_OUT`; "" for one that is kept.

    ``strategy``: how its model was told to answer.
    """
    if row["finish"] == FILTERED:
        return WITHHELD
    if not row["text"].strip() and not row.get("calls"):
        return BLANK
    if strategy.system and repeats(row["text"], strategy.system):
        return LEAKED
    if not row["text"].strip():  # calls of functions, which no pattern is of
        return ""
    return "" if strategy.fits(row["text"]) else UNFIT


class _Failures:
    """Samples without a completion, counted by the reason."""

    def __init__(self, task: Task) -> None:
        self._model, self._settings, self._prompts = task.model, task.settings, task.prompts
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
        assert isinstance(self._model, ServedRef), "a model in memory answers every prompt"
        address = self._model.address
        if not answered and len(self.rows) >= _NO_ANSWERS:
            raise too_many_missing(
                address, f"all of the first {len(self.rows)} prompts", self._kinds, self._examples, remedies=_REMEDY
            )
        if len(self.rows) > max(1, MOST_MISSING * total):
            raise too_many_missing(
                address, f"{len(self.rows):,} of {total:,} samples", self._kinds, self._examples, remedies=_REMEDY
            )
