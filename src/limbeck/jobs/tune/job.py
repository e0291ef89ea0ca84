"""`limbeck tune`: trains a model further on instructions or other text, and measures it before and after."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from limbeck.config import TuneSettings
from limbeck.corpora import TokenStore, build_stores, require_rows
from limbeck.corpora.found import notes_of
from limbeck.corpora.mask_input import require_prompts
from limbeck.corpora.pair_rows import preferred_of
from limbeck.corpora.records import Columns
from limbeck.disk import claims
from limbeck.ending import show_ending
from limbeck.errors import BadFolder
from limbeck.jobs.common.adapters import adapters_in_words, held_facts, held_in_half, size_of
from limbeck.jobs.common.environment import Environment, environment_of
from limbeck.jobs.common.folder import (
    claim_together,
    now,
    packing_in_settings,
    same_corpus,
    same_model,
    update,
)
from limbeck.jobs.common.held_out import Apart, kept_apart, watch_of, write_apart
from limbeck.jobs.common.memory import computed, memory_use, needs_documents, planned_run
from limbeck.jobs.common.mixture import mixture_facts, print_mixture, wanted_of, wanted_tokens
from limbeck.jobs.common.opening import open_documents
from limbeck.jobs.common.packing import packed
from limbeck.jobs.common.rates import early_stop_findings
from limbeck.jobs.common.sample import first_documents, of_text, unreadable
from limbeck.jobs.common.text import print_notes, records_of, stores_of
from limbeck.jobs.common.training import optimiser_facts, plan_of, rule_facts, rule_of, tracked_of
from limbeck.jobs.tune.arms import Arm, Shared, arms_of, train
from limbeck.jobs.tune.evaluation import PAIRS, TuneEvaluation, measured_alone
from limbeck.jobs.tune.plan import TunePlan
from limbeck.jobs.tune.rates import NAMES, candidates, chosen, named
from limbeck.jobs.tune.reference import FOLDER, Reference, reference_of
from limbeck.jobs.tune.reward.job import tune_by_reward
from limbeck.jobs.tune.subspace import ROWS
from limbeck.jobs.tune.trials import FOLDER as TRIALS
from limbeck.jobs.tune.trials import Rates
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.models.sidecar import licence_of, stored_dtype
from limbeck.models.source import resolve, resolve_description
from limbeck.planning.checks.pair import Finding, as_json, check, show
from limbeck.planning.checks.steps import too_few_steps
from limbeck.report.masked import masked_words
from limbeck.report.tuned import OTHER
from limbeck.report.words import count, share, took, trainings
from limbeck.run.log import console
from limbeck.run.run import Plan
from limbeck.run.world import leave


@claims()
def tune(settings: TuneSettings) -> dict[str, Any]:
    """Tunes a model and the baselines, and measures all of them; all results are in ``settings.out``.

    Returns ``{"out", "student", "verdict", "readings"}``, an empty dict on ranks other than 0. Raises a LimbeckError for
    settings, a model or text that do not fit, before anything long begins.
    """
    started = time.monotonic()
    environment = environment_of(settings, settings.student)
    if settings.reward is not None:
        return tune_by_reward(settings, environment)
    tuning = _Tuning.begun(TunePlan.of(settings, environment), environment)
    arms, world, result = arms_of(tuning.plan), environment.world, dict[str, Any]()
    shared, proof = tuning.shared(arms)
    for arm in arms:
        train(arm, shared)
        if proof:
            proof.after(arm)
            if arm is not arms[-1] and "ended" not in tuning.run:
                proof.write(tuning.run)
        world.barrier()
    if proof:
        result = tuning.conclude(proof, time.monotonic() - started)
    world.barrier()
    leave()
    return result


@dataclass(frozen=True)
class _Tuning:
    """A run that has begun: its plan, what run.json holds (on rank 0), the model before tuning, and its texts.

    ``stores`` are (training, held-out) text of the data, ``others`` of the other text, None without one. ``continued``: whether
    an earlier start of the run had reached its trainings.
    """

    plan: TunePlan
    environment: Environment
    run: dict[str, Any]
    start: LanguageModel
    stores: tuple[TokenStore, TokenStore]
    others: tuple[TokenStore, TokenStore] | None
    findings: list[Finding]
    continued: bool

    @classmethod
    def begun(cls, plan: TunePlan, environment: Environment) -> _Tuning:
        """Claims the folder, loads the model, and makes the text. Raises a LimbeckError for what does not fit."""
        settings, world = plan.settings, environment.world
        run = claim_together(settings.out, plan.signature(environment), world, tf32=environment.tf32)
        start, sample = world.load(settings.student, dtype=environment.measured_in), first_documents(settings)
        findings = open_documents(settings, start, start, sample.texts, run=run, world=world)
        findings += [*unreadable(sample, start), *of_text(sample, start)]
        show([finding for finding in findings if finding.level != "ok"], console)
        check(findings)
        most = wanted_tokens(settings, length=plan.length, ranks=world.size)
        stores = stores_of(settings, start, environment, most=most)
        others = _other_text(plan, start, environment)
        require_rows(stores[0], length=plan.length)
        if plan.mask is not None:
            require_prompts(stores[0])
            plan.mask.over(plan.own_rows(plan.steps, replay=True), vocab=start.vocab)  # for its errors
        if others:
            require_rows(others[0], length=plan.length)
        if world.first:
            same_corpus(settings.out, run, *stores)
            same_model(settings.out, run, settings.student)
            if others:
                _same_other(settings, run, others)
                if not plan.pairs:  # what identifies a pair identifies no text
                    _warn_of_overlap(stores, others)
        fits = packed(stores[0], length=plan.length, context=start.context)
        show([fits] if fits.level != "ok" else [], console)
        return cls(plan, environment, run, start, stores, others, [*findings, fits], "rates" in run)

    def shared(self, arms: list[Arm]) -> tuple[Shared, TuneEvaluation | None]:
        """What the trainings share, and on rank 0 the evaluation, which has measured the model before tuning."""
        plan, environment, settings = self.plan, self.environment, self.plan.settings
        world, (store, held_out) = environment.world, self.stores
        tried = candidates(settings, self.start.parameters_count, adapters=plan.adapters is not None, pairs=plan.pairs)
        training, kept = self._training(arms, lr=tried[plan.adapters is not None][0])
        rule, apart = rule_of(settings), None
        several = isinstance(settings.lr, tuple)
        if rule is not None or several:
            every = rule.every if rule else plan.steps
            apart = kept_apart(held_out, plan, every=every, length=plan.length, device=world.device)
            if world.first:
                write_apart(settings.out, apart)
        shared = Shared(
            plan=plan,
            start=resolve(settings.student),
            begin=self.start.tokenizer.bos_token,
            training=training,
            rates={kind: rates[0] for kind, rates in tried.items()},
            store=store,
            held_out=held_out,
            other=self.others[0] if self.others else None,
            environment=environment,
            parent=self.start if plan.needs_parent else None,
            vocab=self.start.vocab,
            stored=getattr(torch, stored_dtype(resolve_description(settings.student))),
            preferred=preferred_of(store, plan.length) if plan.pairs else None,
        )
        if plan.pairs:
            shared = replace(shared, reference=self._reference(shared, arms))
            held_out = preferred_of(held_out, plan.length)
        proof = self._measured(held_out, apart)
        rates = self._rates(shared, tried, arms, apart)
        by_kind = {kind: rates.by_name[name] for kind, name in NAMES.items()}
        training = replace(training, lr=by_kind[plan.adapters is not None])
        looks: dict[str, Any] = {"every": rule.every, "apart": apart} if rule else {}
        watch = watch_of(held_out, training, length=plan.length, environment=environment, **looks)
        more: dict[str, Any] = {"watch": watch, "rule": rule, "tracked": tracked_of(settings, self.run)}
        shared = replace(shared, training=training, rates=by_kind, **more)
        if world.first:
            self._announce(arms, shared, kept)
        return shared, proof

    def _measured(self, held_out: TokenStore, apart: Apart | None) -> TuneEvaluation | None:
        """The evaluation, which has measured the model before tuning; None on ranks other than 0.

        That model's weights are released where no objective needs them: it is read again where a tuned one is compared with it.
        """
        plan, environment, world = self.plan, self.environment, self.environment.world
        if not world.first:
            if not (plan.needs_parent or world.sharded):
                self.start.model.to("meta")
            return None
        start = self.start if not world.sharded else load(plan.settings.student, device=world.device)
        texts = {"": held_out} | ({OTHER: self.others[1]} if self.others else {}) | self._pairs()
        proof = TuneEvaluation(plan, texts, environment, apart=apart)
        proof.before(start)
        if world.sharded or not plan.needs_parent:
            start.model.to("meta")
        return proof

    def _reference(self, shared: Shared, arms: list[Arm]) -> Reference:
        """The log-probabilities of all pairs that are trained on, by the model before tuning."""
        plan, store = self.plan, shared.store
        least = ROWS if plan.adapters and plan.adapters.subspace else 0  # whose gradients give the subspaces
        read = [shared.rows(arm).first(max(least, arm.steps * plan.rows)) for arm in arms if arm.pairs]
        rows = np.unique(np.concatenate(read))
        how: dict[str, Any] = {"length": plan.length, "world": self.environment.world, "bf16": self.environment.bf16}
        return reference_of(self.start, store, rows, folder=plan.settings.out / FOLDER, **how)

    def _pairs(self) -> dict[str, TokenStore]:
        """The held-out pairs, by the name of their measurements; none where the data are no pairs."""
        return {PAIRS: self.stores[1]} if self.plan.pairs else {}

    def _training(self, arms: list[Arm], *, lr: float) -> tuple[Plan, dict[str, Any]]:
        """The plan of the trainings, and what run.json keeps of memory."""
        plan, environment, settings = self.plan, self.environment, self.plan.settings
        formats = {"bf16": environment.bf16, "tf32": environment.tf32}
        training = plan_of(settings, steps=plan.steps, rows=plan.rows, lr=lr, schedule=settings.schedule, **formats)
        device = environment.world.device
        lengths = np.diff(self.stores[0].starts) if needs_documents(environment.dtype, device) else None
        how: dict[str, Any] = {"length": plan.length, "rows": plan.rows, "documents": lengths}
        if plan.adapters is not None and all(arm.adapters for arm in arms):
            half = held_in_half(settings.student, environment)
            how["trained"] = plan.numbers / self.start.parameters_count
            alone = measured_alone(plan, environment)
            how["adapters"] = replace(size_of(plan.adapters, plan.matrices, half=half), alone=alone)
        planned = planned_run(settings, environment, **how)
        parent = plan.size if plan.needs_parent else None
        use, kept = memory_use(planned, self.start.config, parent, environment, self.run)
        return computed(training, use), kept

    def _rates(
        self, shared: Shared, tried: dict[bool, tuple[float, ...]], arms: list[Arm], apart: Apart | None
    ) -> Rates:
        """The rates of the run's beginning, else those that are given, suggested or tried out now."""
        settings, world = self.plan.settings, self.environment.world
        kept = Rates.of(json.loads(world.share(json.dumps({k: self.run.get(k) for k in ("rates", "trials")}))))
        if kept is not None:
            return kept
        if isinstance(settings.lr, tuple):
            assert apart is not None
            rates = chosen(shared, tried, arms, apart)
        else:
            rates = Rates(named({kind: one for kind, (one, *_) in tried.items()}))
        if world.first:
            update(settings.out, self.run, **rates.row())
            shutil.rmtree(settings.out / TRIALS, ignore_errors=True)
        return rates

    def conclude(self, proof: TuneEvaluation, seconds: float) -> dict[str, Any]:
        """Writes all files, prints the verdict and the time; gives the result of `tune`."""
        if "ended" not in self.run:
            known = {} if self.continued else {"seconds": round(seconds, 1)}  # of all starts
            update(self.plan.settings.out, self.run, ended=now(), corpus=self.stores[0].manifest, **known)
        result, ending = proof.conclude(self.run)
        console.print(f"It {took(seconds, continued=self.continued)}.")
        show_ending(ending, console)
        return result

    def _announce(self, arms: list[Arm], shared: Shared, kept: dict[str, Any]) -> None:
        """Keeps in run.json what is planned, and prints it."""
        plan, settings, training, (store, _) = self.plan, self.plan.settings, shared.training, self.stores
        own = plan.own_rows(plan.steps, replay=True)
        mixed, layout = mixture_facts(store, shared.rows(arms[0]), own), store.layout(plan.length)
        scored = min(layout.rows, plan.steps * plan.rows)
        rates = {arm.name: shared.rate(arm) for arm in arms}
        parameters, source = self.start.parameters_count, resolve_description(settings.student)
        stated = licence_of(source)
        student = {"name": self.start.name, "parameters": parameters, "trained": plan.numbers or parameters}
        facts: dict[str, Any] = {
            "doctor": as_json(self.findings),
            "student": student | ({"stated": stated} if stated else {}),
            "objective": plan.objective.canonical,
            "plan": _plan_facts(
                plan, training, arms, rates=rates, padding=_padding(plan, store, self.others), scored=scored
            )
            | rule_facts(shared.rule)
            | held_facts(plan.adapters),
            "lineage": self.start.lineage,
        }
        update(settings.out, self.run, **facts, **kept, **mixed)
        what = _what(plan, parameters)
        console.print(
            f"tune {self.start.name}: {count(parameters)} parameters, {what}; {plan.steps:,} steps of {plan.rows} x "
            f"{plan.length} tokens ({own / layout.rows:.1f} epochs of the data), peak learning rate {_rates_in_words(rates)}, "
            f"{training.schedule}{', in bfloat16' if training.bf16 else ''}; {trainings(len(arms))}: "
            f"{', '.join(arm.label for arm in arms)}"
        )
        if plan.other and self.others:
            then = f" ({plan.other.stay.text} from the model before)" if plan.other.stay else ""
            console.print(f"replay: {share(plan.other.share)} of the rows are of {plan.other.source}{then}")
        if plan.mask:
            console.print(f"masked input: {masked_words(plan.mask)}")
        print_mixture(mixed)
        show(early_stop_findings(settings, settings.schedule), console)
        if few := too_few_steps(plan.steps):
            console.print(f"note: {few}")


