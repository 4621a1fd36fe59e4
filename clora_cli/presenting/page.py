"""The parts of an HTML page as values, and the page that ``report.html.jinja`` makes of them.

Values are plain text: the template escapes them. Figures alone are markup, which ``svg`` makes.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from clora_cli import __version__
from clora_cli.base.legible import legible
from clora_cli.presenting.canvas import Compose
from clora_cli.presenting.svg import inline_svg

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["Drawing", "Drawings", "Files", "Fold", "Heading", "Notes", "Part", "Section", "Table", "TableCell", "page"]

_TEMPLATE = "report.html.jinja"
_MOST = 16  # columns in type of full size; more, such as three orders and their average, fit the page in small type


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    kind: ClassVar = "heading"
    text: str


@dataclass(frozen=True)
class TableCell:
    """A cell that is more than plain text.

    Attributes:
        text: Its text.
        rank: 1 for bold, 2 for underlined.
        deviation: Follows a ±, in small type.
        code: Follows in the type of code.
    """

    text: str = ""
    rank: int = 0
    deviation: str = ""
    code: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose first column is text and whose other columns are numbers.

    Attributes:
        header: The columns' titles; all empty for a table without a header.
        rows: The cells.
        texts: The numbers, from 0, of further columns that hold text.
        ticks: The numbers of columns that hold a tick; they are narrow.
        blocks: Titles over several columns, each with the number of these, from the left.
    """

    kind: ClassVar = "table"
    header: Sequence[str]
    rows: Sequence[Sequence[str | TableCell]]
    texts: Container[int] = ()
    ticks: Container[int] = ()
    blocks: Sequence[tuple[str, int]] = ()

    @property
    def titled(self) -> bool:
        """Whether it has a header."""
        return any(self.header)

    @property
    def classes(self) -> list[str]:
        """The class of each column's cells."""
        return ["text" if n in self.texts else "tick" if n in self.ticks else "" for n in range(len(self.header))]

    @property
    def dense(self) -> bool:
        """Whether it needs small type."""
        return len(self.header) > _MOST


@dataclass(frozen=True)
class Drawing:
    """A figure with its number in the page and its caption."""

    kind: ClassVar = "drawing"
    number: int
    svg: Markup
    caption: str


@dataclass(frozen=True)
class Notes:
    """Small print, line by line."""

    kind: ClassVar = "notes"
    lines: Sequence[str]


@dataclass(frozen=True)
class Files:
    """A list of paths."""

    kind: ClassVar = "files"
    paths: Sequence[str]


@dataclass(frozen=True)
class Fold:
    """Parts that are shown on a click on their title."""

    kind: ClassVar = "fold"
    title: str
    parts: Sequence[Part]


Part = Heading | Table | Drawing | Notes | Files | Fold


@dataclass(frozen=True)
class Section:
    """A section of the page: the anchor of its link, its title and its parts."""

    anchor: str
    title: str
    parts: Sequence[Part]


class Drawings:
    """Draws the figures of one page and numbers them."""

    def __init__(self) -> None:
        self._count = 0

    def draw(self, compose: Compose, caption: str) -> Drawing:
        """Draw the next figure."""
        self._count += 1
        return Drawing(self._count, inline_svg(compose, self._count), caption)


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Return a page as HTML, without sections that have no parts."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("clora_cli", "presenting"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    shown = [section for section in sections if section.parts]
    return environment.get_template(_TEMPLATE).render(title=title, lead=lead, sections=shown, version=__version__)


def _shown(value: object) -> object:
    """Spell out what would act on a reader, such as marks that turn text round; markup went through this when it was made."""
    return value if hasattr(value, "__html__") else legible(str(value))
