"""What is shown on a terminal: names and words from outside as they are, never as commands to it.

A folder, a server or a file may be called ``[red]`` or hold an escape sequence. Rich's markup is off here unless a line asks for
it, and control characters are written out.
"""

from __future__ import annotations

import re
from typing import Any

from rich.console import Console
from rich.text import Text

# C0 and C1 but for tab and line feed, and the marks that turn the direction of writing
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    r"""A text with control characters written as escapes (``\x1b``), so that it does nothing where it is shown."""
    return _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


class Terminal(Console):
    """Rich's console, to which text is text: no markup, no emoji names, no control characters."""

    def __init__(self, **keys: Any) -> None:
        super().__init__(**({"markup": False, "emoji": False, "highlight": False} | keys))

    def render_str(self, text: str, **keys: Any) -> Text:
        """As Console.render_str."""
        return super().render_str(visible(text), **keys)
