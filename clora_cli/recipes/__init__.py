"""Recipes: a whole task order, validated, run step by step, resumable (layer L3, above the other rooms of it).

What can be named and shown without torch is here; planning and execution are in their own modules.
"""

from __future__ import annotations

from clora_cli.recipes.catalogue import Shipped, shipped, shipped_recipe
from clora_cli.recipes.reading import read_recipe, read_recipe_file
from clora_cli.recipes.recipe import MethodEntry, Recipe, to_yaml

__all__ = [
    "MethodEntry",
    "Recipe",
    "Shipped",
    "read_recipe",
    "read_recipe_file",
    "shipped",
    "shipped_recipe",
    "to_yaml",
]
