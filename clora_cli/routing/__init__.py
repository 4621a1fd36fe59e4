"""From inputs to adapters (layer L1): similarities, weights, profiles, decisions."""
