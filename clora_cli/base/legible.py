"""Text that is safe to show (layer L0): characters that move the cursor, reverse a line or are invisible are escaped.

Names, keys and data come from files that anybody may have written. A terminal obeys the escape sequences in them, a
Markdown page their links and tags.
"""

from __future__ import annotations

import re

__all__ = ["is_legible", "legible", "legible_json", "markdown", "shortened"]

# Controls (C0, C1), marks that set the direction of text, what has no width, tags, halves of surrogate pairs, and what is no letter
# at all (U+FFFE, U+FFFF: no XML may hold them). The joiners that some scripts need (U+200C, U+200D) stay.
_BEYOND = (
    "\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f"
)
_ANY = re.compile(f"[\\x00-\\x1f{_BEYOND}]")
_IN_A_TEXT = re.compile(f"[\\x00-\\x08\\x0b-\\x1f{_BEYOND}]")  # lines and tabs stay
_SPECIAL = re.compile(
    r"[\\|*`\[\]~]|(?<![^\W_])_|_(?![^\W_])|(?<=\bhttp):|(?<=\bhttps):|(?<=\bftp):|(?<=\bwww)\.", re.I
)
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def is_legible(text: str) -> bool:
    """Tell whether a text is one line without hidden or controlling characters."""
    return (text.isascii() and text.isprintable()) or _ANY.search(text) is None


def legible(text: str, *, lines: bool = False) -> str:
    r"""Return a text with everything that could act on a terminal spelled out, as in ``\x1b``.

    Args:
        text: Any text.
        lines: Leave line breaks and tabs; without, the result is one line.
    """
    return (_IN_A_TEXT if lines else _ANY).sub(lambda match: ascii(match[0])[1:-1], text)


def shortened(text: str, most: int = 60) -> str:
    """Return the beginning of a text, to name it in a message."""
    return text if len(text) <= most else f"{text[:most]}…"


def legible_json(text: str) -> str:
    """Return serialised JSON with the same characters escaped as JSON escapes them: it reads back as the same value."""
    return _IN_A_TEXT.sub(lambda match: _units(match[0]), text)


def markdown(text: str) -> str:
    """Return a text escaped so that Markdown shows it as it is, without table cells, links, tags, emphasis or code."""
    shown = re.sub("[&<>]", lambda match: _ENTITIES[match[0]], legible(text))
    return _SPECIAL.sub(lambda match: f"\\{match[0]}", shown)


def _units(letter: str) -> str:
    code = letter.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{code[start : start + 4]}" for start in range(0, len(code), 4))
