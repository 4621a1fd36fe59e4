"""Where an adapter folder may be written, whether it is there already, and writing it whole (layer L1)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clora_cli.base.errors import OptionError
from clora_cli.base.files import new_folder, sha256, to_json
from clora_cli.store.adapter_config import CONFIG
from clora_cli.store.adapter_folder import DENSE, WEIGHTS, AdapterFolder, is_adapter, read_adapter
from clora_cli.store.manifest import MANIFEST, manifest_text
from clora_cli.store.side_files import FEATURES, HEAD, STATE
from clora_cli.store.tensors import (
    check_written,
    checked,
    save_tensors,
    stream_tensors,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from clora_cli.model.places import Places
    from clora_cli.store.distribution import Distribution

__all__ = ["check_place", "finished", "write_adapter", "write_dense"]


def check_place(target: Path) -> None:
    """Check that a command may write an adapter folder at a path, or replace what is there.

    Raises:
        OptionError: If something else is there, such as a package: no option replaces that.
    """
    if target.exists() and not is_adapter(target):
        raise OptionError(
            f"{target} exists and is no adapter folder; choose another --out", code="output-not-an-adapter"
        )


def finished(target: Path, recipe: Mapping[str, Any]) -> AdapterFolder | None:
    """Return the adapter at a path if this very recipe made it; None if nothing is there.

    Args:
        target: The path that a command would write to.
        recipe: The entries of the manifest that decide the result.

    Raises:
        ArtifactError: If what is there is damaged.
        OptionError: If it is not an adapter folder, or another recipe made it.
    """
    check_place(target)
    if not target.exists():
        return None
    folder = read_adapter(target)
    if changed := folder.changes(recipe):
        raise OptionError(
            f"{target} exists and was made differently ({changed}); pass --force to replace it or --out to keep it",
            code="output-made-differently",
        )
    return folder


def write_adapter(
    target: Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    manifest: Mapping[str, Any],
    texts: Mapping[str, str],
    state: Mapping[str, Tensor] | None = None,
    distribution: Distribution | None = None,
    places: Places | None = None,
) -> AdapterFolder:
    """Write one adapter folder atomically and read it back.

    Args:
        target: The folder; replaced if it exists.
        tensors: PEFT's tensor names to LoRA factors, or to soft prompts.
        config: ``adapter_config.json``.
        manifest: ``clora.json`` without ``schema`` and ``files``, which are added.
        texts: Further files by name, such as the model card.
        state: Tensors that the method needs later.
        distribution: Its feature distribution, if it has one.
        places: The layers of its base model, for the same checks as when it is used.

    Raises:
        CloraError: If a number is not finite, the result could not be read or used by any command, or the folder cannot be
            written; what was there stays.
    """
    check_written(target, tensors.items())
    with _member(target, manifest, texts) as folder:
        save_tensors(folder / WEIGHTS, tensors)
        if state:
            save_tensors(folder / STATE, state)
        if distribution is not None:
            (folder / FEATURES).write_bytes(distribution.to_bytes())
        (folder / CONFIG).write_text(to_json(config), encoding="utf-8")
        written = AdapterFolder(folder, config, None, places)
        _ = written.prompt() if written.is_prompt else written.factors()  # none is published that no command could read
    return read_adapter(target)


def write_dense(
    target: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    deltas: Iterable[tuple[str, Tensor]],
    manifest: Mapping[str, Any],
    texts: Mapping[str, str],
    head: Mapping[str, Tensor] | None = None,
) -> AdapterFolder:
    """Write a folder of dense deltas atomically, one delta at a time, and read it back.

    Args:
        target: The folder; replaced if it exists.
        shapes: Site to (out, in), in the order in which the deltas come.
        dtype: What to store.
        deltas: Site and delta.
        manifest: As for ``write_adapter``.
        texts: As for ``write_adapter``.
        head: The tensors of its classification head, if it has one.

    Raises:
        CloraError: If a number is not finite, or the folder cannot be written; what was there stays.
    """
    with _member(target, manifest, texts) as folder:
        stream_tensors(folder / DENSE, shapes, dtype, checked(target, deltas))
        if head:
            save_tensors(folder / HEAD, head)
    return read_adapter(target)


@contextlib.contextmanager
def _member(target: Path, manifest: Mapping[str, Any], texts: Mapping[str, str]) -> Iterator[Path]:
    """Yield a folder to fill; then add the texts, and the manifest last: a folder that has a manifest is complete."""
    with new_folder(target) as folder:
        yield folder
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        # A feature distribution may be replaced later, so it carries its own checksum.
        files = {file.name: sha256(file) for file in sorted(folder.iterdir()) if file.name != FEATURES}
        (folder / MANIFEST).write_text(manifest_text(manifest, files), encoding="utf-8")
