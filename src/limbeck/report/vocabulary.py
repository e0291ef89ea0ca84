"""A trimmed vocabulary in words: what stays of the teacher's tokens, how text is segmented, and what the teacher loses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.report.words import count, share


def kept_sentence(facts: Mapping[str, Any]) -> str:
    """What trimming does to tokens, embeddings and segmentation."""
    (whole, kept), (before, after) = facts["tokens"], facts["parameters"]
    there = facts["segmented"]["held_out"]
    longer = there["tokens"][1] / max(1, there["tokens"][0]) - 1
    message = (
        f"{kept:,} of the teacher's {whole:,} tokens are kept (the training text uses {facts['used']:,}), so its embeddings take "
        f"{count(after)} instead of {count(before)} parameters; {there['same']:,} of {there['documents']:,} held-out documents "
        f"are segmented as before, and all of them are {share(longer, digits=2)} longer in tokens"
    )
    if facts["lost"] > 0:
        message += f"; {share(facts['lost'], digits=2)} of the training text's tokens are not kept, and written in shorter ones"
    return message


def left_out_sentence(found: Mapping[str, Any]) -> str:
    """What the teacher gives the tokens that are left out; "" where that was not measured."""
    if not found or not found["positions"]:
        return ""
    left, bits = found["left_out"], found.get("bits_per_byte")
    message = f"of the teacher's probability {share(left['value'], digits=2)} is on tokens that are left out"
    if left["low"] is not None:
        message += f" ({share(left['low'], digits=2)} to {share(left['high'], digits=2)})"
    places = f"at most {share(found['worst'])} at one of {found['positions']:,} positions"
    if bits is None:
        return f"{message}, {places} of {left['n']} captured texts; {_of_captured(found.get('rest'))}"
    return (
        f"{message}, {places} of {left['n']} held-out texts; "
        f"it has {bits['whole']:.4f} bits per byte there with all tokens, {bits['trimmed']:.4f} with those that are kept"
    )


def _of_captured(rest: float | None) -> str:
    """What captured outcomes leave unknown; ``rest`` is the probability beyond top-k ones, None for sampled ones."""
    if rest is None:
        unknown = "the rest is divided by an estimate of its sum"
    else:
        unknown = (
            f"{share(rest, digits=2)} is beyond the captured outcomes and counts as kept, though some of it may not be"
        )
    return f"{unknown}; the teacher's own figures are those of all its tokens"


def vocabulary_note(run: Mapping[str, Any]) -> str:
    """The note of a report about the trimmed vocabulary of a run; "" where all tokens are there."""
    facts = run.get("vocabulary")
    if not facts:
        return ""
    left_out = left_out_sentence(facts.get("left_out", {}))
    message = f"The vocabulary is trimmed: {kept_sentence(facts)}."
    message += f" {left_out[:1].upper()}{left_out[1:]}." if left_out else ""
    return f"{message} Nats per token are over the kept tokens: compare runs of other vocabularies by bits per byte."
