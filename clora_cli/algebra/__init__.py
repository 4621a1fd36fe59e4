"""The mathematics of low-rank deltas and of feature moments (layer L1): no files, no models."""
