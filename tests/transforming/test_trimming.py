from __future__ import annotations

import errno
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from refusals import refused
from safetensors.torch import load_file, save_file
from support import Signals, contents, write_random_adapter

from clora_cli.algebra.lora import Factor, factor_keys
from clora_cli.base.errors import OptionError
from clora_cli.options import MergeOptions, TrimOptions
from clora_cli.store.adapter_folder import read_adapter
from clora_cli.store.ledger import mask_key, pack, read_ledger, read_masks
from clora_cli.store.package import read_package
from clora_cli.transforming import cuts, merge_adapters, plan_merge, plan_trim, trim_adapter

INPUT = torch.tensor([[5, 9, 17, 33]])
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def base(backbone):
    return backbone("llama")


@pytest.fixture
def member(tmp_path, base):
    return write_random_adapter(tmp_path / "adapters" / "first", base, stage=1, rank=3, alpha=6)


def trimmed(member, out, reference=(), *, force=False, progress=None, **chosen):
    by_options = {key: str(value) for key, value in chosen.pop("by_options", {}).items()}
    plan = plan_trim(member, TrimOptions(out=out, by_options=by_options, **chosen), reference, progress=progress)
    path, made = trim_adapter(plan, force=force, progress=progress)
    assert path == out
    return read_adapter(out), made


def share(member, out, density, **chosen):
    return trimmed(member, out, by="density", by_options={"density": density}, **chosen)[0]


def write_bare(folder, backbone, seed=0, **settings):
    """Write an adapter as PEFT itself writes it."""
    torch.manual_seed(seed)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, **settings)
    get_peft_model(backbone.model, config).save_pretrained(folder)
    return folder


def entries(member, side="B"):
    return torch.cat([cuts.side_of(factor, side).flatten() for factor in member.factors().values()])


def test_what_goes_is_zero_and_what_stays_is_the_same_bits(member, tmp_path):
    made = share(member, tmp_path / "out", 0.2)
    before, after = member.factors(), made.factors()
    masks = read_masks(made)
    assert set(masks) == set(before)
    for site, mask in masks.items():
        assert torch.equal(after[site].a, before[site].a)
        assert torch.equal(after[site].b[mask], before[site].b[mask])
        assert not after[site].b[~mask].any()
    kept = torch.cat([mask.flatten() for mask in masks.values()])
    magnitudes = entries(member).abs()
    assert int(kept.sum()) == round(0.2 * len(kept))
    assert magnitudes[kept].min() >= magnitudes[~kept].max()
    assert read_masks(made, "A") == {}
    assert read_ledger([made]).shares == {"first": pytest.approx(0.2, abs=0.01)}


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_peft_loads_it_and_computes_what_zeros_compute(tmp_path, backbone, family):
    member = write_random_adapter(tmp_path / "one", backbone(family), stage=1)
    plan = plan_trim(member, TrimOptions(out=tmp_path / "out", on="both"))
    trim_adapter(plan)
    tensors = load_file(member.path / WEIGHTS)
    for site in member.factors():
        for side, key in zip("AB", factor_keys(site), strict=True):
            tensors[key] = tensors[key] * plan.masks[side, site]
    shutil.copytree(member.path, tmp_path / "zeros")
    save_file(tensors, tmp_path / "zeros" / WEIGHTS)
    inputs = {"input_ids": INPUT} | ({"decoder_input_ids": INPUT} if family == "t5" else {})
    logits = []
    for folder in ("one", "zeros", "out"):
        loaded = PeftModel.from_pretrained(backbone(family).model, tmp_path / folder).eval()
        with torch.no_grad():
            logits.append(loaded(**inputs).logits)
    assert torch.equal(logits[1], logits[2])
    assert not torch.allclose(logits[0], logits[2])


