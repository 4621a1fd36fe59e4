"""Everything on disk (layer L1): adapter folders, packages, manifests, feature distributions, scores, costs."""
