"""Figures that one lesson alone uses: marks on pictures of superpixels and of frequencies."""

import numpy as np
import torch

from wsss_lib.show.frequency import amplified, ringed, spectrum
from wsss_lib.show.superpixels import marked


def test_a_cross_is_red_in_a_white_border_and_stays_in_the_picture():
    picture = np.zeros((40, 60, 3), np.uint8)
    found = marked(picture, 20, 30, arm=6)
    assert found[20, 30].tolist() == [255, 0, 0]
    assert found[14, 30].tolist() == [255, 0, 0]
    assert found[13, 30].tolist() == [255, 255, 255]
    assert found[18, 31].tolist() == [255, 255, 255]
    assert found[18, 32].tolist() == [0, 0, 0]
    assert not picture.any()
    assert marked(picture, 0, 59, arm=6, width=3).shape == picture.shape


def test_a_ring_lies_around_each_point_of_a_wave():
    at = torch.arange(48) / 48
    wave = 128 + 60 * torch.sin(2 * torch.pi * (9 * at[:, None] + 3 * at[None])).numpy()
    values = spectrum(wave)
    found = ringed(values, [(9, 3)], zoom=4)
    assert found.shape == (192, 192, 3)
    blue = (found == (0, 255, 255)).all(-1)
    for row, column in ((24 + 9, 24 + 3), (24 - 9, 24 - 3)):
        assert values[row, column] > 0.99
        around = blue[4 * row - 14 : 4 * row + 18, 4 * column - 14 : 4 * column + 18]
        assert around.sum() > 0.4 * blue.sum()
        assert not blue[4 * row : 4 * row + 4, 4 * column : 4 * column + 4].any()


def test_a_small_difference_is_grey_plus_its_multiple():
    difference = np.array([[[0.0, 10.0, -10.0], [100.0, -100.0, 1.0]]])
    assert amplified(difference, 4).tolist() == [[[128, 168, 88], [255, 0, 132]]]
