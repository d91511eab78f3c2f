"""Instances from displacements against the official arrays, and on a world of two squares."""

import numpy as np
import pytest
import torch

from tests import recipe
from wsss_lib.ops.instances import find_centres, group_cells, separate


def test_golden_centres_and_groups():
    golden = recipe.golden("irn/instance")
    displacements = torch.from_numpy(golden["dp"])
    centres = find_centres(displacements)
    assert (centres.numpy() == golden["centroids"]).mean() > 0.995
    assert (group_cells(displacements, centres).numpy() == golden["instance_map"]).mean() > 0.995
    assert len(np.unique(golden["instance_map"])) > 1


def test_two_squares_side_by_side(device):
    """Every cell of a square points to its centre, so each square is a group although they touch."""
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(18.0), indexing="ij")
    displacements = torch.stack([4 - y, torch.where(x < 9, 4 - x, 13 - x)]).to(device)
    centres = find_centres(displacements)
    assert centres[0].eq(4).all()
    assert centres[1].unique().tolist() == [4, 13]
    groups = group_cells(displacements, centres).cpu()
    assert len(groups.unique()) == 2
    assert torch.equal(groups == groups[0, 0], x < 9)


def test_places_stay_in_the_grid():
    centres = find_centres(torch.full((2, 3, 5), 7.3))
    assert centres[0].eq(2).all()
    assert centres[1].eq(4).all()


def test_connected_areas_are_instances_and_tiny_ones_score_zero(device):
    scores = torch.zeros(2, 1, 10, 20, device=device)
    scores[0, 0, :, :5], scores[0, 0, 2:9, 12:18], scores[1, 0, 0, 19] = 0.5, 0.8, 1.0
    found = separate(scores, torch.tensor([4, 7], device=device), 0.25)
    assert found.classes.tolist() == [4, 4, 7]
    torch.testing.assert_close(found.scores.cpu(), torch.tensor([0.5, 0.8, 0.0]))
    assert found.masks.sum((1, 2)).tolist() == [50, 42, 1]


@pytest.mark.parametrize("count", [0, 1])
def test_no_instance(count):
    found = separate(torch.zeros(count, 2, 5, 6), torch.arange(count), 0.25)
    assert (len(found.classes), len(found.scores), found.masks.shape) == (0, 0, (0, 5, 6))


def test_corners_do_not_connect():
    scores = torch.eye(3)[None, None]
    assert len(separate(scores, torch.tensor([0]), 0.25).classes) == 3
