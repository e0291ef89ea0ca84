"""`limbeck distil`, the main job: check the pair, choose a shape, prune, distil, compare, report.

Settings, objective, folder, configurations and data are checked before anything long begins, so that a mistake costs seconds.
Every stage saves its result in the run's folder and is skipped if the result exists.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.config import DistilSettings
from limbeck.corpora import Rows, TokenStore, require_rows
from limbeck.corpora.layout import Layout
from limbeck.corpora.mask_input import require_prompts
from limbeck.disk import claims, read_json
from limbeck.ending import show_ending
from limbeck.errors import BadModel
from limbeck.jobs.common.environment import Environment, environment_of
from limbeck.jobs.common.folder import claim_together, kept_rate, now, same_corpus, update
from limbeck.jobs.common.held_out import Apart, kept_apart, watch_of, write_apart
from limbeck.jobs.common.memory import computed, memory_use
from limbeck.jobs.common.mixture import mixture_facts, print_mixture, wanted_tokens
from limbeck.jobs.common.opening import open_documents
from limbeck.jobs.common.packing import packed
from limbeck.jobs.common.rates import fresh_rate_of, full_rate_of, rate_of
from limbeck.jobs.common.sample import Sample, first_documents
from limbeck.jobs.common.training import optimiser_facts, plan_of, rule_facts, rule_of, tracked_of
from limbeck.jobs.distil.adapters import memory_of
from limbeck.jobs.distil.arms import Arm, Shared, arms_of, train
from limbeck.jobs.distil.conversion import Planned
from limbeck.jobs.distil.convert import BASE, FACTS, MATCHING, make_converted
from limbeck.jobs.distil.correction import AsGiven, correct
from limbeck.jobs.distil.diagnose import diagnose, what_is_known
from limbeck.jobs.distil.estimate import (
    estimate_time,
    expected_seconds,
    shown_after,
    shown_before,
    shown_before_rounds,
)
from limbeck.jobs.distil.evaluation import Evaluation, share_teacher_metrics
from limbeck.jobs.distil.other_tokens import CrossTokenizerTeacher, TeacherSource, teacher_of
from limbeck.jobs.distil.overlap import OwnTexts, limits_of, own_teachers
from limbeck.jobs.distil.plan import DistilPlan, mask_of
from limbeck.jobs.distil.request import DistilRequest
from limbeck.jobs.distil.rollouts import link_of, rollouts_of
from limbeck.jobs.distil.rounds import arms_of_rounds, make_in_rounds
from limbeck.jobs.distil.several import SeveralTeachers
from limbeck.jobs.distil.shared_layers import make_from_shared
from limbeck.jobs.distil.teacher import RunTeacher, adopted
from limbeck.jobs.distil.vocabulary import with_vocabulary
from limbeck.jobs.pair.low_rank import make_factored
from limbeck.jobs.pair.student import METHOD, make_student, possible_shapes, stored_as
from limbeck.jobs.pair.vocabulary import given_student
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load, verified_folder
from limbeck.models.sidecar import licence_of
from limbeck.models.source import resolve_description
from limbeck.models.weightless import load_without_weights
from limbeck.objectives.spec import ObjectiveSpec
from limbeck.planning.checks.pair import Finding, Pair, as_json, check, show
from limbeck.planning.checks.price import Price
from limbeck.planning.cost.memory import MemoryUse
from limbeck.planning.cost.size import Size
from limbeck.planning.cost.state import kept_bytes
from limbeck.planning.cost.training import Cost, estimate
from limbeck.probes.standard.evaluate import load_tasks
from limbeck.report.domains import teachers_sentence
from limbeck.report.schema import Conversion as ConversionFacts
from limbeck.report.words import share, took, trainings
from limbeck.run.log import console
from limbeck.run.run import Plan
from limbeck.run.world import leave
from limbeck.students.adapters import without_adapters
from limbeck.students.shape import Shape, config_of
from limbeck.teachers.ref import ServedRef
from limbeck.types import ChunkTeacher, Teacher


@claims()
def distil(settings: DistilSettings) -> dict[str, Any]:
    """Distils a student from a teacher, and compares it with its baselines; all results are in ``settings.out``.

    Returns ``{"out", "student", "readings", "verdict"}``, an empty dict on ranks other than 0.
    """
    started = time.monotonic()
    request, logits = adopted(DistilRequest.of(settings))
    environment = environment_of(settings, *request.computing)
    request, logits = with_vocabulary(request, logits, environment)
    comparison = prepare(request, logits, environment)
    for number, arm in enumerate(comparison.arms, 1):
        later = comparison.arms[number:]
        after = expected_seconds(comparison.run.get("estimate", {}), later)
        after += comparison.proof.expected_seconds((arm, *later))
        comparison.proof.arm(arm, train(arm, comparison.shared, after=after))
        if arm is not comparison.arms[-1]:
            comparison.show_so_far()
    result = comparison.conclude(time.monotonic() - started)
    environment.world.barrier()
    leave()
    return result


@dataclass
class Comparison:
    """A student and its baselines, ready to be trained. ``run`` is the content of run.json, empty on ranks other than 0.

    ``continued``: whether an earlier start of the run had reached this point. ``rounds``: the trainings between prunings.
    """

    settings: DistilSettings
    run: dict[str, Any]
    source: TeacherSource
    stores: tuple[TokenStore, TokenStore]
    arms: list[Arm]
    shared: Shared
    cost: Cost
    proof: Evaluation
    continued: bool
    rounds: Sequence[Arm] = ()

    def show_so_far(self) -> None:
        """Writes a report of the arms that are done, so that a stopped run has one."""
        if self.shared.environment.world.first and "ended" not in self.run:
            self.proof.write(self.run)

    def conclude(self, seconds: float, *, linked: Collection[Path] = (), last: bool = True) -> dict[str, Any]:
        """Writes all files, prints the verdict and the time; returns the result of `distil`, an empty dict on ranks other than 0.

        Arms in the folders ``linked`` were trained for another student of a sweep. With ``last`` False, the next command and the
        total time are left to the sweep's own ending.
        """
        if not self.shared.environment.world.first:
            return {}
        if "ended" not in self.run:
            known = {} if self.continued else {"seconds": round(seconds, 1)}  # of all starts
            update(self.settings.out, self.run, ended=now(), **known)
        result, ending = self.proof.conclude(self.run)
        if "estimate" in self.run:
            own = [arm for arm in self.arms if arm.folder not in linked]
            about = shown_after(
                self.run["estimate"], own, self.shared.environment, continued=self.continued, rounds=self.rounds
            )
            console.print(about)
        if last:
            console.print(f"It {took(seconds, continued=self.continued)}.")
        show_ending(ending if last else replace(ending, then=""), console)
        return result


def prepare(
    request: DistilRequest,
    logits: dict[str, Any],
    environment: Environment,
    *,
    member: str = "",
    beside: Comparison | None = None,
    objectives: Sequence[ObjectiveSpec] = (),
    sharing: int = 1,
) -> Comparison:
    """Everything before the first training: checks, text, the pruned student, the arms, and the estimate of their time.

    ``logits``: what the run's signature holds of captured logits. In a sweep, ``member`` names the student, ``beside`` is another
    one of the same teacher and text, which are not read again, ``objectives`` are those of all its students, ``sharing`` of whom
    share a forward pass. Raises a LimbeckError for settings, models or text that do not fit, before anything long begins.
    """
    plan, settings = DistilPlan.of(request, environment), request.settings
    length = plan.budget.length
    if settings.tasks and not beside and environment.world.first:
        load_tasks(settings.tasks)  # for its errors: what follows may take hours before they are needed
    run = claim_together(settings.out, plan.signature(logits, environment), environment.world, tf32=environment.tf32)
    continued = "teacher" in run  # written below, before the first training
    if isinstance(request.teacher, ServedRef) and not beside:
        _check_served(request, length=length, environment=environment)
    given = objectives or request.objectives
    source = beside.source if beside else teacher_of(request, environment, length=length, objectives=given)
    documents = first_documents(settings, request.teacher)
    if not source.captured:
        _show(_opened(settings, source, documents, run, environment, beside=beside))
    start = _Start(plan, source, documents, environment, sharing)
    about_teacher = start.first_look(known=beside is not None)
    stores, apart = _texts(plan, source, environment, run, read=beside.stores if beside else None)
    store, _ = stores
    if isinstance(source, SeveralTeachers):
        source = source.reading(store, settings.data, **asdict(plan.budget), schedule=plan.schedule)
        start = replace(start, source=source)
    cut, student, findings = start.student(store, about_teacher=about_teacher)
    if plan.correction:
        _correct(plan, source, store, environment)
    if isinstance(source, CrossTokenizerTeacher):
        source.query(store, environment, rows=plan.budget.steps * plan.budget.rows, length=length)
    price = start.price(student)
    first = start.price_of_first(student)
    arms = _arms(plan, price, first, member=member)
    shared = _shared(plan, source, store, cut, student, environment, run)
    use, kept = memory_use(
        plan.run(environment, documents=np.diff(store.starts)), student.config, source.size, environment, run
    )
    shared = _watched(replace(shared, plan=computed(shared.plan, use)), settings, source, stores[1], apart, run)
    if environment.world.first:
        facts = {"doctor": as_json(findings)} | _student_facts(plan, source, student, environment) | kept
        _begin(plan, source, student, shared, arms, run, facts, priced=_priced(price, sharing, first))
    cost = _cost(plan, source, student, environment, use)
    del student  # one student at a time is in memory
    _estimate(settings, run, arms, cost, shared)
    if beside and environment.world.first:
        share_teacher_metrics(beside.settings.out, settings.out)
    known = run.get("estimate", {}).get("measuring_seconds", 0.0)
    proof = Evaluation(request, source, stores, length=length, environment=environment, seconds=known, apart=apart)
    proof.cut(cut, plan.quantiser)
    if "estimate" in run:
        update(settings.out, run, estimate=run["estimate"] | {"measuring_seconds": round(proof.seconds, 2)})
    return Comparison(settings, run, source, stores, arms, shared, cost, proof, continued, arms_of_rounds(plan))


def _texts(
    plan: DistilPlan,
    source: TeacherSource,
    environment: Environment,
    run: dict[str, Any],
    *,
    read: tuple[TokenStore, TokenStore] | None,
) -> tuple[tuple[TokenStore, TokenStore], Apart | None]:
    """(training, held-out) text, and what of the second is measured during the trainings, None for nothing of its own.

    ``read``: the text of another student of a sweep. Raises a LimbeckError for text that does not fit the plan.
    """
    settings, length, world = plan.request.settings, plan.budget.length, environment.world
    most = wanted_tokens(settings, length=length, ranks=world.size)
    store, held_out = stores = read or source.stores(settings, environment, most=most)
    require_rows(store, length=length)
    if (mask := mask_of(settings)) is not None:
        require_prompts(store)
        if settings.student is None:  # which has its teacher's vocabulary; a given one is looked at later
            mask.over(1, vocab=source.about.vocab)
    if world.first:
        same_corpus(settings.out, run, store, held_out)
    if (rule := rule_of(settings)) is None:
        return stores, None
    apart = kept_apart(held_out, plan.budget, every=rule.every, length=length, device=world.device)
    if world.first:
        write_apart(settings.out, apart)
    return stores, apart


def _watched(
    shared: Shared,
    settings: DistilSettings,
    source: TeacherSource,
    held_out: TokenStore,
    apart: Apart | None,
    run: dict[str, Any],
) -> Shared:
    """What all arms share, with what is measured during the trainings, what follows from it, and how a tracker shows it."""
    rule, environment = rule_of(settings), shared.environment
    every = None if rule is None else rule.every
    watch = watch_of(held_out, shared.plan, length=shared.length, environment=environment, every=every, apart=apart)
    own_texts = None
    if watch is not None and every is not None and shared.rollouts is not None and shared.link is None:
        own, size = own_teachers(source, held_out, watch.batches), settings.rollout_tokens
        own_texts = OwnTexts(own, held_out.documents, size, settings.rollout_temperature)
    more: dict[str, Any] = {"own_texts": own_texts, "limits": limits_of(settings), "tracked": tracked_of(settings, run)}
    return replace(shared, watch=watch, rule=rule, **more)


def _begin(
    plan: DistilPlan,
    source: TeacherSource,
    student: LanguageModel,
    shared: Shared,
    arms: list[Arm],
    run: dict[str, Any],
    facts: dict[str, Any],
    *,
    priced: dict[str, Any],
) -> None:
    """Keeps in run.json what is planned, with other ``facts``, and prints it."""
    settings, layout = plan.request.settings, shared.store.layout(shared.length)
    with without_adapters(source.about):
        about = _summary(source.about)
    about |= source.facts | priced | _stated(plan.request)
    planned = _plan_facts(shared.plan, layout, arms) | rule_facts(shared.rule, settings.stop_when)
    update(settings.out, run, **facts, plan=planned, teacher=about)
    _announce(about, student, shared.plan, layout, arms, most=source.rows)
    if teachers := teachers_sentence(about):
        console.print(teachers)
    mixed = _mixed(plan, shared)
    print_mixture(mixed)
    update(settings.out, run, **mixed)


def _student_facts(
    plan: DistilPlan, source: TeacherSource, student: LanguageModel, environment: Environment
) -> dict[str, Any]:
    """What run.json holds of the student: its model, objective, vocabulary, number format and conversion."""
    facts: dict[str, Any] = {"student": _summary(student), "lineage": student.lineage}
    facts |= {"objective": plan.request.objective.canonical} | source.vocabulary_facts
    if plan.adapters:
        facts |= plan.adapters.facts
    if plan.correction:
        facts |= plan.correction.facts
    if plan.quantiser:
        facts["quantised"] = dict(plan.quantiser.facts)
    if plan.conversion:
        facts |= _of_conversion(plan, source, student, environment=environment)
    return facts


@dataclass(frozen=True)
class _Start:
    """The checks and steps up to the untrained student; ``sharing`` students share the teacher's forward pass."""

    plan: DistilPlan
    source: TeacherSource
    documents: Sample
    environment: Environment
    sharing: int

    def diagnose(self, pair: Pair, *, uses: float | None = None) -> list[Finding]:
        """The doctor's findings about this pair."""
        request, length, kept = self.plan.request, self.plan.budget.length, kept_rate(self.plan.request.settings.out)
        return diagnose(
            request, pair, self.documents, length=length, environment=self.environment, uses=uses, kept=kept
        )

    def first_look(self, *, known: bool) -> list[Finding]:
        """Raises if the teacher predicts no better than a unigram model, or if a given student does not fit.

        Returns the findings about the teacher; none if they are ``known`` already, or were made at the capture of its logits.
        """
        request, source = self.plan.request, self.source
        looked = known or source.captured is not None
        length = self.plan.budget.length
        several = source.models if isinstance(source, SeveralTeachers) else ()
        how: dict[str, Any] = {"length": length, "environment": self.environment, "several": several}
        findings = [] if looked else what_is_known(request, source.about, **how)
        findings += source.beside_first(chat=self.documents.chat) if isinstance(source, SeveralTeachers) else []
        check(findings)
        if request.settings.student:
            check(self.diagnose(Pair(source.about, given_student(request.settings.student, request.teacher))))
        return findings

    def student(self, store: TokenStore, *, about_teacher: list[Finding]) -> tuple[Path, LanguageModel, list[Finding]]:
        """(folder, model, findings) of the untrained student, made from the teacher if needed, and checked with it."""
        plan, teacher = self.plan, self.source.about
        live = plan.request.objective.needs_teacher and isinstance(self.source, RunTeacher)
        uses = self.uses() if live else None
        before = self._conversion(uses) + self._of_first(uses)
        findings = before + about_teacher
        cut = _start(plan, self.source, store, environment=self.environment, share=partial(self._before, store))
        student = load(verified_folder(cut), device="cpu")
        if not plan.conversion:
            findings = self.diagnose(Pair(teacher, student), uses=uses) + about_teacher
            _show([finding for finding in findings if finding.check not in {said.check for said in before}])
        findings += [packed(store, length=plan.budget.length, context=student.context)]
        _show(findings[-1:])
        return cut, student, findings

    def _of_first(self, uses: float | None) -> list[Finding]:
        """The doctor's findings about a student with a training before its own, before that; none where there is none.

        It is that of a round of pruning or of shared layers. The findings on memory are those of its model, the larger one.
        """
        plan, teacher = self.plan, self.source.about
        if plan.target is None or not (plan.rounds or plan.learngene):
            return []
        largest = plan.rounds.shapes[0] if plan.rounds else plan.target
        if plan.learngene:
            largest = replace(plan.target, layers=plan.learngene.sharing.layers)
        last, first = (
            self.diagnose(Pair(teacher, planned=config_of(shape, teacher.config)), uses=uses)
            for shape in (plan.target, largest)
        )
        findings = [one for one in last if one.check != "memory"] + [one for one in first if one.check == "memory"]
        _show(findings)
        return findings

    def _before(self, store: TokenStore, arm: Arm, cut: Path, student: LanguageModel) -> Shared:
        """What a training before the student's needs: a round of pruning, or that of shared layers.

        Averages of weights are of the last training alone.
        """
        plan, environment = self.plan, self.environment
        shared = _shared(plan, self.source, store, cut, student, environment, {})
        run = plan.run(environment, documents=np.diff(store.starts))
        use, _ = memory_use(run, student.config, self.source.size, environment, {})
        shared = replace(shared, plan=replace(computed(shared.plan, use), average=""), quantiser=None)
        if arm.taken == 0 and not (arm.folder / "metrics.jsonl").exists():
            found = estimate_time([arm], _cost(plan, self.source, student, environment, use), shared)
            if plan.rounds:
                console.print(shown_before_rounds(found, self._flops(student)))
            else:
                console.print(f"shared layers: {shown_before(found, [arm])}")
        return shared

    def _flops(self, student: LanguageModel) -> list[float]:
        """FLOPs of the training of each round, the student's own as the last. ``student``: that of the first round."""
        plan, length = self.plan, self.plan.budget.length
        assert plan.rounds is not None, "the plan has rounds"
        assert plan.target is not None, "rounds prune"
        once = self.source.size.forward_flops(length) if self.source.size else 0.0
        steps = (*plan.rounds.steps, plan.budget.steps - plan.matched)
        sizes = [Size.of(config_of(shape, student.config)) for shape in (*plan.rounds.shapes, plan.target)]
        return [n * (once + 3 * size.forward_flops(length)) for n, size in zip(steps, sizes, strict=True)]

    def _conversion(self, uses: float | None) -> list[Finding]:
        """The doctor's findings about a planned conversion, before its matching; none without a conversion."""
        plan = self.plan
        if not plan.conversion:
            return []
        planned = Planned.of(plan.request, plan.conversion, plan.target)
        pair = Pair(self.source.about, planned=planned.student, reference=planned.reference)
        findings = self.diagnose(pair, uses=uses)
        _show(findings)
        for remark in planned.remarks(plan.budget.length):
            console.print(f"note: {remark}")
        return findings

    def uses(self) -> float:
        """How often each forward pass of the teacher is used for training."""
        return self.sharing / self.source.passes(self.plan.budget.tokens, self.plan.budget.length)

    def price_of_first(self, student: LanguageModel) -> Price | None:
        """The price of the first of several teachers if it had all rows; None where there is one."""
        return self._price(student, Size.of(self.source.about.config)) if self.plan.request.domains else None

    def price(self, student: LanguageModel) -> Price | None:
        """The teacher's compute relative to the student's; None if the objective does not need the teacher."""
        if not self.plan.request.objective.needs_teacher:
            return None
        several = self.source.size if isinstance(self.source, SeveralTeachers) else None
        return self._price(student, several or Size.of(self.source.about.config))

    def _price(self, student: LanguageModel, teacher: Size) -> Price:
        """The price of a teacher of this size, or of teachers."""
        sizes = Size.of(student.config), teacher
        how: dict[str, Any] = {
            "length": self.plan.budget.length,
            "uses": self.uses(),
            "generated": _generated(self.plan),
            "judged": _generated(self.plan) if isinstance(self.plan.request.teacher, ServedRef) else 0.0,
        }
        price = Price.of(*sizes, **how, adapters=self.plan.adapters.size if self.plan.adapters else None)
        if (correction := self.plan.correction) is None:
            return price
        own = price.step * correction.flops / sizes[1].forward_flops(correction.length)  # in steps of the student
        budget, steps = self.plan.budget, self.plan.budget.steps - self.plan.matched  # over which it is spread
        return replace(price, corrected=own * correction.tokens / (steps * budget.rows * budget.length))


