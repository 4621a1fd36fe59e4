from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
import time

import pytest
import torch
from parts import write_parts
from peft import LoraConfig, PeftModel, get_peft_model
from refusals import refused
from safetensors.torch import load_file, save_file
from support import Signals, contents, write_random_adapter

from clora_cli.algebra.statistics import Moments
from clora_cli.base.errors import OptionError
from clora_cli.options import ExpandOptions
from clora_cli.store.adapter_folder import WEIGHTS
from clora_cli.store.distribution import Distribution
from clora_cli.store.feature_record import FeatureRecord
from clora_cli.store.manifest import MANIFEST
from clora_cli.store.package import read_package
from clora_cli.store.side_files import FEATURES
from clora_cli.transforming import expand_packages, plan_expand, routable
from clora_cli.transforming import member as member_module

INPUT = torch.tensor([[5, 9, 17, 33]])
SITES = [f"model.layers.{layer}.self_attn.{side}_proj" for layer in (0, 1) for side in "qv"]


def give_distribution(folder, reference, *, seed=0, second="none", sites=SITES, **settings):
    """Give an adapter a distribution of random numbers, as `clora stat-features` would write it."""
    generator = torch.Generator().manual_seed(seed)
    moments = {site: Moments.of(torch.randn(5, 4, generator=generator), second) for site in sites}
    base = {"id": reference.id, "fingerprint": reference.fingerprint, "kind": reference.kind}
    record = {"source": "base", "pool": "prompt-mean", "text": "prompt", "second_moment": second, "max_length": 512}
    data = [{"name": f"{folder.name}-data", "fingerprint": "0", "split": "train", "rows": 5}]
    Distribution(
        moments, FeatureRecord({"base_model": base, **record, "data": data, "privacy": None, **settings})
    ).write(folder / FEATURES)


def write_member(folder, base, stage, manifest=None, **distribution):
    """Write an adapter with a distribution; its numbers depend on its folder's name and its package's."""
    seed = sum(map(ord, f"{folder.parent.name}/{folder.name}"))
    write_random_adapter(folder, base, stage=seed, manifest={"stage": stage, **(manifest or {})})
    give_distribution(folder, base.reference, seed=seed, **distribution)
    return folder


def write_bare(folder, base, seed=0, **distribution):
    """Write an adapter as PEFT itself writes it, with a distribution."""
    torch.manual_seed(seed)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(base.model, config).save_pretrained(folder)
    give_distribution(folder, base.reference, seed=seed, **distribution)
    return folder


@pytest.fixture
def base(backbone):
    return backbone("llama")


@pytest.fixture
def packages(tmp_path, base, backbone):
    """Two packages: topics (news, wiki and a bare folder) and moods (films, books), with stages against the alphabet."""
    for package, tasks in (("topics.pkg", ("wiki", "news")), ("moods.pkg", ("films", "books"))):
        for stage, task in enumerate(tasks, start=1):
            write_member(tmp_path / package / task, base, stage)
    write_bare(tmp_path / "topics.pkg" / "letters", backbone("llama"))
    return tmp_path / "topics.pkg", tmp_path / "moods.pkg"


def expanded(paths, out, *, progress=None, force=False, **chosen):
    return expand_packages(
        plan_expand(paths, ExpandOptions(out=out, **chosen), progress=progress), force=force, progress=progress
    )


def copies(package, folder):
    return shutil.copytree(package, folder / package.name)


def manifest_of(folder):
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


def test_a_union_is_a_package_in_the_order_given(packages, tmp_path):
    before = [contents(package) for package in packages]
    out, made = expanded(packages, tmp_path / "both.pkg")
    members = read_package([out])
    assert (made, [(m.stage, m.task) for m in members]) == (
        True,
        [(1, "wiki"), (2, "news"), (3, "films"), (4, "books"), (None, "letters")],
    )
    assert members[2].manifest.raw["origin"] == {"package": "moods.pkg", "stage": 1, "task": "films"}
    assert [contents(package) for package in packages] == before
    turned = read_package([expanded(packages[::-1], tmp_path / "turned.pkg")[0]])
    assert [member.task for member in turned] == ["films", "books", "wiki", "news", "letters"]


