"""Settings from a TOML file and flags: flags win, and a key or value that is wrong is an error, never ignored."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from limbeck.config.flag import Setting, known_keys, settings_in, spellings
from limbeck.config.names import likely
from limbeck.errors import BadSetting

AnySettings = TypeVar("AnySettings", bound=BaseModel)


def resolve(
    kind: type[AnySettings], file: Path | None, flags: Mapping[str, Any], *, taken: Iterable[Setting] | None = None
) -> AnySettings:
    """The settings of a TOML file, overridden by the flags that were given (those that are not None).

    ``taken`` are those that a command looks at; any other is an unknown key. None: all of the class.
    Raises BadSetting for a file that cannot be read, and for a key or value that is wrong.
    """
    settings = tuple(settings_in(kind).values() if taken is None else taken)
    values: dict[str, Any] = {}
    if file is not None:
        values = _keyed(settings, {key.replace("-", "_"): value for key, value in _toml(file).items()}, f"{file}: ")
    values |= _keyed(settings, {key: value for key, value in flags.items() if value is not None}, "")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise BadSetting("\n".join(_explain(kind, item) for item in error.errors())) from error


def _keyed(settings: Iterable[Setting], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The given values by field name, whichever spelling each key has."""
    names, values = spellings(settings), {}
    for key, value in given.items():
        if key not in names:
            known = known_keys(settings)
            meant = likely(key, known)
            hint = f"; did you mean {meant!r}?" if meant else "."
            raise BadSetting(f"{where}unknown key {key!r}{hint} The keys are: {', '.join(sorted(known))}.")
        if names[key] in values:
            raise BadSetting(f"{where}{key!r} is another spelling of a key that is given too: give it once")
        values[names[key]] = value
    return values


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadSetting(f"no run file {file}: give the path of a TOML file, or flags alone") from error
    except (ValueError, IsADirectoryError) as error:  # also of a number of thousands of digits
        if file.suffix.lower() != ".toml":
            raise BadSetting(
                f"{file}: expected a TOML run file, since no flag stands before it, and it is none. Give a dataset with --data "
                f"{file}, and several with commas: --data first.jsonl,{file.name}"
            ) from error
        raise BadSetting(f'{file} is no TOML run file: {error}. Write lines such as: tokens = "2M"') from error


_REASONS = {  # of pydantic's own checks, in the words of ours
    "Input should be a valid integer, unable to parse string as an integer": "expected a whole number",
    "Input should be a valid number, unable to parse string as a number": "expected a number",
    "Input should be greater than or equal to ": "expected at least ",
    "Input should be less than or equal to ": "expected at most ",
    "Input should be greater than ": "expected more than ",
    "Input should be less than ": "expected less than ",
    "Input should be ": "expected ",
}


def _explain(kind: type[BaseModel], item: Any) -> str:
    name = str(item["loc"][0]) if item["loc"] else ""
    setting = next((s for s in settings_in(kind).values() if name in (s.attribute, s.info.alias)), None)
    word = setting.word if setting else name.replace("_", "-")
    flag = word.upper() if setting and setting.positional else f"--{word}"
    if item["type"] == "missing":
        return f"{flag}: it is needed and was not given"
    reason = item["msg"].removeprefix("Value error, ")
    for theirs, ours in _REASONS.items():
        reason = reason.replace(theirs, ours)
    came = f"{item['input']!r}"
    return f"{flag}: {reason}" if f"got {came}" in reason else f"{flag}: {reason.removesuffix('.')}, got {came}"
