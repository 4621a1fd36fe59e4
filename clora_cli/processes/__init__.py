"""Several processes (layer L0): of one launch, and of one disk."""