def test_the_manifest_stays_what_it_was_with_an_entry_of_the_trim(member, tmp_path):
    made = share(member, tmp_path / "out", 0.25, on="both", scope="site", seed=7)
    trim = made.manifest.raw["trim"]
    assert trim["density"] == pytest.approx({"A": 0.25, "B": 0.25}, abs=0.01)
    assert {key: value for key, value in trim.items() if key != "density"} == {
        "by": "density",
        "options": {"density": 0.25},
        "on": "both",
        "scope": "site",
        "seed": 7,
        "reference": [],
        "source": member.digest,
        "earlier": [],
    }
    untouched = set(member.manifest.raw) - {"files"}
    assert {key: made.manifest.raw[key] for key in untouched} == {key: member.manifest.raw[key] for key in untouched}
    assert set(made.manifest.raw) == {*member.manifest.raw, "trim"}
    assert (made.path / "README.md").read_text().startswith("card\n\nTrimmed with clora by density: 25.00% of `lora_B`")
    assert (made.path / "adapter_config.json").read_bytes() == (member.path / "adapter_config.json").read_bytes()


def test_it_takes_the_others_place_in_a_package(member, tmp_path, base):
    write_random_adapter(tmp_path / "adapters" / "second", base, stage=2)
    made = share(member, tmp_path / "out" / "first", 0.3)
    shutil.rmtree(member.path)
    shutil.copytree(made.path, member.path)
    members = read_package([tmp_path / "adapters"])
    assert [one.task for one in members] == ["first", "second"]
    merge_adapters(plan_merge(members, MergeOptions(out=tmp_path / "merged")))
    for site, factor in read_adapter(tmp_path / "merged").factors().items():
        assert torch.allclose(factor.delta(), sum(one.factors()[site].delta() for one in members), atol=1e-6)


def test_everything_else_in_the_folder_comes_along(member, tmp_path):
    path = member.path
    (path / "features.clora").write_bytes(b"a distribution")
    (path / "log.jsonl").write_text("{}\n")
    (path / "tokenizer.json").write_bytes(b"\xff\x00")
    (path / "optimizer.pt").write_bytes(b"as it was")
    (path / "adapter_model.bin").write_bytes(b"as it was")
    (path / ".hidden").touch()
    (path / "checkpoint-3").mkdir()
    made = share(member, tmp_path / "out", 0.1)
    assert {file.name for file in made.path.iterdir()} == {
        "README.md",
        "adapter_config.json",
        WEIGHTS,
        "clora.json",
        "features.clora",
        "log.jsonl",
        "state.clora",
        "tokenizer.json",
    }
    for name in ("features.clora", "log.jsonl", "tokenizer.json"):
        assert (made.path / name).read_bytes() == (path / name).read_bytes()
    assert "features.clora" not in made.manifest.raw["files"]


def test_what_the_method_kept_stays_beside_the_masks(tmp_path, base, member):
    save_file({"fisher/x": torch.ones(2), "vector": torch.zeros(3)}, member.path / "state.clora")
    made = share(member, tmp_path / "out", 0.1)
    state = made.state()
    assert set(state) == {"fisher/x", "vector", *(mask_key(site) for site in member.factors())}
    assert torch.equal(state["fisher/x"], torch.ones(2))


def test_a_site_by_itself_keeps_its_own_share(member, tmp_path):
    for side, on in (("B", "b"), ("A", "a")):
        made = share(member, tmp_path / on, 0.5, scope="site", on=on)
        assert all(mask.float().mean() == 0.5 for mask in read_masks(made, side).values())
        assert read_masks(made, "A" if side == "B" else "B") == {}
    over_all = read_masks(share(member, tmp_path / "all", 0.5))
    assert len({mask.sum().item() / mask.numel() for mask in over_all.values()}) > 1


