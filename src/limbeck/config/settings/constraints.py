"""Settings of `limbeck constraints write`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from limbeck.config.flag import Flag
from limbeck.config.settings.common import Base, SeededSettings
from limbeck.config.values import Count, Difficulty, Names


class ConstraintsSettings(SeededSettings, Base):
    """The keys of `limbeck constraints write`, which are also its flags."""

    n: Annotated[
        Count,
        Field(ge=1, le=1_000_000),
        Flag(
            "How many prompts.",
            "Data",
            unit="prompts",
            synonyms=("prompts", "num_samples", "samples", "num_prompts", "size"),
        ),
    ] = 1000
    families: Annotated[
        Names,
        Flag(
            "Families of constraints: length, count, contains, lacks, starts, ends, case, bullets, json, sections, forbidden, "
            "frequency, language, order, repeat.",
            "Data",
            metavar="FAMILY,...",
            examples=("length,lacks,json",),
            default="all",
            synonyms=("family", "kinds", "constraints", "types", "instruction_ids"),
        ),
    ] = ()
    difficulty: Annotated[
        Difficulty,
        Flag(
            "Constraints of a prompt: a number, or a range from which each prompt has one at random.",
            "Data",
            examples=("2", "1..3"),
            unit="constraints",
            default="1..3, or fewer where the families allow no more",
            synonyms=("constraints_per_prompt", "num_constraints", "level", "k"),
        ),
    ] = None
    out: Annotated[
        Path, Flag("JSONL file to write.", "Output", metavar="FILE", synonyms=("output", "output_path", "output_file"))
    ]
