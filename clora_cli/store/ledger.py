"""Subspaces of one LoRA (layer L1): which entries of a factor each adapter owns, as packed masks and as a ledger.

A *mask* marks the entries of a site's ``lora_B`` (or ``lora_A``) that an adapter was trimmed to; all others are exactly
zero. Adapters that share one ``lora_A`` and have disjoint masks of ``lora_B`` are parts of a single LoRA: their
sum is that LoRA, bit by bit, and its *ledger* says which task owns which share of it and what is idle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from clora_cli.algebra.lora import Factor
from clora_cli.base.errors import ArtifactError, MismatchError
from clora_cli.store.adapter_folder import AdapterFolder

__all__ = ["Ledger", "mask_key", "pack", "read_ledger", "read_masks", "unpack"]


def mask_key(site: str, side: str = "B") -> str:
    """Return the name of a site's mask in ``state.clora``; ``side`` is ``"A"`` or ``"B"``."""
    return f"mask_{side.lower()}/{site}"


def pack(mask: Tensor) -> Tensor:
    """Pack a mask of any shape into bits: row by row, the first entry in the highest bit, shape (ceil(entries / 8),) uint8."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1)))


def unpack(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """Undo ``pack``.

    Raises:
        ValueError: If the bytes do not make a mask of that shape.
    """
    entries = math.prod(shape)
    if packed.dtype != torch.uint8 or tuple(packed.shape) != (-(-entries // 8),):
        raise ValueError(f"{tuple(packed.shape)} {packed.dtype} is no packed mask of {tuple(shape)}")
    return torch.from_numpy(np.unpackbits(packed.numpy(), count=entries)).view(torch.bool).view(*shape)


def read_masks(member: AdapterFolder, side: str = "B") -> dict[str, Tensor]:
    """Read which entries of ``lora_B`` (or ``lora_A``) an adapter was trimmed to.

    Returns:
        Site to mask, bool, of the factor's shape; empty if the adapter was not trimmed on that side.

    Raises:
        ArtifactError: If a mask does not fit its factor, or an entry outside it is not zero.
    """
    state = member.state()
    if member.is_dense or not any(key.startswith("mask_") for key in state):
        return {}
    return _masks(member, state, member.factors(compare=False), side)


def _masks(
    member: AdapterFolder, state: Mapping[str, Tensor], factors: Mapping[str, Factor], side: str
) -> dict[str, Tensor]:
    masks = {}
    for site, factor in factors.items():
        packed = state.get(mask_key(site, side))
        if packed is None:
            continue
        values = factor.b if side == "B" else factor.a
        try:
            masks[site] = unpack(packed, values.shape)
        except ValueError as error:
            raise ArtifactError(
                f"adapter {member.path} is damaged: the mask at '{site}': {error}", code="mask-damaged"
            ) from error
        if bool((values.bool() & ~masks[site]).any()):
            raise ArtifactError(
                f"adapter {member.path} is damaged: lora_{side} at '{site}' is not zero outside its mask; make it again",
                code="entries-outside-mask",
            )
    return masks


@dataclass(frozen=True, eq=False)
class Ledger:
    """Which task owns which entries of ``lora_B`` in a LoRA that tasks share.

    Attributes:
        tasks: The owners' names, by number.
        owners: Site to the owner of each entry, shape (out, rank), int16: its number from 1, 0 where it is idle.
    """

    tasks: Sequence[str]
    owners: Mapping[str, Tensor]

    @cached_property
    def size(self) -> int:
        """Number of entries."""
        return sum(owner.numel() for owner in self.owners.values())

    @cached_property
    def owned(self) -> tuple[int, ...]:
        """Number of entries of each task."""
        counts = self._counts(self.owners)
        return tuple(counts[1:])

    @property
    def idle(self) -> int:
        """Number of entries without an owner."""
        return self.size - sum(self.owned)

    @property
    def shares(self) -> dict[str, float]:
        """Each task's share of all entries, in [0, 1]."""
        return {task: owned / self.size for task, owned in zip(self.tasks, self.owned, strict=True)}

    def by_site(self) -> dict[str, tuple[float, ...]]:
        """Return, for each site, each task's share of the site's entries, then the idle share."""
        shares = {}
        for site, owner in self.owners.items():
            idle, *owned = (count / owner.numel() for count in self._counts({site: owner}))
            shares[site] = (*owned, idle)
        return shares

    def idle_at(self, site: str) -> Tensor:
        """Return the entries of a site without an owner, shape (out, rank), bool."""
        return self.owners[site] == 0

    def _counts(self, owners: Mapping[str, Tensor]) -> list[int]:
        total = torch.zeros(len(self.tasks) + 1, dtype=torch.long)
        for owner in owners.values():
            total += torch.bincount(owner.flatten().long(), minlength=len(self.tasks) + 1)
        return [int(count) for count in total]


def read_ledger(members: Sequence[AdapterFolder]) -> Ledger:
    """Read the ledger of adapters that are parts of one LoRA, holding one adapter in memory at a time.

    Raises:
        ArtifactError: If a member's mask is damaged.
        MismatchError: If a member has no masks, has another ``lora_A``, scaling or set of layers, or owns an entry of an
            earlier one.
    """
    first: Mapping[str, Factor] = {}
    owner = torch.zeros(0, dtype=torch.int16)  # of the entries of all sites, one site after another
    for number, member in enumerate(members, start=1):
        factors, masks = _parts(member)
        if number == 1:
            first = factors
            owner = torch.zeros(sum(factor.b.numel() for factor in first.values()), dtype=torch.int16)
        if not _are_of_one(factors, first):
            raise MismatchError(
                f"{member.path} and {members[0].path} are no parts of one LoRA: their lora_A, scaling or layers differ",
                code="shared-lora-parts-differ",
            )
        mask = torch.cat([masks[site].flatten() for site in first])
        twice = owner.bool() & mask
        if bool(twice.any()):
            site = next(site for site, part in _by_site(twice, first).items() if bool(part.any()))
            other = members[int(owner[twice][0]) - 1]
            raise MismatchError(
                f"{member.path} and {other.path} both own entries of lora_B at '{site}'",
                code="shared-lora-masks-overlap",
            )
        owner.masked_fill_(mask, number)
    return Ledger(tuple(member.task for member in members), _by_site(owner, first))


def _parts(member: AdapterFolder) -> tuple[dict[str, Factor], dict[str, Tensor]]:
    factors = member.factors(at_once=True)
    masks = _masks(member, member.state(at_once=True), factors, "B")
    if set(masks) != set(factors):
        raise MismatchError(
            f"{member.path} owns no part of a shared LoRA: it has no masks in state.clora; "
            "train into another --package",
            code="no-shared-lora-masks",
        )
    return factors, masks


def _are_of_one(factors: Mapping[str, Factor], first: Mapping[str, Factor]) -> bool:
    """Tell whether the factors of two adapters may be parts of one LoRA."""
    return factors.keys() == first.keys() and all(
        factor.b.shape == first[site].b.shape
        and factor.scaling == first[site].scaling
        and torch.equal(factor.a, first[site].a)
        for site, factor in factors.items()
    )


def _by_site(flat: Tensor, first: Mapping[str, Factor]) -> dict[str, Tensor]:
    """Give the entries of all sites, one after another, the shapes of their ``lora_B``."""
    parts = torch.split(flat, [factor.b.numel() for factor in first.values()])
    return {site: part.view(factor.b.shape) for (site, factor), part in zip(first.items(), parts, strict=True)}
