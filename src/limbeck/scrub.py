"""Removes API keys and passwords from messages, logs and files.

Any text from a user, a server or a library may contain one: the command line of a run, a server's error message, the address
in an exception. All of these go through `scrubbed` before they are printed or stored, and through `without_folders` before they
are published.
"""

from __future__ import annotations

import os
import re

API_KEYS = ("LIMBECK_API_KEY", "OPENAI_API_KEY")
_TRACKERS = ("WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD")
_SECRETS = (*API_KEYS, *_TRACKERS, "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_HIDDEN = "***"
_SHORTEST = 6  # characters of a key to search for; a shorter one would match ordinary words
# What stands before an @ and is no user: the container of abfs://container@account, a data set of hf:// before its revision
_NO_USER = r"(?:(?:(?<=abfs://)|(?<=abfss://))[\w$-]+|(?<=hf://)[\w.-]+/[\w./-]+)@[\w.-]+(?![^\s/,;:])"
# Where the next source of a list begins; before it a password may contain any character
_NEXT = r"[,;]\s*(?:[\w.]+:\s*)?(?:hf|s3a?|gs|gcs|az|abfss?|https?|ftp|file|local|memory|simplecache|filecache|zip|tar):(?://|:)"
_WORD = r"[^\s/,;]"
IN_VALUES = r"[^\n/,;]"
# An absolute path but its last name, also behind file:// and behind a colon, which is not that of an address elsewhere. Its first
# name begins with no blank, so that "a / b / c" is no path.
_FOLDERS = (
    r"(?:(?:file|local)://(?:localhost)?(?=[~/.])|(?<![\w:/.])|(?<=:)(?!//))(?:~|\.{{0,2}})/+(?!\s)(?:{0}+/+)+(?={0})"
)
_PATTERNS = (
    (re.compile(rf"(\w://)(?!{_NO_USER})(?:(?!{_NEXT})\S)*@"), rf"\1{_HIDDEN}@"),
    (re.compile(r"(\w://[^\s?]*)\?[^\s#]*"), rf"\1?{_HIDDEN}"),
    (re.compile(r"(?i)((?:api[-_]?key|token|secret|password|signature)=)[^\s&#]+"), rf"\1{_HIDDEN}"),
    (re.compile(r"(?i)(bearer\s+)[\w.~+/=-]{6,}"), rf"\1{_HIDDEN}"),
)


def scrubbed(text: str) -> str:
    """The text with API keys of the environment, and users, passwords and queries of addresses, replaced by ``***``."""
    for secret in _secrets():
        text = text.replace(secret, _HIDDEN)
    for pattern, shown in _PATTERNS:
        text = pattern.sub(shown, text)
    return text


def without_folders(text: str, *, of: str = _WORD) -> str:
    """A text without the folders of this machine in it, of which only the last names are left: it may be published.

    ``of`` matches the characters of a folder's name. In a sentence a blank ends it; of a value alone give ``IN_VALUES``.
    """
    return re.sub(_FOLDERS.format(of), "", text)


def _secrets() -> list[str]:
    """All keys, split at whitespace, longest first. A library may print a key without its line break."""
    pieces = {piece for name in _SECRETS for piece in os.environ.get(name, "").split() if len(piece) >= _SHORTEST}
    return sorted(pieces, key=len, reverse=True)
