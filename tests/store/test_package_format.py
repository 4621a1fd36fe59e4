"""One test for each numbered MUST of docs/package-format.md, by its number."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from encoders import scored
from parts import write_parts
from prompted import peft_prompt
from refusals import refused
from routed import write_routable
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support import FAMILIES, contents, options_for, train, write_random_adapter

from clora_cli.algebra.lora import factor_keys
from clora_cli.base.errors import MismatchError, OptionError
from clora_cli.base.files import sha256
from clora_cli.base.progress import Silent
from clora_cli.data import load_task
from clora_cli.evaluation.answers import generate
from clora_cli.evaluation.prompts import Prompts
from clora_cli.model.backbone import load_backbone
from clora_cli.model.base_model import find_model
from clora_cli.model.features import collect_moments, prompt_ids
from clora_cli.model.soft_prompts import SoftPrompts
from clora_cli.model.task_vectors import table_of
from clora_cli.options import ExpandOptions, MergeOptions, TrimOptions
from clora_cli.store.adapter_folder import WEIGHTS, read_adapter
from clora_cli.store.distribution import agree, read_distribution, read_record
from clora_cli.store.feature_record import FeatureRecord
from clora_cli.store.heads import head_of
from clora_cli.store.heads import united as united_heads
from clora_cli.store.ledger import mask_key, read_ledger, read_masks
from clora_cli.store.manifest import MANIFEST
from clora_cli.store.package import read_package
from clora_cli.store.scores import AdapterRef, BaseRef, ScoreRow, Scores, TaskScore, read_scores, write_scores
from clora_cli.store.side_files import FEATURES, HEAD
from clora_cli.store.withholding import withhold
from clora_cli.training import make_plan, train_task
from clora_cli.transforming import expand_packages, merge_adapters, plan_expand, plan_merge, plan_trim, trim_adapter

CONFIG = "adapter_config.json"
SPECIFICATION = Path(__file__).parents[2] / "docs" / "package-format.md"
SITE = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(model_folder):
    return load_backbone(find_model(str(model_folder("llama"))), device=torch.device("cpu"))


@pytest.fixture
def adapter(tmp_path, base):
    return write_random_adapter(tmp_path / "adapters" / "first", base, stage=1).path


@pytest.fixture
def bare(adapter):
    (adapter / MANIFEST).unlink()
    return adapter


@pytest.fixture
def run(model_folder, tasks, tmp_path):
    """Give the options of a run of six steps on the first task, with a checkpoint every two."""

    def options(package="adapters", **chosen):
        chosen = {"max_steps": 6, "save_steps": 2, **chosen}
        return options_for(model_folder("llama"), tasks["first"], tmp_path / package, **chosen)

    return options


def edit(path, change):
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def retensor(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def rewrite(folder, base):
    """Write another adapter where one stands."""
    return write_random_adapter(folder, base, stage=1, rank=3)


class PulledPlug(Exception):
    """Ends a run as abruptly as the process's end would."""


class PulledAt(Silent):
    """Pulls the plug after so many steps."""

    def __init__(self, step):
        self.left = step

    @contextlib.contextmanager
    def track(self, title, total):
        def advance(done, status):
            self.left -= done
            if self.left == 0:
                raise PulledPlug

        yield advance


def interrupt(options, step=5):
    with pytest.raises(PulledPlug):
        train_task(make_plan(options), progress=PulledAt(step))
    return options.package / f".{Path(options.data).name}.unfinished"


def test_every_must_has_its_test():
    text = SPECIFICATION.read_text(encoding="utf-8")
    musts = [
        int(number)
        for number, rule in re.findall(r"^(\d+)\. (.*(?:\n    ?\S.*)*)", text, re.MULTILINE)
        if "MUST" in rule
    ]
    tested = {int(match[1]) for name in globals() if (match := re.match(r"test_must_(\d+)_", name))}
    assert musts == list(range(1, len(musts) + 1))
    assert tested == set(musts)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_must_1_hold_configuration_and_tensors(bare, name):
    (bare / name).unlink()
    with refused("not-an-adapter-folder" if name == CONFIG else "adapter-weights-missing", bare, name):
        read_adapter(bare)


