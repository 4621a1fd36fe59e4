"""Groups of inputs: the classes of their answers, and clusters by k-means (layer L1)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

__all__ = ["classes", "clusters"]

_ROUNDS = 100  # of Lloyd's algorithm, which nearly always settles long before


def classes(answers: Sequence[Hashable]) -> Tensor:
    """Return the number of each answer's class, shape (answer,); one class where more than half of the answers are distinct."""
    numbers = {answer: number for number, answer in enumerate(sorted(set(answers), key=repr))}
    if 2 * len(numbers) > len(answers):
        return torch.zeros(len(answers), dtype=torch.int64)
    return torch.tensor([numbers[answer] for answer in answers])


def clusters(vectors: Tensor, count: int, seed: int, least: int = 1) -> Tensor:
    """Divide vectors into clusters by k-means.

    Args:
        vectors: Shape (vector, feature).
        count: Clusters at most, at least 1.
        seed: Of the first centres.
        least: The size of a cluster, at least 1: what would be in a smaller one goes to the nearest of the others.

    Returns:
        The number of each vector's cluster, from 0, shape (vector,).

    References:
        Arthur and Vassilvitskii, k-means++: The Advantages of Careful Seeding, 2007: the first centres. Lloyd, Least Squares
        Quantization in PCM, 1982.
    """
    vectors = vectors.double()
    centres = _seeded(vectors, min(count, len(vectors)), seed)
    while True:
        owner, centres = _settled(vectors, centres)
        sizes = owner.bincount(minlength=len(centres))
        if len(centres) == 1 or int(sizes.min()) >= least:
            return owner
        centres = centres[torch.arange(len(centres)) != sizes.argmin()]


def _settled(vectors: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Return each vector's nearest centre, and the centres, moved until that no longer changes; an empty one stays."""
    owner = torch.cdist(vectors, centres).argmin(dim=1)
    for _ in range(_ROUNDS):
        sizes = owner.bincount(minlength=len(centres))[:, None]
        means = torch.zeros_like(centres).index_add_(0, owner, vectors) / sizes.clamp(min=1)
        centres = torch.where(sizes > 0, means, centres)
        before, owner = owner, torch.cdist(vectors, centres).argmin(dim=1)
        if torch.equal(owner, before):
            break
    return owner, centres


def _seeded(vectors: Tensor, count: int, seed: int) -> Tensor:
    """Return first centres, each drawn by its squared distance to those before it."""
    generator = torch.Generator().manual_seed(seed % (1 << 62))
    chosen = [int(torch.randint(len(vectors), (1,), generator=generator))]
    for _ in range(count - 1):
        far = torch.cdist(vectors, vectors[chosen]).amin(dim=1).square()
        if not float(far.sum()):
            break  # no more distinct vectors than centres
        chosen.append(int(torch.multinomial(far, 1, generator=generator)))
    return vectors[chosen]
