"""Make everything that docs/gallery.md shows: train on the bundled model, then draw (about 5 minutes on one core).

    python benchmarks/gallery.py WORK [NAME ...]

WORK keeps adapters and scores; a second call finds them up to date and only draws. NAME draws these figures alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

from clora_cli import api

FIGURES = Path(__file__).resolve().parents[1] / "docs" / "gallery"
TASKS = ("topics-news", "sentiment-binary", "yes-no", "topics-wiki", "sentiment-stars")
SHORT = {"max_steps": 40, "batch_size": 16, "device": "cpu"}
# cast shares one LoRA among all tasks, so it has the numbers of all of them.
METHODS = {
    "seq-lora": {},
    "o-lora": {},
    "n-lora": {},
    "aso-lora": {"method_options": {"rows": 2, "steps": 5}},
    "cast": {"rank": 128, "alpha": 512, "lr": 0.06},
}
SWEEP = """\
name: retention
model: clora-nano
tasks: [topics-news, sentiment-binary]
methods:
  - method: cast
    sweep: {option: {trim: ["density,density=0.05", "density,density=0.2", "density,density=0.5", "density,density=0.9"]}}
train: {max-steps: 40, batch-size: 16, rank: 32, alpha: 128, lr: 0.06, device: cpu}
eval: {test-rows: 60, device: cpu}
"""


def train(work: Path, method: str) -> Path:
    """Train a method on all tasks, and score every stage."""
    package, scores = work / method, work / f"{method}.json"
    for task in TASKS:
        options = {**SHORT, **METHODS[method]}
        api.train_task(api.TrainOptions(data=task, method=method, package=package, **options), resume=True)
    if not scores.exists():
        api.eval(package, api.EvalOptions(matrix=True, test_rows=60, device="cpu"), out=scores)
    print(method, flush=True)
    return scores


def prepare(work: Path) -> None:
    """Make what the figures are drawn from."""
    for method in METHODS:
        train(work, method)
    for strategy in ("magmax", "ties", "average"):
        scores = work / f"o-lora-{strategy}.json"
        if not scores.exists():
            api.eval(work / "o-lora", api.EvalOptions(combine=strategy, test_rows=60, device="cpu"), out=scores)
    api.stat_features(work / "o-lora", api.FeatureOptions(limit=200, device="cpu"))
    if not (work / "routes.json").exists():
        settings = api.RouteSettings(data=TASKS, limit=60, similarity="l2", device="cpu")
        api.route(work / "o-lora", settings, confusion=work / "routes.json")
    (work / "retention.yaml").write_text(SWEEP, encoding="utf-8")
    api.run(work / "retention.yaml", out=work / "retention")


def draw(work: Path, names: list[str]) -> None:
    """Draw the figures into docs/gallery/."""
    FIGURES.mkdir(exist_ok=True)
    scores = {method: work / f"{method}.json" for method in METHODS}
    packages = {method: work / method for method in METHODS}
    apart = ("o-lora", "n-lora")
    sources = {
        "curves": list(scores.values()),
        "metrics": [scores[method] for method in ("seq-lora", "o-lora", "aso-lora")],
        "matrices": [scores[method] for method in ("seq-lora", "n-lora", "cast")],
        "losses": [packages[method] for method in ("seq-lora", "o-lora", "aso-lora")],
        "relations": [packages["aso-lora"]],
        "nuclear-norms": [packages[method] for method in apart],
        "sparsity": [*scores.values(), *packages.values()],
        "sizes": [*scores.values(), *packages.values()],
        "interference": [packages[method] for method in ("seq-lora", "o-lora", "n-lora", "aso-lora")],
        "collisions": [packages["n-lora"]],
        "shifts": [packages[method] for method in apart],
        "drift": [packages[method] for method in ("seq-lora", "o-lora", "n-lora")],
        "plane": [packages[method] for method in ("seq-lora", "o-lora", "n-lora")],
        "gains": [work / f"o-lora{ending}.json" for ending in ("", "-magmax", "-ties", "-average")],
        "routes": [work / "routes.json"],
        "capacity": [packages["cast"]],
        "sweep": [work / "retention"],
    }
    for name, paths in sources.items():
        if not names or name in names:
            api.report(paths, figure=name, out=FIGURES / f"{name}.svg")
    if not names or "knee" in names:
        api.trim(
            packages["o-lora"] / TASKS[0], api.TrimOptions(out=work / "knee"), plot=FIGURES / "knee.svg", force=True
        )
    if not names or "shares" in names:
        api.show(packages["cast"], out=FIGURES / "shares.svg")


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    if not sys.argv[2:]:
        prepare(place)
    draw(place, sys.argv[2:])
