"""The criterion of a recipe as a digest, so that no change of a criterion after its first results stays unseen.

The digest is computed from the source: a recipe's `run` and its functions ``judge...``, with every function, class and constant
that they name, and so on. Comments, docstrings and format do not count. Trainings (files that import torch or `lab.lines`, and a
few names) and what is only displayed are left out. The values that a run's scale sets, such as its grid, count.

Names and places do not count. A definition appears in others by its content, and a local variable by its number. So code can
move to another file, or be renamed, with the same criterion.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import cache
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

from limbeck.papers.lab.recipe import Recipe

REGISTER = Path(__file__).parent / "criteria.json"
PACKAGE = Path(__file__).parents[2]
_FOLLOWED = ("limbeck.papers", "limbeck.probes", "limbeck.planning", "limbeck.jobs.pilot.results")
_DRAWS = "limbeck.papers.lab.plots"
_LINES = "limbeck.papers.lab.lines"  # trainings that need not import torch themselves
_SHOWN = {"_ours", "_numbers", "_figures"}  # in a recipe's file: they only display
_RUN = {"evidence", "train_ladder", "TrainedLadder", "climb"}  # they train, or read results
_SCALES = {"SCALES", "SIZES", "LADDERS", "_SIZES"}  # these count by value, for the run's scale only
_LEFT_OUT = _SHOWN | _RUN | _SCALES

Place = tuple[str, str]  # a module and the name of a definition in it


@dataclass(frozen=True)
class Criterion:
    """``digest`` of all that decides. ``parts``: the digest of each definition by name, without those that it names."""

    digest: str
    parts: Mapping[str, str]


@dataclass(frozen=True)
class Entry:
    """An entry of the register: the date ``since`` (ISO 8601), the reason ``why``, and the seeds that had been ``seen`` then."""

    since: str
    why: str
    seen: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Source:
    """A module: its definitions by name, the origins of imported names, and whether it trains."""

    defined: Mapping[str, ast.stmt]
    imported: Mapping[str, tuple[str, str]]
    trains: bool


def criterion_of(recipe: Recipe, scale: str) -> Criterion:
    """The criterion of a recipe at a scale, from the current code."""
    module = recipe.run.__module__
    roots = [(module, name) for name in _source(module).defined if name == "run" or name.startswith("judge")]
    read = _Read()
    whole = sorted(read.whole(root) for root in roots)
    scaled = _digest(_values(recipe.scales[scale]))
    parts = {".".join(place).removeprefix("limbeck."): _digest(own) for place, (own, _) in read.seen.items()}
    return Criterion(_digest([whole, scaled], 16), dict(sorted((parts | {"scale": scaled}).items())))


def definitions_digest(parts: Sequence[str]) -> str:
    """The digest of all that modules of limbeck define, or of one definition with what it names ("module:name").

    A study with a criterion of its own has it of how it measures.
    """
    read, places = _Read(), list[Place]()
    for part in parts:
        module, _, name = part.partition(":")
        places += [(module, one) for one in ([name] if name else _source(module).defined)]
    return _digest([read.whole(place) for place in places], 16)


def entry_of(recipe: str, scale: str, digest: str) -> Entry | None:
    """The entry of the register for a criterion; None if it has none of that digest."""
    found = _found(recipe, scale, digest)
    return found and Entry(found["since"], found["why"], tuple(found["seen"]))


def digest_today(recipe: str, scale: str, digest: str) -> str:
    """The current digest of a criterion, from one that an earlier version of limbeck computed in another way."""
    found = _found(recipe, scale, digest)
    return found["digests"][scale] if found else digest


def _found(recipe: str, scale: str, digest: str) -> Any:
    entries = json.loads(REGISTER.read_text(encoding="utf-8")).get(recipe, [])
    return next(
        (one for one in reversed(entries) if digest in (one["digests"].get(scale), one.get("formerly", {}).get(scale))),
        None,
    )


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """The parts that differ between two criteria, or that only one has. A renamed part is not one of them."""
    gone, new = before.keys() - after.keys(), after.keys() - before.keys()
    renamed = {before[name] for name in gone} & {after[name] for name in new}
    differ = (name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return sorted(name for name in differ if not {before.get(name), after.get(name)} & renamed)


class _Read:
    """Definitions by content: each alone (``seen``, with the places that it names), and each with all that it names."""

    def __init__(self) -> None:
        self.seen: dict[Place, tuple[Any, tuple[Place, ...]]] = {}
        self._wholes: dict[Place, str] = {}

    def whole(self, place: Place, above: tuple[Place, ...] = ()) -> str:
        """The digest of a definition with all that it names. A cycle is represented by the number of levels to its start."""
        if place in above:
            return f"above {len(above) - above.index(place)}"
        if place not in self._wholes:
            own, named = self.own(place)
            below = [self.whole(one, (*above, place)) for one in named]
            digest = _digest([own, below])
            if any(one.startswith("above") for one in below):  # its digest depends on the start of the cycle
                return digest
            self._wholes[place] = digest
        return self._wholes[place]

    def own(self, place: Place) -> tuple[Any, tuple[Place, ...]]:
        """A definition without names, and the places of the definitions that it names and that are followed."""
        if place not in self.seen:
            module, name = place
            plain = _Plain(module, name)
            self.seen[place] = plain.definition(_source(module).defined[name]), tuple(plain.named)
        return self.seen[place]


class _Plain:
    """A definition as lists and text, equal on every Python: without places, docstrings, names and left-out parts."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name
        self.named: list[Place] = []
        self._bound: set[str] = set()
        self._locals: list[str] = []

    def definition(self, node: ast.stmt) -> Any:
        """The whole definition. Names that it binds are local, even if they have a meaning elsewhere."""
        self._bound = {name for inner in ast.walk(node) for name in _binds(inner)} - {self.name}
        return self._plain(node)

    def _plain(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self._plain(one) for one in node if not _is_text(one)]
        if not isinstance(node, ast.AST):
            return repr(node)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found = self._of_module(node.value.id, node.attr)
            if found is not None:
                return found
        if isinstance(node, ast.Name):
            return self._name(node.id)
        if isinstance(node, ast.ImportFrom):  # inside a function: its names are local and not followed
            return ["import", [_elsewhere(node.module or "", one.name, "") for one in node.names]]
        constant = isinstance(node, ast.Constant)
        fields = {
            name: self._field(node, name, value)
            for name, value in ast.iter_fields(node)
            if name not in {"ctx", "kind", "type_comment"} and (constant or value not in (None, []))
        }
        return [type(node).__name__, fields]

    def _field(self, node: ast.AST, name: str, value: Any) -> Any:
        if isinstance(node, ast.ClassDef) and name == "body":  # its members are used by name from outside, and count
            return [[_member(one), self._plain(one)] for one in value if not _is_text(one)]
        named = isinstance(node, ast.FunctionDef | ast.ClassDef) and name == "name"
        return self._name(value) if named or (isinstance(node, ast.arg) and name == "arg") else self._plain(value)

    def _name(self, name: str) -> Any:
        source = _source(self.module)
        if name == self.name:
            return ["itself"]
        if name in self._bound or name not in source.defined.keys() | source.imported.keys():
            return name if hasattr(builtins, name) and name not in self._bound else self._local(name)
        return self._followed(name) or (
            ["left out"] if name in source.defined else _elsewhere(*source.imported[name], "")
        )

    def _of_module(self, first: str, attribute: str) -> Any:
        """An attribute of an imported module; None if the name is not a module."""
        source = _source(self.module)
        if first in self._bound or first not in source.imported:
            return None
        whence, there = source.imported[first]
        if not _of_house(whence, self.module) or _file(f"{whence}.{there}") is None:
            return None
        return self._followed(f"{first}.{attribute}") or _elsewhere(whence, there, attribute)

    def _followed(self, name: str) -> Any:
        if name.rpartition(".")[2] in _LEFT_OUT:
            return ["left out"]
        place = _place(self.module, name)
        if place is None:
            return None
        if place not in self.named:
            self.named.append(place)
        return ["named", self.named.index(place)]

    def _local(self, name: str) -> Any:
        if name not in self._locals:
            self._locals.append(name)
        return ["local", self._locals.index(name)]


