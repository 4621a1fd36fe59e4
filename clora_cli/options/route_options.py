"""Options of routing (layer L1): how inputs choose among adapters, and what is routed."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from clora_cli.base import registry
from clora_cli.base.errors import OptionError
from clora_cli.base.options import Options, option
from clora_cli.options.shared_options import ROWS, ModelOptions, quantize_option

__all__ = ["RouteChoices", "RouteOptions", "RouteSettings"]


@dataclass(frozen=True, kw_only=True)
class RouteOptions(Options):
    """How inputs choose among adapters, as methods say and manifests record.

    Attributes:
        similarity: A router, with its options after commas: ``l2``, ``mahalanobis,shrinkage=0.1``; ``auto`` is
            ``mahalanobis`` where all adapters have the same second moments, else ``l2``. ``task-vector`` goes by the
            adapters' task vectors, ``learned`` by what their method learned, ``arrow`` by their factors, all others by their
            feature distributions, ``epi`` by all means of these.
        top_k: Adapters that take part in an input's mixture, at least 1; 0 for all.
        temperature: Similarities are divided by it before the softmax, above 0.
        layer: Whose features decide: ``all`` has each site decide for itself, ``middle``, ``last`` or a block's number has
            one layer decide for all. Of several, joined by commas, a site follows the nearest at or before it.
        module: Ending of the projections that decide, such as ``v_proj``; empty for all.
        abstain: The share of inputs of known tasks that may be left to the base model for being far from every
            distribution, in [0, 1); 0 never abstains.
    """

    similarity: str = option("auto")
    top_k: int = option(1, interval="[0, inf)")
    temperature: float = option(1.0, interval="(0, inf)")
    layer: str = option("all", flags=("--route-layer",))
    module: str = option("", flags=("--route-module",))
    abstain: float = option(0.0, interval="[0, 1)")

    def check(self) -> None:
        """Check what the similarity reads.

        Raises:
            OptionError: If a layer is chosen for a similarity that reads none.
            UnknownNameError: If there is no such router.
        """
        if self.reads in {"task-vector", "learned"} and (self.layer, self.module) != ("all", ""):
            given = "--route-layer" if self.layer != "all" else "--route-module"
            raise OptionError(
                f"--similarity {self.similarity} compares input embeddings, which depend on no layer; leave out {given}",
                code="option-has-no-effect",
            )

    @property
    def reads(self) -> str:
        """What adapters are known by: ``features``, their ``task-vector``, their ``factors``, or what their method ``learned``."""
        if self.similarity in {"auto", "learned"}:
            return {"auto": "features", "learned": "learned"}[self.similarity]
        return str(registry.bound("routers", self.similarity).reads)

    def recorded(self) -> dict[str, Any]:
        """Return what a manifest keeps."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, kw_only=True)
class RouteChoices(ModelOptions):
    """How inputs choose, as given on a command line; None leaves it to the adapters' method, or to ``RouteOptions``."""

    similarity: str | None = option(
        None,
        f"auto, a .py file, or one of {registry.listed('routers')}. auto, the default, is mahalanobis where all adapters have "
        "second moments, else l2; "
        "task-vector is for adapters of --method cast, learned for those whose method learns weights; arrow needs nothing but the "
        "adapters.",
        metavar="NAME[,KEY=VALUE]",
        parse=lambda text: registry.admit("routers", text),
        completes="similarity",
    )
    top_k: int | None = option(None, "Adapters that share an input; 0 for all. route: 0 by default, eval: 1.")
    temperature: float | None = option(None, "Of the softmax over adapters; 1 by default.")
    route_layer: str | None = option(
        None, "Layers that decide: all, or middle, last or numbers from 0, joined by commas; all by default."
    )
    route_module: str | None = option(None, "Ending of the projections that decide, such as v_proj; all by default.")
    abstain: float | None = option(
        None, "Share of known tasks' inputs that may go to the base model for being far; 0 by default."
    )
    calibrate: tuple[str, ...] = option(
        (),
        "Task whose dev rows calibrate --abstain; repeatable. The adapters' own tasks by default.",
        completes="task",
    )

    @property
    def route(self) -> dict[str, Any]:
        """The fields of ``RouteOptions`` that are given, by name."""
        values = {name: getattr(self, name) for name in ("similarity", "top_k", "temperature", "abstain")}
        values |= {"layer": self.route_layer, "module": self.route_module}
        return {name: value for name, value in values.items() if value is not None}

    def check(self) -> None:
        """Check the values that are given.

        Raises:
            OptionError: If one is out of range.
            UnknownNameError: If there is no such router.
        """
        if self.route:
            RouteOptions(**self.route)


@dataclass(frozen=True, kw_only=True)
class RouteSettings(RouteChoices):
    """What ``clora route`` runs on."""

    data: tuple[str, ...] = option(
        (),
        "Task, file of rows, or - for JSON lines on stdin; repeatable. Stdin by default.",
        flags=("-d", "--data"),
        completes="task",
    )
    split: str = option("test", "Of tasks: test, dev or train.", choices=("train", "dev", "test"))
    limit: int = option(0, "Take the first so many inputs; 0 takes all.", flags=("-L", "--limit"), interval="[0, inf)")
    batch_size: int = option(
        32, "Inputs read and decided at once.", flags=("-b", "--batch-size"), interval="[1, inf)", most=ROWS
    )
    quantize: str = quantize_option(since="0.2.0")
