"""Train the layers' whole weights on through all tasks: full fine-tuning, one task after the other."""

from __future__ import annotations

from dataclasses import dataclass

from clora_cli.methods import Method

__all__ = ["SeqFt"]


@dataclass(frozen=True, kw_only=True)
class SeqFt(Method):
    """Train the layers' whole weights on through all tasks: full fine-tuning, one task after the other.

    At each layer ``W_t = W_0 + D_t`` with a matrix D_t of W's shape, all of whose entries are trained, and ``D_t`` starts at
    ``D_{t-1}``. The folder is a LoRA of full rank: one factor is D_t, the other the identity, which is not trained. By default all
    linear layers are adapted. It goes together with methods that go on from the last adapter: ``seq-ft+ewc`` and ``seq-ft+lwf``
    are these as their papers have them, over whole weights.

    References:
        The SeqFT baseline of Wang et al., O-LoRA, 2023, arXiv:2310.14152, and of N-LoRA (arXiv:2410.10179), Table 1.
        Differs: embeddings, norms, biases and the output layer stay as they are.
        Differs: weight decay pulls towards the pretrained weights, not towards 0.
        Differs: the learning rate by default is a tenth of what suits LoRAs of the base model, clora's choice.
    """

    past = "none"
    start = "previous"
    combine = "last"
    full_rank = True
