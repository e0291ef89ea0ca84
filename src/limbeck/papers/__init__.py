"""The reproductions of published systems, one folder a paper, by the name that `limbeck reproduce` knows them by."""

from __future__ import annotations

from importlib import import_module

from limbeck.config import nearest
from limbeck.errors import BadSetting
from limbeck.papers.lab.recipe import Recipe

RECIPES = (
    "capacity-gap",
    "distillation-law",
    "pass-until",
    "taid-gap",
    "minima",
    "zoology",
    "s4d",
    "based",
    "arithmetic",
    "self-pretraining",
    "reversal",
)


def recipe(name: str) -> Recipe:
    """The recipe of a name, ``RECIPE`` in the recipe.py of its folder. Raises BadSetting with the nearest name."""
    if name not in RECIPES:
        raise BadSetting(f"unknown recipe {name!r}{nearest(name, RECIPES)} There are: {', '.join(RECIPES)}.")
    found: Recipe = import_module(f"limbeck.papers.{name.replace('-', '_')}.recipe").RECIPE
    return found
