"""Options of an export to a server (layer L1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clora_cli.base.errors import OptionError
from clora_cli.base.options import Options, option

__all__ = ["EXPORT_WAYS", "LOADERS", "ExportOptions"]

_TYPES = ("float32", "float16", "bfloat16")
LOADERS = ("peft", "vllm", "sglang", "lorax", "llama.cpp", "ollama")
EXPORT_WAYS = ("auto", "each", "sum", "last", "weighted")


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """What to write for which loader.

    ``combine`` says which adapters a loader, which uses one at a time, is given: ``each`` by itself, the ``last``, or one that is
    the ``sum`` of all, plain or ``weighted`` as the last one was trained; ``auto`` does what their method says.
    """

    loader: str = option(
        "peft", f"What will load it: {', '.join(LOADERS)}.", flags=("--for",), choices=LOADERS, metavar="LOADER"
    )
    out: Path = option(Path("exported"), "Folder to write.", flags=("-o", "--out"), writes=True)
    combine: str = option(
        "auto",
        "each adapter by itself, the last, or the sum or weighted sum of all as one; auto asks the adapters' method.",
        choices=EXPORT_WAYS,
    )
    model: str | None = option(
        None,
        "Base model, for GGUF and where layers are to be filled up; the one that the adapters name by default. A .gguf "
        "file is only looked into.",
        flags=("-m", "--model"),
    )
    base_name: str | None = option(
        None, "What the server calls the base model; the adapters' own name for it by default.", metavar="NAME"
    )
    rank: int | None = option(
        None, "Cut each adapter to this rank, by singular values; the energy kept is told.", interval="[1, inf)"
    )
    dtype: str = option("float32", f"Type of the numbers written: {', '.join(_TYPES)}.", choices=_TYPES)

    def check(self) -> None:
        """Refuse a type that the format does not have.

        Raises:
            OptionError: If GGUF is to hold bfloat16, which the gguf package's arrays lack.
        """
        if self.dtype == "bfloat16" and self.loader in {"llama.cpp", "ollama"}:
            raise OptionError(
                f"--dtype bfloat16 is not written for {self.loader}; choose float32 or float16",
                code="option-choice-unknown",
            )
