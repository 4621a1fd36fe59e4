"""Time and peak memory of a training step with each penalty, against a plain LoRA step, on a random model.

Every variant is one whole optimizer step: forward, backward, penalties, clipping, AdamW.

- ``plain LoRA``: one trainable LoRA by PEFT, nothing earlier;
- ``inc-lora``: on top of it the earlier adapters, frozen, in the forward pass;
- every method with a penalty, and ``o-lora+n-lora``: what ``clora train-task`` does with the same earlier adapters;
- ``n-lora, autograd`` and ``o-lora, autograd``: the same penalties written into the loss, for contrast.

All variants are timed in turns in one process, so that a busy machine slows all of them alike; ratios are taken turn by
turn. Peak memory is measured before that, each variant in a process of its own.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median, quantiles
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from clora_cli.algebra.lora import Factor
from clora_cli.base import registry
from clora_cli.model.bank import AdapterBank
from clora_cli.model.linear_layers import find_sites
from clora_cli.training.composition import compose
from clora_cli.training.loop import answer_loss
from clora_cli.training.penalties import Penalties

PLAIN, PAST = "plain LoRA", "inc-lora"
COMPOSED = ("o-lora+n-lora",)
RANK, ALPHA = 8, 16
_FIRST = 2  # steps of a process that are not timed: AdamW makes its state, allocators settle

Loss = Callable[["Subject"], Tensor]


@dataclass(frozen=True)
class Shape:
    """A model's configuration and a batch: rows x tokens read, and the tokens of each answer."""

    kind: str
    config: Mapping[str, Any]
    rows: int
    tokens: int
    answer: int


def _t5(width: int, inner: int, layers: int, vocabulary: int) -> dict[str, Any]:
    """Return a gated T5 (v1.1, Flan) with heads of 64."""
    return {
        "d_model": width,
        "d_ff": inner,
        "num_layers": layers,
        "num_heads": width // 64,
        "d_kv": 64,
        "vocab_size": vocabulary,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "decoder_start_token_id": 0,
    }


def _llama(width: int, inner: int, layers: int, heads: tuple[int, int], vocabulary: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "vocab_size": vocabulary,
    }


# The two for a CPU keep the proportions of a layer and have few of them; their vocabularies are small, because a large
# output layer would make every ratio look better than it is in a deep model.
SHAPES = {
    "t5-small-ish": Shape("t5", _t5(768, 2048, 2, 4096), 8, 256, 16),
    "llama-ish": Shape("llama", _llama(1024, 2816, 2, (16, 4), 4096), 8, 256, 64),
    "t5-large": Shape("t5", _t5(1024, 2816, 24, 32128), 8, 512, 32),
    "llama-7b": Shape("llama", _llama(4096, 11008, 32, (32, 32), 32000), 8, 512, 64),
}


@dataclass(frozen=True)
class Variant:
    """What is added to a plain step: earlier adapters in the forward pass, a method's penalties, a term of the loss."""

    past: bool = True
    method: str | None = None
    loss: Loss | None = None


@dataclass(frozen=True)
class Subject:
    """A random model under PEFT, its earlier adapters, its batch and its optimizer."""

    shape: Shape
    device: torch.device
    dtype: torch.dtype
    bank: AdapterBank
    model: nn.Module
    trainable: Mapping[str, Factor]
    batch: Mapping[str, Tensor]
    optimizer: torch.optim.Optimizer
    clock: Callable[[], float]

    def penalties(self, variant: Variant) -> Penalties | None:
        """Return the penalties of the variant's method."""
        if variant.method is None:
            return None
        return Penalties(compose(variant.method, {}).at("penalty"), self.trainable, self.bank)

    def step(self, variant: Variant, penalties: Penalties | None) -> tuple[float, float]:
        """Run one optimizer step; return its seconds and those of the penalties in it."""
        begun = self._now()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            inputs = {name: tensor for name, tensor in self.batch.items() if name != "labels"}
            loss = answer_loss(self.shape.kind == "llama")(self.model(**inputs), self.batch["labels"])
        if variant.loss is not None:
            loss = loss + variant.loss(self)
        loss.backward()
        marks = self._mark()
        if penalties is not None:
            for name in compose(variant.method, {}).parts:
                penalties.add(name, {})
            penalties.end_step()
        marks += self._mark()
        nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self._now() - begun, _between(*marks)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return self.clock()

    def _mark(self) -> tuple[Any, ...]:
        if self.device.type != "cuda":
            return (self.clock(),)
        event = torch.cuda.Event(enable_timing=True)  # an event does not hold up the launches that follow it
        event.record()
        return (event,)


