"""Training and feature distributions from Python (layer L4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clora_cli.api.calls import Listener, Paths, check_alone, heard, patient, settled, some_paths, words
from clora_cli.api.keeping import parse_gate, train_behind
from clora_cli.api.returns import MadeRows, Trained
from clora_cli.base import registry
from clora_cli.base.errors import blaming
from clora_cli.options import FeatureOptions, SynthesizeOptions, TrainOptions

if TYPE_CHECKING:
    from clora_cli.transforming import FeatureResult

__all__ = ["stat_features", "synthesize", "train_task", "with_plugins"]


@blaming()
def train_task(
    options: TrainOptions,
    *,
    resume: bool = False,
    force: bool = False,
    keep_if: Sequence[str] = (),
    wait: float = 0.0,
    break_lock: bool = False,
    argv: Sequence[str] | None = None,
    progress: Listener | None = None,
) -> Trained:
    """Train one new adapter on a task, on top of a package.

    The same call again finds it up to date. Of the environment, only ``CLORA_DATA`` has a say.

    Args:
        options: What to train, on what and how; only ``data`` has no default.
        resume: Continue an interrupted run, if there is one.
        force: Replace the adapter, discard an unfinished run.
        keep_if: Limits, such as ``max-forgetting=1``, that the whole package must meet for the adapter to enter it.
        wait: Seconds to wait for another process that writes to the package; ``math.inf`` for good.
        break_lock: Take over from a process on another machine if it is gone.
        argv: The command line for the manifest; by default the one that does the same.
        progress: Called with each ``Event``.

    Raises:
        CloraError: As the command, before anything is written or with an earlier adapter untouched.
        LimitError: If a limit of ``keep_if`` is not met.
        InterruptedRunError: If training was interrupted; a checkpoint is kept for ``resume``.
    """
    from clora_cli.training import make_plan
    from clora_cli.training import train_task as train

    options = with_plugins(settled(options))
    check_alone(options)
    gate, listener = parse_gate(keep_if, options), heard(progress)
    plan = make_plan(options, listener)
    told = words("train-task", options=options, resume=resume, force=force) if argv is None else argv
    how: dict[str, Any] = {"resume": resume, "force": force, "argv": told, "progress": listener}
    how["patience"] = patient(wait, break_lock)
    return Trained(*(train_behind(gate, plan, **how) if gate else train(plan, **how)))


def with_plugins(options: TrainOptions) -> TrainOptions:
    """Return options whose method's options name plug-ins by name: files are registered.

    Raises:
        OptionError: If a file holds no such plug-in.
    """
    if not any(".py" in text for text in options.method_options.values()):
        return options
    methods = {name: registry.load("methods", name) for name in options.method.split("+")}
    return dataclasses.replace(options, method_options=registry.admit_options(methods, options.method_options))


@blaming()
def stat_features(
    adapters: Paths,
    options: FeatureOptions | None = None,
    *,
    add: bool = False,
    force: bool = False,
    wait: float = 0.0,
    break_lock: bool = False,
    progress: Listener | None = None,
) -> Sequence[FeatureResult]:
    """Give adapters the feature distributions that routing needs: one pass over their tasks' inputs.

    Writes ``features.clora`` into each adapter folder. The same call again finds them up to date.

    Args:
        adapters: Adapter folders or packages, also bare PEFT folders.
        options: Which features, of what.
        add: Add these rows to the distributions that are there.
        force: Replace distributions that were made differently.
        wait: Seconds to wait for another process that writes there.
        break_lock: Take over from a process on another machine if it is gone.
        progress: Called with each ``Event``.

    Returns:
        For each adapter its folder (``member``), its ``distribution``, and what was done (``state``).

    Raises:
        CloraError: As the command.
    """
    from clora_cli.store.adapter_folder import is_adapter
    from clora_cli.store.package import read_package
    from clora_cli.transforming import plan_features, take_features

    options, paths, listener = settled(options or FeatureOptions()), some_paths(adapters, "adapters"), heard(progress)
    check_alone(options)
    members = read_package(paths, distinct=False)
    plan = plan_features(members, options, force=force, add=add, progress=listener)
    packages = [path for path in paths if not is_adapter(path)]
    return take_features(plan, listener, patience=patient(wait, break_lock), packages=packages)


@blaming()
def synthesize(
    adapters: Paths,
    options: SynthesizeOptions | None = None,
    *,
    force: bool = False,
    argv: Sequence[str] | None = None,
    progress: Listener | None = None,
) -> MadeRows:
    """Let a package's model make rows of its tasks, for rehearsal without earlier rows.

    The same call again finds them up to date.

    Args:
        adapters: A package, or adapter folders in any mixture.
        options: Rows of which tasks, how many, made how, and where to write.
        force: Replace other rows.
        argv: The command line for the record; by default the one that does the same.
        progress: Called with each ``Event``.

    Raises:
        CloraError: As the command.
    """
    from clora_cli.evaluation.synthesis import synthesize as make
    from clora_cli.evaluation.synthesis_plan import plan_synthesis
    from clora_cli.store.package import read_package

    options, paths, listener = (
        settled(options or SynthesizeOptions()),
        some_paths(adapters, "a package"),
        heard(progress),
    )
    plan = plan_synthesis(read_package(paths), options, progress=listener)
    told = words("synthesize", *paths, options=options, force=force) if argv is None else argv
    rows, made = make(plan, force=force, argv=told, progress=listener)
    return MadeRows(options.out, made, rows)
