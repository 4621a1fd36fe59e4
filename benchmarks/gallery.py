"""Draw everything that docs/gallery.md shows.

    clora run compare-smollm2-order1                   # a pretrained model, four tasks, every method: hours on a CPU
    python benchmarks/gallery.py runs/compare-smollm2-order1 WORK [NAME ...]

What that run does not hold is made in WORK on the bundled model, a few minutes on one core; a second call finds it up to date.
NAME draws these figures alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

from clora_cli import api

FIGURES = Path(__file__).resolve().parents[1] / "docs" / "gallery"
TASKS = ("topics-news", "sentiment-binary", "yes-no", "topics-wiki")
SHORT = {"max_steps": 10, "batch_size": 16, "device": "cpu"}
SWEEP = """\
name: retention
model: clora-nano
tasks: [topics-news, sentiment-binary]
methods:
  - method: cast
    sweep: {option: {trim: ["density,density=0.05", "density,density=0.3", "density,density=0.9"]}}
train: {max-steps: 30, batch-size: 16, rank: 32, alpha: 128, lr: 0.06, device: cpu}
eval: {test-rows: 60, device: cpu}
"""


def bundled(work: Path) -> Path:
    """Train the bundled model on four tasks, a few steps each, and return the package."""
    how = {**SHORT, "method_options": {"rows": 2, "steps": 3}}
    for task in TASKS:
        api.train_task(api.TrainOptions(data=task, method="aso-lora", package=work / "aso-lora", **how), resume=True)
    return work / "aso-lora"


def routes(work: Path) -> list[Path]:
    """Give the adapters distributions, route test rows of every task, and return the file of where they went."""
    package = bundled(work)
    if not (work / "routes.json").exists():
        api.stat_features(package, api.FeatureOptions(limit=100, device="cpu"))
        settings = api.RouteSettings(data=TASKS, limit=40, similarity="l2", device="cpu")
        api.route(package, settings, confusion=work / "routes.json")
    return [work / "routes.json"]


def gains(work: Path) -> list[Path]:
    """Score the adapters in several combinations, and return the scores files."""
    package = bundled(work)
    files = {way: work / f"{way}.json" for way in ("sum", "average", "ties", "magmax")}
    for way, file in files.items():
        if not file.exists():
            api.eval(package, api.EvalOptions(combine=way, test_rows=40, device="cpu"), out=file)
    return list(files.values())


def outputs(work: Path) -> list[Path]:
    """Score the adapters after every stage, summed and the last alone, with what they answer; return the scores files."""
    package = bundled(work)
    files = {way: work / f"answers-{way}.json" for way in ("sum", "last")}
    for way, file in files.items():
        if not file.exists():
            options = api.EvalOptions(combine=way, matrix=True, answers=True, test_rows=40, device="cpu")
            api.eval(package, options, out=file)
    return list(files.values())


def sweep(work: Path) -> list[Path]:
    """Run cast with several shares of lora_B kept, and return the run's folder."""
    (work / "retention.yaml").write_text(SWEEP, encoding="utf-8")
    api.run(work / "retention.yaml", out=work / "retention")
    return [work / "retention"]


def packages(run: Path, *methods: str) -> list[Path]:
    """Return the folders of some methods of the run."""
    return [run / method for method in methods]


def shrink(path: Path) -> None:
    """Keep 64 colours, which is what a drawing needs: a third of the bytes."""
    from PIL import Image

    with Image.open(path) as image:
        small = image.convert("RGB").quantize(64, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def draw(run: Path, work: Path, names: list[str]) -> None:
    """Draw the figures into docs/gallery/."""
    FIGURES.mkdir(exist_ok=True)
    apart = packages(run, "inc-lora", "o-lora", "n-lora", "ps-lora")
    sources = {
        "curves": lambda: [run],
        "metrics": lambda: [*apart, run / "per-task"],
        "matrices": lambda: packages(run, "inc-lora", "n-lora", "pfd"),
        "losses": lambda: packages(run, "inc-lora", "o-lora", "n-lora"),
        "nuclear-norms": lambda: packages(run, "o-lora", "n-lora"),
        "sparsity": lambda: apart,
        "sizes": lambda: [run],
        "interference": lambda: apart,
        "collisions": lambda: packages(run, "n-lora"),
        "shifts": lambda: packages(run, "o-lora", "n-lora"),
        "drift": lambda: packages(run, "inc-lora", "n-lora", "ps-lora"),
        "plane": lambda: packages(run, "o-lora", "n-lora"),
        "capacity": lambda: packages(run, "cast"),
        "costs": lambda: [run / "cost.jsonl"],
        "relations": lambda: packages(run, "aso-lora"),
        "routes": lambda: routes(work),
        "gains": lambda: gains(work),
        "outputs": lambda: outputs(work),
        "sweep": lambda: sweep(work),
    }
    for name, find in sources.items():
        if not names or name in names:
            api.report(find(), figure=name, out=FIGURES / f"{name}.png")
    if not names or "knee" in names:
        first = run / "inc-lora/seed-42/adapters/dbpedia"
        api.trim(first, api.TrimOptions(out=work / "knee"), plot=FIGURES / "knee.png", force=True)
    if not names or "shares" in names:
        api.show(run / "cast/seed-42/adapters", out=FIGURES / "shares.png")
    for path in FIGURES.glob("*.png"):
        shrink(path)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
