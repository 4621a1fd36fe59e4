"""What a chat template of a stranger could do beside writing a conversation down (layer L1): read, never rendered.

An adapter's folder may hold a tokenizer, and loaders take its chat template: it then decides what the model is given for every
request.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from clora_cli.base.legible import legible

__all__ = ["hidden_letters", "template_tricks"]

_MOST = 200_000  # letters of a template: the longest in use have a tenth
# Strings that templates look for in what people say with good reason: tags of reasoning and of tools.
_TAG = re.compile(r"\s*[<\[|{(/].*|.*[>\]|})]\s*", re.DOTALL)
_CONTENT = {"content", "text"}
_URL = re.compile(r"https?://|data:[a-z]+/", re.IGNORECASE)
_USUAL = "\r\ufeff"  # ends of lines, and a byte-order mark


def hidden_letters(text: str) -> str:
    """Return the first invisible letter of a text that can carry a message or turn its order around, as U+XXXX; else nothing."""
    if legible(text, lines=True) == text:
        return ""
    odd = next((letter for letter in text if legible(letter, lines=True) != letter and letter not in _USUAL), "")
    return f"U+{ord(odd):04X}" if odd else ""


def template_tricks(template: str) -> list[str]:
    """Say what in a chat template does more than write a conversation down; nothing in an honest one.

    Args:
        template: Jinja's source, which is parsed and never run.
    """
    from jinja2 import Environment, TemplateError

    if len(template) > _MOST:
        return [f"it has {len(template)} letters"]
    if odd := hidden_letters(template):
        return [f"it holds an invisible letter, {odd}"]
    try:
        tree = Environment(autoescape=True, extensions=["jinja2.ext.loopcontrols"]).parse(
            re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", template)
        )
    except (TemplateError, RecursionError) as error:
        return [f"it cannot be read ({str(error).splitlines()[0]})"]
    return list(dict.fromkeys(_tricks(tree)))


def _tricks(tree: Any) -> Iterator[str]:
    from jinja2 import nodes

    for node in tree.find_all((nodes.Import, nodes.FromImport, nodes.Include, nodes.Extends)):
        yield f"it loads another template (line {node.lineno})"
    yield from _reaches(tree)
    for node in tree.find_all(nodes.Compare):
        yield from _triggers(node)
    for node in tree.find_all((nodes.TemplateData, nodes.Const)):
        text = node.data if isinstance(node, nodes.TemplateData) else node.value
        if isinstance(text, str) and _URL.search(text):
            yield f"it writes an address into the prompt (line {node.lineno})"


def _reaches(tree: Any) -> Iterator[str]:
    """Yield where a template asks for inner parts of Python, by which it would leave its sandbox."""
    from jinja2 import nodes

    for node in tree.find_all(nodes.Getattr):
        if node.attr.startswith("_"):
            yield f"it reaches for '{node.attr}', an inner part of Python (line {node.lineno})"
    for node in tree.find_all(nodes.Getitem):
        if str(getattr(node.arg, "value", "")).startswith("__"):
            yield f"it reaches for '{node.arg.value}', an inner part of Python (line {node.lineno})"
    for node in tree.find_all(nodes.Filter):
        if node.name in {"attr", "map"} and any("_" in str(getattr(arg, "value", ""))[:1] for arg in node.args):
            yield f"it reaches for an inner part of Python by the filter '{node.name}' (line {node.lineno})"


def _triggers(node: Any) -> Iterator[str]:
    """Yield a comparison of what somebody says with a text that is no tag: prompts that depend on a trigger."""
    from jinja2 import nodes

    sides = [node.expr, *(operand.expr for operand in node.ops)]
    words = [side.value for side in sides if isinstance(side, nodes.Const) and isinstance(side.value, str)]
    said = any(_is_content(side) for side in sides)
    for word in words:
        if said and word.strip() and not _TAG.fullmatch(word):
            yield f"it looks for '{word[:40]}' in what is said (line {node.lineno})"


def _is_content(node: Any) -> bool:
    from jinja2 import nodes

    if isinstance(node, nodes.Name):
        return node.name in _CONTENT
    if isinstance(node, nodes.Getattr):
        return node.attr in _CONTENT
    if isinstance(node, nodes.Getitem):
        return getattr(node.arg, "value", None) in _CONTENT
    inner = getattr(node, "node", None)  # a filter or a call around it
    return inner is not None and _is_content(inner)
