"""What an export holds is what the adapters are, in the form that each loader takes, by its own rules."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
from parts import write_parts
from refusals import refused
from safetensors.torch import load_file
from support import Signals, config_of, contents, manifest_of, random_factors, write_random_adapter

from clora_cli.algebra.lora import factor_keys
from clora_cli.model.gguf_layout import layout_of_config
from clora_cli.options import LOADERS, ExportOptions, PushOptions
from clora_cli.store.adapter_folder import read_adapter
from clora_cli.store.adapter_writing import write_adapter
from clora_cli.store.package import read_package
from clora_cli.transforming.exporting import export_package, plan_export
from clora_cli.transforming.loaders import called_by_ollama, is_ollama_base
from clora_cli.transforming.publishing import push_package

SERVERS = ("peft", "vllm", "sglang", "lorax")


@pytest.fixture
def base(backbone):
    return backbone("llama")


def export(paths, out, **chosen):
    paths = paths if isinstance(paths, list) else [paths]
    return export_package(plan_export(read_package(paths), ExportOptions(out=out, **chosen)))[0]


def deltas(folder: Path) -> dict[str, torch.Tensor]:
    return {site: factor.delta() for site, factor in read_adapter(folder).factors().items()}


def patterned(folder: Path, base, **changes):
    """Write an adapter whose layers differ in rank and alpha, under rsLoRA."""
    factors, tensors, ranks = random_factors(base.model, 5, 3), {}, {}
    for number, (site, pair) in enumerate(sorted(factors.items())):
        rank, (key_a, key_b) = 1 + number % 3, factor_keys(site)
        tensors |= {key_a: pair.a[:rank].contiguous(), key_b: pair.b[:, :rank].contiguous()}
        ranks[site] = rank
    config = {**config_of(base, factors, 3, 6), "use_rslora": True, "rank_pattern": ranks, **changes}
    config["alpha_pattern"] = {site: 5.0 for site, rank in ranks.items() if rank == 2}
    manifest = manifest_of(folder.name, 1, base.reference)
    return write_adapter(folder, tensors, config, manifest, {"README.md": "card\n"})


@pytest.mark.parametrize("loader", SERVERS)
def test_ranks_alphas_and_rslora_are_folded_into_one_rank_and_one_scaling(base, tmp_path, loader):
    source = patterned(tmp_path / "in" / "mixed", base)
    folder = export(source.path, tmp_path / "out", loader=loader, model=str(base.reference.path)) / "mixed"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["lora_alpha"] == config["r"]
    assert not config["use_rslora"]
    assert not {"rank_pattern", "alpha_pattern"} & {key for key, value in config.items() if value}
    tensors = load_file(folder / "adapter_model.safetensors")
    assert {t.shape[0] for key, t in tensors.items() if "lora_A" in key} == {config["r"]}
    exact = deltas(source.path)
    for site, delta in exact.items():
        a, b = (tensors[key] for key in factor_keys(site))
        assert torch.allclose(b @ a, delta, atol=1e-6)
    assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


@pytest.mark.parametrize(
    ("loader", "needed", "written"), [("vllm", 2, 8), ("vllm", 9, 16), ("lorax", 9, 16), ("sglang", 9, 9)]
)
def test_a_rank_is_filled_up_to_one_that_the_server_has(base, tmp_path, loader, needed, written):
    source = write_random_adapter(tmp_path / "in" / "one", base, stage=1, rank=needed)
    out = export(source.path, tmp_path / "out", loader=loader, model=str(base.reference.path))
    assert json.loads((out / "one" / "adapter_config.json").read_text())["r"] == written


def test_adapters_that_add_up_are_one_adapter(base, tmp_path):
    members = [write_random_adapter(tmp_path / "in" / name, base, stage=n, rank=2) for n, name in enumerate("ab", 1)]
    out = export(tmp_path / "in", tmp_path / "out", loader="vllm")
    assert [path.name for path in sorted(out.iterdir())] == ["clora-export.json", "sum"]
    served = deltas(out / "sum")
    for site, delta in deltas(members[0].path).items():
        assert torch.allclose(served[site], delta + deltas(members[1].path)[site], atol=1e-6)


def test_a_cut_keeps_the_largest_part_and_tells_how_much(base, tmp_path):
    for n, name in enumerate("ab", 1):
        write_random_adapter(tmp_path / "in" / name, base, stage=n, rank=2)
    plan = plan_export(read_package([tmp_path / "in"]), ExportOptions(out=tmp_path / "out", rank=3))
    assert 0.5 < plan.served[0].energy < 1
    assert plan.served[0].rank == 3


def test_parts_of_one_lora_are_served_apart_without_their_masks(base, tmp_path):
    write_parts(tmp_path / "in", base, ["a", "b"])
    out = export(tmp_path / "in", tmp_path / "out", loader="vllm")
    for name in "ab":
        exact = deltas(tmp_path / "in" / name)
        assert all(torch.allclose(delta, exact[site], atol=1e-6) for site, delta in deltas(out / name).items())
        assert len(list((out / name).iterdir())) == 2


def test_lorax_gets_zeros_for_layers_that_an_adapter_leaves_out(base, tmp_path):
    source = write_random_adapter(tmp_path / "in" / "one", base, stage=1, targets=["model.layers.1.self_attn.q_proj"])
    out = export(source.path, tmp_path / "out", loader="lorax", model=str(base.reference.path))
    found = deltas(out / "one")
    assert set(found) == {f"model.layers.{number}.self_attn.q_proj" for number in (0, 1)}
    assert not found["model.layers.0.self_attn.q_proj"].any()


def test_that_new_versions_of_ollama_refuse_adapters_is_told(base, tmp_path):
    source, told = write_random_adapter(tmp_path / "in" / "one", base, stage=1), Signals()
    pytest.importorskip("gguf")
    plan_export([source], ExportOptions(out=tmp_path / "out", loader="ollama", model=str(base.reference.path)), told)
    assert any("--model BASE.gguf" in note for note in told.notes)


def test_vllms_resolver_finds_an_adapter_by_the_name_of_folder_and_base_model(base, tmp_path):
    source = write_random_adapter(tmp_path / "in" / "one", base, stage=1)
    out = export(source.path, tmp_path / "out", loader="vllm", base_name="org/served")
    config = json.loads((out / "one" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["base_model_name_or_path"]) == ("LORA", "org/served")
    assert config["target_modules"] == ["q_proj", "v_proj"]


def test_peft_answers_from_an_export_as_from_the_adapter(base, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    source = patterned(tmp_path / "in" / "mixed", base)
    out = export(source.path, tmp_path / "out", loader="peft")
    ids = torch.arange(3, 11)[None]
    answers = []
    for folder in (source.path, out / "mixed"):
        model = AutoModelForCausalLM.from_pretrained(base.reference.path)
        answers.append(PeftModel.from_pretrained(model, folder)(input_ids=ids).logits)
    assert torch.allclose(*answers, atol=1e-4)


@pytest.mark.parametrize("loader", ["llama.cpp", "ollama"])
def test_gguf_holds_the_same_deltas_with_rotated_rows_side_by_side(base, tmp_path, loader):
    gguf = pytest.importorskip("gguf")
    source = patterned(tmp_path / "in" / "mixed", base)
    folder = export(source.path, tmp_path / "out", loader=loader, model=str(base.reference.path)) / "mixed"
    reader = gguf.GGUFReader(folder / "adapter.gguf")
    fields = {key: field.contents() for key, field in reader.fields.items()}
    assert (fields["general.type"], fields["adapter.type"], fields["general.architecture"]) == (
        "adapter",
        "lora",
        "llama",
    )
    tensors = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in reader.tensors}
    heads = {"q": base.model.config.num_attention_heads, "k": base.model.config.num_key_value_heads}
    for site, delta in deltas(source.path).items():
        number, kind = site.split(".")[2], site.split(".")[-1][0]
        a, b = (tensors[f"blk.{number}.attn_{kind}.weight.lora_{side}"] for side in "ab")
        there = fields["adapter.lora.alpha"] / b.shape[1] * b @ a
        if kind in heads:  # undone: two numbers that one rotation turns stand half a head apart in Transformers
            there = there.reshape(heads[kind], -1, 2, delta.shape[1]).transpose(1, 2).reshape(delta.shape)
        assert torch.allclose(there, delta, atol=1e-6)


def test_ollama_gets_a_model_with_the_adapter_in_it_where_the_base_is_gguf(base, tmp_path):
    gguf = pytest.importorskip("gguf")
    from gguf_files import write_gguf
    from transformers import AutoModelForCausalLM

    file = write_gguf(base.reference.path, tmp_path / "base.gguf")
    source = write_random_adapter(tmp_path / "in" / "one", base, stage=1)
    folder = export(source.path, tmp_path / "out", loader="ollama", model=str(file)) / "one"
    assert (folder / "Modelfile").read_text().splitlines()[:2] == ["FROM ./model.gguf", 'TEMPLATE """{{ .Prompt }}"""']
    before, after = (gguf.GGUFReader(path) for path in (file, folder / "model.gguf"))
    assert before.fields.keys() - {"GGUF.kv_count"} <= after.fields.keys()
    changed = {a.name for a, b in zip(before.tensors, after.tensors, strict=True) if (a.data != b.data).any()}
    assert changed == {f"blk.{number}.attn_{kind}.weight" for number in (0, 1) for kind in "qv"}
    both = AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf").state_dict()
    weights = base.model.state_dict()
    for site, delta in deltas(source.path).items():
        assert torch.allclose(both[f"{site}.weight"], weights[f"{site}.weight"] + delta, atol=1e-5)


def test_an_export_is_made_once_and_another_is_not_replaced_unasked(base, tmp_path):
    source = write_random_adapter(tmp_path / "in" / "one", base, stage=1)
    options = ExportOptions(out=tmp_path / "out")
    plan = plan_export([source], options)
    assert export_package(plan)[1]
    before = contents(tmp_path / "out")
    assert not export_package(plan)[1]
    other = plan_export([source], ExportOptions(out=tmp_path / "out", loader="vllm"))
    with refused("output-differs", tmp_path / "out"):
        export_package(other)
    assert contents(tmp_path / "out") == before
    assert export_package(other, force=True)[1]
    (tmp_path / "out" / "clora-export.json").write_text("{")
    with refused("file-damaged", "clora-export.json"):
        export_package(other)
    assert export_package(other, force=True)[1]
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "notes.txt").write_text("mine\n")
    with refused("output-not-an-export", tmp_path / "else"):
        export_package(plan_export([source], ExportOptions(out=tmp_path / "else")), force=True)


def test_nothing_is_written_into_the_package_that_is_read(base, tmp_path):
    package = tmp_path / "in"
    write_random_adapter(package / "one", base, stage=1)
    members, before = read_package([package]), contents(package)
    for out in (package / "out", package, tmp_path):
        with refused("output-would-change-input", "--out", package):
            plan_export(members, ExportOptions(out=out), packages=[package])
        with refused("output-would-change-input", "target", package):
            push_package(members, str(out), PushOptions(license="mit", base_name="b"), force=True, packages=[package])
    assert contents(package) == before


def test_what_a_server_would_load_wrongly_is_refused_with_the_reason(base, backbone, tmp_path):
    table = write_random_adapter(tmp_path / "t" / "odd", base, stage=1, targets=["lm_head"])
    with refused("loader-takes-no-such-adapter", "sglang", "lm_head"):
        export(table.path, tmp_path / "out", loader="sglang")
    with refused("layer-unknown-to-loader", "lm_head"):
        export(table.path, tmp_path / "out", loader="llama.cpp", model=str(base.reference.path))
    big = write_random_adapter(tmp_path / "b" / "big", base, stage=1, rank=130)
    with refused("rank-too-large-for-loader", 130, 128, "--rank"):
        export(big.path, tmp_path / "out", loader="lorax", model=str(base.reference.path))
    both = backbone("t5")
    encoder = write_random_adapter(tmp_path / "e" / "enc", both, stage=1)
    with refused("loader-takes-no-such-adapter", "vllm", "encoder"):
        export(encoder.path, tmp_path / "out", loader="vllm")
    with refused("architecture-unknown-to-loader", "t5"):
        export(encoder.path, tmp_path / "out", loader="llama.cpp", model=str(both.reference.path))
    assert not (tmp_path / "out").exists()


def test_a_foreign_adapters_word_for_its_base_model_adds_no_line_to_a_modelfile(base, tmp_path):
    source = write_random_adapter(tmp_path / "in" / "one", base, stage=1)
    (source.path / "clora.json").unlink()
    config = source.path / "adapter_config.json"
    model = str(base.reference.path)
    for name, code in (("x y", "base-name-malformed"), (None, "option-missing")):
        config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": name}))
        with refused(code):
            export(source.path, tmp_path / "out", loader="ollama", model=model)
    with refused("base-name-malformed"):
        export(source.path, tmp_path / "out", loader="vllm", base_name="x\nADAPTER /etc/passwd")
    folder = export(source.path, tmp_path / "out", loader="ollama", model=model, base_name="smollm2")
    assert (folder / "one" / "Modelfile").read_text().startswith("FROM smollm2\nADAPTER ./adapter.gguf\n")


def test_what_is_weighed_input_by_input_or_merged_is_refused_with_what_to_do(base, tmp_path):
    for way, advice in (("learned", "--combine each"), ("ties", "--strategy ties")):
        for n, name in enumerate("ab", 1):
            write_random_adapter(tmp_path / way / name, base, stage=n, combine=way)
        with refused("combination-not-exported", way, advice):
            plan_export(read_package([tmp_path / way]), ExportOptions(out=tmp_path / "out"))


def test_dora_is_refused_for_every_loader(base, tmp_path):
    source = write_random_adapter(tmp_path / "in" / "one", base, stage=1)
    config = source.path / "adapter_config.json"
    (source.path / "clora.json").unlink()
    config.write_text(json.dumps({**json.loads(config.read_text()), "use_dora": True}))
    for loader in LOADERS:
        with refused("adapter-not-plain-lora", "use_dora"):
            export(source.path, tmp_path / "out", loader=loader, model=str(base.reference.path))


def test_the_model_that_is_given_must_be_the_adapters_own(base, model_folder, tmp_path):
    source = write_random_adapter(tmp_path / "in" / "one", base, stage=1)
    with refused("trained-on-other-base-model", source.path):
        export(source.path, tmp_path / "out", loader="llama.cpp", model=str(model_folder("llama", 1)))


def test_a_layer_of_another_shape_than_in_the_models_file_is_refused():
    import dataclasses

    config = {"model_type": "llama", "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2}
    layout = dataclasses.replace(layout_of_config(config, "m"), shapes={"blk.0.attn_q.weight": (32, 32)})
    layout.check("blk.0.attn_q.weight", (32, 32), "site")
    for name, shape in (("blk.0.attn_q.weight", (16, 32)), ("blk.9.attn_q.weight", (32, 32))):
        with refused("layer-shape-differs", name):
            layout.check(name, shape, "site")


def test_ollama_gets_names_that_it_takes_and_no_two_alike(base, tmp_path):
    pytest.importorskip("gguf")
    names = ["Großes Auto", "情感", "評判", "first", "FIRST", "-x", "l" * 90]
    for stage, name in enumerate(names, 1):
        write_random_adapter(tmp_path / "in" / name, base, stage=stage)
    model, told = str(base.reference.path), Signals()
    options = ExportOptions(out=tmp_path / "out", loader="ollama", model=model, combine="each")
    plan = plan_export(read_package([tmp_path / "in"]), options, told)
    called = called_by_ollama([each.name for each in plan.served])
    assert called == dict(
        zip(names, ["Groes-Auto", "adapter", "adapter-2", "first", "FIRST-2", "x", "l" * 80], strict=True)
    )
    assert sum("it is called" in note for note in told.notes) == 6


@pytest.mark.parametrize("name", ["naïve", "a/b/c/d", "x y", "-x", "x:", "m" * 81, "x@sha256"])
def test_ollama_is_given_no_base_model_by_a_name_that_it_refuses(base, tmp_path, name):
    pytest.importorskip("gguf")
    source = write_random_adapter(tmp_path / "in" / "one", base, stage=1)
    with refused("base-name-malformed", name):
        export(source.path, tmp_path / "out", loader="ollama", model=str(base.reference.path), base_name=name)
    taken = (
        "smollm2",
        "Smollm2:135m",
        "me/smollm2",
        "host:5000/me/smollm2:latest",
        "https://h/me/m",
        "/models/smollm2",
    )
    assert all(map(is_ollama_base, taken))


def test_the_call_tells_names_that_hold_what_stands_between_them_as_json(base, tmp_path):
    from clora_cli.cli.export import _call

    for stage, name in enumerate(("plain", "a=b,c"), 1):
        write_random_adapter(tmp_path / "in" / name, base, stage=stage)
    for loader, name, path in (("vllm", "name", "path"), ("sglang", "lora_name", "lora_path")):
        plan = plan_export(
            read_package([tmp_path / "in"]), ExportOptions(out=Path("out"), loader=loader, combine="each")
        )
        words = shlex.split(_call(plan).splitlines()[0])
        assert words[-2] == "plain=out/plain"
        assert json.loads(words[-1]) == {name: "a=b,c", path: "out/a=b,c"}