def _between(first: Any, second: Any) -> float:
    return second - first if isinstance(first, float) else first.elapsed_time(second) / 1000


def make_base(shape: Shape, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Make the base model with random weights."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with device:
        if shape.kind == "t5":
            base: nn.Module = T5ForConditionalGeneration(T5Config(**shape.config))
        else:
            base = LlamaForCausalLM(LlamaConfig(**shape.config, use_cache=False))
    torch.set_default_dtype(before)
    return base.requires_grad_(False)


def make_subject(base: nn.Module, shape: Shape, past: int, clock: Callable[[], float]) -> Subject:
    """Put random earlier adapters and a new LoRA on a base model."""
    sites = find_sites(base)
    bank = AdapterBank(base)
    bank.activate([{site: _random_factor(*size) for site, size in sites.items()} for _ in range(past)])
    weight = next(base.parameters())
    endings = sorted({site.rpartition(".")[2] for site in sites})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks Transformers for a name that is about to change
        model = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=endings)).train()
    trainable = _trainable(model)
    parameters = [tensor for factor in trainable.values() for tensor in (factor.a, factor.b)]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    batch = _batch(shape, weight.device)
    return Subject(shape, weight.device, weight.dtype, bank, model, trainable, batch, optimizer, clock)


def _trainable(model: nn.Module) -> dict[str, Factor]:
    found = {}
    for name, module in model.named_modules():
        if "default" in getattr(module, "lora_A", {}):
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            nn.init.normal_(b, std=1e-3)  # PEFT starts at zero, where signs and products are not what they are later
            found[name.removeprefix("base_model.model.")] = Factor(a, b, module.scaling["default"])
    return found


def _random_factor(out: int, inner: int) -> Factor:
    return Factor(torch.randn(RANK, inner) / math.sqrt(inner), torch.randn(out, RANK) * 1e-3, ALPHA / RANK)


def _batch(shape: Shape, device: torch.device) -> dict[str, Tensor]:
    words = shape.config["vocab_size"]
    tokens = torch.randint(3, words, (shape.rows, shape.tokens), device=device)
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if shape.kind == "t5":
        answers = torch.randint(3, words, (shape.rows, shape.answer), device=device)
        return batch | {"decoder_input_ids": answers, "labels": answers}
    question = torch.arange(shape.tokens, device=device) < shape.tokens - shape.answer
    return batch | {"labels": tokens.masked_fill(question, -100)}


def naive_n_lora(subject: Subject) -> Tensor:
    """Return n-lora's penalty as a term of the loss: autograd keeps the dense delta of every site."""
    deltas = (factor.scaling * (factor.b @ factor.a) for factor in subject.trainable.values())
    return sum((0.4 * d.abs().sum() / math.sqrt(d.numel()) for d in deltas), torch.zeros((), device=subject.device))


def naive_o_lora(subject: Subject) -> Tensor:
    """Return o-lora's penalty as a term of the loss: one product for every site and earlier adapter."""
    total = torch.zeros((), device=subject.device)
    for site, factor in subject.trainable.items():
        past, _ = subject.bank.past(site) or (factor.a[:0], None)
        for a in past.split(RANK):
            total = total + (a.to(factor.a.dtype) @ factor.a.T).square().sum()
    return 0.5 * total


def variants() -> dict[str, Variant]:
    """Return everything to compare, the plain step first."""
    methods = [name for name in registry.names("methods") if compose(name, {}).at("penalty")] + list(COMPOSED)
    found = {PLAIN: Variant(past=False), PAST: Variant()}
    found |= {name: Variant(compose(name, {}).lead.past == "sum", name) for name in methods}
    return found | {"n-lora, autograd": Variant(loss=naive_n_lora), "o-lora, autograd": Variant(loss=naive_o_lora)}


@dataclass
class Result:
    """What one variant took, one entry a turn in seconds, and its peak memory in bytes."""

    name: str
    seconds: list[float] = field(default_factory=list)
    penalty: list[float] = field(default_factory=list)
    peak: int = 0


def time_all(chosen: Mapping[str, Variant], options: argparse.Namespace, results: Mapping[str, Result]) -> None:
    """Time every variant once a turn; each turn begins with another variant."""
    subjects = _subjects(options, {variant.past for variant in chosen.values()})
    penalties = {name: subjects[variant.past].penalties(variant) for name, variant in chosen.items()}
    names = list(chosen)
    for turn in range(-_FIRST, options.steps):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds, penalty = subjects[chosen[name].past].step(chosen[name], penalties[name])
            if turn >= 0:
                results[name].seconds.append(seconds)
                results[name].penalty.append(penalty)


