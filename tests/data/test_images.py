from __future__ import annotations

import hashlib
import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from images import ROUND, STRAIGHT, encoded, write_shapes
from refusals import refused

from clora_cli.data import load_task
from clora_cli.data.columns import prompt_of
from clora_cli.data.readers import Record


def table(shapes=ROUND, seeds=range(6)):
    """Return rows as the Hub keeps them: an image's bytes beside the path that it once had, and a class's number."""
    pairs = [(shape, seed) for seed in seeds for shape in range(len(shapes))]
    images = [{"bytes": encoded(shapes[shape], seed), "path": f"{seed}.png"} for shape, seed in pairs]
    features = {"label": {"_type": "ClassLabel", "names": list(shapes)}, "image": {"_type": "Image"}}
    held = pa.table({"image": images, "label": [shape for shape, _ in pairs]})
    return held.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def digests(rows):
    return {row.picture.digest for row in rows}


def test_folders_of_images_are_splits_of_classes(shapes):
    task = load_task(str(shapes[1]))
    assert (task.name, task.template, task.metric, task.labels) == ("straight", "image", "exact-match", STRAIGHT)
    assert (len(task.train) + len(task.dev), len(task.test)) == (24, 9)
    row = task.test[0]
    assert row.references == ("bar",)
    assert row.picture.digest == hashlib.sha256(encoded("bar", 100)).hexdigest()
    assert row.prompt == row.picture.name
    assert row.picture.data == b""


def test_a_folder_for_each_class_without_splits_is_carved_into_them(shapes, tmp_path):
    task = load_task(str(shutil.copytree(shapes[0] / "train", tmp_path / "round")))
    assert task.labels == ROUND
    assert len(task.train) + len(task.dev) + len(task.test) == 16
    assert task.test
    assert not digests(task.test) & digests((*task.train, *task.dev))


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_files_of_rows_hold_images_or_their_paths(tmp_path, ending):
    folder = tmp_path / "round"
    folder.mkdir()
    if ending == "parquet":
        pq.write_table(table(), folder / "train.parquet")
        pq.write_table(table(seeds=range(50, 52)), folder / "test.parquet")
    else:
        for split, seeds in (("train", range(6)), ("test", range(50, 52))):
            pairs = [(shape, seed) for seed in seeds for shape in ROUND]
            for shape, seed in pairs:
                (folder / f"{shape}{seed}.png").write_bytes(encoded(shape, seed))
            lines = [json.dumps({"image": f"{shape}{seed}.png", "label": shape}) for shape, seed in pairs]
            (folder / f"{split}.jsonl").write_text("\n".join(lines))
    task = load_task(str(folder))
    assert (task.template, task.labels, len(task.test)) == ("image", ROUND, 4)
    assert task.test[1].picture.read() == encoded("ring", 50)


def test_a_data_set_saved_with_images_has_them_as_they_are_stored(tmp_path):
    import datasets

    pq.write_table(table(), tmp_path / "rows.parquet")
    rows = datasets.Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache"))
    assert type(rows.features["image"]).__name__ == "Image"
    datasets.DatasetDict({"train": rows}).save_to_disk(str(tmp_path / "saved"))
    task = load_task(str(tmp_path / "saved"))
    assert hashlib.sha256(encoded("disc", 0)).hexdigest() in digests((*task.train, *task.dev, *task.test))
    assert task.labels == ROUND


def test_the_same_images_are_the_same_data_wherever_they_are(shapes, tmp_path):
    folder, there = load_task(str(shapes[0])), load_task(str(shutil.copytree(shapes[0], tmp_path / "other")))
    assert folder.fingerprint == there.fingerprint
    path = tmp_path / "other" / "test" / "disc" / "100.png"
    path.write_bytes(encoded("disc", 999))
    assert load_task(str(tmp_path / "other")).fingerprint != folder.fingerprint


def test_an_image_of_the_test_that_is_also_trained_on_is_told_and_never_carved(tmp_path):
    folder = write_shapes(tmp_path / "round", ROUND)
    shutil.copy(folder / "test" / "disc" / "100.png", folder / "train" / "disc" / "another.png")
    task = load_task(str(folder))
    assert "1 of 6 test images also occur in train; they are kept" in task.notes
    assert not digests(task.dev) & digests(task.test)


