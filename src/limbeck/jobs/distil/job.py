"""`limbeck distil`, the main job: check the pair, choose a shape, cut, distil, compare, report.

The order is chosen so that a mistake costs seconds: settings, objective, folder, configurations and data are looked at
before anything long begins. Every stage leaves its result in the run's folder and is skipped when it is there.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers.configuration_utils import PreTrainedConfig

from limbeck.config import DistilSettings
from limbeck.corpora import TokenStore, require_rows
from limbeck.corpora.layout import Layout
from limbeck.corpora.source import resolve as resolve_source
from limbeck.disk import claims, read_json
from limbeck.errors import BadModel
from limbeck.jobs.common.captured import config_source, is_captured
from limbeck.jobs.common.environment import Environment, batch_rows, environment, row_length
from limbeck.jobs.common.folder import claim, now, same_corpus, signature_of, update
from limbeck.jobs.common.packing import packed
from limbeck.jobs.common.rates import fresh_rate_of, rate_of, schedule_of
from limbeck.jobs.common.sample import Sample, first_documents
from limbeck.jobs.common.text import columns_of
from limbeck.jobs.distil.align import OtherTokens, check_align, teacher_of
from limbeck.jobs.distil.arms import Arm, Shared, arms_of, train
from limbeck.jobs.distil.convert import BASE, MATCHING, SAID, Conversion, Planned, check_conversion, make_converted
from limbeck.jobs.distil.diagnose import diagnose, what_is_known
from limbeck.jobs.distil.estimate import estimate_time, expected_seconds, shown_after, shown_before
from limbeck.jobs.distil.evaluation import Evaluation, share_teacher_metrics
from limbeck.jobs.distil.teacher import RunTeacher, adopted
from limbeck.jobs.pair.student import make_student, stored_as, target_shape
from limbeck.models.configuration import load_config
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load, verified_folder
from limbeck.models.sidecar import stated
from limbeck.models.source import resolve_description
from limbeck.models.weightless import load_without_weights
from limbeck.objectives import Objective, parse
from limbeck.objectives.parse import code_of
from limbeck.planning.checks.pair import Finding, as_json, check, show
from limbeck.planning.checks.price import Price
from limbeck.planning.cost.size import Size
from limbeck.planning.cost.state import kept_bytes
from limbeck.planning.cost.training import Cost, estimate
from limbeck.report.schema import Conversion as ConversionFacts
from limbeck.report.words import share, took, trainings
from limbeck.run.log import console
from limbeck.run.optim import Schedule
from limbeck.run.run import Plan
from limbeck.run.world import leave
from limbeck.students.shape import Shape, config_of
from limbeck.teachers.remote.http import is_served


@claims()
def distil(settings: DistilSettings) -> dict[str, Any]:
    """Makes a student out of a teacher and proves what it is worth; all of it is in ``settings.out``.

    Gives ``{"out", "student", "readings", "verdict"}``.
    """
    started = time.monotonic()
    settings, answers = adopted(settings)
    where = environment(settings)
    comparison = prepare(settings, answers, where)
    for number, arm in enumerate(comparison.arms, 1):
        later = comparison.arms[number:]
        after = expected_seconds(comparison.run.get("estimate", {}), later)
        after += comparison.proof.seconds * sum(not each.done for each in (arm, *later))
        comparison.proof.arm(arm, train(arm, comparison.shared, after=after))
        if arm is not comparison.arms[-1]:
            comparison.show_so_far()
    result = comparison.conclude(time.monotonic() - started)
    where.world.barrier()
    leave()
    return result


@dataclass
class Comparison:
    """A student and what it is compared with, ready to be trained. ``run`` is what run.json holds, on the first rank.

    ``continued``: whether an earlier start of the run had come as far as this.
    """

    settings: DistilSettings
    run: dict[str, Any]
    source: RunTeacher | OtherTokens
    stores: tuple[TokenStore, TokenStore]
    arms: list[Arm]
    shared: Shared
    cost: Cost
    proof: Evaluation
    continued: bool

    def show_so_far(self) -> None:
        """Writes a report of the arms that are done: whoever stops here has one."""
        if self.shared.machine.world.first and "ended" not in self.run:
            self.proof.write(self.run)

    def conclude(self, seconds: float, *, linked: Collection[Path] = (), last: bool = True) -> dict[str, Any]:
        """Writes everything, says the verdict and what it took; gives the result on the first rank.

        Arms in the folders ``linked`` were trained by another student of a family; a student that is not the ``last`` word of
        its run leaves it to the family to say what all took.
        """
        if not self.shared.machine.world.first:
            return {}
        if "ended" not in self.run:
            known = {} if self.continued else {"seconds": round(seconds, 1)}  # of all starts
            update(self.settings.out, self.run, ended=now(), **known)
        result = self.proof.conclude(self.run)
        if "estimate" in self.run:
            own = [arm for arm in self.arms if arm.folder not in linked]
            console.print(shown_after(self.run["estimate"], own, self.shared.machine, continued=self.continued))
        if last:
            console.print(f"It {took(seconds, continued=self.continued)}.")
        return result


def prepare(
    settings: DistilSettings,
    answers: dict[str, Any],
    where: Environment,
    *,
    member: str = "",
    beside: Comparison | None = None,
    objectives: Sequence[str] = (),
    sharing: int = 1,
) -> Comparison:
    """Everything before the first training: checks, text, the cut, the arms, and what they will take.

    ``answers`` is what the signature says of captured ones. Of a family, ``member`` is its name, ``beside`` another student
    of the same teacher and text, which are not read again then, ``objectives`` those of all its students, and ``sharing`` how
    many of them learn from the teacher, whose forward pass they share. Raises a LimbeckError for whatever does not fit, before
    anything long begins.
    """
    task = _task(settings, where)
    run = claim(settings.out, _signature(settings, task, answers, where)) if where.world.first else {}
    where.world.barrier()
    continued = "teacher" in run  # written below, before the first training
    if is_served(settings.teacher) and not beside:
        _check_served(settings, length=task.length, where=where)
    listening = objectives or settings.objectives
    source = beside.source if beside else teacher_of(settings, where, length=task.length, objectives=listening)
    documents = first_documents(settings)
    knows = _first_look(settings, source, documents, length=task.length, where=where, known=beside is not None)
    store, held_out = beside.stores if beside else source.stores(settings, where)
    require_rows(store, length=task.length)
    if where.world.first:
        same_corpus(settings.out, run, store, held_out)
    cut, student, findings = _student(settings, task, source, documents, store, where, knows=knows, sharing=sharing)
    if isinstance(source, OtherTokens):
        source.ask(store, where, rows=task.steps * task.rows, length=task.length)
    price = _price(task, source, student, sharing=sharing)
    arms = _arms(settings, price, steps=task.steps, matched=task.matched, member=member)
    plan = Plan(
        steps=task.steps,
        rows=task.rows,
        lr=rate_of(settings, student.parameters_count),
        schedule=task.schedule,
        bf16=where.bf16,
    )
    if where.world.first:
        layout = store.layout(task.length)
        about = _summary(source.about) | source.facts | _priced(price, sharing) | _stated(settings)
        facts = {"doctor": as_json(findings), "plan": _said(plan, layout, arms), "objective": repr(task.objective)}
        if task.conversion:
            facts |= _of_conversion(settings, source, student, source.about, length=task.length, where=where)
        update(settings.out, run, teacher=about, student=_summary(student), lineage=student.lineage, **facts)
        _announce(about, student, plan, layout, arms, most=source.rows)
    shared = _shared(settings, task, source, store, plan, cut, student, where)
    cost = _cost(task, source, student, where)
    del student  # one student at a time is held
    _foretell(settings, run, arms, cost, shared)
    if beside and where.world.first:
        share_teacher_metrics(beside.settings.out, settings.out)
    listens = task.objective.needs_teacher
    proof = Evaluation(settings, source, held_out, length=task.length, machine=where, listens=listens, train=store)
    proof.cut(cut)
    return Comparison(settings, run, source, (store, held_out), arms, shared, cost, proof, continued)


@dataclass(frozen=True)
class _Task:
    """What a run is to do, as its settings and the configuration of its student say, before any weights are read.

    ``target``: the shape to cut, None for a student as it is. ``length`` tokens a row, ``rows`` a step; of ``steps`` the first
    ``matched`` are a conversion's.
    """

    objective: Objective
    target: Shape | None
    conversion: Conversion | None
    length: int
    rows: int
    steps: int
    matched: int
    schedule: Schedule

    @property
    def tokens(self) -> int:
        """Places of all rows that are trained on."""
        return self.steps * self.rows * self.length


def _task(settings: DistilSettings, where: Environment) -> _Task:
    """Looks at the settings, whether the text is there, and at the configuration. Raises a LimbeckError for what does not fit."""
    objective = parse(settings.objective)
    check_align(settings)
    target = target_shape(settings)
    asked = check_conversion(settings, target)
    if not is_captured(settings.teacher):  # which holds the text
        for text in filter(None, (settings.data, settings.eval_data)):
            resolve_source(text, columns_of(settings))
    config = load_config(settings.student or config_source(settings.teacher))
    first = settings.student or settings.teacher
    length = row_length(settings, getattr(config, "max_position_embeddings", None), where.world.device, name=first)
    rows, steps = batch_rows(settings, length, where.world.size)
    matched = sum(asked.steps(steps).values()) if asked else 0
    schedule = schedule_of(settings, planned_config(settings, target, asked, config))
    return _Task(objective, target, asked, length, rows, steps, matched, schedule)


def _signature(settings: DistilSettings, task: _Task, answers: dict[str, Any], where: Environment) -> dict[str, Any]:
    """What a run may be gone on with; ``answers`` is what it says of captured ones."""
    derived = {"objective": repr(task.objective), "length": task.length, "rows": task.rows, "steps": task.steps}
    derived |= {"bf16": where.bf16} | answers | {"schedule": task.schedule}
    if code := code_of(task.objective):
        derived["objective_code"] = code
    return signature_of(settings, "distil", **derived)


def _first_look(
    settings: DistilSettings,
    source: RunTeacher | OtherTokens,
    documents: Sample,
    *,
    length: int,
    where: Environment,
    known: bool,
) -> list[Finding]:
    """Stops at a teacher that knows nothing of the text, or a given student that does not fit it, before that is tokenised.

    Gives what the teacher knows; nothing where that is ``known`` already, or was looked at when its answers were captured.
    """
    knows = [] if known or source.captured else what_is_known(settings, source.about, length=length, machine=where)
    check(knows)
    if settings.student:
        check(diagnose(settings, source.about, load(settings.student), documents, length=length, machine=where))
    return knows


def _student(
    settings: DistilSettings,
    task: _Task,
    source: RunTeacher | OtherTokens,
    documents: Sample,
    store: TokenStore,
    where: Environment,
    *,
    knows: list[Finding],
    sharing: int,
) -> tuple[Path, LanguageModel, list[Finding]]:
    """(folder, model, findings) of what the training starts from: it is made, and looked at beside its teacher."""
    teacher, length, asked = source.about, task.length, task.conversion
    uses = None
    if task.objective.needs_teacher and isinstance(source, RunTeacher):
        uses = _uses(task, source, sharing)
    findings = (
        _examined(settings, asked, task.target, teacher, documents, length=length, where=where, uses=uses) + knows
    )
    cut = _start(settings, task, source, store, where=where)
    student = load(verified_folder(cut), device="cpu")
    if not asked:
        findings = diagnose(settings, teacher, student, documents, length=length, machine=where, uses=uses) + knows
        _say(findings)
    findings += [packed(store, length=length, context=student.context)]
    _say(findings[-1:])
    return cut, student, findings


def _uses(task: _Task, source: RunTeacher | OtherTokens, sharing: int) -> float:
    """How often a forward pass of the teacher is trained with."""
    return sharing / source.passes(task.tokens, task.length)


def _price(task: _Task, source: RunTeacher | OtherTokens, student: LanguageModel, *, sharing: int) -> Price | None:
    """What the teacher costs beside the student; None where the objective does not need it."""
    if not task.objective.needs_teacher:
        return None
    sizes = Size.of(student.config), Size.of(source.about.config)
    return Price.of(*sizes, length=task.length, uses=_uses(task, source, sharing))


def _shared(
    settings: DistilSettings,
    task: _Task,
    source: RunTeacher | OtherTokens,
    store: TokenStore,
    plan: Plan,
    cut: Path,
    student: LanguageModel,
    where: Environment,
) -> Shared:
    """What all arms have in common."""
    return Shared(
        *(cut, source.told, store, task.length, plan, where),
        most_rows=source.rows,
        counted=source.counted,
        reads_on=isinstance(source, OtherTokens),  # which was asked about no more than the plan reads
        common=(settings.seed, task.matched * task.rows),
        stored=stored_as(settings),
        fresh_rate=fresh_rate_of(settings, student.parameters_count),
    )


def _cost(task: _Task, source: RunTeacher | OtherTokens, student: LanguageModel, where: Environment) -> Cost:
    """What one training takes in memory and time."""
    return estimate(
        *(Size.of(student.config), source.size),
        length=task.length,
        tokens=task.tokens,
        batch_tokens=task.rows * task.length,
        itemsize=where.dtype.itemsize,
        device=where.world.device.type,
    )


def planned_config(
    settings: DistilSettings, target: Shape | None, asked: Conversion | None, config: PreTrainedConfig
) -> PreTrainedConfig:
    """The configuration of the student that is still to be made, or of the one that is given (``config``)."""
    if asked:
        return Planned.of(settings, asked, target).student
    return config if target is None else config_of(target, config)


def _of_conversion(
    settings: DistilSettings,
    source: RunTeacher | OtherTokens,
    student: LanguageModel,
    teacher: LanguageModel,
    *,
    length: int,
    where: Environment,
) -> dict[str, Any]:
    """What a run keeps of a conversion besides: what became of attention, and what is kept of a text."""
    remedy = "remove the folder cut beside it too, and the student is converted again"
    said: dict[str, Any] = {"conversion": read_json(settings.out / SAID, ConversionFacts, remedy=remedy)}
    if source.size is not None:
        said["state"] = _kept(student, teacher, source.size, length=length, itemsize=where.dtype.itemsize)
    return said


def _foretell(settings: DistilSettings, run: dict[str, Any], arms: list[Arm], cost: Cost, shared: Shared) -> None:
    """Measures, keeps and says what the trainings will take, before the first of them has begun."""
    if any((arm.folder / "metrics.jsonl").exists() for arm in arms):
        return
    told = estimate_time(arms, cost, shared)
    if shared.machine.world.first:
        update(settings.out, run, estimate=asdict(told))
        console.print(shown_before(told, arms))


def _examined(
    settings: DistilSettings,
    asked: Conversion | None,
    target: Shape | None,
    teacher: LanguageModel,
    documents: Sample,
    *,
    length: int,
    where: Environment,
    uses: float | None,
) -> list[Finding]:
    """What the doctor finds of a conversion, whose matching comes first; nothing where none is asked for."""
    if not asked:
        return []
    planned = Planned.of(settings, asked, target)
    pair = {"planned": planned.student, "reference": planned.reference}
    findings = diagnose(settings, teacher, None, documents, length=length, machine=where, uses=uses, **pair)
    _say(findings)
    for remark in planned.remarks(length):
        console.print(f"note: {remark}")
    return findings


def _start(
    settings: DistilSettings, task: _Task, source: RunTeacher | OtherTokens, store: TokenStore, *, where: Environment
) -> Path:
    """The folder of what the student starts from. Weights that only this needs are gone when it is there."""
    folder, target, asked = settings.out / "cut", task.target, task.conversion
    if where.world.first and target is not None and source.captured:
        source.captured.place_cut(target, settings.out / (BASE if asked else "cut"), seed=settings.seed)
    where.world.barrier()
    made = (folder / "config.json").exists()
    weights = source.weights(where) if (target or asked) and not made else source.about
    if asked is None:
        return make_student(settings, target, weights, store, length=task.length, machine=where)
    if made:
        if where.world.first:  # of a start that ended just before
            shutil.rmtree(settings.out / MATCHING, ignore_errors=True)
        return folder
    size = {"length": task.length, "rows": task.rows, "steps": task.steps}
    return make_converted(settings, asked, target, weights, store, **size, machine=where, most_rows=source.rows)


def _say(findings: Sequence[Finding]) -> None:
    """Prints what the doctor found, and stops at an error; the rest is in the report, and in `limbeck doctor`."""
    show([f for f in findings if f.level != "ok" or f.check in ("memory", "equal compute")], console)
    check(findings)


def _check_served(settings: DistilSettings, *, length: int, where: Environment) -> None:
    """Looks at a pair of which the teacher is on a server before anything is asked, which may cost money."""
    assert settings.student is not None, "adopted looked for it"
    assert settings.tokenizer is not None, "adopted looked for it"
    teacher = load_without_weights(resolve_description(settings.tokenizer), name=settings.teacher)
    check(diagnose(settings, teacher, load(settings.student), first_documents(settings), length=length, machine=where))


def _arms(settings: DistilSettings, price: Price | None, *, steps: int, matched: int, member: str) -> list[Arm]:
    """The arms, with cross-entropy's steps at equal FLOPs; the teacher has no ``price`` where the objective does not need it."""
    ratio = 1.0 if price is None else price.ratio
    return arms_of(
        settings.out,
        objective=settings.objective,
        listens=price is not None,
        baselines=settings.compared,
        seeds=range(settings.seed, settings.seed + settings.seeds),
        steps=steps,
        flops_steps=round((steps - matched) * ratio),
        matched=matched,
        member=member,
    )


