"""Tiny image models, and tasks of shapes that are drawn on the spot."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path

import transformers
from PIL import Image, ImageDraw
from transformers import set_seed
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

ROUND, STRAIGHT = ("disc", "ring"), ("bar", "post", "square")
_SIDE = 10  # pixels of a drawing, which a model's image processor makes fewer of
_VIT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
_VIT |= {"image_size": 8, "patch_size": 4}
_SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "image_size": 16, "patch_size": 2, "window_size": 4}
_CONVNEXT = {"num_channels": 3, "patch_size": 2, "hidden_sizes": [8, 8], "depths": [1, 1], "num_stages": 2}
_BEIT = {**_VIT, "use_mean_pooling": True, "use_relative_position_bias": True}
# Of each family, what its configuration needs, and the layers that are adapted.
FAMILIES = {
    "beit": (_BEIT, ()),
    "convnext": (_CONVNEXT, ("pwconv1", "pwconv2")),
    "deit": (_VIT, ()),
    "dinov2": (_VIT, ()),
    "swin": (_SWIN, ()),
    "vit": (_VIT, ()),
}


def drawn(shape: str, seed: int) -> Image.Image:
    """Draw a light shape somewhere on a dark ground."""
    chance = random.Random(f"{shape}/{seed}")
    image = Image.new("RGB", (_SIDE, _SIDE), tuple(chance.randrange(50) for _ in range(3)))
    left, top = chance.randrange(3), chance.randrange(3)
    pen, colour, box = ImageDraw.Draw(image), tuple(chance.randrange(180, 256) for _ in range(3)), [0, 0, 0, 0]
    box = [left, top, left + 6, top + 6]
    if shape == "disc":
        pen.ellipse(box, fill=colour)
    elif shape == "ring":
        pen.ellipse(box, outline=colour)
    elif shape == "square":
        pen.rectangle(box, fill=colour)
    else:
        ends = (left, top + 3, left + 6, top + 3) if shape == "bar" else (left + 3, top, left + 3, top + 6)
        pen.line(ends, fill=colour, width=2)
    return image


def encoded(shape: str, seed: int) -> bytes:
    """Return a drawing as a PNG file's bytes."""
    held = io.BytesIO()
    drawn(shape, seed).save(held, "PNG")
    return held.getvalue()


def write_shapes(folder: Path, shapes: Sequence[str], rows: int = 8) -> Path:
    """Write a folder of so many training images and of 3 test images for each class."""
    for split, seeds in (("train", range(rows)), ("test", range(100, 103))):
        for shape in shapes:
            (folder / split / shape).mkdir(parents=True)
            for seed in seeds:
                (folder / split / shape / f"{seed:03}.png").write_bytes(encoded(shape, seed))
    return folder


def save_seeing(family: str, folder: Path) -> Path:
    """Save a random image model without its head, and an image processor."""
    set_seed(0)
    config = transformers.AutoConfig.for_model(family, **FAMILIES[family][0])
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    side = FAMILIES[family][0].get("image_size", 16)
    ViTImageProcessorPil(size={"height": side, "width": side}).save_pretrained(folder)
    return folder
