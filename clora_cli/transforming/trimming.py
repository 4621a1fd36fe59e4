"""Trim an adapter to the entries of its factors that matter, file to file, without a model (layer L3)."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clora_cli.algebra.lora import Factor, factor_keys
from clora_cli.base import registry
from clora_cli.base.errors import OptionError, ReplacedError
from clora_cli.base.files import new_folder, sha256
from clora_cli.base.progress import Progress, Silent
from clora_cli.options import SIDES, TrimOptions
from clora_cli.processes.locks import NO_PATIENCE, Patience, locked
from clora_cli.processes.spots import inside, place
from clora_cli.store.adapter_folder import WEIGHTS, AdapterFolder
from clora_cli.store.adapter_tensors import read_copies
from clora_cli.store.adapter_writing import check_place, finished
from clora_cli.store.ledger import mask_key, pack, read_masks
from clora_cli.store.manifest import MANIFEST, manifest_text
from clora_cli.store.manifest_parts import TrimRecord
from clora_cli.store.package import changed
from clora_cli.store.side_files import FEATURES, STATE
from clora_cli.store.steady import unchanged
from clora_cli.store.tensors import save_tensors
from clora_cli.transforming.cuts import Cut, pulls, side_of
from clora_cli.transforming.member import check_apart, copy_file, files_of
from clora_cli.transforming.routable import check_bases
from clora_cli.trims import Entries, Trim

__all__ = ["TrimPlan", "plan_trim", "trim_adapter"]

_CARD = "README.md"
# Beside the weights that are trimmed, these hold them as they were, or a trainer's state; and they are pickled.
_STALE = {".bin", ".pt", ".pth", ".ckpt"}


@dataclass(frozen=True, eq=False)
class TrimPlan:
    """A trim that can start: its inputs exist and fit together.

    Attributes:
        options: What was asked for.
        trim: The bound trim.
        member: The adapter.
        factors: Its factors by site.
        reference: The adapters whose summed delta it is compared with; empty where the trim compares with nothing.
    """

    options: TrimOptions
    trim: Trim
    member: AdapterFolder
    factors: Mapping[str, Factor]
    reference: Sequence[AdapterFolder]

    @property
    def sides(self) -> tuple[str, ...]:
        """The factors that are trimmed, ``"A"`` or ``"B"``."""
        return SIDES[self.options.on]

    @cached_property
    def cuts(self) -> list[Cut]:
        """All competitions, side by side: one a side, or one a site.

        Raises:
            CloraError: If nothing would be left of a side.
        """
        groups = [list(self.factors)] if self.options.scope == "all" else [[site] for site in self.factors]
        pulled = pulls(self.factors, self.reference, self.sides) if self.reference else {}
        cuts = [self._cut(side, sites, pulled) for side in self.sides for sites in groups]
        for side in self.sides:
            if not any(bool(cut.kept.any()) for cut in cuts if cut.side == side):
                most = max(cut.values.abs().max().item() for cut in cuts if cut.side == side)
                raise OptionError(
                    f"{self.options.by} leaves nothing of lora_{side} of {self.member.path}, whose largest magnitude is "
                    f"{most:.3g}; choose another --by or --option",
                    code="trim-leaves-nothing",
                )
        return cuts

    @cached_property
    def masks(self) -> dict[tuple[str, str], Tensor]:
        """Side and site to the mask of its factor, of the factor's shape."""
        return {(cut.side, site): mask for cut in self.cuts for site, mask in cut.masks().items()}

    def density(self, side: str) -> float:
        """Return the share of a side's entries that stay, in (0, 1]."""
        cuts = [cut for cut in self.cuts if cut.side == side]
        return sum(int(cut.kept.sum()) for cut in cuts) / sum(len(cut.kept) for cut in cuts)

    def entry(self) -> dict[str, Any]:
        """Return what the manifest records under ``trim``: what decided the result, and the share that is left."""
        options, before = self.options, dict(trim.raw) if (trim := self._earlier_trim) else {}
        earlier = before.pop("earlier", [])
        return {
            "by": options.by,
            "options": registry.recorded(self.trim),
            **registry.records({"trims": [self.options.by]}),
            "on": options.on,
            "scope": options.scope,
            "seed": options.seed,
            "reference": [{"task": member.task, "sha256": member.digest} for member in self.reference],
            "source": self.member.digest,
            "density": {side: self.density(side) for side in self.sides},
            "earlier": [*earlier, *([before] if before else [])],
        }

    def manifest(self) -> dict[str, Any]:
        """Return the adapter's manifest with the trim's entry, but for ``schema`` and ``files``; empty if it has none."""
        if self.member.manifest is None:
            return {}
        kept = {key: value for key, value in self.member.manifest.raw.items() if key not in {"schema", "files", "trim"}}
        return {"trim": self.entry(), **kept}

    @property
    def _earlier_trim(self) -> TrimRecord | None:
        return self.member.manifest.trim if self.member.manifest else None

    def write(self, folder: Path) -> None:
        """Fill a folder: trimmed weights and masks, the manifest last, everything else as it is.

        Raises:
            CloraError: If a file cannot be read or written.
        """
        tensors, state = read_copies(self.member.weights), self.member.state()
        for site, factor in self.factors.items():
            for side, key, value in zip(
                "AB", factor_keys(site, site in self.member.embeddings), (factor.a, factor.b), strict=True
            ):
                tensors[key] = value
                if (mask := self.masks.get((side, site))) is not None:
                    tensors[key], state[mask_key(site, side)] = value.masked_fill(~mask, 0), pack(mask)
        with unchanged(self.member.path, self.member.seen):
            for name, file in files_of(self.member.path).items():
                if name not in {WEIGHTS, STATE, MANIFEST} and file.suffix not in _STALE:
                    copy_file(file, folder / name)
        save_tensors(folder / WEIGHTS, tensors)
        save_tensors(folder / STATE, state)
        if (card := folder / _CARD).exists():
            card.write_bytes(card.read_bytes() + self._told().encode())
        if manifest := self.manifest():
            files = {name: sha256(file) for name, file in files_of(folder).items() if name != FEATURES}
            (folder / MANIFEST).write_text(manifest_text(manifest, files), encoding="utf-8")

    def _cut(self, side: str, sites: Sequence[str], pulled: Mapping[tuple[str, str], Tensor]) -> Cut:
        factors = {site: side_of(self.factors[site], side) for site in sites}
        values = torch.cat([value.flatten().float() for value in factors.values()])
        reference = torch.cat([pulled[side, site].flatten() for site in sites]) if pulled else None
        name = f"{self.options.seed}/{side}/{'' if self.options.scope == 'all' else sites[0]}"
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        found = self.trim.keep(Entries(values, reference, seed))
        before = self._before[side]
        owned = [before.get(site, torch.ones(value.shape, dtype=torch.bool)) for site, value in factors.items()]
        kept = found.mask & torch.cat([mask.flatten() for mask in owned])
        return Cut(side, {site: tuple(value.shape) for site, value in factors.items()}, values, kept, found.warning)

    @cached_property
    def _before(self) -> dict[str, dict[str, Tensor]]:
        return {side: read_masks(self.member, side) for side in self.sides}

    def _told(self) -> str:
        shares = ", ".join(f"{self.density(side):.2%} of `lora_{side}`" for side in self.sides)
        return f"\nTrimmed with clora by {self.options.by}: {shares} stayed, all other entries of it are 0.\n"


