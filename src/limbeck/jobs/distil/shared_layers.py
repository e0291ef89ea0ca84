"""`limbeck distil --learngene`: students of several depths are expanded from layers that were distilled once for all of them.

The auxiliary, a decoder whose layers share weights, has a folder in that of the family: its start, its checkpoints while it is
trained, and its layers. The first student's preparation trains it, that of the others finds it. A killed training continues.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from limbeck.config import LAYERS
from limbeck.corpora import TokenStore
from limbeck.errors import BadSetting
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.distil.arms import Arm, Shared
from limbeck.jobs.distil.plan import DistilPlan
from limbeck.jobs.pair.learngene import Learngene
from limbeck.jobs.pair.student import OnDisk, make_student, save_student
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load, verified_folder
from limbeck.models.save import save
from limbeck.planning.cost.size import Size
from limbeck.run.save import checkpoints
from limbeck.students.shape import config_of
from limbeck.students.share import LINEAGE, expand, from_teacher, share
from limbeck.students.shared_folder import is_shared, load_shared, save_shared

FOLDER = "shared"  # in the folder of a family

Share = Callable[[Arm, Path, LanguageModel], Shared]


def make_from_shared(
    plan: DistilPlan,
    teacher: LanguageModel | OnDisk,
    store: TokenStore,
    *,
    environment: Environment,
    share: Share,
) -> Path:
    """The folder of the untrained student that is expanded from the shared layers of its family.

    ``share`` gives what the training of the auxiliary needs, from its arm, the folder of its start and that model.
    """
    settings, target, world = plan.request.settings, plan.target, environment.world
    assert plan.learngene is not None, "the plan has shared layers"
    assert target is not None, "a student of --depths has a shape"
    if LAYERS in settings.compared:
        make_student(
            *(settings, plan.request.teacher, target, teacher, store),
            length=plan.budget.length,
            environment=environment,
            folder=settings.out / LAYERS,
        )
    layers = _trained(plan, plan.learngene, teacher, environment=environment, prepared=share)
    folder = settings.out / "cut"
    if world.first:
        auxiliary, sharing = load_shared(layers)
        student = expand(auxiliary, sharing, target.layers)
        lineage = dict(student.lineage or {})
        student.lineage = lineage | {LINEAGE: lineage[LINEAGE] | _cost(plan, plan.learngene, auxiliary)}
        student.name = f"{auxiliary.name}-cut"
        save_student(student, settings, plan.request.teacher, folder)
    world.barrier()
    return folder


def _trained(
    plan: DistilPlan,
    learngene: Learngene,
    teacher: LanguageModel | OnDisk,
    *,
    environment: Environment,
    prepared: Share,
) -> Path:
    """The folder of the trained shared layers; those that are there are kept."""
    settings, world = plan.request.settings, environment.world
    folder = settings.out.parent / FOLDER
    start, layers = folder / "start", folder / "layers"
    if not is_shared(layers):
        if world.first and not (start / "config.json").exists():
            made = from_teacher(_in_memory(teacher, settings.learngene), learngene.sharing)
            save(made, start)
        world.barrier()
        arm = Arm("shared", settings.seed, folder, plan.request.objective, learngene.steps, member="layers")
        run = prepared(arm, start, load(verified_folder(start), device="cpu")).run(arm)
        share(run.student, learngene.sharing)
        run.train()
        if world.first:
            save_shared(run.student, learngene.sharing, layers)
    if world.first:  # of use no more, as of an arm that is done
        for one in (*checkpoints(folder), start):
            shutil.rmtree(one, ignore_errors=True)
    world.barrier()
    return layers


def _in_memory(teacher: LanguageModel | OnDisk, learngene: str | None) -> LanguageModel:
    """The teacher with its weights. Raises BadSetting for one that is too large to be in memory."""
    if isinstance(teacher, LanguageModel):
        return teacher
    found = teacher.run()
    if not isinstance(found, LanguageModel):
        raise BadSetting(
            f"--learngene {learngene}: the shared layers start from layers of the teacher, which does not fit in memory here: "
            "leave --learngene out, or use a machine with more memory"
        )
    return found


def _cost(plan: DistilPlan, learngene: Learngene, auxiliary: LanguageModel) -> dict[str, Any]:
    """What a lineage has of the training of shared layers: parameters, students that share it, tokens, FLOPs without the teacher.

    ``own_flops`` are those of the student's own training, to compare with.
    """
    budget = plan.budget
    assert plan.target is not None

    def flops(config: Any, steps: int) -> float:
        return 3 * Size.of(config).forward_flops(budget.length) * steps * budget.rows * budget.length

    student = config_of(plan.target, auxiliary.config)
    return {
        "parameters": auxiliary.parameters_count,
        "students": learngene.students,
        "tokens": learngene.steps * budget.rows * budget.length,
        "flops": flops(auxiliary.config, learngene.steps),
        "own_tokens": (budget.steps - plan.matched) * budget.rows * budget.length,
        "own_flops": flops(student, budget.steps - plan.matched),
    }