def test_everything_but_the_manifest_is_copied_byte_for_byte(packages, tmp_path):
    source = packages[0] / "news"
    save_file({"fisher/x": torch.ones(2)}, source / "state.clora")
    (source / "log.jsonl").write_text("{}\n")
    (source / ".cache").mkdir()
    (source / ".cache" / "lock").touch()
    (source / "checkpoint-5").mkdir()
    told = Signals()
    out, _ = expanded(packages, tmp_path / "both.pkg", progress=told)
    kept = {name: content for name, content in contents(source).items() if name not in {MANIFEST, ".cache/lock"}}
    copied = contents(out / "news")
    manifest = json.loads(copied.pop(MANIFEST))
    assert copied == kept
    assert {"state.clora", "log.jsonl", "README.md", FEATURES, WEIGHTS} <= kept.keys()
    old = manifest_of(source)
    assert manifest["origin"] == {"package": "topics.pkg", "stage": 2, "task": "news"}
    assert {key for key in manifest if manifest[key] != old.get(key)} == {"origin"}  # stage 2 is stage 2 here
    assert contents(out / "letters") == contents(packages[0] / "letters")
    assert told.notes == [
        f"subfolders are no part of an adapter and stay behind: {source / 'checkpoint-5'}",
    ]


@pytest.mark.parametrize("gone", ["wiki", "news", "letters", "films", "books"])
def test_a_union_without_a_member_is_the_union_that_never_had_it(packages, tmp_path, gone):
    union, _ = expanded(packages, tmp_path / "c.pkg")
    shutil.rmtree(union / gone)
    never = tmp_path / "never"
    inputs = [copies(package, never) for package in packages]
    next(path for package in inputs for path in package.iterdir() if path.name == gone).rename(never / "elsewhere")
    again, _ = expanded([union], tmp_path / "again.pkg")
    fresh, _ = expanded(inputs, tmp_path / "fresh.pkg")
    assert len(contents(again)) > 12
    assert contents(again) == contents(fresh)


def test_unions_of_unions_are_the_union_of_all(packages, tmp_path, base):
    write_member(tmp_path / "third.pkg" / "laws", base, 7)
    first, _ = expanded(packages, tmp_path / "first.pkg")
    nested, _ = expanded([first, tmp_path / "third.pkg"], tmp_path / "nested.pkg")
    flat, _ = expanded([*packages, tmp_path / "third.pkg"], tmp_path / "flat.pkg")
    assert contents(nested) == contents(flat)


def test_adapter_folders_of_a_package_stand_for_it(packages, tmp_path, monkeypatch):
    whole, _ = expanded(packages, tmp_path / "whole.pkg")
    parts, _ = expanded([*sorted(packages[0].iterdir()), packages[1]], tmp_path / "parts.pkg")
    assert contents(parts) == contents(whole)
    monkeypatch.chdir(packages[0] / "news")
    out, _ = expanded([type(tmp_path)(), type(tmp_path)("..", "wiki")], tmp_path / "near.pkg")
    assert [member.manifest.raw["origin"]["package"] for member in read_package([out])] == ["topics.pkg"] * 2


def test_peft_loads_every_member_and_computes_what_it_did(packages, tmp_path, backbone):
    out, _ = expanded(packages, tmp_path / "both.pkg")
    for package in packages:
        for source in package.iterdir():
            logits = [
                PeftModel.from_pretrained(backbone("llama").model, folder).eval()(INPUT).logits
                for folder in (source, out / source.name)
            ]
            assert torch.equal(*logits)


@pytest.fixture
def rivals(tmp_path, base):
    """Two packages whose `news` are two adapters, and whose `wiki` is one."""
    one, other = tmp_path / "one.pkg", tmp_path / "other.pkg"
    write_member(one / "wiki", base, 1)
    write_member(one / "news", base, 2)
    write_member(other / "news", base, 1)
    shutil.copytree(one / "wiki", other / "wiki")
    return one, other


def test_two_adapters_of_a_task_are_refused_unless_told_otherwise(rivals, tmp_path):
    with refused("task-name-conflict", "one.pkg/news", "other.pkg/news", "--on-conflict"):
        expanded(rivals, tmp_path / "both.pkg")
    assert not (tmp_path / "both.pkg").exists()


def test_keep_leaves_the_later_one_out(rivals, tmp_path):
    told = Signals()
    out, _ = expanded(rivals, tmp_path / "both.pkg", on_conflict="keep", progress=told)
    assert [member.task for member in read_package([out])] == ["wiki", "news"]
    assert (out / "news" / WEIGHTS).read_bytes() == (rivals[0] / "news" / WEIGHTS).read_bytes()
    assert len(told.notes) == 2
    assert "other.pkg/news is left out" in told.notes[0]
    assert "other.pkg/wiki is the same adapter as" in told.notes[1]


