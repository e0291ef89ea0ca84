"""The kinds of teacher that a user can give, parsed once: a local model, captured logits, or a model on a server.

Commands parse the setting into one of these values, and no later code examines the text. A new kind of teacher is a class here, a
line of `teacher_ref`, and a case in each job; mypy reports the jobs that lack the case.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from limbeck.config import require_one_teacher
from limbeck.disk import existing
from limbeck.errors import BadSetting
from limbeck.teachers.remote.http import Address, is_served

ANSWERS, DESCRIPTION = (
    "answers",
    "teacher",
)  # folders in a capture: the logits, and the teacher without its weights
VOCABULARY = "vocabulary"  # in the folder of a run or a capture: the trimmed vocabulary of its teacher


SERVED_EXTRA = (
    2  # tokens of a server's context that a row needs besides its own: the last target and one generated token
)


@dataclass(frozen=True)
class LocalRef:
    """A model's folder, file or hub id; ``name`` is what the user gave.

    ``vocabulary`` is the folder of its trimmed vocabulary, which describes it then; None where it has all its tokens.
    """

    name: str
    vocabulary: Path | None = None
    has_weights: ClassVar[bool] = True
    has_full_logits: ClassVar[bool] = True
    extra_tokens: ClassVar[int] = 0

    @property
    def config_source(self) -> str | Path:
        """The model whose configuration and tokenizer describe the teacher."""
        return self.vocabulary or self.name


@dataclass(frozen=True)
class CapturedRef:
    """A folder that `limbeck capture` wrote, whole or begun: the text in tokens, the logits, the teacher's description.

    ``trimmed`` is the folder of a vocabulary to which logits over all tokens are restricted; None where they are as captured.
    """

    name: str
    folder: Path
    trimmed: Path | None = None
    has_weights: ClassVar[bool] = False
    has_full_logits: ClassVar[bool] = False
    extra_tokens: ClassVar[int] = 0

    @property
    def config_source(self) -> str | Path:
        """The description in the folder: configuration and tokenizer, no weights."""
        return self.trimmed or self.folder / DESCRIPTION

    @property
    def vocabulary(self) -> Path | None:
        """The folder of the trimmed vocabulary that the logits are over; None where they are over all tokens."""
        folder = self.trimmed or self.folder / VOCABULARY
        return folder if folder.is_dir() else None


@dataclass(frozen=True)
class ServedRef:
    """A model on a server, given as http://HOST:PORT/v1#MODEL; ``tokenizer`` names its configuration and tokenizer."""

    name: str
    tokenizer: str | None = None
    has_weights: ClassVar[bool] = False
    has_full_logits: ClassVar[bool] = False
    extra_tokens: ClassVar[int] = SERVED_EXTRA
    vocabulary: ClassVar[None] = None

    @cached_property
    def address(self) -> Address:
        """Host, port, path and model. Raises BadSetting if the text is no such address."""
        return Address.of(self.name)

    @property
    def config_source(self) -> str | Path:
        """The value of --tokenizer. Raises BadSetting if it is missing, or if the address cannot be parsed."""
        _ = self.address
        if self.tokenizer is None:
            raise BadSetting(
                f"--teacher {self.name}: text is tokenised locally, and a server does not give its tokenizer: give the "
                "folder or hub id of the model's configuration and tokenizer (its weights are not needed) with --tokenizer"
            )
        return self.tokenizer


TeacherRef = LocalRef | CapturedRef | ServedRef


def teacher_ref(name: str, tokenizer: str | None = None) -> TeacherRef:
    """Parses --teacher of one teacher. Raises BadSetting for several, and for a ``tokenizer`` of one that has its own."""
    require_one_teacher(name)
    if is_served(name):
        return ServedRef(name, tokenizer)
    if tokenizer is not None:
        raise BadSetting(f"--tokenizer {tokenizer}: only a teacher on a server needs it; {name} has its own")
    return CapturedRef(name, Path(name).expanduser()) if is_capture(name) else LocalRef(name)


def computed_here(teacher: TeacherRef) -> str | Path | None:
    """The model whose configuration describes what a teacher computes on this machine; None for one on a server."""
    return None if isinstance(teacher, ServedRef) else teacher.config_source


def is_capture(name: str | Path) -> bool:
    """Whether a folder contains captured logits, complete or begun."""
    folder = existing(name)
    return folder is not None and (folder / ANSWERS).is_dir() and (folder / DESCRIPTION).is_dir()
