"""The signature and docstring of a command as a Python function, made from its settings."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from textwrap import fill
from typing import Any

from limbeck.config.commands import Command
from limbeck.config.flag import Setting

FILE = "A TOML run file with the same keys; keys given here win."


def parameters(command: Command) -> Iterator[inspect.Parameter]:
    """The parameters: a run file where the command takes one, arguments by position, then keywords.

    Annotations are text. None is accepted for every keyword, and is as if it was not given.
    """
    if command.file:
        kind = "str | PathLike[str] | None"
        yield inspect.Parameter("file", inspect.Parameter.POSITIONAL_ONLY, default=None, annotation=kind)
    for setting in settings(command):
        place = inspect.Parameter.POSITIONAL_OR_KEYWORD if setting.positional else inspect.Parameter.KEYWORD_ONLY
        if setting.required:
            yield inspect.Parameter(setting.key, place, annotation=setting.annotation)
        else:
            annotation = f"{setting.annotation} | None"
            yield inspect.Parameter(setting.key, place, default=shown_default(setting), annotation=annotation)


def settings(command: Command) -> Iterator[Setting]:
    """The settings that a Python caller gives: all but the form of what is printed."""
    return (setting for setting in command.taken() if setting.key != "json")


def shown_default(setting: Setting) -> Any:
    """A default as a Python caller would write it; None where it is decided later."""
    value = setting.default
    if isinstance(value, tuple):
        return (
            None if not value else f"{value[0]}/{value[1]}" if setting.metavar == "I/N" else ",".join(map(str, value))
        )
    return value.as_posix() if isinstance(value, Path) else value


def signature(command: Command) -> inspect.Signature:
    """The whole signature, of which the annotations are text."""
    return inspect.Signature(list(parameters(command)), return_annotation=command.result)


def docstring(command: Command) -> str:
    """The docstring: the function and each parameter."""
    given = {"file": FILE} if command.file else {}
    given |= {setting.key: command.described(setting) for setting in settings(command)}
    args = "\n".join(fill(f"    {key}: {text}", subsequent_indent=" " * 8, **_WRAP) for key, text in given.items())
    raises = "Raises a `limbeck.LimbeckError` that names the mistake and what to do."
    parts = [command.summary, fill(command.details, **_WRAP), f"Args:\n{args}", raises]
    return "\n\n".join(filter(None, parts))


_WRAP: dict[str, Any] = {"width": 110, "break_long_words": False, "break_on_hyphens": False}