def _opened(
    settings: DistilSettings,
    source: TeacherSource,
    documents: Sample,
    run: dict[str, Any],
    environment: Environment,
    *,
    beside: Comparison | None,
) -> list[Finding]:
    """Chooses what documents begin with, for a teacher in memory, which computes itself. Gives what was found."""
    if beside is None:
        return open_documents(settings, source.about, source.about, documents.texts, run=run, world=environment.world)
    if "frame" in beside.run:
        update(settings.out, run, frame=beside.run["frame"])
    return []


def _shared(
    plan: DistilPlan,
    source: TeacherSource,
    store: TokenStore,
    cut: Path,
    student: LanguageModel,
    environment: Environment,
    run: Mapping[str, Any],
) -> Shared:
    """The values that all arms share. ``run``: what run.json holds, on rank 0."""
    settings, budget = plan.request.settings, plan.budget
    kept: float | None = json.loads(environment.world.share(json.dumps(run.get("plan", {}).get("learning_rate"))))
    lr = rate_of(settings, student.parameters_count, kept=kept)
    mask = mask_of(settings)
    if mask is not None:
        mask.over(budget.steps * budget.rows, vocab=student.vocab)  # for its errors
    size = {"steps": budget.steps, "rows": budget.rows}
    training = plan_of(settings, **size, lr=lr, schedule=plan.schedule, bf16=environment.bf16, tf32=environment.tf32)
    return Shared(
        *(cut, _teacher_on(source, store), store, budget.length, training, environment),
        most_rows=source.rows,
        counted=source.counted,
        reads_on=isinstance(source, CrossTokenizerTeacher),  # its logits cover only the rows of the plan
        common=(settings.seed, plan.taken * budget.rows),
        data=settings.data if "sources" in store.manifest else "",
        rollouts=rollouts_of(settings),
        link=link_of(plan.request, source, length=budget.length, ranks=environment.world.size),
        mask=mask,
        vocab=student.vocab,
        stored=stored_as(settings, plan.request.teacher),
        fresh_rate=fresh_rate_of(settings, student.parameters_count),
        quantiser=plan.quantiser,
        adapters=plan.adapters.plan if plan.adapters else None,
        full_rate=full_rate_of(settings, student.parameters_count) if plan.adapters else None,
        plain_teacher=AsGiven(source.about) if plan.correction else source.about if plan.request.domains else None,
        equal_domains=settings.domain_weights == "equal",
    )


