"""One method, or several whose penalties add up (layer L3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clora_cli.base import registry
from clora_cli.base.errors import OptionError
from clora_cli.methods import Memory, Method
from clora_cli.options import ways

__all__ = ["Composition", "compose"]


@dataclass(frozen=True)
class Composition:
    """A method as it was asked for: ``o-lora+n-lora`` has two parts.

    Attributes:
        parts: Name to bound method, in the order given.
    """

    parts: Mapping[str, Method]

    @property
    def name(self) -> str:
        """The name on the command line."""
        return "+".join(self.parts)

    @property
    def lead(self) -> Method:
        """The method that says how past adapters enter, where the new one starts and how all combine.

        All parts agree but for those that join others.
        """
        first, *others = self.parts.values()
        return next((part for part in (first, *others) if not part.joins), first)

    @property
    def acting(self) -> dict[str, Method]:
        """The parts in the order in which they act at every moment: those that join others come last."""
        return dict(sorted(self.parts.items(), key=lambda part: part[1].joins and part[1] is not self.lead))

    @property
    def filtering(self) -> dict[str, Method]:
        """The parts in the order in which they act on gradients: what hands them on to tensors of its own comes last."""
        return dict(sorted(self.acting.items(), key=lambda part: part[1].passes_on))

    @property
    def stepping(self) -> dict[str, Method]:
        """The parts in the order in which they act after a step: what sets the factors from tensors of its own comes first."""
        return dict(sorted(self.acting.items(), key=lambda part: not part[1].passes_on))

    @property
    def ending(self) -> dict[str, Method]:
        """The parts in the order in which they end: what puts others in the factors' place comes first."""
        return dict(sorted(self.acting.items(), key=lambda part: not part[1].replaces))

    def at(self, moment: str) -> dict[str, Method]:
        """Return the parts that have something to do at a moment, in the order in which they act."""
        default = getattr(Method, moment)
        return {name: part for name, part in self.acting.items() if getattr(type(part), moment) is not default}

    @property
    def full_rank(self) -> bool:
        """Whether the new adapter is a matrix of full rank at each layer."""
        return any(part.full_rank for part in self.parts.values())

    @property
    def trains_whole(self) -> bool:
        """Whether every entry of those matrices is trained by itself."""
        return any(part.full_rank and not part.factored for part in self.parts.values())

    @property
    def recalling(self) -> dict[str, tuple[str, ...]]:
        """What each part needs of the last earlier adapter; parts that need nothing are left out."""
        return {name: part.recalls for name, part in self.parts.items() if part.recalls}

    @property
    def memory(self) -> Memory | None:
        """Which rows of earlier tasks the run may read; at most one part has a memory."""
        return self.rehearsing.memory()

    @property
    def rehearsing(self) -> Method:
        """The part that has a memory, if one has."""
        return next((part for part in self.parts.values() if part.memory()), self.lead)

    def recorded(self) -> dict[str, Any]:
        """Return what the manifest keeps: name, resolved options, and the three choices."""
        options = {name: registry.recorded(part) for name, part in self.parts.items()}
        lead = self.lead
        recorded = {
            "name": self.name,
            "options": options,
            "past": lead.past,
            "start": lead.start,
            "combine": lead.combine,
        }
        routing = lead.routing()
        recorded |= {"route": routing.recorded()} if routing else {}
        return recorded | registry.records(self._named)

    @property
    def _named(self) -> dict[str, list[str]]:
        """The plug-ins that the run uses, by kind: its parts, and what these name."""
        lead, routing = self.lead, self.lead.routing()
        named = {kind: [registry.chosen(part).get(kind, "") for part in self.parts.values()] for kind in registry.KINDS}
        named["methods"] += self.parts
        named["merges"] += [lead.past, lead.combine]
        named["routers"] += [routing.similarity.partition(",")[0]] if routing else []
        return named


def compose(name: str, options: Mapping[str, str]) -> Composition:
    """Load and bind the method or methods named ``a`` or ``a+b``.

    Args:
        name: Names joined by ``+``.
        options: Option texts; a key may be qualified, ``n_lora.strength``, and must be where two parts have it.

    Raises:
        UnknownNameError: If a method or an option does not exist.
        OptionError: If an option is ambiguous or wrong, or the methods do not go together.
    """
    names = name.split("+")
    if len(set(names)) < len(names):
        raise OptionError(f"--method {name} names a method twice", code="option-given-twice")
    classes = {part: registry.load("methods", part) for part in names}
    texts = _distribute(classes, options)
    parts = {part: plugin(**registry.bind(plugin, part, texts[part])) for part, plugin in classes.items()}
    for part, method in parts.items():
        _check_declared(part, method)
    _check_agree(name, parts)
    found = Composition(parts)
    _check_joined(found)
    return found


