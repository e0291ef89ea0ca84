"""`limbeck distil --params 1B,600M,300M`: students of several sizes from one pass of the teacher.

Each has a folder of its own, which is that of `distil` for this size alone, bits and all. Students of one seed see the same
rows, so the teacher is asked once about each step and all of them listen; what does not listen is trained one after the other.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from limbeck.config import DistilSettings
from limbeck.errors import BadSetting
from limbeck.jobs.arms import train, train_members
from limbeck.jobs.distil import Comparison, prepare
from limbeck.jobs.folder import claim, now, signature_of, update
from limbeck.jobs.foretell import training_seconds
from limbeck.jobs.setup import machine
from limbeck.jobs.teacher import adopted
from limbeck.objectives import parse
from limbeck.report.family import write_family_report
from limbeck.report.words import count, duration
from limbeck.run.log import console
from limbeck.run.world import leave


def family(settings: DistilSettings) -> dict[str, Any]:
    """Distils a student of each size; gives ``{"out", "members"}``: by size what `distil` gives."""
    started = time.monotonic()
    sizes = settings.params
    assert isinstance(sizes, tuple)
    names = [_name(size) for size in sizes]
    if len(set(names)) < len(names):
        raise BadSetting(f"--params {','.join(map(str, sizes))}: sizes that differ by less than 1 % are one student")
    settings, answers = adopted(settings)
    where = machine(settings)
    run = claim(settings.out, signature_of(settings, "family", **answers)) if where.world.first else {}
    if where.world.first:
        update(settings.out, run, members=names)
    where.world.barrier()
    members: list[Comparison] = []
    for name, size in zip(names, sizes, strict=True):
        own = settings.model_copy(update={"params": size, "out": settings.out / name})
        console.print(f"\n{name}")
        members.append(prepare(own, answers, where, member=name, beside=members[0] if members else None))
    _train(members)
    results = {}
    for name, member in zip(names, members, strict=True):
        console.print(f"\n{name}")
        results[name] = member.conclude(training_seconds(member.arms))
    if where.world.first:
        if "ended" not in run:
            update(settings.out, run, ended=now(), seconds=round(time.monotonic() - started, 1))
        write_family_report(settings.out)
        console.print(f"\n{len(names)} students took {duration(time.monotonic() - started)} in all.")
    where.world.barrier()
    leave()
    return {"out": str(settings.out), "members": results} if where.world.first else {}


def _name(size: int) -> str:
    """A size as a folder is called: 600M, 1.3B, 250k."""
    number, *unit = count(size).split()
    return f"{float(number):g}" + "".join(unit)


def _train(members: Sequence[Comparison]) -> None:
    """Trains all arms, those of one name and seed together where they listen to a live teacher."""
    live = members[0].source.captured is None
    for name, seed in dict.fromkeys((arm.name, arm.seed) for member in members for arm in member.arms):
        arms = [(member, arm) for member in members for arm in member.arms if (arm.name, arm.seed) == (name, seed)]
        if live and parse(arms[0][1].objective).needs_teacher:
            label = f"{len(arms)} x {name} #{seed}"
            models = train_members([(arm, member.shared) for member, arm in arms], label=label)
        else:
            models = [train(arm, member.shared) for member, arm in arms]
        for (member, arm), model in zip(arms, models, strict=True):
            member.proof.arm(arm, model)
            member.show_so_far()
