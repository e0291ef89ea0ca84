"""`limbeck plan --bytes`: the shapes that fit a file, their time a token where a limit is given, and which of them is planned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from limbeck.config import PlanSettings, byte_budget
from limbeck.errors import BadShape
from limbeck.jobs.plan.device import Limits
from limbeck.jobs.plan.search import Candidate, search
from limbeck.models.anatomy import Anatomy
from limbeck.models.sidecar import stored_dtype
from limbeck.models.source import config_file
from limbeck.planning.cost.size import Size
from limbeck.students.shape import Budget, Shape, anatomy_of

if TYPE_CHECKING:
    from transformers.configuration_utils import PreTrainedConfig


@dataclass(frozen=True)
class Sized:
    """The planned shape, of the teacher with a vocabulary; all shapes as JSON; what was assumed; the limits of its format."""

    teacher: Anatomy
    shape: Shape
    shapes: dict[str, Any]
    assumed: tuple[str, ...]
    limits: Limits | None = None


@dataclass(frozen=True)
class _Timed:
    """A shape, its seconds a token where they are known, and whether it is over a limit."""

    one: Candidate
    seconds: float | None
    over: bool

    def row(self) -> dict[str, Any]:
        return self.one.row() | {"seconds": self.seconds, "over": self.over}


def of_bytes(
    settings: PlanSettings,
    teachers: Sequence[Anatomy],
    limits: Limits | None,
    config: Callable[[], PreTrainedConfig],
) -> Sized:
    """The student of --bytes: the first shown shape that is within the limits, which is the balanced one where it is.

    ``teachers`` are the teacher with each vocabulary. ``config`` gives its configuration, which is loaded only where shapes are
    measured. Raises BadShape where no shape fits the bytes, or none of the shown ones the limits.
    """
    assert settings.weight_bytes is not None
    assert settings.teacher is not None
    most, kind = byte_budget(settings.weight_bytes)
    budget = Budget(most, kind or stored_dtype(config_file(settings.teacher).parent))
    found = search(teachers, budget, settings.length)
    of_vocabulary = {int(teacher.sizes.vocab): teacher for teacher in teachers}
    timed, how = _timed(settings, found.chosen, of_vocabulary, limits, budget, config)
    first = next((timing.one for timing in timed if not timing.over), None)
    if first is None:
        raise BadShape(_nearest_two(settings, timed, limits))
    assumed = [
        f"--bytes are of the weights in {budget.kind}: header, configuration and tokenizer of a file come on top"
    ]
    if len(timed) > 1:
        assumed.append(f"what follows the shapes is of {first.shape} with {first.vocab:,} tokens")
    rows = {"rows": [timing.row() for timing in timed], "latency_s": settings.latency, "seconds_of": how}
    own = None if limits is None else _deployed(limits, first, budget)
    return Sized(of_vocabulary[first.vocab], first.shape, found.row() | rows, tuple(assumed), own)


def _deployed(limits: Limits, one: Candidate, budget: Budget) -> Limits:
    """The limits for a shape whose weights are deployed as the budget counts them."""
    return replace(limits, weight=one.bytes / one.parameters, kind=str(budget.kind))


def _timed(
    settings: PlanSettings,
    shapes: Sequence[Candidate],
    teachers: dict[int, Anatomy],
    limits: Limits | None,
    budget: Budget,
    config: Callable[[], PreTrainedConfig],
) -> tuple[list[_Timed], str | None]:
    """The shapes with their time, and of what it is: of a device by its bandwidth, or of this machine, measured."""
    if limits is not None:
        sizes = [Size.of_anatomy(anatomy_of(one.shape, teachers[one.vocab])) for one in shapes]
        owns = [_deployed(limits, one, budget) for one in shapes]
        each = zip(shapes, owns, sizes, strict=True)
        how = f"{limits.gpu.name}, weights in {budget.kind}, keys and values in bfloat16"
        return [_Timed(one, own.seconds(size), own.fill(size) > 1) for one, own, size in each], how
    if settings.latency is None:
        return [_Timed(one, None, False) for one in shapes], None
    from limbeck.jobs.plan.timed import measured  # loads torch

    seconds, how = measured(config(), shapes)
    return [_Timed(one, time, time > settings.latency) for one, time in zip(shapes, seconds, strict=True)], how


def _nearest_two(settings: PlanSettings, timed: Sequence[_Timed], limits: Limits | None) -> str:
    """The message where no shape is within the limits: the two that are fastest."""
    order = sorted(timed, key=lambda timing: timing.seconds or 0.0)
    shown = " and ".join(
        f"{timing.one.shape} of {timing.one.vocab:,} tokens with {(timing.seconds or 0.0) * 1e3:.3g} ms a token"
        for timing in order[:2]
    )
    limit = f"{(settings.latency or 0.0) * 1e3:g} ms a token on this machine" if limits is None else str(limits)
    return (
        f"--bytes {settings.weight_bytes}: none of {len(timed)} shapes keeps to {limit}; nearest are {shown}: give fewer "
        "bytes, or more time"
    )