def test_factors_do_not_compete_with_each_other(member, tmp_path):
    # All of lora_A is larger than all of lora_B.
    tensors = {key: t * (1000 if "lora_A" in key else 1) for key, t in load_file(member.path / WEIGHTS).items()}
    (member.path / "clora.json").unlink()
    save_file(tensors, member.path / WEIGHTS)
    made = share(read_adapter(member.path), tmp_path / "out", 0.25, on="both")
    for side in "AB":
        mask = torch.cat([one.flatten() for one in read_masks(made, side).values()])
        assert mask.float().mean() == pytest.approx(0.25, abs=0.01)


def test_what_was_trimmed_before_stays_trimmed(member, tmp_path):
    first = trimmed(member, tmp_path / "one", by="random", by_options={"density": 0.5}, on="both")[0]
    second = trimmed(first, tmp_path / "two", by="random", by_options={"density": 0.5}, seed=1)[0]
    masks, before = read_masks(second), read_masks(first)
    assert all(not (mask & ~before[site]).any() for site, mask in masks.items())
    assert second.manifest.raw["trim"]["density"]["B"] == pytest.approx(0.25, abs=0.06)
    assert all(torch.equal(mask, read_masks(first, "A")[site]) for site, mask in read_masks(second, "A").items())
    third = share(second, tmp_path / "three", 1.0)
    assert all(torch.equal(mask, masks[site]) for site, mask in read_masks(third).items())
    earlier = third.manifest.raw["trim"]["earlier"]
    assert [one["source"] for one in earlier] == [member.digest, first.digest]
    assert [one["by"] for one in earlier] == ["random", "random"] and "earlier" not in earlier[0]


def test_the_same_share_again_changes_no_bit(member, tmp_path):
    first = share(member, tmp_path / "one", 0.1)
    again = share(first, tmp_path / "two", 0.1)
    assert (first.path / WEIGHTS).read_bytes() == (again.path / WEIGHTS).read_bytes()
    assert (first.path / "state.clora").read_bytes() == (again.path / "state.clora").read_bytes()


def test_chance_draws_other_entries_at_every_site_and_side(tmp_path, member):
    plan = plan_trim(member, TrimOptions(by="random", scope="site", on="both", out=tmp_path / "out"))
    places = [tuple(cut.kept[:64].nonzero().flatten().tolist()) for cut in plan.cuts]
    assert len(set(places)) == len(places) == 8
    other = plan_trim(member, TrimOptions(by="random", scope="site", on="both", seed=1, out=tmp_path / "out"))
    assert all(not torch.equal(one.kept, two.kept) for one, two in zip(plan.cuts, other.cuts, strict=True))


def test_the_threshold_is_told_where_the_largest_stay(member, tmp_path):
    (cut,) = plan_trim(member, TrimOptions(by="magnitude", by_options={"threshold": "0.25"}, out=tmp_path / "o")).cuts
    assert 0.25 <= cut.threshold < 0.26
    assert cut.threshold == cut.values[cut.kept].abs().min().item()
    (cut,) = plan_trim(member, TrimOptions(by="random", out=tmp_path / "o")).cuts
    assert cut.threshold is None


@pytest.mark.parametrize("form", ["factors", "dense"])
@pytest.mark.parametrize("scaling", [0.5, -2.0])
def test_a_pull_is_the_inner_product_with_the_entrys_own_part(form, scaling):
    generator = torch.Generator().manual_seed(1)
    own, other = (
        Factor(*(torch.randn(*shape, generator=generator) for shape in ((rank, 7), (5, rank))), s)
        for rank, s in ((3, scaling), (2, 1.5))
    )
    delta = 1.5 * other.b.double() @ other.a.double()
    given = other if form == "factors" else delta
    for side, factor in (("B", own.b), ("A", own.a)):
        found = cuts.pull(own, given, side)
        assert found.dtype == torch.float64 and found.shape == factor.shape
        for place in torch.ones_like(factor).nonzero().tolist():
            unit = torch.zeros_like(factor, dtype=torch.float64)
            unit[tuple(place)] = 1
            part = scaling * (unit @ own.a.double() if side == "B" else own.b.double() @ unit)
            assert found[tuple(place)].item() == pytest.approx((part * delta).sum().item(), rel=1e-10, abs=1e-12)