def test_must_1_load_in_peft_as_it_is(model_folder, tasks, tmp_path, base):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = train(model_folder("llama"), tasks["first"], tmp_path / "adapters")
    model = AutoModelForCausalLM.from_pretrained(model_folder("llama"), dtype=torch.float32)
    loaded = PeftModel.from_pretrained(model, folder.path)
    for site, factor in folder.factors().items():
        delta = loaded.get_submodule(f"base_model.model.{site}").get_delta_weight("default")
        assert torch.equal(delta, factor.delta())


def test_must_2_pair_the_factors_of_each_site(bare):
    key = factor_keys(SITE)[0]
    retensor(bare, lambda tensors: tensors.update({key: torch.zeros(5, 32)}))
    with refused("lora-factors-unmatched", bare, SITE):
        read_adapter(bare).factors()
    retensor(bare, lambda tensors: tensors.pop(key))
    with refused("lora-factors-unmatched", bare, SITE):
        read_adapter(bare).factors()


def test_must_2_hold_no_other_tensor(bare):
    retensor(bare, lambda tensors: tensors.update({"base_model.model.lm_head.weight": torch.zeros(2)}))
    with refused("base-weights-need-comparison", bare, "'lm_head'"):
        read_adapter(bare).factors()


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "lm_head"),
    ],
)
def test_must_3_be_a_plain_lora(bare, entry, named):
    edit(bare / CONFIG, lambda config: config.update(entry))
    with refused("adapter-not-plain-lora", bare, named):
        read_adapter(bare).factors()


@pytest.mark.parametrize(
    ("entry", "scaling"),
    [
        ({}, 8 / 4),
        ({"use_rslora": True}, 8 / 2),
        ({"alpha_pattern": {"layers.0.self_attn.q_proj": 12}}, 12 / 4),
        ({"r": 16, "rank_pattern": {".*": 4}}, 8 / 4),
        ({"alpha_pattern": {"layers.1.self_attn.q_proj": 12}}, 8 / 4),
    ],
)
def test_must_4_scale_as_the_configuration_says(tmp_path, base, entry, scaling):
    folder = write_random_adapter(tmp_path / "first", base, stage=1, rank=4, alpha=8).path
    (folder / MANIFEST).unlink()
    edit(folder / CONFIG, lambda config: config.update(entry))
    assert read_adapter(folder).factors()[SITE].scaling == scaling


def test_must_5_never_unpickle(bare, tmp_path, monkeypatch):
    monkeypatch.setattr("pickle.Unpickler", None)
    torch.save(load_file(bare / WEIGHTS), bare / "adapter_model.bin")
    (bare / WEIGHTS).unlink()
    with refused("adapter-weights-missing", bare, WEIGHTS):
        read_adapter(bare)


@pytest.mark.parametrize("schema", ["clora.adapter/2", "clora.scores/1", None])
def test_must_6_be_of_this_schema(adapter, schema):
    edit(adapter / MANIFEST, lambda manifest: manifest.update(schema=schema))
    with refused("format-not-supported", adapter, repr(schema), "'clora.adapter/1'"):
        read_adapter(adapter)


def _rows(text):
    """Yield the manifest table's top-level keys, and whether each is optional."""
    table = text.partition("## Manifest")[2].partition("\n## ")[0]
    for line in re.findall(r"^\| (`.*)$", table, flags=re.MULTILINE):
        keys, _, meaning = line.split("|")[:3]
        for key in re.findall(r"`(\w+)`", keys):
            yield key, "*optional*" in meaning


def test_must_7_have_the_keys_of_the_table(adapter, base):
    table = dict(_rows(SPECIFICATION.read_text(encoding="utf-8")))
    whole = json.loads((adapter / MANIFEST).read_text(encoding="utf-8"))
    assert set(table) == {
        *whole,
        "origin",
        "trim",
        "head",
    }  # members of unions, trimmed ones and encoders alone have these
    for key, optional in table.items():
        shortened = {name: value for name, value in whole.items() if name != key}
        (adapter / MANIFEST).write_text(json.dumps(shortened), encoding="utf-8")
        if optional:
            assert read_adapter(adapter).task == "first"
        else:
            with refused("format-not-supported" if key == "schema" else "manifest-damaged", adapter):
                read_adapter(adapter)


