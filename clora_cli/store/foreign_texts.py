"""What speaks against the texts in a stranger's folder (layer L1): templates, tokenizers and configurations, read and never run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clora_cli.base.intake import parse_json, read_text, reason
from clora_cli.store.template_tricks import hidden_letters, is_tag, template_tricks

__all__ = ["TEXTS", "text_findings"]

TEXTS = {".md", ".txt", ".json", ".jinja", ".yaml", ".yml"}
_LONGEST = 1 << 26  # bytes; tokenizers are the longest texts, Gemma's has 33 MB
_LOADED = {"tokenizer_config.json", "processor_config.json", "chat_template.json", "tokenizer.json"}
_WORD = re.compile(r"[^\W_]{2}")
_NO_WORDS = re.compile(r"\\[pP]\{[^}]*\}|\\.|\{[\d,]*\}")  # escapes and numbers of times in a regular expression


def text_findings(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the kind of each finding in a text file, and what is wrong."""
    try:
        text = read_text(path, _LONGEST)
    except (OSError, ValueError) as error:
        yield "text", f"cannot be read as text ({reason(error)})"
        return
    suffix, name = path.suffix.lower(), path.name
    if suffix == ".jinja":
        yield from (("template", trick) for trick in template_tricks(text))
        return
    if suffix == ".json":
        yield from _of_json(text, name)
    if name not in {"tokenizer.json", "tokenizer_config.json"} and (odd := hidden_letters(text)):
        yield "text", f"holds an invisible letter, {odd}"


def _of_json(text: str, name: str) -> Iterator[tuple[str, str]]:
    try:
        config = parse_json(text)
    except ValueError as error:
        if name in _LOADED:
            yield "format", f"is damaged ({reason(error)})"
        return
    if not isinstance(config, dict):
        return
    yield from (("template", trick) for source in _templates(config) for trick in template_tricks(source))
    if config.get("auto_map"):
        yield "code", "names code to be run (auto_map)"
    if name == "tokenizer.json":
        yield from (("template", what) for what in _rewritten(config))


def _templates(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the chat templates of a configuration: one, several by name, or a list of them."""
    given = config.get("chat_template") or []
    several = given.values() if isinstance(given, dict) else given if isinstance(given, list) else [given]
    yield from (str(one.get("template", "")) if isinstance(one, dict) else str(one) for one in several)


def _rewritten(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a tokenizer replaces by other words: honest ones replace spaces and signs alone."""
    waiting = [(part, config.get(part)) for part in ("normalizer", "pre_tokenizer", "decoder")]
    while waiting:
        part, value = waiting.pop()
        if isinstance(value, list):
            waiting += [(part, inner) for inner in value]
        elif isinstance(value, dict):
            waiting += [(part, inner) for inner in value.values()]
            given, made = value.get("pattern"), str(value.get("content", ""))
            pattern = given if isinstance(given, dict) else {}
            plain = str(pattern.get("String", "")), _NO_WORDS.sub("", str(pattern.get("Regex", ""))), made
            if value.get("type") == "Replace" and any(_WORD.search(one) and not is_tag(one) for one in plain):
                where = "in answers" if part == "decoder" else "before the model reads it"
                yield f"makes '{made[:40]}' of '{next(iter(pattern.values()), '')!s:.40}' {where}"