def _teacher_on(source: TeacherSource, store: TokenStore) -> Teacher | ChunkTeacher:
    """The teacher of the rows of a store: of several each row's own."""
    return source.routed(store) if isinstance(source, SeveralTeachers) else source.logits


def _correct(plan: DistilPlan, source: TeacherSource, store: TokenStore, environment: Environment) -> None:
    """Tunes the teacher on the text, unless an earlier start of the run did."""
    settings, correction = plan.request.settings, plan.correction
    assert correction is not None
    how: dict[str, Any] = {"bf16": environment.bf16, "tf32": environment.tf32, "lr": correction.rate}
    training = plan_of(settings, steps=correction.steps, rows=correction.rows, schedule="wsd", **how)
    correct(correction, source.about, settings, store, training, environment)


def _cost(
    plan: DistilPlan, source: TeacherSource, student: LanguageModel, environment: Environment, use: MemoryUse
) -> Cost:
    """The memory and time of one training."""
    return estimate(
        *(Size.of(student.config), source.size),
        length=plan.budget.length,
        tokens=plan.budget.tokens,
        batch_tokens=plan.budget.rows * plan.budget.length,
        itemsize=environment.dtype.itemsize,
        device=environment.world.device.type,
        quantised=plan.quantiser is not None,
        **memory_of(plan.adapters),
        use=use,
        config=student.config,
    )


