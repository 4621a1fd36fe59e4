"""Model types whose models choose among classes (layer L1), as configurations spell them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clora_cli.base.errors import MismatchError

__all__ = ["ENCODERS", "SEEING", "UNFIT", "check_type"]

# Encoders of texts, unless their configuration says that they decode.
ENCODERS = set(
    "albert bert big_bird camembert convbert data2vec-text deberta deberta-v2 distilbert electra ernie eurobert fnet funnel "
    "layoutlm megatron-bert mobilebert modernbert mpnet nomic_bert nystromformer rembert roberta "
    "roberta-prelayernorm roformer xlm-roberta xlm-roberta-xl xmod yoso".split()
)
# Encoders of texts on which no adapter can be trained, and why.
UNFIT = {
    "ibert": "its layers compute in whole numbers and take no LoRA",
    "longformer": "its attention has tokens before rows, which adapters cannot be weighed by",
    "mra": "its attention needs kernels from the Hub, and gives zeros on a processor, which has none",
    "squeezebert": "its projections are convolutions",
}
# Encoders of images. Not among them are networks of convolutions alone, in which a LoRA finds no linear layer; those with batch
# normalisation, whose statistics training would change; and CLIP and its like, which Transformers keeps below no name of their own.
SEEING = set(
    "beit convnext convnextv2 data2vec-vision deit dinov2 dinov2_with_registers focalnet hiera ijepa pvt pvt_v2 segformer swin swinv2 "
    "vit vit_msn".split()
)


def check_type(name: str, config: Mapping[str, Any]) -> bool:
    """Refuse an encoder of a type that no adapter can be trained on; return whether a model sees images.

    Args:
        name: The model, for messages.
        config: Its configuration.

    Raises:
        MismatchError: If it is of such a type.
    """
    kind = config.get("model_type")
    if kind in UNFIT:
        raise MismatchError(
            f"base model '{name}' is an encoder of type '{kind}', which clora does not train: {UNFIT[kind]}; take another, such as "
            "roberta or modernbert",
            code="encoder-not-supported",
        )
    if kind not in SEEING and any("ForImageClassification" in one for one in config.get("architectures") or ()):
        raise MismatchError(
            f"base model '{name}' is an image model of type '{kind}', which clora does not train; take one of {', '.join(sorted(SEEING))}",
            code="image-model-not-supported",
        )
    return kind in SEEING
