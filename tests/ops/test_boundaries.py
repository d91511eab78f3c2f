"""Boundaries, and how well superpixels keep to them."""

import math

import pytest
import torch

from wsss_lib.ops.boundaries import (
    achievable_accuracy,
    boundaries,
    boundary_band,
    boundary_recall,
    dilate,
    fill_ignored,
    superpixel_labels,
)


def halves(height=8, width=12, at=6):
    mask = torch.zeros(height, width, dtype=torch.uint8)
    mask[:, at:] = 3
    return mask


def test_boundaries_are_on_both_sides():
    found = boundaries(halves())
    assert found.nonzero()[:, 1].unique().tolist() == [5, 6]
    assert boundaries(halves().T).nonzero()[:, 0].unique().tolist() == [5, 6]
    assert not boundaries(torch.zeros(3, 4)).any()


def test_dilate():
    places = torch.zeros(9, 9, dtype=torch.bool)
    places[4, 4] = True
    assert dilate(places, 2).sum() == 25
    assert torch.equal(dilate(places, 0), places)


def test_ignored_pixels_get_the_nearest_labels():
    mask = halves()
    mask[:, 4:8] = 255
    assert torch.equal(fill_ignored(mask), halves())
    nothing = torch.full((3, 3), 255, dtype=torch.uint8)
    assert torch.equal(fill_ignored(nothing), nothing)


def test_superpixels_of_a_hard_association():
    q = torch.zeros(1, 9, 32, 48)
    q[:, 4] = 1
    q[0, 4, 0, 20], q[0, 3, 0, 20] = 0.0, 1.0  # to the left
    q[0, 4, 0, 0], q[0, 0, 0, 0] = 0.1, 0.9  # outside, which does not count
    labels = superpixel_labels(q)[0]
    assert labels[16:, 32:].unique().tolist() == [5]
    assert labels[0, 20] == 0
    assert labels[0, 0] == 0


def test_achievable_accuracy():
    truth = halves()
    assert achievable_accuracy((truth > 0).long(), truth) == 1
    assert achievable_accuracy(torch.zeros(8, 12, dtype=torch.int64), halves(at=9)) == pytest.approx(9 / 12)
    truth[:, 6] = 255
    assert achievable_accuracy((halves() > 0).long(), truth) == 1


@pytest.mark.parametrize(("shift", "expected"), [(0, 1.0), (2, 1.0), (3, 0.5), (4, 0.0)])
def test_boundary_recall(shift, expected):
    segments = halves(at=6 + shift).long()
    assert boundary_recall(segments, halves(), radius=2) == expected


def test_without_a_boundary():
    assert math.isnan(boundary_recall(halves().long(), torch.zeros(8, 12, dtype=torch.uint8)))


def test_boundary_band_ignores_pixels_far_from_a_boundary():
    band = boundary_band(halves(), 1)
    assert (band != 255).nonzero()[:, 1].unique().tolist() == [4, 5, 6, 7]
    assert (band[:, 4:6] == 0).all()
    assert (band[:, 6:8] == 3).all()
