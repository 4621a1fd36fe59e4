from __future__ import annotations

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from encoders import scored
from images import ROUND, STRAIGHT, encoded
from safetensors.torch import load_file
from support import contents

from clora_cli.data import load_task
from clora_cli.options import FeatureOptions
from clora_cli.store.distribution import read_distribution
from clora_cli.store.heads import head_of
from clora_cli.store.package import read_package
from clora_cli.store.package_card import package_card
from clora_cli.transforming.featuring import plan_features
from clora_cli.transforming.taking import take_features


@pytest.fixture
def package(drawings, tmp_path):
    """A package of two tasks of drawings to change."""
    return shutil.copytree(drawings, tmp_path / "pkg")


@pytest.fixture(scope="session")
def featured(drawings, tmp_path_factory):
    """The package with the features of its tasks' images."""
    copy = shutil.copytree(drawings, tmp_path_factory.mktemp("featured") / "pkg")
    made = plan_features(read_package([copy]), FeatureOptions(device="cpu"))
    assert len(list(take_features(made))) == 2
    return copy


def test_an_image_goes_to_an_adapter_by_its_features(clora, featured, shapes, here):
    distribution = read_distribution(featured / "round" / "features.clora")
    assert {len(moments.mean) for moments in distribution.sites.values()} == {16}
    rows = len(load_task(str(shapes[0])).train)
    assert {moments.count for moments in distribution.sites.values()} == {rows}
    data = [f"--data={task}" for task in shapes]
    routed = clora("route", featured, *data)
    assert routed.code == 0, routed.err
    assert routed.out.count('"task": "round"') == 6
    one = clora("eval", featured, *data, "--combine", "route", "--json")
    assert one.code == 0, one.err


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_rows_of_images_are_routed_and_told_without_their_bytes(clora, featured, here, ending):
    if ending == "jsonl":
        for shape in ROUND:
            (here / f"{shape}.png").write_bytes(encoded(shape, 7))
        (here / "rows.jsonl").write_text("\n".join(json.dumps({"image": f"{shape}.png"}) for shape in ROUND))
    else:
        rows = [{"image": {"bytes": encoded(shape, 7), "path": f"{shape}.png"}} for shape in ROUND]
        pq.write_table(pa.Table.from_pylist(rows), here / "rows.parquet")
    routed = clora("route", featured, "--data", f"rows.{ending}")
    assert routed.code == 0, routed.err
    told = [json.loads(line) for line in routed.out.splitlines()]
    assert [row["adapter"] in ("round", "straight") for row in told] == [True, True]
    assert f"{ROUND[0]}.png" in str(told[0]["image"])


@pytest.mark.parametrize("way", ["sum", "ties"])
def test_adapters_of_images_are_merged_and_have_all_classes(clora, package, shapes, here, way):
    made = clora("merge", package / "round", package / "straight", "--strategy", way, "--out", "both")
    assert made.code == 0, made.err
    head = head_of(read_package([here / "both"])[0])
    assert head.tasks == {"round": ROUND, "straight": STRAIGHT}
    scores = clora("eval", "both", *(f"--data={task}" for task in shapes), "--json")
    assert scores.code == 0, scores.err


def test_trims_and_expansions_keep_the_head(clora, package, featured, here):
    words = ("--by", "density", "--option", "density=0.5", "--out", "trimmed")
    assert clora("trim", package / "straight", *words).code == 0
    assert head_of(read_package([here / "trimmed"])[0]).tasks == head_of(read_package([package])[-1]).tasks
    grown = clora("expand", featured, "--out", "grown")
    assert grown.code == 0, grown.err
    heads = [head_of(member).tasks for member in read_package([here / "grown"])]
    assert heads == [head_of(member).tasks for member in read_package([featured])]


def test_reports_of_images_have_anytime_performance(clora, drawings, shapes, here):
    words = [f"--data={task}" for task in shapes]
    assert clora("eval", drawings, *words, "--matrix", "--out", "s.json").code == 0
    report = clora("report", "s.json", "--json")
    assert report.code == 0, report.err
    assert "average-anytime-performance" in report.out


def test_a_plan_tells_the_memory_of_images(clora, vit, shapes, here):
    words = ("--model", vit, "--method", "seq-lora", "--data", shapes[0], "--package", "p", "--batch-size")
    plans = [json.loads(clora("train-task", *words, size, "--dry-run", "--json").out) for size in (2, 8)]
    small, large = (plan["each_process"] for plan in plans)
    assert 0 < small["activations"] < large["activations"]
    assert not (here / "p").exists()


def test_showing_a_task_of_images_decodes_none(clora, shapes):
    shown = clora("tasks", shapes[0])
    assert "template image" in " ".join(shown.out.split())
    assert f"image {load_task(str(shapes[0])).test[0].picture.digest}" in shown.out


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("serve", "PACKAGE"), "encoder-cannot-write"),
        (("synthesize", "PACKAGE", "--rows", "2", "-o", "made.jsonl"), "encoder-cannot-write"),
        (("eval", "PACKAGE", "--retention", "general"), "option-not-for-encoders"),
        (("eval", "PACKAGE", "--quantize", "4bit"), "option-not-for-encoders"),
        (("stat-features", "PACKAGE", "--pool", "last"), "pool-needs-texts"),
        (("stat-features", "PACKAGE", "--dp-epsilon", "1", "--dp-delta", "1e-5"), "privacy-needs-texts"),
        (("tasks", "DATA", "--lm-eval", "there"), "harness-needs-texts"),
    ],
)
def test_what_needs_texts_refuses_images_in_a_line(clora, package, shapes, here, words, code):
    given = [{"PACKAGE": package, "DATA": shapes[0]}.get(word, word) for word in words]
    before = contents(package)
    assert clora(*given).error == code
    assert contents(package) == before


def test_a_package_of_images_is_plain_tensors(drawings):
    kept = load_file(drawings / "straight" / "adapter_model.safetensors")
    assert {"base_model.model.classifier.weight", "base_model.model.classifier.bias"} <= kept.keys()


def test_a_packages_card_tells_the_hub_what_is_classified(drawings, shapes, sequence, colours):
    for package, tasks, kind in ((drawings, shapes, "image"), (sequence, colours, "text")):
        given = {"license": "mit", "base": "org/base"}
        card = package_card("mine", read_package([package]), [scored(package, tasks[1:])], **given)
        assert f"type: {kind}-classification" in card


@pytest.mark.parametrize(
    ("cells", "named"),
    [
        ([{"bytes": b"no image", "path": None}], "rows.parquet, row 1 cannot be read: it is in no format"),
        (["a\0b.png"], "rows.parquet, row 1: image a\\x00b.png cannot be read"),
    ],
)
def test_a_row_that_holds_no_image_ends_routing_in_a_line_that_names_it(clora, featured, here, cells, named):
    pq.write_table(pa.table({"image": cells}), here / "rows.parquet")
    routed = clora("route", featured, "--data", "rows.parquet")
    assert (routed.code, routed.error) == (3, "image-unreadable")
    (line,) = [line for line in routed.err.splitlines() if line.startswith("error")]
    assert named in line
    assert "--max-length" not in line