def plan_trim(
    member: AdapterFolder,
    options: TrimOptions,
    reference: Sequence[AdapterFolder] = (),
    *,
    progress: Progress | None = None,
) -> TrimPlan:
    """Bind the trim and check that the adapter can be trimmed by it.

    Args:
        member: The adapter.
        options: How.
        reference: The adapters to compare with, where the trim does; the adapter itself does not count among them.
        progress: Told if it was among them, and if the adapter's ``lora_A`` is not its own.

    Raises:
        CloraError: Whatever is missing, damaged, wrong or does not fit together.
    """
    progress = progress or Silent()
    plugin = registry.load("trims", options.by)
    trim: Trim = plugin(**registry.bind(plugin, options.by, options.texts))
    if trim.needs_reference and not reference:
        raise OptionError(f"trim {options.by} compares with other adapters; pass --reference", code="option-missing")
    if reference and not trim.needs_reference:
        raise OptionError(f"trim {options.by} takes no --reference", code="option-has-no-effect")
    check_apart(options.out, [member.path, *(other.path for other in reference)])
    others = [other for other in reference if not _lineage(member) & _lineage(other)] if reference else []
    if reference and not others:
        raise OptionError(
            "--reference holds nothing but the adapter itself; give adapters to compare it with",
            code="reference-is-the-adapter",
        )
    if len(others) < len(reference):
        progress.note(f"{member.path} itself is no part of its reference")
    check_bases([member, *others])
    plan = TrimPlan(options, trim, member, member.factors(compare=False), others)
    _check_shared(member, plan.sides, progress)
    return plan


