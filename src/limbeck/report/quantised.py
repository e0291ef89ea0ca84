"""A quantised student in words: what its weights are, and what is compared with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.report.words import size


def quantised_note(run: Mapping[str, Any]) -> str:
    """The note of a report about a training with quantised weights; "" where there was none."""
    facts = run.get("quantised")
    if not facts:
        return ""
    kinds = ", ".join(f"{many} in {kind}" for kind, many in facts["tensors"].items())
    return (
        f"All models but the teacher are measured with the weights that a GGUF file of {facts['kind']} holds (tensors: {kinds}; "
        f"{size(facts['bytes'])} without the tokenizer). The student's folder holds these values in float32, so limbeck export "
        f"--to gguf:{facts['kind']} writes exactly them; another number format would round them again."
    )


def quantised_sentence(run: Mapping[str, Any]) -> str:
    """What a model card says of it; "" where there was none."""
    facts = run.get("quantised")
    if not facts:
        return ""
    return (
        f" It was trained with its weights quantised to {facts['kind']} (straight-through gradients); this folder holds the "
        f"de-quantised values in float32, from which `limbeck export --to gguf:{facts['kind']}` writes the same blocks again."
    )