def test_must_7_name_every_key_that_training_records(model_folder, tasks, tmp_path):
    manifest = train(model_folder("llama"), tasks["first"], tmp_path / "adapters", method="pfd").manifest
    text = SPECIFICATION.read_text(encoding="utf-8")
    manifest = manifest.raw
    assert {*manifest, "origin", "trim", "head"} == set(dict(_rows(text)))
    for part in ("method", "base_model", "lora", "data"):
        documented = set(re.findall(rf"`{part}\.(\w+)`", text))
        elsewhere = {
            "method": {"plugins"},
            "lora": {"form", "dtype", "fan_in_fan_out"},
            "data": {"merged", "origins", "memory"},
        }
        assert documented - elsewhere.get(part, set()) == set(manifest[part])


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        (WEIGHTS, "adapter-weights-missing"),
        (CONFIG, "not-an-adapter-folder"),
        ("README.md", "adapter-file-missing"),
    ],
)
def test_must_8_refuse_a_file_that_is_not_the_one_written(adapter, name, missing):
    listed = json.loads((adapter / MANIFEST).read_text(encoding="utf-8"))["files"]
    assert set(listed) == {path.name for path in adapter.iterdir()} - {MANIFEST}
    assert listed[name] == sha256(adapter / name)
    (adapter / name).write_bytes((adapter / name).read_bytes() + b" ")
    with refused("adapter-file-changed", adapter, name):
        read_adapter(adapter)
    (adapter / name).unlink()
    with refused(missing, adapter, name):
        read_adapter(adapter)


@pytest.mark.parametrize(
    ("method", "parents"), [("inc-lora", ["first", "second"]), ("seq-lora", ["second"]), ("per-task", [])]
)
def test_must_9_name_the_adapters_that_it_builds_on(model_folder, tasks, tmp_path, method, parents):
    past = {}
    for name in ("first", "second", "third"):
        folder = train(model_folder("llama"), tasks[name], tmp_path / "adapters", method=method, max_steps=1)
        past[folder.task] = sha256(folder.path / WEIGHTS)
    assert folder.manifest.raw["parents"] == [{"task": name, "sha256": past[name]} for name in parents]


def test_must_10_write_equal_bytes_for_equal_runs(run):
    folders = [train_task(make_plan(run(package)))[0] for package in ("one", "two")]
    assert contents(folders[0].path) == contents(folders[1].path)
    text = (folders[0].path / MANIFEST).read_text(encoding="utf-8")
    assert json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n" == text


def test_must_11_be_a_direct_visible_subfolder(adapter, base):
    package = adapter.parent
    shutil.copytree(adapter, package / ".hidden")
    shutil.copytree(adapter, package / "deeper" / "second")
    (package / "notes.txt").write_text("mine", encoding="utf-8")
    assert [member.path for member in read_package([package])] == [adapter]


def test_must_12_follow_the_stages(tmp_path, base):
    for name, stage in (("a", 3), ("b", 1), ("c", 7)):
        write_random_adapter(tmp_path / name, base, stage=stage)
    shutil.copytree(tmp_path / "a", tmp_path / "aa")
    (tmp_path / "aa" / MANIFEST).unlink()
    assert [member.task for member in read_package([tmp_path])] == ["b", "a", "c", "aa"]


def test_must_13_stand_on_one_base_model(adapter, model_folder):
    other = load_backbone(find_model(str(model_folder("llama", 1))), device=torch.device("cpu"))
    write_random_adapter(adapter.parent / "second", other, stage=2)
    with refused("base-models-differ", adapter, adapter.parent / "second"):
        read_package([adapter.parent])


def test_must_14_hold_each_task_once(adapter):
    shutil.copytree(adapter, adapter.parent / "again")
    with refused("task-twice", adapter, adapter.parent / "again", "'first'"):
        read_package([adapter.parent])


def test_must_15_not_change_what_is_read(adapter):
    before = contents(adapter.parent)
    for member in read_package([adapter.parent]):
        member.factors()
    assert contents(adapter.parent) == before