def test_sign_keeps_what_goes_along_with_the_sum_of_the_reference(tmp_path, base, member):
    for number, name in ((2, "second"), (3, "third")):
        write_random_adapter(tmp_path / "adapters" / name, base, stage=number, alpha=number)
    reference = read_package([tmp_path / "adapters"])
    told = Signals()
    made = trimmed(member, tmp_path / "out", reference, by="sign", on="both", progress=told)[0]
    assert told.notes == [f"{member.path} itself is no part of its reference"]
    assert [one["task"] for one in made.manifest.raw["trim"]["reference"]] == ["second", "third"]
    for site, factor in member.factors().items():
        total = sum(other.factors()[site].delta().double() for other in reference[1:])
        own_b = factor.b.double() * (total @ factor.a.double().T)
        own_a = factor.a.double() * (factor.b.double().T @ total)
        assert torch.equal(read_masks(made)[site], own_b > 0)
        assert torch.equal(read_masks(made, "A")[site], own_a > 0)
        # What stays of lora_B agrees with the reference; what goes does not.
        kept = read_adapter(tmp_path / "out").factors()[site].b.double() @ factor.a.double()
        assert (kept * total).sum() > 0 > ((factor.b.double() @ factor.a.double() - kept) * total).sum()


def test_a_dense_merge_is_a_reference_too(tmp_path, base, member):
    others = [write_random_adapter(tmp_path / name, base, stage=n) for n, name in ((2, "second"), (3, "third"))]
    merge_adapters(plan_merge(others, MergeOptions(out=tmp_path / "sum", dense=True)))
    dense = read_adapter(tmp_path / "sum")
    assert dense.is_dense
    one = trimmed(member, tmp_path / "one", [dense], by="sign")[0]
    two = trimmed(member, tmp_path / "two", others, by="sign")[0]
    assert (one.path / WEIGHTS).read_bytes() == (two.path / WEIGHTS).read_bytes()


@pytest.mark.parametrize("undecided", ["keep", "drop"])
def test_layers_that_the_reference_does_not_change_are_undecided(tmp_path, base, member, undecided):
    other = write_random_adapter(tmp_path / "other", base, stage=2, targets=["q_proj"])
    made = trimmed(member, tmp_path / "out", [other], by="sign", by_options={"undecided": undecided})[0]
    for site, mask in read_masks(made).items():
        assert 0 < mask.float().mean() < 1 if "q_proj" in site else mask.all() == (undecided == "keep")


def test_what_it_was_trimmed_from_is_no_reference_either(tmp_path, base, member):
    first = share(member, tmp_path / "one", 0.5)
    second = share(first, tmp_path / "two", 0.2)
    for reference in ([member], [first, member]):
        with refused("reference-is-the-adapter", "--reference"):
            trimmed(second, tmp_path / "out", reference, by="sign")
    with refused("reference-is-the-adapter", "--reference"):
        trimmed(member, tmp_path / "out", [second], by="sign")


def test_a_folder_of_another_tool_stays_one(tmp_path, backbone):
    bare = read_adapter(write_bare(tmp_path / "bare", backbone()))
    made = share(bare, tmp_path / "out", 0.2)
    assert made.manifest is None and not (made.path / "clora.json").exists()
    assert int(entries(made).count_nonzero()) == round(0.2 * len(entries(bare)))
    before = contents(made.path)
    assert trimmed(bare, tmp_path / "out", by="density", by_options={"density": 0.2})[1] is False
    with refused("output-differs", "README.md"):
        share(bare, tmp_path / "out", 0.3)
    (made.path / "README.md").unlink()
    (bare.path / "README.md").unlink()
    with refused("output-differs", "adapter_model.safetensors"):
        share(bare, tmp_path / "out", 0.3)
    assert trimmed(bare, tmp_path / "out", by="density", by_options={"density": 0.2})[1] is False
    assert contents(made.path) == {name: file for name, file in before.items() if name != "README.md"}
    share(bare, tmp_path / "out", 0.3, force=True)
    assert contents(made.path)[WEIGHTS] != before[WEIGHTS]


