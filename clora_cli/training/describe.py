"""What a plan would do, without doing it (layer L3): shapes, memory, steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clora_cli.training.forecast import Forecast, forecast, in_units
from clora_cli.training.plan import Plan

__all__ = ["Description", "describe"]

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Description:
    """A plan in numbers.

    Attributes:
        plan: The plan.
        sites: Module path to (out, in); none of a soft prompt.
        width: Numbers of a token's vector.
        parameters: Numbers in the base model.
        bytes_per_parameter: Of the base model's weights, as they will be held.
        forecast: What each process will need.
    """

    plan: Plan
    sites: dict[str, tuple[int, int]]
    width: int
    parameters: int
    bytes_per_parameter: float
    forecast: Forecast

    @property
    def trainable(self) -> int:
        """Numbers in the new adapter."""
        return _trainable(self.plan, self.sites, self.width)

    def _form(self, shapes: Sequence[str]) -> str:
        if self.plan.tunes_prompt:
            return f"soft prompt of {self.plan.method.lead.virtual_tokens()} virtual tokens"
        rank = "full rank" if self.plan.method.full_rank else f"rank {self.plan.options.rank}"
        return f"{rank} at {len(self.sites)} sites ({', '.join(shapes)})"

    @property
    def memory(self) -> int:
        """Bytes of whole base weights, past adapters and optimizer states; activations come on top."""
        known = self.forecast
        return int(self.parameters * self.bytes_per_parameter) + known.past + known.adapter

    def data(self) -> dict[str, Any]:
        """Return the description as JSON data."""
        plan = self.plan
        shapes = sorted({f"{rows} x {columns}" for rows, columns in self.sites.values()})
        return {
            "schema": "clora.plan/1",
            "adapter": str(plan.out),
            "recipe": plan.recipe(),
            "steps": plan.steps,
            "rows": len(plan.rows),
            "remembered_rows": plan.remembered,
            "sites": len(self.sites),
            "shapes": shapes,
            "trainable_parameters": self.trainable,
            "base_parameters": self.parameters,
            "memory_bytes": self.memory,
            "each_process": self.forecast.data(),
            "idle_share": None if plan.ledger is None else plan.ledger.idle / plan.ledger.size,
        }

    def text(self) -> str:
        """Return the description for people."""
        plan, data = self.plan, self.data()
        past = ", ".join(member.task for member in plan.parents) or "nothing"
        return (
            f"would train {plan.out}, stage {plan.stage}, with {plan.method.name} on top of {past}\n"
            f"base    {plan.reference.id} ({plan.reference.kind}, {self.parameters / 1e6:.1f} M parameters)\n"
            f"data    {plan.task.source}: {len(plan.rows)} rows, {plan.task.metric}\n"
            f"adapter {self._form(data['shapes'])}, {self.trainable / 1e6:.3f} M parameters\n"
            f"steps   {plan.steps} of {plan.options.batch_size * plan.options.grad_accum} rows\n"
            f"memory  {self.forecast.text()}"
            + (f"\nsends   {in_units(self.forecast.sent)} from each process in a step" if self.forecast.sent else "")
            + (f"\nshared  {data['idle_share']:.1%} of lora_B is idle" if plan.ledger else "")
            + (
                f"\nreplay  {', '.join(f'{len(m.examples)} rows of {m.task.name}' for m in plan.memory)}"
                if plan.memory
                else ""
            )
        )


def describe(plan: Plan) -> Description:
    """Work a plan out in numbers, on a model without weights.

    Raises:
        OptionError: If a target matches no layer.
    """
    from clora_cli.model.backbone import dtype_name, load_skeleton, pick_device
    from clora_cli.model.linear_layers import find_sites

    options, model = plan.options, load_skeleton(plan.reference)
    dtype = dtype_name(options.dtype, pick_device(options.device))
    size = {"none": float(_BYTES[dtype]), "8bit": 1.0, "4bit": 0.5}[options.quantize]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    sites = {} if plan.tunes_prompt else find_sites(model, options.target_modules)
    width = model.get_input_embeddings().weight.shape[1] if plan.tunes_prompt else 0  # of a virtual token
    needed = forecast(plan, model, list(sites), size, float(_BYTES[dtype]), _trainable(plan, sites, width))
    return Description(plan, sites, width, parameters, size, needed)


def _trainable(plan: Plan, sites: Mapping[str, tuple[int, int]], width: int) -> int:
    lead = plan.method.lead
    if not lead.trains:
        return 0
    if plan.tunes_prompt:
        return lead.virtual_tokens() * width
    if plan.method.full_rank:
        return sum(rows * columns for rows, columns in sites.values())
    whole = not lead.fixed_a and lead.start != "shared"  # else lora_A is not trained
    return plan.options.rank * sum(rows + columns * whole for rows, columns in sites.values())
