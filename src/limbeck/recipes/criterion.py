"""What a recipe judges by, as a digest: so that no criterion changes after results were seen without being seen to.

It is read off the source. A recipe's `run` and its functions ``judge...`` are followed to every function, class and constant that
they name, and so on; comments, docstrings and format do not count. Left out is what trains (files that import torch, and a few
names) and what only shows. What the scale of a run sets, such as its grid, counts by value.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from limbeck.recipes.recipe import Recipe

REGISTER = Path(__file__).parent / "criteria.json"
PACKAGE = Path(__file__).parents[1]
_FOLLOWED = ("limbeck.recipes", "limbeck.probes", "limbeck.plan", "limbeck.jobs.pilot.results")
_DRAWS = "limbeck.recipes.drawing"
_SHOWN = {"_ours", "_numbers", "_figures"}  # of a recipe's file: they only show
_RUN = {"evidence", "bench", "Bench", "climb"}  # they train, or read what was trained
_SCALES = {"SCALES", "SIZES", "LADDERS", "_SIZES"}  # these count by value, of the run's scale alone


@dataclass(frozen=True)
class Criterion:
    """``digest`` of all that decides, and that of each of its ``parts`` by name, so that a change can be said."""

    digest: str
    parts: Mapping[str, str]


@dataclass(frozen=True)
class Entry:
    """The register on a criterion: ``since`` when it stands (ISO 8601), ``why``, and which seeds had been ``seen`` then."""

    since: str
    why: str
    seen: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Source:
    """A module: its definitions by name, where imported names come from, and whether it imports torch."""

    defined: Mapping[str, ast.stmt]
    imported: Mapping[str, tuple[str, str]]
    trains: bool


def criterion_of(recipe: Recipe, scale: str) -> Criterion:
    """What a recipe judges by at a scale, as the code says now."""
    parts = {name.removeprefix("limbeck."): _digest(_plain(node)) for name, node in _reached(recipe.run.__module__)}
    parts["scale"] = _digest(_values(recipe.scales[scale]))
    return Criterion(_digest(parts, 16), dict(sorted(parts.items())))


def entry_of(recipe: str, scale: str, digest: str) -> Entry | None:
    """What the register says of a criterion; None where it has none of that digest."""
    entries = json.loads(REGISTER.read_text(encoding="utf-8")).get(recipe, [])
    found = next((one for one in reversed(entries) if one["digests"].get(scale) == digest), None)
    return found and Entry(found["since"], found["why"], tuple(found["seen"]))


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """The parts that two criteria do not have in common or not alike."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _reached(module: str) -> Iterator[tuple[str, ast.stmt]]:
    """Names and definitions of all that decides."""
    waiting = [(module, name) for name in _source(module).defined if name == "run" or name.startswith("judge")]
    seen = set(waiting)
    while waiting:
        where, name = waiting.pop()
        node = _source(where).defined[name]
        yield f"{where}.{name}", node
        new = {place for place in _named(where, node) if place not in seen}
        seen |= new
        waiting += sorted(new)


def _named(module: str, node: ast.stmt) -> Iterator[tuple[str, str]]:
    """Where the names in a definition are defined, of those that are followed."""
    for inner in ast.walk(node):
        name = inner.id if isinstance(inner, ast.Name) else None
        if isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name):
            name = f"{inner.value.id}.{inner.attr}"
        if name is not None and name not in _SHOWN | _RUN | _SCALES and (place := _place(module, name)) is not None:
            yield place


def _place(module: str, name: str) -> tuple[str, str] | None:
    if not _followed(module):
        return None
    source, (first, _, attribute) = _source(module), name.partition(".")
    if name in source.defined:
        return module, name
    if first not in source.imported:
        return None
    whence, there = source.imported[first]
    if attribute:  # only of modules: other attributes belong to a definition, which counts whole
        return _place(f"{whence}.{there}", attribute) if _file(f"{whence}.{there}") else None
    return None if there in _SCALES else _place(whence, there)


def _followed(module: str) -> bool:
    inside = any(module == part or module.startswith(f"{part}.") for part in _FOLLOWED)
    return inside and module != _DRAWS and not _source(module).trains


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
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported |= {name.asname or name.name: (node.module, name.name) for name in node.names}
            trains |= node.module.partition(".")[0] == "torch"
        elif isinstance(node, ast.Import):
            trains |= any(name.name.partition(".")[0] == "torch" for name in node.names)
    return _Source(defined, imported, trains)


def _file(module: str) -> Path | None:
    """The file of one of limbeck's modules; None where there is none."""
    place = PACKAGE.parent.joinpath(*module.split("."))
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


def _plain(node: Any) -> Any:
    """A definition as lists and text, the same on every Python: without places, docstrings and what was left out."""
    if isinstance(node, list):
        return [_plain(one) for one in node if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
    if not isinstance(node, ast.AST):
        return repr(node)
    constant = isinstance(node, ast.Constant)
    kept = {
        name: _plain(value)
        for name, value in ast.iter_fields(node)
        if name not in {"ctx", "kind", "type_comment"} and (constant or value not in (None, []))
    }
    return [type(node).__name__, kept]


def _values(scale: Any) -> Any:
    if is_dataclass(scale) and not isinstance(scale, type):
        return asdict(scale)
    return scale


def _digest(value: Any, length: int = 8) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
