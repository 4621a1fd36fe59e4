"""The base model (layer L1): found, loaded, named; frozen adapters in it, and what its layers say of inputs."""