def peak_of(variant: Variant, options: argparse.Namespace) -> int:
    """Run three steps in this process, which has done nothing else, and return its peak memory in bytes."""
    subject = _subjects(options, {variant.past})[variant.past]
    penalties = subject.penalties(variant)
    if subject.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        subject.step(variant, penalties)
    if subject.device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _subjects(options: argparse.Namespace, wanted: Iterable[bool]) -> dict[bool, Subject]:
    # One with the earlier adapters, one without; the second model is another tree of modules over the same weights.
    torch.manual_seed(0)
    shape, device = SHAPES[options.shape], torch.device(options.device)
    base = make_base(shape, device, getattr(torch, options.dtype))
    clock = time.process_time if options.cpu_time else time.perf_counter
    shared: dict[int, Any] = {id(tensor): tensor for tensor in [*base.parameters(), *base.buffers()]}
    bases = {past: base if i == 0 else copy.deepcopy(base, shared) for i, past in enumerate(wanted)}
    return {past: make_subject(tree, shape, options.past if past else 0, clock) for past, tree in bases.items()}


def _peak_elsewhere(name: str) -> int:
    # A process inherits the peak of the one that starts it: this one must not have built a model before.
    command = [sys.executable, __file__, *sys.argv[1:], "--peak-of", name]
    # glibc's threshold moves as a process runs; held still, freed tensors go back at once and peaks can be compared.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 17), "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return int(done.stdout.split()[-1])


def _ratio(of: list[float], to: list[float]) -> str:
    ratios = [x / y for x, y in zip(of, to, strict=True)]
    low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return f"{median(ratios):.3f} ({low:.2f}-{high:.2f})"


def table(results: Mapping[str, Result]) -> str:
    """Return the Markdown table: medians over turns, with the middle half of the ratios in parentheses."""
    plain, past = results[PLAIN], results[PAST]
    lines = [
        f"| step | s | x {PLAIN} | x {PAST} | penalty ms | peak MiB | peak x {PLAIN} | peak x {PAST} |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, result in results.items():
        own = median(result.penalty)
        if name.endswith("autograd"):  # inside the forward and backward pass: what it adds to them
            own = median(x - y for x, y in zip(result.seconds, past.seconds, strict=True))
        cells = [name, f"{median(result.seconds):.3f}", _ratio(result.seconds, plain.seconds)]
        cells += [_ratio(result.seconds, past.seconds), "" if name in {PLAIN, PAST} else f"{1000 * own:.1f}"]
        if result.peak:
            cells += [f"{result.peak / 2**20:.0f}", f"{result.peak / plain.peak:.3f}", f"{result.peak / past.peak:.3f}"]
        lines.append("| " + " | ".join(cells + [""] * (8 - len(cells))) + " |")
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="t5-small-ish")
    parser.add_argument("--past", type=int, default=15, help="earlier adapters, of rank 8")
    parser.add_argument("--steps", type=int, default=15, help="timed steps of each variant")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, help="threads of a CPU; PyTorch's own number by default")
    parser.add_argument(
        "--cpu-time", action="store_true", help="count processor time; on a busy machine, with --threads 1"
    )
    parser.add_argument("--only", nargs="*", metavar="STEP", help="steps to compare with the first two; all by default")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory")
    parser.add_argument("--json", action="store_true", help="print every measurement instead of the table")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    chosen = variants()
    if options.peak_of:
        print(peak_of(chosen[options.peak_of], options))
        return
    if unknown := set(options.only or ()) - set(chosen):
        sys.exit(f"--only {min(unknown)}: choose among {', '.join(chosen)}")
    if options.only is not None:
        chosen = {name: variant for name, variant in chosen.items() if name in {PLAIN, PAST, *options.only}}
    results = {name: Result(name) for name in chosen}
    if not options.no_memory:
        for name, result in results.items():
            result.peak = _peak_elsewhere(name)
    time_all(chosen, options, results)
    if options.json:
        print(json.dumps({"options": vars(options), "results": [asdict(result) for result in results.values()]}))
    else:
        print(f"{options.shape}, {options.past} past, {options.dtype} on {options.device}, {options.steps} turns\n")
        print(table(results))


if __name__ == "__main__":
    main()