def trim_adapter(
    plan: TrimPlan,
    *,
    force: bool = False,
    progress: Progress | None = None,
    patience: Patience = NO_PATIENCE,
    around: tuple[Path, Sequence[AdapterFolder]] | None = None,
) -> tuple[Path, bool]:
    """Carry out a plan.

    Args:
        plan: From ``plan_trim``.
        force: Replace another adapter at its place.
        progress: Told if the folder was there and has another feature distribution.
        patience: What to do if another process writes there.
        around: The package that was read as the reference and that the result becomes a member of, with its members.

    Returns:
        The folder, and whether it was made now (False: it was there).

    Raises:
        CloraError: If something else is at its place, or it cannot be written; what was there stays.
    """
    out, progress = plan.options.out, progress or Silent()
    check_place(out)
    if not force and _is_there(plan, progress):
        return out, False
    with locked([inside(around[0]) if around else place(out)], patience=patience, progress=progress):
        if around and changed(*around):
            raise ReplacedError(f"package {around[0]} changed after it was read; try again", code="replaced-while-read")
        if not force and _is_there(plan, progress):  # another process has made it meanwhile
            return out, False
        with new_folder(out) as folder:
            plan.write(folder)
    return out, True


def _is_there(plan: TrimPlan, progress: Progress) -> bool:
    """Tell whether an equal plan made what is there, and refuse the result of another plan."""
    out = plan.options.out
    there = finished(out, plan.manifest())
    if there is None:
        return False
    if plan.member.manifest is None and (name := _difference(plan)):
        raise OptionError(
            f"{out} exists and is not this trim ({name} differs); pass --force to replace it or --out to keep it",
            code="output-differs",
        )
    _compare_features(plan.member, there, progress)
    return True


def _difference(plan: TrimPlan) -> str | None:
    """Name the first file in which the folder at ``out`` is not what would be written: without a manifest bytes must tell."""
    with tempfile.TemporaryDirectory() as place:
        plan.write(Path(place))
        made, there = files_of(Path(place)), files_of(plan.options.out)
        for name in sorted((made.keys() | there.keys()) - {FEATURES}):
            if name not in made or name not in there or made[name].read_bytes() != there[name].read_bytes():
                return name
    return None


def _compare_features(source: AdapterFolder, made: AdapterFolder, progress: Progress) -> None:
    # A distribution may be replaced at any time, in either folder: that makes it no other trim.
    if source.features.exists() and not (made.features.exists() and sha256(source.features) == sha256(made.features)):
        progress.note(
            f"{made.path} has not the feature distribution that {source.path} has now; pass --force to take it"
        )


def _lineage(member: AdapterFolder) -> set[str]:
    """Return the checksums of an adapter and of those that it was trimmed from."""
    trim = member.manifest.trim if member.manifest else None
    return {member.digest, *(trim.sources if trim else ())}


def _check_shared(member: AdapterFolder, sides: Collection[str], progress: Progress) -> None:
    if "A" in sides and member.manifest and member.manifest.method.start == "shared":
        progress.warn(
            f"{member.path} shares its lora_A with other adapters; with a trimmed one it is no part of their LoRA"
        )
