"""How a conversation goes through a chat template's variables, loops and macros (layer L1): followed, never rendered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from jinja2 import nodes

__all__ = ["DATE", "SAID", "TURN", "Flow"]

TURN = "turn"
SAID = "said"
DATE = "date"
_CONTENT = {"content", "text", "thinking", "reasoning_content"}  # keys of a turn under which somebody speaks
_COUNTS = {"length", "count"}
_PICKS = {"list", "first", "last", "reverse", "sort", "batch", "slice", "unique", "select", "reject", "random"}
_PICKS |= {"selectattr", "rejectattr", "default", "d"}
_PASSES = 16

Kinds = frozenset[str]
_NONE: Kinds = frozenset()


class Flow:
    """Says of each expression whether it stands for turns of the conversation, for what is said in them, or for the date.

    Args:
        tree: The parsed template.

    Attributes:
        settled: Whether everything was followed to its end; templates whose variables lead in long circles are not.
    """

    def __init__(self, tree: nodes.Template) -> None:
        _set_apart(tree)
        self._kinds: dict[str, set[str]] = defaultdict(set, {"messages": {TURN}, "content": {SAID}})
        self._words: dict[str, set[str]] = defaultdict(set)
        self._macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
        steps = list(tree.find_all((nodes.Assign, nodes.AssignBlock, nodes.For, nodes.Call, nodes.Macro)))
        self.settled = any(not any([self._follow(step) for step in steps]) for _ in range(_PASSES))

    def kinds(self, node: Any) -> Kinds:
        """Return what an expression stands for; empty for anything else."""
        readers = {nodes.Getattr: self._entry, nodes.Getitem: self._entry, nodes.Call: self._called}
        reader: Any = {**readers, nodes.Name: self._named, nodes.Filter: self._filtered}.get(type(node))
        if reader is not None:
            return frozenset(reader(node))
        if isinstance(node, (nodes.Compare, nodes.Test, nodes.Not)):
            return _NONE  # true or false
        if isinstance(node, nodes.CondExpr):
            return self._of([node.expr1, node.expr2])
        inner = self._of(node.iter_child_nodes()) if node is not None else _NONE
        return frozenset({TURN}) if inner and isinstance(node, nodes.Dict) else inner

    def words(self, node: Any) -> set[str]:
        """Return the texts of the template's own that an expression may be or hold."""
        if isinstance(node, nodes.Const):
            return {node.value} if isinstance(node.value, str) else set()
        if isinstance(node, nodes.Name):
            return set(self._words.get(node.name, ()))
        if isinstance(node, nodes.Getattr):
            return set(self._words.get(_path(node), ()))
        if isinstance(node, nodes.Filter):
            return self.words(node.node)
        if isinstance(
            node, (nodes.Concat, nodes.BinExpr, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.CondExpr)
        ):
            return {word for child in node.iter_child_nodes() for word in self.words(child)}
        return set()

    def _of(self, several: Iterable[Any]) -> Kinds:
        return _NONE.union(*(self.kinds(node) for node in several))

    def _named(self, node: nodes.Name) -> Kinds:
        return frozenset(self._kinds.get(node.name, ()))

    def _entry(self, node: Any) -> Kinds:
        """Return what an entry of something stands for: what is said under the keys for it, nothing under others."""
        if isinstance(key := _key(node), str):
            return self._under(key) | frozenset(self._kinds.get(_path(node), ()))
        return self.kinds(node.node) | (frozenset({SAID}) if self.words(node.arg) & _CONTENT else _NONE)

    def picked(self, node: nodes.Filter) -> Kinds:
        """Return what the entry stands for whose name a filter is given."""
        named = [pair.value for pair in node.kwargs if pair.key == "attribute"]
        return frozenset({SAID}) if any(self.words(key) & _CONTENT for key in [*named, *node.args[:1]]) else _NONE

    @staticmethod
    def _under(key: Any) -> Kinds:
        return frozenset({SAID}) if key in _CONTENT else _NONE

    def _called(self, node: nodes.Call) -> Kinds:
        given: list[Any] = [*node.args, *(pair.value for pair in node.kwargs)]
        if isinstance(node.node, nodes.Name):
            name = node.node.name
            if name in self._macros:
                return frozenset(self._kinds.get(f"{name}()", ()))
            return (
                frozenset({DATE})
                if name == "strftime_now"
                else _NONE
                if name == "namespace"
                else _told(self._of(given))
            )
        if not isinstance(node.node, nodes.Getattr):
            return _told(self._of([node.node, *given]))
        if node.node.attr == "get" and isinstance(getattr(next(iter(given), None), "value", None), str):
            return self._under(given[0].value)
        return _told(self._of([node.node.node, *given]))

    def _filtered(self, node: nodes.Filter) -> Kinds:
        if node.name in _COUNTS:
            return _NONE
        named = any(pair.key == "attribute" for pair in node.kwargs)
        if node.name == "attr" or (node.name == "map" and named):
            return self.picked(node)
        given = self._of([node.node, *node.args]) if node.node is not None else _NONE
        return given if node.name in _PICKS else _told(given)

    def _follow(self, step: Any) -> bool:
        """Follow one statement or call; tell whether it brought anything new."""
        if isinstance(step, nodes.Assign):
            return self._assign(step.target, step.node)
        if isinstance(step, nodes.AssignBlock):
            return self._bind(step.target, self._written(step.body), set())
        if isinstance(step, nodes.For):
            kinds = self.kinds(step.iter)
            parts = isinstance(step.iter, (nodes.Name, nodes.Getattr, nodes.Getitem)) and kinds
            return self._bind(step.target, frozenset({TURN}) if parts else kinds, self.words(step.iter))
        if isinstance(step, nodes.Macro):
            return self._add(f"{step.name}()", self._written(step.body), set())
        macro = self._macros.get(step.node.name) if isinstance(step.node, nodes.Name) else None
        if macro is None:
            return False
        by_name = {arg.name.partition("@")[0]: arg for arg in macro.args}
        named = [(by_name[pair.key], pair.value) for pair in step.kwargs if pair.key in by_name]
        pairs = [*zip(macro.args, step.args, strict=False), *named]
        return any([self._bind(name, self.kinds(value), self.words(value)) for name, value in pairs])

    def _written(self, body: Iterable[Any]) -> Kinds:
        return self._of(one for part in body for output in _within(part, nodes.Output) for one in output.nodes)

    def _assign(self, target: Any, value: Any) -> bool:
        if isinstance(value, nodes.Call) and getattr(value.node, "name", "") == "namespace":
            entries = [(f"{target.name}.{pair.key}", pair.value) for pair in value.kwargs]
            return any([self._add(name, self.kinds(one), self.words(one)) for name, one in entries])
        if isinstance(target, nodes.Tuple) and isinstance(value, nodes.Tuple):
            return any([self._assign(one, other) for one, other in zip(target.items, value.items, strict=False)])
        return self._bind(target, self.kinds(value), self.words(value))

    def _bind(self, target: Any, kinds: Kinds, words: set[str]) -> bool:
        if isinstance(target, nodes.Tuple):
            return any([self._bind(one, kinds, words) for one in target.items])
        name = f"{target.name}.{target.attr}" if isinstance(target, nodes.NSRef) else target.name
        return self._add(name, kinds, words)

    def _add(self, name: str, kinds: Kinds, words: set[str]) -> bool:
        new = not (kinds <= self._kinds[name] and words <= self._words[name])
        self._kinds[name] |= kinds
        self._words[name] |= words
        return new


