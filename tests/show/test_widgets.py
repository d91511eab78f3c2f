"""The explorer: a still picture where nobody watches, sliders where somebody does."""

import ipywidgets
import numpy as np
import pytest
import torch

from tests import recipe
from tests.runs.small import Pictures
from wsss_lib.show import figures, widgets

PICTURE = np.zeros((12, 16, 3), np.uint8)
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


def pictures(plot):
    """The axes with the pictures of a figure, without colour bars."""
    return [axis for axis in plot.axes if axis.get_label() != "<colorbar>"]


def captions(plot):
    return [axis.get_xlabel() for axis in pictures(plot)]


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

    for name in ("IntSlider", "FloatSlider", "Dropdown", "Checkbox", "Image", "VBox"):
        monkeypatch.setattr(ipywidgets, name, Forbidden)
    widgets.explore(data, MAPS.__getitem__)
    [plot] = shown
    assert isinstance(plot, figures.Plot)
    assert len(pictures(plot)) == 3 * 4
    assert [text.get_text() for text in plot.legends[0].get_texts()] == ["class0", "class1", "class2", "no decision"]
    widgets.explore(data, MAPS.__getitem__, images=2)
    assert len(pictures(shown[1])) == 2 * 4
    widgets.explore(data, MAPS.__getitem__, images=2, crf=True)
    titles = ["image", "CAM", "CAM seed", "after the CRF", "mask"]
    assert [axis.get_title() for axis in pictures(shown[2])[:5]] == titles


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


def test_a_switch_adds_the_seed_after_the_crf(data, live, monkeypatch):
    widgets.explore(data, MAPS.__getitem__, threshold=0.5, crf=True)
    sliders, screen = controls(live[0])
    before, switch = bytes(screen.value), sliders["dense CRF"]
    assert switch.value is False
    drawn = []
    monkeypatch.setattr(figures, "grid", lambda _, titles, **__: drawn.append(titles) or figures.Plot())
    switch.value = True
    switch.value = False
    assert drawn == [["image", "CAM", "CAM seed", "after the CRF", "mask"], ["image", "CAM", "CAM seed", "mask"]]
    assert bytes(screen.value) != before


def test_the_crf_follows_the_colours_of_the_image():
    """A map that covers most of a bright square, and half a dark column beside it, becomes the square."""
    pixels = np.zeros((24, 32, 3), np.uint8)
    pixels[4:20, 8:24] = 230
    cams = torch.zeros(1, 24, 32)
    cams[0, 4:20, 8:21] = 0.9
    cams[0, 4:20, 5:8] = 0.45
    seed = widgets.cam_label(cams, torch.tensor([1]), 0.4)
    refined = widgets.crf_seed(pixels, torch.tensor([1]), cams, 0.4)
    assert refined.dtype == torch.uint8
    truth = torch.from_numpy((pixels[..., 0] > 0) * np.uint8(2))
    assert (refined == truth).float().mean() > (seed == truth).float().mean()
    assert refined.unique().tolist() == [0, 2]
    assert not widgets.crf_seed(pixels, torch.tensor([]).long(), torch.zeros(0, 24, 32), 0.4).any()


@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.5, 0.8])
def test_before_the_crf_the_labels_are_those_of_the_seed(threshold, monkeypatch):
    classes, cams = torch.tensor([0, 2]), torch.from_numpy(recipe.smooth("cams/explorer", (2, 12, 16)))
    monkeypatch.setattr(widgets, "dense_crf", lambda _, unaries: [(-unaries[0]).exp()])
    same = widgets.crf_seed(PICTURE, classes, cams, threshold) == widgets.cam_label(cams, classes, threshold)
    assert same.float().mean() > 0.99  # a pixel at the threshold may differ by rounding


