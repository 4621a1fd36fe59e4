"""A base model in one GGUF file (layer L1): made once into a folder of Transformers, in a cache, and used from there.

GGUF is llama.cpp's format. Weights in it are mostly in 2 to 8 bits; training needs them as plain numbers, in float32 here, so
that adapters learn on exactly the weights that llama.cpp multiplies with.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clora_cli.base.errors import ArtifactError, CloraError, OptionError, translated
from clora_cli.base.files import new_folder, read_json, to_json, write_text
from clora_cli.base.intake import named_path
from clora_cli.model.completeness import check_complete, check_extent
from clora_cli.processes.locks import Patience, locked
from clora_cli.processes.spots import place

__all__ = ["check_gguf_installed", "gguf_digest", "gguf_folder", "is_gguf", "open_gguf"]

_MAGIC = b"GGUF"
# Of a folder in the cache: the size of each other file. No .json, which goes along where a model is written again.
_FILES = "files.clora"
_HEADER = 1 << 26  # bytes that are looked at whole: settings and vocabulary, which tools change in place
_SAMPLES = 256
_SAMPLE = 4096  # bytes


def is_gguf(name: str) -> bool:
    """Tell whether a base model's name is that of a file here: only a GGUF file can be one, whatever it is called."""
    return Path(name).is_file()


def check_gguf_installed(why: str) -> None:
    """Refuse to go on without the package that reads and writes GGUF.

    Args:
        why: What needs it, as the begin of a message.

    Raises:
        OptionError: If it is not installed.
    """
    if find_spec("gguf") is None:
        raise OptionError(
            f"{why}, and the package that reads and writes them is not installed: pip install 'clora-cli[gguf]'",
            code="extra-not-installed",
        )


def gguf_folder(file: Path) -> Path:
    """Return the folder that holds a GGUF file's model as Transformers reads it, made when first asked for.

    The folder's name follows from the file's content, so that a copy elsewhere finds it too. It is four bytes a parameter
    large, may be removed at any time, and lies below ``$XDG_CACHE_HOME/clora/gguf`` (``~/.cache/clora/gguf``).

    Raises:
        OptionError: If the package that reads GGUF is not installed.
        ArtifactError: If the file is damaged, or of an architecture that Transformers does not read from GGUF.
        CloraError: If the folder cannot be written.
    """
    root = named_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    if root.parts[0] == "~":
        raise CloraError(
            f"base model {file} is a GGUF file, which is made into a folder once, and no home folder is known to hold it: name a "
            "place in XDG_CACHE_HOME",
            code="gguf-cache-not-writable",
        )
    folder = root / "clora" / "gguf" / gguf_digest(file)[:32]
    if not _is_whole(folder):
        check_gguf_installed(f"base model {file} is a GGUF file")
        try:
            _make(file, folder)
        except CloraError as error:
            if error.code != "cannot-write":
                raise
            raise CloraError(
                f"base model {file} is a GGUF file, which is made into a folder once: {error}, in XDG_CACHE_HOME",
                code="gguf-cache-not-writable",
            ) from error
    return folder


def _make(file: Path, folder: Path) -> None:
    with locked([place(folder)], patience=Patience(math.inf)):  # who comes while it is made finds it made
        if not _is_whole(folder):
            with new_folder(folder) as unfinished:
                _convert(file, unfinished)
                sizes = {}
                for path in unfinished.iterdir():
                    path.chmod(0o644)  # weights are written readable for the owner only, and caches are shared
                    sizes[path.name] = path.stat().st_size
                write_text(unfinished / _FILES, to_json({"files": sizes}))


def _is_whole(folder: Path) -> bool:
    """Tell whether a folder of the cache holds all that was written there: what cleans caches up removes files one by one."""
    try:
        sizes = read_json(folder / _FILES, "record of a cached model")["files"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (ArtifactError, AttributeError, KeyError, OSError):
        return False


def gguf_digest(file: Path) -> str:
    """Return a digest of a file's size, of its header and of samples from all of its tensors."""
    try:
        size = file.stat().st_size
        digest = hashlib.sha256(str(size).encode())
        with file.open("rb") as stream:
            if stream.read(len(_MAGIC)) != _MAGIC:
                raise ArtifactError(
                    f"base model {file} is no GGUF file; name a folder of Transformers, or fetch the file again",
                    code="gguf-damaged",
                )
            stream.seek(0)
            digest.update(stream.read(_HEADER))
            for number in range(_SAMPLES):
                stream.seek(max(0, size - _SAMPLE) * number // (_SAMPLES - 1))
                digest.update(stream.read(_SAMPLE))
    except OSError as error:
        raise ArtifactError(
            f"base model file {file} cannot be read: {error.strerror or error}", code="path-unreadable"
        ) from error
    return digest.hexdigest()


def open_gguf(file: Path) -> Any:
    """Open a GGUF file, its tensors mapped into memory.

    Raises:
        ArtifactError: If it is damaged.
        OptionError: If the gguf package is not installed.
    """
    check_gguf_installed(f"{file} is a GGUF file")
    import gguf

    with translated(f"GGUF file {file} cannot be read", ArtifactError, "fetch it again", code="gguf-damaged"):
        return gguf.GGUFReader(file)


def _check_whole_model(file: Path, fields: Mapping[str, Any]) -> None:
    """Check that a GGUF file holds a model, and all of it.

    Raises:
        ArtifactError: If it holds something else, or a part.
    """
    told = {key: fields[key].contents() for key in ("general.type", "split.count") if key in fields}
    if (kind := told.get("general.type", "model")) != "model":
        raise ArtifactError(
            f"{file} is a GGUF file of type '{kind}', no model; name the model's own", code="gguf-no-model"
        )
    if (parts := told.get("split.count", 0)) > 1:
        raise ArtifactError(
            f"{file} is one of {parts} parts of a model; join them with `llama-gguf-split --merge`, and name the result",
            code="gguf-no-model",
        )


def _convert(file: Path, folder: Path) -> None:
    import torch
    import transformers as library

    what, source, name = f"base model {file}", file.parent, file.name
    reader = open_gguf(file)
    _check_whole_model(file, reader.fields)
    mend = "name a folder of Transformers, or fetch the file again"
    with translated(f"{what} cannot be read", ArtifactError, mend, code="gguf-damaged"):
        config = library.AutoConfig.from_pretrained(source, gguf_file=name, trust_remote_code=False)
        loader = library.AutoModelForSeq2SeqLM if config.is_encoder_decoder else library.AutoModelForCausalLM
        with torch.device("meta"):
            skeleton = loader.from_config(config, trust_remote_code=False)
        check_extent(what, skeleton, sum(int(tensor.n_elements) for tensor in reader.tensors))
        model, found = loader.from_pretrained(
            source, gguf_file=name, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )
        check_complete(what, model, found)
        # The weights are plain numbers by now; their format in the file is nobody's concern any more.
        model.hf_quantizer, model.is_quantized = None, False
        vars(model.config).pop("quantization_config", None)
        tokenizer = library.AutoTokenizer.from_pretrained(source, gguf_file=name, trust_remote_code=False)
    with translated(
        f"{what} cannot be made into a folder below XDG_CACHE_HOME",
        CloraError,
        "free space there or name another place",
        code="gguf-cache-not-writable",
    ):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
