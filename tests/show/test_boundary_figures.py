"""Pictures of boundaries, of the paths that cross them, and of displacements."""

import numpy as np
import pytest
import torch

from wsss_lib.show import boundaries

PICTURE = np.full((30, 40, 3), 128, np.uint8)


def test_boundaries_have_the_size_of_the_picture():
    values = torch.rand(8, 10, generator=torch.Generator().manual_seed(0))
    picture = boundaries.boundary_picture(values, 4, (30, 37))
    assert picture.shape == (30, 37)
    assert (picture[4:8, 8:12] == values[1, 2].item()).all()


def test_a_path_has_both_ends_and_no_gap():
    cells = boundaries.cells_between((6, 2), (1, 5)).tolist()
    assert [6, 2] in cells
    assert [1, 5] in cells
    assert {row for row, _ in cells} == set(range(1, 7))
    assert all(1 <= row <= 6 and 2 <= column <= 5 for row, column in cells)
    assert boundaries.cells_between((6, 2), (6, 2)).tolist() == [[6, 2]]


def test_the_figure_of_paths_marks_the_highest_boundary():
    values = torch.zeros(8, 10)
    values[3, 4] = 0.75  # on the first path only
    figure = boundaries.path_figure(PICTURE, values, (3, 1), [(3, 7), (6, 1)], 4)
    for axis in figure.axes[:2]:
        first, cross, second, _ = axis.lines
        assert np.array(first.get_data()).tolist() == [[6, 30], [14, 14]]
        assert np.ravel(cross.get_data()).tolist() == [18, 14]
        assert np.array(second.get_data()).tolist() == [[6, 6], [14, 26]]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["a = 0.25", "a = 1.00"]


def test_arrows_are_as_long_as_the_displacements():
    field = torch.stack([torch.full((8, 10), 2.0), torch.full((8, 10), -1.0)])
    [axis] = boundaries.arrows(PICTURE, field, 4).axes
    [quiver] = axis.collections
    assert len(quiver.U) == 4 * 5
    assert set(quiver.U.tolist()) == {-4.0}
    assert set(quiver.V.tolist()) == {8.0}
    assert quiver.get_offsets()[0].tolist() == [6, 6]
    assert axis.get_ylim() == (30, 0)


def test_paths_of_like_length_with_different_affinities():
    strength, values = torch.zeros(9, 12), torch.zeros(9, 12)
    strength[2:7, :6] = 1.0  # the object
    values[2:7, 6] = 0.8  # its border, to the right
    values[2:7, 0] = 0.3
    (start, inside, outside), contrast = boundaries.contrasting_paths(values, strength, (3, 6))
    assert strength[start] == strength[inside] == 1
    assert strength[outside] == 0
    assert contrast == pytest.approx(0.8)
    for end in (inside, outside):
        assert 3 <= np.hypot(end[0] - start[0], end[1] - start[1]) <= 6


def test_without_an_object_there_are_no_two_paths():
    assert boundaries.contrasting_paths(torch.zeros(9, 12), torch.ones(9, 12))[1] == -1
