"""Time of a whole classification evaluation when each input finds its own adapter, over that of the merged adapter.

Random adapters on the bundled model, one for each of four bundled tasks, with the tasks' feature distributions. Processor time of
``evaluate`` with the base model loaded beforehand, in turns: encoding, routing, answering and scoring of 200 rows a task.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from clora_cli.data import Task, load_task
from clora_cli.evaluation import evaluate
from clora_cli.model import backbone
from clora_cli.nano import MODEL_PATH
from clora_cli.options import EvalOptions, FeatureOptions, MergeOptions
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.package import read_package
from clora_cli.transforming import merge_adapters, plan_merge
from clora_cli.transforming.featuring import plan_features
from clora_cli.transforming.taking import take_features

TASKS = ("topics-wiki", "sentiment-stars", "topics-news", "inference")
WAYS: dict[str, dict[str, Any]] = {
    "middle layer's values decide": {"route_layer": "middle", "route_module": "v_proj"},
    "every site decides": {},
}


def make_adapters(folder: Path) -> list[AdapterFolder]:
    """Write random LoRAs as PEFT does and give each its task's distribution."""
    for seed, task in enumerate(TASKS):
        torch.manual_seed(seed)
        config = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        get_peft_model(AutoModelForCausalLM.from_pretrained(MODEL_PATH), config).save_pretrained(folder / task)
    members = read_package([folder])
    take_features(plan_features(members, FeatureOptions(data=TASKS, model="clora-nano", limit=100)))
    return read_package([folder])


def seconds(members: Sequence[AdapterFolder], tasks: Sequence[Task], **options: Any) -> float:
    """Return the processor time of one evaluation."""
    began = time.process_time()
    evaluate(members, tasks, EvalOptions(device="cpu", model="clora-nano", **options))
    return time.process_time() - began


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7)
    arguments = parser.parse_args()
    real, loaded = backbone.load_backbone, {}

    def load_once(reference: Any, **options: Any) -> Any:
        if not loaded:
            loaded["model"] = real(reference, **options)
        for module in loaded["model"].model.modules():
            module._forward_hooks.clear()  # the adapters of the evaluation before
        return loaded["model"]

    tasks = [load_task(name) for name in TASKS]
    with tempfile.TemporaryDirectory() as folder:
        members = make_adapters(Path(folder) / "package")
        merge_adapters(plan_merge(members, MergeOptions(out=Path(folder) / "merged")))
        merged = read_package([Path(folder) / "merged"])
        backbone.load_backbone = load_once
        for name, way in WAYS.items():
            pairs = [
                (seconds(merged, tasks), seconds(members, tasks, combine="route", top_k=1, **way))
                for _ in range(arguments.turns + 1)
            ][1:]
            ratio = median(routed / alone for alone, routed in pairs)
            print(
                f"{name}: {ratio:.2f} of the merged adapter's {median(alone for alone, _ in pairs):.2f} s", flush=True
            )


if __name__ == "__main__":
    main()