def test_must_16_write_beside_and_rename_with_the_manifest_last(tmp_path, base, monkeypatch):
    written, target = [], tmp_path / "first"
    write_text = Path.write_text

    def watched(self, *arguments, **options):
        assert self.parent.parent == target.parent and self.parent.name.startswith(".clora-")
        assert not target.exists()
        written.append(self.name)
        return write_text(self, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", watched)
    write_random_adapter(target, base, stage=1)
    assert written[-1] == MANIFEST
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


def test_must_17_keep_what_stood_there_when_writing_fails(adapter, base, monkeypatch):
    before = contents(adapter)
    with monkeypatch.context() as patch:
        patch.setattr(
            "clora_cli.store.adapter_writing.to_json", lambda _: (_ for _ in ()).throw(OSError(28, "No space left"))
        )
        with refused("cannot-write", adapter, "No space left"):
            rewrite(adapter, base)
    assert contents(adapter) == before
    rewrite(adapter, base)
    assert contents(adapter) != before
    assert [path.name for path in adapter.parent.iterdir()] == ["first"]


def test_must_18_keep_an_unfinished_run_beside_its_place(run):
    options = run()
    unfinished = interrupt(options)
    recipe = json.loads((unfinished / "plan.json").read_text(encoding="utf-8"))
    assert recipe == json.loads(json.dumps(make_plan(options).recipe()))
    assert {path.name for path in unfinished.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    assert read_package([options.package], missing_ok=True) == []


def test_must_19_resume_under_the_same_plan_alone(run):
    interrupt(run())
    with pytest.raises(OptionError, match=r"training\.lr"):
        train_task(make_plan(run(lr=0.5)), resume=True)
    resumed = train_task(make_plan(run()), resume=True)[0]
    undisturbed = train_task(make_plan(run("undisturbed")))[0]
    assert contents(resumed.path) == contents(undisturbed.path)


def test_must_20_leave_no_unfinished_folder(run):
    unfinished = interrupt(run())
    assert unfinished.is_dir()
    folder, trained = train_task(make_plan(run()), resume=True)
    assert trained
    assert [path.name for path in folder.path.parent.iterdir()] == [folder.path.name]


@pytest.fixture
def scores(tmp_path):
    cell = TaskScore("exact-match", "correct / total", 37.5, 8, 3)
    references = (AdapterRef("first", "0" * 64),)
    rows = (ScoreRow(0, "", (), {"first": cell}), ScoreRow(1, "first", references, {"first": cell}))
    base = BaseRef("clora-nano", "0" * 64)
    path = tmp_path / "scores.json"
    write_scores(Scores(base, "adapters", "inc-lora", "sum", "generate", ("first",), rows), path)
    return path


@pytest.mark.parametrize("schema", ["clora.scores/2", "clora.adapter/1", None])
def test_must_21_be_of_the_scores_schema(scores, schema):
    edit(scores, lambda content: content.update(schema=schema))
    with refused("format-not-supported" if schema == "clora.scores/2" else "not-a-scores-file", scores):
        read_scores(scores)


@pytest.mark.parametrize("entry", [{"value": 100.5}, {"value": -1}, {"total": 0, "correct": None}, {"value": 50.0}])
def test_must_22_hold_scores_that_can_be_true(scores, entry):
    assert read_scores(scores).rows[1].scores["first"].value == 37.5
    edit(scores, lambda content: content["rows"][1]["scores"]["first"].update(entry))
    with refused("scores-file-damaged", scores, "rows[1]"):
        read_scores(scores)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(order=["first", "first"]),
        lambda content: content["rows"][1].update(after="second"),
        lambda content: content["rows"][1].update(after=""),
        lambda content: content["rows"][0].update(after="first"),
    ],
)
def test_must_23_order_rows_by_tasks_learned(scores, change):
    edit(scores, change)
    with refused("scores-file-damaged", scores):
        read_scores(scores)


def test_must_24_not_write_what_cannot_be_read(scores, tmp_path):
    whole = read_scores(scores)
    wrong = Scores(whole.base, "adapters", "inc-lora", "sum", "generate", ("first", "first"), whole.rows)
    with refused("scores-file-damaged", tmp_path / "new.json", "order"):
        write_scores(wrong, tmp_path / "new.json")
    assert not (tmp_path / "new.json").exists()


