"""The base model (layer L1): finding, loading and naming it; frozen adapters in it; features of inputs."""
