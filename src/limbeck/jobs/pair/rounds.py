"""The plan of pruning in rounds (`limbeck distil --rounds`), from settings and the teacher's configuration alone."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.config import DistilSettings
from limbeck.errors import BadSetting
from limbeck.models.anatomy import Anatomy
from limbeck.models.configuration import load_config
from limbeck.students.rounds import shapes_between, shares
from limbeck.students.shape import Shape, check, config_of
from limbeck.teachers.ref import TeacherRef


@dataclass(frozen=True)
class Rounds:
    """The shapes of all rounds but the last, and for how many optimiser steps each is trained."""

    shapes: tuple[Shape, ...]
    steps: tuple[int, ...]


def check_rounds(settings: DistilSettings, teacher: TeacherRef, target: Shape | None, *, steps: int) -> Rounds | None:
    """The rounds before the student of the ``target`` shape, whose training has ``steps`` in all; None for a single round.

    Raises BadSetting for settings that prune nothing, and for more rounds than there are steps or shapes.
    """
    if settings.rounds == 1:
        return None
    for flag, value in (("--student", settings.student), ("--mixers", settings.mixers)):
        if value is not None:
            raise BadSetting(
                f"--rounds {settings.rounds} and {flag}: rounds prune a student out of the teacher: leave one of them out"
            )
    assert target is not None, "a student that is not given is pruned"
    config = load_config(teacher.config_source)
    shapes, full = shapes_between(Anatomy.of_students(config), target, settings.rounds), Shape.of(config)
    different = len({full, *shapes, target}) - 1
    if different < settings.rounds:
        raise BadSetting(
            f"--rounds {settings.rounds}: between {full} and {target} there are shapes for {different} rounds: give so many "
            "or fewer"
        )
    each = tuple(max(1, round(share * steps)) for share in shares(settings.rounds)[:-1])
    if sum(each) >= steps:
        raise BadSetting(
            f"--rounds {settings.rounds}: {steps} steps leave none to train the student in: give more --tokens, fewer "
            "--batch-tokens or fewer rounds"
        )
    for shape in (*shapes, target):  # each is pruned from the one before it, hours later
        check(config, shape)
        config = config_of(shape, config)
    return Rounds(shapes, each)
