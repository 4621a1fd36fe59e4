"""How a model's folder is loaded (layer L1): the one place that calls Transformers for it, and no code of the folder runs.

Transformers asks on standard input whether to run code that a configuration names, unless this is switched off; it loads kernels
from the Hub where a configuration names them; and it loads an adapter found in the folder into the model.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any

from clora_cli.base.errors import ArtifactError, OptionError, translated
from clora_cli.base.files import stand_in
from clora_cli.model.base_model import ModelReference
from clora_cli.model.checkpoint import Checkpoint
from clora_cli.model.completeness import check_complete, check_extent

__all__ = ["load_skeleton", "model_with_weights", "read_config", "read_tokenizer"]

_KERNELS = ("_attn_implementation", "_experts_implementation")


def read_tokenizer(reference: ModelReference) -> Any:
    """Load a base model's tokenizer; of one that sees, its image processor.

    Raises:
        ArtifactError: If it cannot be loaded, or needs code of its own.
        OptionError: If it is for images, and what reads them is not installed.
    """
    if reference.sees:
        return _image_processor(reference)
    from transformers import AutoTokenizer

    with _boundary(reference, "the tokenizer of "):
        return AutoTokenizer.from_pretrained(reference.path, trust_remote_code=False)


def _image_processor(reference: ModelReference) -> Any:
    if importlib.util.find_spec("PIL") is None:
        raise OptionError(
            f"base model '{reference.id}' sees images, and the package that reads them is not installed: pip install 'clora-cli[images]'",
            code="extra-not-installed",
        )
    from transformers import AutoImageProcessor

    with _boundary(reference, "the image processor of "):  # the same one wherever torchvision is installed too
        return AutoImageProcessor.from_pretrained(reference.path, backend="pil", trust_remote_code=False)


def read_config(reference: ModelReference) -> Any:
    """Load a base model's configuration.

    Raises:
        ArtifactError: If it cannot be loaded, or needs code of its own.
    """
    from transformers import AutoConfig

    with _boundary(reference):
        config = AutoConfig.from_pretrained(reference.path, trust_remote_code=False)
    for part in (config, *(value for value in vars(config).values() if hasattr(value, "to_diff_dict"))):
        for name in _KERNELS:
            if "/" in str(getattr(part, name, "")):  # the name of a repository: code from the Hub
                setattr(part, name, None)
    return config


def model_with_weights(reference: ModelReference, config: Any, **settings: Any) -> Any:
    """Load a base model.

    Args:
        reference: The base model.
        config: From ``read_config``.
        settings: Further arguments of ``from_pretrained``, such as ``dtype``.

    Raises:
        ArtifactError: If it cannot be loaded, lacks weights, needs code of its own, or has an adapter in its folder.
    """
    if (reference.path / "adapter_config.json").exists():
        raise ArtifactError(
            f"base model {reference.path} has an adapter in its folder, which Transformers would put into it; "
            "move adapter_config.json and the adapter's weights away",
            code="base-model-holds-adapter",
        )
    what = f"base model {reference.path}"
    check_extent(what, load_skeleton(reference), Checkpoint(reference.path).numbers)
    # What is missing or of another shape is told by name, not only that something is.
    told = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    with _boundary(reference), _without_bars():
        model, found = _loader(reference, config).from_pretrained(
            reference.path, config=config, use_safetensors=True, trust_remote_code=False, **told, **settings
        )
    check_complete(what, model, found)
    return model


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Keep Transformers' own bars off the terminal of whoever calls: progress goes to the caller's listener."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_skeleton(reference: ModelReference, *, untied: bool = False) -> Any:
    """Return a base model without its weights, on the meta device: for names, shapes and numbers of parameters.

    Args:
        reference: The base model.
        untied: Ask for an output layer with a weight of its own, whatever the configuration says.

    Raises:
        ArtifactError: If Transformers cannot make it, or it needs code of its own.
    """
    import torch

    config = read_config(reference)
    if untied:
        config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = False
    with _boundary(reference), torch.device("meta"):
        return _loader(reference, config).from_config(config, trust_remote_code=False)


def _loader(reference: ModelReference, config: Any) -> Any:
    """Return the library's class for a model; most vision-language models have no class that reads text alone."""
    import transformers as library

    if reference.sees:
        config.architectures = []  # the first of DeiT's classes, not the one of two heads
        return library.AutoModelForImageClassification
    reads, sees = library.MODEL_FOR_CAUSAL_LM_MAPPING, library.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    if reference.kind == "causal" and type(config) not in reads and type(config) in sees:
        return library.AutoModelForImageTextToText
    if reference.kind == "encoder" and type(config) in library.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return library.AutoModelForSequenceClassification
    loaders = {"causal": "AutoModelForCausalLM", "seq2seq": "AutoModelForSeq2SeqLM", "encoder": "AutoModel"}
    return getattr(library, loaders[reference.kind])


@contextlib.contextmanager
def _boundary(reference: ModelReference, part: str = "") -> Iterator[None]:
    what = f"{part}base model {reference.path}"
    try:
        with translated(f"{what} cannot be loaded", ArtifactError, code="base-model-not-loadable"):
            yield
    except ArtifactError as error:
        if "trust_remote_code" in str(error.__cause__):
            raise ArtifactError(
                f"{what} needs code from its folder or the Hub, which clora does not run; "
                "give a model of an architecture that Transformers has itself",
                code="base-model-needs-own-code",
            ) from error
        for file in sorted(reference.path.iterdir()):
            if file.is_file() and (reason := stand_in(file)):
                raise ArtifactError(f"{what} cannot be loaded: {file} {reason}", code="file-is-stand-in") from error
        raise
