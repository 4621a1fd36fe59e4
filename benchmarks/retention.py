"""Accuracy of a task over the share of lora_B that it may own, with the knee's own choice marked (CAST, figure 6).

Each share trains one adapter with ``--method cast -o trim=density,density=SHARE -o most=1 -o warmup_lr=0.05`` into a
package of its own; the knee trains one more. All are scored alone, on the same test rows. Trained adapters are kept in --out,
so that a second call only adds to them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from transformers.utils import logging

from clora_cli.data import load_task
from clora_cli.evaluation import evaluate
from clora_cli.options import EvalOptions, TrainOptions
from clora_cli.presenting.canvas import save
from clora_cli.training import make_plan, train_task

SHARES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def measure(task: str, trim: str, options: argparse.Namespace) -> tuple[float, float]:
    """Train a task under one trim; return the share that it owns and its score, in percent both."""
    folder = options.out / task / trim.replace(",", "_").replace("=", "-")
    chosen: dict[str, Any] = {
        name: getattr(options, name) for name in ("model", "rank", "alpha", "epochs", "lr", "dtype")
    }
    chosen |= {name: getattr(options, name) for name in ("batch_size", "max_length", "train_rows", "seed")}
    # Nothing but the trim bounds the share, and the warm-up that ranks the entries is the same for all.
    chosen["method_options"] = {"trim": trim, "most": "1", "warmup_lr": "0.05"}
    plan = make_plan(TrainOptions(data=task, method="cast", package=folder, **chosen))
    adapter, _ = train_task(plan)
    how = EvalOptions(combine="last", max_length=options.max_length, dtype=options.dtype, test_rows=options.test_rows)
    scores = evaluate([adapter], [load_task(task)], how)
    return 100 * adapter.manifest.raw["scores"]["subspace"]["owned"], scores.rows[-1].scores[task].value


def draw(found: dict[str, dict[str, list[list[float]]]], path: Path) -> None:
    """Draw one panel a task: the curve, and the knee as a star."""

    def compose(figure: Any) -> None:
        figure.set_size_inches(3.6 * len(found), 3.0)
        for axis, (task, curves) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
            axis.plot(*zip(*curves["shares"], strict=True), marker="o", color="#0072B2")
            axis.plot(*curves["knee"][0], marker="*", markersize=14, color="#D55E00", linestyle="none", label="knee")
            axis.set_xscale("log")
            axis.minorticks_off()
            axis.set_xticks(ticks := [share for share, _ in curves["shares"]], [f"{share:.3g}" for share in ticks])
            axis.set_title(task, loc="left")
            axis.set_xlabel("share of lora_B kept (%)")
            axis.set_ylabel("accuracy (%)")
            axis.grid(color="#dddddd")
            axis.legend(frameon=False)

    save(path, compose)


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", help="tasks as --data names them")
    parser.add_argument("--model", default="clora-nano")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--alpha", type=float, default=512)
    parser.add_argument("--lr", type=float, default=0.06)
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--train-rows", type=int, default=300)
    parser.add_argument("--test-rows", type=int, default=500)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--out", type=Path, default=Path("retention"), help="folder of the adapters")
    parser.add_argument("--plot", type=Path, help="draw into this .png, .svg or .pdf")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    options = parser.parse_args()
    logging.disable_progress_bar()
    found: dict[str, dict[str, list[list[float]]]] = {}
    for task in options.tasks:
        curve = [list(measure(task, f"density,density={share:g}", options)) for share in options.shares]
        found[task] = {"shares": curve, "knee": [list(measure(task, "knee", options))]}
        if not options.json:
            cells = [
                *(f"{share:.1f}: {score:.1f}" for share, score in curve),
                "knee {:.1f}: {:.1f}".format(*found[task]["knee"][0]),
            ]
            print(f"{task:<20} share % : accuracy %   {'   '.join(cells)}", flush=True)
    if options.json:
        print(json.dumps(found))
    if options.plot:
        draw(found, options.plot)


if __name__ == "__main__":
    main()
