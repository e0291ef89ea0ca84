"""`limbeck distil --rounds`: the student is pruned in several rounds, and what a round leaves is trained before the next.

All rounds share one budget of tokens and read the text on, one after the other, in the order of the first seed. Each has a folder
with what was pruned and what training made of it. A killed run continues in its round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from limbeck.corpora import TokenStore
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.distil.arms import Arm, Shared, train
from limbeck.jobs.distil.plan import DistilPlan
from limbeck.jobs.pair.student import OnDisk, make_student, save_student, scored_by, shrink_to
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load, verified_folder
from limbeck.students.rounds import composed
from limbeck.students.shape import Shape

ROUNDS = "rounds"  # in a run's folder, and in a student's lineage


def arms_of_rounds(plan: DistilPlan) -> list[Arm]:
    """The trainings of all rounds but the last, in their order; none of a plan without rounds."""
    settings, arms = plan.request.settings, list[Arm]()
    for number, steps in enumerate(plan.rounds.steps if plan.rounds else (), 1):
        folder, taken = settings.out / ROUNDS / str(number), sum(arm.steps for arm in arms)
        arms.append(Arm("round", settings.seed, folder, plan.request.objective, steps, member=f"{number}", taken=taken))
    return arms


def make_in_rounds(
    plan: DistilPlan,
    teacher: LanguageModel | OnDisk,
    store: TokenStore,
    *,
    environment: Environment,
    share: Callable[[Arm, Path, LanguageModel], Shared],
) -> Path:
    """The folder of the untrained student that the last round prunes.

    ``share`` gives what the training of a round needs, from its arm, the folder of its pruned model and that model.
    """
    settings, rounds = plan.request.settings, plan.rounds
    assert rounds is not None, "the plan has rounds"
    made: list[dict[str, Any]] = []
    previous = None
    for shape, arm in zip(rounds.shapes, arms_of_rounds(plan), strict=True):
        cut = _pruned(plan, teacher, previous, shape, store, made, environment=environment, folder=arm.folder / "cut")
        student = load(verified_folder(cut), device="cpu")
        train(arm, share(arm, cut, student))
        environment.world.barrier()
        tokens = arm.steps * plan.budget.rows * plan.budget.length
        made.append({"shape": asdict(shape), "parameters": student.parameters_count, "tokens": tokens})
        previous = arm.student
    assert plan.target is not None
    return _pruned(
        plan, teacher, previous, plan.target, store, made, environment=environment, folder=settings.out / "cut"
    )


def _pruned(
    plan: DistilPlan,
    teacher: LanguageModel | OnDisk,
    previous: Path | None,
    shape: Shape,
    store: TokenStore,
    made: list[dict[str, Any]],
    *,
    environment: Environment,
    folder: Path,
) -> Path:
    """The folder of a model of this shape, pruned from the trained model of the round before, or from the teacher.

    One that was made before is kept. Its lineage has the teacher's indices, and the rounds before it.
    """
    settings, ref, length = plan.request.settings, plan.request.teacher, plan.budget.length
    if previous is None:
        return make_student(settings, ref, shape, teacher, store, length=length, environment=environment, folder=folder)
    if environment.world.first and not (folder / "config.json").exists():
        larger = load(verified_folder(previous), device=environment.world.device)
        student = shrink_to(shape, larger, store, length=length, environment=environment, **scored_by(settings))
        before, now = larger.lineage or {}, student.lineage or {}
        kept = composed(before["kept"], now["kept"])
        student.lineage = {**before, **now, "teacher": before["teacher"], "kept": kept, ROUNDS: list(made)}
        save_student(student, settings, ref, folder)
    environment.world.barrier()
    return folder
