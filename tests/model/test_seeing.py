from __future__ import annotations

import io
import json
import shutil
import struct
import warnings

import numpy as np
import pytest
import torch
from images import drawn, encoded, save_seeing
from PIL import Image
from refusals import refused
from transformers import AutoConfig, AutoImageProcessor, ResNetConfig, ResNetForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from clora_cli.base.errors import MismatchError
from clora_cli.data.pictures import Picture
from clora_cli.model import seeing
from clora_cli.model.base_model import check_base, find_model
from clora_cli.model.capture import pooled
from clora_cli.model.image_settings import image_settings
from clora_cli.model.loading import load_skeleton, read_tokenizer
from clora_cli.model.seeing import Seen


@pytest.fixture
def seen(vit):
    """What a small ViT sees."""
    return Seen(AutoImageProcessor.from_pretrained(vit, backend="pil"), AutoConfig.from_pretrained(vit))


def stored(image, kind="PNG", **chosen):
    held = io.BytesIO()
    image.save(held, kind, **chosen)
    return Picture.of_bytes(held.getvalue())


def test_pixels_are_those_of_the_models_own_processor(seen, vit):
    processor = AutoImageProcessor.from_pretrained(vit, backend="pil")
    theirs = processor(drawn("disc", 1), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(seen.pixels(seen.number(Picture.of_bytes(encoded("disc", 1)))), theirs)


def test_an_image_has_one_number_however_often_it_is_given(seen, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded("disc", 1))
    given = [Picture.of_bytes(encoded("disc", 1)), Picture.of_file(tmp_path / "a.png", "a.png")]
    assert [seen.number(one) for one in (*given, Picture.of_bytes(encoded("ring", 1)))] == [0, 0, 1]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_images_of_every_kind_have_three_channels(seen, mode):
    picture = stored(drawn("square", 3).convert(mode), "TIFF" if mode == "CMYK" else "PNG")
    assert seen.pixels(seen.number(picture)).shape == (3, 8, 8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_grey_images_of_16_bits_are_scaled_not_cut_off(seen, kind):
    grey = drawn("disc", 1).convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    given = [stored(grey), stored(deep, kind)]
    few, many = (seen.pixels(seen.number(picture)) for picture in given)
    assert torch.equal(few, many)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_that_are_numbers_without_a_scale_are_refused_by_the_files_head(seen, mode):
    with refused("image-unreadable", "32-bit"):
        seen.number(stored(drawn("disc", 1).convert("L").convert(mode), "TIFF"))


@pytest.mark.parametrize("size", [(1, 1), (10, 1), (10, 3), (1, 10), (3, 3), (4000, 2)])
def test_images_of_few_rows_of_pixels_keep_their_colours(seen, size):
    red = seen.pixels(seen.number(stored(Image.new("RGB", size, (255, 0, 0)))))
    assert torch.allclose(red.amax(dim=(1, 2)), torch.tensor([1.0, -1.0, -1.0]), atol=1e-3)


def test_palettes_that_are_transparent_in_part_are_read_without_a_warning(seen):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen.pixels(seen.number(stored(drawn("disc", 1).convert("P"), transparency=bytes(range(200)))))


def test_of_images_that_move_the_first_is_seen(seen):
    first, second = (drawn(shape, 1).convert("P") for shape in ("disc", "bar"))
    moving = stored(first, "GIF", save_all=True, append_images=[second])
    assert torch.equal(seen.pixels(seen.number(moving)), seen.pixels(seen.number(stored(first, "GIF"))))


def test_sizes_that_make_no_batch_are_told_with_their_images(vit):
    processor = ViTImageProcessorPil(do_resize=False)
    seen = Seen(processor, AutoConfig.from_pretrained(vit))
    small, large = stored(Image.new("RGB", (8, 8))), stored(Image.new("RGB", (8, 16)))
    numbers = torch.tensor([[seen.number(small)], [seen.number(large)]])
    model = load_skeleton(find_model(str(vit)))
    seen.show(model)
    with refused("images-differ-in-size", small.digest[:12], "8 by 8", large.digest[:12], "8 by 16"):
        model(input_ids=numbers)


def test_a_view_that_is_mirrored_is_the_images_own_pixels_from_right_to_left(seen):
    number = seen.number(Picture.of_bytes(encoded("bar", 1)))
    whole = seen.pixels(number)
    assert seen.view(number, 7) == number  # nothing is varied unless it is asked for
    seen.vary("flip", 3)
    found = [seen.pixels(seen.view(number, place)) for place in range(20)]
    mirrored = [torch.equal(one, whole.flip(-1)) for one in found]
    assert [torch.equal(one, whole) for one in found] == [not one for one in mirrored]
    assert 3 < sum(mirrored) < 17
    assert torch.equal(seen.pixels(number), whole)


@pytest.mark.parametrize("family", ["convnext", "deit", "dinov2", "vit"])
def test_a_view_is_a_part_of_the_image_in_the_size_of_the_whole(tmp_path, family):
    folder = save_seeing(family, tmp_path / family)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    seen = Seen(processor, AutoConfig.from_pretrained(folder))
    number = seen.number(stored(gradient := Image.linear_gradient("L").convert("RGB")))
    seen.vary("crop", 3)
    views = [seen.pixels(seen.view(number, place)) for place in range(12)]
    whole = seen.pixels(number)
    assert {one.shape for one in views} == {whole.shape}
    share = [((one.max() - one.min()) / (whole.max() - whole.min())).item() for one in views]
    assert min(share) < 0.7
    assert max(share) > 0.8
    low, high = (
        processor(gradient.resize((1, 1), box=(0, y, 1, y + 1)).resize((64, 64)), return_tensors="pt") for y in (0, 255)
    )
    assert all(low["pixel_values"].min() <= one.min() and one.max() <= high["pixel_values"].max() for one in views)


def test_a_view_depends_on_the_seed_and_its_place_alone(vit):
    def views(seed, places):
        seen = Seen(AutoImageProcessor.from_pretrained(vit, backend="pil"), AutoConfig.from_pretrained(vit))
        seen.vary("crop,flip", seed)
        number = seen.number(Picture.of_bytes(encoded("bar", 1)))
        return {place: seen.pixels(seen.view(number, place)) for place in places}

    first, again, other = views(1, range(6)), views(1, reversed(range(3, 6))), views(2, range(6))
    assert all(torch.equal(again[place], first[place]) for place in again)
    assert not any(torch.equal(other[place], first[place]) for place in other)


def test_a_model_of_grey_images_gets_one_channel(seen, vit):
    config = AutoConfig.from_pretrained(vit, num_channels=1)
    grey = Seen(AutoImageProcessor.from_pretrained(vit, backend="pil", image_mean=[0.5], image_std=[0.5]), config)
    assert grey.pixels(grey.number(Picture.of_bytes(encoded("disc", 1)))).shape == (1, 8, 8)


def test_a_camera_that_was_turned_is_turned_back(seen):
    turned, exif = drawn("bar", 2).transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    upright = seen.pixels(seen.number(Picture.of_bytes(encoded("bar", 2))))
    assert torch.equal(seen.pixels(seen.number(stored(turned, exif=exif))), upright)


def test_no_more_pixels_are_kept_than_fit(seen, monkeypatch):
    monkeypatch.setattr(seeing, "_KEPT", 3 * 8 * 8 * 4 * 2)
    numbers = [seen.number(Picture.of_bytes(encoded("disc", seed))) for seed in range(4)]
    first = [seen.pixels(number) for number in numbers]
    again = [seen.pixels(number) for number in numbers]
    assert [one is other for one, other in zip(first, again, strict=True)] == [True, True, False, False]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_images_that_were_sent_on_are_forgotten(seen):
    assert [seen.number(Picture.of_bytes(encoded("disc", seed))) for seed in range(2)] == [0, 1]
    seen.forget()
    assert seen.number(Picture.of_bytes(encoded("disc", 1))) == 0


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "PPM", "TIFF"])
def test_an_image_that_is_cut_off_is_named_before_any_is_decoded(seen, kind):
    whole = stored(drawn("disc", 1), kind).data
    assert seen.number(Picture.of_bytes(whole)) == 0
    cut = Picture.of_bytes(whole[: 3 * len(whole) // 4])
    with refused("image-unreadable", cut.digest[:12], "mend or remove it"):
        seen.number(cut)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_an_image_that_looks_whole_is_not_decoded_to_know(seen, monkeypatch, kind):
    decoded = []
    load = Image.Image.load
    monkeypatch.setattr(Image.Image, "load", lambda image: decoded.append(image) or load(image))
    stored_whole = stored(drawn("disc", 1), kind)
    decoded.clear()
    seen.number(stored_whole)
    assert decoded == []


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
def test_what_stands_behind_an_image_in_its_file_is_no_damage(seen, kind):
    more = Picture.of_bytes(stored(drawn("disc", 1), kind).data + b"more\0")
    assert seen.pixels(seen.number(more)).shape[0] == 3


def test_a_png_whose_bytes_were_changed_is_named_and_one_whose_pixels_are_there_is_read(seen):
    whole = encoded("disc", 1)
    place = whole.index(b"IDAT") + 8
    with refused("image-unreadable", "cannot be decoded"):
        seen.number(Picture.of_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :]))
    no_end = Picture.of_bytes(whole[:-12])  # Pillow decodes it
    assert seen.pixels(seen.number(no_end)).shape[0] == 3


