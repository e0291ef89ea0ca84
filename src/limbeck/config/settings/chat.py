"""Settings of `limbeck chat`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from limbeck.config.flag import Flag
from limbeck.config.settings.common import Settings
from limbeck.config.values import Count


class ChatSettings(Settings):
    """The keys of `limbeck chat`, which are also its flags."""

    model: Annotated[str, Flag("Folder or hub id of the model.")]
    beside: Annotated[
        str | None,
        Flag(
            "Another model that answers beside it, such as the teacher: folder or hub id.",
            "Generated text",
            metavar="MODEL",
            synonyms=("teacher", "teacher_model", "compare_with"),
        ),
    ] = None
    max_new_tokens: Annotated[
        Count,
        Field(ge=1),
        Flag("The longest answer.", "Generated text", unit="tokens", synonyms=("max_completion_length", "max_tokens")),
    ] = 256
    temperature: Annotated[
        float,
        Field(ge=0, le=100),
        Flag("Sampling temperature; 0 takes the likeliest token.", "Generated text"),
    ] = 0.0
