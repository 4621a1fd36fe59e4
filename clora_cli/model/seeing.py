"""Images as an image model's tokens (layer L1): each is one token, and the model looks its pixels up by its number.

Batches, their order and their rows' numbers are then those of texts, in training, scoring and features alike. An image is decoded when
a batch needs it; as many as fit into a part of memory are kept. A random view of an image is a token of its own, which is never kept.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from clora_cli.base.errors import DataError, MismatchError, translated
from clora_cli.data.pictures import Picture
from clora_cli.model.views import Views
from clora_cli.model.whole_images import looks_whole

__all__ = ["Seen"]

_KEPT = 1 << 28  # bytes of pixels that are kept, so that images are not decoded in every epoch
_OF_TEXTS = ("input_ids", "attention_mask", "use_cache")
_SIXTEEN = ("PNG", "PPM")  # whose grey images Pillow may give as 32-bit numbers that go up to 65,535
_BITS = 258  # the tag of TIFF that tells the bits of a pixel
_OF_ONE_SIZE = {"deit", "ijepa", "vit", "vit_msn"}  # types that refuse another; others go on from their positions
_PROGRAMS = ("EPS", "WMF")  # for which Pillow starts others, such as Ghostscript
_VIEW = 1 << 32  # more than there are images: numbers from here on are those of views


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
        self._views = Views("none", 0)

    def number(self, picture: Picture) -> int:
        """Return an image's number, a new one if it has none.

        Raises:
            DataError: If it is no image, is damaged, or cannot be read.
        """
        if picture.digest not in self._numbers:
            _check(picture)
            self._numbers[picture.digest] = len(self._pictures)
            self._pictures.append(picture)
        return self._numbers[picture.digest]

    def vary(self, augment: str, seed: int) -> None:
        """Decide how views differ from their images, as ``Views`` has it."""
        self._views = Views(augment, seed)

    def view(self, number: int, place: int) -> int:
        """Return the number of an image's view at a place in the order of training, from 0; the image's own where nothing is varied."""
        return number + (place + 1) * _VIEW if self._views else number

    def pixels(self, number: int) -> Tensor:
        """Return an image or a view as the model sees it, shape (channel, height, width), float32.

        Raises:
            DataError: If it cannot be decoded, or another one is in its file by now.
        """
        place, own = divmod(number, _VIEW)
        return self._viewed(own, place) if place else self._whole(own)

    def _whole(self, number: int) -> Tensor:
        if number in self._kept:
            return self._kept[number]
        picture = self._pictures[number]
        found = self._processed(picture, self._decoded(picture))
        if self._size + found.nbytes <= _KEPT:
            self._kept[number] = found
            self._size += found.nbytes
        return found

    def _viewed(self, number: int, place: int) -> Tensor:
        """Return a view: a part in the size that the model sees whole images in, whatever its processor cuts off those."""
        picture = self._pictures[number]
        if not self._views.crops:
            whole = self._whole(number)
            return whole.flip(-1) if self._views.view(place, 1.0).mirrored else whole
        image = self._decoded(picture)
        view = self._views.view(place, image.width / image.height)
        left, top, right, bottom = view.part or (0.0, 0.0, 1.0, 1.0)
        box = (left * image.width, top * image.height, right * image.width, bottom * image.height)
        height, width = self._whole(0).shape[1:]
        part = image.resize((width, height), getattr(self._processor, "resample", None), box=box)
        found = self._processed(picture, part, do_resize=False, do_center_crop=False)
        return found.flip(-1) if view.mirrored else found

    def _decoded(self, picture: Picture) -> Any:
        """Return an image the right way up, in colours or grey as the model sees it."""
        image = _opened(picture)
        with _mending(picture, "decoded"):
            from PIL import ImageOps

            return _in_bytes(ImageOps.exif_transpose(image), _white(image)).convert(self._mode)

    def _processed(self, picture: Picture, image: Any, **chosen: Any) -> Tensor:
        what = f"{picture.place} cannot be made what the base model sees, by its preprocessor_config.json"
        with translated(what, DataError, "mend that file, or remove the image", code="image-not-processed"):
            found: Tensor = self._processor(image, return_tensors="pt", **chosen)["pixel_values"][0]
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
        pixels = self._stacked(known)
        _check_size(pixels, model.config)
        others = {name: value for name, value in named.items() if name not in _OF_TEXTS}
        return given, {**others, "pixel_values": pixels.to(numbers.device, model.dtype)}

    def _stacked(self, numbers: Sequence[int]) -> Tensor:
        pixels = [self.pixels(number) for number in numbers]
        sizes = {tuple(one.shape[1:]): number % _VIEW for number, one in zip(numbers, pixels, strict=True)}
        if len(sizes) > 1:
            told = [f"{self._pictures[of].place} {width} by {height}" for (height, width), of in sizes.items()]
            raise MismatchError(
                f"the base model's image processor makes {told[0]} pixels and {told[1]}, and a batch has one size; let its "
                "preprocessor_config.json give a height and a width, or do_center_crop",
                code="images-differ-in-size",
            )
        return torch.stack(pixels)


def _check_size(pixels: Tensor, config: Any) -> None:
    """Refuse images of another size than a model's, where its positions are for one size alone."""
    size = getattr(config, "image_size", None)
    taken = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    if config.model_type in _OF_ONE_SIZE and tuple(pixels.shape[2:]) != taken:
        (height, width), (tall, wide) = pixels.shape[2:], taken
        raise MismatchError(
            f"the base model takes images of {wide} by {tall} pixels, and its image processor makes {width} by {height}; let its "
            "preprocessor_config.json give the model's size",
            code="image-size-not-the-models",
        )


def _check(picture: Picture) -> None:
    """Refuse an image that cannot be decoded, before a long run comes to it; only what looks damaged is decoded to know."""
    data = picture.read()
    image = _opened(picture, data)
    with _mending(picture, "decoded"):
        if not looks_whole(image, data):
            image.load()


def _opened(picture: Picture, data: bytes | None = None) -> Any:
    from PIL import Image, UnidentifiedImageError

    with _mending(picture, "read"):
        try:
            image = Image.open(io.BytesIO(picture.read() if data is None else data))
        except UnidentifiedImageError:  # its message names an object of Python's
            raise ValueError("it is in no format that Pillow knows") from None
        except Image.DecompressionBombError:
            raise ValueError(f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels") from None
        if image.format in _PROGRAMS:
            raise ValueError(f"{image.format} is drawn by a program of its own, which clora does not run")
        if image.mode == "F" or (image.mode == "I" and image.format not in _SIXTEEN):
            raise ValueError("its pixels are 32-bit numbers, of which nothing tells the white one (8 and 16 bits go)")
        return image


def _white(image: Any) -> int:
    """Return the largest number that a grey image of more than 8 bits may have; Pillow does not scale TIFF's 12 bits to 16."""
    bits = image.tag_v2.get(_BITS, (16,)) if image.format == "TIFF" else (16,)
    return (1 << int(bits[0])) - 1


def _in_bytes(image: Any, white: int) -> Any:
    """Return an image of 8 bits a channel; Pillow's own ``convert`` cuts larger numbers off at 255 instead of scaling them."""
    if image.mode == "P":  # may be transparent in part, which only this conversion takes without a word
        return image.convert("RGBA") if "transparency" in image.info else image
    if image.mode.startswith("I"):
        return image.convert("I").point(lambda value: value * (255 / white)).convert("L")
    return image


def _mending(picture: Picture, what: str) -> AbstractContextManager[None]:
    return translated(f"{picture.place} cannot be {what}", DataError, "mend or remove it", code="image-unreadable")