def test_an_image_of_more_pixels_than_pillow_decodes_is_refused_by_its_head(seen):
    head = bytearray(stored(drawn("disc", 1), "BMP").data)
    head[18:26] = (60_000).to_bytes(4, "little") * 2  # its width and height
    with refused("image-unreadable", "more than 178,956,970 pixels"):
        seen.number(Picture.of_bytes(bytes(head)))


def test_a_feature_is_the_mean_over_patches_in_one_piece_or_in_windows():
    patches = torch.randn(2, 6, 3)
    mean = patches.mean(dim=1)
    for output in (patches, patches.reshape(4, 3, 3), patches.reshape(2, 2, 3, 3)):
        assert torch.allclose(pooled(output, torch.ones(2, 1), "prompt-mean"), mean)


def test_an_image_model_without_its_processor_says_so(tmp_path):
    folder = save_seeing("vit", tmp_path / "vit")
    (folder / "preprocessor_config.json").unlink()
    with refused("base-model-not-loadable", "image processor", str(folder)):
        read_tokenizer(find_model(str(folder)))


def test_an_image_model_of_another_type_is_refused_by_its_name(tmp_path):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1])
    ResNetForImageClassification(config).save_pretrained(tmp_path / "resnet")
    with refused("image-model-not-supported", "resnet", "swin, swinv2, vit"):
        find_model(str(tmp_path / "resnet"))