def _of_conversion(
    plan: DistilPlan, source: TeacherSource, student: LanguageModel, *, environment: Environment
) -> dict[str, Any]:
    """The entries of run.json about a conversion: how each layer was converted, and bytes of state for a text."""
    remedy = "remove the folder cut beside it too, and the student is converted again"
    file, length = plan.request.settings.out / FACTS, plan.budget.length
    facts: dict[str, Any] = {"conversion": read_json(file, ConversionFacts, remedy=remedy)}
    if source.size is not None:
        facts["state"] = _kept(student, source.about, source.size, length=length, itemsize=environment.dtype.itemsize)
    return facts


def _estimate(settings: DistilSettings, run: dict[str, Any], arms: list[Arm], cost: Cost, shared: Shared) -> None:
    """Estimates the time of the trainings, prints it and stores it in run.json; nothing if a training has begun."""
    if any((arm.folder / "metrics.jsonl").exists() for arm in arms):
        return
    found = estimate_time(arms, cost, shared)
    if shared.environment.world.first:
        update(settings.out, run, estimate=asdict(found))
        console.print(shown_before(found, arms))


def _start(
    plan: DistilPlan,
    source: TeacherSource,
    store: TokenStore,
    *,
    environment: Environment,
    share: Callable[[Arm, Path, LanguageModel], Shared],
) -> Path:
    """The folder of the untrained student. Teacher weights that are needed only here are freed afterwards.

    ``share`` gives what a training before the student's needs.
    """
    settings, target, conversion = plan.request.settings, plan.target, plan.conversion
    folder = settings.out / "cut"
    pruned = settings.out / (BASE if conversion else "cut")
    later = plan.rounds or plan.learngene  # made after a training
    other = pruned.exists() or later or (settings.method, settings.depth) != (METHOD, None)
    if environment.world.first and target is not None and source.captured and not other:
        source.captured.place_cut(possible_shapes(settings, plan.request.teacher), pruned, seed=settings.seed)
    environment.world.barrier()
    made = (folder / "config.json").exists()
    factored = settings.low_rank is not None
    needed, length = (target or conversion or factored) and not made, plan.budget.length
    weights = source.to_cut(environment, length=length, spill=settings.out) if needed else source.about
    if plan.rounds is not None:
        return folder if made else make_in_rounds(plan, weights, store, environment=environment, share=share)
    if plan.learngene is not None:
        return folder if made else make_from_shared(plan, weights, store, environment=environment, share=share)
    ref = plan.request.teacher
    if factored:
        return make_factored(settings, ref, weights, store, length=length, environment=environment)
    if conversion is None:
        return make_student(settings, ref, target, weights, store, length=length, environment=environment)
    if made:
        if environment.world.first:  # left by a start that was killed just after this stage
            shutil.rmtree(settings.out / MATCHING, ignore_errors=True)
        return folder
    return make_converted(plan, weights, store, environment=environment, most_rows=source.rows)


