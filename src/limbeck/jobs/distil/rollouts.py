"""On-policy distillation (`limbeck distil --rollouts`): what it asks of the other settings, and how the student generates."""

from __future__ import annotations

from dataclasses import replace

from limbeck.config import OFF_POLICY, DistilSettings, flag_of
from limbeck.errors import BadSetting
from limbeck.generation.rollouts import RolloutPlan, Share
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.distil.request import DistilRequest
from limbeck.teachers.ref import CapturedRef, LocalRef


def check_rollouts(request: DistilRequest, environment: Environment) -> None:
    """Raises BadSetting for settings that do not go with rows that the student generates, each with its reason."""
    settings = request.settings
    if settings.rollouts is None:
        for name in ("rollout_tokens", "rollout_temperature"):
            if name in settings.model_fields_set:
                raise BadSetting(
                    f"{flag_of(DistilSettings, name)} needs --rollouts: give it, such as 0.5, or leave it out"
                )
        if named := [name for name in OFF_POLICY if name in settings.baselines]:
            raise BadSetting(
                f"--baselines {named[0]} is a student that generates none of its text: give --rollouts, or leave it out"
            )
        return
    what = f"--rollouts {settings.rollouts}"
    if not isinstance(request.teacher, LocalRef):
        kept = (
            "its logits were captured on another text"
            if isinstance(request.teacher, CapturedRef)
            else "it is on a server"
        )
        raise BadSetting(
            f"{what}: the teacher judges what the student generates in each step, and {kept}: give the model itself as --teacher"
        )
    for flag, given, why in (
        ("--cache-logits", settings.cache_logits, "a text that changes in each step cannot be captured before"),
        ("--tokenizer-align", settings.tokenizer_align, "what the student generates is judged token by token"),
        ("--qat", settings.qat, "the student would generate with other weights than those that are trained"),
        ("--rounds", settings.rounds > 1, "a student that is pruned again and again generates poorly at first"),
        ("--mesh shard", environment.world.sharded, "its processes generate texts of different lengths"),
    ):
        if given:
            raise BadSetting(f"{what} does not go with {flag}: {why}; leave one of the two out")
    for spec in request.objectives:
        if alone := [term for term in spec.terms if not term.needs_teacher]:
            raise BadSetting(
                f"{what} with --objective '{spec.text}': {alone[0].short} learns the tokens of a text, and in these rows they "
                "are the student's own; give a divergence to the teacher alone, such as ReverseKL or 'JensenShannon(beta=0.5)'"
            )


def rollouts_of(settings: DistilSettings, *, steps: int, rows: int) -> RolloutPlan | None:
    """How the student generates in a training of ``steps`` steps of ``rows`` rows; None where it does not."""
    if settings.rollouts is None:
        return None
    share = replace(Share.of(settings.rollouts), rows=steps * rows)
    return RolloutPlan(share, settings.rollout_tokens, settings.rollout_temperature)
