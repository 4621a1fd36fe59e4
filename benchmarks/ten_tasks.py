"""Write a recipe of ten tasks for the bundled model: the eight that come with it and two more, made of their texts.

The two ask yes or no about texts of other tasks: whether a news item is about crime, whether an entry is of a living thing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from clora_cli.nano.task_set import ORDER, SPLITS, rows

# Task to the bundled task whose texts it asks about, its question, and the labels there that answer it with yes.
MORE = {
    "crime": ("topics-news", "Is this news item about crime?", {"crime"}),
    "living": ("topics-wiki", "Is the described entity a living thing?", {"animal", "plant"}),
}
RECIPE = """\
name: ten-tasks
model: clora-nano
tasks: [{tasks}]
methods:
- per-task
- inc-lora
- o-lora
- method: cast
  train: {{rank: 128, alpha: 512, lr: 0.06}}
train: {{epochs: 4}}
out: {out}/runs
"""


def write_task(folder: Path, source: str, asked: str, yes: set[str]) -> None:
    """Write the three splits of a task as JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        lines = [
            {"prompt": f"{asked}\nOption: yes, no\n{text}\nAnswer:", "completion": "yes" if label in yes else "no"}
            for text, label in rows(source, split)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")


def main() -> None:
    """Write the two tasks and the recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write into")
    out = parser.parse_args().out
    for name, (source, asked, yes) in MORE.items():
        write_task(out / name, source, asked, yes)
    tasks = ", ".join([*ORDER, *(str(out / name) for name in MORE)])
    (out / "ten-tasks.yaml").write_text(RECIPE.format(tasks=tasks, out=out), encoding="utf-8")
    print(out / "ten-tasks.yaml")


if __name__ == "__main__":
    main()