def _show(findings: Sequence[Finding]) -> None:
    """Prints warnings, errors and costs, and raises at an error. The other findings are in the report."""
    show([f for f in findings if f.level != "ok" or f.check in ("memory", "equal compute")], console)
    check(findings)


def _check_served(request: DistilRequest, *, length: int, environment: Environment) -> None:
    """Checks a pair whose teacher is on a server before any query, which may cost money."""
    settings, teacher = request.settings, request.teacher
    assert settings.student is not None, "checked by adopted"
    described = load_without_weights(resolve_description(teacher.config_source), name=teacher.name)
    documents = first_documents(settings, teacher)
    check(diagnose(request, Pair(described, load(settings.student)), documents, length=length, environment=environment))


def _arms(plan: DistilPlan, price: Price | None, first: Price | None, *, member: str) -> list[Arm]:
    """The arms, with the steps of cross-entropy at equal FLOPs. ``price`` is None if the objective needs no teacher.

    ``first``: the price of the first of several teachers alone, None where there is one.
    """
    ratio, alone = (1.0, 1.0) if price is None else (price.ratio, price.ratio_off_policy)
    steps = plan.budget.steps - plan.matched
    whole = ratio / (ratio - 1 + plan.adapters.whole) if plan.adapters else 1.0
    more = {"off_policy_steps": round(steps * alone), "full_steps": max(1, round(steps * whole))}
    corrected = price.corrected if price else 0.0
    more["uncorrected_steps"] = round(steps * ratio / (ratio - corrected))
    more["one_teacher_steps"] = steps if first is None else max(1, round(steps * ratio / first.ratio))
    return arms_of(plan, flops_steps=round(steps * ratio), **more, member=member)


