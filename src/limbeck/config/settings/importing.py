"""Settings of `limbeck import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from limbeck.config.flag import Flag
from limbeck.config.settings.common import Base


class ImportSettings(Base):
    """The keys of `limbeck import`, which are also its flags."""

    model: Annotated[
        str, Flag("A .gguf file, a folder that holds one, builtin:smollm2-135m, or a model with quantised weights.")
    ]
    out: Annotated[
        Path, Flag("Folder to write.", "Output", metavar="FOLDER", synonyms=("output_dir", "output", "output_path"))
    ]
