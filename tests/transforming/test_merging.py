from __future__ import annotations

import json
import shutil

import pytest
import torch
from parts import write_parts
from peft import LoraConfig, PeftModel, get_peft_model
from refusals import refused
from safetensors.torch import load_file
from support import contents, random_factors, write_random_adapter
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from clora_cli.algebra.lora import recompress
from clora_cli.base import registry
from clora_cli.base.errors import OptionError
from clora_cli.merges import merge_sites
from clora_cli.model.bank import AdapterBank
from clora_cli.options import MergeOptions
from clora_cli.store.adapter_folder import read_adapter
from clora_cli.store.adapter_writing import write_adapter
from clora_cli.store.package import read_package
from clora_cli.transforming import merge_adapters, plan_merge

INPUT = torch.tensor([[5, 9, 17, 33]])
STRATEGIES = [name for name in registry.names("merges") if name != "fisher"]


@pytest.fixture
def package(tmp_path, backbone):
    base = backbone("llama")
    for stage, (task, rank, alpha) in enumerate((("first", 2, 4), ("second", 3, 3), ("third", 1, 8)), start=1):
        write_random_adapter(tmp_path / "adapters" / task, base, stage=stage, rank=rank, alpha=alpha)
    return read_package([tmp_path / "adapters"])


def merged(members, out, **chosen):
    plan = plan_merge(members, MergeOptions(out=out, **chosen))
    merge_adapters(plan)
    return out


def dense(folder):
    return {
        site: delta if isinstance(delta, torch.Tensor) else delta.delta()
        for site, delta in read_adapter(folder).deltas().items()
    }


def expected(members, strategy, weights=None, seed=42):
    merge = registry.load("merges", strategy)()
    weights = torch.ones(len(members)) if weights is None else torch.tensor(weights)
    sites = merge_sites(merge, [member.deltas() for member in members], weights, seed=seed)
    if merge.refactors:
        rank = max(factor.rank for member in members for factor in member.factors().values())
        sites = ((site, recompress(delta, rank)[0]) for site, delta in sites)
    return {site: delta if isinstance(delta, torch.Tensor) else delta.delta() for site, delta in sites}


def test_the_sum_is_one_exact_lora(package, tmp_path):
    out = merged(package, tmp_path / "merged")
    factors = read_adapter(out).factors()
    assert {factor.rank for factor in factors.values()} == {6}
    total = {site: sum(member.factors()[site].delta() for member in package) for site in factors}
    assert all(torch.allclose(factors[site].delta(), total[site], atol=1e-6) for site in factors)


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5", "encoder-decoder"])
def test_peft_loads_a_merge_and_computes_what_the_bank_computes(tmp_path, backbone, family):
    base, other = backbone(family), backbone(family)
    members = [write_random_adapter(tmp_path / name, base, stage=n) for n, name in enumerate(("one", "two"), start=1)]
    out = merged(members, tmp_path / "merged")
    inputs = {"input_ids": INPUT} | ({} if base.kind == "causal" else {"decoder_input_ids": INPUT})
    AdapterBank(base.model.double()).activate([member.factors() for member in members])
    loaded = PeftModel.from_pretrained(other.model, out).eval().double()
    assert torch.allclose(base.model(**inputs).logits, loaded(**inputs).logits, atol=1e-4)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_dense_is_what_is_asked_for_whatever_the_strategy(package, tmp_path, model_folder, strategy):
    model = str(model_folder("llama"))
    out = merged(package, tmp_path / "merged", strategy=strategy, dense=True, model=model)
    assert sorted(file.name for file in out.iterdir()) == ["README.md", "clora.json", "deltas.safetensors"]
    if "base" not in registry.load("merges", strategy)().needs:
        for site, delta in expected(package, strategy).items():
            assert torch.equal(dense(out)[site], delta)
    again = merged(package, tmp_path / "again" / "merged", strategy=strategy, dense=True, model=model)
    assert contents(out) == contents(again)


def test_what_is_cut_is_the_best_of_its_rank_and_its_energy_is_told(package, tmp_path):
    for strategy in ("sum", "magmax"):
        out = merged(package, tmp_path / strategy, strategy=strategy, rank=3)
        kept = whole = 0.0
        for site, delta in expected(package, strategy).items():
            values = torch.linalg.svdvals(delta.double()).square()
            kept, whole = kept + values[:3].sum().item(), whole + values.sum().item()
            error = (dense(out)[site].double() - delta.double()).square().sum().item()
            assert error == pytest.approx(values[3:].sum().item(), rel=1e-4, abs=1e-9)
        energy = read_adapter(out).manifest.raw["scores"]["energy"]
        assert energy["kept"] == pytest.approx(kept / whole)
        assert 0 < energy["worst"] <= energy["kept"] < 1


