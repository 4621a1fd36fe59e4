from __future__ import annotations

import json
import shutil
import warnings

import pytest
import torch
from encoders import COLD, WARM, answered, scored
from peft import LoraConfig, get_peft_model
from refusals import refused
from safetensors.torch import load_file, save_file
from support import contents
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from clora_cli.data import load_task
from clora_cli.evaluation.choosing import classes_for
from clora_cli.store.adapter_folder import WEIGHTS, read_adapter
from clora_cli.store.distribution import Distribution, read_distribution
from clora_cli.store.heads import head_of, united
from clora_cli.store.package import read_package
from clora_cli.store.side_files import FEATURES

ALL = [*(("warm", label) for label in WARM), *(("cold", label) for label in COLD)]


@pytest.fixture
def package(summed, tmp_path):
    """A package of two tasks to change."""
    return shutil.copytree(summed, tmp_path / "pkg")


def values(result, task=None):
    """Return the scores of each row of a scores file that a command printed."""
    assert result.code == 0, result.err
    rows = json.loads(result.out)["rows"]
    return [{name: cell["value"] for name, cell in row["scores"].items()} for row in rows]


def peft_folder(bert, out, labels, named=True):
    """Let PEFT write an adapter of random numbers with a head."""
    torch.manual_seed(3)
    names = dict(enumerate(labels))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = AutoModelForSequenceClassification.from_pretrained(bert, num_labels=len(labels), id2label=names)
        config = LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], init_lora_weights=False)
        model = get_peft_model(base, config)
        model.save_pretrained(str(out))
    if named:
        base.config.save_pretrained(out)
    return model.eval()


def test_without_the_tasks_identity_all_classes_compete(sequence, colours):
    among_all = scored(sequence, colours, score="generate").rows[-1].scores
    own = scored(sequence, colours, score="labels").rows[-1].scores
    for task in ("warm", "cold"):
        assert all(a <= b for a, b in zip(among_all[task].per_row, own[task].per_row, strict=True))
    assert sum(one.value for one in among_all.values()) < sum(one.value for one in own.values())
    assert [row for row, _ in enumerate(ALL)][:2] == classes_for(load_task(str(colours[0])), ALL)


def test_a_matrix_has_no_cell_before_a_tasks_classes_are_there(clora, summed, colours, here):
    matrix = clora("eval", summed, *(f"--data={task}" for task in colours), "--matrix", "--out", "s.json", "--json")
    assert [list(row) for row in values(matrix)] == [["warm"], ["warm", "cold"]]
    report = clora("report", "s.json", "--json")
    assert report.code == 0, report.err
    assert "average-anytime-performance" in report.out


def test_a_task_that_no_adapter_has_classes_of_is_left_out_or_refused(clora, summed, colours, tasks):
    one = clora("eval", summed, "--data", colours[0], "--data", tasks["third"], "--json")
    assert list(values(one)[0]) == ["warm"]
    assert "third is left out" in one.err
    assert clora("eval", summed, "--data", tasks["third"]).error == "classes-unknown"
    assert clora("eval", summed, "--data", colours[0], "--combine", "none").error == "classes-unknown"


def test_a_peft_folder_with_a_head_is_scored_by_the_names_beside_it(clora, bert, colours, here):
    model = peft_folder(bert, here / "theirs", COLD)
    rows = load_task(str(colours[1])).test
    theirs = answered(model, AutoTokenizer.from_pretrained(bert), [row.prompt for row in rows], COLD)
    score = scored(here / "theirs", colours[1:], model=str(bert)).rows[-1].scores["cold"]
    assert [float(said in row.references) for said, row in zip(theirs, rows, strict=True)] == list(score.per_row)


def test_a_head_without_names_is_refused_with_what_names_it(clora, bert, colours, here):
    peft_folder(bert, here / "theirs", COLD, named=False)
    with refused("head-classes-unnamed", "theirs", "id2label"):
        scored(here / "theirs", colours[1:], model=str(bert))
    assert "classes" not in json.loads(clora("show", here / "theirs", "--json").out)["adapter"]