def _generated(plan: DistilPlan) -> float:
    """The mean share of the rows that the student generates itself."""
    rollouts = rollouts_of(plan.request.settings)
    return rollouts.share.mean if rollouts else 0.0


def _priced(price: Price | None, students: int, first: Price | None) -> dict[str, Any]:
    """The entries of run.json about the teacher's price: its forward passes for each token of the student's training.

    ``first``: the price of the first of several teachers alone, None where there is one.
    """
    if price is None:
        return {"passes": 0.0}
    generated = {"generated": price.generated, "forward": price.forward} if price.generated else {}
    generated |= {"judged": price.judged} if price.judged else {}
    generated |= {"corrected": price.corrected} if price.corrected else {}
    generated |= {"price_of_first": first.step} if first else {}
    return {"passes": 1 / price.uses, "price": price.step, "students": students} | generated


def _summary(model: LanguageModel) -> dict[str, Any]:
    try:
        shape = str(Shape.of(model.config))
    except BadModel:  # an architecture that cannot be pruned can still be a teacher or a given student
        shape = None
    return {"name": model.name, "parameters": model.parameters_count, "shape": shape}


def _stated(request: DistilRequest) -> dict[str, Any]:
    """Licence and origin as given in the README.md of the model that the student starts from."""
    found = licence_of(resolve_description(request.settings.student or request.teacher.config_source))
    return {"stated": found} if found else {}