def test_equal_trims_are_up_to_date_and_write_equal_bytes(member, tmp_path):
    made = share(member, tmp_path / "out", 0.2)
    before = contents(made.path)
    assert trimmed(member, tmp_path / "out", by="density", by_options={"density": 0.2})[1] is False
    assert contents(share(member, tmp_path / "again", 0.2).path) == before
    with refused("output-made-differently", "trim.options.density 0.2 -> 0.3"):
        share(member, tmp_path / "out", 0.3)
    assert contents(made.path) == before
    assert share(member, tmp_path / "out", 0.3, force=True).manifest.raw["trim"]["options"] == {"density": 0.3}


def test_a_distribution_that_came_later_is_told_of(member, tmp_path):
    share(member, tmp_path / "out", 0.2)
    (member.path / "features.clora").write_bytes(b"new")
    told = Signals()
    assert trimmed(member, tmp_path / "out", by="density", by_options={"density": 0.2}, progress=told)[1] is False
    assert len(told.notes) == 1 and "pass --force to take it" in told.notes[0]
    share(member, tmp_path / "out", 0.2, force=True)
    told = Signals()
    trimmed(member, tmp_path / "out", by="density", by_options={"density": 0.2}, progress=told)
    assert told.notes == []


def test_nothing_is_overwritten_but_adapters(member, tmp_path):
    for name, code in (("notes", "output-not-an-adapter"), ("adapters", "output-would-change-input")):
        (tmp_path / name).mkdir(exist_ok=True)
        before = contents(tmp_path / name)
        for force in (False, True):
            with refused(code, tmp_path / name):
                share(member, tmp_path / name, 0.2, force=force)
        assert contents(tmp_path / name) == before
    for out in (member.path, member.path / "inside", member.path.parent):
        with refused("output-would-change-input", out, member.path):
            share(member, out, 0.2, force=True)


