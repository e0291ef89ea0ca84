"""The plan of a conversion (`limbeck distil --mixers`), from settings and the teacher's configuration alone."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.config import ATTENTION, STAGES, DistilSettings, Stage
from limbeck.errors import BadSetting
from limbeck.jobs.distil.request import DistilRequest
from limbeck.jobs.pair.mixers import parse_mixers, remarks
from limbeck.jobs.pair.student import mixers_for
from limbeck.models.configuration import load_config
from limbeck.models.decoder import LimbeckConfig
from limbeck.planning.cost.mixers import Mixture
from limbeck.students.convert import check_family, check_mixers, config_of
from limbeck.students.shape import Shape
from limbeck.students.shape import config_of as config_of_cut

_SHARE = 0.1  # of the tokens, for each of the first two stages; ours, not tuned


@dataclass(frozen=True)
class Conversion:
    """A mixer for each layer; with ``keep``, so many layers keep attention instead, and are chosen later by measurement."""

    mixers: tuple[str, ...]
    keep: int | None
    stages: tuple[Stage, ...]

    @classmethod
    def of(cls, settings: DistilSettings, layers: int) -> Conversion:
        """The conversion of a student with ``layers`` layers. Raises BadSetting or BadModel for a pattern that does not fit."""
        assert settings.mixers is not None
        pattern = list(parse_mixers(settings.mixers))
        check_mixers(pattern)
        if settings.keep_attention is not None:
            if len(pattern) > 1 or pattern[0].partition(":")[0] == ATTENTION:
                raise BadSetting(
                    f"--mixers {settings.mixers!r} with --keep-attention: expected one mixer to take the place of attention, "
                    "such as gdn; to give the mixer of each layer, leave --keep-attention out"
                )
            if settings.keep_attention >= layers:
                raise BadSetting(
                    f"--keep-attention {settings.keep_attention}: the student has {layers} layers, so nothing would be "
                    f"converted; give 1 to {layers - 1}, or leave --mixers out"
                )
        elif layers % len(pattern):
            raise BadSetting(
                f"--mixers {settings.mixers!r}: {len(pattern)} mixers, repeated until the layers are full, do not divide the "
                f"student's {layers}; give a divisor of {layers}"
            )
        elif all(text == ATTENTION for text in pattern):
            raise BadSetting(
                f"--mixers {settings.mixers!r}: nothing would be converted; leave it out, or name another mixer"
            )
        mixers = tuple(pattern * (layers // len(pattern)))
        return cls(mixers, settings.keep_attention, STAGES if settings.match is None else settings.match)

    def steps(self, steps: int) -> dict[Stage, int]:
        """Optimiser steps of each stage, out of ``steps`` in total. Raises BadSetting if none would be left to distil in."""
        found = {stage: max(1, round(_SHARE * steps)) for stage in self.stages}
        if sum(found.values()) >= steps:
            raise BadSetting(
                f"--match {','.join(self.stages)} takes {sum(found.values())} of {steps} steps and leaves none to distil in: "
                "give more --tokens, fewer --batch-tokens, or --match none"
            )
        return found


def check_conversion(request: DistilRequest, target: Shape | None) -> Conversion | None:
    """The conversion that the settings describe, None if there is none. ``target``: the pruned shape, None for the teacher's.

    Raises BadSetting or BadModel for a teacher or a pattern that cannot be converted.
    """
    if request.settings.mixers is None:
        return None
    config = load_config(request.teacher.config_source)
    check_family(config)
    return Conversion.of(request.settings, Shape.of(config).layers if target is None else target.layers)


@dataclass(frozen=True)
class Planned:
    """The configuration of the converted student, and of its reference with attention in all layers (None without stages)."""

    student: LimbeckConfig
    reference: LimbeckConfig | None

    @classmethod
    def of(cls, request: DistilRequest, conversion: Conversion, target: Shape | None) -> Planned:
        """The configurations that follow from the teacher's. ``target``: the pruned shape, None for the teacher's."""
        config = load_config(request.teacher.config_source)
        base, layers = config if target is None else config_of_cut(target, config), len(conversion.mixers)
        reference = config_of(base, [ATTENTION] * layers) if conversion.stages else None
        return cls(config_of(base, mixers_for(request.settings, layers)), reference)

    def remarks(self, length: int) -> list[str]:
        """Notes on settings that are legal but may not be intended, for rows of ``length`` tokens."""
        return remarks(Mixture.of(self.student), length)
