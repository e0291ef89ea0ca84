"""The description of a setting. The command line, the reference pages and the signatures of the API are made from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from limbeck.config.values import annotation, is_list, metavar, shown_count

# In the order in which help shows them.
SECTIONS = (
    "Model",
    "Data",
    "Training",
    "On-policy",
    "Comparison",
    "Question",
    "Device",
    "Mixture of layers",
    "Low rank",
    "Measurement",
    "Logit cache",
    "Generated text",
    "Teacher on a server",
    "Machine",
    "Output",
)


@dataclass(frozen=True)
class Flag:
    """The description of a setting. One without a section is an argument by position.

    ``name`` is how it is written where that is not the attribute; ``aliases`` are shown beside it, ``old`` spellings are
    accepted and not shown, ``synonyms`` are only suggested from. ``default`` says in words what
    None means, or when the default is another; {} stands for it. ``off`` is the flag
    that says no; "-" stands for one that can only be given. ``last``: it is shown after the others of its section. ``needs`` is
    the flag without which it may not be given, or "server" for a setting of a teacher on one.
    """

    help: str
    section: str = ""
    name: str = ""
    aliases: tuple[str, ...] = ()
    old: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()
    unit: str = ""
    metavar: str = ""
    examples: tuple[str, ...] = ()
    default: str = ""
    off: str = "-"
    last: bool = False
    needs: str = ""


@dataclass(frozen=True)
class Setting:
    """A field of some settings, with all that is known of it."""

    attribute: str
    info: FieldInfo = field(repr=False)
    flag: Flag

    @property
    def key(self) -> str:
        """Its name in Python and, with dashes or underscores, in a run file."""
        return self.flag.name or self.attribute.rstrip("_")

    @property
    def word(self) -> str:
        """Its name on the command line, without the two dashes."""
        return self.key.replace("_", "-")

    @property
    def positional(self) -> bool:
        """Whether the command line takes it by its place."""
        return not self.flag.section

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.info.is_required()

    @property
    def is_switch(self) -> bool:
        """Whether it is given without a value."""
        return self.annotation == "bool"

    @property
    def many(self) -> bool:
        """Whether the command line takes several words for it."""
        return is_list(self.info.annotation)

    @property
    def annotation(self) -> str:
        """The annotation of the value in Python, without None."""
        return annotation(self.info.annotation, self.info.metadata)

    @property
    def metavar(self) -> str:
        """The name of its value in help."""
        return self.flag.metavar or self.flag.unit.upper() or metavar(self.info.annotation, self.info.metadata)

    @property
    def default(self) -> Any:
        """Its default; None where that is decided later."""
        return None if self.required else self.info.get_default(call_default_factory=True)

    @property
    def default_text(self) -> str:
        """Its default in words; "" where there is none to say."""
        value = self.default
        if value is None or value is False or value == ():
            return self.flag.default
        return (self.flag.default or "{}").replace("{}", self._shown(value))

    def _shown(self, value: Any) -> str:
        if value is True:
            return "yes"
        if isinstance(value, tuple):
            return ("/" if self.metavar == "I/N" else ",").join(map(str, value))
        return shown_count(value) if "COUNT" in metavar(self.info.annotation, self.info.metadata) else str(value)

    def described(self, text: str = "") -> str:
        """The description, with examples and default."""
        text = text or self.flag.help
        if self.flag.needs.startswith("--"):
            text = f"With {self.flag.needs}: {text[0].lower()}{text[1:]}"
        parts = [text]
        if self.flag.examples:
            parts.append(f"For example {_either(self.flag.examples)}.")
        if self.default_text:
            parts.append(f"Default: {self.default_text}.")
        return " ".join(parts)


def _either(examples: tuple[str, ...]) -> str:
    return " or ".join(filter(None, (", ".join(examples[:-1]), examples[-1])))


@cache
def settings_in(kind: type[BaseModel]) -> Mapping[str, Setting]:
    """The described fields of a class of settings, by attribute."""
    return {setting.attribute: setting for setting in _described(kind)}


def _described(kind: type[BaseModel]) -> Iterator[Setting]:
    for name, info in kind.model_fields.items():
        flag = next((item for item in info.metadata if isinstance(item, Flag)), None)
        if flag is None:
            raise TypeError(f"{kind.__name__}.{name} has no Flag: every setting is described")
        yield Setting(name, info, flag)


def spellings(settings: Iterable[Setting]) -> Mapping[str, str]:
    """Every spelling of a key, with underscores, and the name by which pydantic takes it."""
    found = {}
    for setting in settings:
        for word in (setting.attribute, setting.key, *setting.flag.aliases, *setting.flag.old):
            found[word.replace("-", "_")] = setting.info.alias or setting.attribute
    return found


def flag_of(kind: type[BaseModel], attribute: str) -> str:
    """The flag that sets a field, for a message: --seq-len of the field ``length``."""
    return f"--{settings_in(kind)[attribute].word}"


def known_keys(settings: Iterable[Setting]) -> Mapping[str, tuple[str, ...]]:
    """The keys of settings, and what else each is called, here and by other tools."""
    return {
        s.key: tuple(other.replace("-", "_") for other in (*s.flag.aliases, *s.flag.old, *s.flag.synonyms))
        for s in settings
    }
