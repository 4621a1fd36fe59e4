"""Export: adapters as a server loads them (layer L3). What is written is a copy for serving; clora's own folders stay the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clora_cli.algebra.lora import Factor, add_up, recompress
from clora_cli.base.errors import MismatchError, OptionError
from clora_cli.base.files import new_folder, read_json, sha256, to_json
from clora_cli.base.folder_names import folder_problem
from clora_cli.base.legible import is_legible, legible
from clora_cli.base.progress import Progress, Silent
from clora_cli.model.base_model import ModelReference, check_base
from clora_cli.model.checkpoint import CONFIG
from clora_cli.model.gguf_file import gguf_digest, is_gguf
from clora_cli.model.gguf_layout import layout_of_config, layout_of_file
from clora_cli.model.places import places_of
from clora_cli.options import ExportOptions
from clora_cli.processes.locks import NO_PATIENCE, Patience, locked
from clora_cli.processes.spots import place
from clora_cli.routing.fixed_weights import fixed_weights
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.heads import refuse_heads
from clora_cli.store.package import base_at_hand, find_base
from clora_cli.store.soft_prompt import no_deltas
from clora_cli.transforming.loaders import (
    Loader,
    called_by_ollama,
    is_ollama_base,
    loader_named,
    scaled,
    without_gaps,
)
from clora_cli.transforming.member import check_apart
from clora_cli.transforming.routable import check_bases
from clora_cli.transforming.served import RECORD, Served, ServedBase, fill

__all__ = ["ExportPlan", "export_package", "plan_export"]

_EACH = {"route", "task-id", "none", None}


@dataclass(frozen=True, eq=False)
class ExportPlan:
    """An export that can be written.

    Attributes:
        options: What was asked for.
        loader: The server's rules.
        served: What it will load, each by its name.
        base: The base model, as the server has it.
    """

    options: ExportOptions
    loader: Loader
    served: Sequence[Served]
    base: ServedBase

    def record(self) -> dict[str, Any]:
        """Return what decided the result."""
        options = self.options
        return {
            "schema": "clora.export/1",
            "for": options.loader,
            "base_model": self.base.name,
            "base_file": gguf_digest(self.base.file) if self.base.file else None,
            "rank": options.rank,
            "dtype": options.dtype,
            "adapters": [each.record() for each in self.served],
        }


def plan_export(
    members: Sequence[AdapterFolder],
    options: ExportOptions,
    progress: Progress | None = None,
    *,
    packages: Sequence[Path] = (),
) -> ExportPlan:
    """Read adapters and check that a server takes them.

    Args:
        members: By stage, at least one.
        options: How.
        progress: Told of energy that is cut off.
        packages: Where the adapters were read from: nothing is written into a package.

    Raises:
        MismatchError: If the server takes no such adapter, or the package's way to combine adapters is none that one adapter has.
        CloraError: If an adapter is damaged, or the base model is needed and missing.
    """
    progress, loader = progress or Silent(), loader_named(options.loader)
    check_apart(options.out, [*packages, *(member.path for member in members)])
    check_bases(members)
    refuse_heads(members, f"{options.loader} serves models that write")
    base, reference = _base(members, options, loader, progress)
    config = read_json(reference.path / CONFIG, "model configuration") if reference else None
    if options.loader == "ollama" and base.file is None:
        progress.note("note: Ollama refuses adapters since 0.34.1; --model BASE.gguf makes whole models for it")
    members = _apart(members, options, reference, progress)
    served = [_served(chosen, (options, loader), config, progress) for chosen in _chosen(members, options)]
    for name, called in called_by_ollama([each.name for each in served]).items() if loader.name == "ollama" else ():
        if called != name:
            progress.note(f"note: Ollama has no such names as {name}; it is called {called} there")
    return ExportPlan(options, loader, served, base)


def export_package(
    plan: ExportPlan, *, force: bool = False, progress: Progress | None = None, patience: Patience = NO_PATIENCE
) -> tuple[Path, bool]:
    """Carry out a plan.

    Returns:
        The folder, and whether it was written now (False: it was there).

    Raises:
        OptionError: If something else is at its place.
        CloraError: If it cannot be written; what was there stays.
    """
    out, progress = plan.options.out, progress or Silent()
    with locked([place(out)], patience=patience, progress=progress):
        if out.exists() and _is_there(plan, force=force):
            return out, False
        with new_folder(out) as folder, progress.track("export", len(plan.served)) as advance:
            for each in plan.served:
                fill(folder, each, plan.options, plan.base)
                advance(1, each.name)
            files = {
                str(file.relative_to(folder)): sha256(file) for file in sorted(folder.rglob("*")) if file.is_file()
            }
            (folder / RECORD).write_text(to_json({**plan.record(), "files": files}), encoding="utf-8")
    return out, True


def _is_there(plan: ExportPlan, *, force: bool) -> bool:
    """Tell whether a folder is this export, whole; refuse what is another, and what is none at all."""
    out = plan.options.out
    if not (out / RECORD).is_file():
        if out.is_dir() and not any(out.iterdir()):
            return False
        raise OptionError(f"{out} exists and is no export; choose another --out", code="output-not-an-export")
    if force:
        return False
    there = read_json(out / RECORD, "record of an export")
    files = there.pop("files", {})
    whole = isinstance(files, dict) and all(
        (out / name).is_file() and sha256(out / name) == digest for name, digest in files.items()
    )
    if not whole or there != plan.record():
        raise OptionError(
            f"{out} exists and is another export, or was changed; pass --force to replace it or --out to keep it",
            code="output-differs",
        )
    return True


def _base(
    members: Sequence[AdapterFolder], options: ExportOptions, loader: Loader, progress: Progress
) -> tuple[ServedBase, ModelReference | None]:
    """Return the base model as the server has it, and as it is here where the loader needs that and it is at hand."""
    known = next((str(member.base["id"]) for member in members if member.base.get("id")), None)
    name, model = options.base_name or known, options.model or known or ""
    if name and (not is_legible(name) or (loader.name == "ollama" and not is_ollama_base(name))):
        if options.base_name:
            raise OptionError(
                f"--base-name '{legible(name)}' is no name that a server takes; give another",
                code="base-name-malformed",
            )
        raise OptionError(
            f"the adapters' base model is called '{legible(name)}', which no server takes for a name; pass --base-name",
            code="base-name-malformed",
        )
    if loader.name == "ollama" and not name and not is_gguf(model):
        raise OptionError(
            "the adapters do not say what their base model is called; pass --base-name", code="option-missing"
        )
    if loader.gguf and is_gguf(model):
        return ServedBase(name, layout_of_file(Path(model)), Path(model)), None
    if loader.gguf or options.model:
        reference = find_base(members, options.model, progress=progress)
        for member in members:
            check_base(member.base, reference, member.path)
    elif (there := base_at_hand(members) if loader.without_gaps else None) is not None:
        reference = there
    else:
        return ServedBase(name), None
    if not loader.gguf:
        return ServedBase(name), reference
    config = read_json(reference.path / CONFIG, "model configuration")
    return ServedBase(name, layout_of_config(config, model)), reference


def _apart(
    members: Sequence[AdapterFolder], options: ExportOptions, reference: ModelReference | None, progress: Progress
) -> Sequence[AdapterFolder]:
    """Let the base model tell the experts' layers of ``target_parameters`` apart, where it is at hand."""
    fused = [member for member in members if member.config.get("target_parameters")]
    if not fused:
        return members
    if reference is None:
        reference = find_base(members, options.model, progress=progress) if options.model else base_at_hand(members)
    if reference is None:
        return members
    places = places_of(reference)
    return [member.on(places) if member in fused else member for member in members]


