"""What `limbeck distil --mixers` is asked to convert, from settings and the teacher's configuration alone."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.config import ATTENTION, STAGES, DistilSettings, Stage
from limbeck.errors import BadSetting
from limbeck.jobs.distil.request import DistilRequest
from limbeck.jobs.pair.mixers import pattern_asked, remarks
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
    """What is asked for: a mixer for each layer, or one for all but ``keep`` that are still to be chosen."""

    mixers: tuple[str, ...]
    keep: int | None
    stages: tuple[Stage, ...]

    @classmethod
    def of(cls, settings: DistilSettings, layers: int) -> Conversion:
        """From the settings, for a student of so many layers. Raises BadSetting or BadModel where there can be no such."""
        assert settings.mixers is not None
        pattern = list(pattern_asked(settings.mixers))
        check_mixers(pattern)
        if settings.keep_attention is not None:
            if len(pattern) > 1 or pattern[0].partition(":")[0] == ATTENTION:
                raise BadSetting(
                    f"--mixers {settings.mixers!r} with --keep-attention: expected one mixer to take the place of attention, "
                    "such as gdn; to say which layer has which, leave --keep-attention out"
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
        """Steps of each stage out of those of the whole training. Raises BadSetting where none would be left."""
        found = {stage: max(1, round(_SHARE * steps)) for stage in self.stages}
        if sum(found.values()) >= steps:
            raise BadSetting(
                f"--match {','.join(self.stages)} takes {sum(found.values())} of {steps} steps and leaves none to distil in: "
                "give more --tokens, fewer --batch-tokens, or --match none"
            )
        return found


def check_conversion(request: DistilRequest, target: Shape | None) -> Conversion | None:
    """The conversion that is asked for, from the configuration alone; None where the student is not converted."""
    if request.settings.mixers is None:
        return None
    config = load_config(request.teacher.config_source)
    check_family(config)
    return Conversion.of(request.settings, Shape.of(config).layers if target is None else target.layers)


@dataclass(frozen=True)
class Planned:
    """What a conversion will make: the student, and the same with attention everywhere where it is to be matched to that."""

    student: LimbeckConfig
    reference: LimbeckConfig | None

    @classmethod
    def of(cls, request: DistilRequest, asked: Conversion, target: Shape | None) -> Planned:
        """From the teacher's configuration alone."""
        config = load_config(request.teacher.config_source)
        base, layers = config if target is None else config_of_cut(target, config), len(asked.mixers)
        reference = config_of(base, [ATTENTION] * layers) if asked.stages else None
        return cls(config_of(base, mixers_for(request.settings, layers)), reference)

    def remarks(self, length: int) -> list[str]:
        """What is allowed, and may not be meant, of rows of this length."""
        return remarks(Mixture.of(self.student), length)