def test_deit_has_the_class_of_one_head_whatever_it_was_saved_as(tmp_path):
    folder = save_seeing("deit", tmp_path / "deit")
    config = AutoConfig.from_pretrained(folder)
    config.architectures = ["DeiTForImageClassificationWithTeacher"]
    config.save_pretrained(folder)
    assert type(load_skeleton(find_model(str(folder)))).__name__ == "DeiTForImageClassification"


def twelve_bits(grey):
    """Return a grey image as a TIFF of 12 bits a pixel, two of which are three bytes."""
    numbers = np.round(np.asarray(grey).astype(float) * 4095 / 255).astype(int).reshape(-1, 2)
    body = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in numbers.tolist())
    tags = [
        (256, grey.width),
        (257, grey.height),
        (258, 12),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, grey.height),
    ]
    tags += [(279, len(body))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = struct.pack("<2sHI", b"II", 42, 8 + len(body))
    return Picture.of_bytes(head + body + struct.pack("<H", len(tags)) + entries + bytes(4))


def test_grey_images_of_12_bits_are_scaled_as_those_of_16(seen):
    grey = drawn("disc", 1).convert("L")
    few, many = (seen.pixels(seen.number(picture)) for picture in (stored(grey), twelve_bits(grey)))
    assert torch.allclose(few, many, atol=0.02)


def test_an_image_that_a_program_would_draw_is_refused_whatever_its_name(seen):
    held = io.BytesIO()
    drawn("disc", 1).save(held, "EPS")
    with refused("image-unreadable", "EPS", "does not run"):
        seen.number(Picture.of_bytes(held.getvalue()))


@pytest.mark.parametrize("family", ["deit", "ijepa", "vit", "vit_msn"])
def test_a_processor_that_makes_another_size_than_the_model_takes_is_told_with_both(tmp_path, family):
    folder = save_seeing(family, tmp_path / family)
    processor = ViTImageProcessorPil(size={"height": 12, "width": 16})
    seen, model = Seen(processor, AutoConfig.from_pretrained(folder)), load_skeleton(find_model(str(folder)))
    seen.show(model)
    number = seen.number(stored(drawn("disc", 1)))
    with refused("image-size-not-the-models", "takes images of 8 by 8", "makes 16 by 12", error=MismatchError):
        model(input_ids=torch.tensor([[number]]))


def test_a_processor_that_takes_no_image_is_not_laid_at_the_images_door_alone(vit):
    seen = Seen(ViTImageProcessorPil(image_mean=[0.5, 0.5]), AutoConfig.from_pretrained(vit))
    with refused("image-not-processed", "preprocessor_config.json"):
        seen.pixels(seen.number(stored(drawn("disc", 1))))


def test_an_image_processor_is_part_of_which_model_it_is(vit, tmp_path):
    recorded = find_model(str(vit)).described()
    changed = shutil.copytree(vit, tmp_path / "vit")
    content = json.loads((changed / "preprocessor_config.json").read_text())
    for key, value in (("image_mean", [0.1, 0.1, 0.1]), ("do_rescale", False), ("size", {"height": 8, "width": 16})):
        (changed / "preprocessor_config.json").write_text(json.dumps({**content, key: value}))
        with refused("trained-on-other-base-model", f"image_processor.{key}"):
            check_base(recorded, find_model(str(changed)), tmp_path / "adapter")


@pytest.mark.parametrize("size", [8, {"shortest_edge": 8}, {"width": 8, "height": 8, "longest_edge": None}])
def test_an_image_processor_that_is_written_in_another_way_is_the_same(vit, tmp_path, size):
    recorded = find_model(str(vit)).described()
    written = shutil.copytree(vit, tmp_path / "vit")
    content = json.loads((written / "preprocessor_config.json").read_text())
    content |= {"size": size, "image_mean": [0.5, 0.50, 5e-1], "feature_extractor_type": "ViTFeatureExtractor"}
    (written / "preprocessor_config.json").write_text(json.dumps({**content, "do_normalize": None}))
    check_base(recorded, find_model(str(written)), tmp_path / "adapter")


def test_a_part_is_mirrored_as_half_of_the_whole_images_are(seen):
    rising = Image.linear_gradient("L").rotate(90).convert("RGB")  # from dark on the left to light on the right
    number = seen.number(stored(rising))
    seen.vary("crop,flip", 3)
    views = [seen.pixels(seen.view(number, place)) for place in range(20)]
    assert bool((seen.pixels(number)[..., -1] > seen.pixels(number)[..., 0]).all())
    assert 3 < sum(bool((view[..., -1] < view[..., 0]).all()) for view in views) < 17


def test_views_that_make_no_batch_are_told_with_their_images(vit):
    seen = Seen(ViTImageProcessorPil(do_resize=False), AutoConfig.from_pretrained(vit))
    small, large = stored(Image.new("RGB", (8, 8))), stored(Image.new("RGB", (8, 16)))
    seen.vary("flip", 3)
    numbers = [[seen.view(seen.number(one), place)] for place, one in enumerate((small, large))]
    model = load_skeleton(find_model(str(vit)))
    seen.show(model)
    with refused("images-differ-in-size", small.digest[:12], large.digest[:12]):
        model(input_ids=torch.tensor(numbers))


def test_a_size_is_the_same_in_whatever_order_its_numbers_are_written(tmp_path):
    found = []
    for size in ({"height": 8, "width": 16}, {"width": 16, "height": 8}, {"height": 16, "width": 8}):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": size}))
        found.append(image_settings(tmp_path))
    assert found == [{"size": "8 16"}, {"size": "8 16"}, {"size": "16 8"}]
