"""What must not be repeated in a message, a log or a file: API keys, and passwords in addresses.

Whatever a user, a server or a library wrote may hold one: the command line of a run, the words of a server that refuses a key,
the address in an error. All that is printed or kept of these goes through `scrubbed`.
"""

from __future__ import annotations

import os
import re

API_KEYS = ("LIMBECK_API_KEY", "OPENAI_API_KEY")
_SECRETS = (*API_KEYS, "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_HIDDEN = "***"
_SHORTEST = 6  # characters of a key that is looked for in texts; a shorter one would be found in words
_PATTERNS = (
    (re.compile(r"(\w://)\S*@"), rf"\1{_HIDDEN}@"),  # user and password, which may hold any sign
    (re.compile(r"(\w://[^\s?]*)\?[^\s#]*"), rf"\1?{_HIDDEN}"),
    (re.compile(r"(?i)((?:api[-_]?key|token|secret|password|signature)=)[^\s&#]+"), rf"\1{_HIDDEN}"),
    (re.compile(r"(?i)(bearer\s+)[\w.~+/=-]{6,}"), rf"\1{_HIDDEN}"),
)


def scrubbed(text: str) -> str:
    """A text without the keys of the environment, and without users, passwords and queries of addresses in it."""
    for secret in _secrets():
        text = text.replace(secret, _HIDDEN)
    for pattern, shown in _PATTERNS:
        text = pattern.sub(shown, text)
    return text


def _secrets() -> list[str]:
    """The pieces between blanks of all keys, longest first: a library may show a key without its line break."""
    pieces = {piece for name in _SECRETS for piece in os.environ.get(name, "").split() if len(piece) >= _SHORTEST}
    return sorted(pieces, key=len, reverse=True)
