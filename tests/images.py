"""Tiny image models, and tasks of shapes that are drawn on the spot."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import transformers
from PIL import Image, ImageDraw
from transformers import set_seed
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

from clora_cli.data import Example

ROUND, STRAIGHT = ("disc", "ring"), ("bar", "post", "square")
_SIDE = 10  # pixels of a drawing, which a model's image processor makes fewer of
_VIT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
_VIT |= {"image_size": 8, "patch_size": 4}
_SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "image_size": 16, "patch_size": 2, "window_size": 4}
_CONVNEXT = {
    "num_channels": 3,
    "patch_size": 2,
    "layer_scale_init_value": 0.5,
    "hidden_sizes": [8, 8],
    "depths": [1, 1],
    "num_stages": 2,
}
_BEIT = {**_VIT, "use_mean_pooling": True, "use_relative_position_bias": True}
_FOCAL = {"embed_dim": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "image_size": 16, "patch_size": 2}
_FOCAL |= {"focal_levels": [1, 1], "focal_windows": [3, 3]}
_HIERA = {"embed_dim": 8, "image_size": [32, 32], "patch_size": [3, 3], "patch_stride": [2, 2], "patch_padding": [1, 1]}
_HIERA |= {
    "depths": [1, 1],
    "num_heads": [1, 2],
    "query_stride": [2, 2],
    "num_query_pool": 1,
    "masked_unit_size": [4, 4],
}
_PYRAMID = {"num_encoder_blocks": 2, "depths": [1, 1], "hidden_sizes": [8, 16], "num_attention_heads": [1, 2]}
_PYRAMID |= {"mlp_ratios": [2, 2]}
_PVT = {**_PYRAMID, "image_size": 32, "sequence_reduction_ratios": [2, 1], "patch_sizes": [4, 2], "strides": [4, 2]}
_LATER = {**_PYRAMID, "image_size": 16, "sr_ratios": [2, 1], "patch_sizes": [3, 3], "strides": [2, 2]}
# Of each family, what its configuration needs, and the layers that are adapted.
FAMILIES = {
    "beit": (_BEIT, ()),
    "convnext": (_CONVNEXT, ("pwconv1", "pwconv2")),
    "convnextv2": (_CONVNEXT, ("pwconv1", "pwconv2")),
    "data2vec-vision": (_BEIT, ()),
    "deit": (_VIT, ()),
    "dinov2": (_VIT, ()),
    "dinov2_with_registers": ({**_VIT, "num_register_tokens": 2}, ()),
    "focalnet": (_FOCAL, ("fc1", "fc2")),
    "hiera": (_HIERA, ("qkv", "proj")),
    "ijepa": (_VIT, ()),
    "pvt": (_PVT, ()),
    "pvt_v2": (_LATER, ()),
    "segformer": (_LATER, ()),
    "swin": (_SWIN, ()),
    "swinv2": (_SWIN, ()),
    "vit": (_VIT, ()),
    "vit_msn": (_VIT, ()),
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


def drawn_again(row: Example) -> Image.Image:
    """Return a row's image, drawn anew by its file's name."""
    *_, shape, name = row.picture.path.split("/")
    return drawn(shape, int(name.removesuffix(".png")))


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
    """Save a random image model without its head, and an image processor of its family's own kind."""
    set_seed(0)
    given = FAMILIES[family][0]
    config = transformers.AutoConfig.for_model(family, **given)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    side = next(iter(np.ravel(given.get("image_size", 16)).tolist()))
    kinds = IMAGE_PROCESSOR_MAPPING_NAMES.get(family) or {"pil": "BitImageProcessorPil"}
    shape = {"shortest_edge": side} if kinds["pil"].startswith(("Bit", "ConvNext")) else {"height": side, "width": side}
    cut = {"crop_size": {"height": side, "width": side}} if kinds["pil"].startswith(("Bit", "DeiT")) else {}
    getattr(transformers, kinds["pil"])(size=shape, **cut).save_pretrained(folder)
    return folder
