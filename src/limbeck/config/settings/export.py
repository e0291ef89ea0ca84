"""Settings of `limbeck export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from limbeck.config.flag import Flag
from limbeck.config.settings.common import DeviceSettings, SeededSettings


class ExportSettings(SeededSettings, DeviceSettings):
    """The keys of `limbeck export`, which are also its flags. ``to``: a format; ``dtype``: of its numbers, auto the model's."""

    model: Annotated[str, Flag("Folder or hub id of the model.")]
    to: Annotated[
        str,
        Flag(
            "Format: folder, or one of a package that is installed.",
            "Output",
            metavar="FORMAT",
            synonyms=("format", "type", "outtype"),
        ),
    ] = "folder"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Flag(
            "Number format of what is written; auto is that of the model.",
            "Output",
            synonyms=("precision", "torch_dtype"),
        ),
    ] = "auto"
    out: Annotated[
        Path, Flag("Folder to write.", "Output", metavar="FOLDER", synonyms=("output_dir", "output", "output_path"))
    ]
