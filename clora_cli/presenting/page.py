"""A page that stands by itself: its frame, its style, its tables and figures, every text escaped."""

from __future__ import annotations

import html
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from string import Template
from typing import TYPE_CHECKING

from clora_cli.base.legible import legible
from clora_cli.presenting.canvas import inline_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Figures", "Section", "escape", "fold", "notes", "page", "table"]

_MOST = 16  # columns in type of full size

_PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="generator" content="clora $version">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<header>
<h1>$title</h1>
<p class="lead">$lead</p>
<nav><ul>
$contents</ul></nav>
</header>
<main>
$sections</main>
</body>
</html>
""")
_STYLE = """\
:root { color-scheme: light; --ink: #1f2328; --dim: #59636e; --line: #d1d9e0; --soft: #f6f8fa; --link: #0550ae; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 72rem; color: var(--ink); background: #fff;
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", "Liberation Sans", "DejaVu Sans", sans-serif; }
h1 { margin: 0; font-size: 1.7rem; } h2 { margin: 3rem 0 .8rem; padding-bottom: .3rem; font-size: 1.25rem;
  border-bottom: 1px solid var(--line); } h3 { margin: 1.6rem 0 .5rem; font-size: 1.02rem; }
.lead { margin: .3rem 0 1rem; color: var(--dim); } a { color: var(--link); text-decoration: none; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: 0; padding: 0; list-style: none; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .28rem .7rem; text-align: right; white-space: nowrap; } th { font-weight: 600; }
thead th { vertical-align: bottom !important; }
thead tr:last-child th { border-bottom: 2px solid var(--ink); } thead th.group { border-bottom: 1px solid var(--line);
  text-align: center; } tbody td { border-bottom: 1px solid var(--line); } tbody tr:hover { background: var(--soft); }
th:first-child, td:first-child, td.text, th.text { text-align: left; } td.text { white-space: normal; }
td.tick, th.tick { text-align: center; padding: .28rem .4rem; } th.tick { white-space: normal; max-width: 5.2rem; }
th:first-child, td:first-child { position: sticky; left: 0; background: #fff; }
td .spread { color: var(--dim); font-size: .85em; } table.blocks td .spread { display: block; }
table.blocks th, table.blocks td { padding: .2rem .45rem; vertical-align: top; }
table.dense { font-size: .74rem; } table.dense th, table.dense td { padding: .18rem .28rem; } u { text-underline-offset: .2em; }
ul.notes { margin: .7rem 0 0; padding-left: 1.1rem; color: var(--dim); font-size: .85rem; }
figure { margin: 1rem 0; } figure .drawing { overflow-x: auto; } svg { max-width: 100%; height: auto; }
figcaption { max-width: 60rem; margin-top: .3rem; color: var(--dim); font-size: .85rem; }
details { margin: .7rem 0; } summary { cursor: pointer; color: var(--link); }
code { padding: .1rem .3rem; font-size: .86em; background: var(--soft); border-radius: 4px; overflow-wrap: anywhere; }
@media print { body { max-width: none; padding: 0; } nav { display: none; } figure, tr { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Section:
    """A part of the page: its anchor, its heading as text, its content as HTML."""

    anchor: str
    title: str
    body: str


def escape(text: str) -> str:
    """Return a text that HTML shows as it is."""
    return html.escape(legible(text))


class Figures:
    """Draws the figures of one page and numbers them."""

    def __init__(self) -> None:
        self._count = 0

    def draw(self, compose: Callable[[Figure], None], caption: str) -> str:
        """Return a figure with its caption as HTML."""
        self._count += 1
        svg = inline_svg(compose, self._count)
        svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(caption)}" ', 1)
        told = f"<figcaption><b>Figure {self._count}.</b> {escape(caption)}</figcaption>"
        return f'<figure>\n<div class="drawing">{svg}</div>\n{told}\n</figure>\n'


def page(title: str, lead: str, sections: Sequence[Section], version: str) -> str:
    """Return the whole page; title and lead are text."""
    links = (f'<li><a href="#{each.anchor}">{escape(each.title)}</a></li>\n' for each in sections)
    parts = (
        f'<section id="{each.anchor}">\n<h2>{escape(each.title)}</h2>\n{each.body}</section>\n' for each in sections
    )
    return _PAGE.substitute(
        title=escape(title),
        lead=escape(lead),
        style=_STYLE,
        version=escape(version),
        contents="".join(links),
        sections="".join(parts),
    )


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    text: Container[int] = (),
    tick: Container[int] = (),
    above: Sequence[tuple[str, int]] = (),
) -> str:
    """Return a table whose first column is text and whose others are set to the right.

    Args:
        header: Its columns' titles, as text; all empty for a table without.
        rows: Its cells, as HTML.
        text: The numbers, from 0, of further columns that hold text.
        tick: The numbers of columns that hold a tick, which are narrow.
        above: Titles over several columns, and over how many; they begin at the left.
    """
    kinds = [' class="text"' if n in text else ' class="tick"' if n in tick else "" for n in range(len(header))]
    spans = "".join(f'<th class="group" colspan="{span}">{escape(title)}</th>' for title, span in above)
    head = (f"<tr>{spans}</tr>\n" if spans else "") + (_line("th", map(escape, header), kinds) if any(header) else "")
    body = "".join(f"{_line('td', row, kinds)}\n" for row in rows)
    # More, as of three orders and their average, fit the page in small type.
    blocks = f' class="blocks{" dense" if len(header) > _MOST else ""}"' if above else ""
    return f'<div class="scroll"><table{blocks}>\n<thead>{head}</thead>\n<tbody>\n{body}</tbody>\n</table></div>\n'


def _line(tag: str, cells: Iterable[str], kinds: Sequence[str]) -> str:
    inside = (f"<{tag}{kind}>{cell}</{tag}>" for cell, kind in zip(cells, kinds, strict=True))
    return f"<tr>{''.join(inside)}</tr>"


def notes(lines: Iterable[str]) -> str:
    """Return small print, as text, line by line."""
    return f'<ul class="notes">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>\n'


def fold(title: str, body: str) -> str:
    """Return what is shown on a click; the title is text, the body HTML."""
    return f"<details><summary>{escape(title)}</summary>\n{body}</details>\n"
