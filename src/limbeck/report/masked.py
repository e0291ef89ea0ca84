"""Masked input (`--mask-input`) in words, from the contents of a run.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.corpora.mask_input import MaskInput
from limbeck.report.words import share


def masked_words(how: MaskInput) -> str:
    """The share of tokens that are replaced, by what, and while it rises."""
    by = "random ones" if how.token is None else f"token {how.token}"
    rising = f" (rising over the first {share(how.warmup)} of a training)" if how.warmup else ""
    return f"{share(how.share)} of the learned tokens{rising} were replaced by {by} where a student reads them"


def masked_note(run: Mapping[str, Any]) -> str:
    """The note of a report about trainings with masked input; "" where there were none."""
    how = _masking(run)
    if how is None:
        return ""
    text = (
        f"In trainings {masked_words(how)}; they are predicted as they were, and teachers and held-out text are plain."
    )
    compared = (arm["name"] for arm in (run.get("plan") or {}).get("arms", ()))
    return text + (" Of the trainings, that with plain input reads none of them." if "unmasked" in compared else "")


def masked_sentence(run: Mapping[str, Any]) -> str:
    """What a model card says of it; "" where there was none."""
    how = _masking(run)
    return "" if how is None else f" In training {masked_words(how)} (masked thought, arXiv 2403.02178)."


def _masking(run: Mapping[str, Any]) -> MaskInput | None:
    text = (run.get("signature") or {}).get("mask_input")
    return None if text is None else MaskInput.of(str(text))
