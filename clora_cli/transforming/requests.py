"""Whose data a feature distribution is made of (layer L3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clora_cli.base.errors import OptionError, did_you_mean
from clora_cli.data import origins_of
from clora_cli.data.layouts import task_name
from clora_cli.data.texts import bare
from clora_cli.store.adapter_folder import AdapterFolder

__all__ = ["assign_data"]


def assign_data(members: Sequence[AdapterFolder], given: Sequence[str]) -> list[list[str]]:
    """Say which data goes to which adapter.

    One adapter takes all that is given. Of several, each takes what is given as ``TASK=DATA`` under its name, or what is
    called like it; an adapter that nothing is given for takes the data that it was trained on. An adapter's names are its
    path, its task, its folder's name, and its data's names.

    Args:
        members: The adapters, at least one.
        given: What ``--data`` gives.

    Returns:
        For each adapter what ``load_task`` takes, at least one name.

    Raises:
        OptionError: If data fits no adapter or an adapter has no data.
    """
    found: list[list[str]] = [[] for _ in members]
    for text in given:
        owner, equals, data = text.partition("=")
        owners = _owners(members, owner) if equals else []
        if not owners:
            called = (text, Path(text).stem, task_name(bare(Path(text))))
            owners, data = (list(members) if len(members) == 1 else _owners(members, *called)), text
        if not owners:
            names = sorted({member.task for member in members})
            raise OptionError(
                f"--data {text} fits none of these adapters{did_you_mean(owner, names)}; "
                f"give TASK=DATA with a TASK of {', '.join(names)}",
                code="data-fits-no-adapter",
            )
        for member in owners:
            found[members.index(member)].append(data)
    for member, names in zip(members, found, strict=True):
        names[:] = dict.fromkeys(names or member.data_names)
        if not names:
            mend = "--data" if len(members) == 1 else f"--data {member.task}=DATA"
            raise OptionError(
                f"adapter {member.path} does not say what it was trained on; pass {mend}", code="adapter-names-no-data"
            )
    return found


def _given(member: AdapterFolder) -> list[str]:
    return [origin.given for origin in origins_of(member.manifest)]


def _owners(members: Sequence[AdapterFolder], *names: str) -> list[AdapterFolder]:
    """Return the adapters with one of these names: the nearest kind of name that fits decides."""
    wanted = {name.casefold() for name in names}
    for kind in (lambda m: [str(m.path)], lambda m: [m.task], lambda m: [m.path.name], lambda m: m.data_names, _given):
        if fitting := [member for member in members if wanted & {name.casefold() for name in kind(member)}]:
            return fitting
    return []
