"""Settings of `limbeck push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from limbeck.config.flag import Flag
from limbeck.config.settings.common import Base


class PushSettings(Base):
    """The keys of `limbeck push`, which are also its flags."""

    model: Annotated[Path, Flag("Folder of a student, or of an export.")]
    repo: Annotated[
        str,
        Flag(
            "Repository of the Hugging Face hub: NAME or OWNER/NAME; it is made where it is not there.",
            "Output",
            metavar="NAME",
            synonyms=("repo_id", "hub_model_id", "hub_id"),
        ),
    ]
    public: Annotated[bool, Flag("Publish for everybody; otherwise the repository is private.", "Output")] = False
    dry_run: Annotated[bool, Flag("Send nothing, and print what would be sent.", "Output")] = False