def test_a_mask_has_its_iou_below_it(data, shown):
    """The seed of picture 0 is class 2 everywhere; class 0 is in its true left half."""
    widgets.explore(data, MAPS.__getitem__, threshold=0.5, images=1)
    assert captions(shown[0]) == ["", "", "IoU 0 %", ""]
    truth = data.mask(0)
    right = np.where(truth == 255, 2, truth)  # undecided pixels do not count
    some = {"right": figures.overlay_mask(data.image(0), right), "image": data.image(0)}
    half = np.where(truth == 1, 255, truth)
    some["undecided"] = figures.overlay_mask(data.image(0), half)
    some["small"] = figures.overlay_mask(np.zeros((6, 8, 3), np.uint8), truth[:6, :8])
    widgets.write_scores(data, 0, some)
    assert [getattr(one, "caption", "") for one in some.values()] == ["IoU 100 %", "", "", ""]
    data.has_masks = False
    widgets.explore(data, MAPS.__getitem__, threshold=0.5, images=1)
    assert set(captions(shown[1])) == {""}


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


def test_an_image_is_chosen_by_its_classes_and_its_name(data, live):
    widgets.explore(data, MAPS.__getitem__)
    widgets.explore_settings(data, draw(data), SLIDERS)
    names = ["class0, class2 (picture0)", "class1 (picture1)", "no class (picture2)"]
    for box in live:
        sliders, _ = controls(box)
        assert sliders["image"].options == tuple(zip(names, range(3), strict=True))


# ------------------------------------------------------------------------------------------------- explore_settings

SLIDERS = {"bright": (0.5, 0.0, 1.0, 0.25), "rows": (3.0, 1, 8, 1)}


def draw(data, asked=None):
    """Two pictures that show which image and which numbers they were made of."""

    def pictures(index, bright, rows):
        if asked is not None:
            asked.append((index, bright, rows))
        shade = np.zeros((12, 16))
        shade[:rows] = bright
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
    assert [len(pictures(plot)) for plot in shown] == [3 * 3, 2 * 3, 3 * 3]
    assert asked == [(0, 0.5, 3), (1, 0.5, 3), (2, 0.5, 3)]
    assert shown[0].get_suptitle() == "bright 0.5, rows 3"
    assert shown[0].alt().endswith("Made with bright 0.5, rows 3.")
    axes = pictures(shown[0])
    assert [axis.get_title() for axis in axes[:3]] == ["image", "shade", "true mask"]
    assert [axis.get_ylabel() for axis in axes[::3]] == list(data.ids)
    np.testing.assert_array_equal(axes[3].images[0].get_array(), data.pixels[1])


def test_settings_show_the_seed_beside(data, shown):
    def masks(index, level):
        return {"mask": figures.overlay_mask(data.image(index), np.full(data.size(index), level, np.uint8))}

    widgets.explore_settings(data, masks, {"level": (1, 0, 3, 1)}, 1, MAPS.__getitem__, 0.5)
    data.has_masks = False
    widgets.explore_settings(data, masks, {"level": (1, 0, 3, 1)}, 1)
    assert [axis.get_title() for axis in pictures(shown[0])] == ["mask", "CAM seed", "true mask"]
    assert [axis.get_title() for axis in pictures(shown[1])] == ["mask"]
    assert captions(shown[0]) == ["IoU 25 %", "IoU 0 %", ""]  # class 0 in one half, background never
    seed = pictures(shown[0])[1].images[0].get_array()
    np.testing.assert_array_equal(seed, figures.overlay_mask(data.image(0), np.full((12, 16), 3, np.uint8)))


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
    assert isinstance(sliders["rows"], ipywidgets.IntSlider)
    assert isinstance(sliders["bright"], ipywidgets.FloatSlider)
    for name, bounds in SLIDERS.items():
        slider = sliders[name]
        assert (slider.value, slider.min, slider.max, slider.step) == bounds
    seen = [bytes(screen.value)]
    for name, value in [("bright", 1.0), ("rows", 7), ("image", 1)]:
        sliders[name].value = value
        assert bytes(screen.value) not in seen, name
        seen.append(bytes(screen.value))
    assert all(content.startswith(b"\x89PNG") for content in seen)
    assert asked == [(0, 0.5, 3), (0, 1.0, 3), (0, 1.0, 7), (1, 1.0, 7)]


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