def test_texts_and_files_of_rows_win_over_images_beside_them(tmp_path):
    folder = write_shapes(tmp_path / "round", ROUND)
    rows = [{"text": f"a {shape}", "image": f"test/{shape}/100.png", "label": shape} for shape in ROUND * 3]
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = load_task(str(folder))
    assert task.template == "text-label"
    assert "columns not used: image (12 rows)" in task.notes


def test_pictures_beside_a_folders_rows_are_no_classes(tmp_path):
    for place in ("assets", "figures"):
        (tmp_path / "shop" / place).mkdir(parents=True)
        (tmp_path / "shop" / place / "logo.png").write_bytes(encoded("disc", 1))
    (tmp_path / "shop" / "data").mkdir()
    rows = [{"content": f"a {shape}", "image": "gone.png", "label": shape} for shape in ROUND * 5]
    (tmp_path / "shop" / "data" / "part-0.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = load_task(str(tmp_path / "shop"))
    assert (task.template, task.train[0].body[:2]) == ("text-label", "a ")


def test_columns_say_which_one_holds_the_images(tmp_path):
    rows = [{"text": shape, "photo": f"{shape}.png", "label": shape, "kind": f"a {shape}"} for shape in ROUND * 3]
    for shape in ROUND:
        (tmp_path / f"{shape}.png").write_bytes(encoded(shape, 1))
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = load_task(str(tmp_path / "rows.jsonl"), columns={"image": "photo", "label": "kind"})
    assert (task.template, task.labels) == ("image", ("a disc", "a ring"))


def test_what_is_no_image_in_a_folder_of_them_is_told(shapes, tmp_path):
    folder = shutil.copytree(shapes[0], tmp_path / "round")
    (folder / "train" / "disc" / "notes.txt").write_text("no image")
    (folder / "test" / "loose.png").write_bytes(encoded("disc", 7))
    (folder / "more").mkdir()
    notes = load_task(str(folder)).notes
    told = [note for note in notes if note.startswith("not used")]
    assert set(told) == {"not used in round: more", "not used in train: disc/notes.txt", "not used in test: loose.png"}


def test_more_than_two_hundred_classes_are_classes_still(tmp_path):
    rows = [{"image": {"bytes": bytes([i % 256, i // 256 + 1])}, "label": f"kind {i % 210}"} for i in range(420)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "many.parquet")
    assert len(load_task(str(tmp_path / "many.parquet")).labels) == 210


def test_a_row_of_an_image_alone_can_be_routed(shapes):
    path = shapes[0] / "test" / "disc" / "100.png"
    row = prompt_of(Record(str(path.parent / "rows.jsonl"), "line", 1, {"image": path.name}))
    assert row.picture.read() == encoded("disc", 100)
    assert row.references == ()


@pytest.mark.parametrize(
    ("cell", "code", "named"),
    [
        ("gone.png", "image-unreadable", "gone.png"),
        ("/dev/null", "image-unreadable", "no regular file"),
        (3, "value-not-image", "int"),
    ],
)
def test_a_cell_that_holds_no_image_is_named_with_its_place(tmp_path, cell, code, named):
    rows = [{"image": cell, "label": shape} for shape in ROUND]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with refused(code, "rows.jsonl, line 1", named):
        load_task(str(tmp_path / "rows.jsonl"))


@pytest.mark.parametrize(("place", "told"), [("disc", "one folder alone, 'disc'"), (".", "without folders")])
def test_images_without_two_folders_of_classes_are_refused_with_the_layout(tmp_path, place, told):
    (tmp_path / "shapes" / place).mkdir(parents=True)
    (tmp_path / "shapes" / place / "1.png").write_bytes(encoded("disc", 1))
    with refused("images-without-classes", tmp_path / "shapes", told, "shapes/CLASS/x.png"):
        load_task(str(tmp_path / "shapes"))


def test_names_of_classes_are_whole_whatever_they_have_in_common(tmp_path):
    names = ("1", "10", "cat", "cat fish", "chat \u00e9t\u00e9", "\u732b")
    for name, shape in zip(names, (*ROUND, *STRAIGHT, "disc"), strict=True):
        (tmp_path / "kinds" / name / "deep er").mkdir(parents=True)
        for seed in range(8):
            (tmp_path / "kinds" / name / "deep er" / f"{seed} \u00fc.png").write_bytes(
                encoded(shape, seed + 10 * len(name))
            )
    assert load_task(str(tmp_path / "kinds")).labels == names


@pytest.mark.parametrize("names", [("None", "null", "nan"), ("1", "1.0", "2"), ("NA", "<NA>", "NaN")])
def test_a_folder_s_name_is_its_class_whatever_a_cell_would_mean_by_it(tmp_path, names):
    for name, shape in zip(names, STRAIGHT, strict=True):
        (tmp_path / "kinds" / name).mkdir(parents=True)
        for seed in range(8):
            (tmp_path / "kinds" / name / f"{seed}.png").write_bytes(encoded(shape, seed))
    task = load_task(str(tmp_path / "kinds"))
    assert set(task.labels) == set(names)
    assert len(task.train) + len(task.dev) + len(task.test) == 24


def test_two_folders_of_classes_that_differ_only_in_spaces_are_refused_and_not_made_one(tmp_path):
    for name, shape in zip(("cat", "cat ", "dog"), STRAIGHT, strict=True):
        (tmp_path / "kinds" / name).mkdir(parents=True)
        (tmp_path / "kinds" / name / "1.png").write_bytes(encoded(shape, 1))
    with refused("classes-alike", "kinds", "'cat ' and 'cat'", "rename"):
        load_task(str(tmp_path / "kinds"))


def test_folders_without_images_and_links_to_nothing_are_told(shapes, tmp_path):
    folder = shutil.copytree(shapes[0], tmp_path / "round")
    (folder / "train" / "square").mkdir()
    (folder / "train" / "disc" / "gone.png").symlink_to("nowhere.png")
    assert "not used in train: disc/gone.png, square (empty)" in load_task(str(folder)).notes


def test_empty_bytes_are_an_empty_cell(tmp_path):
    rows = [{"image": encoded(shape, seed) if seed else b"", "label": shape} for seed in range(7) for shape in ROUND]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert "dropped 2 of 14 train rows: empty prompt or answer" in load_task(str(tmp_path / "rows.parquet")).notes


def test_an_address_of_an_image_is_refused_as_one(tmp_path):
    rows = [{"image": "https://example.com/a.png", "label": shape} for shape in ROUND]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with refused("image-not-on-disk", "rows.jsonl, line 1", "https://example.com/a.png"):
        load_task(str(tmp_path / "rows.jsonl"))


def test_what_hidden_folders_hold_is_no_image_of_the_class_that_they_are_in(shapes, tmp_path):
    folder = shutil.copytree(shapes[0], tmp_path / "round")
    for place in ("train/disc/.ipynb_checkpoints", "train/.thumbnails", "train/ring/deep/.cache"):
        (folder / place).mkdir(parents=True)
        (folder / place / "1.png").write_bytes(encoded("bar", 1))
    assert load_task(str(folder)).fingerprint == load_task(str(shapes[0])).fingerprint


def test_images_in_linked_folders_are_those_of_the_class_that_links_to_them(shapes, tmp_path):
    folder = shutil.copytree(shapes[0], tmp_path / "round")
    for place in ("more", "further"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "1.png").write_bytes(encoded(place, 1))
    (folder / "train" / "disc" / "more").symlink_to(tmp_path / "more")
    (folder / "train" / "post").symlink_to(tmp_path / "further")
    task = load_task(str(folder))
    assert task.labels == ("disc", "post", "ring")
    assert len(task.train) + len(task.dev) == 18


def test_links_to_folders_that_they_are_in_are_not_followed_again_and_again(shapes, tmp_path):
    folder = shutil.copytree(shapes[0], tmp_path / "round")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "back").symlink_to(folder / "train" / "disc")
    (folder / "train" / "disc" / "other").symlink_to(tmp_path / "other")
    (folder / "train" / "disc" / "up").symlink_to(folder / "train")
    assert load_task(str(folder)).fingerprint == load_task(str(shapes[0])).fingerprint


@pytest.mark.parametrize("ending", ["JPG", "jfif", "jpe", "avif", "jp2", "Tif", "webp", "tga", "pnm"])
def test_images_are_known_by_all_common_endings_in_any_case(shapes, tmp_path, ending):
    folder = shutil.copytree(shapes[0], tmp_path / "round")
    for path in folder.rglob("*.png"):
        path.rename(path.with_suffix(f".{ending}"))
    assert load_task(str(folder)).fingerprint == load_task(str(shapes[0])).fingerprint


def test_a_folder_of_images_that_pillow_does_not_read_is_told_which_it_does(tmp_path):
    for place in ROUND:
        (tmp_path / "phone" / place).mkdir(parents=True)
        (tmp_path / "phone" / place / "1.heic").write_bytes(b"no matter")
    with refused("folder-without-splits", tmp_path / "phone", ".jpeg", ".webp"):
        load_task(str(tmp_path / "phone"))


@pytest.mark.parametrize("inner", ["data", "round-1.0"])
def test_classes_one_folder_further_down_are_named_with_that_folder(shapes, tmp_path, inner):
    (tmp_path / "mine").mkdir()
    shutil.copytree(shapes[0], tmp_path / "mine" / inner)
    with refused("images-further-down", tmp_path / "mine" / inner):
        load_task(str(tmp_path / "mine"))


def test_loose_images_and_rows_beside_folders_of_splits_are_told(shapes, tmp_path):
    folder = shutil.copytree(shapes[0], tmp_path / "round")
    (folder / "loose.png").write_bytes(encoded("disc", 7))
    (folder / "labels.csv").write_text("a,b\n1,2\n")
    (folder / "README.md").write_text("about")
    assert "not used in round: labels.csv, loose.png" in load_task(str(folder)).notes


def test_folders_whose_names_become_one_label_are_refused_and_not_made_one(tmp_path):
    for name, shape in zip((b"caf\xe9", b"caf\xe8", b"dog"), STRAIGHT, strict=True):
        folder = os.fsencode(tmp_path / "kinds") + b"/" + name
        os.makedirs(folder)  # noqa: PTH103 (a name that is no UTF-8)
        (tmp_path / "kinds" / os.fsdecode(name) / "1.png").write_bytes(encoded(shape, 1))
    with refused("classes-alike", "kinds", "rename"):
        load_task(str(tmp_path / "kinds"))


@pytest.mark.parametrize("cell", ["a\0b.png", "\ud800.png", "x" * 9000, "data:image/png;base64," + "A" * 9000])
def test_a_cell_that_can_be_no_path_is_named_with_its_place_in_a_line_of_bounded_length(tmp_path, cell):
    rows = [{"image": cell, "label": shape} for shape in ROUND]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with refused("image-unreadable", "rows.jsonl, line 1", "check the path") as info:
        load_task(str(tmp_path / "rows.jsonl"))
    assert len(str(info.value)) < 1000


def test_an_image_in_a_table_is_named_by_its_row(tmp_path):
    rows = [
        {"image": {"bytes": encoded(shape, seed), "path": None}, "label": shape} for seed in range(6) for shape in ROUND
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    task = load_task(str(tmp_path / "rows.parquet"))
    places = {row.picture.place for row in (*task.train, *task.dev, *task.test)}
    assert places == {f"image {tmp_path / 'rows.parquet'}, row {number}" for number in range(1, 13)}


def test_columns_of_images_are_asked_for_as_such(tmp_path):
    rows = [{"img": {"bytes": encoded(shape, 1)}, "fine_label": 1, "coarse_label": 2} for shape in ROUND]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with refused("columns-not-recognised", "--columns image=img --columns label=fine_label for classes of images"):
        load_task(str(tmp_path / "rows.parquet"))


def test_a_row_to_route_without_its_image_is_asked_for_an_image():
    with refused("prompt-empty", "rows.jsonl", "give it an image"):
        prompt_of(Record("rows.jsonl", "line", 1, {"image": None}))


def test_hidden_files_are_no_images_whatever_their_endings(shapes, tmp_path):
    folder = shutil.copytree(shapes[0], tmp_path / "round")
    (folder / "train" / "disc" / "._000.png").write_bytes(b"what macOS keeps beside a file")
    assert load_task(str(folder)).fingerprint == load_task(str(shapes[0])).fingerprint


def test_paths_in_cells_are_read_without_the_spaces_around_them(tmp_path):
    for seed in range(6):
        (tmp_path / f"{seed}.png").write_bytes(encoded("disc", seed))
    lines = [f" {seed}.png , {ROUND[seed % 2]}" for seed in range(6)]
    (tmp_path / "rows.csv").write_text("\n".join(["image,label", *lines]))
    task = load_task(str(tmp_path / "rows.csv"))
    assert len(digests((*task.train, *task.dev, *task.test))) == 6


@pytest.mark.parametrize("split", ["train", "test"])
def test_classes_of_one_split_alone_are_told_apart_as_those_of_all_are(shapes, tmp_path, split):
    folder = shutil.copytree(shapes[0], tmp_path / "round")
    shutil.copytree(folder / split / "disc", folder / split / "disc ")
    with refused("classes-alike", "'disc ' and 'disc'"):
        load_task(str(folder))