def _priced(price: Price | None, students: int) -> dict[str, Any]:
    """What run.json keeps of the teacher's price: its forward passes for each token that the student trains on."""
    if price is None:
        return {"passes": 0.0}
    return {"passes": 1 / price.uses, "price": price.step, "students": students}


def _summary(model: LanguageModel) -> dict[str, Any]:
    try:
        shape = str(Shape.of(model.config))
    except BadModel:  # of a kind that is not cut, but can teach, or learn as it is
        shape = None
    return {"name": model.name, "parameters": model.parameters_count, "shape": shape}


def _stated(settings: DistilSettings) -> dict[str, Any]:
    """What the README.md of the model that the student starts from says of its licence and origin."""
    said = stated(resolve_description(settings.student or config_source(settings.teacher)))
    return {"stated": said} if said else {}


def _kept(student: LanguageModel, teacher: LanguageModel, size: Size, *, length: int, itemsize: int) -> dict[str, Any]:
    """What a converted student keeps of a text beside its teacher, of rows of this length and of the teacher's context."""
    context = length if teacher.context == sys.maxsize else teacher.context
    return kept_bytes(Size.of(student.config), size, length=length, context=context, itemsize=itemsize)


def _said(plan: Plan, layout: Layout, arms: list[Arm]) -> dict[str, Any]:
    """The plan as it is stored and shown; ``tokens`` are those that are read, which padding is not."""
    return {
        "steps": plan.steps,
        "rows": plan.rows,
        "length": layout.length,
        "tokens": round(plan.steps * plan.rows * layout.length * (1 - layout.padding)),
        "padding": layout.padding,
        "learning_rate": plan.lr,
        "schedule": plan.schedule,
        "arms": [{"name": a.name, "seed": a.seed, "objective": a.objective, "steps": a.steps} for a in arms],
    }


def _announce(
    teacher: dict[str, Any], student: LanguageModel, plan: Plan, layout: Layout, arms: list[Arm], *, most: int | None
) -> None:
    """``most`` rows of the text are read, None: all."""
    rows, length = plan.steps * plan.rows, layout.length
    epochs = rows / (layout.rows if most is None else min(most, layout.rows))
    padding = f", of which {share(layout.padding)} is padding" if layout.padding > 0.005 else ""
    answers = f" ({teacher['answers']}, captured before)" if "answers" in teacher else ""
    console.print(
        f"teacher {teacher['name']}: {teacher['parameters']:,} parameters{answers}; student: {student.parameters_count:,} "
        f"({student.parameters_count / teacher['parameters']:.2f} of it)\n"
        f"{plan.steps:,} steps of {plan.rows} x {length} tokens = {rows * length:,} tokens{padding} "
        f"({epochs:.1f} epochs), peak learning rate {plan.lr:.2g}, {plan.schedule}; "
        f"{trainings(len(arms))}: {', '.join(a.label for a in arms)}"
    )
