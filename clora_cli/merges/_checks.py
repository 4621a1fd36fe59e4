"""Whether adapters can be merged, and what their states hold for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from clora_cli.algebra.lora import HUGE, Factor, bound
from clora_cli.base.errors import ArtifactError, MismatchError
from clora_cli.store.adapter_folder import AdapterFolder

__all__ = ["check_member", "states_of"]


def check_member(
    member: AdapterFolder,
    deltas: Mapping[str, Factor | Tensor],
    shapes: Mapping[str, tuple[int, int]],
    needed: Collection[str],
) -> None:
    """Check one adapter of a merge.

    Args:
        member: The adapter.
        deltas: What it adds, by site.
        shapes: Site to (out, in), as the merge has them.
        needed: Names of what its state must hold for each site.

    Raises:
        MismatchError: If a layer has another shape.
        ArtifactError: If a number is none that an adapter has, or the state lacks what is needed.
    """
    states = states_of(member) if needed else {}
    for site, delta in deltas.items():
        if tuple(delta.shape) != shapes[site]:
            raise MismatchError(
                f"layer '{site}' is {tuple(delta.shape)} in {member.path} and {shapes[site]} in another adapter; "
                "give adapters of one base model",
                code="layer-shapes-differ",
            )
        if not (most := bound(delta)) <= HUGE:  # what is no number fails
            raise ArtifactError(
                f"adapter {member.path} is damaged: it would change a weight of '{site}' by {most:.2g}; make it again",
                code="adapter-change-too-large",
            )
        for name in needed:
            _check_state(member, name, site, states.get(site, {}).get(name), shapes[site])


def states_of(member: AdapterFolder) -> dict[str, dict[str, Tensor]]:
    """Return what an adapter's method kept for each site, by site and name: in the file, ``<name>/<site>``."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in member.state().items():
        name, slash, site = key.partition("/")
        if slash:
            found.setdefault(site, {})[name] = tensor
    return found


def _check_state(member: AdapterFolder, name: str, site: str, state: Tensor | None, shape: tuple[int, int]) -> None:
    if state is None:
        raise ArtifactError(
            f"adapter {member.path} keeps no '{name}' of '{site}' in its state file, which this merge needs",
            code="merge-state-missing",
        )
    if tuple(state.shape) != shape or not bool(state.isfinite().all()):
        raise ArtifactError(
            f"adapter {member.path} is damaged: '{name}/{site}' in its state file is no finite matrix of {shape}",
            code="merge-state-damaged",
        )
