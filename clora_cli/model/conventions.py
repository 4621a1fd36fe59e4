"""What a loaded base model says about tokens and positions, beside its tokenizer (layer L1).

How long a prompt may be is read from the model itself: a table of positions ends, whatever the configuration calls it,
and reading beyond its end is an error. Rotary, relative and linear positions go on; there the configuration's number
says what the model was made for, and going beyond it is the user's choice.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from clora_cli.data.tokens import Tokens
from clora_cli.model.seeing import Seen

if TYPE_CHECKING:
    from torch import Tensor, nn

    from clora_cli.model.base_model import ModelReference

__all__ = [
    "first_position",
    "keeps_rows_apart",
    "neutral_generation",
    "pads_left",
    "read_tokens",
    "takes_positions",
    "token_positions",
]

_TABLE = re.compile(r"(?:^|\.)(?:wpe|embed_positions|positions_embed|pos_encoding|position_embeddings?)$")
_OTHER_SENSES = re.compile(r"vision|visual|image|audio|speech")
# Names of configurations' numbers of positions, the usual one first.
_MADE_FOR = ("max_position_embeddings", "max_seq_len", "seq_length", "context_length")
# Models whose positions end without a table, and what in their configuration says where.
_ENDING = {"mpt": "max_seq_len"}
# Recurrent models that read the padding before a text, whatever the attention mask says of it, at once or later.
_READ_PADDING = {"minimax", "recurrent_gemma", "rwkv", "xlstm"}
# Models whose state, kept from one token to the next, mixes the rows of a batch up (as of Transformers 5.23).
_MIX_ROWS = {"rwkv"}


def read_tokens(tokenizer: Any, model: Any, reference: ModelReference) -> Tokens:
    """Return the decisions about tokens of a tokenizer with its model; of an image processor, those about images."""
    if reference.sees:
        return Tokens(tokenizer, pads=(0,), model=f"base model '{reference.id}'", seen=Seen(tokenizer, model.config))
    configs = [getattr(model, "generation_config", None), model.config, _text_config(model.config)]
    prompts = model.get_encoder() if reference.kind == "seq2seq" else model
    answers = model.get_decoder() if reference.kind == "seq2seq" else model
    positions = getattr(model.config, _ENDING.get(_type(model), ""), None) or _positions(prompts)
    return Tokens(
        tokenizer,
        stops=next((ends for config in configs if (ends := _named([config], "eos_token_id"))), ()),
        pads=_named(configs, "pad_token_id"),
        starts=(*_named(configs, "decoder_start_token_id"), *_named(configs, "bos_token_id")),
        rows=_rows(prompts),
        answer_rows=min((rows for rows in (_rows(answers), _output_rows(model)) if rows is not None), default=None),
        positions=positions,
        answer_positions=_positions(answers) if reference.kind == "seq2seq" else None,
        made_for=None if positions is not None else _made_for(model.config),
        model=f"base model '{reference.id}'",
    )


def neutral_generation(tokens: Tokens, **chosen: Any) -> Any:
    """Return a generation configuration that says where answers end and what pads, and nothing else but what is chosen.

    A model's own may punish repetition, force a first token or forbid an early end, of which training knows nothing:
    ``generate`` fills from there what a call leaves open.
    """
    from transformers import GenerationConfig

    return GenerationConfig(pad_token_id=tokens.pad, **{"eos_token_id": list(tokens.ends()), **chosen})


def takes_positions(model: nn.Module) -> bool:
    """Tell whether a model takes the position of each token as an input."""
    return "position_ids" in inspect.signature(model.forward).parameters


def first_position(model: nn.Module) -> int:
    """Return a text's first position: 0, but for RoBERTa and its like, which count from behind the padding's row."""
    return max((_padding_rows(table) for _, table in _tables(model)), default=0)


def token_positions(mask: Tensor, first: int) -> Tensor:
    """Return the positions of texts' tokens as models count them, whatever padding stands before, shape (row, token).

    Args:
        mask: The attention mask, shape (row, token).
        first: A text's first position.
    """
    return (mask.cumsum(dim=1) - 1).clamp(min=0) + first


def pads_left(model: nn.Module) -> bool:
    """Tell whether what stands before a text, and is masked, leaves a causal model's answer as it is."""
    if _type(model) in _READ_PADDING:
        return False
    return takes_positions(model) or _positions(model) is None


def keeps_rows_apart(model: nn.Module) -> bool:
    """Tell whether a model can go on from what it kept of a batch of several texts."""
    return _type(model) not in _MIX_ROWS


def _type(model: Any) -> str:
    return str(getattr(model.config, "model_type", ""))


def _text_config(config: Any) -> Any:
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def _named(configs: list[Any], name: str) -> tuple[int, ...]:
    """Return the token or tokens that configurations give a name, in their order."""
    tokens: list[int] = []
    for config in configs:
        value = getattr(config, name, None)
        tokens += [
            token for token in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(token, int)
        ]
    return tuple(dict.fromkeys(tokens))


def _rows(model: Any) -> int | None:
    try:
        table = getattr(model.get_input_embeddings(), "weight", None)
    except (AttributeError, NotImplementedError):  # a part of a model that has none of its own
        return None
    return None if table is None else len(table)


def _output_rows(model: Any) -> int | None:
    head = getattr(model, "get_output_embeddings", lambda: None)()
    weight = getattr(head, "weight", None)
    return getattr(head, "out_features", None if weight is None else len(weight))


def _made_for(config: Any) -> int | None:
    text = _text_config(config)
    limits = (getattr(text, name, None) for name in _MADE_FOR)
    return next((number for number in limits if isinstance(number, int) and number > 0), None)


def _tables(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the tables of positions by name: embeddings that are looked up by position, and buffers that are."""
    from torch import nn

    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and _TABLE.search(name) and not _OTHER_SENSES.search(name):
            yield name, module
    for name, buffer in model.named_buffers():
        if _TABLE.search(name) and not _OTHER_SENSES.search(name):
            yield name, buffer


def _positions(model: nn.Module) -> int | None:
    """Return the last position that every table of a model has, counted from 1; None if it has none."""
    sizes = []
    for _, table in _tables(model):
        rows = table.num_embeddings if hasattr(table, "num_embeddings") else len(table)
        sizes.append(rows - _padding_rows(table) - int(getattr(table, "offset", 0)))
    return min(sizes, default=None)


def _padding_rows(table: Any) -> int:
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else int(padding) + 1