def _is_text(node: Any) -> bool:
    """Whether a statement is a docstring, or another string without effect."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _binds(node: ast.AST) -> tuple[str, ...]:
    """The names that a node binds."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return (node.id,)
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return (node.name,)
    if isinstance(node, ast.alias):
        return (node.asname or node.name,)
    return (node.arg,) if isinstance(node, ast.arg) else ()


def _member(node: ast.stmt) -> str | None:
    target = node.target if isinstance(node, ast.AnnAssign) else None
    return getattr(node, "name", target.id if isinstance(target, ast.Name) else None)


def _elsewhere(whence: str, there: str, attribute: str) -> list[str]:
    """The name of an import that is not followed. Limbeck's own are left out: they train or display."""
    return ["left out"] if whence.split(".")[0] == "limbeck" else ["of", whence, there, attribute]


def _place(module: str, name: str) -> Place | None:
    """The place where a name of a module is defined; None if it is not followed."""
    if not _followed(module, module):
        return None
    source, (first, _, attribute) = _source(module), name.partition(".")
    if name in source.defined:
        return module, name
    if first not in source.imported:
        return None
    whence, there = source.imported[first]
    if attribute:  # of modules only: other attributes belong to a definition, which counts as a whole
        inner = f"{whence}.{there}"
        return _place(inner, attribute) if _file(inner) and _followed(inner, module) else None
    return None if there in _LEFT_OUT or not _followed(whence, module) else _place(whence, there)


