"""Figures inside a page: their text stays text, whatever it says, and their identifiers are their own."""

from __future__ import annotations

import re

import pytest
from pages import HOSTILE, Page

from clora_cli.base.legible import legible
from clora_cli.presenting.svg import inline_svg

DRAWN = {"svg", "defs", "style", "g", "path", "text", "use", "rect", "clippath"}


def titled(text):
    """Return what draws a text as a panel's title and as a line's label."""

    def compose(figure):
        axis = figure.subplots()
        axis.plot([0, 1], label=text)
        axis.set_title(text)
        axis.legend()

    return compose


@pytest.mark.parametrize("text", HOSTILE)
def test_text_is_shown_as_it_is_and_brings_no_element(text):
    read = Page(inline_svg(titled(legible(text)), 3))
    assert set(read.tags) <= DRAWN
    assert not [name for name in read.attributes if name.startswith("on")]
    assert read.texts.count(legible(text)) == 2


def test_what_turns_text_round_is_spelled_out_even_where_a_figure_was_not_asked_to():
    drawn = inline_svg(titled("a\u202eb"), 1)
    assert "\u202e" not in drawn and drawn.count(r"a\u202eb") == 2


def test_identifiers_and_what_refers_to_them_bear_the_figure_s_number():
    first, second = (inline_svg(titled("x"), number) for number in (1, 2))
    for number, drawn in ((1, first), (2, second)):
        read = Page(drawn)
        references = {link[1:] for link in read.links} | set(re.findall(r"url\(#([^)]+)\)", drawn))
        assert references <= set(read.ids)
        assert all(name.startswith(f"f{number}-") for name in read.ids)
    assert first.replace("f1-", "f2-") == second
