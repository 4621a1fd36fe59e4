from __future__ import annotations

import json
import math

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from refusals import refused
from support import Signals, contents, data_of, sentences, write_random_adapter, write_task

from clora_cli.algebra.privacy import noise_multiplier
from clora_cli.algebra.statistics import Moments
from clora_cli.base import files
from clora_cli.base.errors import OptionError
from clora_cli.data import load_task
from clora_cli.model.bank import AdapterBank
from clora_cli.model.features import prompt_ids, read_features
from clora_cli.model.linear_layers import find_sites
from clora_cli.options import FeatureOptions, MergeOptions
from clora_cli.store.adapter_folder import read_adapter
from clora_cli.store.distribution import read_distribution
from clora_cli.store.package import read_package
from clora_cli.store.side_files import FEATURES
from clora_cli.transforming import merge_adapters, plan_features, plan_merge, sizes, take_features, taking
from clora_cli.transforming.requests import assign_data

FAMILIES = ("llama", "gpt2", "t5", "encoder-decoder", "bert")
V_PROJ = [f"model.layers.{layer}.self_attn.v_proj" for layer in (0, 1)]


def write(folder, base, data, stage=1, **chosen):
    """Write an adapter whose own data is a folder of the tests."""
    return write_random_adapter(folder, base, stage=stage, manifest={"data": data_of(str(data), [])}, **chosen)


@pytest.fixture
def adapter(tmp_path, backbone, tasks):
    return write(tmp_path / "adapters" / "first", backbone(), tasks["first"])


def take(members, *, force=False, add=False, progress=None, **chosen):
    members = members if isinstance(members, list) else [members]
    plan = plan_features(members, FeatureOptions(device="cpu", **chosen), force=force, add=add)
    return take_features(plan, progress)


def moments_of(base, task, sites, split="train", second="none", **chosen):
    ids = prompt_ids(base, getattr(load_task(str(task)), split), **chosen)
    parts = [features for _, features in read_features(base, ids, sites, batch_size=1)]
    return {site: Moments.of(torch.cat([part[site] for part in parts]), second) for site in sites}