def _chosen(
    members: Sequence[AdapterFolder], options: ExportOptions
) -> list[tuple[str, Sequence[AdapterFolder], dict[str, Factor]]]:
    """Return what the server gets: each adapter by its name, with those that it is made of."""
    if prompt := next((member for member in members if member.is_prompt), None):
        raise no_deltas(prompt.path)
    way = options.combine if options.combine != "auto" else members[-1].combine
    way = "each" if way in _EACH or (len(members) == 1 and way in {"sum", "last"}) else way
    if way == "each":
        return [(member.task, [member], member.factors(compare=False)) for member in members]
    if way == "last":
        return [(members[-1].task, members[-1:], members[-1].factors(compare=False))]
    if way not in {"sum", "weighted"}:
        mend = f"`clora merge … --strategy {way} -o merged` makes one adapter; export that"
        mend = "pass --combine each" if way == "learned" else mend
        raise MismatchError(
            f"these adapters are combined by '{way}', which no server does with adapters as they are: {mend}",
            code="combination-not-exported",
        )
    return [(way, members, _added(members, fixed_weights(members) if way == "weighted" else {}))]


def _added(members: Sequence[AdapterFolder], weights: Mapping[str, Any]) -> dict[str, Factor]:
    """Return the sum of adapters, exactly: one pair a site, of the ranks together, or of one where they share ``lora_A``."""
    by_site: dict[str, list[tuple[int, Factor]]] = {}
    for number, member in enumerate(members):
        for site, factor in member.factors(compare=False).items():
            by_site.setdefault(site, []).append((number, factor))
    summed = {}
    for site, pairs in sorted(by_site.items()):
        scales = weights[site][0].tolist() if site in weights else [1.0] * len(members)
        summed[site] = add_up([factor for _, factor in pairs], [scales[number] for number, _ in pairs])
    return summed


def _served(
    chosen: tuple[str, Sequence[AdapterFolder], Mapping[str, Factor]],
    plan: tuple[ExportOptions, Loader],
    config: Mapping[str, Any] | None,
    progress: Progress,
) -> Served:
    """Make of one adapter what the server takes."""
    (name, members, factors), (options, loader) = chosen, plan
    what = f"adapter {name}"
    if problem := folder_problem(name):
        raise MismatchError(f"{what} cannot be a folder's name; {problem}", code="name-unfit-for-folder")
    tables = frozenset(site for member in members for site in member.embeddings)
    loader.check(factors, tables, members[-1].base.get("kind"), what)
    cut, energy = _cut(factors, options.rank)
    if energy is not None:
        progress.note(f"{name}: rank {options.rank} keeps {energy:.4%} of the energy")
    plain = scaled(cut, loader.rank(max(factor.rank for factor in cut.values()), what))
    if loader.without_gaps:
        plain = without_gaps(plain, config, what)
    return Served(name, members, plain, tables, energy)


def _cut(factors: Mapping[str, Factor], rank: int | None) -> tuple[dict[str, Factor], float | None]:
    """Return factors of at most a rank, and the share of the energy that they keep; None if nothing was cut."""
    if rank is None or all(factor.rank <= rank for factor in factors.values()):
        return dict(factors), None
    cut, kept, whole = {}, 0.0, 0.0
    for site, factor in factors.items():
        cut[site], energy, total = recompress(factor, rank)
        kept, whole = kept + energy, whole + total
    return cut, kept / whole if whole else 1.0
