from __future__ import annotations

import numpy as np
import pytest
import torch
from refusals import refused
from support import config_of, manifest_of, random_factors

from clora_cli.algebra.lora import Factor, factor_keys
from clora_cli.store.adapter_folder import read_adapter
from clora_cli.store.adapter_writing import write_adapter
from clora_cli.store.ledger import mask_key, pack, read_ledger, read_masks, unpack

SITE = "model.layers.0.self_attn.q_proj"
OTHER = "model.layers.1.self_attn.v_proj"


@pytest.fixture
def base(backbone):
    return backbone("llama")


@pytest.fixture
def shared(base):
    return random_factors(base.model, 1, 3)


def write(folder, base, factors, state=None, stage=1, alpha=3):
    tensors = {}
    for site, factor in factors.items():
        tensors |= dict(zip(factor_keys(site), (factor.a, factor.b), strict=True))
    manifest = manifest_of(folder.name, stage, base.reference)
    return write_adapter(folder, tensors, config_of(base, factors, 3, alpha), manifest, {}, state)


def masks_of(factors, number, of=4):
    """Give the entries to so many owners in turn; the last of them owns nothing yet."""
    return {site: (torch.arange(f.b.numel()) % of == number).view(f.b.shape) for site, f in factors.items()}


def view(folder, base, factors, masks, stage=1, **chosen):
    """Write an adapter that is the part of a LoRA that masks mark."""
    parts = {site: Factor(f.a, f.b * masks[site], f.scaling) for site, f in factors.items()}
    return write(folder, base, parts, {mask_key(site): pack(mask) for site, mask in masks.items()}, stage, **chosen)


