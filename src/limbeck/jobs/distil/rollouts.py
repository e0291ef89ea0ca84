"""On-policy distillation (`limbeck distil --rollouts`): what it asks of the other settings, and how the student generates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from limbeck.config import OFF_POLICY, DistilSettings, flag_of
from limbeck.corpora import Document, Rows
from limbeck.corpora.reading import Reader
from limbeck.corpora.tokenised import store_in_memory
from limbeck.errors import BadCorpus, BadSetting
from limbeck.generation.rollouts import RolloutPlan, Share
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.distil.overlap import limits_of
from limbeck.jobs.distil.request import DistilRequest
from limbeck.jobs.distil.together import refuse_together
from limbeck.models.language_model import LanguageModel
from limbeck.planning.checks.finding import Finding
from limbeck.probes.overlap import TOP, measure_overlap, overlap
from limbeck.report.words import bounded, share
from limbeck.run.served_rollouts import ServedLink
from limbeck.teachers.codec import TopK
from limbeck.teachers.ref import CapturedRef, ServedRef
from limbeck.teachers.remote.http import RetryPolicy
from limbeck.teachers.remote.served import ServedTeacher, connect
from limbeck.types import Reading

if TYPE_CHECKING:
    from limbeck.jobs.distil.other_tokens import TeacherSource

_WORKED = 0.72  # of the most probable tokens both had in trainings that worked, at their beginning (arXiv 2604.13016)
_TOGETHER = 8  # rows that are measured at once


def check_rollouts(request: DistilRequest, environment: Environment) -> None:
    """Raises BadSetting for settings that do not go with rows that the student generates, each with its reason."""
    settings = request.settings
    if settings.rollouts is None:
        for name in ("rollout_tokens", "rollout_temperature", "stop_when"):
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
    if isinstance(request.teacher, CapturedRef):
        raise BadSetting(
            f"{what}: the teacher judges what the student generates in each step, and its logits were captured on another text: "
            "give the model itself as --teacher, or its server"
        )
    on_server = isinstance(request.teacher, ServedRef)
    if on_server and environment.world.size > 1:
        raise BadSetting(
            f"{what}: with a teacher on a server one process captures the text's logits and trains: start this command without "
            "torchrun"
        )
    refuse_together(
        what,
        (
            (
                "--stop-when",
                on_server and settings.stop_when,
                "what the student generates is compared with its weights",
            ),
            ("--vocab", on_server and settings.vocab, "a server judges tokens by its whole vocabulary"),
            ("--cache-logits", settings.cache_logits, "a text that changes in each step cannot be captured before"),
            ("--tokenizer-align", settings.tokenizer_align, "what the student generates is judged token by token"),
            ("--qat", settings.qat, "the student would generate with other weights than those that are trained"),
            ("--rounds", settings.rounds > 1, "a student that is pruned again and again generates poorly at first"),
            ("--mesh shard", environment.world.sharded, "its processes generate texts of different lengths"),
        ),
    )
    if settings.stop_when and settings.eval_every is None:
        raise BadSetting(
            f"--stop-when {settings.stop_when}: needs --eval-every, the steps after which the student's own texts are measured: "
            "give both, or leave it out"
        )
    most = next((limit.value for limit in limits_of(settings) if not limit.least), 0.0)
    if most >= settings.rollout_tokens:
        raise BadSetting(
            f"--stop-when {settings.stop_when}: no text has more than {settings.rollout_tokens} tokens (--rollout-tokens), so "
            "the training would never end by that: give a smaller limit"
        )
    if settings.stop_when and (settings.average or "").startswith("last"):
        raise BadSetting(
            f"--average {settings.average}: with --stop-when a training may end early, so which steps are its last is not known "
            "before: give --average ema, or leave one of them out"
        )
    for spec in request.objectives:
        if alone := [term for term in spec.terms if not term.needs_teacher]:
            raise BadSetting(
                f"{what} with --objective '{spec.text}': {alone[0].short} learns the tokens of a text, and in these rows they "
                "are the student's own; give a divergence to the teacher alone, such as ReverseKL or 'JensenShannon(beta=0.5)'"
            )


def rollouts_of(settings: DistilSettings) -> RolloutPlan | None:
    """How the student generates in a training, whose rows are yet to be given (`RolloutPlan.over`); None where it does not."""
    if settings.rollouts is None:
        return None
    return RolloutPlan(Share.of(settings.rollouts), settings.rollout_tokens, settings.rollout_temperature)


def link_of(request: DistilRequest, source: TeacherSource, *, length: int, ranks: int) -> ServedLink | None:
    """The link to a server that judges rows of ``length`` tokens which the student generates; None where nothing needs one."""
    settings, teacher, text = request.settings, request.teacher, request.settings.rollouts
    if text is None or not isinstance(teacher, ServedRef):
        return None
    assert source.captured is not None, "logits of the text are captured first"
    codec = source.captured.logits.codec
    assert isinstance(codec, TopK), "a server gives the largest probabilities"

    def connected() -> ServedTeacher:
        retry, in_flight = RetryPolicy(limit=settings.time_limit), settings.in_flight
        how: dict[str, Any] = {"k": codec.k, "length": length, "retry": retry, "in_flight": in_flight}
        found = connect(teacher.address, source.about.tokenizer, **how)
        found.expect(max(1, round(settings.tokens * Share.of(text).mean / ranks)), generated=True)
        return found

    return ServedLink(connected)


def on_own_texts(
    student: LanguageModel, teacher: LanguageModel, documents: Sequence[Document], *, length: int, packing: str
) -> list[Finding]:
    """Whether teacher and student agree enough on texts that the student generates for on-policy distillation to work.

    The student continues the beginnings of some documents. None if they cannot be tokenised, which other checks report.
    """
    student.model.to(teacher.device)
    with suppress(BadCorpus):
        if store := store_in_memory(documents, Reader(student.tokenizer, student.end)):
            rows = Rows(store.packed(packing), length=min(length, student.context, teacher.context))
            batches = (batch.to(student.device) for batch in rows.in_order(_TOGETHER))
            found = measure_overlap(student, teacher, batches, documents=store.documents)
            return [_of_overlap({one.name: one for one in overlap("student", [found])}, student.vocab)]
    return []


def _of_overlap(found: Mapping[str, Reading], vocab: int) -> Finding:
    same, kl, ended = found["overlap"], found["kl_own_texts"], found["texts_ended"]
    message = (
        f"on texts that the student generates, {share(same.value)} of its {TOP} most probable tokens are the teacher's too "
        f"({share(same.low)} to {share(same.high)}; by chance {share(TOP / vocab)}), KL(student ‖ teacher) is "
        f"{bounded(kl.value, kl.low, kl.high)} nats a token, and {share(ended.value)} of the texts end by themselves"
    )
    if same.value >= _WORKED:
        return Finding("on-policy", "ok", message)
    return Finding(
        "on-policy",
        "warning",
        f"{message}. On-policy trainings that worked began with {share(_WORKED)} (arXiv 2604.13016, larger models)",
        "train the student on a text with the same teacher first (leave --rollouts out), or begin with few rollouts: --rollouts "
        "0:0.5",
    )
