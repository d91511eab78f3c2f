"""The explorer of two methods: its scores, its pictures, and its sliders."""

import ipywidgets
import numpy as np
import pytest
import torch

from wsss_lib.data.toy import ToyWorld
from wsss_lib.ops.cam import cam_label
from wsss_lib.show import compare_maps
from wsss_lib.show.compare_maps import explore_two, made_up_maps, picture_iou, seeds_of_two


@pytest.fixture(scope="module")
def world():
    return ToyWorld("val", 6, seed=3)


def test_the_iou_of_one_picture_by_definition():
    seed = torch.tensor([[0, 0, 2, 2]], dtype=torch.uint8)
    mask = np.array([[0, 2, 2, 255]], np.uint8)
    assert picture_iou(seed, mask, 5) == pytest.approx((1 / 2 + 1 / 2) / 2)


def test_made_up_maps_of_whole_objects_fit_better_than_those_of_parts(world):
    part, whole = made_up_maps(world).values()
    scores = []
    for read, threshold in (part, whole):
        ious = []
        for i, image_id in enumerate(world.ids):
            classes, cams = read(image_id)
            assert classes.tolist() == world.labels[i].nonzero().flatten().tolist()
            assert cams.shape == (len(classes), *world.size(i))
            assert 0 <= cams.min() <= cams.max() < 1
            ious.append(picture_iou(cam_label(cams, classes, threshold), world.mask(i), len(world.classes) + 1))
        scores.append(np.mean(ious))
    assert scores[1] > scores[0] + 0.2


def test_titles_tell_thresholds_and_scores(world):
    methods = made_up_maps(world)
    one, two = methods
    titles = list(seeds_of_two(world, methods, 0, (one, two), (0.25, 0.5)))
    assert titles[1].startswith(f"{one} at 0.25\nIoU ")
    assert titles[2].startswith(f"{two} at 0.50\nIoU ")
    assert len(titles) == 4
    assert len(seeds_of_two(world, methods, 0, (one, one), (0.3, 0.3))) == 4


def test_without_a_notebook_it_draws_a_figure(world, monkeypatch):
    shown = []
    monkeypatch.setattr(compare_maps, "display", shown.append)
    explore_two(world, made_up_maps(world), images=2)
    [figure] = shown
    assert len(figure.axes) == 8


def test_sliders_change_the_picture(world, monkeypatch):
    shown = []
    monkeypatch.setattr(compare_maps, "display", shown.append)
    monkeypatch.setattr(compare_maps, "is_interactive", lambda: True)
    methods = made_up_maps(world)
    explore_two(world, methods)
    [box] = shown
    picture, first, second, screen = box.children
    assert isinstance(picture, ipywidgets.SelectionSlider)
    before = screen.value
    picture.value = picture.options[1][1]
    assert screen.value != before
    before = screen.value
    first.children[1].value = 0.9
    assert screen.value != before
    before = screen.value
    second.children[0].value = next(iter(methods))
    assert screen.value != before
    assert second.children[1].value == methods[second.children[0].value][1]
