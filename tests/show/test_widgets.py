"""The explorer: a still picture where nobody watches, sliders where somebody does."""

import ipywidgets
import numpy as np
import pytest
import torch

from tests.runs.small import Pictures
from wsss_lib.show import figures, widgets

MAPS = {
    "picture0": (torch.tensor([0, 2]), torch.stack([torch.full((12, 16), 0.3), torch.full((12, 16), 0.7)])),
    "picture1": (torch.tensor([1]), torch.rand(1, 10, 10)),
    "picture2": (torch.tensor([], dtype=torch.int64), torch.zeros(0, 12, 16)),
}


@pytest.fixture
def data():
    return Pictures([(12, 16), (10, 10), (12, 16)], [[1, 0, 1], [0, 1, 0], [0, 0, 0]])


@pytest.fixture
def shown(monkeypatch):
    """What is displayed."""
    things = []
    monkeypatch.setattr(widgets, "display", things.append)
    for name in ("WSSS_HEADLESS", "JPY_SESSION_NAME", "VSCODE_PID"):
        monkeypatch.delenv(name, raising=False)
    return things


@pytest.fixture
def live(monkeypatch, shown):
    monkeypatch.setenv("JPY_SESSION_NAME", "00_cam.ipynb")
    return shown


def controls(box):
    return {w.description: w for w in box.children if hasattr(w, "description")}, box.children[-1]


def test_pictures_of_an_image(data):
    pictures = widgets.cam_pictures(data, MAPS.__getitem__, 0, 2, 0.5, 0.6)
    assert list(pictures) == ["image", "CAM", "CAM seed", "mask"]
    original = np.asarray(data.image(0))
    np.testing.assert_array_equal(
        pictures["CAM seed"], figures.overlay_mask(original, np.full((12, 16), 3, np.uint8), 0.6)
    )
    np.testing.assert_array_equal(pictures["CAM"], figures.overlay(original, MAPS["picture0"][1][1].numpy(), 0.6))
    above = widgets.cam_pictures(data, MAPS.__getitem__, 0, 2, 0.75, 0.6)
    np.testing.assert_array_equal(above["CAM seed"], original)
    data.has_masks = False
    assert "mask" not in widgets.cam_pictures(data, MAPS.__getitem__, 0, 2, 0.5, 0.6)


def test_outside_an_interactive_notebook_there_is_one_plot_and_no_widget(data, shown, monkeypatch):
    class Forbidden:
        def __init__(self, *_, **__):
            raise AssertionError("a widget was made")

    for name in ("IntSlider", "FloatSlider", "Dropdown", "Image", "VBox"):
        monkeypatch.setattr(ipywidgets, name, Forbidden)
    widgets.explore(data, MAPS.__getitem__)
    [plot] = shown
    assert isinstance(plot, figures.Plot)
    assert len(plot.axes) == 3 * 4
    widgets.explore(data, MAPS.__getitem__, images=2)
    assert len(shown[1].axes) == 2 * 4


def test_headless_overrides_an_interactive_notebook(data, live, monkeypatch):
    monkeypatch.setenv("WSSS_HEADLESS", "1")
    widgets.explore(data, MAPS.__getitem__)
    assert isinstance(live[0], figures.Plot)


def test_sliders_change_the_picture(data, live):
    widgets.explore(data, MAPS.__getitem__, threshold=0.5)
    [box] = live
    assert isinstance(box, ipywidgets.VBox)
    sliders, screen = controls(box)
    assert sliders.keys() == {"image", "class", "threshold", "opacity"}
    assert sliders["threshold"].value == 0.5
    seen = [bytes(screen.value)]
    for name, value in [("threshold", 0.75), ("opacity", 0.2), ("class", 2), ("image", 1)]:
        sliders[name].value = value
        assert bytes(screen.value) not in seen, name
        seen.append(bytes(screen.value))
    assert all(content.startswith(b"\x89PNG") for content in seen)


@pytest.mark.slow
def test_the_classes_are_those_of_the_image(data, live):
    widgets.explore(data, MAPS.__getitem__)
    sliders, screen = controls(live[0])
    assert sliders["class"].options == (("class0", 0), ("class2", 2))
    sliders["image"].value = 1
    assert sliders["class"].options == (("class1", 1),)
    assert sliders["class"].value == 1
    sliders["image"].value = 2
    assert sliders["class"].options == (("no class", -1),)
    assert bytes(screen.value).startswith(b"\x89PNG")
    assert sliders["image"].max == 2


