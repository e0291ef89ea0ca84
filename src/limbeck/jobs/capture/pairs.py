"""`limbeck capture --pairs`: preference pairs of a student's texts, for objectives such as DPO.

A student generates texts of prompts. What is preferred is the teacher's text to the student's (``author``, as Zephyr, arXiv
2310.16944, and DistiLLM-2, arXiv 2503.07067, make pairs), the best of the student's own to the worst by the teacher's
log-probability per token (``likelihood``), or one that passes a check to one that fails (``checks``). Prompts whose texts cannot
be told apart are left out and counted. A preferred text has ended by itself, since a model learns to end where it does.

Journals contain texts and scores until the pairs are written, in the order of the prompts.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from limbeck.config import CaptureSettings, flag_of, require_one_teacher
from limbeck.corpora.prompt import Prompt, digest
from limbeck.corpora.strategies import NO_STRATEGY, Strategy
from limbeck.corpora.tasks.checked import Checked
from limbeck.disk import check_sums, claims, sums, whole
from limbeck.errors import BadFolder, BadSetting
from limbeck.generation.generators import prompt_tokens
from limbeck.generation.served import STOP, ServedCompletions
from limbeck.jobs.capture.choosing import (
    AUTHOR,
    CHECKS,
    LEFT_OUT,
    LIKELIHOOD,
    Candidate,
    Sides,
    by_author,
    by_checks,
    by_likelihood,
    record_of,
)
from limbeck.jobs.capture.completions import (
    SAMPLING,
    GenerationFacts,
    Task,
    announce,
    check_flags,
    checks_of,
    complete,
    connected,
    digest_of_checks,
    generator_of,
    identity,
    problem_of,
    read_prompts,
)
from limbeck.jobs.capture.journal import Journal
from limbeck.jobs.capture.lengths import lengths
from limbeck.jobs.capture.pairs_ending import show_pairs
from limbeck.jobs.capture.scores import Judge, ScoreRow, score
from limbeck.jobs.capture.systems import Systems, systems_of
from limbeck.jobs.common.environment import Environment, environment_of
from limbeck.jobs.common.folder import claim, now, signature_of, update
from limbeck.jobs.pair.unigram import check_knowledge_of
from limbeck.models.load import display_name, load, load_tokenizer
from limbeck.models.source import resolve, resolve_description
from limbeck.models.weightless import load_without_weights
from limbeck.report.words import counted
from limbeck.run.log import console
from limbeck.teachers.ref import CapturedRef, LocalRef, ServedRef, computed_here, teacher_ref
from limbeck.teachers.remote.http import RetryPolicy
from limbeck.teachers.remote.served import ServedTeacher, connect

PAIRS = "pairs.jsonl"
STUDENT, TEACHER, SCORES = (f"{name}.jsonl.part" for name in ("student", "teacher", "scores"))
_REWRITTEN = "copy it again, or make pairs again in another --out; if you changed it on purpose, use it as it is"
_FEW = 2  # texts of a prompt without which none is better than another

Teacher = (
    ServedCompletions | ServedTeacher | Path | None
)  # of --judge author, likelihood on a server, either here, or checks


@claims()
def capture_pairs(settings: CaptureSettings) -> dict[str, Any]:
    """Makes preference pairs of a student's texts; gives ``{"out", "pairs", "samples", "left_out", "chosen_tokens", ...}``.

    ``samples`` is the number of pairs, ``left_out`` how many prompts (with --judge author texts) are none, by the reason.

    Raises BadSetting for several processes or flags that do not apply, BadTask for prompts without a check where checks judge,
    and the errors of a faulty text, student, teacher or server.
    """
    started = time.monotonic()
    reads = settings.judge != CHECKS
    source = teacher_ref(settings.teacher, settings.tokenizer if reads else None)
    _check(settings, source)
    assert settings.pairs is not None, "it is asked for"
    environment = environment_of(settings, settings.pairs, *([computed_here(source)] if reads else []))
    if environment.world.size > 1:
        raise BadSetting(
            "capture --pairs is one process: give each machine a part of the prompts as its --data, and an --out of its own"
        )
    job = _Job.of(settings, source, environment)
    with job.connected() as teacher:
        run = claim(settings.out, job.signature(teacher))
        if run.get("written", {}).get("failed") == 0 and (settings.out / PAIRS).exists():
            check_sums(settings.out, run.get("files", {}), error=BadFolder, remedy=_REWRITTEN)
            _remove_parts(settings.out)
        else:
            _go_on(job, run, teacher)
    show_pairs(job.teacher, run, settings.out / PAIRS, time.monotonic() - started)
    return {"out": str(settings.out), "pairs": str(settings.out / PAIRS)} | run["written"]


def _check(settings: CaptureSettings, source: LocalRef | CapturedRef | ServedRef) -> None:
    judge, given = settings.judge, settings.model_fields_set
    served = judge != CHECKS and isinstance(source, ServedRef)
    check_flags(settings, "--pairs", served=served, but=["tokenizer"] if served and judge == LIKELIHOOD else [])
    if settings.text:
        raise BadSetting("--text and --pairs: one keeps a teacher's texts, the other pairs; leave out one of the two")
    require_one_teacher(str(settings.pairs), flag="--pairs", what="student")
    if not isinstance(teacher_ref(str(settings.pairs)), LocalRef):
        raise BadSetting(
            f"--pairs {settings.pairs}: expected the student's folder, .gguf file or hub id, whose texts are generated here: its "
            "weights are those that limbeck tune trains"
        )
    if reads_none := [name for name in ("teacher", "system", "any_teacher") if name in given and judge == CHECKS]:
        raise BadSetting(
            f"{flag_of(CaptureSettings, reads_none[0])}: no teacher reads what --judge checks judges: leave it out"
        )
    if isinstance(source, CapturedRef) and judge != CHECKS:
        raise BadSetting(
            f"--teacher {settings.teacher}: expected a model, got captured logits, which are of another text: give the model"
        )
    if judge == LIKELIHOOD and "price" in given:
        raise BadSetting("--price: with --judge likelihood the teacher generates nothing; leave it out")
    if judge != AUTHOR and settings.samples < _FEW:
        raise BadSetting(
            f"--samples {settings.samples}: --judge {judge} prefers one of a student's texts to another, so it needs at least "
            f"{_FEW} of each prompt; give --samples 4"
        )


@dataclass(frozen=True)
class _Job:
    """The settings of a capture of pairs, and what they name. ``checks`` are those of the prompts, None for one without."""

    settings: CaptureSettings
    source: LocalRef | CapturedRef | ServedRef
    environment: Environment
    prompts: Sequence[Prompt]
    asked: Sequence[Prompt]
    systems: Systems
    checks: Sequence[Checked | None]

    @classmethod
    def of(cls, settings: CaptureSettings, source: Any, environment: Environment) -> _Job:
        """Reads the prompts and their checks. Raises BadTask where checks judge and no prompt has one."""
        prompts, systems = read_prompts(settings), systems_of(settings)
        checks = checks_of(settings, prompts)
        return cls(settings, source, environment, prompts, systems.before(prompts), systems, checks)

    def strategy(self, number: int) -> Strategy:
        """How the teacher was told to answer the prompt of a sample."""
        return self.systems.of(self.prompts[number // self.settings.samples])

    @property
    def student(self) -> Task:
        """What the student generates."""
        settings = self.settings
        ref, part = LocalRef(str(settings.pairs)), settings.out / STUDENT
        return Task(settings, ref, self.prompts, self.prompts, Systems(), part, role="student")

    @property
    def teacher(self) -> Task:
        """What the teacher generates, with --judge author."""
        settings = self.settings
        return Task(settings, self.source, self.prompts, self.asked, self.systems, settings.out / TEACHER)

    def connected(self) -> AbstractContextManager[Teacher]:
        """The teacher: a folder, a connected server, or None where checks judge.

        Raises BadServer for a server without log-probabilities that is to judge by them.
        """
        if self.settings.judge == CHECKS:
            return nullcontext(None)
        if self.settings.judge == LIKELIHOOD and isinstance(self.source, ServedRef):
            return self._scoring(self.source)
        return connected(self.settings, self.source)

    @contextmanager
    def _scoring(self, source: ServedRef) -> Iterator[ServedTeacher]:
        settings = self.settings
        tokenizer = load_tokenizer(resolve_description(source.config_source))
        retry = RetryPolicy(limit=settings.time_limit)
        with connect(source.address, tokenizer, k=1, length=1, retry=retry, in_flight=settings.in_flight) as served:
            yield served

    def check_teacher(self) -> None:
        """Raises what the teacher's tokenizer and context would come to after the student has generated, as `prompt_tokens` does.

        A server that writes texts has no tokenizer here.
        """
        settings, source = self.settings, self.source
        if settings.judge == CHECKS or (settings.judge == AUTHOR and isinstance(source, ServedRef)):
            return
        about = load_without_weights(resolve_description(source.config_source), name=display_name(source.name))
        prompt_tokens(about, self.asked, most=settings.max_new_tokens if settings.judge == AUTHOR else 1)

    def signature(self, teacher: Teacher) -> dict[str, Any]:
        """All that decides the pairs."""
        settings = self.settings
        how: dict[str, Any] = {name: getattr(settings, name) for name in (*SAMPLING, "pairs", "judge")}
        ours = identity(resolve(str(settings.pairs)), self.environment)
        how |= {"bf16": ours["bf16"], "student_weights": ours["weights"]}
        if isinstance(teacher, ServedTeacher):
            how["served"] = json.dumps(teacher.server_info, sort_keys=True)
        elif teacher is not None:
            how |= identity(teacher, self.environment)
        how |= self.systems.facts
        if self.checks:
            how["checks"] = digest_of_checks(self.prompts)
        return signature_of(settings, "capture --pairs", prompts=digest(self.asked), **how)


def _go_on(job: _Job, run: dict[str, Any], teacher: Teacher) -> None:
    """Generates and scores what is missing, and writes the pairs."""
    out, judge = job.settings.out, job.settings.judge
    tokenizer = load_tokenizer(resolve_description(str(job.settings.pairs)))
    with ExitStack() as journals:
        texts = journals.enter_context(Journal(out / STUDENT, job.student.samples))
        if texts.missing():
            job.check_teacher()
        _fill(job.student, job.environment, resolve(str(job.settings.pairs)), run, texts)
        ours = [_candidate(texts.row(number), tokenizer) for number in range(job.student.samples)]
        theirs: list[Candidate | None] = []
        failed, facts = 0, {"tokens": texts.tokens}
        if judge == AUTHOR:
            assert isinstance(teacher, ServedCompletions | Path), "it generates"
            better = journals.enter_context(Journal(out / TEACHER, job.teacher.samples))
            _fill(job.teacher, job.environment, teacher, run, better)
            facts = _read_and_written(better) | {"tokens": texts.tokens + better.tokens}
            every = range(job.teacher.samples)
            theirs = [
                _candidate(better.row(number), tokenizer, job.strategy(number)) if number in better else None
                for number in every
            ]
        elif judge == LIKELIHOOD:
            assert isinstance(teacher, ServedTeacher | Path), "it scores"
            scores = journals.enter_context(Journal(out / SCORES, job.student.samples, ScoreRow))
            failed = _score(job, teacher, ours, scores)
            ours = [
                replace(one, score=scores.row(one.number)["score"]) if one.number in scores else one for one in ours
            ]
        else:
            ours = [_passed(job, one) for one in ours]
        facts["failed"] = failed + sum(one is None for one in theirs)
        _write(job, run, ours, theirs, facts)
    if not run["written"]["failed"]:
        _remove_parts(out)


def _read_and_written(journal: Journal) -> dict[str, Any]:
    """The tokens of prompts and of texts of a teacher, None where a server does not say."""
    read, wrote = GenerationFacts(), GenerationFacts()
    for number in filter(journal.__contains__, range(journal.total)):
        row = journal.row(number)
        read.add(row["prompt_tokens"])
        wrote.add(row["tokens"])
    return {"teacher_prompt_tokens": read.total, "teacher_tokens": wrote.total}


def _remove_parts(out: Path) -> None:
    for name in (STUDENT, TEACHER, SCORES):
        (out / name).unlink(missing_ok=True)


def _fill(
    task: Task, environment: Environment, model: ServedCompletions | Path, run: dict[str, Any], journal: Journal
) -> None:
    """Generates the missing texts of a model. One that has all is not loaded."""
    if journal.missing():
        writer = generator_of(task, environment, model, run, journal)
        announce(task, writer, journal)
        complete(task, run, writer, journal)


def _candidate(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, strategy: Strategy = NO_STRATEGY) -> Candidate:
    """A text of a journal, with its length in the student's tokens."""
    text, problem = row["text"], problem_of(row, strategy)
    tokens = len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    return Candidate(row["number"], text, row["finish"] == STOP, tokens, row.get("calls"), problem=problem)


