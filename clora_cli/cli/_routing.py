"""Options of commands that let inputs choose among adapters (layer L4)."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from clora_cli.base import registry
from clora_cli.cli._options import complete_task

__all__ = [
    "AbstainOption",
    "CalibrateOption",
    "RouteLayerOption",
    "RouteModuleOption",
    "SimilarityOption",
    "TemperatureOption",
    "TopKOption",
    "route_choices",
]


def _complete_similarity(incomplete: str) -> list[str]:
    return [name for name in ("auto", *registry.names("routers")) if name.startswith(incomplete)]


SimilarityOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[,KEY=VALUE]",
        help=f"auto, {', '.join(registry.names('routers'))}. auto, the default, is mahalanobis where all adapters have "
        "second moments, else l2; task-vector is for adapters of --method cast.",
        autocompletion=_complete_similarity,
    ),
]
TopKOption = Annotated[
    int | None, typer.Option(help="Adapters that share an input; 0 for all. route: 0 by default, eval: 1.")
]
TemperatureOption = Annotated[float | None, typer.Option(help="Of the softmax over adapters; 1 by default.")]
RouteLayerOption = Annotated[
    str | None, typer.Option(help="Layer that decides: all, middle, last or a number from 0; all by default.")
]
RouteModuleOption = Annotated[
    str | None, typer.Option(help="Ending of the projections that decide, such as v_proj; all by default.")
]
AbstainOption = Annotated[
    float | None,
    typer.Option(help="Share of known tasks' inputs that may go to the base model for being far; 0 by default."),
]
CalibrateOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Task whose dev rows calibrate --abstain; repeatable. The adapters' own tasks by default.",
        autocompletion=complete_task,
    ),
]


def route_choices(
    similarity: str | None,
    top_k: int | None,
    temperature: float | None,
    layer: str | None,
    module: str | None,
    abstain: float | None,
) -> dict[str, Any]:
    """Return the fields of ``RouteOptions`` that were given."""
    named = {"similarity": similarity, "top_k": top_k, "temperature": temperature, "layer": layer, "module": module}
    return {name: value for name, value in (named | {"abstain": abstain}).items() if value is not None}
