"""clora: Unix-style commands that teach one language model task after task with LoRA, without forgetting."""

__version__ = "0.1.0"
