"""Settings of `limbeck export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from limbeck.config.flag import Flag
from limbeck.config.settings.common import Settings


class ExportSettings(Settings):
    """The keys of `limbeck export`, which are also its flags. ``to``: formats; ``dtype``: of their numbers, auto the model's."""

    model: Annotated[str, Flag("Folder or hub id of the model.")]
    to: Annotated[
        str,
        Flag(
            "Formats, between commas: folder, gguf, gguf:f32, gguf:f16, gguf:bf16, gguf:q8_0, gguf:q4_0, onnx, int8, or "
            "those of packages that are installed.",
            "Output",
            metavar="FORMAT,...",
            synonyms=("format", "formats", "type", "outtype", "quantize", "quantization"),
        ),
    ] = "folder"
    dtype: Annotated[  # of what is written, not of the arithmetic
        Literal["auto", "float32", "bfloat16", "float16"],
        Flag(
            "Number format of what is written; auto is that of the model.",
            "Output",
            synonyms=("precision", "torch_dtype"),
        ),
    ] = "auto"  # type: ignore[assignment]
    out: Annotated[  # has no default here
        Path, Flag("Folder to write.", "Output", metavar="FOLDER", synonyms=("output_dir", "output", "output_path"))
    ]