@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (9,), (5, 3), (16, 4), (2, 3, 5), (64, 33)])
def test_packing_is_numpys_and_is_undone(shape):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.3
    packed = pack(mask)
    assert (packed.dtype, tuple(packed.shape)) == (torch.uint8, (-(-mask.numel() // 8),))
    assert packed.numpy().tolist() == np.packbits(mask.numpy()).tolist()
    assert torch.equal(unpack(packed, shape), mask)


def test_the_first_entry_is_the_highest_bit_and_rows_follow_one_another():
    mask = torch.zeros(3, 3, dtype=torch.bool)
    mask[0, 0] = mask[1, 0] = mask[2, 2] = True
    assert pack(mask).tolist() == [0b10010000, 0b10000000]
    assert pack(mask.T.contiguous().T).tolist() == pack(mask).tolist()


@pytest.mark.parametrize(
    ("packed", "shape"),
    [(torch.zeros(2, dtype=torch.uint8), (3, 6)), (torch.zeros(2, dtype=torch.uint8), (8,)), (torch.zeros(1), (8,))],
)
def test_other_bytes_are_no_mask_of_that_shape(packed, shape):
    with pytest.raises(ValueError, match="no packed mask"):
        unpack(packed, shape)


def test_masks_are_read_side_by_side(tmp_path, base, shared):
    masks = masks_of(shared, 1)
    parts = {site: Factor(f.a, f.b * masks[site], f.scaling) for site, f in shared.items()}
    only_a = torch.zeros_like(shared[OTHER].a, dtype=torch.bool)
    only_a[0, 3] = True
    parts[OTHER] = Factor(shared[OTHER].a * only_a, parts[OTHER].b, 1.0)
    state = {mask_key(site): pack(mask) for site, mask in masks.items()} | {mask_key(OTHER, "A"): pack(only_a)}
    member = write(tmp_path / "one", base, parts, state | {"vector": torch.ones(3)})
    found = read_masks(member)
    assert set(found) == set(shared) and all(torch.equal(found[site], masks[site]) for site in shared)
    found = read_masks(member, "A")
    assert set(found) == {OTHER} and torch.equal(found[OTHER], only_a)


def test_an_adapter_without_masks_has_none(tmp_path, base, shared):
    assert read_masks(write(tmp_path / "one", base, shared, {"vector": torch.ones(3)})) == {}
    assert read_masks(write(tmp_path / "two", base, shared)) == {}


def test_a_mask_that_does_not_fit_is_damage(tmp_path, base, shared):
    short = write(tmp_path / "short", base, shared, {mask_key(SITE): torch.zeros(3, dtype=torch.uint8)})
    with refused("mask-damaged", short.path, f"'{SITE}'"):
        read_masks(short)


def test_an_entry_outside_its_mask_is_damage(tmp_path, base, shared):
    masks = masks_of(shared, 0)
    parts = {site: Factor(f.a, f.b * masks[site], f.scaling) for site, f in shared.items()}
    parts[SITE].b[~masks[SITE]] = 0.001
    member = write(tmp_path / "odd", base, parts, {mask_key(site): pack(mask) for site, mask in masks.items()})
    with refused("entries-outside-mask", member.path, f"lora_B at '{SITE}'"):
        read_masks(member)
    with refused("entries-outside-mask", member.path):
        read_ledger([member])


def test_the_ledger_adds_up(tmp_path, base, shared):
    members = [view(tmp_path / f"t{n}", base, shared, masks_of(shared, n), stage=n + 1) for n in range(3)]
    ledger = read_ledger(members)
    assert tuple(ledger.tasks) == ("t0", "t1", "t2")
    assert ledger.size == sum(f.b.numel() for f in shared.values())
    assert ledger.size == sum(ledger.owned) + ledger.idle
    assert ledger.shares == pytest.approx({"t0": 0.25, "t1": 0.25, "t2": 0.25}, abs=0.01)
    assert ledger.idle / ledger.size == pytest.approx(0.25, abs=0.01)
    for site, shares in ledger.by_site().items():
        assert sum(shares) == pytest.approx(1) and len(shares) == 4
        assert torch.equal(ledger.idle_at(site), masks_of(shared, 3)[site])
        assert all(torch.equal(ledger.owners[site] == n + 1, masks_of(shared, n)[site]) for n in range(3))


def test_views_add_up_to_the_one_lora_bit_by_bit(tmp_path, base, shared):
    members = [view(tmp_path / f"t{n}", base, shared, masks_of(shared, n)) for n in range(4)]
    assert read_ledger(members).idle == 0
    for site, factor in shared.items():
        total = sum((read_adapter(member.path).factors()[site].b for member in members), torch.zeros(()))
        assert torch.equal(total, factor.b)


def test_two_owners_of_one_entry_are_refused(tmp_path, base, shared):
    masks = masks_of(shared, 2)
    masks[OTHER][0, 1] = True
    members = [view(tmp_path / f"t{n}", base, shared, masks_of(shared, n)) for n in range(2)]
    overlapping = view(tmp_path / "late", base, shared, masks)
    with refused("shared-lora-masks-overlap", overlapping.path, members[1].path, f"lora_B at '{OTHER}'"):
        read_ledger([*members, overlapping])


def test_another_lora_a_scaling_or_set_of_layers_is_refused(tmp_path, base, shared):
    first = view(tmp_path / "first", base, shared, masks_of(shared, 0))
    turned = {site: Factor(f.a.flip(0), f.b, f.scaling) for site, f in shared.items()}
    fewer = {site: f for site, f in shared.items() if site != OTHER}
    shorter = {site: Factor(f.a, f.b[:-1].clone(), f.scaling) for site, f in shared.items()}
    masks = masks_of(shared, 1)
    for name, odd in (
        ("turned", view(tmp_path / "turned", base, turned, masks)),
        ("scaled", view(tmp_path / "scaled", base, shared, masks, alpha=6)),
        ("fewer", view(tmp_path / "fewer", base, fewer, masks)),
        ("shorter", view(tmp_path / "shorter", base, shorter, {site: mask[:-1] for site, mask in masks.items()})),
    ):
        with refused("shared-lora-parts-differ", name, first.path):
            read_ledger([first, odd])
        with refused("shared-lora-parts-differ", name, first.path):
            read_ledger([odd, first])


def test_an_adapter_that_was_not_trimmed_everywhere_owns_no_part(tmp_path, base, shared):
    first = view(tmp_path / "first", base, shared, masks_of(shared, 0))
    whole = write(tmp_path / "whole", base, shared)
    part = {site: f for site, f in shared.items() if site != SITE}
    masks = {site: torch.ones(f.b.shape, dtype=torch.bool) for site, f in part.items()}
    partly = write(tmp_path / "partly", base, shared, {mask_key(site): pack(mask) for site, mask in masks.items()})
    for odd in (whole, partly):
        with refused("no-shared-lora-masks", odd.path):
            read_ledger([first, odd])
