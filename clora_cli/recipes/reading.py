"""From YAML to a recipe, every value checked before anything starts (layer L3)."""

from __future__ import annotations

import os
from pathlib import Path

from clora_cli.base.errors import ArtifactError
from clora_cli.base.intake import read_text, reason
from clora_cli.recipes.document import Item, read_document
from clora_cli.recipes.method_entries import folder_text, read_methods
from clora_cli.recipes.recipe import Recipe
from clora_cli.recipes.task_lists import read_tasks

__all__ = ["read_recipe", "read_recipe_file"]

_KEYS = "name about model revision tasks learns methods train stat-features eval sweep seeds out".split()
_LONGEST = 1 << 20  # bytes of a recipe


def read_recipe_file(path: Path) -> Recipe:
    """Read a recipe from a file.

    Raises:
        ArtifactError: If it cannot be read.
        OptionError: As ``read_recipe``.
    """
    try:
        text = read_text(path, _LONGEST)
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"recipe {path} cannot be read: {reason(error)}", code="path-unreadable") from error
    return read_recipe(text, str(path), name=path.stem)


def read_recipe(text: str, source: str, *, name: str = "recipe") -> Recipe:
    """Read a recipe.

    Args:
        text: YAML.
        source: Where it is from, for messages.
        name: Its name, where it gives none itself.

    Raises:
        OptionError: If anything in it is unknown, of the wrong type or length, or does not go together; with file, line
            and, for names, the nearest one that exists.
    """
    top = read_document(text, source)
    keys = top.mapping("the recipe", _KEYS)
    for needed in ("tasks", "methods"):
        if needed not in keys:
            top.fail(
                f"the recipe has no '{needed}'; see `clora run --list` and `clora run NAME --show`",
                code="recipe-lacks-key",
            )
    named = folder_text(keys["name"], "name") if "name" in keys else name
    tasks = read_tasks(keys["tasks"])
    return Recipe(
        name=named,
        about=keys["about"].text("about") if "about" in keys else "",
        model=keys["model"].text("model") if "model" in keys else os.environ.get("CLORA_MODEL", "clora-nano"),
        revision=keys["revision"].text("revision") if "revision" in keys else None,
        tasks=tasks,
        methods=read_methods(keys["methods"], keys, tasks),
        seeds=_seeds(keys["seeds"]) if "seeds" in keys else (42,),
        out=Path(keys["out"].text("out") if "out" in keys else f"runs/{named}"),
    )


def _seeds(item: Item) -> tuple[int, ...]:
    entries = item.items("seeds")
    seeds = tuple(entry.whole("a seed") for entry in entries)
    if not seeds:
        item.fail("seeds is empty", code="recipe-list-empty")
    if len(set(seeds)) < len(seeds):
        item.fail("seeds must be whole numbers, each of them once", code="option-given-twice")
    return seeds
