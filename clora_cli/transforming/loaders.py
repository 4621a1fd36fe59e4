"""What each server takes of an adapter (layer L3), as its own source checks it or silently relies on it.

- **vLLM** (``vllm/lora/peft_helper.py``, ``lora_model.py``, ``config/lora.py``) scales every layer by the configuration's one
  ``lora_alpha / r``: patterns would be ignored. It wants ``target_modules`` there and takes the layers from the tensors' names.
  ``--max-lora-rank`` is one of a list. Its file-system resolver loads a subfolder by its name, if the configuration's base model
  is called what the server calls it.
- **SGLang** (``srt/lora/lora_config.py``, ``utils.py``) scales as vLLM does, never by rsLoRA, and knows layers by the last
  word of their names.
- **LoRAX** (``adapters/lora.py``, ``utils/sgmv.py``) stacks the layers of one kind: an adapter that leaves one out loses that kind
  without a word, so missing layers get zeros. It pads ranks to 8 and then to multiples of 16, to 128 at most.
- **llama.cpp** (``src/llama-adapter.cpp``, ``convert_lora_to_gguf.py``) wants each tensor's pair, of the base tensor's shape.
- **Ollama** took ``ADAPTER`` until 0.34.0 and refuses it since (``server/create.go``): with a base model in GGUF it is given a whole
  model. Names are of ASCII letters, digits, ``_``, ``-`` and ``.``, with at most 80 of them, whatever their case (``types/model/name.go``).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from clora_cli.algebra.lora import Factor
from clora_cli.base.errors import MismatchError

__all__ = ["Loader", "called_by_ollama", "is_ollama_base", "loader_named", "scaled", "without_gaps"]

_SGLANG = {"q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj", "down_proj"}
_LAYER = re.compile(r"(?P<before>.*?\.)(?P<number>\d+)(?P<after>\..*)")
_OLLAMA_MOST = 80  # letters of one part of a name
_OLLAMA_NAME = re.compile(r"(\w+://)?((\w[\w.:-]{0,349}/)?\w[\w-]{0,79}/)?\w[\w.-]{0,79}(:\w[\w.-]{0,79})?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Loader:
    """One server's rules.

    Attributes:
        name: Its name on the command line.
        ranks: The ranks that it takes, ascending; a smaller one is filled up with zeros. Empty for any.
        words: The last words of the layers' names that it knows; empty for any.
        tables: Whether it takes adapters of tables of embeddings.
        encoders: Whether it serves adapters on models with an encoder.
        without_gaps: Whether it needs all layers of a kind.
        gguf: Whether its files are GGUF.
    """

    name: str
    ranks: tuple[int, ...] = ()
    words: frozenset[str] = frozenset()
    tables: bool = False
    encoders: bool = False
    without_gaps: bool = False
    gguf: bool = False

    def rank(self, needed: int, what: str) -> int:
        """Return the rank to write for one that is needed.

        Raises:
            MismatchError: If it takes none as large.
        """
        fitting = next((rank for rank in self.ranks if rank >= needed), None)
        if self.ranks and fitting is None:
            raise MismatchError(
                f"{what} has rank {needed}, and {self.name} takes at most {self.ranks[-1]}; pass --rank {self.ranks[-1]} to cut it",
                code="rank-too-large-for-loader",
            )
        return fitting or needed

    def check(self, sites: Iterable[str], tables: Iterable[str], kind: object, what: str) -> None:
        """Refuse an adapter that the server would not load, or would load in part.

        Args:
            sites: Its layers.
            tables: Those of them that are tables of embeddings.
            kind: The base model's kind, as far as recorded.
            what: The adapter, for messages.

        Raises:
            MismatchError: With the reason.
        """
        reason = ""
        if kind == "seq2seq" and not self.encoders:
            reason = "its base model has an encoder and a decoder"
        elif not self.tables and (table := next(iter(tables), None)):
            reason = f"it adapts a table of embeddings, {table}"
        elif self.words and (odd := next((s for s in sites if s.rpartition(".")[2] not in self.words), None)):
            reason = f"it adapts {odd}, a kind of layer that {self.name} does not know"
        if reason:
            raise MismatchError(
                f"{what} cannot be exported for {self.name}: {reason}; add it to the model with `clora merge --into-model`",
                code="loader-takes-no-such-adapter",
            )


_LOADERS = (
    Loader(name="peft", tables=True, encoders=True),
    Loader(name="vllm", ranks=(1, 8, 16, 32, 64, 128, 256, 320, 512), tables=True),
    Loader(name="sglang", words=frozenset(_SGLANG)),
    Loader(name="lorax", ranks=(8, *range(16, 129, 16)), without_gaps=True),
    Loader(name="llama.cpp", gguf=True),
    Loader(name="ollama", gguf=True),
)


def loader_named(name: str) -> Loader:
    """Return a server's rules by its name."""
    return next(loader for loader in _LOADERS if loader.name == name)


def scaled(factors: Mapping[str, Factor], rank: int) -> dict[str, Factor]:
    """Return the same deltas as pairs of one rank and of scaling 1: what is scaled by patterns or rsLoRA is folded into ``b``.

    Args:
        factors: Pairs by site, of this rank or less.
        rank: The rank; missing rows of ``a`` and columns of ``b`` are zeros.
    """
    return {
        site: Factor(
            functional.pad(factor.a.float(), (0, 0, 0, rank - factor.rank)),
            functional.pad(factor.b.float() * factor.scaling, (0, rank - factor.rank)),
            1.0,
        )
        for site, factor in factors.items()
    }


def without_gaps(factors: Mapping[str, Factor], config: Mapping[str, Any] | None, what: str) -> dict[str, Factor]:
    """Return an adapter with zeros at the layers of a kind that it leaves out.

    Args:
        factors: Pairs of one rank, by site.
        config: The base model's configuration, for the number of its layers; None if it is not at hand.
        what: The adapter, for messages.

    Raises:
        MismatchError: If the number of layers is not known.
    """
    count = (config or {}).get("num_hidden_layers", (config or {}).get("n_layer"))
    if not isinstance(count, int):
        raise MismatchError(
            f"{what}: how many layers its base model has is not known here, and an adapter that leaves one out would lose more; "
            "pass --model",
            code="loader-needs-base-model",
        )
    filled = dict(factors)
    for site, factor in factors.items():
        if match := _LAYER.fullmatch(site):
            for number in range(count):
                name = f"{match['before']}{number}{match['after']}"
                filled.setdefault(name, Factor(torch.zeros_like(factor.a), torch.zeros_like(factor.b), 1.0))
    return dict(sorted(filled.items()))


def is_ollama_base(name: str) -> bool:
    """Tell whether Ollama takes a text after ``FROM``: a name, with or without host, namespace and tag, or a path."""
    return len(name.split()) == 1 and bool(name.startswith(("/", "./", "../", "~/")) or _OLLAMA_NAME.fullmatch(name))


def called_by_ollama(names: Sequence[str]) -> dict[str, str]:
    """Return a name that Ollama takes for each adapter, no two of them the same to it: the adapter's own where it can be."""
    called: dict[str, str] = {}
    for name in sorted(names, key=lambda name: _spelled(name) != name):  # those that stay as they are come first
        taken, number, spelled = {other.casefold() for other in called.values()}, 1, _spelled(name)
        while spelled.casefold() in taken:
            number += 1
            spelled = f"{_spelled(name)[: _OLLAMA_MOST - len(str(number)) - 1]}-{number}"
        called[name] = spelled
    return called


def _spelled(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^\w.-]+", "-", plain).lstrip("-.")[:_OLLAMA_MOST] or "adapter"
