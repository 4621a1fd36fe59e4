"""A method's ``sweep``: lists of values to be crossed, each point of the crossing a method of its own (layer L3)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod

from clora_cli.base.legible import shortened
from clora_cli.base.sweep_labels import sweep_label
from clora_cli.recipes.document import Item
from clora_cli.recipes.recipe import MethodEntry
from clora_cli.recipes.settings import spelled

__all__ = ["check_adapters", "points"]

_SECTIONS = ("option", "train", "stat-features", "eval")
_MOST = 1000  # methods of one sweep
_TRAINED = ("option", "train", "stat-features")  # what adapters depend on
_Axis = list[tuple[str, str, Item]]  # section, setting, value: one of each list of the sweep


def points(item: Item, shared: Item | None) -> Iterator[Item]:
    """Yield the methods that an entry of ``methods`` stands for: itself without a sweep, else one for each point of it.

    Points that differ in nothing that adapters depend on name the first of them as the one whose adapters they use.

    Args:
        item: The entry, a name or a mapping.
        shared: The recipe's own ``sweep``, which all of its methods have.

    Raises:
        OptionError: If a sweep is malformed or too large, with file and line.
    """
    keys = {"method": item} if isinstance(item.value, str) else item.mapping("a method")
    own = keys.get("sweep")
    axes = [axis for sweep in (shared, own) if sweep is not None for axis in _axes(sweep)]
    if not axes:
        yield item
        return
    place = own or shared or item
    if (count := prod(map(len, axes))) > _MOST:
        place.fail(f"sweep crosses to {count} methods, more than {_MOST}; shorten its lists", code="document-too-large")
    leads: dict[tuple[str, ...], str] = {}
    for point in itertools.product(*axes):
        yield _point(place, {key: value for key, value in keys.items() if key != "sweep"}, point, leads)


def check_adapters(item: Item, method: MethodEntry, earlier: Iterable[MethodEntry], tasks: Sequence[str]) -> None:
    """Refuse adapters of other methods that would be other ones, come from elsewhere themselves, or know a task twice.

    Args:
        item: The method's entry.
        method: The method.
        earlier: The entries before it.
        tasks: The recipe's.

    Raises:
        OptionError: With file and line.
    """
    leads = [entry for entry in earlier if entry.label in method.adapters_of and not entry.adapters_of]
    missing = [label for label in method.adapters_of if label not in [lead.label for lead in leads]]
    if method.is_union and missing:
        item.fail(
            f"adapters-of: '{shortened(missing[0])}' is no earlier method with adapters of its own; put it before this one",
            code="recipe-adapters-missing",
        )
    learned = [task for lead in leads for task in lead.learns or tasks]
    if method.is_union and (twice := next((task for task in learned if learned.count(task) > 1), "")):
        item.fail(
            f"adapters-of: task '{shortened(twice)}' is learned by two of these methods; give each `learns` of its own",
            code="task-given-twice",
        )
    if not method.is_union and (missing or any(lead.trained != method.trained for lead in leads)):
        item.fail(
            f"adapters-of: '{shortened(method.adapters_of[0])}' is no earlier method that trains alike; name one with the same "
            "method, learns, option, train and stat-features, or leave it out",
            code="recipe-adapters-differ",
        )


def _axes(sweep: Item) -> Iterator[_Axis]:
    for section, settings in sweep.mapping("sweep", _SECTIONS).items():
        for name, values in settings.mapping(f"sweep.{section}").items():
            axis = [(section, name, _scalar(value, name)) for value in values.items(f"sweep.{section}.{name}")]
            if not axis:
                values.fail(f"sweep.{section}.{name} is empty", code="recipe-list-empty")
            yield axis


def _scalar(value: Item, name: str) -> Item:
    if value.is_list or isinstance(value.value, Mapping) or value.value is None:
        value.fail(f"{name} is swept over single values, not {value.told}", code="recipe-value-malformed")
    return value


def _point(
    place: Item, keys: Mapping[str, Item], point: tuple[tuple[str, str, Item], ...], leads: dict[tuple[str, ...], str]
) -> Item:
    """Return one point's method, with its label."""
    chosen = dict(keys)
    for section, name, value in point:
        held = chosen[section].value if section in chosen else {}
        inside = dict(held) if isinstance(held, Mapping) else {}
        chosen[section] = Item(value.source, value.line, inside | {name: value})
    stem = (
        (keys["label"] if "label" in keys else keys["method"]).text("label")
        if keys.keys() & {"label", "method"}
        else ""
    )
    names = [name for _, name, _ in point]
    told = [name if names.count(name) == 1 else f"{section}.{name}" for section, name, _ in point]
    label = sweep_label(stem, dict(zip(told, (spelled(value.value) for *_, value in point), strict=True)))
    chosen["label"] = Item(place.source, place.line, label)
    trained = tuple(str(value.value) for section, _, value in point if section in _TRAINED)
    if (lead := leads.setdefault(trained, label)) != label and "adapters-of" not in keys:
        chosen["adapters-of"] = Item(place.source, place.line, lead)
    return Item(place.source, place.line, chosen)
