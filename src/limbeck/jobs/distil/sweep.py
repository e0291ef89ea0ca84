"""`limbeck distil --params 1B,600M --objective "ForwardKL, TAID"`: students of several sizes (or depths) and objectives.

Each student has its own folder, with the same bits as from `distil` for this size and objective alone. Students of one seed read
the same rows, so each step needs one forward pass of the teacher for all of them. Arms without a teacher are trained one after
the other; if students of several objectives share a baseline, it is trained once. Two things differ from separate runs: the
students share the cost of the teacher's forward pass equally, so cross-entropy at equal compute gets fewer tokens; and with
--learngene they share a training before their own.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.config import DistilSettings
from limbeck.disk import claims
from limbeck.ending import show_ending
from limbeck.errors import BadSetting, LimbeckError
from limbeck.jobs.common.environment import Environment, environment_of
from limbeck.jobs.common.folder import claim_together, now, signature_of, update
from limbeck.jobs.common.training import rule_of
from limbeck.jobs.distil.adapters import check_adapters
from limbeck.jobs.distil.align import AlignedTexts, check_align
from limbeck.jobs.distil.arms import Arm, take_over, train, train_members
from limbeck.jobs.distil.conversion import check_conversion
from limbeck.jobs.distil.correction import check_correction
from limbeck.jobs.distil.estimate import expected_seconds, training_seconds
from limbeck.jobs.distil.job import Comparison, prepare
from limbeck.jobs.distil.request import DistilRequest
from limbeck.jobs.distil.rollouts import check_rollouts
from limbeck.jobs.distil.several import check_domains
from limbeck.jobs.distil.teacher import RunTeacher, adopted
from limbeck.jobs.distil.vocabulary import with_vocabulary
from limbeck.jobs.pair.learngene import check_depths, sharing_of
from limbeck.jobs.pair.student import size_name, target_shape
from limbeck.planning.checks.resources import free_memory
from limbeck.planning.cost.fitting import FULL
from limbeck.planning.cost.training import Cost, peak_lockstep
from limbeck.report.family import sweep_ending, write_family_report
from limbeck.report.words import duration, took, trainings
from limbeck.run.log import console
from limbeck.run.world import World, leave


@claims()
def sweep(settings: DistilSettings) -> dict[str, Any]:
    """Distils a student of each size (or depth) and objective; returns ``{"out", "members"}``: their results by name."""
    started = time.monotonic()
    request, logits = adopted(DistilRequest.of(settings))
    settings = request.settings
    environment = environment_of(settings, *request.computing)
    check_correction(request, environment)
    check_domains(request, environment)
    request, logits = with_vocabulary(request, logits, environment)
    wanted = _wanted(request)
    if settings.tokenizer_align is not None:
        AlignedTexts.by(request.objectives, settings.tokenizer_align)
    for name, one in wanted.items():  # a mistake in the last is found before the first begins
        _check(one, name, environment)
    run = claim_together(
        settings.out, signature_of(settings, "family", **logits), environment.world, tf32=environment.tf32
    )
    continued = "members" in run
    if environment.world.first:
        update(settings.out, run, members=list(wanted), objectives=[one.objective.text for one in wanted.values()])
    environment.world.barrier()
    members: list[Comparison] = []
    sharing = 0 if settings.rollouts else sum(one.objective.needs_teacher for one in wanted.values())
    for name, one in wanted.items():
        console.print(f"\n{name}")
        members.append(
            prepare(
                *(one.but(out=settings.out / name), logits, environment),
                member=name,
                beside=members[0] if members else None,
                objectives=request.objectives,
                sharing=max(1, sharing),
            )
        )
    if environment.world.first and (seconds := sum(map(_seconds, _together(members)))):
        many = sum(not arm.done for member in members for arm in member.arms)
        console.print(f"\nestimate: {duration(seconds)} for the {trainings(many)} of {len(wanted)} students")
    linked = _train(members)
    results = {}
    for name, member in zip(wanted, members, strict=True):
        console.print(f"\n{name}")
        trained = training_seconds([arm for arm in member.arms if arm.folder not in linked])
        results[name] = member.conclude(trained, linked=linked, last=False)
    if environment.world.first:
        if "ended" not in run:
            known = {} if continued else {"seconds": round(time.monotonic() - started, 1)}  # of all starts
            update(settings.out, run, ended=now(), **known)
        report = write_family_report(settings.out)
        console.print(f"\n{len(wanted)} students {took(time.monotonic() - started, continued=continued)}.")
        show_ending(sweep_ending(settings.out, run, report), console)
    environment.world.barrier()
    leave()
    return {"out": str(settings.out), "members": results} if environment.world.first else {}


def _check(request: DistilRequest, name: str, environment: Environment) -> None:
    """Checks the settings of one student. Raises the error with the student's name in front."""
    try:
        check_align(request)
        check_rollouts(request, environment)
        check_adapters(request.settings, environment)
        rule_of(request.settings)
        sharing_of(request.settings, request.teacher)
        check_conversion(request, target_shape(request.settings, request.teacher))
    except LimbeckError as error:
        raise type(error)(f"{name}: {error}") from error