def test_a_full_disk_leaves_what_was_there(member, tmp_path, monkeypatch):
    share(member, tmp_path / "out", 0.2)
    before = contents(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("clora_cli.transforming.trimming.copy_file", full)
    with refused("cannot-write", "No space left on device"):
        share(member, tmp_path / "out", 0.3, force=True)
    assert contents(tmp_path) == before


def test_an_input_is_never_changed(member, tmp_path):
    before = contents(member.path)
    share(member, tmp_path / "out", 0.2, on="both")
    assert contents(member.path) == before


def test_types_of_other_tools_are_kept(tmp_path, backbone):
    folder = write_bare(tmp_path / "bare", backbone())
    save_file({key: t.bfloat16() for key, t in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)
    made = share(read_adapter(folder), tmp_path / "out", 0.5)
    assert {tensor.dtype for tensor in load_file(made.path / WEIGHTS).values()} == {torch.bfloat16}


def test_dense_deltas_are_refused_with_the_mend(member, tmp_path):
    merge_adapters(plan_merge([member], MergeOptions(out=tmp_path / "dense", dense=True)))
    with refused("dense-deltas-no-factors", "--rank"):
        share(read_adapter(tmp_path / "dense"), tmp_path / "out", 0.2)


def test_what_is_more_than_a_low_rank_delta_is_refused_with_the_reason(tmp_path, backbone):
    folder = write_bare(tmp_path / "odd", backbone(), use_dora=True)
    with refused("adapter-not-plain-lora", "use_dora"):
        share(read_adapter(folder), tmp_path / "out", 0.2)


def test_trims_that_leave_nothing_are_refused(tmp_path, member, base):
    with refused("trim-leaves-nothing", "magnitude", "lora_B", member.path, " 0."):
        trimmed(member, tmp_path / "out", by="magnitude", by_options={"threshold": 9})
    assert not (tmp_path / "out").exists()
    fresh = write_bare(tmp_path / "fresh", base)
    zeros = {key: t * ("lora_A" in key) for key, t in load_file(fresh / WEIGHTS).items()}
    save_file(zeros, fresh / WEIGHTS)
    with refused("trim-leaves-nothing", "knee", "lora_B"):
        trimmed(read_adapter(fresh), tmp_path / "out", on="both")


def test_numbers_that_are_none_are_refused(tmp_path, backbone):
    folder = write_bare(tmp_path / "bare", backbone())
    tensors = load_file(folder / WEIGHTS)
    tensors[next(key for key in tensors if "lora_B" in key)][0, 0] = torch.inf
    save_file(tensors, folder / WEIGHTS)
    with refused("numbers-not-finite", "lora_B"):
        share(read_adapter(folder), tmp_path / "out", 0.2)


def test_a_damaged_mask_is_refused(tmp_path, member):
    (member.path / "clora.json").unlink()
    state = {mask_key(site): pack(torch.zeros(f.b.shape, dtype=torch.bool)) for site, f in member.factors().items()}
    save_file(state, member.path / "state.clora")
    with refused("entries-outside-mask", member.path, "lora_B"):
        share(read_adapter(member.path), tmp_path / "out", 0.2)


def test_references_must_fit(tmp_path, backbone, member):
    stranger = write_random_adapter(tmp_path / "stranger", backbone("llama", 1), stage=2)
    with refused("base-models-differ", "llama-0", "llama-1"):
        trimmed(member, tmp_path / "out", [stranger], by="sign")
    narrow = read_adapter(write_bare(tmp_path / "narrow", backbone()))
    tensors = load_file(narrow.path / WEIGHTS)
    save_file(
        {key: t[:, :8].contiguous() if "lora_A" in key else t for key, t in tensors.items()}, narrow.path / WEIGHTS
    )
    with refused("layer-shapes-differ", "narrow", (32, 8), (32, 32)):
        trimmed(member, tmp_path / "out", [narrow], by="sign")


def test_trimming_a_shared_lora_a_is_warned_of(tmp_path, base):
    entry = {"name": "cast", "options": {"cast": {}}, "past": "none", "start": "shared", "combine": "route"}
    member = write_random_adapter(tmp_path / "one", base, stage=1, manifest={"method": entry})
    for on, count in (("b", 0), ("a", 1), ("both", 1)):
        told = Signals()
        share(member, tmp_path / on, 0.5, on=on, progress=told)
        assert len(told.warnings) == count
    assert "no part of their LoRA" in told.warnings[0]


@pytest.mark.parametrize(
    ("chosen", "code", "names"),
    [
        ({"on": "c"}, "option-choice-unknown", ["--on c", "b, a, both"]),
        ({"scope": "layer"}, "option-choice-unknown", ["--scope layer", "all, site"]),
        ({"by": "knees"}, "unknown-name", ["'knees'", "'knee'"]),
        ({"by_options": {"density": 0.1}}, "unknown-name", ["knee", "'density'"]),
        ({"by": "density", "by_options": {"density": 2}}, "option-out-of-range", ["density=2.0"]),
        ({"by": "magnitude"}, "option-missing", ["magnitude", "threshold"]),
        ({"by": "sign"}, "option-missing", ["sign", "--reference"]),
    ],
)
def test_wrong_options_are_refused(member, tmp_path, chosen, code, names):
    with refused(code, *names, error=OptionError):
        trimmed(member, tmp_path / "out", **chosen)


def test_a_reference_that_nobody_asked_for_is_refused(member, tmp_path, base):
    other = write_random_adapter(tmp_path / "other", base, stage=2)
    with refused("option-has-no-effect", "knee", "--reference"):
        trimmed(member, tmp_path / "out", [other])
