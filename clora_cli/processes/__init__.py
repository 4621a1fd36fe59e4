"""Several processes (layer L0): those of one launch, and those that share a disk."""
