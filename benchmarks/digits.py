"""Two tasks of real images and a small ViT for them: scikit-learn's digits, 1797 scans of 8 by 8 pixels.

Half of the scans pretrain the ViT, with all ten digits and from scratch; its head is left out. The others become two folders of
images, ``low`` (0 to 4) and ``high`` (5 to 9), 60 % of each for training and 40 % for the test.

    pip download --no-deps scikit-learn && unzip -j scikit_learn-*.whl sklearn/datasets/data/digits.csv.gz
    python benchmarks/digits.py digits.csv.gz digits
    clora run benchmarks/recipes/image-classes.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy
import torch
from PIL import Image
from torch.nn import functional
from transformers import AutoImageProcessor, ViTConfig, ViTForImageClassification, set_seed
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

_BRIGHTEST = 16  # of the scans' grey levels
_TRAINED = 0.6
_EPOCHS, _BATCH = 40, 32


def main() -> None:
    """Write the tasks and the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path, help="scikit-learn's digits.csv.gz")
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    rows = numpy.loadtxt(given.scans, delimiter=",")
    rows = rows[numpy.random.default_rng(0).permutation(len(rows))]
    half = len(rows) // 2
    pretrain(rows[:half], given.out / "vit")
    for name, digits in (("low", range(5)), ("high", range(5, 10))):
        write(rows[half:], digits, given.out / name)


def scan(row: numpy.ndarray) -> Image.Image:
    """Return a row's image."""
    grey = (row[:-1].reshape(8, 8) * 255 / _BRIGHTEST).astype("uint8")
    return Image.fromarray(grey).convert("RGB")


def write(rows: numpy.ndarray, digits: range, folder: Path) -> None:
    """Write the scans of some digits as a folder of images."""
    for digit in digits:
        own = rows[rows[:, -1] == digit]
        for number, row in enumerate(own):
            split = "train" if number < _TRAINED * len(own) else "test"
            path = folder / split / str(digit) / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            scan(row).save(path)


def pretrain(rows: numpy.ndarray, folder: Path) -> None:
    """Train a ViT of 100 thousand parameters on scans, and save it without its head."""
    set_seed(0)
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=2, num_labels=10))
    pixels = processor([scan(row) for row in rows], return_tensors="pt")["pixel_values"]
    labels = torch.tensor(rows[:, -1]).long()
    steps = _EPOCHS * -(-len(rows) // _BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    for _ in range(_EPOCHS):
        for batch in torch.randperm(len(rows)).split(_BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(model(pixel_values=pixels[batch]).logits, labels[batch]).backward()
            optimizer.step()
            schedule.step()
    model.vit.save_pretrained(folder)


if __name__ == "__main__":
    main()