@pytest.fixture
def dense(adapter, tmp_path):
    from clora_cli.options import MergeOptions
    from clora_cli.transforming import merge_adapters, plan_merge

    merge_adapters(plan_merge([read_adapter(adapter)], MergeOptions(out=tmp_path / "merged", dense=True)))
    return tmp_path / "merged"


@pytest.mark.parametrize("name", ["deltas.safetensors", MANIFEST])
def test_must_25_hold_dense_deltas_and_a_manifest(dense, name):
    assert read_adapter(dense).is_dense
    (dense / name).unlink()
    with refused("dense-deltas-without-manifest" if name == MANIFEST else "not-an-adapter-folder", dense):
        read_adapter(dense)


@pytest.mark.parametrize("delta", [torch.zeros(4), torch.zeros(4, 4, dtype=torch.int32)])
def test_must_26_hold_matrices_of_the_layers_shape(dense, adapter, delta):
    expected = {site: factor.shape for site, factor in read_adapter(adapter).factors().items()}
    assert {site: tuple(d.shape) for site, d in read_adapter(dense).deltas().items()} == expected
    save_file({site: delta.clone() for site in expected}, dense / "deltas.safetensors")
    manifest = json.loads((dense / MANIFEST).read_text(encoding="utf-8"))
    manifest["files"]["deltas.safetensors"] = sha256(dense / "deltas.safetensors")
    (dense / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    with refused("delta-not-a-matrix", dense, min(expected)):
        read_adapter(dense).deltas()


@pytest.fixture
def routable(tmp_path, base, tasks):
    """Give a package of two adapters with distributions."""
    return write_routable(tmp_path / "routable", base, [str(tasks["first"]), str(tasks["second"])], rows=12)


def with_record(features, change):
    """Write a distribution's file anew with its record changed."""
    with safe_open(features, framework="pt") as file:
        record = json.loads(file.metadata()["clora"])
        kept = {name: file.get_tensor(name) for name in file.keys()}
    change(record)
    save_file(kept, features, metadata={"clora": json.dumps(record)})


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        (lambda record: record.update(schema="clora.features/2"), "format-not-supported", "'clora.features/2'"),
        (lambda record: record.update(sha256="0" * 64), "feature-distribution-damaged", "numbers"),
        (lambda record: record.pop("pool"), "feature-distribution-damaged", "pool"),
        (lambda record: record.update(base_model="a name"), "feature-distribution-damaged", "fingerprint"),
    ],
)
def test_must_27_hold_numbers_and_their_checksum(routable, change, code, named):
    features = routable / "first" / FEATURES
    found = read_distribution(features)
    assert all(one.count == 12 and one.mean.ndim == 1 for one in found.sites.values())
    with_record(features, change)
    with refused(code, features, named):
        read_distribution(features)


