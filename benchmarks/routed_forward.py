"""Time of a model whose inputs choose among many adapters: clora beside PEFT's three ways, in one run.

Every turn runs all rows once, in an order of its own; ratios are taken turn by turn against the base model. The model is
a random Llama of ``--layers`` blocks, adapters are random LoRAs of rank 8 on query and value, weights are given.

- ``soft``: all adapters in every input's mixture; ``top-1, mixed``: each input its own adapter; ``top-1, one task``: one
  adapter for the whole batch;
- ``PEFT, active``: all adapters active, which adds them up; ``PEFT, adapter_names``: each input its own adapter; ``PEFT,
  Arrow``: a mixture of three for each token, chosen by PEFT's own prototypes.

Below the table: reading features against a bare pass, deciding among 15 and 1,000 adapters, and the parts of answering a
prompt: the base model's pass that decides, prefill, and one further token.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from peft import ArrowConfig, LoraConfig, PeftModel, create_arrow_model, get_peft_model
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

from clora_cli.algebra.lora import Factor
from clora_cli.algebra.statistics import Moments
from clora_cli.model.backbone import Backbone
from clora_cli.model.bank import AdapterBank
from clora_cli.model.base_model import ModelReference
from clora_cli.model.features import read_features, select_sites
from clora_cli.model.linear_layers import find_sites
from clora_cli.options import RouteOptions
from clora_cli.routing.weights import Routing

RANK = 8
Run = Callable[[], object]


def base_model(width: int, layers: int) -> Any:
    """Return a random Llama with grouped-query attention."""
    set_seed(0)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=width,
        intermediate_size=int(width * 2.75),
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=max(1, width // 256),
        max_position_embeddings=2048,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def save_adapters(width: int, layers: int, count: int, folder: Path) -> list[Path]:
    """Save random LoRAs in PEFT's own folders."""
    paths = []
    for number in range(count):
        config = LoraConfig(r=RANK, lora_alpha=16, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        set_seed(number)
        get_peft_model(base_model(width, layers), config).save_pretrained(folder / str(number))
        paths.append(folder / str(number))
    return paths


def random_adapters(model: Any, count: int) -> list[dict[str, Factor]]:
    """Return random LoRAs on query and value."""
    generator = torch.Generator().manual_seed(0)
    return [
        {
            site: Factor(
                torch.randn(RANK, columns, generator=generator) * 0.02,
                torch.randn(rows, RANK, generator=generator) * 0.02,
                2.0,
            )
            for site, (rows, columns) in find_sites(model).items()
        }
        for _ in range(count)
    ]


def gated(bank: AdapterBank, weights: Tensor, run: Run) -> Run:
    """Return a run under these weights at every site, the setting of the gates included."""

    def whole() -> None:
        bank.gate(dict.fromkeys(bank.sites, weights))
        run()

    return whole


def our_rows(arguments: argparse.Namespace, count: int, ids: Tensor) -> dict[str, Run]:
    """Return the base model's run and ours."""
    bare, model = (base_model(arguments.width, arguments.layers) for _ in range(2))
    one = base_model(arguments.width, arguments.layers)
    AdapterBank(one).activate(random_adapters(one, 1))
    bank = AdapterBank(model)
    bank.activate(random_adapters(model, count))
    rows, choice = len(ids), torch.arange(len(ids)) % count
    run = lambda: model(ids, use_cache=False)  # noqa: E731
    return {
        "base": lambda: bare(ids, use_cache=False),
        "one adapter": lambda: one(ids, use_cache=False),
        "soft": gated(bank, torch.rand(rows, count).softmax(1), run),
        "top-1, mixed": gated(bank, functional.one_hot(choice, count).float(), run),
        "top-1, one task": gated(bank, functional.one_hot(torch.zeros(rows, dtype=torch.long), count).float(), run),
    }


def peft_rows(arguments: argparse.Namespace, count: int, ids: Tensor, folder: Path) -> dict[str, Run]:
    """Return PEFT's runs."""
    paths = save_adapters(arguments.width, arguments.layers, count, folder)
    names = [str(number) for number in range(count)]
    active = PeftModel.from_pretrained(base_model(arguments.width, arguments.layers), paths[0], adapter_name="0")
    for name, path in zip(names[1:], paths[1:], strict=True):
        active.load_adapter(path, adapter_name=name)
    active.eval()
    chosen = [names[row % count] for row in range(len(ids))]

    def all_active() -> None:
        active.base_model.set_adapter(names)
        active(ids, use_cache=False)

    def by_name() -> None:
        active.base_model.set_adapter(["0"])
        active(ids, use_cache=False, adapter_names=chosen)

    rows = {"PEFT, active": all_active, "PEFT, adapter_names": by_name}
    if count > 1:
        arrow = create_arrow_model(
            base_model(arguments.width, arguments.layers),
            [str(path) for path in paths],
            ArrowConfig(top_k=min(3, count)),
        ).eval()
        rows["PEFT, Arrow"] = lambda: arrow(ids, use_cache=False)
    return rows


def compare(rows: dict[str, Run], turns: int) -> dict[str, tuple[float, float]]:
    """Return each row's median seconds and median ratio to ``base``, turn by turn."""
    times: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(turns + 1):
        order = list(rows)
        random.Random(turn).shuffle(order)
        for name in order:
            began = time.perf_counter()
            rows[name]()
            if turn:  # the first one warms up
                times[name].append(time.perf_counter() - began)
    ratios = {name: [one / base for one, base in zip(all_, times["base"], strict=True)] for name, all_ in times.items()}
    return {name: (median(times[name]), median(ratios[name])) for name in rows}


def seconds(run: Run, turns: int) -> float:
    """Return the median time of a run."""
    return compare({"base": run}, turns)["base"][0]


def features(arguments: argparse.Namespace, model: Any, ids: Tensor) -> None:
    """Print what reading features costs beside a bare pass."""

    class Tokenizer:
        pad_token_id, eos_token_id, sep_token_id, unk_token_id, bos_token_id = 0, 0, None, None, None

    reference = ModelReference("random", Path(), "causal", "")
    backbone = Backbone(model, Tokenizer(), reference, torch.device("cpu"), torch.float32)
    prompts, sites = ids.tolist(), list(find_sites(model))
    middle = select_sites(sites, "middle", "v_proj")
    rows = {
        "base": lambda: model.model(ids, use_cache=False),
        "all layers": lambda: list(read_features(backbone, prompts, sites)),
        "middle layer": lambda: list(read_features(backbone, prompts, middle)),
    }
    for name, (took, ratio) in list(compare(rows, arguments.turns).items())[1:]:
        print(f"features, {name}: {1000 * took:.1f} ms, {ratio:.2f} of a bare pass without the output layer")
    found = compare(
        {"base": deciding(backbone, prompts, middle, 15), "many": deciding(backbone, prompts, middle, 1000)},
        arguments.turns,
    )
    print(f"deciding among 15: {1000 * found['base'][0]:.1f} ms, among 1,000: {found['many'][1]:.2f} of that")


def deciding(backbone: Backbone, prompts: list[list[int]], sites: list[str], count: int) -> Run:
    """Return what decides among so many adapters: features of one layer, similarities, weights."""
    size = backbone.model.get_submodule(sites[0]).out_features
    moments = [{sites[0]: Moments(200, torch.randn(size).double(), torch.ones(size).double())} for _ in range(count)]
    routing = Routing(moments, sites, RouteOptions(similarity="mahalanobis"))

    def whole() -> None:
        for _, features in read_features(backbone, prompts, sites):
            routing.weights(routing.similarities(features))

    return whole


def answering(arguments: argparse.Namespace, model: Any, ids: Tensor) -> None:
    """Print prefill and per-token costs of the base model and of 15 adapters, soft and top-1."""
    bank = AdapterBank(model)
    bank.activate(random_adapters(model, 15))
    soft = torch.rand(len(ids), 15).softmax(1)
    top = functional.one_hot(torch.arange(len(ids)) % 15, 15).float()
    for name, weights in {"base": None, "soft": soft, "top-1, mixed": top}.items():
        with bank.only(None) if weights is None else gates(bank, weights):
            prefill = seconds(lambda: model(ids, use_cache=True), arguments.turns)
            cache = model(ids, use_cache=True).past_key_values
            step = seconds(lambda cache=cache: model(ids[:, -1:], past_key_values=cache), 20 * arguments.turns)
        print(f"{name}: prefill {1000 * prefill:.1f} ms, one further token {1000 * step:.1f} ms")


@contextlib.contextmanager
def gates(bank: AdapterBank, weights: Tensor) -> Iterator[None]:
    """Weigh the adapters for a while."""
    bank.gate(dict.fromkeys(bank.sites, weights))
    yield
    bank.gate(None)


@torch.inference_mode()
def main() -> None:
    """Print the table and the lines below it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapters", type=int, nargs="+", default=[1, 15, 100])
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--no-peft", action="store_true", help="leave PEFT's rows out")
    arguments = parser.parse_args()
    ids = torch.randint(1, 4096, (arguments.batch, arguments.length), generator=torch.Generator().manual_seed(0))
    print(f"{arguments.layers} blocks of width {arguments.width}, {arguments.batch} x {arguments.length} tokens\n")
    print("| adapters | row | ms | x base |\n|---:|---|---:|---:|")
    for count in arguments.adapters:
        with tempfile.TemporaryDirectory() as folder:
            rows = our_rows(arguments, count, ids)
            rows |= {} if arguments.no_peft else peft_rows(arguments, count, ids, Path(folder))
            for name, (took, ratio) in compare(rows, arguments.turns).items():
                print(f"| {count} | {name} | {1000 * took:.1f} | {ratio:.2f} |", flush=True)
    print()
    model = base_model(arguments.width, arguments.layers)
    features(arguments, model, ids)
    answering(arguments, model, ids)


if __name__ == "__main__":
    main()
