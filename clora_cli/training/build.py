"""The model of a run: frozen base, frozen earlier adapters, one trainable LoRA (layer L3)."""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    prepare_model_for_kbit_training,
    set_peft_model_state_dict,
)
from torch import Tensor, nn
from transformers import set_seed

from clora_cli.algebra.lora import Factor, factor_keys
from clora_cli.base import registry
from clora_cli.base.errors import MismatchError, OptionError, translated
from clora_cli.base.progress import Progress, Silent
from clora_cli.merges import Merger
from clora_cli.model.backbone import Backbone, load_backbone, load_skeleton, pick_device
from clora_cli.model.bank import AdapterBank
from clora_cli.model.base_layers import BaseLayers
from clora_cli.model.linear_layers import all_linear, find_sites, is_transposed, linear_shape, usual_sites
from clora_cli.model.names import parse_name
from clora_cli.model.sharding import whole_tensors
from clora_cli.model.targets import ALL_LINEAR, adapted_layers, endings_of, left_out, matched, target_names
from clora_cli.options import TrainOptions
from clora_cli.store.adapter_config import TASK_TYPES
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.soft_prompt import PROMPT
from clora_cli.training.class_rows import Classes
from clora_cli.training.mixing import Mixture
from clora_cli.training.plan import Plan
from clora_cli.training.prompting import Prompting, prompt_config
from clora_cli.training.row_order import run_seed

__all__ = ["ADAPTER", "MIXED", "Built", "build", "lora_config"]

ADAPTER = "default"  # PEFT's name of the new adapter
MIXED = ("route", "weighted")  # ways in which a method itself puts earlier adapters into the forward pass


