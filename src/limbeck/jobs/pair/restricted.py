"""Captured logits over all tokens, restricted to those that their own text uses (`--vocab auto` with a captured teacher).

The captured rows stay as they are, so every token of their text has to be kept, held-out text included: each row is segmented as
before, and its tokens only have other ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from limbeck.config import TeacherSettings
from limbeck.corpora import TokenStore
from limbeck.corpora.tokenizer import fingerprint
from limbeck.errors import BadSetting
from limbeck.jobs.common.captured import Captured
from limbeck.jobs.common.environment import Environment
from limbeck.jobs.common.folder import another, reserve
from limbeck.jobs.pair.vocabulary import embedding_parameters, measured_file
from limbeck.models.trim.choose import Asked, choose
from limbeck.models.trim.folder import VOCABULARY as FILE
from limbeck.models.trim.folder import facts_of, needed_ids, write_vocabulary
from limbeck.models.trim.tokenizer import state_of
from limbeck.report.vocabulary import kept_sentence
from limbeck.run.log import console
from limbeck.teachers.ref import VOCABULARY, CapturedRef
from limbeck.teachers.trimmed import require_sampled


def restricted_in_run(settings: TeacherSettings, teacher: CapturedRef, environment: Environment) -> CapturedRef:
    """The captured teacher over the tokens that its text uses; the vocabulary is kept in the run's folder.

    Raises BadSetting where --vocab keeps fewer tokens than the captured text has, or the logits cannot be restricted, BadFolder
    where the folder holds another run.
    """
    folder = settings.out / VOCABULARY
    if environment.world.first:
        captured = Captured(teacher.folder)
        for cache in (captured.logits, captured.held_out.cache):
            require_sampled(cache)
        going_on = reserve(settings.out)
        made_from = {
            "asked": settings.vocab,
            "captured": captured.identity,
            "tokenizer": fingerprint(captured.about.tokenizer),
        }
        there = facts_of(folder)["made_from"] if (folder / FILE).is_file() else None
        if going_on and there != made_from:
            raise another(settings.out, "vocabulary")
        if there != made_from:
            _write(settings, teacher, captured, made_from)
            console.print(f"vocabulary: {kept_sentence(facts_of(folder))}")
    environment.world.barrier()
    return replace(teacher, trimmed=folder)


def _write(settings: TeacherSettings, teacher: CapturedRef, captured: Captured, made_from: Mapping[str, Any]) -> None:
    about, stores = captured.about, captured.stores()
    counts = np.sum([_counts(store, about.vocab) for store in stores], axis=0)
    assert settings.vocab is not None
    described = teacher.config_source
    kept = choose(
        *(state_of(about.tokenizer, name=about.name), counts, Asked.of(settings.vocab)),
        needed=needed_ids(described),
        rows=about.vocab,
        name=about.name,
    )
    if lost := int(counts.sum() - counts[kept].sum()):
        raise BadSetting(
            f"--vocab {settings.vocab}: {lost:,} of the {int(counts.sum()):,} tokens of the captured text would be left out, and "
            "its rows cannot be segmented anew: give auto, which keeps them all, or capture with --vocab"
        )
    whole = len(about.tokenizer.get_vocab())
    names = ("train", "held_out")
    segmented = {
        side: {"documents": store.documents, "same": store.documents, "tokens": [store.tokens, store.tokens]}
        for side, store in zip(names, stores, strict=True)
    }
    facts = {
        "made_from": made_from,
        "used": int((counts > 0).sum()),
        "lost": 0.0,
        "segmented": segmented,
        "measured": [],
    }
    facts |= {"tokens": [whole, len(kept)], "parameters": embedding_parameters(about, len(kept))}
    measured_file(settings.out / VOCABULARY).unlink(missing_ok=True)  # of another vocabulary
    write_vocabulary(
        settings.out / VOCABULARY, described, kept, whole=max(whole, about.vocab), name=about.name, facts=facts
    )


def _counts(store: TokenStore, ids: int) -> np.ndarray:
    """How often each id occurs in a store."""
    counts = np.zeros(ids, dtype=np.int64)
    for start in range(0, store.tokens, 2**22):
        counts += np.bincount(store.slice(start, min(start + 2**22, store.tokens)), minlength=ids)
    return counts
