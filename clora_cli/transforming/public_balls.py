"""Where features of public texts are, which clip those of private rows (layer L3)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from clora_cli.algebra.privacy import Ball
from clora_cli.data import Example, load_task
from clora_cli.model.backbone import Backbone
from clora_cli.model.features import prompt_ids, read_features
from clora_cli.nano.task_set import ORDER
from clora_cli.options import FeatureOptions

__all__ = ["public_balls"]

_PUBLIC_ROWS = 8  # of each bundled task: 64 texts place a ball well enough, and cost two batches


def public_balls(backbone: Backbone, sites: Sequence[str], options: FeatureOptions) -> dict[str, Ball]:
    """Return where the features of clora's bundled texts are: public, whatever the private inputs."""
    clip = options.privacy.clip if options.privacy else 1.0
    longest = backbone.tokens.most(options.max_length)
    # Cut to fit rather than refused: their instructions are not the user's to shorten.
    examples = prompt_ids(backbone, _public_examples(), text=options.text, max_length=None)
    ids = [tokens[:longest] for tokens in examples]
    found: dict[str, list[torch.Tensor]] = {site: [] for site in sites}
    for _, features in read_features(backbone, ids, sites, pool=options.pool, batch_size=options.batch_size):
        for site, vectors in features.items():
            found[site].append(vectors.cpu())
    return {site: Ball.around(torch.cat(parts), clip) for site, parts in found.items()}


@functools.cache
def _public_examples() -> list[Example]:
    return [row for name in ORDER for row in load_task(name).train[:_PUBLIC_ROWS]]