def test_rename_gives_the_later_one_the_next_free_name(rivals, tmp_path, base):
    write_member(rivals[1] / "news-2", base, 3)
    out, _ = expanded(rivals, tmp_path / "both.pkg", on_conflict="rename")
    members = {member.task: member for member in read_package([out])}
    assert list(members) == ["wiki", "news", "news-3", "news-2"]
    assert sorted(path.name for path in out.iterdir()) == ["news", "news-2", "news-3", "wiki"]
    assert members["news-3"].manifest.raw["data"]["name"] == "news"
    assert members["news-3"].manifest.raw["origin"] == {"package": "other.pkg", "stage": 1, "task": "news"}
    # The renamed one is known again, under whatever name.
    told = Signals()
    more, _ = expanded([out, rivals[1]], tmp_path / "more.pkg", progress=told)
    assert contents(more) == contents(out)
    assert len(told.notes) == 3


def test_equal_tensors_under_another_scaling_are_another_adapter(packages, tmp_path):
    twin = shutil.copytree(packages[0] / "letters", tmp_path / "more.pkg" / "letters")
    config = json.loads((twin / "adapter_config.json").read_text())
    (twin / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 99}))
    with refused("task-name-conflict", "'letters'"):
        expanded([packages[0], twin], tmp_path / "both.pkg")


@pytest.mark.parametrize("old", ["other.pkg/news", "{path}/news"])
def test_a_name_of_choice(rivals, tmp_path, old):
    old = old.format(path=rivals[1])
    out, _ = expanded(rivals, tmp_path / "both.pkg", rename={old: "more-news", "wiki": "facts"})
    assert [member.task for member in read_package([out])] == ["facts", "news", "more-news"]
    manifest = manifest_of(out / "more-news")
    assert (manifest["task"], manifest["data"]["name"]) == ("more-news", "news")


@pytest.mark.parametrize(
    ("chosen", "code", "names"),
    [
        ({"rename": {"nws": "x"}}, "rename-matches-nothing", ["'nws'", "'news'"]),
        ({"rename": {"news": "a/b"}}, "name-unfit-for-folder", ["--rename news=a/b"]),
        ({"rename": {"news": ".."}}, "name-unfit-for-folder", ["--rename news=.."]),
        ({"rename": {"news": ""}}, "name-unfit-for-folder", ["--rename news="]),
        ({"on_conflict": "merge"}, "option-choice-unknown", ["--on-conflict merge", "error, keep, rename"]),
    ],
)
def test_wrong_options_are_refused(packages, tmp_path, chosen, code, names):
    with refused(code, *names, error=OptionError):
        expanded(packages, tmp_path / "both.pkg", **chosen)


def test_a_task_that_is_no_folder_name_cannot_lead_out_of_the_package(packages, tmp_path):
    manifest = manifest_of(packages[0] / "news")
    (packages[0] / "news" / MANIFEST).write_text(json.dumps({**manifest, "task": "../../news"}))
    with refused("name-unfit-for-folder", "'../../news'", "--rename"):
        expanded(packages, tmp_path / "both.pkg")
    out, _ = expanded(packages, tmp_path / "both.pkg", rename={"../../news": "news"})
    assert (out / "news").is_dir()


def test_two_base_models_are_refused_and_both_are_named(packages, tmp_path, backbone):
    stranger = write_member(tmp_path / "far.pkg" / "laws", backbone("llama", 1), 1)
    with refused("base-models-differ", "llama-0 [", "llama-1 ["):
        expanded([*packages, stranger], tmp_path / "both.pkg")
    # A bare folder says nothing itself; its distribution does.
    bare = write_bare(tmp_path / "bare", backbone("llama"))
    give_distribution(bare, backbone("llama", 1).reference)
    with refused("base-models-differ", bare, "llama-0", "llama-1"):
        expanded([*packages, bare], tmp_path / "both.pkg")


