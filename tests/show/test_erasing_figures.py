"""Figures of erased images: what stands above each picture, and how long the bars are."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from wsss_lib.show import erasing, figures

PICTURE = np.full((24, 32, 3), 90, np.uint8)
CAM = np.linspace(0, 1, 24 * 32).reshape(24, 32)


def test_the_push_has_a_bar_with_words():
    figure = erasing.push_figure(PICTURE, CAM, CAM - 0.5, "cat")
    assert [axis.get_title() for axis in figure.axes[:3]] == ["image", "map of the cat", "where the map should change"]
    assert [text.get_text() for text in figure.axes[3].get_yticklabels()] == ["fall", "stay", "rise"]
    np.testing.assert_array_equal(figure.axes[2].images[0].get_array(), figures.signed_map(CAM - 0.5))
    assert figure.photographic
    assert np.asarray(Image.open(io.BytesIO(figure.png())).convert("RGB")).std() > 0


def test_every_erased_picture_has_its_probability_above_it():
    judge = erasing.Erased("judge", CAM, PICTURE // 2, 0.061)
    eraser = erasing.Erased("eraser", CAM, PICTURE // 3, 0.0)
    figure = erasing.erased_figure([("cat", PICTURE, 1.0, [judge, eraser]), ("dog", PICTURE, 0.5, [eraser, judge])])
    assert [axis.get_title() for axis in figure.axes] == [
        *("cat: 100%", "map, judge", "erased: 6%", "map, eraser", "erased: 0%"),
        *("dog: 50%", "map, eraser", "erased: 0%", "map, judge", "erased: 6%"),
    ]
    assert "cat: 100%, judge 6%, eraser 0%; dog: 50%, eraser 0%, judge 6%" in figure.alt()
    assert {axis.title.get_rotation() for axis in figure.axes} == {0.0}
    assert {axis.title.get_fontsize() for axis in figure.axes} == {10.0}
    np.testing.assert_array_equal(figure.axes[2].images[0].get_array(), PICTURE // 2)
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), figures.overlay(PICTURE, CAM))


@pytest.mark.parametrize("names", [("cat",), ("cat", "a$b$ with a long name"), ("cat", "dog", "train")])
def test_bars_are_as_long_as_the_probabilities(names):
    red = np.array(to_rgb("C3")) * 255
    lengths = []
    for probability in (0.0, 0.5, 1.0):
        picture = erasing.gauge(dict.fromkeys(names, probability))
        assert picture.dtype == np.uint8
        assert picture.shape[0] == picture.shape[1]
        lengths.append((np.abs(picture - red).sum(-1) < 30).any(0).sum())
    assert lengths[0] <= 2
    assert lengths[2] > 0.7 * picture.shape[1]
    assert abs(lengths[1] - lengths[2] / 2) <= 3