def test_must_28_add_up(base, tasks):
    rows = load_task(str(tasks["first"])).train
    ids = prompt_ids(base, rows)
    site = "model.layers.1.self_attn.v_proj"
    for second in ("none", "diag", "full"):
        parts = [collect_moments(base, part, [site], second=second)[site] for part in (ids[:7], ids[7:])]
        whole, both = collect_moments(base, ids, [site], second=second)[site], parts[0] + parts[1]
        assert whole.count == both.count == len(rows)
        assert torch.allclose(whole.mean, both.mean, atol=1e-5)
        assert second == "none" or torch.allclose(whole.scatter, both.scatter, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("key", ["source", "pool", "text"])
def test_must_29_compare_only_what_was_taken_alike(routable, key):
    members = read_package([routable])
    records = [(member.features, read_record(member.features)) for member in members]
    agree(records)
    path, record = records[1]
    records[1] = (path, FeatureRecord({**record.raw, key: "another way"}))
    with refused("feature-distributions-incomparable", path, f"{key} ", "another way"):
        agree(records)
    records[1] = (path, FeatureRecord({**record.raw, "base_model": {"id": "another", "fingerprint": "1"}}))
    with refused("base-models-differ", path, "another"):
        agree(records)


def test_must_30_write_equal_bytes(routable, tmp_path):
    features = routable / "first" / FEATURES
    for number in range(5):
        read_distribution(features).write(tmp_path / f"{number}.safetensors")
        assert (tmp_path / f"{number}.safetensors").read_bytes() == features.read_bytes()


def united(paths, out):
    return expand_packages(plan_expand(paths, ExpandOptions(out=out)))[0]


def test_must_31_unite_files_as_they_were(routable, tmp_path):
    before = contents(routable)
    once = united([routable], tmp_path / "once.pkg")
    twice = united([once], tmp_path / "twice.pkg")
    assert contents(routable) == before
    for member in read_package([twice]):
        old = json.loads((routable / member.task / MANIFEST).read_text(encoding="utf-8"))
        changed = {key for key, value in member.manifest.raw.items() if old.get(key) != value}
        assert changed <= {"task", "stage", "origin"}
        assert member.manifest.raw["origin"]["package"] == "routable"
        files = {name: data for name, data in contents(member.path).items() if name != MANIFEST}
        assert files == {name: data for name, data in contents(routable / member.task).items() if name != MANIFEST}


def test_must_32_unite_what_is_left_as_if_nothing_else_had_been(routable, tmp_path):
    with_both = united([routable], tmp_path / "both.pkg")
    shutil.rmtree(with_both / "first")
    without = united([routable / "second"], tmp_path / "without" / "one.pkg")
    again = united([with_both], tmp_path / "again" / "one.pkg")
    assert contents(again) == contents(without)


def test_must_33_keep_zeros_outside_masks(adapter, tmp_path):
    trimmed = trim(adapter, tmp_path / "trimmed")
    assert read_masks(read_adapter(trimmed)).keys() == read_adapter(adapter).factors().keys()
    state = load_file(trimmed / "state.clora")
    cut, emptied = state[mask_key(SITE)][:-1], torch.zeros_like(state[mask_key(SITE)])
    for code, wrong in (("mask-damaged", cut), ("entries-outside-mask", emptied)):
        save_file({**state, mask_key(SITE): wrong}, trimmed / "state.clora")
        (trimmed / MANIFEST).unlink(missing_ok=True)
        with refused(code, trimmed, f"'{SITE}'"):
            read_masks(read_adapter(trimmed))


def test_must_34_share_a_and_own_apart(base, tmp_path):
    package = write_parts(tmp_path / "shared", base, ["first", "second"])
    members = read_package([package])
    assert sum(read_ledger(members).owned) > 0
    merged, _, _ = merge_adapters(plan_merge(members, MergeOptions(out=tmp_path / "merged")))
    whole = read_adapter(merged).factors()
    for site, factor in members[0].factors().items():
        assert torch.equal(whole[site].a, factor.a)
        assert torch.equal(whole[site].b, factor.b + members[1].factors()[site].b)
    twin = shutil.copytree(members[0].path, package / "twin")
    edit(twin / MANIFEST, lambda manifest: manifest.update(task="twin"))
    with refused("shared-lora-masks-overlap", members[0].path, twin):
        read_ledger(read_package([package]))


def test_must_35_trim_nothing_else(adapter, tmp_path):
    trimmed = trim(adapter, tmp_path / "trimmed")
    before, after = contents(adapter), contents(trimmed)
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    assert changed == {WEIGHTS, "state.clora", "README.md", MANIFEST}
    old, new = (json.loads(files[MANIFEST]) for files in (before, after))
    assert {key for key in new if new[key] != old.get(key)} == {"trim", "files"}


def trim(adapter, out):
    return trim_adapter(plan_trim(read_adapter(adapter), TrimOptions(by="density", out=out)))[0]


def test_must_36_have_one_file_that_servers_take_for_weights(model_folder, tasks, tmp_path, routable):
    made = train(model_folder("llama"), tasks["first"], tmp_path / "adapters", method="cast").path
    assert {path.suffix for path in made.iterdir()} == {".safetensors", ".clora", ".json", ".jsonl", ".md"}
    for folder in (made, *routable.iterdir()):
        assert [path.name for path in folder.glob("*.safetensors")] == [WEIGHTS]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e8])
