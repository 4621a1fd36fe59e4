from __future__ import annotations

import json

import pytest

from clora_cli.base.legible import is_legible, legible, legible_json, markdown, shortened

# A terminal's title and colours, the eight-bit CSI, text turned round, a line of its own, an invisible letter, a tag.
HOSTILE = [
    "\x1b[31m",
    "\x1b]0;title\x07",
    "\x9b2J",
    "\u202egnp",
    "a\nb",
    "a\r",
    "a\x00b",
    "\u2028",
    "\ufeffx",
    "\U000e0041",
    "a\ufffe",
    "\uffffb",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_acts_on_a_terminal_is_spelled_out(text):
    shown = legible(text)
    assert not is_legible(text) and is_legible(shown)
    found = legible_json(json.dumps({text: text}, ensure_ascii=False))
    assert is_legible(found) and json.loads(found) == {text: text}


@pytest.mark.parametrize("text", ["n-lora", "情感", "café", "\u0646\u0635\u200c\u0645", "a b", "👍🏽", "한국어"])
def test_names_of_all_scripts_stay_as_they_are(text):
    assert is_legible(text) and legible(text) == text == legible_json(text) == markdown(text)


def test_lines_stay_where_they_are_meant():
    assert legible("a\n\tb\r\x1b", lines=True) == "a\n\tb\\r\\x1b"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", "a\\|b"),
        ("[x](http://evil)", "\\[x\\](http\\://evil)"),
        ("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)&gt;"),
        ("&lt;", "&amp;lt;"),
        ("www.evil.com", "www\\.evil.com"),
        ("**b** `c` ~~d~~", "\\*\\*b\\*\\* \\`c\\` \\~\\~d\\~\\~"),
        ("_a_", "\\_a\\_"),
        ("super_ni_task", "super_ni_task"),
        ("a\\|b", "a\\\\\\|b"),
        ("a\n# b", "a\\\\n# b"),
    ],
)
def test_markdown_shows_names_as_they_are(text, shown):
    assert markdown(text) == shown


def test_long_texts_are_cut():
    assert shortened("a" * 61) == "a" * 60 + "…"
    assert shortened("a" * 60) == "a" * 60
