"""The reproductions of published systems, one folder for each paper, by their names in `limbeck reproduce`."""

from __future__ import annotations

from limbeck.errors import BadSetting
from limbeck.papers.lab.recipe import Recipe
from limbeck.plugins import Registry, papers


def _wrong(name: str, found: object) -> str:
    if not isinstance(found, Recipe):
        return "expected a limbeck.papers.lab.recipe.Recipe"
    return "" if found.name == name else f"expected its name to be that of its recipe, {found.name!r}"


PAPERS: Registry[Recipe] = Registry("paper", papers, _wrong)
RECIPES = tuple(PAPERS.own)


def recipe(name: str) -> Recipe:
    """The recipe of a name, limbeck's or a package's. Raises BadSetting with the nearest name, BadPlugin for a broken package."""
    if name not in PAPERS:
        raise BadSetting(PAPERS.unknown(name))
    return PAPERS[name]
