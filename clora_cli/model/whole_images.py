"""Whether an image's file is whole, told before a long run comes to it (layer L1).

Decoding every image once more would cost as much as an epoch's decoding. How a file ends, and a PNG's checksums, cost next to nothing; only
what looks odd by them is decoded to know, as files may well end with something else behind the image.
"""

from __future__ import annotations

import io
from typing import Any

__all__ = ["looks_whole"]

_ENDS = {"JPEG": b"\xff\xd9", "GIF": b";", "PNG": b"IEND\xaeB`\x82"}


def looks_whole(image: Any, data: bytes) -> bool:
    """Tell whether an image ends as its format has it, undamaged; False of a format that does not tell.

    Args:
        image: Pillow's image of these bytes, opened and not decoded.
        data: The bytes.
    """
    if image.format == "WEBP":
        return int.from_bytes(data[4:8], "little") + 8 <= len(data)
    if not data.endswith(_ENDS.get(image.format, ())):
        return False
    return image.format != "PNG" or _is_consistent(data)


def _is_consistent(data: bytes) -> bool:
    """Tell whether a PNG's checksums are those of what it holds."""
    from PIL import Image

    try:
        Image.open(io.BytesIO(data)).verify()
    except (OSError, SyntaxError, ValueError):
        return False
    return True