def check_close(found, expected, rtol=1e-5):
    assert list(found) == sorted(expected)
    for site, one in expected.items():
        assert found[site].count == one.count
        assert torch.allclose(found[site].mean, one.mean, rtol=rtol, atol=1e-6)
        if one.scatter is not None:
            assert torch.allclose(found[site].scatter, one.scatter, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_distribution_is_the_moments_of_the_training_inputs(tmp_path, backbone, tasks, family):
    base = backbone(family)
    member = write(tmp_path / "first", base, tasks["first"])
    (result,) = take(member, second_moment="full")
    assert (result.state, result.distribution.count) == ("made", 24)
    sites = [site for site in find_sites(base.model) if not site.startswith("decoder.")]
    read = read_distribution(member.features)
    check_close(read.sites, moments_of(base, tasks["first"], sites, second="full"))
    record, task = read.record.raw, load_task(str(tasks["first"]))
    assert record["base_model"]["fingerprint"] == base.reference.fingerprint
    assert record["base_model"]["kind"] == base.kind
    data = {"name": "first", "fingerprint": task.fingerprint, "split": "train", "rows": 24, "limit": 0, "seed": None}
    assert record["data"] == [data]
    assert (record["source"], record["pool"], record["text"], record["privacy"]) == (
        "base",
        "prompt-mean",
        "prompt",
        None,
    )
    assert (record["second_moment"], record["layer"], record["module"]) == ("full", "all", "")
    assert (record["max_length"], record["dtype"]) == (512, "float32")


def test_each_class_gets_its_mean_at_every_site(adapter, backbone, tasks):
    take(adapter, means="class", layer="last", min_count=5)
    read, rows = read_distribution(adapter.features), load_task(str(tasks["first"])).train
    answers = sorted({row.references[0] for row in rows})
    assert read.record.means == "class" and 1 < len(answers) < 13
    ids, site = prompt_ids(backbone(), rows), next(iter(read.sites))
    parts = list(read_features(backbone(), ids, [site]))
    order = torch.tensor([number for numbers, _ in parts for number in numbers]).argsort()
    found = torch.cat([features[site] for _, features in parts])[order]
    for number, answer in enumerate(answers):
        own = torch.tensor([row.references[0] == answer for row in rows])
        assert read.sites[site].groups.counts[number] == own.sum()
        assert torch.allclose(read.sites[site].groups.means[number].float(), found[own].mean(dim=0), atol=1e-5)


def test_clusters_are_no_smaller_than_what_a_distribution_may_be_made_of(adapter):
    take(adapter, means="6", min_count=4)
    groups = [one.groups for one in read_distribution(adapter.features).sites.values()]
    assert all(torch.equal(one.counts, groups[0].counts) for one in groups)
    assert 1 < len(groups[0].counts) <= 6 and int(groups[0].counts.min()) >= 4


def test_a_distribution_of_one_mean_records_nothing_of_groups(adapter):
    take(adapter)
    assert "means" not in read_distribution(adapter.features).record.raw
    take(adapter, means="task")  # up to date
    with refused("output-made-differently", "means", error=OptionError):
        take(adapter, means="class", min_count=0)


def test_a_class_of_few_inputs_is_refused(adapter):
    with refused("class-too-small", adapter.path, "--min-count"):
        take(adapter, means="class", min_count=24)


def test_nothing_else_in_the_folder_changes_and_the_folder_stays_whole(adapter):
    before = contents(adapter.path)
    take(adapter)
    after = contents(adapter.path)
    assert set(after) == {*before, FEATURES}
    assert {name: after[name] for name in before} == before
    assert read_adapter(adapter.path).digest == adapter.digest


def test_equal_runs_write_equal_bytes_wherever_the_folder_is(adapter, tmp_path, backbone, tasks):
    other = write(tmp_path / "elsewhere" / "first", backbone(), tasks["first"])
    take(adapter, second_moment="diag")
    take(other, second_moment="diag")
    assert adapter.features.read_bytes() == other.features.read_bytes()
    assert str(tmp_path) not in str(read_distribution(adapter.features).record.raw["data"])


def write_bare(folder, base, targets=("q_proj",)):
    """Write an adapter as PEFT itself writes it."""
    model = get_peft_model(base.model, LoraConfig(r=2, target_modules=list(targets)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    model.save_pretrained(folder)
    return read_adapter(folder)


def test_a_bare_peft_folder_gets_one_too_and_peft_still_loads_it(tmp_path, backbone, tasks):
    member = write_bare(tmp_path / "theirs", backbone())
    before = contents(member.path)
    with refused("adapter-names-no-data", "theirs", "--data"):
        take(member)
    take(member, data=(str(tasks["second"]),))
    after = contents(member.path)
    assert {name: after[name] for name in before} == before
    base = backbone()
    check_close(read_distribution(member.features).sites, moments_of(base, tasks["second"], find_sites(base.model)))
    loaded = PeftModel.from_pretrained(base.model, member.path)
    assert loaded.peft_config["default"].r == 2
    assert read_adapter(member.path).base["fingerprint"] == base.reference.fingerprint  # now it is known


def test_adapters_of_different_sites_have_the_base_models_own_in_common(tmp_path, backbone, tasks):
    base = backbone()
    members = [
        write(tmp_path / name, base, tasks["first"], stage, targets=targets)
        for stage, (name, targets) in enumerate((("one", ["q_proj"]), ("two", ["o_proj", "down_proj"])), start=1)
    ]
    take(members)
    one, two = ({*read_distribution(member.features).sites} for member in members)
    assert one == set(find_sites(base.model))
    assert two - one == set(find_sites(base.model, ["o_proj", "down_proj"]))
    assert one < two


@pytest.mark.parametrize("family", ["t5", "encoder-decoder"])
def test_what_only_the_decoder_has_gets_the_encoders_sites(tmp_path, backbone, tasks, family):
    base = backbone(family)
    target = {"t5": "EncDecAttention.q", "encoder-decoder": "crossattention.self.query"}[family]
    member = write(tmp_path / "first", base, tasks["first"], targets=[target])
    take(member)
    assert all(site.startswith("encoder.") for site in read_distribution(member.features).sites)


def test_layers_and_modules_are_chosen(adapter):
    take(adapter, layer="last", module="v_proj")
    assert list(read_distribution(adapter.features).sites) == V_PROJ[1:]
    with refused("option-choice-unknown", "layer 2", "0, 1"):
        take(adapter, layer="2", force=True)
    with refused("module-matches-no-site", "'k_proj'"):
        take(adapter, module="k_proj", force=True)


def test_pool_text_split_and_length_are_what_they_say(adapter, backbone, tasks):
    base, data = backbone(), tasks["first"]
    sites = list(find_sites(base.model))
    take(adapter, text="body", split="test", min_count=9)
    check_close(read_distribution(adapter.features).sites, moments_of(base, data, sites, "test", text="body"))
    take(adapter, max_length=30, force=True)
    check_close(read_distribution(adapter.features).sites, moments_of(base, data, sites, max_length=30))
    take(adapter, pool="last", force=True)
    ids = prompt_ids(base, load_task(str(data)).train)
    last = torch.cat([found[sites[0]] for _, found in read_features(base, ids, sites[:1], pool="last", batch_size=1)])
    assert torch.allclose(
        read_distribution(adapter.features).sites[sites[0]].mean, last.double().mean(dim=0), atol=1e-6
    )


def test_a_limit_draws_rows_by_the_seed(adapter, backbone, tasks):
    base, rows = backbone(), load_task(str(tasks["first"])).train
    found = {}
    for seed in (1, 2):
        take(adapter, limit=10, seed=seed, force=True)
        read = read_distribution(adapter.features)
        assert read.count == 10
        entry = read.record.raw["data"][0]
        assert (entry["rows"], entry["limit"], entry["seed"]) == (10, 10, seed)
        found[seed] = read.sites[V_PROJ[0]].mean
    assert not torch.allclose(found[1], found[2])
    take(adapter, limit=24, seed=3, force=True)  # no limit at all: neither it nor the seed decides anything
    (again,) = take(adapter, limit=500, seed=4)
    assert again.state == "up to date"
    ids = prompt_ids(base, rows)
    mean = torch.cat([part[V_PROJ[0]] for _, part in read_features(base, ids, V_PROJ[:1])]).double().mean(dim=0)
    assert torch.allclose(again.distribution.sites[V_PROJ[0]].mean, mean, atol=1e-6)


def test_the_same_call_finds_it_up_to_date_without_loading_the_model(adapter, monkeypatch):
    take(adapter, second_moment="full")
    before, stamp = adapter.features.read_bytes(), adapter.features.stat().st_mtime_ns
    monkeypatch.setattr(taking, "load_backbone", None)
    (again,) = take(adapter, second_moment="full", batch_size=3)
    assert (again.state, again.distribution.count, len(again.distribution.sites)) == ("up to date", 24, 4)
    assert (adapter.features.read_bytes(), adapter.features.stat().st_mtime_ns) == (before, stamp)


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({"second_moment": "diag"}, "second_moment none -> diag"),
        ({"text": "body"}, "text prompt -> body"),
        ({"layer": "last"}, "layer all -> last"),
        ({"dtype": "bfloat16"}, "dtype float32 -> bfloat16"),
        ({"dp_epsilon": 8, "dp_delta": 1e-5}, "privacy none -> epsilon 8, delta 1e-05, clip 1"),
        ({"source": "adapted"}, "source base -> adapted"),
        ({"limit": 11}, "] 11 train rows, 11 by seed 42"),
        ({"split": "dev", "min_count": 0}, "] 4 dev rows"),
    ],
)
def test_what_was_made_differently_stays_until_it_is_forced(adapter, chosen, told):
    take(adapter)
    before = adapter.features.read_bytes()
    with refused("output-made-differently", "features.clora", told, "--force"):
        take(adapter, **chosen)
    assert adapter.features.read_bytes() == before
    (forced,) = take(adapter, **chosen, force=True)
    assert forced.state == "replaced"
    assert adapter.features.read_bytes() != before
    (again,) = take(adapter, **chosen)
    assert again.state == "up to date"


@pytest.mark.parametrize("second", ["none", "diag", "full"])
def test_two_halves_added_are_the_whole(tmp_path, adapter, second):
    rows = [{"text": text, "label": label} for text, label in sentences(7, 40)]
    for name, part in (("left", rows[:10]), ("right", rows[10:30]), ("whole", rows[:30])):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for split, chosen in (("train", part), ("dev", rows[30:34]), ("test", rows[34:])):
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    left, right, whole = (str(tmp_path / "data" / name) for name in ("left", "right", "whole"))
    take(adapter, data=(whole,), second_moment=second)
    expected = read_distribution(adapter.features)
    take(adapter, data=(left,), second_moment=second, force=True)
    (added,) = take(adapter, data=(right,), second_moment=second, add=True)
    found = read_distribution(adapter.features)
    assert (added.state, found.count) == ("added", 30)
    check_close(found.sites, expected.sites)
    assert [entry["name"] for entry in found.record.raw["data"]] == ["left", "right"]
    before = adapter.features.read_bytes()
    (again,) = take(adapter, data=(right,), second_moment=second, add=True)
    assert again.state == "up to date"
    assert adapter.features.read_bytes() == before


def test_adding_is_offered_where_it_would_work(adapter, tasks):
    take(adapter)
    with refused("output-made-differently", "--force", "--add"):
        take(adapter, data=(str(tasks["second"]),))
    with refused("output-made-differently", "--force") as info:
        take(adapter, data=(str(tasks["second"]),), text="body")
    assert "--add" not in str(info.value)


def test_what_cannot_be_added_is_refused(adapter, tasks):
    second = (str(tasks["second"]),)
    take(adapter, limit=12)
    before = adapter.features.read_bytes()
    for chosen, code, named in (
        ({"limit": 13}, "rows-given-twice", "'first' (train)"),
        ({"data": second, "text": "body"}, "rows-not-addable", "text prompt -> body"),
        ({"data": second, "second_moment": "diag"}, "rows-not-addable", "second_moment none -> diag"),
        ({"data": second, "dp_epsilon": 8, "dp_delta": 1e-5}, "rows-not-addable", "privacy none -> epsilon 8"),
        ({"data": second, "limit": 5}, "too-few-inputs", "5 inputs"),
    ):
        with refused(code, named):
            take(adapter, add=True, **chosen)
    with refused("options-exclude-each-other", "--force", "--add"):
        take(adapter, add=True, force=True)
    assert adapter.features.read_bytes() == before
    private = {"dp_epsilon": 8, "dp_delta": 1e-5}
    take(adapter, force=True, **private)
    with refused("rows-not-addable", "--force"):
        take(adapter, data=second, add=True, **private)


def test_added_to_nothing_is_made(adapter):
    assert take(adapter, add=True)[0].state == "made"


def test_adapted_features_are_those_of_the_model_with_this_adapter_alone(tmp_path, backbone, tasks):
    base = backbone()
    members = [write(tmp_path / name, base, tasks[name], n) for n, name in enumerate(("first", "second"), start=1)]
    take(members, source="adapted")
    for member, name in zip(members, ("first", "second"), strict=True):
        bank = AdapterBank(base.model)
        bank.activate([member.deltas()])
        expected = moments_of(base, tasks[name], list(find_sites(base.model)))
        bank.clear()
        read = read_distribution(member.features)
        check_close(read.sites, expected)
        plain = moments_of(base, tasks[name], list(find_sites(base.model)))
        assert torch.allclose(read.sites[V_PROJ[0]].mean, plain[V_PROJ[0]].mean, rtol=1e-5)
        assert not torch.allclose(read.sites[V_PROJ[1]].mean, plain[V_PROJ[1]].mean, rtol=1e-2)
        assert read.record.raw["adapter"] == member.digest


def test_a_dense_merge_has_all_the_data_of_its_parts(tmp_path, backbone, tasks):
    base = backbone()
    members = [write(tmp_path / name, base, tasks[name], n) for n, name in enumerate(("first", "second"), start=1)]
    out = tmp_path / "merged"
    merge_adapters(plan_merge(members, MergeOptions(out=out, strategy="magmax")))
    merged = read_adapter(out)
    assert merged.is_dense
    (result,) = take(merged)
    assert [entry["name"] for entry in result.distribution.record.raw["data"]] == ["first", "second"]
    parts = [moments_of(base, tasks[name], list(find_sites(base.model))) for name in ("first", "second")]
    check_close(read_distribution(merged.features).sites, {site: parts[0][site] + parts[1][site] for site in parts[0]})


def test_too_few_inputs_are_refused(adapter):
    with refused("too-few-inputs", 9, 10, "--min-count 9"):
        take(adapter, limit=9)
    assert not adapter.features.exists()
    assert take(adapter, limit=1, min_count=1)[0].distribution.count == 1


@pytest.mark.parametrize("second", ["none", "diag", "full"])
def test_a_private_release_is_near_the_exact_one_and_new_each_time(adapter, second):
    take(adapter, second_moment=second)
    exact = read_distribution(adapter.features)
    strong = {
        "dp_epsilon": 1e7,
        "dp_delta": 1e-5,
        "dp_clip": 1e3,
    }  # hardly any noise, nothing clipped: what is left is the arithmetic
    take(adapter, second_moment=second, **strong, force=True)
    near = read_distribution(adapter.features)
    for site, one in exact.sites.items():
        assert near.sites[site].count == one.count
        noise = 2 * near.record.raw["privacy"]["radius"][site] * near.record.raw["privacy"]["sigma"] * math.sqrt(4) / 24
        assert (near.sites[site].mean - one.mean).abs().max() < 6 * noise
    found = []
    for _ in range(2):
        take(adapter, second_moment=second, dp_epsilon=8, dp_delta=1e-5, force=True)
        found.append(read_distribution(adapter.features).sites[V_PROJ[0]].mean)
    assert not torch.equal(*found)
    assert take(adapter, second_moment=second, dp_epsilon=8, dp_delta=1e-5)[0].state == "up to date"


def test_a_private_record_states_the_guarantee_and_no_checksum_of_the_data(adapter):
    warned = Signals()
    take(adapter, layer="last", module="v_proj", dp_epsilon=4, dp_delta=1e-5, dp_clip=0.5)
    record = read_distribution(adapter.features).record.raw
    privacy = record["privacy"]
    assert (privacy["epsilon"], privacy["delta"], privacy["clip"], privacy["sites"]) == (4, 1e-5, 0.5, 1)
    assert privacy["sigma"] == noise_multiplier(4, 1e-5)
    assert list(privacy["radius"]) == V_PROJ[1:]
    assert record["data"][0]["fingerprint"] is None
    take(adapter, layer="last", module="v_proj", dp_epsilon=4, dp_delta=0.1, force=True, progress=warned)
    assert len(warned.warnings) == 2
    assert "--dp-delta 0.1 is no less than one in 24 inputs" in warned.warnings[0]
    assert "was a private release with epsilon 4;" in warned.warnings[1]


def test_where_the_noise_is_centred_depends_on_no_private_row(tmp_path, backbone, tasks):
    base = backbone()
    members = [write(tmp_path / name, base, tasks[name], n) for n, name in enumerate(("first", "second"), start=1)]
    take(members, dp_epsilon=8, dp_delta=1e-5)
    one, two = (read_distribution(member.features).record.raw["privacy"] for member in members)
    assert one == two


@pytest.mark.parametrize("family", FAMILIES)
def test_private_releases_work_for_every_kind_of_model(tmp_path, backbone, tasks, family):
    member = write(tmp_path / "first", backbone(family), tasks["first"])
    take(member, dp_epsilon=8, dp_delta=1e-5, second_moment="diag", max_length=100)
    assert all(one.mean.isfinite().all() for one in read_distribution(member.features).sites.values())


def test_a_damaged_distribution_is_told_and_can_be_replaced(tmp_path, backbone, tasks):
    bare = write_bare(tmp_path / "theirs", backbone())
    data = (str(tasks["first"]),)
    take(bare, data=data)
    whole = bare.features.read_bytes()
    for content, code in (
        (whole[:50], "tensor-file-damaged"),
        (whole[:-1] + bytes([whole[-1] ^ 1]), "feature-distribution-damaged"),
    ):
        bare.features.write_bytes(content)
        (member,) = read_package([bare.path])
        with refused(code, bare.features):
            take(member, data=data)
        take(member, data=data, force=True)
        assert bare.features.read_bytes() == whole


def test_another_base_model_is_refused_but_not_forever(tmp_path, adapter, backbone, model_folder, tasks):
    with refused("trained-on-other-base-model", "--model"):
        take(adapter, model=str(model_folder("llama", 1)))
    bare = write_bare(tmp_path / "theirs", backbone())
    data = (str(tasks["first"]),)
    take(bare, data=data, model=str(model_folder("llama", 1)))  # a mistake that nothing can know
    take(bare, data=data, model=str(model_folder("llama", 0)), force=True)
    assert read_adapter(bare.path).base["fingerprint"] == backbone().reference.fingerprint
    with refused("base-model-lacks-layer", "theirs"):
        take(bare, data=data, model=str(model_folder("gpt2")), force=True)


def test_an_input_longer_than_the_model_knows_is_cut_with_a_note(tmp_path, backbone):
    data = write_task(tmp_path / "long")
    lines = (data / "train.jsonl").read_text().splitlines()
    lines[3] = json.dumps({"text": "a boat " * 200, "label": "great"})
    (data / "train.jsonl").write_text("\n".join(lines))
    member = write(tmp_path / "first", backbone("bert"), data)
    told = Signals()
    found = take(member, progress=told)[0].distribution.sites
    assert [note.partition(" has ")[2] for note in told.notes] == [
        "128 positions: prompts are cut to 128 tokens, not to 512"
    ]
    told = Signals()
    same = take(member, max_length=128, force=True, progress=told)[0].distribution.sites
    assert told.notes == []
    assert all(torch.equal(found[site].mean, same[site].mean) for site in found)


@pytest.mark.parametrize("means", ["task", "class", "2"])
def test_numbers_that_overflow_are_not_written(tmp_path, backbone, tasks, means):
    base = backbone()
    with torch.no_grad():
        base.model.get_submodule(V_PROJ[1]).weight[0, 0] = torch.inf
    base.model.save_pretrained(tmp_path / "model")
    base.tokenizer.save_pretrained(tmp_path / "model")
    member = write_bare(tmp_path / "theirs", base)
    with refused("features-not-finite", V_PROJ[1], "--dtype float32"):
        take(member, data=(str(tasks["first"]),), model=str(tmp_path / "model"), means=means, min_count=1)
    assert not member.features.exists()


def test_a_full_disk_leaves_what_was_there(adapter, monkeypatch):
    take(adapter)
    before = contents(adapter.path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "persist", full)
    with refused("cannot-write", "No space left on device"):
        take(adapter, text="body", force=True)
    assert contents(adapter.path) == before


def test_an_interruption_keeps_what_is_complete(tmp_path, backbone, tasks):
    base = backbone()
    members = [write(tmp_path / name, base, tasks[name], n) for n, name in enumerate(("first", "second"), start=1)]
    with refused("interrupted", "1 of 2"):
        take(members, progress=Signals(after=36), batch_size=12)
    assert [member.features.exists() for member in members] == [True, False]
    assert [result.state for result in take(members)] == ["up to date", "made"]


def test_a_plan_tells_sites_and_widths_without_weights(tmp_path, backbone, tasks):
    for family in FAMILIES:
        base = backbone(family)
        member = write(tmp_path / family, base, tasks["first"])
        plan = plan_features([member, member], FeatureOptions(device="cpu"))
        ((job, widths),) = sizes(plan).items()
        assert (job.state, job.count, job.tasks) == ("made", 24, "first")
        take_features(plan)
        assert widths == {site: len(one.mean) for site, one in read_distribution(member.features).sites.items()}


@pytest.fixture
def three(tmp_path, backbone):
    base = backbone()
    members = []
    for stage, (folder, task, data) in enumerate(
        (("a", "mnli", "mnli"), ("b", "both", "x"), ("c", "qa", "qa")), start=1
    ):
        entry = {"name": data, "merged": ["cb", "copa"]} if task == "both" else data_of(data)
        manifest = {"task": task, "data": entry}
        members.append(write_random_adapter(tmp_path / folder, base, stage=stage, manifest=manifest))
    return [*members, write_bare(tmp_path / "theirs", base)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["theirs=t"], [["mnli"], ["cb", "copa"], ["qa"], ["t"]]),
        (["theirs=t", "mnli"], [["mnli"], ["cb", "copa"], ["qa"], ["t"]]),
        (["theirs=t", "mnli=rows.csv", "mnli=more.csv"], [["rows.csv", "more.csv"], ["cb", "copa"], ["qa"], ["t"]]),
        (["theirs=t", "MNLI"], [["MNLI"], ["cb", "copa"], ["qa"], ["t"]]),
        (["theirs=t", "copa"], [["mnli"], ["copa"], ["qa"], ["t"]]),
        (["theirs=t", "c=q"], [["mnli"], ["cb", "copa"], ["q"], ["t"]]),
        (["data/theirs.jsonl", "x/qa/"], [["mnli"], ["cb", "copa"], ["x/qa/"], ["data/theirs.jsonl"]]),
        (["theirs=a=b.csv"], [["mnli"], ["cb", "copa"], ["qa"], ["a=b.csv"]]),
        (["theirs=t", "x/QA.csv.gz"], [["mnli"], ["cb", "copa"], ["x/QA.csv.gz"], ["t"]]),
        (["theirs", "theirs"], [["mnli"], ["cb", "copa"], ["qa"], ["theirs"]]),
    ],
)
def test_data_finds_its_adapter(three, given, expected):
    assert assign_data(three, given) == expected


