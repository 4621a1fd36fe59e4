"""Folders of images, one folder for each class: the layout that ``datasets`` calls ``imagefolder`` (layer L1).

``ROOT/train/CLASS/x.png`` with folders for the other splits beside ``train``, or ``ROOT/CLASS/x.png`` without.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from clora_cli.base.errors import DataError
from clora_cli.base.intake import real_path
from clora_cli.data.findings import few
from clora_cli.data.folders import split_files
from clora_cli.data.pictures import ENDINGS
from clora_cli.data.readers import ClassName, Record, is_readable
from clora_cli.data.split_names import Twofold, choose_splits, split_of

__all__ = ["read_image_folder"]


def read_image_folder(folder: Path) -> tuple[dict[str, list[Record]], list[str]] | None:
    """Return the rows of a folder's images by split, with columns ``image`` and ``label``, and notes; None if it holds other data.

    Raises:
        DataError: A split is there twice, or there are images and no two classes.
    """
    files = split_files(folder)
    if any(map(split_of, files)):
        return None  # files of rows, which may name the images in the folders beside them
    parts = {path.name: path for path in _folders(folder) if split_of(path.name) and _classes(path)}
    if not parts:
        if files or any(map(_holds_rows, _folders(folder))):
            return None
        return ({"train": _rows(folder)}, _left(folder)) if _has_classes(folder) else None
    try:
        chosen, others = choose_splits(parts)
    except Twofold as error:
        raise DataError(f"{folder}: {error}; keep one", code="split-twice") from error
    splits = {kind: [row for name in names for row in _rows(parts[name])] for kind, names in chosen.items()}
    used = [parts[name] for names in chosen.values() for name in names]
    beside = [*others, *(path.name for path in _folders(folder) if path.name not in parts), *_loose(folder)]
    notes = [f"not used in {folder.name}: {few(sorted(beside))}"] if beside else []
    return splits, [*notes, *(note for part in used for note in _left(part))]


def _folders(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def _loose(folder: Path) -> list[str]:
    """Return the names of the files beside folders of splits that hold images or rows."""
    return [path.name for path in sorted(folder.iterdir()) if _is_image(path) or (path.is_file() and is_readable(path))]


def _holds_rows(folder: Path) -> bool:
    """Whether a folder's own folder is where its rows are; there may be pictures for people beside them."""
    return any(map(split_of, split_files(folder))) or (
        folder.name == "data" and any(map(is_readable, folder.iterdir()))
    )


def _classes(folder: Path) -> list[Path]:
    """The folders in it that hold images."""
    return [path for path in _folders(folder) if any(map(_is_image, _files(path)))]


def _has_classes(folder: Path) -> bool:
    """Tell whether a folder has classes of images; refuse images from which none can be told."""
    classes = _classes(folder)
    if len(classes) > 1 or not (classes or any(map(_is_image, folder.iterdir()))):
        return bool(classes)
    if classes and len(_classes(classes[0])) > 1:
        raise DataError(
            f"{folder}: its classes are one folder further down; give {classes[0]}", code="images-further-down"
        )
    there = f"images of one folder alone, '{classes[0].name}'" if classes else "images without folders"
    raise DataError(
        f"{folder}: it holds {there}, and classes are told by folders: {folder.name}/CLASS/x.png for each class, or "
        f"{folder.name}/train/CLASS/x.png with test beside train",
        code="images-without-classes",
    )


def _rows(folder: Path) -> list[Record]:
    """An image and the name of its class's folder, in the order of the files' names."""
    files = [(path, ClassName(one.name)) for one in _classes(folder) for path in sorted(_files(one)) if _is_image(path)]
    return [Record(str(path), "image", 1, {"image": str(path.absolute()), "label": label}) for path, label in files]


def _left(folder: Path) -> list[str]:
    odd = [str(path.relative_to(folder)) for path in sorted(_files(folder)) if not _is_image(path)]
    odd += [f"{path.name} (empty)" for path in _folders(folder) if not any(path.iterdir())]
    odd += [path.name for path in sorted(folder.iterdir()) if _is_image(path)]
    return [f"not used in {folder.name}: {few(odd)}"] if odd else []


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and below it, linked ones too; none of hidden folders, where copies and thumbnails are kept."""
    return _walked(folder, frozenset(real_path(folder).parents))


def _walked(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    if (real := real_path(folder)) in above:
        return  # a link to what it is in
    for path in folder.iterdir():
        if not path.is_dir():
            yield path
        elif not path.name.startswith("."):
            yield from _walked(path, above | {real})


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".") and path.is_file()