def _set_apart(tree: nodes.Template) -> None:
    """Give the variables of each macro and each loop names of their own, so that others of the same name are others."""
    scopes: list[Any] = list(tree.find_all((nodes.Macro, nodes.For)))
    for number, scope in enumerate(scopes):
        bound = scope if isinstance(scope, nodes.Macro) else scope.target
        own = {name.name for name in _within(bound, nodes.Name) if name.ctx in {"store", "param"}}
        names: list[Any] = list(scope.find_all((nodes.Name, nodes.NSRef)))
        for name in names:
            if name.name in own and "@" not in name.name:
                name.name = f"{name.name}@{number}"


def _told(kinds: Kinds) -> Kinds:
    """Return what a text made of something stands for: of turns, it is what they say."""
    return frozenset(SAID if kind == TURN else kind for kind in kinds)


def _key(node: Any) -> Any:
    """Return under what name, a constant, an entry is; None for others."""
    return node.attr if isinstance(node, nodes.Getattr) else getattr(node.arg, "value", None)


def _path(node: Any) -> str:
    """Return a namespace's entry as it is kept; empty for other entries."""
    return f"{node.node.name}.{_key(node)}" if isinstance(node.node, nodes.Name) else ""


def _within(part: Any, kind: type) -> Iterable[Any]:
    return [*([part] if isinstance(part, kind) else []), *part.find_all(kind)]