def test_without_a_fingerprint_the_name_decides(packages, tmp_path, backbone):
    bare = write_bare(tmp_path / "bare", backbone("llama"))
    (bare / FEATURES).unlink()
    with refused("feature-distribution-missing", bare):
        expanded([*packages, bare], tmp_path / "both.pkg")
    config = json.loads((bare / "adapter_config.json").read_text())
    (bare / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "someone/else"}))
    with refused("base-models-differ", "someone/else", f"clora stat-features {bare}"):
        expanded([*packages, bare], tmp_path / "both.pkg")


def test_a_distribution_of_another_model_than_its_adapters_is_refused(packages, tmp_path, backbone):
    give_distribution(packages[1] / "films", backbone("llama", 1).reference)
    with refused("feature-distribution-other-base", packages[1] / "films", "llama-1", "llama-0", "--force"):
        expanded(packages, tmp_path / "both.pkg")


def check_refused(packages, tmp_path, code, *names):
    with refused(code, *names):
        expanded(packages, tmp_path / "both.pkg")
    assert not (tmp_path / "both.pkg").exists()


def test_a_member_without_a_distribution_is_refused_with_the_command_that_gives_it_one(packages, tmp_path, base):
    topics, moods = packages
    (moods / "films" / FEATURES).unlink()
    code = "feature-distribution-missing"
    check_refused(packages, tmp_path, code, f"`clora stat-features {moods}/films --data films`")
    # Of several, clora's own adapters know their data; the options are those of the others.
    (topics / "letters" / FEATURES).unlink()
    for folder in (topics / "wiki", topics / "news", moods / "books"):
        give_distribution(folder, base.reference, pool="last", second="full")
    options = "--data letters=<its task> --pool last --second-moment full"
    check_refused(packages, tmp_path, code, f"`clora stat-features {moods}/films {topics}/letters {options}`")
    (moods / "films").rename(moods / "two words")
    check_refused(packages, tmp_path, code, f"stat-features '{moods}/two words' ")


def test_a_distribution_unlike_the_others_is_refused_with_the_command_that_makes_it_alike(packages, tmp_path, base):
    wiki, letters = packages[0] / "wiki", packages[0] / "letters"
    give_distribution(wiki, base.reference, pool="last", source="adapted")
    code, what = "feature-distributions-incomparable", f"{wiki} (source adapted, pool last)"
    check_refused(packages, tmp_path, code, what, f"`clora stat-features {wiki} --data wiki --force`")
    # A bare folder's tasks are those that its distribution was made from.
    give_distribution(letters, base.reference, text="body")
    command = f"`clora stat-features {wiki} {letters} --data letters=letters-data --force`"
    check_refused(packages, tmp_path, code, command)


def test_distributions_at_different_layers_are_refused(packages, tmp_path, base):
    give_distribution(packages[0] / "news", base.reference, sites=SITES[:2])
    expanded(packages, tmp_path / "common.pkg")
    give_distribution(packages[1] / "books", base.reference, sites=SITES[2:])
    give_distribution(packages[0] / "wiki", base.reference, sites=SITES[:2], layer="0", module="")
    command = f"`clora stat-features {packages[1]}/books --data books --layer 0 --force`"
    check_refused(packages, tmp_path, "feature-layers-differ", command)


def test_doubts_are_told_and_do_not_stop(packages, tmp_path, base):
    parents = [{"task": "films", "sha256": "0"}]
    write_member(packages[1] / "books", base, 2, manifest={"parents": parents}, second="diag")
    told = Signals()
    out, made = expanded(packages, tmp_path / "both.pkg", progress=told)
    moments, summed = told.warnings
    assert made
    topics, moods = packages
    lacking = [f"{topics}/wiki", f"{topics}/news", f"{moods}/films", f"{topics}/letters"]
    assert moments.startswith(f"{', '.join(lacking)} without the second moments (diag)")
    command = f"clora stat-features {' '.join(lacking)} --data letters=letters-data --second-moment diag --force"
    assert f"`{command}`" in moments
    assert summed.startswith(f"{packages[1]}/books: trained on top of")
    assert manifest_of(out / "books")["parents"] == parents
    for folder in (path for package in packages for path in package.iterdir()):
        give_distribution(folder, base.reference, source="adapted")
    told = Signals()
    expanded(packages, tmp_path / "adapted.pkg", progress=told)
    assert "--source adapted" in told.warnings[0]


