"""The commands as Python functions: the keys are those of the command line, with underscores.

Each function takes any spelling of a key at run time, and suggests the nearest for a wrong one. The signatures that type checkers
and `help` see are made from the settings: for the first `api.pyi`, which docs/reference/generate.py writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from limbeck import dispatch
from limbeck.config.commands import BY_NAME
from limbeck.config.settings import Base
from limbeck.config.signature import docstring, signature
from limbeck.errors import BadSetting
from limbeck.results import Result

AnySettings = TypeVar("AnySettings", bound=Base)
AnyResult = TypeVar("AnyResult", bound=Result)


def _function(name: str, run: Callable[[AnySettings], AnyResult]) -> Callable[..., AnyResult]:
    """The function of a command. Its arguments are given by name, but for a run file and what the command line takes by place."""
    command = BY_NAME[name]
    places = ["file"] if command.file else [setting.key for setting in command.taken() if setting.positional]

    def call(*given: Any, **keys: Any) -> AnyResult:
        if len(given) > len(places):
            raise BadSetting(f"{name}() takes {len(places)} positional arguments, got {len(given)}: give keys by name")
        keys = _once(dict(zip(places, given, strict=False)), keys)
        file = keys.pop("file", None) if command.file else None
        return run(dispatch.settings_of(name, file, keys))  # type: ignore[arg-type]  # the command's own class

    call.__name__ = call.__qualname__ = name
    call.__doc__ = docstring(command)
    call.__module__ = __name__
    call.__signature__ = signature(command)  # type: ignore[attr-defined]
    return call


def _once(given: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    for key in given.keys() & keys.keys():
        raise BadSetting(f"{key!r} is given by position and by name: give it once")
    return {**given, **keys}


plan = _function("plan", dispatch.plan)
doctor = _function("doctor", dispatch.doctor)
shrink = _function("shrink", dispatch.shrink)
grow = _function("grow", dispatch.grow)
distil = _function("distil", dispatch.distil)
tune = _function("tune", dispatch.tune)
capture = _function("capture", dispatch.capture)
probe = _function("probe", dispatch.probe)
export = _function("export", dispatch.export)
pilot = _function("pilot", dispatch.pilot)
predict = _function("predict", dispatch.predict)
pretrain = _function("pretrain", dispatch.pretrain)
reproduce = _function("reproduce", dispatch.reproduce)
