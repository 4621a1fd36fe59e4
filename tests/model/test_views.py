from __future__ import annotations

import pytest

from clora_cli.model.views import View, Views


def test_nothing_is_varied_unless_it_is_asked_for():
    assert not Views("none", 1)
    assert Views("none", 1).view(5, 1.5) == View()


@pytest.mark.parametrize("shape", [0.5, 1.0, 1.7])
def test_parts_have_the_areas_and_shapes_that_are_published_for_random_crops(shape):
    parts = [Views("crop", 7).view(number, shape).part for number in range(400)]
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in parts]
    shapes = [(right - left) / (bottom - top) * shape for left, top, right, bottom in parts]
    assert all(0 <= left < right <= 1 and 0 <= top < bottom <= 1 for left, top, right, bottom in parts)
    assert 0.08 <= min(areas) < 0.15
    assert 0.6 < max(areas) <= 1
    assert 0.75 - 1e-9 <= min(shapes) < 0.8
    assert 1.25 < max(shapes) <= 4 / 3 + 1e-9


@pytest.mark.parametrize(("shape", "part"), [(20.0, (7 / 15, 0.0, 8 / 15, 1.0)), (0.05, (0.0, 7 / 15, 1.0, 8 / 15))])
def test_of_a_long_image_the_middle_is_seen_where_no_part_fits(shape, part):
    found = [Views("crop", 7).view(number, shape).part for number in range(60)]
    assert any(one == pytest.approx(part) for one in found)


def test_mirror_images_are_half_of_all_and_parts_do_not_depend_on_them():
    both, mirrors = Views("crop,flip", 7), Views("flip", 7)
    drawn = [both.view(number, 1.0) for number in range(400)]
    assert 160 < sum(view.mirrored for view in drawn) < 240
    assert [view.mirrored for view in drawn] == [mirrors.view(number, 1.0).mirrored for number in range(400)]