def _rates_in_words(rates: Mapping[str, float]) -> str:
    """The peak learning rate of the tuned model, and those of baselines that have another."""
    own = rates["student"]
    others = [f"{name} {rate:.2g}" for name, rate in rates.items() if rate != own]
    return f"{own:.2g}" + (f" ({', '.join(others)})" if others else "")


def _plan_facts(
    plan: TunePlan, training: Plan, arms: list[Arm], *, rates: Mapping[str, float], padding: float, scored: int
) -> dict[str, Any]:
    """The plan as run.json stores it. ``tokens`` does not count padding; ``flops`` and ``rates`` are those of each arm.

    ``scored``: how many rows of pairs the model before tuning computes once.
    """

    def flops(arm: Arm) -> float:
        each = plan.flops(adapters=arm.adapters, replay=arm.replay, cross_entropy=arm.cross_entropy)
        once = plan.size.forward_flops(plan.length) * scored * plan.length if arm.pairs else 0
        return arm.steps * plan.rows * plan.length * each + once

    return {
        "steps": plan.steps,
        "rows": plan.rows,
        "length": plan.length,
        "tokens": round(plan.steps * plan.rows * plan.length * (1 - padding)),
        "padding": padding,
        "learning_rate": training.lr,
        "schedule": training.schedule,
        **optimiser_facts(training),
        "flops": {arm.name: flops(arm) for arm in arms},
        "rates": dict(rates),
        "arms": [{"name": arm.name, "seed": arm.seed, "steps": arm.steps} for arm in arms],
    }


