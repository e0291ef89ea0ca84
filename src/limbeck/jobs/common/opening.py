"""What the documents of a run begin with: as --frame says, or as it was measured when the run began."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from limbeck.config import TeacherSettings, TuneSettings, nearest
from limbeck.corpora.opening import NONE, Opening, begin_with, candidates, measure
from limbeck.errors import BadSetting
from limbeck.jobs.common.folder import read_run, update
from limbeck.models.language_model import LanguageModel
from limbeck.planning.checks.finding import Finding
from limbeck.run.world import World
from limbeck.teachers.logprobs import LOG_P, logprobs_of
from limbeck.types import Batch, CausalLM, each

AUTO = "auto"


def open_documents(
    settings: TeacherSettings | TuneSettings,
    about: LanguageModel,
    teacher: CausalLM | None,
    texts: Sequence[str],
    *,
    run: dict[str, Any],
    world: World,
) -> list[Finding]:
    """Lets the documents of a run begin with what was chosen when it began, and keeps that in its run.json.

    ``about`` describes the model, ``teacher`` computes; None where nothing can be measured. A run of an earlier version that has
    made its text already goes on as it began. Gives the finding of a measurement. ``run`` is what run.json holds, on the first
    rank. Raises BadSetting where --frame names no token of the model.
    """
    if not _is_asked(settings, about):
        return []
    findings: list[Finding] = []
    unknown, kept = world.any(world.first and "frame" not in run, "text" in run and settings.frame is None)
    if unknown and (world.first or world.sharded):  # whose forward passes are those of all ranks
        declared = about.tokenizer.bos_token
        found = Opening(declared, declared, {}) if kept else _chosen(settings, about, teacher, texts, world.device)
        findings = _findings(found)
        if world.first:
            update(settings.out, run, frame={"begin": found.token, "nats": found.nats, "documents": found.documents})
    world.barrier()
    begin_with(about, (run if world.first else read_run(settings.out))["frame"]["begin"])
    return findings


def open_once(
    settings: TeacherSettings, about: LanguageModel, teacher: CausalLM, texts: Sequence[str], *, device: torch.device
) -> list[Finding]:
    """The same for a job that keeps nothing and does not continue."""
    if not _is_asked(settings, about):
        return []
    found = _chosen(settings, about, teacher, texts, device)
    begin_with(about, found.token)
    return _findings(found)


def open_measured(model: LanguageModel, texts: Sequence[str]) -> list[Finding]:
    """The same where nobody can ask for a token: the measured one, where the model leaves a choice."""
    if len(candidates(model)) == 1:
        return []
    found = measure(model, texts, lambda rows: list(_nats(model, rows, model.device)))
    begin_with(model, found.token)
    return _findings(found)


def _is_asked(settings: TeacherSettings | TuneSettings, model: LanguageModel) -> bool:
    """Whether documents may begin with something else than the tokenizer's bos."""
    return settings.frame is not None or len(candidates(model)) > 1


def _chosen(
    settings: TeacherSettings | TuneSettings,
    about: LanguageModel,
    teacher: CausalLM | None,
    texts: Sequence[str],
    device: torch.device,
) -> Opening:
    declared = about.tokenizer.bos_token
    asked = settings.frame or AUTO
    if asked == AUTO:
        if teacher is None:
            return Opening(declared, declared, {})
        return measure(about, texts, lambda rows: list(_nats(teacher, rows, device)))
    if asked != NONE and asked not in about.tokenizer.get_vocab():
        special = [str(token) for token in about.tokenizer.all_special_tokens]
        raise BadSetting(
            f"--frame {asked}: {about.name} has no such token{nearest(asked, special)} Give one of its tokens "
            f"({', '.join(map(repr, special[:6]))}), none or auto"
        )
    return Opening(None if asked == NONE else asked, declared, {})


def _findings(found: Opening) -> list[Finding]:
    if not found.nats:
        return []
    return [Finding("frame", "ok", found.sentence, "--frame TOKEN takes another, --frame none leaves it out")]


def _nats(teacher: CausalLM, rows: Sequence[Sequence[int]], device: torch.device) -> Iterator[Float[np.ndarray, " n"]]:
    """Nats of each token behind the first of each row."""
    with torch.no_grad():
        for batch, outputs in each(teacher, [_row(row).to(device) for row in rows]):
            yield -logprobs_of(batch, outputs, LOG_P)["log_p"].double().cpu().numpy()


def _row(tokens: Sequence[int]) -> Batch:
    both = torch.tensor([tokens])
    position = torch.arange(both.shape[1] - 1)[None]
    return Batch(
        both[:, :-1], both[:, 1:], torch.ones(position.shape), position, torch.zeros_like(position), position[:, 0]
    )
