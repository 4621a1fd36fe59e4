"""What ``clora run --list`` prints: a page of families, or the recipes with a part of a name (layer L4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from clora_cli.base.errors import OptionError
from clora_cli.cli._output import Form, emit

if TYPE_CHECKING:
    from clora_cli.recipes.catalogue import Shipped

__all__ = ["emit_recipes"]

_WIDTH = 100
_BEGIN = ("compare-nano", "compare-smollm2-order1", "n-lora-t5-order1")  # one that runs anywhere, then larger ones


def emit_recipes(output: Form, part: str | None) -> None:
    """Print the recipes that come with clora: those with a part in their names, or a page on all.

    Raises:
        OptionError: If none has the part in its name.
    """
    from clora_cli.recipes import shipped

    recipes = [recipe for name, recipe in shipped().items() if (part or "") in name]
    if not recipes:
        raise OptionError(
            f"no recipe that comes with clora has '{part}' in its name; `clora run --list` tells which there are",
            code="unknown-recipe",
        )
    entries = [
        {**dataclasses.asdict(recipe), "about": recipe.about, "published": recipe.published, "status": recipe.status}
        for recipe in recipes
    ]
    emit(
        output,
        text="\n".join(_lines(recipes) if part else _page(shipped())),
        data={"schema": "clora.recipes/1", "recipes": entries},
        brief="\n".join(recipe.name for recipe in recipes),
    )


def _lines(recipes: Sequence[Shipped]) -> Iterator[str]:
    width = max(len(recipe.name) for recipe in recipes)
    return (f"{recipe.name:{width}}  {recipe.about}" for recipe in recipes)


def _page(recipes: Mapping[str, Shipped]) -> Iterator[str]:
    yield f"{len(recipes)} recipes come with clora, each named METHOD-BACKBONE-ORDER."
    yield "\nTo begin with:"
    yield from (f"  {line}" for line in _lines([recipes[name] for name in _BEGIN]))
    yield f"\n{'BACKBONE':<13}{'base model':<36}{'recipes':>8}{'by a paper':>12}  ORDER"
    for backbone in dict.fromkeys(recipe.backbone for recipe in recipes.values()):
        yield _family(backbone, [recipe for recipe in recipes.values() if recipe.backbone == backbone])
    yield "\nMETHOD:"
    yield from _wrapped(dict.fromkeys(recipe.method for recipe in recipes.values()))
    yield "\n`by a paper`: with the settings that a paper, or its code, gives of this method, backbone and order."
    yield "clora run --list PART   those with PART in their names, with sources: n-lora, t5-order1, compare"
    yield "clora run --list -q     every name"
    yield "clora run NAME --show   one recipe with everything filled in; --dry-run tells what it would do and lacks"


def _family(backbone: str, recipes: Sequence[Shipped]) -> str:
    """Return a line on the recipes of one backbone."""
    models = dict.fromkeys(recipe.model for recipe in recipes)
    published = sum(recipe.published for recipe in recipes)
    named = any(recipe.name.endswith(recipe.order) for recipe in recipes)
    orders = " ".join(_ranges(list(dict.fromkeys(recipe.order for recipe in recipes)))) if named else "none in the name"
    return f"{backbone:<13}{next(iter(models)):<36}{len(recipes):>8}{published or '-':>12}  {orders}"


def _ranges(names: Sequence[str]) -> Iterator[str]:
    """Shorten ``order1 order2 order3`` to ``order1-3``."""
    stems: dict[str, list[str]] = {}
    for name in names:
        stems.setdefault(name.rstrip("0123456789"), []).append(name)
    for stem, members in stems.items():
        last = members[-1].removeprefix(stem)
        yield f"{members[0]}-{last}" if len(members) > 1 else members[0]


def _wrapped(names: Iterable[str]) -> Iterator[str]:
    line = " "
    for name in names:
        if len(line) + len(name) > _WIDTH:
            yield line
            line = " "
        line += f" {name}"
    yield line
