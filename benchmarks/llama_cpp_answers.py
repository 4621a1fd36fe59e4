"""Greedy answers of llama.cpp with an exported adapter beside those of `clora eval`, on one base model in GGUF.

    clora export adapters --for llama.cpp --model BASE.gguf -o exported
    python benchmarks/llama_cpp_answers.py BASE.gguf adapters exported/topics-news/adapter.gguf --data topics-news

Needs llama.cpp as a wheel: `pip install xllamacpp`. Prompts are given as tokens, so that nothing but the models is compared.
llama.cpp rounds what a quantised weight is multiplied with to 8 bits, clora does not: where two tokens are about equally likely,
the two may part.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from clora_cli.base.progress import Silent
from clora_cli.data import named_task
from clora_cli.evaluation.answers import generate
from clora_cli.evaluation.bench import encoded
from clora_cli.evaluation.combine import Fixed
from clora_cli.evaluation.prompts import Prompts
from clora_cli.model.backbone import load_backbone
from clora_cli.model.bank import AdapterBank
from clora_cli.model.base_model import find_model
from clora_cli.options import EvalOptions
from clora_cli.store.package import read_package


def server(model: str, lora: str | None) -> Any:
    """Return llama.cpp with a model and an adapter."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.warmup = model, 1024, 1, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
    if lora:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(lora, 1.0)]
    return xllamacpp.Server(params)


def answers_there(prompts: Prompts, llama: Any, tokens: int) -> list[str]:
    """Return llama.cpp's answers, the likeliest token each time."""
    ask = {"n_predict": tokens, "temperature": 0.0, "top_k": 1, "samplers": ["top_k"], "repeat_penalty": 1.0}
    found = [llama.handle_completions({"prompt": list(ids), "cache_prompt": False, **ask}) for ids in prompts.ids]
    return [str(one.get("content", (one.get("choices") or [{}])[0].get("text", ""))).strip() for one in found]


def answers_here(prompts: Prompts, package: Sequence[Path], combine: str, tokens: int) -> list[str]:
    """Return clora's answers."""
    bank = AdapterBank(prompts.backbone.model)
    members = [member.on(bank.places) for member in read_package(package)] if package else []
    Fixed(bank, members, combine).use(members, prompts)
    return generate(prompts, tokens, lambda rows: None)


def main() -> None:
    """Print how many answers are equal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("package", type=Path)
    parser.add_argument("exported", type=Path, help="adapter.gguf, or the model.gguf of an export for ollama")
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", help="the base model as clora loads it; BASE by default")
    parser.add_argument("--combine", default="sum")
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=12)
    given = parser.parse_args()
    backbone = load_backbone(find_model(given.model or str(given.base)), device=torch.device("cpu"))
    task = named_task(given.data, (), "")
    options = EvalOptions(test_rows=given.rows, batch_size=1, max_length=256, max_new_tokens=given.tokens)
    prompts = encoded(backbone, [task], options, Silent())[task.name]
    whole = given.exported.name == "model.gguf"
    pairs = [("base model", (), str(given.base), None)]
    served, lora = (str(given.exported), None) if whole else (str(given.base), str(given.exported))
    pairs.append((given.exported.name, (given.package,), served, lora))
    answers = []
    for name, package, model, adapter in pairs:
        here = answers_here(prompts, package, given.combine, given.tokens)
        there = answers_there(prompts, server(model, adapter), given.tokens)
        answers.append(there)
        equal = [one == other for one, other in zip(here, there, strict=True)]
        print(f"{name}: {sum(equal)} of {len(equal)} answers of up to {given.tokens} tokens are equal")
        for one, other in [(h, t) for h, t, same in zip(here, there, equal, strict=True) if not same][:5]:
            print(f"  clora {one!r}\n  llama {other!r}")
    changed = sum(one != other for one, other in zip(*answers, strict=True))
    print(f"the adapter changes {changed} of {len(answers[0])} answers, such as {answers[0][0]!r} to {answers[1][0]!r}")


if __name__ == "__main__":
    main()
