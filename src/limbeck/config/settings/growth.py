"""Settings of `limbeck grow`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from limbeck.config.flag import Flag
from limbeck.config.settings.common import Settings


class GrowSettings(Settings):
    """The keys of `limbeck grow`, which are also its flags."""

    model: Annotated[str, Flag("Folder or hub id of the model, or RUN/shared/layers of limbeck distil --learngene.")]
    op: Annotated[
        Literal["widen", "pad", "stack", "interleave", "mixture"],
        Flag(
            "How it grows: widen copies channels, heads and neurons, pad adds new ones, and layers, that change no logit, stack "
            "repeats its layers, interleave puts new layers between them, mixture puts two trained models side by side.",
            "Model",
            synonyms=("operator", "method", "growth"),
        ),
    ] = "widen"
    shape: Annotated[
        str | None,
        Flag(
            "Shape of the grown model; what it leaves out stays.",
            "Model",
            metavar="NAME=INT,...",
            examples=("layers=8,hidden=128,heads=8,ffn=256",),
            default="twice the widths; with stack and interleave twice the layers",
        ),
    ] = None
    new_layers: Annotated[
        Literal["copies", "identity"] | None,
        Flag(
            "With --op stack or interleave: new layers are copies with their weights, or identities, which change no logit.",
            "Model",
            default="as published: copies with stack, identity with interleave",
            synonyms=("zero_init", "identity_init"),
        ),
    ] = None
    second: Annotated[
        str | None,
        Flag(
            "With --op mixture: another training of the same model, with another seed.",
            "Model",
            metavar="MODEL",
            synonyms=("with", "other", "model2", "model_2"),
        ),
    ] = None
    off_diagonal: Annotated[
        Literal["orthogonal", "zero", "copy", "random"] | None,
        Flag(
            "With --op mixture: what one of the two has of the other at first: mixtures of its layers orthogonal to each of "
            "them, nothing, copies, or random numbers.",
            "Model",
            default="orthogonal, as published",
        ),
    ] = None
    out: Annotated[
        Path, Flag("Folder of the grown model.", "Output", metavar="FOLDER", synonyms=("output_dir", "output"))
    ] = Path("runs/grow")
