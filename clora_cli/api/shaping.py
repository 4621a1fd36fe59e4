"""Trims, merges, unions and exports from Python (layer L4): adapter folders in, adapter folders out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clora_cli.api.calls import Listener, Paths, heard, paths_of, patient, settled, some_paths, words
from clora_cli.api.returns import Cut, Made, Merged
from clora_cli.base.errors import blaming
from clora_cli.options import ExpandOptions, ExportOptions, MergeOptions, TrimOptions

if TYPE_CHECKING:
    from clora_cli.transforming import TrimPlan

__all__ = ["draw_trim", "expand", "export", "merge", "trim"]


@blaming()
def trim(
    adapter: str | Path,
    options: TrimOptions | None = None,
    *,
    reference: Paths = (),
    plot: str | Path | None = None,
    force: bool = False,
    wait: float = 0.0,
    break_lock: bool = False,
    progress: Listener | None = None,
) -> Cut:
    """Trim an adapter to the entries that matter: all others become exact zeros, and a mask says which stay.

    Args:
        adapter: An adapter folder; also PEFT's own.
        options: By what rule, and where to write.
        reference: Packages or adapter folders to compare with, for trims that do.
        plot: Also draw the sorted magnitudes and the cut: .png, .svg or .pdf.
        force: Replace another adapter at ``options.out``.
        wait: Seconds to wait for another process that writes there.
        break_lock: Take over from a process on another machine if it is gone.
        progress: Called with each ``Event``.

    Raises:
        CloraError: As the command.
    """
    from clora_cli.presenting.canvas import check_ending
    from clora_cli.store.adapter_folder import read_adapter
    from clora_cli.store.package import read_package
    from clora_cli.transforming import plan_trim, trim_adapter
    from clora_cli.transforming.cuts import warnings_of
    from clora_cli.transforming.member import package_around

    options, listener, references = settled(options or TrimOptions()), heard(progress), paths_of(reference)
    if plot is not None:
        check_ending(Path(plot))
    members = read_package(references, distinct=False) if references else ()
    plan = plan_trim(read_adapter(Path(adapter)), options, members, progress=listener)
    for warning in warnings_of(plan.cuts, options.scope):
        listener.warn(warning)
    around = package_around(options.out, references, members)
    patience = patient(wait, break_lock)
    path, made = trim_adapter(plan, force=force, around=around, progress=listener, patience=patience)
    if plot is not None:
        draw_trim(plan, Path(plot))
    return Cut(path, made, {side: plan.density(side) for side in plan.sides})


def draw_trim(plan: TrimPlan, path: Path) -> None:
    """Draw the sorted magnitudes that a trim looked at, and where it cut them.

    Raises:
        OptionError: If the file's ending is none of ``png svg pdf``.
        CloraError: If the file cannot be written.
    """
    from clora_cli.presenting.figures.knee_figure import Trimmed, draw_knee

    draw_knee([Trimmed(f"{plan.options.by} on lora_{cut.side}", cut.values, cut.kept) for cut in plan.cuts], path)


@blaming()
def merge(
    adapters: Paths,
    options: MergeOptions | None = None,
    *,
    force: bool = False,
    wait: float = 0.0,
    break_lock: bool = False,
    argv: Sequence[str] | None = None,
    progress: Listener | None = None,
) -> Merged:
    """Merge adapters into one, file to file, without loading the base model.

    Works on deltas (scaling * B A), never on factors apart.

    Args:
        adapters: Adapter folders or packages, in any mixture.
        options: By what strategy, in what form, and where to write.
        force: Replace what is there.
        wait: Seconds to wait for another process that writes there.
        break_lock: Take over from a process on another machine if it is gone.
        argv: The command line for the manifest; by default the one that does the same.
        progress: Called with each ``Event``.

    Raises:
        CloraError: As the command.
    """
    from clora_cli.store.package import read_package
    from clora_cli.transforming import merge_adapters, plan_merge
    from clora_cli.transforming.member import check_apart

    options, paths, listener = (
        settled(options or MergeOptions()),
        some_paths(adapters, "adapters to merge"),
        heard(progress),
    )
    check_apart(options.place, paths)
    plan = plan_merge(read_package(paths, distinct=False), options, progress=listener)
    told = words("merge", *paths, options=options, force=force) if argv is None else argv
    patience = patient(wait, break_lock)
    path, scores, made = merge_adapters(plan, force=force, argv=told, progress=listener, patience=patience)
    return Merged(path, made, scores)


@blaming()
def expand(
    packages: Paths,
    options: ExpandOptions | None = None,
    *,
    force: bool = False,
    wait: float = 0.0,
    break_lock: bool = False,
    progress: Listener | None = None,
) -> Made:
    """Unite packages without training: the members of all, each with its feature distribution, as one package.

    Args:
        packages: Packages and adapter folders, in any mixture; also PEFT's own folders.
        options: Where to write, and what to do about equal names.
        force: Replace another package there.
        wait: Seconds to wait for another process that writes there.
        break_lock: Take over from a process on another machine if it is gone.
        progress: Called with each ``Event``.

    Raises:
        CloraError: As the command.
    """
    from clora_cli.transforming import expand_packages, plan_expand

    listener, patience = heard(progress), patient(wait, break_lock)
    plan = plan_expand(
        some_paths(packages, "packages to unite"), settled(options or ExpandOptions()), progress=listener
    )
    return Made(*expand_packages(plan, force=force, progress=listener, patience=patience))


@blaming()
def export(
    packages: Paths,
    options: ExportOptions | None = None,
    *,
    force: bool = False,
    wait: float = 0.0,
    break_lock: bool = False,
    progress: Listener | None = None,
) -> Made:
    """Write adapters as a server loads them: a folder for each, by its name.

    Args:
        packages: A package, or adapter folders; also PEFT's own folders.
        options: For which server, in what form, and where to write.
        force: Replace another export there.
        wait: Seconds to wait for another process that writes there.
        break_lock: Take over from a process on another machine if it is gone.
        progress: Called with each ``Event``.

    Raises:
        CloraError: As the command.
    """
    from clora_cli.store.package import read_package
    from clora_cli.transforming.exporting import export_package, plan_export

    listener, patience = heard(progress), patient(wait, break_lock)
    paths, chosen = some_paths(packages, "a package to export"), settled(options or ExportOptions())
    plan = plan_export(read_package(paths), chosen, listener, packages=paths)
    return Made(*export_package(plan, force=force, progress=listener, patience=patience))
