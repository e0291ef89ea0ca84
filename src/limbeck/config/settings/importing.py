"""Settings of `limbeck import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from limbeck.config.flag import Flag
from limbeck.config.settings.common import Base


class ImportSettings(Base):
    """The keys of `limbeck import`, which are also its flags."""

    model: Annotated[
        str,
        Flag(
            "A .gguf file, a folder that holds one, builtin:smollm2-135m, a model with quantised weights, or a folder of "
            "adapters of PEFT."
        ),
    ]
    base: Annotated[
        str | None,
        Flag(
            "Model that adapters belong to, into which they are merged: a folder or hub id.",
            "Model",
            metavar="MODEL",
            default="the one that their configuration names",
            synonyms=("base_model", "base_model_name_or_path", "model_name_or_path"),
        ),
    ] = None
    out: Annotated[
        Path, Flag("Folder to write.", "Output", metavar="FOLDER", synonyms=("output_dir", "output", "output_path"))
    ]