def test_data_finds_its_adapter_by_path(three):
    assert assign_data(three, [f"{three[3].path}=t"])[3] == ["t"]


@pytest.mark.parametrize(
    ("given", "code", "names"),
    [
        ([], "adapter-names-no-data", ["theirs", "--data theirs=DATA"]),
        (["mnil=rows"], "data-fits-no-adapter", ["--data mnil=rows", "'mnli'", "TASK=DATA", "both"]),
        (["imdb"], "data-fits-no-adapter", ["--data imdb"]),
    ],
)
def test_data_that_fits_no_adapter_is_refused(three, given, code, names):
    with refused(code, *names):
        assign_data(three, given)


def test_one_adapter_takes_all_data(three):
    assert assign_data(three[:1], []) == [["mnli"]]
    assert assign_data(three[:1], ["imdb", "x=b"]) == [["imdb", "x=b"]]
    assert assign_data(three[:1], ["mnli=imdb", "cb"]) == [["imdb", "cb"]]


def test_equal_rows_under_two_names_are_refused(adapter, tasks, tmp_path):
    twin = tmp_path / "twin"
    twin.symlink_to(tasks["first"])
    with refused("rows-given-twice", "'first'"):
        take(adapter, data=(str(tasks["first"]), str(twin)))


@pytest.mark.parametrize(
    ("chosen", "code", "names"),
    [
        ({"source": "bse"}, "option-choice-unknown", ["--source bse", "base, adapted"]),
        ({"pool": "mean"}, "option-choice-unknown", ["--pool mean"]),
        ({"text": "all"}, "option-choice-unknown", ["--text all"]),
        ({"second_moment": "yes"}, "option-choice-unknown", ["--second-moment yes"]),
        ({"means": "0"}, "option-choice-unknown", ["--means 0"]),
        ({"means": "4", "dp_epsilon": 1.0, "dp_delta": 1e-5}, "options-exclude-each-other", ["--means"]),
        ({"split": "tran"}, "option-choice-unknown", ["--split tran"]),
        ({"dtype": "int8"}, "option-choice-unknown", ["--dtype int8"]),
        ({"layer": "-1"}, "option-choice-unknown", ["--layer -1"]),
        ({"layer": "9" * 5000}, "option-choice-unknown", ["--layer 999"]),
        ({"means": "0"}, "option-choice-unknown", ["--means 0"]),
        ({"means": "9" * 5000}, "option-choice-unknown", ["--means 999"]),
        ({"limit": -1}, "option-out-of-range", ["--limit -1", "at least 0"]),
        ({"batch_size": 0}, "option-out-of-range", ["--batch-size 0", "at least 1"]),
        ({"min_count": -1}, "option-out-of-range", ["--min-count -1"]),
        ({"max_length": 0}, "option-out-of-range", ["--max-length 0"]),
        (
            {"source": "adapted", "dp_epsilon": 1, "dp_delta": 1e-5},
            "options-exclude-each-other",
            ["--dp-epsilon", "--source base"],
        ),
    ],
)
def test_wrong_options_are_refused(chosen, code, names):
    with refused(code, *names, error=OptionError):
        FeatureOptions(**chosen)
