"""What a chat template of a stranger could do beside writing a conversation down (layer L1): read, never rendered.

An adapter's folder may hold a tokenizer, and loaders take its chat template: it then decides what the model is given for every
request.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from jinja2 import Environment, TemplateError, nodes

from clora_cli.base.legible import legible
from clora_cli.store.template_flow import DATE, SAID, TURN, Flow

__all__ = ["hidden_letters", "is_tag", "template_tricks"]

_MOST = 200_000  # letters of a template: the longest in use have a tenth
# Strings that templates look for in what people say with good reason: tags of reasoning and of tools.
_TAG = re.compile(
    r"\s*[<\[|{(/].*|.*[>\]|})]\s*|CONTINUE_FINAL_MESSAGE_TAG ", re.DOTALL
)  # the last is Transformers' own
# Filters that hold something against words, and how many arguments come before those.
_BEFORE_WORDS = {"replace": 0, "select": 1, "reject": 1, "selectattr": 2, "rejectattr": 2}
_INNER = re.compile(r"__\w+__")
_SEARCHES = {"startswith", "endswith", "find", "rfind", "index", "rindex", "count", "get"}
_URL = re.compile(r"https?://|data:[a-z]+/", re.IGNORECASE)
_USUAL = "\r\ufeff"  # ends of lines, and a byte-order mark


def hidden_letters(text: str) -> str:
    """Return the first invisible letter of a text that can carry a message or turn its order around, as U+XXXX; else nothing."""
    if legible(text, lines=True) == text:
        return ""
    odd = next((letter for letter in text if legible(letter, lines=True) != letter and letter not in _USUAL), "")
    return f"U+{ord(odd):04X}" if odd else ""


def is_tag(text: str) -> bool:
    """Tell whether a text is one that formats put between turns, such as ``</think>`` or ``[INST]``."""
    return bool(_TAG.fullmatch(text))


def template_tricks(template: str) -> list[str]:
    """Say what in a chat template does more than write a conversation down; nothing in an honest one.

    Args:
        template: Jinja's source, which is parsed and never run.
    """
    if len(template) > _MOST:
        return [f"it has {len(template)} letters"]
    if odd := hidden_letters(template):
        return [f"it holds an invisible letter, {odd}"]
    try:
        tree = Environment(autoescape=True, extensions=["jinja2.ext.loopcontrols"]).parse(
            re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", template)
        )
        return list(dict.fromkeys(_tricks(tree)))
    except RecursionError:
        return ["it cannot be read (nested too deeply)"]
    except TemplateError as error:
        return [f"it cannot be read ({str(error).splitlines()[0]})"]


def _tricks(tree: Any) -> Iterator[str]:
    for node in tree.find_all((nodes.Import, nodes.FromImport, nodes.Include, nodes.Extends)):
        yield f"it loads another template (line {node.lineno})"
    for node in tree.find_all((nodes.Getattr, nodes.Const, nodes.Filter, nodes.Getitem)):
        if name := _inner(node):
            yield f"it reaches for {name}, an inner part of Python (line {node.lineno})"
    for node in tree.find_all((nodes.TemplateData, nodes.Const)):
        text = node.data if isinstance(node, nodes.TemplateData) else node.value
        if isinstance(text, str) and _URL.search(text):
            yield f"it writes an address into the prompt (line {node.lineno})"
        if isinstance(text, str) and (odd := hidden_letters(text)):
            yield f"it holds an invisible letter, {odd} (line {node.lineno})"
    flow = Flow(tree)
    if not flow.settled:
        yield "its variables lead in circles"
    for node in tree.find_all((nodes.Compare, nodes.Test, nodes.Call, nodes.Filter, nodes.Getitem)):
        yield from _triggers(node, flow)


def _inner(node: Any) -> str:
    """Say by what a node reaches for inner parts of Python, where a template would leave its sandbox; empty for nothing."""
    if isinstance(node, nodes.Getattr):
        return f"'{node.attr}'" if node.attr.startswith("_") else ""
    if isinstance(node, nodes.Const):
        return f"'{node.value[:40]}'" if isinstance(node.value, str) and _INNER.search(node.value) else ""
    if isinstance(node, nodes.Filter):
        key = next(iter(node.args), None) if node.name == "attr" else nodes.Const("")
        plain = isinstance(key, nodes.Const) and not str(key.value).startswith("_")
        return "" if plain else "what it gives the filter 'attr'"
    made = isinstance(node.arg, (nodes.BinExpr, nodes.Concat)) and any(
        isinstance(one.value, str) for one in node.arg.find_all(nodes.Const)
    )
    return "a name that it puts together" if made else ""


def _triggers(node: Any, flow: Flow) -> Iterator[str]:
    """Yield where what somebody says is held against a text that is no tag: prompts that depend on a trigger, or are changed."""
    for sides, strict in _sides(node, flow):
        kinds = [flow.kinds(side) for side in sides]
        words = [word for side, kind in zip(sides, kinds, strict=True) if not kind for word in sorted(flow.words(side))]
        if isinstance(node, nodes.Compare) and any(DATE in kind for kind in kinds):
            yield f"it depends on the date (line {node.lineno})"
        for word in words if any({SAID, TURN} & kind for kind in kinds) else ():
            if word.strip() and not is_tag(word) and (strict or any(map(str.isalnum, word))):
                yield f"it looks for '{word[:40]}' in what is said (line {node.lineno})"


def _sides(node: Any, flow: Flow) -> Iterator[tuple[list[Any], bool]]:
    """Yield what a node holds against each other, and whether signs count as well as words."""
    if isinstance(node, nodes.Compare):
        if not (
            node.ops[0].op in {"in", "notin"} and flow.kinds(node.ops[0].expr) == {TURN} and not flow.kinds(node.expr)
        ):
            yield [node.expr, *(operand.expr for operand in node.ops)], True
    elif isinstance(node, nodes.Test):
        yield [node.node, *node.args], True
    elif isinstance(node, nodes.Getitem):
        if SAID in flow.kinds(node.arg):
            yield [node.node, node.arg], True
    elif isinstance(node, nodes.Filter):
        before = _BEFORE_WORDS.get(node.name)
        if before is not None and (before < 2 or SAID in flow.picked(node)):
            yield [node.node, *node.args[before:]], before > 0
    elif isinstance(node.node, nodes.Getattr) and node.node.attr not in {"format", "join"}:
        known = node.node.attr == "get" and not any(SAID in flow.kinds(one) for one in node.args)
        if not known:
            yield [node.node.node, *node.args], node.node.attr in _SEARCHES
