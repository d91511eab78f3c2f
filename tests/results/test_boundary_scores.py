"""Scores near boundaries, and of segments."""

import numpy as np
import pytest
import torch

from wsss_lib.data.dataset import DatasetView
from wsss_lib.data.toy import ToyWorld
from wsss_lib.models.superpixel_net import SuperpixelNet
from wsss_lib.results.boundaries import (
    NearBoundaries,
    boundary_scores,
    by_network,
    by_slic,
    by_squares,
    grid_size,
    segment_quality,
)
from wsss_lib.stages.store import CamStore


class FakeRun:
    """What :func:`boundary_scores` needs of a run: maps that are right but for a border of some pixels."""

    def __init__(self, data, folder, shift):
        self.split, self.store = data, CamStore(folder)
        for index, image_id in enumerate(data.ids):
            classes = data.labels[index].nonzero().flatten()
            moved = np.roll(data.mask(index), shift, axis=1)
            self.store.write(
                image_id, classes, torch.from_numpy(np.stack([moved == k + 1 for k in classes.tolist()])).half()
            )

    def data(self, split):
        assert split == "val"
        return self.split

    def cams(self, split):
        assert split == "val"
        return self.store


def test_only_the_band_is_scored():
    world = ToyWorld("val", 2)
    near = NearBoundaries(world, 3)
    mask, band = world.mask(1), near.mask(1)
    counted = band != 255
    assert 0 < counted.mean() < 0.5
    np.testing.assert_array_equal(band[counted], mask[counted])
    assert near.image(1).tobytes() == world.image(1).tobytes()


def test_a_shift_costs_more_near_boundaries(tmp_path):
    world = ToyWorld("val", 6)
    labelled = DatasetView(world, "some", [i for i in range(6) if world.labels[i].any()])
    runs = {"exact": FakeRun(labelled, tmp_path / "a", 0), "shifted": FakeRun(labelled, tmp_path / "b", 2)}
    comparison = {name: {"threshold": 0.5} for name in runs}
    narrow, wide = boundary_scores(runs, comparison, 3), boundary_scores(runs, comparison, 96)
    assert narrow["exact"] == wide["exact"] == 1
    assert narrow["shifted"] < wide["shifted"] < 1
    assert boundary_scores(runs, {"exact": comparison["exact"]}).keys() == {"exact"}


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_divisions_have_the_size_of_the_image(scale):
    image = ToyWorld("val", 1).image(0).resize((70, 50))
    rows, columns = grid_size(image, scale)
    assert (rows, columns) == ((4, 5) if scale == 1 else (7, 9))
    for divide in (by_network(SuperpixelNet(0.125), lambda x: x / 255, scale), by_slic(scale), by_squares(scale)):
        segments = divide(image)
        assert (segments.shape, segments.dtype) == ((50, 70), torch.int64)
        assert 0 <= segments.min() <= segments.max()
    assert by_squares(scale)(image).unique().tolist() == list(range(rows * columns))


def test_the_better_segments_score_better():
    world = ToyWorld("val", 5)
    indices = [i for i in range(5) if world.labels[i].any()]
    slic, squares = segment_quality(by_slic(2.0), world, indices), segment_quality(by_squares(2.0), world, indices)
    assert squares.count == 144
    assert slic.accuracy > squares.accuracy
    one = segment_quality(lambda image: torch.zeros(image.height, image.width, dtype=torch.int64), world, indices)
    assert one.recall == 0
    assert one.accuracy < squares.accuracy < 1
