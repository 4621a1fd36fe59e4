"""Time and peak memory of merging adapters: clora against the plain stacked computation and against PEFT, in one run.

The work is a model's query and value layers with random adapters. Each row runs in a process of its own, so that its peak
memory is its own; rows alternate ``--turns`` times and ratios are taken turn by turn.

- ``linear``: ``clora merge --strategy linear --rank R``: concatenation, QR and a small SVD;
- ``linear, dense SVD``: the deltas added up densely, then an SVD of the sum, as PEFT's ``svd`` combination does;
- ``linear, PEFT svd``: ``add_weighted_adapter(combination_type="svd")`` itself;
- ``linear, PEFT cat``: ``add_weighted_adapter(combination_type="cat")``, exact as our concatenation is, rank not cut;
- ``linear, exact``: our concatenation, rank not cut;
- ``magmax``: tiles of rows, streamed over adapters;
- ``magmax, stacked``: all deltas of a site stacked in one tensor, then the entries of largest magnitude gathered.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from clora_cli.algebra.lora import Factor, recompress
from clora_cli.base import registry
from clora_cli.merges import merge_sites

RANK = 8


def adapters(count: int, size: int, site: int) -> list[Factor]:
    """Return one site's random adapters, factors of the sizes that training leaves."""
    generator = torch.Generator().manual_seed(site)
    return [
        Factor(
            torch.randn(RANK, size, generator=generator) * 0.02,
            torch.randn(size, RANK, generator=generator) * 0.02,
            4.0,
        )
        for _ in range(count)
    ]


def weights(count: int) -> Tensor:
    """Return the weights of the linear merge."""
    return torch.linspace(0.5, 1.5, count)


def _merge(strategy: str, given: list[Factor], by: Tensor) -> Factor | Tensor:
    merge = registry.load("merges", strategy)()
    return next(iter(merge_sites(merge, [{"site": factor} for factor in given], by)))[1]


def linear(given: list[Factor]) -> Tensor:
    """Ours: concatenate, QR, small SVD."""
    summed = _merge("linear", given, weights(len(given)))
    return recompress(summed, RANK)[0].b  # type: ignore[arg-type]  # factors give factors


def linear_exact(given: list[Factor]) -> Tensor:
    """Ours: concatenate."""
    return _merge("linear", given, weights(len(given))).b  # type: ignore[union-attr]


def linear_dense_svd(given: list[Factor]) -> Tensor:
    """Add the deltas up densely, then take the SVD of the sum."""
    pairs = zip(given, weights(len(given)).tolist(), strict=True)
    total = sum(weight * factor.delta() for factor, weight in pairs)
    u, values, _ = torch.linalg.svd(total, full_matrices=False)
    return u[:, :RANK] * values[:RANK].sqrt()


def magmax(given: list[Factor]) -> Tensor:
    """Ours: tiles, streamed over adapters."""
    return _merge("magmax", given, torch.ones(len(given)))  # type: ignore[return-value]


def magmax_stacked(given: list[Factor]) -> Tensor:
    """Stack all deltas, then gather the entries of largest magnitude; of equal ones the last adapter's, as in eq. 5."""
    stacked = torch.stack([(factor.b * factor.scaling) @ factor.a for factor in reversed(given)])
    return stacked.gather(0, stacked.abs().argmax(0, keepdim=True))[0]


def peft(given: list[Factor], kind: str) -> Callable[[], Tensor]:
    """Build a PEFT model with one layer and these adapters, and return what combines them."""
    from peft import LoraConfig, get_peft_model

    size = given[0].shape[0]
    with torch.device("meta"):
        base = nn.Sequential(nn.Linear(size, size, bias=False))
    base = base.to_empty(device="cpu")
    names = [f"task{number}" for number in range(len(given))]
    config = LoraConfig(r=RANK, lora_alpha=4 * RANK, target_modules=["0"])
    model = get_peft_model(base, config, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, config)
    layer = model.base_model.model[0]
    for name, factor in zip(names, given, strict=True):
        layer.lora_A[name].weight.data, layer.lora_B[name].weight.data = factor.a, factor.b
    chosen = {"svd_rank": RANK} if kind == "svd" else {}

    def combine() -> Tensor:
        model.add_weighted_adapter(names, weights(len(given)).tolist(), "merged", combination_type=kind, **chosen)
        return layer.lora_B["merged"].weight.data

    return combine


ROWS: dict[str, Callable[[list[Factor]], Tensor]] = {
    "linear": linear,
    "linear, dense SVD": linear_dense_svd,
    "linear, PEFT svd": lambda given: peft(given, "svd")(),
    "linear, exact": linear_exact,
    "linear, PEFT cat": lambda given: peft(given, "cat")(),
    "magmax": magmax,
    "magmax, stacked": magmax_stacked,
}
REFERENCE = {"linear, dense SVD": "linear", "linear, PEFT svd": "linear", "linear, PEFT cat": "linear, exact"}
REFERENCE |= {"magmax, stacked": "magmax"}


def measure(row: str, sites: int, count: int, size: int, threads: int) -> dict[str, float | str]:
    """Run one row over some sites; return seconds a site, peak memory beyond the inputs, and a digest of the results."""
    torch.set_num_threads(threads)
    given = [adapters(count, size, site) for site in range(sites)]
    small = adapters(2, 64, 0)
    ROWS[row](small)  # load what is loaded at first use
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    digest, seconds = hashlib.sha256(), 0.0
    for site in given:
        run = peft(site, row.rsplit(maxsplit=1)[-1]) if "PEFT" in row else lambda site=site: ROWS[row](site)
        start = time.perf_counter()
        result = run()
        seconds += time.perf_counter() - start
        digest.update(result.contiguous().numpy().tobytes())
        del result, run
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": seconds / sites, "mib": peak / 1024, "digest": digest.hexdigest()}


def main() -> None:
    """Parse the command line, run the rows in turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapters", type=int, default=15)
    parser.add_argument("--size", type=int, default=4096, help="rows and columns of a layer")
    parser.add_argument("--sites", type=int, default=64, help="layers; rows with a dense SVD take one")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="*", default=list(ROWS))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, given.sites, given.adapters, given.size, given.threads)))
        return
    results: dict[str, list[dict[str, float]]] = {row: [] for row in given.only}
    for turn in range(given.turns):
        for row, found in results.items():
            slow = "SVD" in row or "svd" in row
            if slow and turn:
                continue  # half a minute a site: once is enough for a ratio of fifty and more
            options = {"sites": 1 if slow else given.sites, "adapters": given.adapters, "size": given.size}
            options["threads"] = given.threads
            arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
            command = [sys.executable, __file__, "--one", row, *arguments]
            found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    print_table(results)


def print_table(results: dict[str, list[dict[str, float]]]) -> None:
    """Print a Markdown table: each row beside ours on the same work."""
    print("| merge | s a site | x ours | peak MiB beyond the inputs | same bits as ours |\n|---|--:|--:|--:|---|")
    for row, found in results.items():
        seconds, peak = median(turn["seconds"] for turn in found), max(turn["mib"] for turn in found)
        ours = results.get(REFERENCE.get(row, ""))
        ratio = same = ""
        if ours:
            ratio = f"{median(a['seconds'] / b['seconds'] for a, b in zip(found, ours, strict=False)):.1f}"
            same = "yes" if found[0]["digest"] == ours[0]["digest"] else "no"
            same = "" if "linear" in row else same
        print(f"| {row} | {seconds:.3f} | {ratio} | {peak:.0f} | {same} |")


if __name__ == "__main__":
    main()