def _padding(plan: TunePlan, store: TokenStore, others: tuple[TokenStore, TokenStore] | None) -> float:
    """The share of the tuned model's rows that is padding, those of the other text among them."""
    own = store.layout(plan.length).padding
    if plan.other is None or others is None:
        return own
    return (1 - plan.other.share) * own + plan.other.share * others[0].layout(plan.length).padding


def _same_other(settings: TuneSettings, run: dict[str, Any], others: tuple[TokenStore, TokenStore]) -> None:
    """Raises BadFolder if a run that continues finds other text of --replay than at its start."""
    digests = [store.manifest["corpus_sha256"] for store in others]
    if run.get("other", digests) != digests:
        raise BadFolder(
            f"the text of --replay changed since the run in {settings.out} began, so it cannot be continued: put the text "
            "back, or give a new folder with --out."
        )
    if "other" not in run:
        notes = [f"other text: {note}" for note in notes_of(others[0])]
        update(settings.out, run, other=digests, read=[*run.get("read", ()), *notes])


def _warn_of_overlap(stores: tuple[TokenStore, TokenStore], others: tuple[TokenStore, TokenStore]) -> None:
    """Prints how many documents that one of the texts trains on the other one measures."""
    pairs = (("--replay", others[0], "the data", stores[1]), ("--data", stores[0], "the other text", others[1]))
    for flag, read, of, held_out in pairs:
        if both := len(read.digests() & held_out.digests()):
            console.print(
                f"warning: {both} documents that {flag} trains on are held out of {of}: its held-out readings are too good. Take "
                "them out of one of the files."
            )


