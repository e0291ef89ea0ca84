"""Settings of `limbeck rank`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from limbeck.config.flag import Flag
from limbeck.config.settings.common import Settings
from limbeck.config.values import Count


class RankSettings(Settings):
    """The keys of `limbeck rank`, which are also its flags."""

    student: Annotated[
        str,
        Flag(
            "Model that is to learn from the rationales: a folder or hub id.",
            "Model",
            metavar="MODEL",
            examples=("Qwen/Qwen3-0.6B",),
            synonyms=("model", "by", "scorer", "model_name_or_path"),
        ),
    ]
    keep: Annotated[
        Count,
        Flag(
            "How many of each prompt's completions are written, the best first.",
            "Data",
            unit="completions",
            synonyms=("top", "top_k", "best_of", "n"),
        ),
    ] = 1
    mark: Annotated[
        str,
        Field(min_length=1),
        Flag(
            "What comes between a rationale and the known answer where a completion marks none.",
            "Data",
            synonyms=("answer_prefix", "separator"),
        ),
    ] = "The answer is"
    out: Annotated[
        Path,
        Flag(
            "File of the ranked completions.",
            "Output",
            metavar="FILE",
            synonyms=("output", "output_file", "output_path"),
        ),
    ] = Path("ranked.jsonl")
