"""Train the layers' whole weights for each task apart, and use them for that task alone."""

from __future__ import annotations

from dataclasses import dataclass

from clora_cli.methods import Method

__all__ = ["PerTaskFt"]


@dataclass(frozen=True, kw_only=True)
class PerTaskFt(Method):
    """Train the layers' whole weights for each task apart, and use them for that task alone.

    At each layer ``W_t = W_0 + D_t`` with a matrix D_t of W's shape, all of whose entries are trained, from 0 on. The folder is a LoRA of
    full rank, as under ``seq-ft``. Needs the task's identity at test, and keeps a model's weights for each task.

    References:
        The PerTaskFT baseline of N-LoRA (arXiv:2410.10179), Table 1, and of O-LoRA (arXiv:2310.14152).
        Differs: embeddings, norms, biases and the output layer stay as they are.
        Differs: weight decay pulls towards the pretrained weights, not towards 0.
        Differs: the learning rate by default is a tenth of what suits LoRAs of the base model, clora's choice.
    """

    past = "none"
    combine = "task-id"
    grows = True
    full_rank = True