def test_svd_takes_the_largest_rank_among_the_adapters(package, tmp_path):
    out = merged(package, tmp_path / "merged", strategy="svd")
    assert read_adapter(out).config["r"] == 3


def test_weights_signs_and_a_dense_merge_as_input(package, tmp_path):
    out = merged(package, tmp_path / "merged", strategy="linear", weights=(1.0, -0.5, 2.0))
    for site, delta in expected(package, "linear", [1.0, -0.5, 2.0]).items():
        assert torch.allclose(dense(out)[site], delta, atol=1e-6)
    first = read_adapter(merged(package[:2], tmp_path / "magmax", strategy="magmax"))
    both = dense(merged([first, package[2]], tmp_path / "both", strategy="magmax"))
    assert all(torch.equal(both[site], delta) for site, delta in expected(package, "magmax").items())


@pytest.mark.parametrize(
    ("family", "loader"),
    [("llama", AutoModelForCausalLM), ("gpt2", AutoModelForCausalLM), ("t5", AutoModelForSeq2SeqLM)],
)
def test_a_whole_model_loads_in_transformers_and_computes_what_the_adapters_compute(tmp_path, backbone, family, loader):
    base = backbone(family)
    members = [write_random_adapter(tmp_path / name, base, stage=n) for n, name in enumerate(("one", "two"), start=1)]
    out = merged(members, tmp_path / "model", into_model=tmp_path / "model")
    inputs = {"input_ids": INPUT} | ({} if base.kind == "causal" else {"decoder_input_ids": INPUT})
    AdapterBank(base.model).activate([member.factors() for member in members])
    whole = loader.from_pretrained(out, dtype=torch.float32).eval()
    assert torch.allclose(base.model(**inputs).logits, whole(**inputs).logits, atol=2e-3)
    before = load_file(base.reference.path / "model.safetensors")
    after = load_file(out / "model.safetensors")
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    sites = {site for member in members for site in member.factors()}
    assert len(changed) == len(sites) and set(before) == set(after)
    assert (out / "tokenizer.json").read_bytes() == (base.reference.path / "tokenizer.json").read_bytes()


def test_shards_are_written_one_by_one(package, tmp_path, backbone):
    base = backbone("llama")
    sharded = tmp_path / "sharded"
    base.model.save_pretrained(sharded, max_shard_size="20KB")
    shards = sorted(file.name for file in sharded.glob("*.safetensors"))
    assert len(shards) > 2
    (sharded / "tokenizer.json").write_text("{}")
    whole = merged(package, tmp_path / "model", into_model=tmp_path / "model")
    parts = merged(package, tmp_path / "parts", into_model=tmp_path / "parts", model=str(sharded))
    assert sorted(file.name for file in parts.glob("*.safetensors")) == shards
    united = {key: tensor for shard in shards for key, tensor in load_file(parts / shard).items()}
    one = load_file(whole / "model.safetensors")
    assert united.keys() == one.keys() and all(torch.equal(united[key], one[key]) for key in one)
    assert json.loads((parts / "clora.json").read_text())["schema"] == "clora.model/1"


def test_half_precision_weights_are_rounded_once(package, tmp_path, backbone):
    base = backbone("llama")
    half = tmp_path / "half"
    base.model.to(torch.bfloat16).save_pretrained(half)
    for member in package:
        (member.path / "clora.json").unlink()  # it names the model in float32
    package = read_package([member.path for member in package])
    out = merged(package, tmp_path / "model", into_model=tmp_path / "model", model=str(half))
    before, after = load_file(half / "model.safetensors"), load_file(out / "model.safetensors")
    for site, delta in expected(package, "sum").items():
        key = f"{site}.weight"
        assert after[key].dtype == torch.bfloat16
        assert torch.equal(after[key], (before[key].float() + delta).to(torch.bfloat16))