@pytest.mark.parametrize(
    "names", [["blue", "green"], ["blue", "blue", "green"], ["blue", 2, "green"], ["a", "b\nc", ""]]
)
def test_names_beside_a_head_are_as_many_different_texts_as_classes(bert, colours, here, names):
    peft_folder(bert, here / "theirs", COLD)
    (here / "theirs" / "config.json").write_text(json.dumps({"id2label": dict(enumerate(names))}))
    with refused("head-classes-unnamed", "3 different names", "id2label"):
        scored(here / "theirs", colours[1:], model=str(bert))


def test_numbers_of_a_head_that_are_none_are_refused_by_every_command(clora, package, here):
    weights = load_file(package / "warm" / WEIGHTS)
    weights["base_model.model.classifier.bias"][0] = float("nan")
    save_file(weights, package / "warm" / WEIGHTS)
    (package / "warm" / "clora.json").unlink()
    (package / "warm" / "config.json").write_text(json.dumps({"id2label": dict(enumerate(WARM))}))
    trim = ("trim", package / "warm", "--by", "density", "--option", "density=0.5", "-o", "trimmed")
    for words in (("show", package / "warm"), trim):
        assert clora(*words).error == "numbers-not-finite"
    found = clora("scan", package / "warm", "--json")
    assert (found.code, "numbers" in found.out) == (5, True)


@pytest.mark.parametrize(("saved", "code"), [({"task_type": "TOKEN_CLS"}, "adapter-not-plain-lora"), ({}, None)])
def test_a_head_for_each_token_is_no_head_of_texts(bert, colours, here, saved, code):
    peft_folder(bert, here / "theirs", COLD)
    config = json.loads((here / "theirs" / "adapter_config.json").read_text())
    (here / "theirs" / "adapter_config.json").write_text(json.dumps(config | saved))
    if code:
        with refused(code, "classifier"):
            scored(here / "theirs", colours[1:], model=str(bert))
    else:
        assert scored(here / "theirs", colours[1:], model=str(bert))


def test_a_manifest_that_names_a_class_twice_is_damaged(package, colours):
    path = package / "warm" / "clora.json"
    path.write_text(path.read_text().replace(f'"{WARM[1]}"', f'"{WARM[0]}"'))
    with refused("head-damaged", "2 classes"):
        scored(package, colours)


def test_layers_of_the_head_are_never_adapted(clora, bert, colours, here):
    words = ("--data", colours[0], "--method", "seq-lora", "--package", "p", "--max-steps", 1)
    refused_one = clora("train-task", "--model", bert, *words, "--target-modules", "classifier")
    assert (refused_one.code, refused_one.error) == (2, "target-modules-match-nothing")
    assert "classifier" not in refused_one.err.partition("this model has")[2]


def test_a_head_needs_an_encoder(clora, bert, model_folder, colours, here):
    peft_folder(bert, here / "theirs", COLD)
    with refused("head-needs-encoder", "theirs"):
        scored(here / "theirs", colours[1:], model=str(model_folder("llama")))


@pytest.mark.parametrize("strategy", ["sum", "ties"])
def test_a_merge_has_the_classes_of_all(clora, summed, colours, here, strategy):
    merged = clora("merge", summed, "--strategy", strategy, "-o", "merged")
    assert merged.code == 0, merged.err
    folder = read_adapter(here / "merged")
    assert folder.is_dense == (strategy == "ties")
    assert list(head_of(folder).classes) == ALL
    again = clora("merge", summed, "--strategy", strategy, "-o", "merged")
    assert "up to date" in again.err + again.out
    if strategy == "sum":
        assert scored(here / "merged", colours).rows[-1].scores == scored(summed, colours).rows[-1].scores
    else:
        assert set(scored(here / "merged", colours).rows[-1].scores) == {"warm", "cold"}
    assert clora("merge", summed, "--into-model", "whole").error == "head-not-supported"


