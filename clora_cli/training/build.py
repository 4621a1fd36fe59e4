"""The model of a run: frozen base, frozen earlier adapters, one trainable LoRA (layer L3)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training, set_peft_model_state_dict
from torch import Tensor
from transformers import set_seed

from clora_cli import registry
from clora_cli.adapter_folder import AdapterFolder
from clora_cli.adapters import AdapterBank
from clora_cli.backbone import Backbone, find_sites, is_transposed, load_backbone, pick_device
from clora_cli.base_layers import BaseLayers
from clora_cli.errors import MismatchError, OptionError
from clora_cli.lora import Factor, factor_keys
from clora_cli.merges import Merger
from clora_cli.progress import Progress
from clora_cli.training.gates import Gates, read_gates
from clora_cli.training.options import run_seed
from clora_cli.training.plan import Plan
from clora_cli.training.subspace import Confinement, warmup_steps

__all__ = ["ADAPTER", "Built", "build", "confine", "lora_config"]

ADAPTER = "default"  # PEFT's name of the new adapter
_ALL = "all-linear"


@dataclass(frozen=True, eq=False)
class Built:
    """A model ready to be trained.

    Attributes:
        model: The base model under PEFT, with the new adapter as its only trainable part.
        backbone: The base model that it wraps.
        bank: The earlier adapters, in the forward pass where the method wants them.
        trainable: The new adapter: site to its trainable factors.
        gates: What mixes the adapters row by row; None if the method does not route.
    """

    model: PeftModel
    backbone: Backbone
    bank: AdapterBank
    trainable: Mapping[str, Factor]
    gates: Gates | None = None


def build(plan: Plan) -> Built:
    """Load the base model, put the earlier adapters into its forward pass and a new LoRA on top.

    Raises:
        CloraError: If the model cannot be loaded, a target matches nothing, or an adapter does not fit.
    """
    options = plan.options
    device = pick_device(options.device)
    backbone = load_backbone(
        plan.reference, device=device, dtype=options.dtype, quantize=options.quantize, dropout=options.base_dropout
    )
    if device.type == "cpu" and backbone.dtype != torch.float32:
        # On a CPU the fused attention's backward pass is several times slower in half precision than the plain one.
        backbone.model.set_attn_implementation("eager")
    sites = find_sites(backbone.model, options.target_modules)
    gates = read_gates(plan, backbone)  # from the bare base model, hence before anything is put into it
    bank = AdapterBank(backbone.model)
    bank.activate(_past_deltas(plan))
    if options.quantize != "none":
        prepare_model_for_kbit_training(backbone.model, use_gradient_checkpointing=False)
    set_seed(plan.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks Transformers for a name that is about to change
        warnings.simplefilter("ignore", UserWarning)  # and tells that it notes the model's local path
        config = lora_config(plan, tuple(sites), is_transposed(backbone.model, next(iter(sites))))
        model = get_peft_model(backbone.model, config)
    trainable = _trainable(model)
    if set(trainable) != set(sites):
        odd = min(set(trainable) ^ set(sites))
        raise OptionError(
            f"--target-modules: PEFT adapts other layers than these endings name, such as '{odd}'; name whole paths"
        )
    if plan.method.lead.start == "previous" and plan.past:
        _continue_from(model, plan.past[-1])
    if plan.method.lead.start == "shared":
        _share_a(plan, trainable)
    if gates is not None:
        gates.attach(bank, {site: model.base_model.model.get_submodule(site).lora_A[ADAPTER] for site in trainable})
    return Built(model, backbone, bank, trainable, gates)


def confine(plan: Plan, built: Built, progress: Progress) -> Confinement | None:
    """Return what keeps the new adapter within its part of a shared LoRA; None if it shares none.

    Raises:
        MismatchError: If the package's adapters have other layers.
    """
    trimming, options = plan.method.lead.trimming(), plan.options
    if trimming is None:
        return None
    shapes = {site: factor.b.shape for site, factor in built.trainable.items()}
    idle = {
        site: plan.ledger.idle_at(site) if plan.ledger else torch.ones(shape).bool() for site, shape in shapes.items()
    }
    steps = warmup_steps(trimming, len(plan.rows), options.batch_size * options.grad_accum, plan.steps)
    return Confinement(trimming, built.trainable, idle, steps, seed=plan.seed, progress=progress)


@torch.no_grad()
def _share_a(plan: Plan, trainable: Mapping[str, Factor]) -> None:
    """Give the new adapter the ``lora_A`` of the package, or a random one at the first task, and never train it."""
    first = plan.members[0].factors() if plan.members else {}
    if first and set(first) != set(trainable):
        raise MismatchError(
            f"{plan.members[0].path} adapts other layers than this run; pass the --target-modules that it was trained with"
        )
    for site, factor in trainable.items():
        factor.a.copy_(first[site].a if first else _random_a(factor.a, f"{plan.options.seed}/{site}"))
        factor.a.requires_grad_(False)


def _random_a(like: Tensor, seed: str) -> Tensor:
    # Uniform as PEFT's own start; by the seed and the site alone, so that packages of one seed share it.
    generator = torch.Generator().manual_seed(run_seed(0, seed))
    bound = like.shape[1] ** -0.5
    return torch.empty(like.shape).uniform_(-bound, bound, generator=generator)


def _past_deltas(plan: Plan) -> list[Mapping[str, Factor | Tensor]]:
    past = plan.method.lead.past
    deltas = [member.deltas() for member in plan.past] if past != "none" else []
    if past in {"none", "sum", "route"} or not deltas:
        return deltas
    merger = Merger(merge=registry.load("merges", past)(), members=plan.past, layers=BaseLayers(plan.reference))
    merger.check()
    return [{one.site: one.delta for one in merger.sites()}]


def lora_config(plan: Plan, sites: tuple[str, ...], transposed: bool) -> LoraConfig:
    """Return PEFT's configuration of the new adapter.

    Args:
        plan: The run.
        sites: The layers that it adapts.
        transposed: Whether the model stores their weights as (in, out).
    """
    options = plan.options
    endings = sorted({site.rpartition(".")[2] for site in sites})
    named = _ALL if options.target_modules == (_ALL,) else list(options.target_modules or endings)
    return LoraConfig(
        r=options.rank,
        lora_alpha=int(options.alpha) if float(options.alpha).is_integer() else options.alpha,
        lora_dropout=options.dropout,
        target_modules=named,
        fan_in_fan_out=transposed,
        base_model_name_or_path=plan.reference.id,
        revision=plan.reference.revision,
        task_type="SEQ_2_SEQ_LM" if plan.reference.kind == "seq2seq" else "CAUSAL_LM",
    )


def _trainable(model: PeftModel) -> dict[str, Factor]:
    found = {}
    for name, module in model.named_modules():
        if ADAPTER in getattr(module, "lora_A", {}):
            a, b = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
            found[name.removeprefix("base_model.model.")] = Factor(a, b, module.scaling[ADAPTER])
    return found


def _continue_from(model: PeftModel, last: AdapterFolder) -> None:
    state: dict[str, Any] = {}
    for site, factor in last.factors().items():
        key_a, key_b = factor_keys(site)
        state |= {key_a: factor.a, key_b: factor.b}
    if len(state) != 2 * len(_trainable(model)):
        raise MismatchError(
            f"{last.path} adapts other layers than this run; pass the --target-modules that it was trained with"
        )
    problems = set_peft_model_state_dict(model, state)
    if problems.unexpected_keys:
        raise MismatchError(
            f"{last.path} adapts layer '{problems.unexpected_keys[0]}', which this run does not; pass its --target-modules"
        )
