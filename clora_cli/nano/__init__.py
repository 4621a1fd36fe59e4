"""The bundled model, ``clora-nano``, and the bundled tasks: everything that a first run needs, offline and on a CPU.

The model is a causal language model of under two million parameters, trained by ``pretraining/pretrain.py`` on text
that ``lexicon``, ``grammar``, ``texts`` and ``exercises`` generate. The tasks (``tasks``) are made by the same
generator, with instructions and label sets that the model has not been taught.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["MODEL_NAME", "MODEL_PATH"]

MODEL_NAME = "clora-nano"
MODEL_PATH = Path(__file__).resolve().parent / "model"
