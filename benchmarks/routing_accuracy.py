"""How often an input finds its own task's adapter, by layer, similarity, text and privacy: nothing is trained.

Distributions are made of training rows, test rows are routed; both are read once, and all similarities are judged on the
same numbers. The tasks need no adapters for this: only their inputs' distributions decide.

    CLORA_DATA=…/data python benchmarks/routing_accuracy.py --model PATH --rows 200
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import torch
from torch import Tensor

from clora_cli.algebra.clusters import classes, clusters
from clora_cli.algebra.privacy import Ball, Guarantee, noise_multiplier, release
from clora_cli.algebra.statistics import Groups, Moments, SecondMoment
from clora_cli.data import Example, load_task
from clora_cli.model.backbone import Backbone, load_backbone, pick_device
from clora_cli.model.base_model import find_model
from clora_cli.model.features import layer_of, prompt_ids, prompt_sites, read_features
from clora_cli.model.linear_layers import find_sites
from clora_cli.nano.task_set import ORDER
from clora_cli.options import RouteOptions
from clora_cli.routing.weights import Routing

TASKS = "mnli cb wic copa qqp boolq rte imdb yelp amazon sst2 dbpedia agnews multirc yahoo"
SIMILARITIES: dict[str, tuple[str, SecondMoment]] = {
    "l2": ("l2", "none"),
    "cosine": ("cosine", "none"),
    "dot": ("dot", "none"),
    "mahalanobis, diag": ("mahalanobis", "diag"),
    "mahalanobis, full": ("mahalanobis", "full"),
}
GROUPED: dict[str, tuple[str, SecondMoment]] = {
    f"epi, {second}, {means}": (means, second)
    for second in ("none", "diag", "full")
    for means in ("classes", "8 clusters")
}
DELTA = 1e-5

Features = Mapping[str, Tensor]


def read(backbone: Backbone, examples: Sequence[Example], sites: Sequence[str], text: str) -> Features:
    """Return site to features, shape (input, feature)."""
    ids = prompt_ids(backbone, examples, text=text, max_length=128)
    found = {site: torch.empty(0) for site in sites}
    for rows, features in read_features(backbone, ids, sites):
        for site, vectors in features.items():
            if not len(found[site]):
                found[site] = torch.empty(len(ids), vectors.shape[1])
            found[site][rows] = vectors.cpu()
    return found


def accuracy(moments: Sequence[Moments], tests: Sequence[Tensor], similarity: str) -> float:
    """Return the mean over tasks of the share of inputs that go to their own task, in percent."""
    routing = Routing([{"site": one} for one in moments], ["site"], RouteOptions(similarity=similarity))
    shares = []
    for task, vectors in enumerate(tests):
        weights = routing.weights(routing.similarities({"site": vectors}))["site"]
        shares.append((weights.argmax(dim=1) == task).float().mean().item())
    return 100 * fmean(shares)


def grouped(vectors: Tensor, second: SecondMoment, groups: Tensor) -> Moments:
    """Return moments whose groups have these numbers, shape (input,)."""
    sizes = groups.bincount()
    sums = torch.zeros(len(sizes), vectors.shape[1], dtype=torch.float64).index_add_(0, groups, vectors.double())
    return replace(Moments.of(vectors, second), groups=Groups(sizes, sums / sizes[:, None]))


def by_layer(
    train: Sequence[Features], test: Sequence[Features], sites: Sequence[str], labels: Sequence[Tensor]
) -> None:
    """Print a row for each similarity and kind of projection, a column for each layer."""
    layers = sorted({layer_of(site) for site in sites if layer_of(site) is not None})
    endings = list(dict.fromkeys(site.rpartition(".")[2] for site in sites))
    print(f"| similarity | projection | {' | '.join(f'layer {layer}' for layer in layers)} |")
    print(f"|---|---|{'---:|' * len(layers)}")
    seen = [clusters(task[sites[-1]], 8, seed=0, least=10) for task in train]
    for title in (*SIMILARITIES, *GROUPED):
        for ending in endings:
            cells = []
            for layer in layers:
                (site,) = [s for s in sites if layer_of(s) == layer and s.endswith(f".{ending}")]
                if title in SIMILARITIES:
                    similarity, second = SIMILARITIES[title]
                    moments = [Moments.of(task[site], second) for task in train]
                else:
                    (means, second), similarity = GROUPED[title], "epi"
                    groups = labels if means == "classes" else seen
                    moments = [grouped(task[site], second, own) for task, own in zip(train, groups, strict=True)]
                cells.append(f"{accuracy(moments, [task[site] for task in test], similarity):.1f}")
            print(f"| {title} | {ending} | {' | '.join(cells)} |", flush=True)


def with_privacy(
    backbone: Backbone, train: Sequence[Features], test: Sequence[Features], site: str, text: str, draws: int
) -> None:
    """Print a row for each similarity, a column for each epsilon; one site is released."""
    public = [row for name in ORDER for row in load_task(name).train[:64]]
    ball = Ball.around(read(backbone, public, [site], text)[site])
    epsilons = (1.0, 4.0, 8.0)
    print(f"| {site}, delta {DELTA:g} | clipped, no noise | {' | '.join(f'epsilon {e:g}' for e in epsilons)} |")
    print("|---|---:|---:|---:|---:|")
    tests = [task[site] for task in test]
    for title, (similarity, second) in SIMILARITIES.items():
        clipped = [Moments.of(ball.clipped(task[site]), second) for task in train]
        moved = [Moments(one.count, one.mean + ball.centre, one.scatter) for one in clipped]
        cells = [f"{accuracy(moved, tests, similarity):.1f}"]
        for epsilon in epsilons:
            sigma = noise_multiplier(Guarantee(epsilon, DELTA).epsilon, DELTA)
            found = [
                accuracy([release(one, ball, 1, sigma) for one in clipped], tests, similarity) for _ in range(draws)
            ]
            cells.append(f"{fmean(found):.1f} ({min(found):.1f} to {max(found):.1f})")
        print(f"| {title} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--tasks", nargs="+", default=TASKS.split())
    parser.add_argument("--rows", type=int, default=200, help="training rows of a task")
    parser.add_argument("--test-rows", type=int, default=0, help="test rows of a task; 0 for all")
    parser.add_argument("--privacy-layer", type=int, default=3)
    parser.add_argument("--draws", type=int, default=5, help="releases of which accuracies are averaged")
    arguments = parser.parse_args()
    backbone = load_backbone(find_model(arguments.model), device=pick_device())
    sites = prompt_sites(backbone, find_sites(backbone.model))
    tasks = [load_task(name) for name in arguments.tasks]
    labels = [classes([row.references[0] for row in task.train[: arguments.rows]]) for task in tasks]
    for text in ("prompt", "body"):
        train = [read(backbone, task.train[: arguments.rows], sites, text) for task in tasks]
        test = [read(backbone, task.test[: arguments.test_rows or None], sites, text) for task in tasks]
        print(f"\n### {'whole prompts' if text == 'prompt' else 'bodies alone, without instructions'}\n")
        by_layer(train, test, sites, labels)
        print()
        site = [site for site in sites if layer_of(site) == arguments.privacy_layer][-1]
        with_privacy(backbone, train, test, site, text, arguments.draws)


if __name__ == "__main__":
    main()