def _followed(module: str, importer: str) -> bool:
    """Whether the definitions of a module are part of a criterion: some folders of limbeck, and a paper's own package."""
    package = module.partition(".")[0]
    inside = package != "limbeck" or any(module == part or module.startswith(f"{part}.") for part in _FOLLOWED)
    return inside and _of_house(module, importer) and module != _DRAWS and not _source(module).trains


def _of_house(module: str, importer: str) -> bool:
    """Whether a module is limbeck's, or of the package that imports it."""
    return module.partition(".")[0] in ("limbeck", importer.partition(".")[0])


@cache
def _source(module: str) -> _Source:
    file = _file(module)
    assert file is not None, module
    defined: dict[str, ast.stmt] = {}
    imported: dict[str, tuple[str, str]] = {}
    trains = False
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets: Sequence[ast.expr] = node.targets if isinstance(node, ast.Assign) else [node.target]
            defined |= {n.id: node for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
        elif isinstance(node, ast.ImportFrom):
            folder = module if file.name == "__init__.py" else module.rpartition(".")[0]
            whence = resolve_name("." * node.level + (node.module or ""), folder)
            imported |= {name.asname or name.name: (whence, name.name) for name in node.names}
            trains |= whence.partition(".")[0] == "torch" or _LINES in (
                whence,
                *(f"{whence}.{one.name}" for one in node.names),
            )
        elif isinstance(node, ast.Import):
            trains |= any(name.name.partition(".")[0] == "torch" for name in node.names)
    return _Source(defined, imported, trains)


def _file(module: str) -> Path | None:
    """The file of one of limbeck's modules, or of an imported one of a paper's package; None for others."""
    package, *rest = module.split(".")
    if package != "limbeck":
        found = sys.modules.get(module)
        name = getattr(found, "__file__", None)
        return Path(name) if name and name.endswith(".py") else None
    place = PACKAGE.joinpath(*rest)
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


def _values(scale: Any) -> Any:
    if is_dataclass(scale) and not isinstance(scale, type):
        return asdict(scale)
    return scale


def _digest(value: Any, length: int = 8) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
