"""Figures as SVG elements of an HTML page: the only markup that reaches a page without being escaped there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from clora_cli.base.legible import legible
from clora_cli.presenting.canvas import Compose, render

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["inline_svg"]

# Matplotlib escapes `<`, `>` and `&` in every text and attribute, so that neither occurs inside a tag.
_TAG = re.compile(r"<[^<>]*>")
_IDENTIFIER = re.compile(r'(\bid="|url\(#|href="#)')
_UNSHOWN = re.compile(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", re.DOTALL)


def inline_svg(compose: Compose, number: int) -> Markup:
    """Draw a figure as an SVG element whose text stays text and whose identifiers occur in no other figure of the page.

    Args:
        compose: Fills an empty figure.
        number: The figure's number in the page.
    """
    from markupsafe import Markup

    document = render("svg", compose, {"svg.fonttype": "none"}).decode("utf-8")
    element = _UNSHOWN.sub("", document[document.index("<svg") :])
    element = _TAG.sub(lambda tag: _IDENTIFIER.sub(rf"\g<1>f{number}-", tag[0]), element)
    return Markup(legible(element, lines=True))  # noqa: S704 - matplotlib has escaped the text; tests attack it
