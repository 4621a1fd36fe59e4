"""What every trim must do, whatever it is: parametrised over the folder, so that a new file is tested by being there."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Literal, get_args, get_origin

import pytest
import torch
from support import check_numbers_refused, check_options_documented, check_source_given

from clora_cli.base import registry
from clora_cli.base.errors import OptionError
from clora_cli.trims import Entries, Kept, Trim

NAMES = registry.names("trims")
SHARES = {"density", "minimum", "maximum"}
NEEDED = {"magnitude": {"threshold": "0.8"}}


def variants(name):
    """Return the trim with its defaults and with every choice of its closed options."""
    plugin = registry.load("trims", name)
    needed = registry.bind(plugin, name, NEEDED.get(name, {}))
    found = [plugin(**needed)]
    for option, parameter in registry.options(plugin).items():
        if get_origin(parameter.annotation) is Literal:
            found += [plugin(**needed, **{option: choice}) for choice in get_args(parameter.annotation)]
    return found


TRIMS = [pytest.param(trim, id=f"{name}-{i}") for name in NAMES for i, trim in enumerate(variants(name))]
VALUED = [param for param in TRIMS if "generator=" not in inspect.getsource(type(param.values[0]))]


def entries(count=500, seed=3, tail=3):
    generator = torch.Generator().manual_seed(seed)
    values, reference = torch.randn(2, count, generator=generator)
    return Entries(values.sign() * values.abs() ** tail, reference, seed=7)


def changed(given, **parts):
    return dataclasses.replace(given, **parts)


@pytest.mark.parametrize("name", NAMES)
def test_defaults_construct_a_frozen_trim(name):
    trim = registry.load("trims", name)()
    assert isinstance(trim, Trim)
    assert trim == registry.load("trims", name)()
    assert "needs_reference" not in registry.options(type(trim))
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
        trim.needs_reference = True


@pytest.mark.parametrize("name", NAMES)
def test_options_and_source_are_documented(name):
    check_options_documented("trims", name)
    check_source_given("trims", name)
    assert registry.load("trims", name).__doc__.splitlines()[0] == registry.summary("trims", name)


@pytest.mark.parametrize("name", NAMES)
def test_numbers_out_of_range_are_refused(name):
    message = "^option {option}=.* of {name}: give a"
    check_numbers_refused(
        "trims", name, message, lambda option: ("nan", "inf", "-1", "0", *(("1.5",) if option in SHARES else ()))
    )


@pytest.mark.parametrize("trim", TRIMS)
@pytest.mark.parametrize("count", [1, 2, 9, 500])
def test_a_mask_marks_each_entry_and_nothing_else_changes(trim, count):
    given = entries(count)
    before = given.values.clone(), given.reference.clone()
    kept = trim.keep(given)
    assert isinstance(kept, Kept)
    assert (kept.mask.dtype, tuple(kept.mask.shape), kept.mask.device.type) == (torch.bool, (count,), "cpu")
    assert torch.equal(given.values, before[0]) and torch.equal(given.reference, before[1])
    assert "\n" not in kept.warning


@pytest.mark.parametrize("trim", TRIMS)
def test_it_keeps_some_and_not_all_the_same_at_every_call(trim):
    given = entries()
    first = trim.keep(given)
    assert 0 < int(first.mask.sum()) < 500
    torch.manual_seed(5)
    assert torch.equal(trim.keep(given).mask, first.mask)
    again = registry.load("trims", type(trim).__module__.rpartition(".")[2])(**dataclasses.asdict(trim))
    assert torch.equal(again.keep(given).mask, first.mask)


@pytest.mark.parametrize("trim", TRIMS)
def test_the_seed_matters_to_chance_alone(trim):
    by_chance = not any(trim is param.values[0] for param in VALUED)
    first = trim.keep(entries())
    assert torch.equal(trim.keep(changed(entries(), seed=8)).mask, first.mask) != by_chance


@pytest.mark.parametrize("trim", VALUED)
def test_the_order_of_entries_does_not_matter(trim):
    given, order = entries(), torch.randperm(500, generator=torch.Generator().manual_seed(0))
    permuted = changed(given, values=given.values[order], reference=given.reference[order])
    assert torch.equal(trim.keep(permuted).mask, trim.keep(given).mask[order])


@pytest.mark.parametrize("trim", VALUED)
def test_flipping_all_signs_changes_nothing(trim):
    given = entries()
    flipped = changed(given, values=-given.values, reference=-given.reference)
    assert torch.equal(trim.keep(flipped).mask, trim.keep(given).mask)


@pytest.mark.parametrize("trim", TRIMS)
def test_what_needs_a_reference_says_so_and_others_take_no_notice_of_one(trim):
    given = entries()
    if trim.needs_reference:
        with pytest.raises(OptionError, match="pass --reference"):
            trim.keep(changed(given, reference=None))
    else:
        assert torch.equal(trim.keep(changed(given, reference=None)).mask, trim.keep(given).mask)


@pytest.mark.parametrize("trim", TRIMS)
def test_half_precision_and_parts_of_other_tensors_are_taken(trim):
    given = entries()
    rounded = changed(given, values=given.values.bfloat16())
    assert torch.equal(trim.keep(rounded).mask, trim.keep(changed(given, values=given.values.bfloat16().float())).mask)
    spread = torch.stack([given.values, given.values], dim=1)[:, 0]
    assert not spread.is_contiguous()
    assert torch.equal(trim.keep(changed(given, values=spread)).mask, trim.keep(given).mask)


@pytest.mark.parametrize("trim", TRIMS)
def test_weights_that_are_still_trained_are_taken(trim):
    given = entries()
    live = changed(given, values=given.values.clone().requires_grad_())
    kept = trim.keep(live)
    assert not kept.mask.requires_grad
    assert torch.equal(kept.mask, trim.keep(given).mask)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if "density" in registry.options(registry.load("trims", name))]
)
@pytest.mark.parametrize("share", [0.001, 0.1, 0.335, 1.0])
def test_a_density_is_met_to_the_entry(name, share):
    kept = registry.bound("trims", f"{name},density={share}").keep(entries())
    assert int(kept.mask.sum()) == max(1, round(share * 500))
    assert math.isclose(share, 0.001) or abs(kept.mask.float().mean().item() - share) <= 0.5 / 500 + 1e-6