def _kept(student: LanguageModel, teacher: LanguageModel, size: Size, *, length: int, itemsize: int) -> dict[str, Any]:
    """Bytes of state of a converted student and of its teacher, after ``length`` tokens and after the teacher's context."""
    context = length if teacher.context == sys.maxsize else teacher.context
    return kept_bytes(Size.of(student.config), size, length=length, context=context, itemsize=itemsize)


def _plan_facts(plan: Plan, layout: Layout, arms: list[Arm]) -> dict[str, Any]:
    """The plan as run.json stores it. ``tokens`` does not count padding."""
    return {
        "steps": plan.steps,
        "rows": plan.rows,
        "length": layout.length,
        "tokens": round(plan.steps * plan.rows * layout.length * (1 - layout.padding)),
        "padding": layout.padding,
        "learning_rate": plan.lr,
        "schedule": plan.schedule,
        **optimiser_facts(plan),
        "arms": [{"name": a.name, "seed": a.seed, "objective": a.objective.text, "steps": a.steps} for a in arms],
    }


def _mixed(plan: DistilPlan, shared: Shared) -> dict[str, Any]:
    """How often the student's training reads each source of a mixture."""
    steps = plan.budget.steps
    rows = Rows(shared.store, length=shared.length, blend=shared.blend(steps))
    return mixture_facts(shared.store, rows, steps * plan.budget.rows)


def _announce(
    teacher: dict[str, Any], student: LanguageModel, plan: Plan, layout: Layout, arms: list[Arm], *, most: int | None
) -> None:
    """Prints the pair and the plan. ``most``: how many rows of the text are read, None for all."""
    rows, length = plan.steps * plan.rows, layout.length
    epochs = rows / (layout.rows if most is None else min(most, layout.rows))
    padding = f", of which {share(layout.padding)} is padding" if layout.padding > 0.005 else ""
    captured = f" ({teacher['answers']}, captured before)" if "answers" in teacher else ""
    console.print(
        f"teacher {teacher['name']}: {teacher['parameters']:,} parameters{captured}; student: {student.parameters_count:,} "
        f"({student.parameters_count / teacher['parameters']:.2f} of it)\n"
        f"{plan.steps:,} steps of {plan.rows} x {length} tokens = {rows * length:,} tokens{padding} "
        f"({epochs:.1f} epochs), peak learning rate {plan.lr:.2g}, {plan.schedule}{', in bfloat16' if plan.bf16 else ''}; "
        f"{trainings(len(arms))}: {', '.join(a.label for a in arms)}"
    )