def test_damage_is_found_before_anything_is_written(packages, tmp_path):
    news = packages[0] / "news"
    features = bytearray((news / FEATURES).read_bytes())
    (news / FEATURES).write_bytes(features[:-1] + bytes([features[-1] ^ 1]))
    check_refused(packages, tmp_path, "feature-distribution-damaged", news / FEATURES)
    (news / FEATURES).write_bytes(features)
    bare = packages[0] / "letters" / WEIGHTS
    whole = bare.read_bytes()
    bare.write_bytes(whole[:-4])
    check_refused(packages, tmp_path, "tensor-file-damaged", bare)
    bare.write_bytes(whole)
    tensors = load_file(bare)
    save_file({**tensors, "base_model.model.lm_head.lora_magnitude_vector": torch.zeros(2)}, bare)
    check_refused(packages, tmp_path, "adapter-not-plain-lora", bare.parent)
    bare.write_bytes(whole)
    (news / WEIGHTS).write_bytes((news / WEIGHTS).read_bytes()[:-4])
    check_refused(packages, tmp_path, "adapter-file-changed", WEIGHTS)
    shutil.rmtree(packages[0])
    check_refused(packages, tmp_path, "package-missing", packages[0])


def test_breaking_off_leaves_nothing_and_keeps_what_was_there(packages, tmp_path, monkeypatch):
    out, _ = expanded([packages[0]], tmp_path / "out" / "both.pkg")
    before = contents(tmp_path)
    copied, copy = [], shutil.copyfile

    def full(source, target):
        copied.append(source)
        if len(copied) > 6:
            raise OSError(errno.ENOSPC, "No space left on device", str(source))
        return copy(source, target)

    monkeypatch.setattr(member_module.shutil, "copyfile", full)
    with refused("cannot-write", out, "No space left on device"):
        expanded(packages, out, force=True)
    monkeypatch.setattr(member_module.shutil, "copyfile", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        expanded(packages, out, force=True)
    assert contents(tmp_path) == before
    assert [path.name for path in out.parent.iterdir()] == ["both.pkg"]


def test_a_file_that_vanishes_meanwhile_is_named(packages, tmp_path):
    plan = plan_expand(packages, ExpandOptions(out=tmp_path / "both.pkg"))
    (packages[1] / "films" / "README.md").unlink()
    with refused("path-unreadable", "films/README.md"):
        expand_packages(plan)
    assert not (tmp_path / "both.pkg").exists()


def test_the_same_union_is_up_to_date_and_another_is_not_overwritten(packages, tmp_path, base):
    out, _ = expanded(packages, tmp_path / "both.pkg")
    (out / "scores.json").write_text("{}")
    before = contents(out)
    assert expanded(packages, out) == (out, False)
    for change, name in (
        (lambda: (out / "news" / "README.md").write_text("mine"), "news/README.md differs"),
        ((out / "news" / "README.md").unlink, "news/README.md is missing"),
        (lambda: give_distribution(out / "news", base.reference, seed=1), "news/features.clora differs"),
        (lambda: (out / "news" / "notes").write_text(""), "news/notes is no part of it"),
        (lambda: (out / "news" / MANIFEST).write_text("{}"), "news/clora.json differs"),
        (lambda: shutil.rmtree(out / "news"), "news is missing"),
    ):
        change()
        with refused("output-differs", out, name, "--force"):
            expanded(packages, out)
        for file, content in before.items():
            (out / file).parent.mkdir(exist_ok=True)
            (out / file).write_bytes(content)
        (out / "news" / "notes").unlink(missing_ok=True)
    with refused("output-differs", "books"):
        expanded([packages[0]], out)
    with refused("output-holds-other-files", "scores.json"):
        expanded([packages[0]], out, force=True)
    (out / "scores.json").unlink()
    assert expanded([packages[0]], out, force=True) == (out, True)
    assert sorted(path.name for path in out.iterdir()) == ["letters", "news", "wiki"]


def test_the_place_must_be_free_of_inputs_and_of_other_things(packages, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.pkg").symlink_to(packages[0])
    for out, where in (
        (packages[0], "is"),
        (tmp_path / "link.pkg", "is"),
        (packages[0] / "new.pkg", "lies in"),
        (packages[1] / "films" / "new.pkg", "lies in"),
        (tmp_path, "holds"),
    ):
        with refused("output-would-change-input", f"--out {out} {where} "):
            expanded(packages, out, force=True)
    for name in ("file", "notes"):
        (tmp_path / "notes").mkdir(exist_ok=True)
        (tmp_path / name / "x" if name == "notes" else tmp_path / name).write_text("")
        with refused("output-not-a-package", tmp_path / name):
            expanded(packages, tmp_path / name, force=True)
    (tmp_path / "empty").mkdir()
    assert expanded(packages, tmp_path / "empty")[1]


def test_hundreds_of_members_take_seconds_and_no_factor_is_read(tmp_path, base, monkeypatch):
    first = write_member(tmp_path / "many.pkg" / "task0", base, 1)
    manifest = manifest_of(first)
    for stage in range(2, 301):
        folder = shutil.copytree(first, tmp_path / "many.pkg" / f"task{stage - 1}")
        (folder / MANIFEST).write_text(json.dumps({**manifest, "task": folder.name, "stage": stage}))
    monkeypatch.setattr("clora_cli.store.adapter_folder.read_tensors", lambda path: pytest.fail(f"{path} was read"))
    start = time.process_time()
    out, _ = expanded([tmp_path / "many.pkg"], tmp_path / "both.pkg")
    assert time.process_time() - start < 5
    assert len(read_package([out])) == 300


def test_no_model_library_is_loaded():
    code = "import sys, clora_cli.transforming; print(sorted({'transformers', 'peft', 'datasets'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout.strip() == "[]"


def test_the_options_that_commands_name_are_those_that_must_agree():
    from clora_cli.store import distribution

    record = dict.fromkeys(distribution.COMPARABLE, "one way")
    named = set(routable.Routable(FeatureRecord(record), frozenset(), 1).settings)
    assert named == {*distribution.COMPARABLE, "encoder"}
    assert named <= set(routable._DEFAULTS)


@pytest.fixture
def shared(tmp_path, base):
    """Two packages of parts of one LoRA each, which know their tasks by vectors alone."""
    for seed, names in enumerate((["news", "wiki"], ["films", "books"])):
        write_parts(tmp_path / f"parts-{seed}.pkg", base, names, seed=seed)
    return tmp_path / "parts-0.pkg", tmp_path / "parts-1.pkg"


def test_task_vectors_are_enough_to_be_routed_to(shared, tmp_path):
    told = Signals()
    plan = plan_expand(shared, ExpandOptions(out=tmp_path / "both.pkg"), progress=told)
    assert [member.routable for member in plan.members] == [None] * 4
    out, made = expand_packages(plan)
    assert (told.warnings, told.notes, made) == ([], [], True)
    before = contents(shared[1] / "books")
    kept = contents(out / "books")
    assert {name for name in kept if kept[name] != before[name]} == {MANIFEST}
    assert len(read_package([out])) == 4


def test_a_union_needs_one_way_that_all_have_in_common(shared, packages, tmp_path):
    with refused("feature-distribution-missing", "parts-0.pkg/news", "parts-0.pkg/wiki"):
        expanded([shared[0], packages[1]], tmp_path / "both.pkg")
    (shared[1] / "films" / "state.clora").unlink()
    manifest = manifest_of(shared[1] / "films")
    del manifest["files"]["state.clora"]
    (shared[1] / "films" / MANIFEST).write_text(json.dumps(manifest))
    with refused("feature-distribution-missing"):
        expanded(shared, tmp_path / "both.pkg")


def test_parts_with_distributions_join_others(shared, packages, tmp_path, base):
    for seed, name in enumerate(("news", "wiki")):
        give_distribution(shared[0] / name, base.reference, seed=seed)
    told = Signals()
    expanded([shared[0], packages[1]], tmp_path / "both.pkg", progress=told)
    assert told.warnings == []


def test_distributions_that_do_not_do_are_told_where_vectors_do(shared, tmp_path, base):
    give_distribution(shared[0] / "news", base.reference)
    told = Signals()
    plan = plan_expand(shared, ExpandOptions(out=tmp_path / "a.pkg"), progress=told)
    assert [member.routable is None for member in plan.members] == [False, True, True, True]
    (warning,) = told.warnings
    assert "clora stat-features" in warning and warning.endswith("by --similarity task-vector alone")
    for package in shared:
        for folder in package.iterdir():
            give_distribution(folder, base.reference, pool="last" if folder.name == "films" else "prompt-mean")
    told = Signals()
    plan_expand(shared, ExpandOptions(out=tmp_path / "b.pkg"), progress=told)
    (warning,) = told.warnings
    assert "pool last" in warning
