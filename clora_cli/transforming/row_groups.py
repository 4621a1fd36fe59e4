"""Groups of an adapter's inputs, each of which gets a mean of its own (layer L3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clora_cli.algebra.clusters import classes, clusters
from clora_cli.base.errors import CloraError, DataError
from clora_cli.data import Rows
from clora_cli.model.backbone import Backbone
from clora_cli.model.features import read_features
from clora_cli.options import FeatureOptions

__all__ = ["check_classes", "groups_of"]


def check_classes(path: object, rows: Sequence[Rows], options: FeatureOptions) -> None:
    """Check that no class is so small that its mean would give an input away.

    Raises:
        DataError: If one is.
    """
    if options.means != "class":
        return
    answers = _answers(rows)
    numbers = classes(answers)
    sizes = numbers.bincount()
    if int(sizes.min()) < options.min_count:
        smallest = int(sizes.argmin())
        answer = next(answer for answer, number in zip(answers, numbers.tolist(), strict=True) if number == smallest)
        raise DataError(
            f"{path} would get a mean of {int(sizes.min())} inputs, those answered '{' '.join(answer[1])}', too few to hide a single "
            f"one; give more rows, --means task, or --min-count {int(sizes.min())}",
            code="class-too-small",
        )


def groups_of(
    backbone: Backbone,
    rows: Sequence[Rows],
    ids: Sequence[list[int]],
    sites: Sequence[str],
    options: FeatureOptions,
    **reading: Any,
) -> Tensor | None:
    """Return the number of each input's group, from 0; None where all are one.

    Clusters are those of the features at the last site, which the model has made most of, and the same at every site.

    Args:
        backbone: The model that features are taken of.
        rows: The inputs.
        ids: Their tokens, in the same order.
        sites: In the model's order.
        options: ``means`` says which groups.
        reading: ``pool`` and ``batch_size`` of ``read_features``.

    Raises:
        CloraError: If a feature is not finite, so that it is near to nothing.
    """
    if options.means == "task":
        return None
    if options.means == "class":
        return classes(_answers(rows))
    last, found = sites[-1], list[tuple[list[int], Tensor]]()
    for numbers, features in read_features(backbone, ids, [last], shared=True, **reading):
        found.append((numbers, features[last].cpu()))
    vectors = torch.cat([part for _, part in found])
    if not vectors.isfinite().all():
        raise CloraError(
            f"features at '{last}' are not finite in {options.dtype}; pass --dtype float32", code="features-not-finite"
        )
    order = torch.tensor([number for numbers, _ in found for number in numbers]).argsort()
    return clusters(vectors[order], int(options.means), options.seed, max(1, options.min_count))


def _answers(rows: Sequence[Rows]) -> list[tuple[int, tuple[str, ...]]]:
    """Return each input's task and answer, by which inputs are of one class."""
    return [(task, row.references[:1]) for task, drawn in enumerate(rows) for row in drawn.examples]
