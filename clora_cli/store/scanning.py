"""What speaks against trusting an adapter folder of somebody else (layer L1): looked at, never loaded, run or rendered."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clora_cli.algebra.lora import HUGE, Factor, bound, config_problem
from clora_cli.algebra.outliers import outliers
from clora_cli.base.errors import ArtifactError, CloraError
from clora_cli.base.intake import open_regular, parse_json, real_path
from clora_cli.store.adapter_config import CONFIG, read_config
from clora_cli.store.adapter_folder import WEIGHTS, AdapterFolder, is_adapter
from clora_cli.store.foreign_texts import TEXTS, text_findings
from clora_cli.store.manifest import MANIFEST, Manifest
from clora_cli.store.soft_prompt import is_prompt
from clora_cli.store.tensors import read_header

__all__ = ["PICKLES", "Finding", "scan_adapter", "scan_all"]

# Endings of files that hold, or may hold, pickles.
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".npy", ".npz", ".msgpack", ".h5"}
_CODE = {".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".exe", ".sh", ".bat", ".ps1", ".js", ".ipynb", ".jar", ".whl"}
_ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".xz", ".7z", ".rar"}
_PROGRAMS = (b"\x7fELF", b"MZ", b"#!")
_PICKLED = re.compile(rb"\x80[\x02-\x05]")
_METADATA = 1 << 16  # bytes of a safetensors header that are no tensor's
_BESIDE = 1 << 28  # bytes of a file that is not the adapter's weights: no side file or tokenizer is as large


@dataclass(frozen=True)
class Finding:
    """One thing that speaks against trusting an adapter.

    Attributes:
        kind: ``format``, ``size``, ``numbers``, ``outlier``, ``pickle``, ``code``, ``template``, ``link`` or ``text``.
        place: The file, and the layer where it is one's.
        what: What is wrong with it, for people.
    """

    kind: str
    place: str
    what: str

    def to_dict(self) -> dict[str, str]:
        """Return the JSON object."""
        return asdict(self)


def scan_all(folders: Iterable[Path], limit: float = 8.0) -> dict[str, list[Finding]]:
    """Look at adapter folders, and at the members of packages, before they are trusted; return findings by folder.

    Raises:
        CloraError: As ``scan_adapter``.
    """
    members: list[Path] = []
    for folder in folders:
        inner = sorted(path for path in folder.iterdir() if is_adapter(path)) if folder.is_dir() else []
        members += [folder] if is_adapter(folder) or not inner else inner
    return {str(member): scan_adapter(member, limit) for member in members}


def scan_adapter(folder: Path, limit: float = 8.0) -> list[Finding]:
    """Look at an adapter folder before it is trusted.

    Args:
        folder: The folder.
        limit: Robust standard deviations beyond which a layer's change stands out.

    Raises:
        ArtifactError: If there is no such folder.
    """
    if not folder.is_dir():
        raise ArtifactError(f"adapter folder {folder} does not exist", code="adapter-missing")
    found = []
    for path in sorted(folder.rglob("*")):
        place = str(path.relative_to(folder))
        if path.is_symlink() and not real_path(path).is_relative_to(real_path(folder)):
            found.append(Finding("link", place, "leads out of the folder"))
        elif path.is_file():
            found += _of_file(path, place)
        elif not path.is_dir():
            found.append(Finding("link", place, "is neither a file nor a folder"))
    return [*found, *_of_adapter(folder, limit)]


def _of_file(path: Path, place: str) -> Iterator[Finding]:
    suffix, size = path.suffix.lower(), path.stat().st_size
    with open_regular(path) as file:
        begin = file.read(16)
    if suffix in PICKLES or _PICKLED.match(begin) or _is_torch(path, begin):
        yield Finding("pickle", place, "can run code when it is loaded; clora never loads it, other tools may")
    elif suffix in _CODE or begin.startswith(_PROGRAMS):
        yield Finding("code", place, "is a program")
    elif suffix in _ARCHIVES or begin.startswith(b"PK\x03\x04"):
        yield Finding("code", place, "is an archive, into which nobody has looked")
    if path.name != WEIGHTS and size > _BESIDE:
        yield Finding("size", place, f"has {size / 1e6:.0f} MB beside the adapter's weights")
    if suffix == ".safetensors":
        yield from _of_header(path, place)
    if suffix in TEXTS:
        yield from (Finding(kind, place, what) for kind, what in text_findings(path))


def _is_torch(path: Path, begin: bytes) -> bool:
    if not begin.startswith(b"PK\x03\x04"):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError):
        return False  # or it is of a later version than zipfile's


def _of_header(path: Path, place: str) -> Iterator[Finding]:
    try:
        entries, start = read_header(path)
        with open_regular(path) as file:
            header = parse_json(file.read(start)[8:])
    except (OSError, ValueError) as error:
        yield Finding("format", place, f"is no safetensors file ({error})")
        return
    end = start + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    used = sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in entries.values())
    if start + used > end:
        yield Finding("format", place, "has tensors that share bytes")
    elif (spare := path.stat().st_size - end) or start + used != end:
        yield Finding("size", place, f"holds {max(spare, end - start - used)} bytes that belong to no tensor")
    if len(str(header.get("__metadata__", ""))) > _METADATA:
        yield Finding("size", place, "has metadata of more than 64 KB")


def _of_adapter(folder: Path, limit: float) -> Iterator[Finding]:
    try:
        manifest = Manifest.read(folder) if (folder / MANIFEST).exists() else None
        if manifest and not (folder / CONFIG).exists():  # a merge of dense deltas
            AdapterFolder(folder, {}, manifest).check_numbers()
            return
        config = read_config(folder / CONFIG)
    except CloraError as error:
        yield Finding("format", CONFIG, str(error))
        return
    yield from _of_config(folder, config)
    if not (folder / WEIGHTS).is_file():
        yield Finding("format", WEIGHTS, "is missing")
        return
    adapter, prompt = AdapterFolder(folder, config, None), is_prompt(config)
    if config_problem(config) and not prompt:
        return
    factors: Mapping[str, Factor] = {}
    try:
        if prompt:
            adapter.prompt()
        else:
            factors = adapter.factors(compare=False)
    except CloraError as error:
        kind = "numbers" if error.code == "numbers-not-finite" else "format"
        yield Finding(kind, WEIGHTS, str(error))
        return
    yield from _of_factors(factors, limit)


def _of_config(folder: Path, config: Mapping[str, Any]) -> Iterator[Finding]:
    if not is_prompt(config) and (problem := config_problem(config)):
        yield Finding("format", CONFIG, f"is no plain LoRA: {problem}")
    if code := [key for key in ("custom_module", "trust_remote_code") if config.get(key)]:
        yield Finding("code", CONFIG, f"asks for code to be run ({', '.join(code)})")
    library = str((config.get("auto_mapping") or {}).get("parent_library") or "transformers")
    if library.partition(".")[0] != "transformers":
        yield Finding("code", CONFIG, f"has PEFT import the module '{library}' (auto_mapping)")
    base = str(config.get("base_model_name_or_path") or "")
    if (
        base
        and (Path(base).is_absolute() or base.startswith((".", "~")))
        and real_path(folder / base).is_relative_to(real_path(folder))
    ):
        yield Finding("link", CONFIG, f"names a base model inside its own folder ('{base}')")


def _of_factors(factors: Mapping[str, Factor], limit: float) -> Iterator[Finding]:
    for site, factor in factors.items():
        if not bound(factor) <= HUGE:
            yield Finding("numbers", f"{WEIGHTS}: {site}", f"may change a weight by more than {HUGE:g}")
    for odd in outliers(factors, limit):
        what = f"changes its layer {odd.ratio:.3g} times as much as the median of its like ({odd.deviations:.1f} robust deviations)"
        yield Finding("outlier", f"{WEIGHTS}: {odd.site}", what)
