"""What every trim must do (layer L3)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, get_args

import pytest
import torch

from clora_cli.base import registry
from clora_cli.base.errors import OptionError
from clora_cli.testing.requirements import ClassTests, draw, refuses, require
from clora_cli.trims import Entries, Kept, Trim

__all__ = ["TrimTests"]

_MANY = 500


class TrimTests(ClassTests):
    """Tests for each trim."""

    kind: ClassVar[str] = "trims"

    @pytest.mark.parametrize("count", [1, 2, 9, _MANY])
    def test_a_mask_marks_each_entry_and_nothing_else_changes(self, plugin: Trim, count: int) -> None:
        given, before = _entries(count), _entries(count)
        kept = plugin.keep(given)
        require(isinstance(kept, Kept) and "\n" not in kept.warning, "it is to return Kept, with a warning of one line")
        mask = kept.mask
        require((mask.dtype, tuple(mask.shape)) == (torch.bool, (count,)), "the mask is to be bool, of shape (entry,)")
        require(mask.device.type == "cpu", "the mask is to be on the CPU")
        require(_equal(given, before), "the entries and the reference are to stay as they were")

    def test_it_keeps_some_and_not_all_the_same_at_every_call(self, plugin: Trim) -> None:
        first = plugin.keep(_entries()).mask
        require(0 < int(first.sum()) < _MANY, f"of {_MANY} random entries some are to stay and some to go")
        torch.manual_seed(5)
        require(torch.equal(plugin.keep(_entries()).mask, first), "Entries.seed is to be the only source of chance")
        again = type(plugin)(**dataclasses.asdict(plugin))
        require(torch.equal(again.keep(_entries()).mask, first), "the same options are to keep the same")

    def test_the_order_of_entries_does_not_matter(self, plugin: Trim) -> None:
        if _by_chance(plugin):
            return
        given, order = _entries(), torch.randperm(_MANY, generator=torch.Generator().manual_seed(0))
        permuted = dataclasses.replace(given, values=given.values[order], reference=_reference(given)[order])
        require(
            torch.equal(plugin.keep(permuted).mask, plugin.keep(given).mask[order]), "another order keeps other entries"
        )

    def test_flipping_all_signs_changes_nothing(self, plugin: Trim) -> None:
        given = _entries()
        flipped = dataclasses.replace(given, values=-given.values, reference=-_reference(given))
        require(torch.equal(plugin.keep(flipped).mask, plugin.keep(given).mask), "flipped signs keep other entries")

    def test_what_needs_a_reference_says_so_and_others_take_no_notice_of_one(self, plugin: Trim) -> None:
        given = _entries()
        without = dataclasses.replace(given, reference=None)
        if plugin.needs_reference:
            with refuses(OptionError, "--reference", "without a reference it is to ask for one"):
                plugin.keep(without)
        else:
            require(
                torch.equal(plugin.keep(without).mask, plugin.keep(given).mask),
                "a reference changes what it keeps: set needs_reference",
            )

    def test_half_precision_and_parts_of_other_tensors_are_taken(self, plugin: Trim) -> None:
        given = _entries()
        rounded = given.values.bfloat16()
        low, high = (
            plugin.keep(dataclasses.replace(given, values=values)).mask for values in (rounded, rounded.float())
        )
        require(torch.equal(low, high), "bfloat16 entries are to be kept as the same numbers in float32")
        spread = torch.stack([given.values, given.values], dim=1)[:, 0]
        kept = plugin.keep(dataclasses.replace(given, values=spread)).mask
        require(torch.equal(kept, plugin.keep(given).mask), "a tensor that is not contiguous is to be taken")

    def test_weights_that_are_still_trained_are_taken(self, plugin: Trim) -> None:
        given = _entries()
        kept = plugin.keep(dataclasses.replace(given, values=given.values.clone().requires_grad_())).mask
        require(not kept.requires_grad and torch.equal(kept, plugin.keep(given).mask), "detach the entries")

    @pytest.mark.parametrize("share", [0.001, 0.1, 0.335, 1.0])
    def test_a_density_is_met_to_the_entry(self, name: str, share: float) -> None:
        plugin = registry.load("trims", name)
        density = registry.options(plugin).get("density")
        if density is None or float not in (density.annotation, *get_args(density.annotation)):
            return  # `clora trim --density` is short for this option, where there is one
        kept = int(plugin(density=share).keep(_entries()).mask.sum())
        require(kept == max(1, round(share * _MANY)), f"density={share} of {_MANY} keeps {kept}")
        require(math.isclose(share, 0.001) or abs(kept / _MANY - share) <= 0.5 / _MANY + 1e-6, "the share is missed")


def _entries(count: int = _MANY, seed: int = 7) -> Entries:
    values, reference = draw(2, count, seed=3, dtype=torch.float32)
    return Entries(values.sign() * values.abs() ** 3, reference, seed=seed)  # a long tail, as trained adapters have it


def _reference(entries: Entries) -> Any:
    return entries.reference


def _equal(left: Entries, right: Entries) -> bool:
    return torch.equal(left.values, right.values) and torch.equal(_reference(left), _reference(right))


def _by_chance(plugin: Trim) -> bool:
    """Tell whether what a trim keeps depends on the seed."""
    return not torch.equal(plugin.keep(_entries(seed=8)).mask, plugin.keep(_entries(seed=7)).mask)