def _what(plan: TunePlan, parameters: int) -> str:
    """What is trained, and what gets no adapter though it is no embedding."""
    if plan.adapters is None:
        return "all weights"
    size, covered = plan.size, sum(math.prod(shape) for shape in plan.matrices)
    left = size.body - covered
    beside = (
        f" (weights without one: {share(left / parameters)} of all, beside embeddings)"
        if left > 0.02 * parameters
        else ""
    )
    return f"{adapters_in_words(plan.adapters)}, {count(plan.numbers)} numbers{beside}"


def _other_text(plan: TunePlan, start: LanguageModel, environment: Environment) -> tuple[TokenStore, TokenStore] | None:
    """(training, held-out) stores of the other text in the run's folder, made by the first rank; None without one."""
    settings, other = plan.settings, plan.other
    if other is None:
        return None
    folder = settings.out / OTHER
    if environment.world.first:
        wanted = math.ceil(plan.steps * plan.rows * plan.length * other.share)
        train, _ = build_stores(
            *(other.source, start, folder),
            most=wanted_of(other.source, wanted, None),
            records=replace(records_of(settings), columns=Columns()) if plan.pairs else records_of(settings),
            progress=console.is_terminal,
            processes=settings.text_processes,
        )
        print_notes(train)
    environment.world.barrier()
    packing = packing_in_settings(settings)
    stores = (TokenStore.open(folder / side).packed(packing) for side in ("train", "held_out"))
    return next(stores), next(stores)