def test_an_adapter_of_pefts_is_merged_with_and_trained_on_top_of(clora, bert, colours, package, here):
    peft_folder(bert, here / "theirs", ["kept", "lost"])
    merged = clora("merge", package / "warm", "theirs", "--model", bert, "-o", "merged")
    assert merged.code == 0, merged.err
    assert head_of(read_adapter(here / "merged")).tasks == {"warm": WARM, "theirs": ("kept", "lost")}
    shutil.rmtree(package / "cold")
    shutil.move(here / "theirs", package / "theirs")
    given = ("--model", bert, "--data", colours[1], "--method", "seq-lora", "--package", package, "--max-steps", 1)
    made = clora(
        "train-task", *given, "--rank", 8, "--alpha", 8, "--target-modules", "query", "--target-modules", "value"
    )
    assert made.code == 0, made.err
    assert set(head_of(read_adapter(package / "cold")).tasks) == {"warm", "theirs", "cold"}


def test_a_trimmed_adapter_keeps_its_head(clora, summed, here):
    trimmed = clora("trim", summed / "cold", "--by", "density", "--option", "density=0.5", "-o", "trimmed")
    assert trimmed.code == 0, trimmed.err
    assert torch.equal(head_of(read_adapter(here / "trimmed")).weight, head_of(read_adapter(summed / "cold")).weight)


def test_a_union_gives_classes_their_tasks_new_name(clora, package, here):
    assert clora("stat-features", package / "warm", package / "cold").code == 0
    shutil.copytree(package, here / "other.pkg")
    altered = load_file(here / "other.pkg" / "cold" / WEIGHTS)
    altered["base_model.model.classifier.bias"] += 1
    save_file(altered, here / "other.pkg" / "cold" / WEIGHTS)
    manifest = json.loads((here / "other.pkg" / "cold" / "clora.json").read_text())
    del manifest["files"][WEIGHTS]
    (here / "other.pkg" / "cold" / "clora.json").write_text(json.dumps(manifest))
    made = clora("expand", "pkg", "other.pkg", "--on-conflict", "rename", "-o", "both.pkg")
    assert made.code == 0, made.err
    heads = [head_of(member) for member in read_package([here / "both.pkg"])]
    assert list(united(heads).tasks) == ["warm", "cold", "cold-2"]
    assert clora("expand", "pkg", "other.pkg", "--on-conflict", "rename", "-o", "both.pkg").code == 0


def test_inputs_are_routed_by_distributions_of_earlier_versions_too(clora, package, colours):
    assert clora("stat-features", package / "warm", package / "cold").code == 0
    now = clora("eval", package, *(f"--data={task}" for task in colours), "--combine", "route", "--json")
    routed = clora("route", package, "--data", colours[0])
    for member in read_package([package]):  # which named layers from the encoder on
        found = read_distribution(member.features)
        sites = {site.removeprefix("bert."): moments for site, moments in found.sites.items()}
        Distribution(sites, found.record).write(member.path / FEATURES)
    assert clora("stat-features", package / "warm", package / "cold").out.count("up to date") == 2
    old = clora("eval", package, *(f"--data={task}" for task in colours), "--combine", "route", "--json")
    assert values(old) == values(now)
    assert clora("route", package, "--data", colours[0]).out == routed.out


def test_what_an_adapter_chooses_among_is_shown(clora, sequence):
    shown = clora("show", sequence / "cold")
    assert f"classes  warm: {', '.join(WARM)}" in shown.out
    assert json.loads(clora("show", sequence / "cold", "--json").out)["adapter"]["classes"]["cold"] == list(COLD)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["serve", "PACKAGE"], "encoder-cannot-write"),
        (["synthesize", "PACKAGE", "--rows", "2", "-o", "made.jsonl"], "encoder-cannot-write"),
        (["export", "PACKAGE", "--for", "vllm", "-o", "served"], "head-not-supported"),
        (["eval", "PACKAGE", "--retention", "general"], "option-not-for-encoders"),
    ],
    ids=["serve", "synthesize", "export", "retention"],
)
def test_what_needs_a_model_that_writes_is_refused(clora, summed, words, code):
    assert clora(*[str(summed) if word == "PACKAGE" else word for word in words]).error == code


def test_nothing_of_a_package_changes_when_it_is_scored(summed, colours):
    before = contents(summed)
    scored(summed, colours)
    assert contents(summed) == before
