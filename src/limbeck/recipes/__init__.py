"""The reproductions of published systems, one file a paper, by the name that `limbeck reproduce` knows them by."""

from __future__ import annotations

from importlib import import_module

from limbeck.config import nearest
from limbeck.errors import BadSetting
from limbeck.recipes.recipe import Recipe

RECIPES = {
    "capacity-gap": "limbeck.recipes.capacity_gap",
    "distillation-law": "limbeck.recipes.distillation_law",
    "pass-until": "limbeck.recipes.pass_until",
    "taid-gap": "limbeck.recipes.taid_gap",
    "minima": "limbeck.recipes.minima",
    "zoology": "limbeck.recipes.zoology",
    "s4d": "limbeck.recipes.s4d",
    "based": "limbeck.recipes.based",
    "arithmetic": "limbeck.recipes.arithmetic",
    "self-pretraining": "limbeck.recipes.self_pretraining",
    "reversal": "limbeck.recipes.reversal",
}


def recipe(name: str) -> Recipe:
    """The recipe of a name, imported now: each file has one as ``RECIPE``. Raises BadSetting with the nearest name."""
    if name not in RECIPES:
        raise BadSetting(f"unknown recipe {name!r}{nearest(name, list(RECIPES))} There are: {', '.join(RECIPES)}.")
    found: Recipe = import_module(RECIPES[name]).RECIPE
    return found
