"""``adapter_config.json``: PEFT's settings of a LoRA or of soft prompts (layer L1)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clora_cli.base.errors import ArtifactError
from clora_cli.base.files import read_json
from clora_cli.base.records import Check, any_text, each, flag, is_table, listed, maybe, name, number, whole, wrong

__all__ = ["CONFIG", "TASK_TYPES", "read_config"]

CONFIG = "adapter_config.json"
# PEFT's words for what a model is used for. An encoder gets its own when it is written: PEFT would put another head on it.
TASK_TYPES = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM"}
_MOST = 1 << 24  # bytes: every expert of a large model has room to be named
_NAMES = listed(any_text)
_PATTERN = maybe(each(number()))
# The entries that clora reads, all of them optional: PEFT has a default for everything.
_WANTED: Mapping[str, Check] = {
    "peft_type?": maybe(any_text),
    "auto_mapping?": maybe(is_table),
    "r?": whole(1),
    "lora_alpha?": number(),
    "rank_pattern?": _PATTERN,
    "alpha_pattern?": _PATTERN,
    "use_rslora?": maybe(flag),
    "fan_in_fan_out?": maybe(flag),
    "target_modules?": lambda value: value is None or any_text(value) or _NAMES(value),
    "base_model_name_or_path?": maybe(name),
    "task_type?": maybe(name),
    "num_virtual_tokens?": maybe(whole(1)),
    "num_transformer_submodules?": maybe(whole(1)),
}


def read_config(path: Path) -> dict[str, Any]:
    """Read a configuration and check the entries that clora uses.

    Raises:
        ArtifactError: If it is missing or damaged.
    """
    config = read_json(path, "adapter configuration", _MOST)
    if not config:
        raise ArtifactError(
            f"adapter configuration {path} is empty; restore it or make the adapter again",
            code="adapter-config-damaged",
        )
    if odd := wrong(config, _WANTED):
        raise ArtifactError(
            f"adapter configuration {path} is damaged: {odd} has a wrong value; restore it",
            code="adapter-config-damaged",
        )
    return config