def _distribute(classes: Mapping[str, type[Method]], options: Mapping[str, str]) -> dict[str, dict[str, str]]:
    texts: dict[str, dict[str, str]] = {name: {} for name in classes}
    for key, value in options.items():
        qualifier, dot, plain = key.rpartition(".")
        owners = (
            [qualifier.replace("_", "-")] if dot else [n for n, c in classes.items() if plain in registry.options(c)]
        )
        if len(owners) > 1:
            raise OptionError(
                f"option {key} belongs to {' and '.join(owners)}; write -o {owners[0]}.{key}={value}",
                code="option-ambiguous",
            )
        owner = owners[0] if owners else next(iter(classes))  # bind() then names the options that exist
        if owner not in texts:
            raise OptionError(
                f"option {key} is for method {owner}, which --method does not name", code="option-of-unnamed-method"
            )
        texts[owner][plain] = value
    return texts


def _check_declared(name: str, method: Method) -> None:
    """Refuse declarations that mean nothing, or that only make sense together."""
    for what, value, allowed in (
        ("start", method.start, {"fresh", "previous", "shared"}),
        ("combine", method.combine, set(ways()) - {"auto"}),
    ):
        if value not in allowed:
            raise OptionError(
                f"method {name} says {what}='{value}'; choose one of {', '.join(sorted(allowed))}",
                code="hook-returns-wrong",
            )
    hook = "choose" if method.virtual_tokens() else "weigh"
    if method.combine == "learned" and getattr(type(method), hook) is getattr(Method, hook):
        raise OptionError(
            f"method {name} says combine='learned' and does not define {hook}()", code="hook-returns-wrong"
        )
    if (method.combine == "route") != (method.routing() is not None):
        raise OptionError(
            f"method {name}: combine='route' goes with routing(); declare both or neither", code="hook-returns-wrong"
        )
    if (memory := method.memory()) is not None and not isinstance(memory, Memory):
        raise OptionError(f"method {name}: memory() is to return a Memory or None", code="hook-returns-wrong")
    if (memory is not None and memory.made) != (type(method).rehearse is not Method.rehearse):
        raise OptionError(
            f"method {name}: a memory that is made goes with rehearse(); declare both or neither",
            code="hook-returns-wrong",
        )


def _check_agree(name: str, parts: Mapping[str, Method]) -> None:
    leading = {part: method for part, method in parts.items() if not method.joins}
    choices = {part: (method.past, method.start, method.combine) for part, method in leading.items()}
    if len(set(choices.values())) > 1:
        ways = "; ".join(f"{part}: past {c[0]}, start {c[1]}, combine {c[2]}" for part, c in choices.items())
        raise OptionError(
            f"--method {name}: these methods treat past adapters differently ({ways})", code="methods-disagree"
        )
    if len(parts) > 1 and (prompt := next((part for part, method in parts.items() if method.virtual_tokens()), None)):
        raise OptionError(
            f"--method {name}: {prompt} trains a soft prompt, which goes with no other method", code="methods-disagree"
        )
    for does, what in (
        ("passes_on", "make the LoRA of tensors of their own"),
        ("replaces", "write another copy of the LoRA"),
    ):
        if len(both := [part for part, method in parts.items() if getattr(method, does)]) > 1:
            raise OptionError(
                f"--method {name}: {' and '.join(both)} each {what}; name one of them", code="methods-disagree"
            )
    routed = next((part for part, method in parts.items() if method.past == "route"), None)
    if routed and (reader := next((part for part, method in parts.items() if method.memory()), None)):
        raise OptionError(
            f"--method {name}: {routed} weighs adapters for the task's own rows alone, and {reader} reads those of earlier tasks",
            code="methods-disagree",
        )
    if len(several := [part for part, method in parts.items() if method.memory()]) > 1:
        raise OptionError(
            f"--method {name}: {' and '.join(several)} each have a memory of their own; name one of them",
            code="several-memories",
        )


def _check_joined(method: Composition) -> None:
    """Refuse a method that would have no effect beside the one it joins, or do harm."""
    lead = next(name for name, part in method.parts.items() if part is method.lead)
    for name, part in method.parts.items():
        if part is not method.lead and (reason := _idle_beside(name, lead, method.lead)):
            raise OptionError(f"--method {method.name}: {reason}", code="method-has-no-effect")


def _idle_beside(name: str, lead: str, method: Method) -> str:
    if not method.trains:
        return f"{lead} trains nothing, so there is nothing for {name} to do"
    if method.start == "shared":
        return f"{lead} chooses its entries by how far each moves and never touches another task's; {name} would hold some still"
    if method.start == "fresh" and method.past == "none":
        return f"{lead} trains every task afresh, without earlier adapters, so there is nothing for {name} to spare"
    return ""