def test_must_37_hold_numbers_that_a_training_leaves(bare, base, value):
    retensor(bare, lambda tensors: tensors[factor_keys(SITE)[0]].fill_(value))
    for use in (read_adapter(bare).factors, read_adapter(bare).check_numbers):
        with refused("numbers-not-finite", bare, "lora_A"):
            use()
    with refused("result-not-finite", bare.parent / "second"):
        write_random_adapter(bare.parent / "second", base, stage=1, factor=value)


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ({"lora_alpha": 1e9}, "adapter-config-damaged"),
        ({"r": 10**30}, "file-damaged"),
        ({"lora_alpha": "32"}, "adapter-config-damaged"),
        ({"rank_pattern": {"q": "x"}}, "adapter-config-damaged"),
    ],
)
def test_must_37_scale_within_reason(bare, entry, code):
    edit(bare / CONFIG, lambda config: config.update(entry))
    with refused(code, bare):
        read_adapter(bare).factors()


@pytest.mark.parametrize(
    "text",
    ['{"a": 1, "a": 1}', '{"a": NaN}', '{"a": 1e999}', '{"a": 9223372036854775808}', '"\\ud800"', "[" * 70 + "]" * 70],
)
def test_must_38_be_json_that_readers_take_alike(adapter, text):
    (adapter / MANIFEST).write_text(text, encoding="utf-8")
    with refused("file-damaged", adapter / MANIFEST):
        read_adapter(adapter)


@pytest.mark.parametrize("place", ["task", "method.name", "base_model.id", "data.name"])
def test_must_38_have_names_that_can_be_shown(adapter, place):
    def change(manifest):
        *outer, key = place.split(".")
        (manifest[outer[0]] if outer else manifest)[key] = "a\x1b[31m"

    edit(adapter / MANIFEST, change)
    with refused("manifest-damaged", adapter / MANIFEST, place):
        read_adapter(adapter)


@pytest.mark.parametrize("name", ["x" * 201, "CON", "first.", "a:b", "a\u202eb"])
def test_must_39_lie_in_a_folder_that_every_disk_takes(run, name):
    options = run()
    with pytest.raises(OptionError, match="cannot be the adapter's folder"):
        make_plan(dataclasses.replace(options, out=options.package / name))


def test_must_39_differ_by_more_than_case(adapter, run):
    package = adapter.parent
    rewritten = dataclasses.replace(run(), out=package / "FIRST", data=str(Path(run().data).parent / "second"))
    with pytest.raises(MismatchError, match="are one name on disks"):
        make_plan(rewritten)
    shutil.copytree(adapter, package.parent / "other.pkg" / "x")
    edit(package.parent / "other.pkg" / "x" / MANIFEST, lambda manifest: manifest.update(task="FIRST"))
    retensor(package.parent / "other.pkg" / "x", lambda tensors: tensors[factor_keys(SITE)[0]].mul_(2))
    edit(
        package.parent / "other.pkg" / "x" / MANIFEST,
        lambda manifest: manifest["files"].update({WEIGHTS: sha256(package.parent / "other.pkg" / "x" / WEIGHTS)}),
    )
    with refused("task-name-conflict", "'FIRST'", "'first'"):
        plan_expand([package, package.parent / "other.pkg"], ExpandOptions(out=package.parent / "both.pkg"))


def test_must_40_tell_no_checksum_of_private_rows(adapter):
    checksum = json.loads((adapter / MANIFEST).read_text(encoding="utf-8"))["data"]["fingerprint"]
    assert withhold(adapter, {checksum}) and not withhold(adapter, {checksum})
    assert read_adapter(adapter).manifest.raw["data"]["fingerprint"] == ""


@pytest.mark.parametrize("key", ["memory", "origins"])
def test_must_40_tell_none_of_rows_that_others_were_made_of(adapter, key):
    """A later adapter was trained on the rows again, or is a merge of what was trained on them."""
    edit(adapter / MANIFEST, lambda manifest: manifest["data"].update({key: [{"name": "x", "fingerprint": "abc"}]}))
    assert withhold(adapter, {"abc"})
    data = read_adapter(adapter).manifest.raw["data"]
    assert data[key] == [{"name": "x", "fingerprint": ""}] and data["fingerprint"]