def _wanted(request: DistilRequest) -> dict[str, DistilRequest]:
    """The request of each student by its name, which is made of its size or depth, its objective, or both."""
    settings, objectives = request.settings, request.objectives
    check_depths(settings)
    sizes = settings.params if isinstance(settings.params, tuple) else (settings.params,)
    names = [size_name(size) for size in sizes if size] if len(sizes) > 1 else [""]
    if len(set(names)) < len(names):
        raise BadSetting(f"--params {','.join(map(str, sizes))}: sizes that differ by less than 1 % are one student")
    goals = [_objective(spec.text) for spec in objectives] if len(objectives) > 1 else [""]
    if len({spec.canonical for spec in objectives}) < len(objectives) or len(set(goals)) < len(goals):
        raise BadSetting(f"--objective {settings.objective!r}: two of these are the same; name each once")
    wanted: list[tuple[str, dict[str, Any]]] = [
        (name, {"params": size}) for name, size in zip(names, sizes, strict=True)
    ]
    if settings.depths is not None:
        wanted = [(f"{layers}-layers", {"shape": f"layers={layers}"}) for layers in settings.depths]
    return {
        "-".join(filter(None, (name, goal))): request.member(objective, **size)
        for name, size in wanted
        for goal, objective in zip(goals, objectives, strict=True)
    }


def _objective(text: str) -> str:
    """The folder name of an objective, such as 0.5-CrossEntropy+0.5-TAID-start=0.2."""
    return re.sub(r"[^\w.+=]+", "-", text.replace(" ", "")).strip("-.")


def _train(members: Sequence[Comparison]) -> set[Path]:
    """Trains all arms; those of one name and seed in lockstep if they use a live teacher.

    Returns the folders of the arms that were linked from an equal arm instead of trained.
    """
    linked = set()
    todo = _together(members)
    for which, arms in enumerate(todo, 1):
        later = sum(map(_seconds, todo[which:])) + sum(map(_measuring, todo[which:]))
        groups = _groups([one for one in arms if _shares(*one)])
        alone = [one for one in arms if not _shares(*one)]
        for at, group in enumerate(groups, 1):
            label = f"{len(group)} x {group[0][1].name} #{group[0][1].seed}"
            after = later + _seconds(alone) + sum(map(_seconds, groups[at:])) + _measuring(arms)
            train_members([(arm, member.shared) for member, arm in group], label=label, after=after)
        for number, (member, arm) in enumerate(arms):
            if _take_over(arm, member, arms[:number]):
                linked.add(arm.folder)
            after = later + _seconds(arms[number + 1 :], before=arms[: number + 1]) + _measuring(arms[number:])
            member.proof.arm(arm, train(arm, member.shared, after=after))
            member.show_so_far()
    return linked


def _together(members: Sequence[Comparison]) -> list[list[tuple[Comparison, Arm]]]:
    """The arms in the order of training, grouped by name and seed."""
    kinds = dict.fromkeys((arm.name, arm.seed) for member in members for arm in member.arms)
    return [
        [(member, arm) for member in members for arm in member.arms if (arm.name, arm.seed) == kind] for kind in kinds
    ]


def _shares(member: Comparison, arm: Arm) -> bool:
    """Whether an arm uses a live teacher on rows that others read too. Such arms share its forward pass."""
    live = isinstance(member.source, RunTeacher) and member.source.captured is None
    return live and arm.objective.needs_teacher and not (member.shared.rollouts and arm.on_policy)


def _seconds(arms: Sequence[tuple[Comparison, Arm]], before: Sequence[tuple[Comparison, Arm]] = ()) -> float:
    """Seconds that training these arms will take, from the estimates of each student alone.

    Arms with a live teacher share its forward pass, whose cost is in its price. Finished arms count 0, and so do arms that
    will be linked from an equal arm among these or those ``before``.
    """
    seen = {_same(member, arm) for member, arm in before}
    total, passes = 0.0, 0.0
    for member, arm in arms:
        alone = 0.0 if _same(member, arm) in seen else expected_seconds(member.run.get("estimate", {}), [arm])
        seen.add(_same(member, arm))
        price = member.run.get("teacher", {}).get("price", 0.0) if _shares(member, arm) else 0.0
        total, passes = total + alone / (1 + price), max(passes, alone * price / (1 + price))
    return total + passes


def _measuring(arms: Sequence[tuple[Comparison, Arm]]) -> float:
    """Seconds that evaluating these arms will take, from the last evaluation of each student."""
    return sum(member.proof.expected_seconds([arm]) for member, arm in arms)


def _same(member: Comparison, arm: Arm) -> tuple[Any, ...]:
    """A key that is equal for two arms of one name and seed if one training serves both."""
    own = member.settings.params, member.settings.shape
    # between rounds a student is trained with its objective, so that it is another one where an arm starts from it
    rounds = member.settings.objective if member.settings.rounds > 1 and not arm.fresh else None
    return own, rounds, arm.objective, arm.steps, arm.fresh, arm.on_policy, arm.adapters


def _groups(together: Sequence[tuple[Comparison, Arm]]) -> list[list[tuple[Comparison, Arm]]]:
    """The arms in groups that fit into memory together; each group needs one forward pass of the teacher a step."""
    groups: list[list[tuple[Comparison, Arm]]] = []
    for member, arm in together:
        if groups and _fit([*(other.cost for other, _ in groups[-1]), member.cost], member.shared.environment.world):
            groups[-1].append((member, arm))
        else:
            groups.append([(member, arm)])
    if len(groups) > 1:
        console.print(
            f"memory: the {len(together)} students do not fit together, so they are trained in {len(groups)} groups and the "
            "teacher's forward pass is computed once for each group; equal compute counts it once for all of them"
        )
    return groups


def _fit(costs: Sequence[Cost], world: World) -> bool:
    """Whether students trained in lockstep fit into the free memory of every rank."""
    return not world.any(peak_lockstep(costs) > FULL * free_memory(world.device))[0]


def _take_over(arm: Arm, member: Comparison, before: Sequence[tuple[Comparison, Arm]]) -> bool:
    """Links the equal baseline of another objective's student, if there is one; returns whether there was."""
    world = member.shared.environment.world
    twins = [one for other, one in before if _same(other, one) == _same(member, arm)]
    if twins and world.first:
        take_over(arm, twins[0])
    world.barrier()
    return bool(twins)
