"""Random views of a training image (layer L1): a part of it in the size of the whole, and its mirror image.

What is drawn depends on a seed and the view's number alone, so that it is the same whatever process draws it, and when.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

__all__ = ["View", "Views"]

# As torchvision's RandomResizedCrop has them by default, which the papers on image models train with.
_SHARE, _SHAPE = (0.08, 1.0), (3 / 4, 4 / 3)
_TRIES = 10

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class View:
    """What is seen of an image.

    Attributes:
        part: Left, top, right and bottom, as shares of its width and height; None for all of it.
        mirrored: Whether left and right change places.
    """

    part: Box | None = None
    mirrored: bool = False


class Views:
    """Draws views.

    Args:
        augment: ``crop``, ``flip``, ``crop,flip``, or ``none`` for views that are their images.
        seed: The run's.

    Attributes:
        crops: Whether views are parts of their images.
    """

    def __init__(self, augment: str, seed: int) -> None:
        self.crops, self._flips, self._seed = "crop" in augment, "flip" in augment, seed

    def __bool__(self) -> bool:
        """Whether views differ from their image."""
        return self.crops or self._flips

    def view(self, number: int, shape: float) -> View:
        """Draw a view.

        Args:
            number: The view's.
            shape: The image's width divided by its height.
        """
        chance = random.Random(f"{self._seed}/view {number}")
        mirrored = self._flips and chance.random() < 0.5
        return View(_part(chance, shape) if self.crops else None, mirrored)


def _part(chance: random.Random, shape: float) -> Box:
    """Draw a part of an image: its share of the area evenly, the logarithm of its own shape evenly, then its place."""
    for _ in range(_TRIES):
        share = chance.uniform(*_SHARE)
        relative = math.exp(chance.uniform(*map(math.log, _SHAPE))) / shape
        width, height = math.sqrt(share * relative), math.sqrt(share / relative)
        if max(width, height) <= 1:
            return _placed(width, height, chance.uniform(0, 1 - width), chance.uniform(0, 1 - height))
    # A long image: the middle of it, in the shape next to its own.
    relative = min(max(shape, _SHAPE[0]), _SHAPE[1]) / shape
    width, height = min(1.0, relative), min(1.0, 1 / relative)
    return _placed(width, height, (1 - width) / 2, (1 - height) / 2)


def _placed(width: float, height: float, left: float, top: float) -> Box:
    return left, top, min(1.0, left + width), min(1.0, top + height)