def test_must_41_hold_the_virtual_tokens_alone(base, tmp_path):
    folder = peft_prompt(base, tmp_path / "first", tokens=2)
    whole = load_file(folder / WEIGHTS)["prompt_embeddings"]
    cases = {
        "soft-prompt-damaged": [{"prompt_embeddings": whole[:1]}, {"prompt_embeddings": whole.long()}, {}],
        "soft-prompt-not-alone": [{"prompt_embeddings": whole, "score.weight": torch.zeros(2, 2)}],
        "numbers-not-finite": [{"prompt_embeddings": whole * float("inf")}],
    }
    assert torch.equal(read_adapter(folder).prompt(), whole)
    for code, damaged in cases.items():
        for tensors in damaged:
            save_file(tensors, folder / WEIGHTS)
            with refused(code, folder):
                read_adapter(folder).prompt()


@pytest.mark.parametrize("family", FAMILIES)
def test_must_42_treat_virtual_tokens_as_an_inputs_own(backbone, tasks, family):
    """A soft prompt of the vectors of real tokens gives the answers of a text that begins with those."""
    base, task = backbone(family), load_task(str(tasks["first"]))
    prompts = Prompts.encode(base, task, task.test, 512, 4)
    soft = SoftPrompts(base.model, base.kind)
    rows = [[7 + row % 2, 9, 11] for row in range(len(prompts.ids))]
    vectors = base.model.get_submodule(table_of(base.model, base.kind)).weight[7:12]
    expected = generate(prompts.after(rows), 4, lambda rows: None)
    soft.activate(vectors)
    virtual = prompts.after([[soft.first + token - 7 for token in row] for row in rows])
    assert generate(virtual, 4, lambda rows: None) == expected


def test_must_43_hold_one_kind(base, tmp_path):
    peft_prompt(base, tmp_path / "mixed" / "first")
    write_random_adapter(tmp_path / "mixed" / "second", base, stage=1)
    with refused("adapter-kinds-differ", tmp_path / "mixed" / "first", tmp_path / "mixed" / "second"):
        read_package([tmp_path / "mixed"])


def test_must_44_name_each_class_of_a_head(sequence, summed, tmp_path):
    merge_adapters(plan_merge(read_package([summed]), MergeOptions(strategy="ties", out=tmp_path / "dense")))
    for folder, name in ((sequence / "cold", WEIGHTS), (tmp_path / "dense", HEAD)):
        rows = load_file(folder / name)["base_model.model.classifier.weight"]
        named = json.loads((folder / MANIFEST).read_text())["head"]
        assert [one["task"] for one in named] == ["warm", "cold"]
        assert len(rows) == sum(len(one["labels"]) for one in named)
    assert json.loads((sequence / "cold" / CONFIG).read_text())["modules_to_save"] == ["classifier"]


def test_must_45_put_classes_side_by_side(summed, sequence):
    first, second = (head_of(member) for member in read_package([summed]))
    later = head_of(read_adapter(sequence / "cold"))
    found = united_heads([first, second, later])
    assert found.classes == (*first.classes, *second.classes)
    assert torch.equal(found.weight, later.weight)
    other = dataclasses.replace(second, inner={"bert.pooler.dense.weight": torch.ones(2, 2)})
    with refused("heads-differ", "warm", "cold"):
        united_heads([first, other])


def test_must_46_hold_what_the_files_of_the_base_model_lack(summed, model_folder, bert, colours, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(bert, own)
    tensors = {key: value for key, value in load_file(own / "model.safetensors").items() if "pooler" not in key}
    save_file(tensors, own / "model.safetensors", {"format": "pt"})
    made = train(own, colours[0], tmp_path / "pkg", max_steps=1)
    assert set(head_of(made).inner) == {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert torch.equal(head_of(made).inner["bert.pooler.dense.weight"], torch.eye(32))
    assert head_of(read_adapter(summed / "warm")).inner == {}
    tensors = {key: value for key, value in load_file(made.path / WEIGHTS).items() if "pooler" not in key}
    save_file(tensors, made.path / WEIGHTS)
    (made.path / MANIFEST).unlink()
    (made.path / "config.json").write_text(json.dumps({"id2label": {"0": "orange", "1": "red"}}))
    with refused("head-layer-missing", made.path.name):
        scored(made.path, colours[:1], model=str(own))
