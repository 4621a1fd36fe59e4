"""Images as an image model's tokens (layer L1): each is one token, and the model looks its pixels up by its number.

Batches, their order and their rows' numbers are then those of texts, in training, scoring and features alike. An image is decoded when
a batch needs it; as many as fit into a part of memory are kept.
"""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor, nn

from clora_cli.base.errors import DataError, translated
from clora_cli.data.pictures import Picture

__all__ = ["Seen"]

_KEPT = 1 << 28  # bytes of pixels that are kept, so that images are not decoded in every epoch
_OF_TEXTS = ("input_ids", "attention_mask", "use_cache")


class Seen:
    """The images that a model has been given, by number.

    Args:
        processor: Its image processor: size, scale and normalisation are as it has them.
        config: Its configuration, which says whether it sees colours.
    """

    def __init__(self, processor: Any, config: Any) -> None:
        self._processor, self._mode = processor, "L" if getattr(config, "num_channels", 3) == 1 else "RGB"
        self._pictures: list[Picture] = []
        self._numbers: dict[str, int] = {}
        self._kept: dict[int, Tensor] = {}
        self._size = 0

    def number(self, picture: Picture) -> int:
        """Return an image's number, a new one if it has none.

        Raises:
            DataError: If it is no image, or cannot be read.
        """
        if picture.digest not in self._numbers:
            _opened(picture)  # its head alone, before a long run comes to it
            self._numbers[picture.digest] = len(self._pictures)
            self._pictures.append(picture)
        return self._numbers[picture.digest]

    def pixels(self, number: int) -> Tensor:
        """Return an image as the model sees it, shape (channel, height, width), float32.

        Raises:
            DataError: If it cannot be decoded.
        """
        if number in self._kept:
            return self._kept[number]
        picture = self._pictures[number]
        image = _opened(picture)
        with translated(
            f"{_place(picture)} cannot be decoded", DataError, "mend or remove it", code="image-unreadable"
        ):
            from PIL import ImageOps

            upright = ImageOps.exif_transpose(image).convert(self._mode)
            found: Tensor = self._processor(upright, return_tensors="pt")["pixel_values"][0]
        if self._size + found.nbytes <= _KEPT:
            self._kept[number] = found
            self._size += found.nbytes
        return found

    def forget(self) -> None:
        """Give up all images, whose numbers mean nothing from now on: of an endless row of inputs each is seen once."""
        self._pictures, self._numbers, self._kept, self._size = [], {}, {}, 0

    def show(self, model: nn.Module) -> None:
        """Let a model take images' numbers as its ``input_ids``, shape (image, 1)."""
        model.register_forward_pre_hook(self._look_up, with_kwargs=True)

    def _look_up(self, model: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if (numbers := named.get("input_ids")) is None:
            return given, named
        # On the meta device they are no numbers; all images are of the first one's shape.
        known = [0] * len(numbers) if numbers.is_meta else numbers.flatten().tolist()
        pixels = torch.stack([self.pixels(number) for number in known])
        others = {name: value for name, value in named.items() if name not in _OF_TEXTS}
        return given, {**others, "pixel_values": pixels.to(numbers.device, model.dtype)}


def _opened(picture: Picture) -> Any:
    from PIL import Image, UnidentifiedImageError

    with translated(f"{_place(picture)} cannot be read", DataError, "mend or remove it", code="image-unreadable"):
        try:
            return Image.open(io.BytesIO(picture.read()))
        except UnidentifiedImageError:  # its message names an object of Python's
            raise ValueError("it is in no format that Pillow knows") from None


def _place(picture: Picture) -> str:
    return f"image {picture.path or picture.digest[:12]}"