# ------------------------------------------------------------------------------------------------- explore_settings

SLIDERS = {"bright": (0.5, 0.0, 1.0, 0.25), "rows": (3.0, 1.0, 8.0, 1.0)}


def draw(data, asked=None):
    """Two pictures that show which image and which numbers they were made of."""

    def pictures(index, bright, rows):
        if asked is not None:
            asked.append((index, bright, rows))
        shade = np.zeros((12, 16))
        shade[: int(rows)] = bright
        return {"image": data.image(index), "shade": shade}

    return pictures


def test_settings_outside_an_interactive_notebook_are_a_table(data, shown, monkeypatch):
    for name in ("IntSlider", "FloatSlider", "Image", "VBox"):
        monkeypatch.setattr(ipywidgets, name, None)
    asked = []
    widgets.explore_settings(data, draw(data, asked), SLIDERS)
    widgets.explore_settings(data, draw(data), SLIDERS, images=2)
    widgets.explore_settings(data, draw(data), SLIDERS, images=9)
    assert all(isinstance(plot, figures.Plot) for plot in shown)
    assert [len(plot.axes) for plot in shown] == [3 * 2, 2 * 2, 3 * 2]
    assert asked == [(0, 0.5, 3.0), (1, 0.5, 3.0), (2, 0.5, 3.0)]
    assert [axis.get_title() for axis in shown[0].axes[:2]] == ["image", "shade"]
    assert [axis.get_ylabel() for axis in shown[0].axes[::2]] == list(data.ids)
    np.testing.assert_array_equal(shown[0].axes[2].images[0].get_array(), data.pixels[1])


def test_settings_headless_overrides_an_interactive_notebook(data, live, monkeypatch):
    monkeypatch.setenv("WSSS_HEADLESS", "1")
    widgets.explore_settings(data, draw(data), SLIDERS)
    assert isinstance(live[0], figures.Plot)


def test_settings_have_sliders_that_change_the_picture(data, live):
    asked = []
    widgets.explore_settings(data, draw(data, asked), SLIDERS)
    [box] = live
    assert isinstance(box, ipywidgets.VBox)
    sliders, screen = controls(box)
    assert list(sliders) == ["image", "bright", "rows"]
    assert (sliders["image"].min, sliders["image"].max) == (0, 2)
    for name, bounds in SLIDERS.items():
        slider = sliders[name]
        assert (slider.value, slider.min, slider.max, slider.step) == bounds
    seen = [bytes(screen.value)]
    for name, value in [("bright", 1.0), ("rows", 7.0), ("image", 1)]:
        sliders[name].value = value
        assert bytes(screen.value) not in seen, name
        seen.append(bytes(screen.value))
    assert all(content.startswith(b"\x89PNG") for content in seen)
    assert asked == [(0, 0.5, 3.0), (0, 1.0, 3.0), (0, 1.0, 7.0), (1, 1.0, 7.0)]


def test_pick_image(monkeypatch):
    labels = [[0, 0, 0], [1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 1]]
    data = Pictures([(4, 6)] * 5, labels)
    assert widgets.pick_image(data) == 3
    assert widgets.pick_image(data, [2]) == 2
    assert widgets.pick_image(data, range(2, 4)) == 1
    monkeypatch.setattr(data, "has_mask", lambda index: index == 4)
    assert widgets.pick_image(data) == 4
    assert widgets.pick_image(data, [2]) == 2  # what it shows comes first
    assert widgets.pick_image(Pictures([(4, 6)] * 3, labels[:3])) == 2  # the fewest classes
    assert widgets.pick_image(Pictures([(4, 6)] * 2, [[0, 0], [0, 0]])) == 0


def test_objects_of_images_with_one_class(monkeypatch):
    data = Pictures([(4, 6)] * 6, [[0, 0], [1, 0], [0, 1], [1, 1], [1, 0], [1, 0]])
    found = widgets.single_class_objects(data, 2)  # the masks show class 0 in every left half
    assert list(found) == [1, 4]
    np.testing.assert_array_equal(found[1], data.mask(1) == 1)
    assert list(widgets.single_class_objects(data, 9)) == [1, 4, 5]
    monkeypatch.setattr(data, "has_masks", False)
    assert widgets.single_class_objects(data, 2) == {}