@dataclass(frozen=True, eq=False)
class Built:
    """A model ready to be trained.

    Attributes:
        model: The base model under PEFT, with the new adapter as its only trainable part; of a method that tunes soft prompts, the
            base model itself.
        backbone: The base model that it wraps.
        bank: The earlier adapters, in the forward pass where the method wants them; of a method that routes and does no more,
            those that some row chooses.
        past: The plan's earlier adapters, under the model's own names.
        trainable: The new adapter: site to its trainable factors; none of a soft prompt.
        linear: The base model's query and value projections, as far as it has them, and the adapted layers, by module path.
        order: All modules of the base model, by module path, in its order.
        acting: Numbers of the earlier adapters that the bank holds, in its order, where a method chose them.
        mixtures: What weighs the adapters in every forward pass, once a method asked for it; at most one.
        promptings: What puts virtual tokens before every row, once a method asked for it; at most one.
        classes: The output layer of an encoder; None of a model that writes.
    """

    model: Any
    backbone: Backbone
    bank: AdapterBank
    past: Sequence[AdapterFolder]
    trainable: Mapping[str, Factor]
    linear: Sequence[str] = ()
    order: Sequence[str] = ()
    acting: list[int] = field(default_factory=list)
    mixtures: list[Mixture] = field(default_factory=list)
    promptings: list[Prompting] = field(default_factory=list)
    classes: Classes | None = None

    def written(self, plan: Plan) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors of the finished adapter's file, and PEFT's configuration of it."""
        for prompting in self.promptings:
            tensors = prompting.tensors()
            return tensors, prompt_config(plan, tensors[PROMPT].shape[1]).to_dict()
        found = _factors(self.model), self.model.peft_config[ADAPTER].to_dict()
        return self.classes.beside(*found) if self.classes else found


def build(plan: Plan, progress: Progress | None = None) -> Built:
    """Load the base model, put the earlier adapters into its forward pass and a new LoRA on top.

    Args:
        plan: The run.
        progress: Reports a type that is slow here, and which layers ``all-linear`` leaves out.

    Raises:
        CloraError: If the model cannot be loaded, a target matches nothing, or an adapter does not fit.
    """
    options = plan.options
    device = pick_device(options.device)
    backbone = load_backbone(
        plan.reference,
        device=device,
        dtype=options.dtype,
        quantize=options.quantize,
        dropout=options.base_dropout,
        shard=options.shard,
        progress=progress,
    )
    if device.type == "cpu" and backbone.dtype != torch.float32:
        # On a CPU the fused attention's backward pass is several times slower in half precision than the plain one.
        backbone.model.set_attn_implementation("eager")
    order = [name for name, _ in backbone.model.named_modules()]
    classes = Classes.of(plan, backbone) if backbone.kind == "encoder" else None
    if plan.tunes_prompt:
        return Built(backbone.model, backbone, AdapterBank(backbone.model), plan.past, {}, (), order)
    # Some layers are run to see what they give, which takes whole weights, or none.
    shapes = load_skeleton(plan.reference) if backbone.sharded else backbone.model
    sites = find_sites(shapes, options.target_modules)
    linear = (*usual_sites(shapes), *sites)
    bank = AdapterBank(backbone.model)
    past = [member.on(bank.places) for member in plan.past]
    bank.activate(_past_deltas(plan, past))
    if options.quantize != "none":
        prepare_model_for_kbit_training(backbone.model, use_gradient_checkpointing=False)
    model = _adapted(plan, backbone, shapes, tuple(sites), progress or Silent())
    trainable = _trainable(model)
    if plan.method.full_rank:
        _make_full_rank(trainable)
    if plan.method.lead.start == "previous" and past:
        _continue_from(model, past[-1])
    if plan.method.lead.start == "shared":
        _share_a(plan, bank, trainable)
    if plan.method.lead.fixed_a:
        for factor in trainable.values():
            factor.a.requires_grad_(False)
    if classes:
        classes.layer.requires_grad_(True)  # PEFT has frozen all but its own
    return Built(model, backbone, bank, past, trainable, tuple(dict.fromkeys(linear)), order, classes=classes)


def _adapted(
    plan: Plan, backbone: Backbone, shapes: nn.Module, sites: tuple[str, ...], progress: Progress
) -> PeftModel:
    """Put PEFT's new LoRA around the base model, and check that it adapts exactly the intended sites."""
    if plan.options.target_modules == (ALL_LINEAR,) and (missing := left_out(shapes, sites, all_linear(shapes))):
        progress.note(f"all-linear leaves out what no plain LoRA can adapt in this model: {', '.join(missing)}")
    config = lora_config(plan, backbone.model, sites)
    set_seed(plan.seed)
    with (
        warnings.catch_warnings(),
        translated(
            "--target-modules: PEFT cannot adapt these layers", OptionError, code="target-modules-not-adaptable"
        ),
    ):
        warnings.simplefilter("ignore", FutureWarning)  # PEFT uses a name that Transformers will change
        warnings.simplefilter("ignore", UserWarning)  # and warns that it records the model's local path
        model = get_peft_model(backbone.model, config)
    # Read back what will be written.
    written = {parse_name(key).site for key in _factors(model)}
    if odd := {*adapted_layers(model, ADAPTER), *written} ^ set(sites):
        raise OptionError(
            f"--target-modules: PEFT adapts other layers than these endings name, such as '{min(odd)}'; name whole paths",
            code="target-modules-ambiguous",
        )
    # Checkpoints are to hold factors alone, as the adapter's folder will: no copies of base weights.
    model.save_pretrained = functools.partial(model.save_pretrained, save_embedding_layers=False)
    return cast("PeftModel", model)


@torch.no_grad()
def _make_full_rank(trainable: Mapping[str, Factor]) -> None:
    """Let each delta start at 0 and be one of its factors, all of which is trained; the other is the identity."""
    for factor in trainable.values():
        out, columns = factor.shape
        fixed, delta = (factor.a, factor.b) if columns <= out else (factor.b, factor.a)
        nn.init.eye_(fixed).requires_grad_(False)
        delta.zero_()


@torch.no_grad()
def _share_a(plan: Plan, bank: AdapterBank, trainable: Mapping[str, Factor]) -> None:
    """Give the new adapter the ``lora_A`` of the package, or a random one at the first task, and never train it."""
    first = plan.members[0].on(bank.places).factors() if plan.members else {}
    if first and set(first) != set(trainable):
        raise MismatchError(
            f"{plan.members[0].path} adapts other layers than this run; pass the --target-modules that it was trained with",
            code="target-modules-differ",
        )
    for site, factor in trainable.items():
        factor.a.copy_(first[site].a if first else _random_a(factor.a, f"{plan.options.seed}/{site}"))
        factor.a.requires_grad_(False)


