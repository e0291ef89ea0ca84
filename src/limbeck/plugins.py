"""Registries of named things that packages can add: objectives, mixers, probes, sources, exporters and papers.

Each kind is a `Registry`. Of limbeck's own the names are read off the source: a definition with the kind's decorator, such as
``@mixer("gdn")``, or a folder of a paper, is all that adds one. Another package adds one by an entry point of the group
``limbeck.KIND``. Names are listed without importing anything; a module is imported when one of its names is looked up.
"""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from limbeck.errors import BadPlugin, LimbeckError

T = TypeVar("T")
ROOT = Path(__file__).parent


class Registry(Mapping[str, T], Generic[T]):
    """Everything of a kind by name: a mapping whose values are imported when they are looked up.

    ``own`` gives limbeck's names, each with "module:attribute". ``check`` gives what is wrong with a value that a package
    added, "" if nothing. Looking up or listing raises BadPlugin where two packages, or a package and limbeck, give one name.
    """

    def __init__(self, kind: str, own: Callable[[], Mapping[str, str]], check: Callable[[str, object], str]) -> None:
        self.kind, self.group = kind, f"limbeck.{kind}s"
        self._find_own, self._check = own, check
        self._loaded: dict[str, T] = {}

    @cached_property
    def own(self) -> Mapping[str, str]:
        """Limbeck's own names, and where each is."""
        return self._find_own()

    @cached_property
    def added(self) -> Mapping[str, EntryPoint]:
        """The names that other packages add, and where each is. Raises BadPlugin where one stands for two things."""
        found: dict[str, EntryPoint] = {}
        for entry in sorted(entry_points(group=self.group), key=lambda one: (one.name, package_of(one))):
            if entry.name in self.own:
                raise BadPlugin(
                    f"the package {package_of(entry)} adds the {self.kind} {entry.name!r}, which limbeck has itself: uninstall "
                    "it, or give it another name in its entry points"
                )
            if entry.name in found and entry.value != found[entry.name].value:
                raise BadPlugin(
                    f"the packages {package_of(found[entry.name])} and {package_of(entry)} both add the {self.kind} "
                    f"{entry.name!r}: uninstall one of them"
                )
            found[entry.name] = entry
        return found

    def __getitem__(self, name: str) -> T:
        if name not in self._loaded:
            if name in self.added:
                self._loaded[name] = self._of_package(self.added[name])
            else:
                module, _, attribute = self.own[name].partition(":")
                self._loaded[name] = getattr(import_module(module), attribute)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.own
        yield from self.added

    def __len__(self) -> int:
        return len(self.own) + len(self.added)

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in self.added

    def unknown(self, name: str) -> str:
        """Says that there is none of this name, the nearest that there is, and all."""
        near = difflib.get_close_matches(name, list(self), n=1, cutoff=0.5)
        meant = f"; did you mean {near[0]!r}?" if near else "."
        return f"unknown {self.kind} {name!r}{meant} There are: {', '.join(self)}."

    @contextmanager
    def blamed(self, name: str) -> Iterator[None]:
        """While something of a package runs: what it raises, but for errors of limbeck, is a BadPlugin that names the package."""
        try:
            yield
        except LimbeckError:
            raise
        except Exception as error:
            if name not in self.added:
                raise
            frames = traceback.extract_tb(error.__traceback__)
            package = package_of(self.added[name])
            raise BadPlugin(
                f"the {self.kind} {name!r} of the package {package} failed with {type(error).__name__}: {error} "
                f"({frames[-1].filename}:{frames[-1].lineno}). Update {package}, or uninstall it"
            ) from error

    def refresh(self) -> None:
        """Forgets what packages are installed, and looks again at the next use."""
        self.__dict__.pop("added", None)
        self._loaded.clear()

    def _of_package(self, entry: EntryPoint) -> T:
        package = package_of(entry)
        what = f"the {self.kind} {entry.name!r} of the package {package} ({entry.value})"
        try:
            found: T = entry.load()
        except Exception as error:
            raise BadPlugin(
                f"{what} cannot be imported: {type(error).__name__}: {error}. Update {package}, or uninstall it"
            ) from error
        if wrong := self._check(entry.name, found):
            raise BadPlugin(f"{what} cannot be used: {wrong}. Update {package}, or uninstall it")
        return found


def package_of(entry: EntryPoint) -> str:
    """The package that an entry point is of, with its version."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else entry.module


@dataclass(frozen=True)
class Marked:
    """Own definitions of a folder that a decorator marks: ``@word`` or ``@word("name")``, found in the source."""

    folder: str
    word: str

    def __call__(self) -> Mapping[str, str]:
        """Each name, that in the decorator or else of the definition, with "module:attribute"."""
        # a line of the decorator, other decorators, then the definition; all at the left margin
        text = rf'^@{self.word}(?:\("(?P<name>[^"]+)".*\))?\n(?:@.*\n)*(?:class|def) (?P<attribute>\w+)'
        pattern = re.compile(text, re.MULTILINE)
        found: dict[str, str] = {}
        for file in sorted((ROOT / self.folder).rglob("*.py")):
            module = ".".join(("limbeck", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
            for match in pattern.finditer(file.read_text(encoding="utf-8")):
                name = match["name"] or match["attribute"]
                assert name not in found, f"{module}:{match['attribute']} and {found[name]} have one name, {name}"
                found[name] = f"{module}:{match['attribute']}"
        return dict(sorted(found.items(), key=lambda one: one[0].casefold()))


def papers() -> Mapping[str, str]:
    """The names of limbeck's own papers, with dashes. Each folder except lab is one, with ``RECIPE`` in its recipe.py."""
    files = sorted((ROOT / "papers").glob("*/recipe.py"))
    folders = [file.parent.name for file in files if file.parent.name != "lab"]
    return {folder.replace("_", "-"): f"limbeck.papers.{folder}.recipe:RECIPE" for folder in folders}


def _wrong_probe(name: str, found: object) -> str:
    return "" if callable(found) else "expected a function of (model, teacher, context) that gives readings"


# This and `papers` are here and not in their folders, since settings know the names before torch is loaded.
PROBES: Registry[Any] = Registry("probe", Marked("probes", "probe"), _wrong_probe)