def write_bare(folder, backbone, **settings):
    """Write an adapter as PEFT itself writes it."""
    model = get_peft_model(backbone.model, LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj"], **settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    model.save_pretrained(folder)
    return folder


def test_folders_of_another_tool_merge_too(tmp_path, backbone):
    one = write_bare(tmp_path / "a" / "default", backbone())
    two = write_bare(tmp_path / "b" / "default", backbone(), use_rslora=True)
    members = read_package([one, two], distinct=False)
    out = merged(members, tmp_path / "merged")
    site = "model.layers.0.self_attn.q_proj"
    parts = [load_file(folder / "adapter_model.safetensors") for folder in (one, two)]
    scalings = (3 / 2, 3 / 2**0.5)
    keys = [f"base_model.model.{site}.lora_{side}.weight" for side in "BA"]
    total = sum(s * part[keys[0]] @ part[keys[1]] for s, part in zip(scalings, parts, strict=True))
    assert torch.allclose(dense(out)[site], total, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "lora_only"}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "lm_head"),
    ],
)
def test_what_is_more_than_a_low_rank_delta_is_refused_with_the_reason(tmp_path, backbone, settings, reason):
    folder = write_bare(tmp_path / "odd", backbone(), **settings)
    with refused("adapter-not-plain-lora", folder, reason):
        merged(read_package([folder]), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_other_base_models_are_refused(package, tmp_path, backbone):
    stranger = write_random_adapter(tmp_path / "stranger", backbone("llama", 1), stage=1)
    with refused("base-models-differ", "llama-0", "llama-1"):
        read_package([package[0].path, stranger.path])
    for name, folder in (
        ("left", write_bare(tmp_path / "left", backbone())),
        ("right", write_bare(tmp_path / "right", backbone())),
    ):
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(
            json.dumps({**config, "base_model_name_or_path": f"someone/{name}"})
        )
    with refused("base-models-differ", "someone/left", "someone/right", "--model"):
        merged(read_package([tmp_path / "left", tmp_path / "right"]), tmp_path / "merged")
    with refused("trained-on-other-base-model", "--model"):
        merged(package, tmp_path / "merged", model=str(backbone("llama", 1).reference.path))


def test_layers_of_two_shapes_are_refused(package, tmp_path, backbone):
    factors = random_factors(backbone("llama").model, 1, 2)
    tensors = {}
    for site, factor in factors.items():
        tensors |= {
            f"base_model.model.{site}.lora_A.weight": factor.a[:, :8],
            f"base_model.model.{site}.lora_B.weight": factor.b,
        }
    manifest = {key: value for key, value in package[0].manifest.raw.items() if key not in {"schema", "files"}}
    odd = write_adapter(tmp_path / "odd", tensors, package[0].config, manifest | {"task": "odd"}, {})
    with refused("layer-shapes-differ", (32, 32), (32, 8)):
        merged([package[0], odd], tmp_path / "merged")


def test_equal_merges_are_up_to_date_and_others_are_not_overwritten(package, tmp_path):
    out = merged(package, tmp_path / "merged", strategy="magmax")
    before = contents(out)
    path, _, made = merge_adapters(plan_merge(package, MergeOptions(out=out, strategy="magmax")))
    assert (path, made, contents(out)) == (out, False, before)
    other = plan_merge(package, MergeOptions(out=out, strategy="sum"))
    with refused("output-made-differently"):
        merge_adapters(other)
    assert contents(out) == before
    assert merge_adapters(other, force=True)[2]
    (tmp_path / "notes").mkdir()
    with refused("output-not-an-adapter", "notes"):
        merge_adapters(plan_merge(package, MergeOptions(out=tmp_path / "notes")))
    with refused("output-exists", "--into-model"):
        merge_adapters(plan_merge(package, MergeOptions(into_model=out)))


@pytest.mark.parametrize(
    ("chosen", "code", "names"),
    [
        ({"rank": -1}, "option-out-of-range", ["--rank -1"]),
        ({"rank": 2, "dense": True}, "options-exclude-each-other", ["--rank", "--dense"]),
        ({"weights": (1.0,)}, "merge-weight-count-differs", ["--weights", "1 weights", "3 adapters"]),
        ({"weights": (1.0, float("nan"), 1.0)}, "merge-weights-not-finite", ["--weights nan"]),
        ({"weights": (1.0, 2.0, 1.0)}, "option-has-no-effect", ["--weights", "--strategy linear"]),
        ({"dtype": "int8"}, "option-choice-unknown", ["--dtype int8"]),
        ({"strategy": "magmx"}, "unknown-name", ["'magmx'", "'magmax'"]),
        ({"strategy_options": {"density": "0.2"}}, "unknown-name", ["sum", "'density'"]),
    ],
)
def test_wrong_options_are_refused(package, tmp_path, chosen, code, names):
    with refused(code, *names, error=OptionError):
        merged(package, tmp_path / "merged", **chosen)


def test_a_damaged_result_is_refused_when_it_is_read(package, tmp_path):
    out = merged(package, tmp_path / "merged", strategy="magmax")
    cut = shutil.copytree(out, tmp_path / "cut")
    (cut / "deltas.safetensors").write_bytes((out / "deltas.safetensors").read_bytes()[:-4])
    with refused("adapter-file-changed", "deltas.safetensors"):
        read_adapter(cut)
    (cut / "clora.json").unlink()
    with refused("dense-deltas-without-manifest", "clora.json"):
        read_adapter(cut)


def test_a_new_adapter_may_be_trained_on_top_of_a_dense_merge(package, tmp_path, model_folder, tasks):
    from support import train

    merged(package, tmp_path / "later" / "merged", strategy="magmax")
    folder = train(model_folder("llama"), tasks["first"], tmp_path / "later", method="o-lora")
    assert [parent["task"] for parent in folder.manifest.raw["parents"]] == ["merged"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_parts_of_one_lora_merge_back_into_it_bit_by_bit(tmp_path, backbone, count):
    base = backbone("llama")
    members = read_package([write_parts(tmp_path / "adapters", base, ["one", "two", "three"][:count])])
    plan = plan_merge(members, MergeOptions(out=tmp_path / "merged"))
    assert plan.total_rank == 4
    merge_adapters(plan)
    config = json.loads((tmp_path / "merged" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    found = load_file(tmp_path / "merged" / "adapter_model.safetensors")
    tensors = [load_file(member.weights) for member in members]
    assert found.keys() == tensors[0].keys()
    for key, tensor in found.items():
        expected = sum(one[key] for one in tensors) if "lora_B" in key else tensors[0][key]
        assert torch.equal(tensor, expected), key


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5", "encoder-decoder"])
def test_peft_computes_with_the_one_lora_what_the_bank_computes_with_its_parts(tmp_path, backbone, family):
    base, other = backbone(family), backbone(family)
    members = read_package([write_parts(tmp_path / "adapters", base, ["one", "two", "three"])])
    out = merged(members, tmp_path / "merged")
    inputs = {"input_ids": INPUT} | ({} if base.kind == "causal" else {"decoder_input_ids": INPUT})
    bare = base.model(**inputs).logits
    AdapterBank(base.model).activate([member.factors() for member in members])
    loaded = PeftModel.from_pretrained(other.model, out).eval()
    assert (base.model(**inputs).logits - bare).abs().max() > 0.1
    assert torch.allclose(base.model(**inputs).logits, loaded(**inputs).logits, atol=1e-4)


def test_an_average_of_parts_keeps_their_rank_too(tmp_path, backbone):
    members = read_package([write_parts(tmp_path / "adapters", backbone("llama"), ["one", "two"])])
    for strategy, weights in (("average", ()), ("linear", (0.5, -2.0))):
        out = merged(members, tmp_path / strategy, strategy=strategy, weights=weights)
        assert {factor.rank for factor in read_adapter(out).factors().values()} == {4}
        for site, delta in expected(members, strategy, list(weights or (1.0, 1.0))).items():
            assert torch.allclose(dense(out)[site], delta, atol=1e-6)
        naive = weights or (0.5, 0.5)
        total = {s: sum(w * m.factors()[s].delta() for w, m in zip(naive, members, strict=True)) for s in dense(out)}
        assert all(torch.allclose(dense(out)[site], one, atol=1e-6) for site, one in total.items())


def test_parts_beside_an_adapter_of_its_own_add_up_to_both_ranks(package, tmp_path, backbone):
    parts = read_package([write_parts(tmp_path / "parts", backbone("llama"), ["one", "two"])])
    plan = plan_merge([*parts, package[1]], MergeOptions(out=tmp_path / "merged"))
    assert plan.total_rank == 4 + 3
    merge_adapters(plan)
    total = {site: sum(m.factors()[site].delta() for m in (*parts, package[1])) for site in plan.shapes}
    assert all(torch.allclose(dense(tmp_path / "merged")[site], one, atol=1e-6) for site, one in total.items())


def test_a_single_adapter_merges_into_itself_with_its_own_scaling(tmp_path, backbone):
    """Under rsLoRA too, whose scaling no other pair of rank and alpha need give."""
    folder = write_bare(tmp_path / "one", backbone(), use_rslora=True)
    out = merged(read_package([folder]), tmp_path / "merged")
    before, after = (load_file(path / "adapter_model.safetensors") for path in (folder, out))
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert {factor.scaling for factor in read_adapter(out).factors().values()} == {3 / 2**0.5}


@pytest.mark.parametrize("force", [False, True])
def test_a_package_is_never_replaced_by_a_merge(package, tmp_path, force):
    before = contents(tmp_path)
    plan = plan_merge(package, MergeOptions(out=package[0].path.parent))
    with refused("output-not-an-adapter", package[0].path.parent):
        merge_adapters(plan, force=force)
    assert contents(tmp_path) == before
