from __future__ import annotations

import pytest
import torch
from refusals import refused
from support import contents, continued, options_for, train

from clora_cli.reporting.training_protocol import differing, protocol_of
from clora_cli.store.tensors import read_tensors
from clora_cli.training.loop import Rows
from clora_cli.training.plan import make_plan

QUICK = {"max_steps": 4, "batch_size": 4, "lr": 1e-2}


class Numbered:
    """Stands for the images of a model; a view is its image's number and its place."""

    def view(self, number, place):
        return number, place


def test_the_places_of_a_run_have_views_of_their_own_wherever_they_are_read():
    items = [{"input_ids": [number], "labels": [0]} for number in (7, 8)]
    rows = Rows(items, [1, 0, 1, 1], Numbered())
    assert [rows[index]["input_ids"] for index in (3, 0, 1, 2)] == [[(8, 3)], [(8, 0)], [(7, 1)], [(8, 2)]]
    assert [rows[index]["row"] for index in range(4)] == [1, 0, 1, 1]
    assert items == [{"input_ids": [number], "labels": [0]} for number in (7, 8)]


@pytest.mark.parametrize("method", ["seq-lora", "moe-lora", "replay"])
def test_an_interrupted_run_sees_the_views_that_it_would_have_seen(vit, shapes, tmp_path, method):
    chosen = {**QUICK, "method": method, "augment": "crop,flip"}
    for folder in ("whole", "parts"):
        train(vit, shapes[1], tmp_path / folder, **{**chosen, "max_steps": 1})
    whole = train(vit, shapes[0], tmp_path / "whole", **chosen)
    plan = make_plan(options_for(vit, shapes[0], tmp_path / "parts", **chosen))
    resumed = continued(plan, argv=["clora", "train-task"])
    assert contents(resumed.path) == contents(whole.path)


def test_micro_batches_see_the_same_views_as_whole_ones(vit, shapes, tmp_path):
    whole, parts = (
        train(
            vit,
            shapes[0],
            tmp_path / str(size),
            **{**QUICK, "augment": "crop,flip", "batch_size": size},
            grad_accum=accum,
        )
        for size, accum in ((4, 1), (2, 2))
    )
    own, other = (read_tensors(one.weights) for one in (whole, parts))
    assert all(torch.allclose(tensor, other[name], atol=1e-5) for name, tensor in own.items())


def test_what_varies_images_is_a_part_of_the_training(vit, shapes, tmp_path):
    made = {
        augment: train(vit, shapes[0], tmp_path / augment.replace(",", "-"), **QUICK, augment=augment)
        for augment in ("none", "crop", "flip", "crop,flip")
    }
    weights = {contents(one.path)["adapter_model.safetensors"] for one in made.values()}
    assert len(weights) == 4
    assert "augment" not in made["none"].manifest.training.raw
    assert made["crop,flip"].manifest.training.raw["augment"] == "crop,flip"
    plain, varied = (protocol_of([made[augment].manifest])["round"] for augment in ("none", "flip"))
    assert differing(plain, varied) == ["augment"]
    with refused("output-made-differently", "augment"):
        make_plan(options_for(vit, shapes[0], tmp_path / "none", **QUICK, augment="flip")).finished()


def test_texts_are_not_varied(bert, colours, tmp_path):
    with refused("augment-needs-images", "--augment flip", bert):
        make_plan(options_for(bert, colours[0], tmp_path / "pkg", augment="flip"))


def test_what_cannot_be_varied_is_refused_with_what_can(vit, shapes, tmp_path):
    with refused("option-choice-unknown", "--augment blur", "crop,flip"):
        options_for(vit, shapes[0], tmp_path / "pkg", augment="blur")
