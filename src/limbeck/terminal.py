"""Shows text from outside on a terminal literally, never as commands.

The name of a folder, server or file may be ``[red]`` or contain an escape sequence. Rich's markup is off unless a line asks
for it, and control characters are shown as escapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

# C0 and C1 except tab and line feed, and the marks that change the writing direction
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    r"""The text with control characters written as escapes (``\x1b``), so that a terminal does not execute them."""
    return _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


class Terminal(Console):
    """Rich's console without markup, emoji names and control characters."""

    def __init__(self, **keys: Any) -> None:
        super().__init__(**({"markup": False, "emoji": False, "highlight": False} | keys))

    def render_str(self, text: str, **keys: Any) -> Text:
        """As Console.render_str."""
        return super().render_str(visible(text), **keys)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As Console.render; also texts and cells of tables, which do not pass `render_str`."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)