def _passed(job: _Job, one: Candidate) -> Candidate:
    """The text with 1 as its score if it passes the check of its prompt, else 0; none without a check."""
    check = job.checks[one.number // job.settings.samples]
    return one if check is None else replace(one, score=float(check.passes(one.text, ended=one.ended) is True))


def _score(job: _Job, teacher: ServedTeacher | Path, ours: Sequence[Candidate], scores: Journal) -> int:
    """Scores the texts that ended by themselves by the teacher; gives how many a server did not score.

    Raises Mismatch for a teacher that knows nothing of such prompts, BadServer for a server that does not score too many.
    """
    samples = job.settings.samples
    texts = {
        one.number: job.asked[one.number // samples].completed(one.text)
        for one in ours
        if one.ended and not one.problem
    }
    if all(number in scores for number in texts):
        return 0
    device = job.environment.world.device
    if isinstance(teacher, ServedTeacher):
        about = load_without_weights(resolve_description(job.source.config_source), name=teacher.name)
        longest = teacher.server_info.get("max_model_len")
        context = min(about.context, longest - ServedRef.extra_tokens if isinstance(longest, int) else about.context)
        judge = Judge(teacher, about, context, device)
    else:
        about = load(job.source.name, device=device, dtype=job.environment.dtype)
        judge = Judge(about, about, about.context, device)
    console.print(f"{about.name} scores {counted(len(texts), 'text')} that ended by themselves")
    if not scores.done:
        anyway = job.settings.any_teacher
        check_knowledge_of(judge.teacher, about, job.asked, length=judge.context, device=device, anyway=anyway)
    return score(judge, texts, scores)


_CHOOSE: dict[str, Callable[[Sequence[Candidate]], Sides | str]] = {LIKELIHOOD: by_likelihood, CHECKS: by_checks}


def _write(
    job: _Job, run: dict[str, Any], ours: Sequence[Candidate], theirs: Sequence[Candidate | None], cost: dict[str, Any]
) -> None:
    """Writes the pairs in the order of the prompts, and counts what they are and what is left out.

    ``cost`` are further facts: the tokens of all texts, and how many texts or scores a server did not give, for which the same
    command asks again.
    """
    settings, samples = job.settings, job.settings.samples
    left_out, pairs, judged = Counter[str](), list[list[Sides]](), list[list[Candidate]]()
    with whole(settings.out / PAIRS) as file:
        for place, prompt in enumerate(job.prompts):
            here = slice(place * samples, (place + 1) * samples)
            kept: list[Sides] = []
            for sides in _chosen(settings.judge, ours[here], theirs[here]):
                record = sides if isinstance(sides, str) else record_of(prompt, sides)
                if isinstance(sides, str) or isinstance(record, str):
                    left_out[str(record)] += 1
                    continue
                kept.append(sides)
                about = _about(prompt, sides) | job.systems.beside(prompt)
                file.write(json.dumps(record | about, ensure_ascii=False) + "\n")
            pairs.append(kept)
            judged.append([one for one in ours[here] if one.score is not None])
    everything = [*ours, *(one for one in theirs if one is not None)]
    facts: dict[str, Any] = {"prompts": len(job.prompts), "samples": sum(map(len, pairs))}
    facts |= {"left_out": {name: left_out[name] for name in LEFT_OUT if left_out[name]}, "texts": len(everything)}
    facts |= {"cut_off": sum(not one.ended for one in everything), **cost}
    facts |= lengths(pairs, judged)
    update(settings.out, run, written=facts, ended=now(), files=sums(settings.out, [PAIRS]))


def _chosen(judge: str, ours: Sequence[Candidate], theirs: Sequence[Candidate | None]) -> list[Sides | str]:
    """The pairs of one prompt, or why they are none: of each text with --judge author, else of all together."""
    if judge == AUTHOR:
        return [by_author(one, other) for one, other in zip(theirs, ours, strict=True)]
    return [_CHOOSE[judge](ours)]


def _about(prompt: Prompt, sides: Sides) -> dict[str, Any]:
    """Further fields of a record, named as those of UltraFeedback are."""
    scores = {f"score_{name}": one.score for name, one in zip(("chosen", "rejected"), sides, strict=True)}
    tokens = {f"tokens_{name}": one.tokens for name, one in zip(("chosen", "rejected"), sides, strict=True)}
    return {"document": prompt.name} | {key: value for key, value in scores.items() if value is not None} | tokens
