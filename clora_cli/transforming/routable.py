"""Whether adapters from several owners can be routed among together (layer L3), and what to run if they cannot."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from clora_cli.algebra.lora import config_problem
from clora_cli.algebra.statistics import SECOND_MOMENTS
from clora_cli.base.errors import ArtifactError, MismatchError
from clora_cli.base.progress import Progress
from clora_cli.model.base_model import same_base
from clora_cli.model.task_vectors import read_task_vector
from clora_cli.store.adapter_folder import AdapterFolder
from clora_cli.store.adapter_tensors import names_in
from clora_cli.store.distribution import COMPARABLE, read_distribution, same_encoder
from clora_cli.store.feature_record import POOLS, SOURCES, TEXTS, FeatureRecord

__all__ = ["Routable", "check_bases", "check_routable", "stat_command", "tell_doubts"]

# The defaults of `clora stat-features`.
_DEFAULTS = {
    "source": SOURCES[0],
    "encoder": "",
    "pool": POOLS[0],
    "text": TEXTS[0],
    "second-moment": "none",
    "layer": "all",
    "module": "",
}
_MOST = 20  # adapters that a message names


@dataclass(frozen=True, eq=False)
class Routable:
    """The parts of an adapter's feature distribution that matter when it joins others.

    Attributes:
        record: How it was taken.
        sites: Where.
        count: Number of inputs that it is made of.
        encoder: The name of the text encoder whose embeddings it is of; empty of the base model's features.
    """

    record: FeatureRecord
    sites: frozenset[str]
    count: int
    encoder: str = ""

    @property
    def settings(self) -> dict[str, str]:
        """The options of ``clora stat-features`` that must be equal for distributions to compare."""
        return {**{key: str(self.record.raw[key]) for key in COMPARABLE}, "encoder": self.encoder}

    @property
    def second(self) -> str:
        """Which second moments it has: ``none``, ``diag`` or ``full``."""
        return self.record.second_moment or "none"


def check_bases(members: Sequence[AdapterFolder]) -> None:
    """Check that adapters share one base model: by fingerprint where it is recorded, else by name.

    Args:
        members: At least one.

    Raises:
        MismatchError: If two stand on different ones.
    """
    bases = [(member, member.base) for member in members]
    first, known = next(((m, b) for m, b in bases if "fingerprint" in b), bases[0])
    for member, base in bases:
        key = "fingerprint" if "fingerprint" in base and "fingerprint" in known else "id"
        if base.get(key) == known.get(key) or base.get(key) is None or (key != "id" and same_base(base, known)):
            continue
        mend = "give adapters of one base model"
        if key == "id":
            mend = f"if they are one model, let `{stat_command([member], {'model': str(known.get('id'))})}` record it"
        raise MismatchError(
            f"{first.path} and {member.path} stand on different base models ({_called(known)} and {_called(base)}); {mend}",
            code="base-models-differ",
        )


def check_routable(members: Sequence[AdapterFolder]) -> list[Routable | None]:
    """Check that adapters are whole and that inputs can be routed among them in a way that all have in common.

    Feature distributions that compare are one way, task vectors another. Soft prompts are not routed to by features, and need neither.

    Args:
        members: At least one, of one base model.

    Returns:
        What matters of each one's distribution; None for one that has a task vector alone.

    Raises:
        ArtifactError: If one is damaged, or has no distribution; with the command that gives it one.
        MismatchError: If two distributions do not compare, or an adapter is more than a LoRA.
    """
    if all(member.is_prompt for member in members):
        for member in members:
            member.prompt()
        return [None] * len(members)
    for member in members:
        _check_plain(member)
        member.check_numbers()
    routables = _of_one_name({member: _read(member) for member in members if member.features.is_file()})
    if not _have_task_vectors(members):
        _check_distributions(members, routables)
    return [routables.get(member) for member in members]


def _have_task_vectors(members: Sequence[AdapterFolder]) -> bool:
    vectors = [read_task_vector(member) for member in members]
    return all(vector is not None and vector.shape == vectors[0].shape for vector in vectors)  # type: ignore[union-attr]


def _check_distributions(members: Sequence[AdapterFolder], routables: Mapping[AdapterFolder, Routable]) -> None:
    usual = _usual(list(routables.values()))
    if lacking := [member for member in members if member not in routables]:
        raise ArtifactError(
            f"{_named(lacking)} cannot be routed to without a feature distribution; "
            f"run `{stat_command(lacking, usual)}`",
            code="feature-distribution-missing",
        )
    if odd := [member for member, routable in routables.items() if routable.settings.items() - usual.items()]:
        settings = ", ".join(
            f"{key} {value}" for key, value in routables[odd[0]].settings.items() if value != usual[key]
        )
        common = next(member for member in members if member not in odd)
        raise MismatchError(
            f"the distribution of {odd[0].path} ({settings}) does not compare with that of {common.path}; "
            f"run `{stat_command(odd, usual, routables)}`",
            code="feature-distributions-incomparable",
        )
    _check_same_model(routables, usual)
    _check_common_sites(routables, usual)


def tell_doubts(members: Sequence[AdapterFolder], found: Sequence[Routable | None], progress: Progress) -> None:
    """Warn about what makes routing worse than it could be.

    Args:
        members: From ``check_routable``.
        found: Its answer.
        progress: Told of each doubt.
    """
    if all(member.is_prompt for member in members):
        return
    routables = {member: routable for member, routable in zip(members, found, strict=True) if routable is not None}
    try:
        if routables:  # of task vectors alone there is nothing to doubt
            _check_distributions(members, routables)
            _tell_doubts_of_distributions(routables, progress)
    except (ArtifactError, MismatchError) as error:  # task vectors do, as check_routable saw
        progress.warn(f"by features: {error}; until then inputs find these adapters by --similarity task-vector alone")
    if summed := [member for member in members if _leans(member)]:
        progress.warn(
            f"{_named(summed)}: trained on top of earlier adapters that were added to the model, which routing leaves out; "
            "alone they are not what was trained. Methods such as per-task and pfd train adapters that stand alone"
        )


def _tell_doubts_of_distributions(routables: Mapping[AdapterFolder, Routable], progress: Progress) -> None:
    present = list(routables.values())
    wanted = max((routable.second for routable in present), key=SECOND_MOMENTS.index)
    if odd := [member for member, routable in routables.items() if routable.second != wanted]:
        command = stat_command(odd, {**_usual(present), "second-moment": wanted}, routables)
        progress.warn(
            f"{_named(odd)} without the second moments ({wanted}) that others have: routing can go by means alone (l2); "
            f"`{command}` mends it"
        )
    if any(routable.settings["source"] == "adapted" for routable in present):
        progress.warn(
            "these distributions were taken with --source adapted: each describes the base model with its own adapter at "
            "work, which no input to route has seen; those of --source base are what packages have in common"
        )


def stat_command(
    members: Sequence[AdapterFolder], options: Mapping[str, str], known: Mapping[AdapterFolder, Routable] | None = None
) -> str:
    """Spell the command that gives adapters distributions.

    Args:
        members: At least one.
        options: Long options without their dashes, and their values.
        known: The distributions that they have, which are to be replaced; None if they have none.
    """
    words = ["clora", "stat-features", *(shlex.quote(str(member.path)) for member in members)]
    for member in members:
        # An adapter of clora's records its data; among several, only the others need --data.
        names = member.data_names or ([rows.name for rows in known[member].record.data] if known else [])
        if len(members) == 1:
            words += [f"--data {name}" for name in map(shlex.quote, names)] or ["--data <its task>"]
        elif not member.data_names:
            words += [f"--data {shlex.quote(f'{member.task}={name}')}" for name in names] or [
                f"--data {shlex.quote(member.task)}=<its task>"
            ]
    words += [f"--{key} {shlex.quote(value)}" for key, value in options.items() if value != _DEFAULTS.get(key)]
    return " ".join([*words, *(["--force"] if known else [])])


def _read(member: AdapterFolder) -> Routable:
    whole = read_distribution(member.features)  # the whole of it: a union must not pass damage on
    return Routable(whole.record, frozenset(whole.sites), whole.count)


def _of_one_name(routables: Mapping[AdapterFolder, Routable]) -> dict[AdapterFolder, Routable]:
    """Call a text encoder by one name in all distributions, whatever folder it lay in as each was made."""
    records = [routable.record for routable in routables.values()]
    alike = {m: next(one for one in records if same_encoder(one, r.record)) for m, r in routables.items()}
    named = {member: str(first.encoder.id) if first.encoder else "" for member, first in alike.items()}
    return {member: replace(routable, encoder=named[member]) for member, routable in routables.items()}


def _usual(routables: Sequence[Routable]) -> dict[str, str]:
    """Return the options that most were taken with; of equally many, those of the earliest."""
    if not routables:
        return {}
    settings = dict(Counter(tuple(routable.settings.items()) for routable in routables).most_common(1)[0][0])
    alike = Counter(routable.second for routable in routables if routable.settings == settings)
    return {**settings, "second-moment": alike.most_common(1)[0][0]}


def _check_plain(member: AdapterFolder) -> None:
    if member.is_dense:
        return
    if problem := config_problem(member.config):
        raise MismatchError(f"adapter {member.path} cannot be used: {problem}", code="adapter-not-plain-lora")
    if member.manifest is None:  # a manifest's checksums have been checked already
        names_in(member.weights, member.config)


def _check_same_model(routables: Mapping[AdapterFolder, Routable], usual: Mapping[str, str]) -> None:
    first = next(iter(routables.values())).record.base_model.raw
    expected = next((member.base for member in routables if "fingerprint" in member.base), first)
    for member, routable in routables.items():
        taken = routable.record.base_model.raw
        if not same_base(taken, expected):
            model = str(member.base.get("id"))
            raise MismatchError(
                f"the distribution of {member.path} comes from base model {_called(taken)}, its adapter stands on "
                f"{_called(member.base)}; run `{stat_command([member], {'model': model, **usual}, routables)}`",
                code="feature-distribution-other-base",
            )


def _check_common_sites(routables: Mapping[AdapterFolder, Routable], usual: Mapping[str, str]) -> None:
    first = next(iter(routables))
    shared = routables[first].sites
    for member, routable in routables.items():
        if not shared & routable.sites:
            where = {key: str(routables[first].record.raw.get(key, _DEFAULTS[key])) for key in ("layer", "module")}
            raise MismatchError(
                f"{first.path} and {member.path} have feature distributions at different layers; "
                f"run `{stat_command([member], {**usual, **where}, routables)}`",
                code="feature-layers-differ",
            )
        shared &= routable.sites


def _leans(member: AdapterFolder) -> bool:
    if member.manifest is None:
        return False
    return member.manifest.method.past not in {None, "none", "route"} and bool(member.manifest.parents)


def _called(base: Mapping[str, Any]) -> str:
    mark = base.get("fingerprint")
    return f"{base.get('id')} [{mark[:8]}]" if mark else str(base.get("id"))


def _named(members: Sequence[AdapterFolder]) -> str:
    shown = ", ".join(str(member.path) for member in members[:_MOST])
    return shown if len(members) <= _MOST else f"{shown} and {len(members) - _MOST} more"