def _random_a(like: Tensor, seed: str) -> Tensor:
    # Uniform as PEFT's own start; by the seed and the site alone, so that packages of one seed share it.
    generator = torch.Generator().manual_seed(run_seed(0, seed))
    bound = like.shape[1] ** -0.5
    return torch.empty(like.shape).uniform_(-bound, bound, generator=generator)


def _past_deltas(plan: Plan, past: Sequence[AdapterFolder]) -> list[Mapping[str, Factor | Tensor]]:
    way = plan.method.lead.past
    deltas = [member.deltas() for member in past] if way not in {"none", *MIXED} else []
    if way == "sum" or not deltas:
        return deltas
    merger = Merger(merge=registry.load("merges", way)(), members=past, layers=BaseLayers(plan.reference))
    merger.check()
    return [{one.site: one.delta for one in merger.sites()}]


def lora_config(plan: Plan, model: nn.Module, sites: tuple[str, ...]) -> LoraConfig:
    """Return PEFT's configuration of the new adapter.

    Args:
        plan: The run.
        model: The base model, with or without weights.
        sites: The layers that the run adapts.
    """
    options = plan.options
    return LoraConfig(
        **(_full_ranks(model, sites) if plan.method.full_rank else _ranks(options)),
        target_modules=target_modules(options.target_modules, model, sites),
        fan_in_fan_out=is_transposed(model, sites[0]),
        base_model_name_or_path=plan.reference.id,
        revision=plan.reference.revision,
        task_type=TASK_TYPES.get(plan.reference.kind),
    )


def _ranks(options: TrainOptions) -> dict[str, Any]:
    alpha = int(options.alpha) if float(options.alpha).is_integer() else options.alpha
    return {"r": options.rank, "lora_alpha": alpha, "lora_dropout": options.dropout}


def _full_ranks(model: nn.Module, sites: Sequence[str]) -> dict[str, Any]:
    """Return ranks that leave nothing out, and scalings of 1."""
    ranks = {site: min(linear_shape(model.get_submodule(site)) or (1, 1)) for site in sites}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {site: rank for site, rank in ranks.items() if rank != usual}
    return {"r": usual, "lora_alpha": usual, "rank_pattern": others, "alpha_pattern": others}


def target_modules(targets: Sequence[str], model: nn.Module, sites: Sequence[str]) -> str | list[str]:
    """Return the target modules for PEFT: as given, or whole paths where those names would match other layers too.

    Args:
        targets: As asked for; empty for query and value projections.
        model: The base model.
        sites: The layers that are meant.
    """
    if list(targets) == [ALL_LINEAR]:
        return target_names(model, sites)
    names = list(targets) or endings_of(sites)
    return names if matched(model, names) == set(sites) else list(sites)


def _factors(model: PeftModel) -> dict[str, Tensor]:
    """Return the new adapter's tensors as its file has them, and no base weights.

    From the model alone PEFT would put a divided base model together first, all of it in the memory of every process.
    """
    found: dict[str, Tensor] = get_peft_model_state_dict(model, whole_tensors(model), save_embedding_layers=False)
    return found


def _trainable(model: PeftModel) -> dict[str, Factor]:
    return {
        site: Factor(layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight, layer.scaling[ADAPTER])
        for site, layer in cast("Mapping[str, Any]", adapted_layers(model, ADAPTER)).items()
    }


def _continue_from(model: PeftModel, last: AdapterFolder) -> None:
    state: dict[str, Any] = {}
    for site, factor in last.factors().items():
        key_a, key_b = factor_keys(site)
        state |= {key_a: factor.a, key_b: factor.b}
    if len(state) != 2 * len(_trainable(model)):
        raise MismatchError(
            f"{last.path} adapts other layers than this run; pass the --target-modules that it was trained with",
            code="target-modules-differ",
        )
    problems = set_peft_model_state_dict(model, state)
    if problems.unexpected_keys:
        site = parse_name(problems.unexpected_keys[0]).site
        raise MismatchError(
            f"{last.path} adapts layer '{site}', which this run does not; pass its --target-modules",
            code="target-modules-differ",
        )
