"""The plan of students of several depths (`limbeck distil --depths`), and of the layers that they share (--learngene).

It follows from settings and the teacher's configuration alone. The auxiliary, whose layers share weights, is as deep as the
deepest student. Its training has half of all students' steps, so that each costs as many tokens as one that shares nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.config import DistilSettings, flag_of
from limbeck.errors import BadSetting, BadShape
from limbeck.jobs.pair.student import SIZES
from limbeck.models.anatomy import Anatomy
from limbeck.models.configuration import load_config
from limbeck.students.share import Sharing
from limbeck.teachers.ref import TeacherRef


@dataclass(frozen=True)
class Learngene:
    """How the auxiliary's layers share weights, for how many ``students``, and each one's share of its training, in steps."""

    sharing: Sharing
    students: int
    each: int

    @property
    def steps(self) -> int:
        """Optimiser steps of the auxiliary's training."""
        return self.students * self.each


def check_depths(settings: DistilSettings) -> None:
    """Raises BadSetting for --depths beside another flag for what students are, and for several objectives of shared layers."""
    if settings.depths is None:
        return
    if settings.learngene is not None and len(settings.objectives) > 1:
        raise BadSetting(
            f"--objective {settings.objective!r} with --learngene: shared layers are trained once, with one objective; give one"
        )
    for name in ("student", "low_rank", *SIZES):
        if getattr(settings, name) is not None:
            raise BadSetting(
                f"{flag_of(DistilSettings, name)} and --depths both define the student: give one of them (students of --depths "
                "are as wide as the teacher)"
            )


def sharing_of(settings: DistilSettings, teacher: TeacherRef) -> Sharing | None:
    """How the students of --depths share layers, None where each is pruned alone.

    Raises BadSetting for settings that do not go with shared layers, and for depths that these layers do not expand to.
    """
    if settings.learngene is None:
        return None
    if settings.depths is None:
        raise BadSetting(
            f"--learngene {settings.learngene}: shared layers are for students of several depths: give --depths"
        )
    for flag, given, why in (
        ("--mixers", settings.mixers is not None, "shared layers are expanded to the teacher's own"),
        ("--rounds", settings.rounds > 1, "both train before the student's training"),
        ("--experts", settings.experts is not None, "layers with experts are not shared"),
        ("--rollouts", settings.rollouts is not None, "the shared layers are trained on the text alone"),
    ):
        if given:
            raise BadSetting(f"--learngene and {flag}: {why}; leave one of the two out")
    return _sharing(settings, settings.depths, depth=Anatomy.of(load_config(teacher.config_source)).sizes.layers)


def _sharing(settings: DistilSettings, depths: tuple[int, ...], *, depth: int) -> Sharing:
    """The sharing of students of these depths, the deepest first; the teacher has ``depth`` layers."""
    _, _, number = (settings.learngene or "").partition("=")
    stages = int(number) if number else None
    shown, deepest = ",".join(map(str, sorted(depths))), depths[0]
    if deepest > depth:
        raise BadSetting(f"--depths {shown}: the teacher has {depth} layers; give depths up to that")
    if stages is not None and stages > depths[-1]:
        raise BadSetting(
            f"--learngene stages={stages} with --depths {shown}: the student of {depths[-1]} layers has fewer layers than "
            f"there are stages; give at most stages={depths[-1]}, or deeper students"
        )
    try:
        return Sharing(deepest, stages)
    except BadShape as error:
        raise BadSetting(f"--learngene {settings.learngene} with --depths {shown}: {error}") from error


def check_learngene(settings: DistilSettings, teacher: TeacherRef, *, steps: int) -> Learngene | None:
    """The plan of shared layers for students whose training has ``steps`` in all, their shares included; None without.

    Raises as `sharing_of`, and BadSetting for too few steps to have two trainings.
    """
    sharing = sharing_of(settings, teacher)
    if sharing is None:
        return None
    assert settings.depths is not None, "checked by sharing_of"
    if steps < 2:
        raise BadSetting(
            f"--learngene {settings.learngene}: {steps} step cannot be shared by two trainings: give more --tokens, or fewer "
            "--batch-tokens"
        )
    return Learngene(sharing, len(settings.depths), steps // 2)
