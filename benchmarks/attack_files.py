"""Does any change to a file, however made, end in more than one line, or never?

One artifact of every kind is changed at random, by a seed: its values, its bytes, its place on disk. What would read it
reads it, in this process. A change is *refused* (one line, exit code 2, 3 or 4), or the file is *read* as what it now says;
anything else survives: a traceback, letters that a terminal obeys, more than two seconds.

``tests/test_hostile_files.py`` does a little of the same in the suite.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import mutations
from support import save_model

from clora_cli.model.backbone import load_backbone
from clora_cli.model.base_model import find_model


def main() -> None:
    """Print one line a kind, then the survivors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=10_000, help="in all, shared out among the kinds")
    parser.add_argument("--seed", type=int, default=0, help="of the first mutation of a kind; others count on from it")
    parser.add_argument("--only", default="", help="a part of the kinds' names")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    kinds = [kind for kind in mutations.KINDS if chosen.only in kind.name]
    each, stories, survivors = max(1, chosen.mutations // len(kinds)), [], 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        backbone = load_backbone(find_model(str(save_model("llama", folder / "model"))), device=torch.device("cpu"))
        mutations.make_originals(folder / "originals", backbone)
        print("| kind | attempts | refused | read | survivors | slowest, s | CPU, s |")
        print("|---|---:|---:|---:|---:|---:|---:|")
        for kind in kinds:
            began = time.process_time()
            outcomes = [
                mutations.attack(kind, folder / "originals", folder / "work", seed)
                for seed in range(chosen.seed, chosen.seed + each)
            ]
            counts, slowest = Counter(one.state for one in outcomes), max(one.seconds for one in outcomes)
            cells = (each, counts["refused"], counts["read"], counts["survived"], f"{slowest:.2f}")
            print(f"| {kind.name} | {' | '.join(map(str, cells))} | {time.process_time() - began:.1f} |", flush=True)
            survivors += counts["survived"]
            stories += [
                f"{kind.name}, seed {chosen.seed + number}: {one.told} ({one.seconds:.2f} s)"
                for number, one in enumerate(outcomes)
                if one.state == "survived"
            ]
    print(f"\n{each * len(kinds)} attempts, {survivors} survivors")
    print("\n".join(stories))
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
