"""Pictures of pairs, affinities and the lattice: what they show, and in which format."""

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from tests import recipe
from tests.runs.small import Pictures
from wsss_lib.errors import InputError
from wsss_lib.ops.affinity import affinity_of_pixel, pair_affinities, pair_count, pair_offsets
from wsss_lib.show import affinity, figures, lattice, widgets

PICTURE = (recipe.smooth("figures/picture", (3, 44, 60)).transpose(1, 2, 0) * 255).astype(np.uint8)
SIZE = (6, 8)
"""The grid of cells of 8 pixels; the last row of cells is cut."""


def some_affinities(border="full"):
    features = torch.from_numpy(recipe.array("figures/features", (1, 5, *SIZE)))
    return pair_affinities(features, 3, border)[0]


# -------------------------------------------------------------------------------------------------------------- cells


def test_cells_become_squares_and_are_cropped():
    cells = np.array([[1, 2, 3], [4, 5, 6]])
    picture = affinity.enlarge_cells(cells, 4, (7, 10))
    assert picture.shape == (7, 10)
    for y in range(7):
        for x in range(10):
            assert picture[y, x] == cells[y // 4, x // 4]


def test_true_cells_of_one_label_and_of_several():
    mask = np.zeros((10, 13), np.uint8)
    mask[:4, 4:8] = 3
    mask[4:8, :4] = 3
    mask[7, 3] = 0
    mask[5, 5] = 255
    cells = affinity.true_cells(mask, 4)
    assert cells.dtype == torch.uint8
    # what reaches over the edge of the image is not of one label alone
    assert cells.tolist() == [[0, 3, 0, 255], [255, 255, 0, 255], [255, 255, 255, 255]]
    assert affinity.true_cells(np.full((8, 8), 2, np.uint8), 4).tolist() == [[2, 2], [2, 2]]


def test_known_cells_have_colours_the_background_is_dark_and_the_rest_white():
    labels = torch.zeros(SIZE, dtype=torch.uint8)
    labels[0, 0], labels[0, 1], labels[1, 0] = 1, 2, 255
    shown = affinity.known_cells(Image.fromarray(PICTURE), labels, torch.tensor([4, 11]), 8)
    assert (shown.shape, shown.dtype) == (PICTURE.shape, np.uint8)
    masks = {value: np.full((8, 8), value, np.uint8) for value in (5, 12, 255)}
    for value, (y, x) in {5: (0, 0), 12: (0, 8), 255: (8, 0)}.items():
        cell = np.s_[y : y + 8, x : x + 8]
        np.testing.assert_array_equal(shown[cell], figures.overlay_mask(PICTURE[cell], masks[value]))
    np.testing.assert_array_equal(shown[16:], PICTURE[16:] // 3)
    assert shown[8:16, :8].min() >= 0.6 * 192 - 1  # white shines through
    np.testing.assert_array_equal(shown[8:16, 8:], PICTURE[8:16, 8:] // 3)


@pytest.mark.parametrize("border", ["full", "official"])
def test_cells_without_a_pair_are_dim(border):
    affinities = some_affinities(border)
    pixel = (2, 3)
    shown = affinity.affinity_picture(PICTURE, affinities, pixel, 8, 3, border)
    assert (shown.shape, shown.dtype) == (PICTURE.shape, np.uint8)
    values = affinity_of_pixel(affinities, pixel, SIZE, 3, border).numpy()
    assert 0 < np.isnan(values).sum() < values.size
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            cell = np.s_[8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
            part = PICTURE[cell]
            heat = np.full(part.shape[:2], values[y, x])
            expected = part // 3 if np.isnan(values[y, x]) else figures.overlay(part, heat, 0.75)
            np.testing.assert_array_equal(shown[cell], expected)


# ---------------------------------------------------------------------------------------------------------- neighbours


def test_cells_of_an_official_grid_without_a_neighbour():
    counts = affinity.neighbour_counts(47, 63, 5, "official")
    assert counts.shape == (47, 63)
    assert (counts == 0).sum() == 10
    assert counts[23, 31] == counts.max() == 68
    expected = np.zeros_like(counts)
    for y, x in itertools.product(range(47 - 4), range(4, 63 - 4)):  # so far from the border that all offsets fit
        for dy, dx in pair_offsets(5):
            expected[y, x] += 1
            expected[y + dy, x + dx] += 1
    np.testing.assert_array_equal(counts, expected)


def test_a_full_grid_has_all_pairs():
    counts = affinity.neighbour_counts(47, 63, 5, "full")
    assert counts.min() > 0
    assert counts[23, 31] == counts.max() == 68
    np.testing.assert_array_equal(counts, counts[:, ::-1])
    np.testing.assert_array_equal(counts, counts[::-1])
    assert counts[0, 0] == len([o for o in pair_offsets(5) if o[1] >= 0])


@pytest.mark.parametrize("border", ["official", "full"])
def test_neighbours_are_counted_at_both_ends(border):
    counts = affinity.neighbour_counts(9, 13, 3, border)
    grid = affinity.neighbour_counts(9, 13, 3, border).sum()
    rows, columns = pair_count(9, 13, 3, border)
    if border == "official":
        assert grid == 2 * len(pair_offsets(3)) * rows * columns
    for pixel in [(0, 0), (4, 6), (8, 12), (0, 6)]:
        ones = torch.ones(len(pair_offsets(3)), rows * columns)
        if border == "full":
            ones = pair_affinities(torch.zeros(1, 1, 9, 13), 3, border)[0]  # 0 where a pair leaves the grid
        with_pixel = affinity_of_pixel(ones, pixel, (9, 13), 3, border)
        with_pixel[pixel] = 0
        assert (with_pixel == 1).sum() == counts[pixel]


# ------------------------------------------------------------------------------------------------------------- lattice


@pytest.mark.parametrize(("size", "deviation"), [(21, 3.0), (31, 4.0)])
def test_responses_to_a_single_pixel(size, deviation):
    exact, approximate = lattice.impulse_response(size, deviation)
    middle = size // 2
    for picture in (exact, approximate):
        assert (picture.shape, picture.dtype) == ((size, size), np.float32)
        assert picture.max() == 1
        assert picture.min() > -1e-6
    y, x = np.mgrid[:size, :size] - middle
    np.testing.assert_allclose(exact, np.exp(-(x**2 + y**2) / (2 * deviation**2)), rtol=0, atol=1e-5)
    np.testing.assert_allclose(exact, exact[::-1, ::-1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(approximate, approximate[::-1, ::-1], rtol=0, atol=0.15)
    assert np.abs(approximate - approximate[::-1, ::-1]).mean() < 0.02
    assert np.abs(approximate - exact).mean() < 0.03
    assert np.abs(approximate - exact).max() > 0.01  # it is an approximation
    peak = np.unravel_index(approximate.argmax(), approximate.shape)
    assert np.hypot(peak[0] - middle, peak[1] - middle) <= deviation


# ------------------------------------------------------------------------------------------------------------- formats


def drawings():
    labels = torch.zeros(SIZE, dtype=torch.uint8)
    labels[:3], labels[4] = 1, 255
    affinities = some_affinities()
    same = affinities > 0.3
    points = torch.from_numpy(recipe.array("figures/points", (2, 12)))
    return {
        "offsets": (affinity.offsets_of_pixel(5), 1),
        "pairs": (affinity.pairs_of_pixel(Image.fromarray(PICTURE), labels, (2, 3), 8, 3), 1),
        "border": (affinity.border_figure(12, 16, 5), 3),
        "histogram": (affinity.affinity_histogram(affinities, same, ~same), 1),
        "lattice": (lattice.splat_blur_slice(points, torch.ones(12)), 4),
    }


@pytest.mark.parametrize("name", ["offsets", "pairs", "border", "histogram", "lattice"])
def test_drawings_render_in_one_format(name):
    figure, axes = drawings()[name]
    assert isinstance(figure, figures.Plot)
    assert len(figure.axes) == axes
    shown = {"PNG": figure._repr_png_(), "JPEG": figure._repr_jpeg_()}
    [(kind, content)] = [(kind, content) for kind, content in shown.items() if content is not None]
    assert kind == ("JPEG" if name == "pairs" else "PNG")
    content, about = content
    assert about == {"alt": figure.alt()}
    picture = Image.open(io.BytesIO(content))
    assert picture.format == kind
    assert np.asarray(picture.convert("RGB")).std() > 0


def test_the_offsets_of_a_pixel_and_their_mirror_images():
    [axis] = affinity.offsets_of_pixel(3).axes
    to, from_, own = (np.asarray(dots.get_offsets()) for dots in axis.collections)
    assert {(y, x) for x, y in to} == set(pair_offsets(3))
    np.testing.assert_array_equal(from_, -to)
    assert own.tolist() == [[0, 0]]


def test_the_pairs_of_a_cell_by_kind():
    labels = torch.zeros(SIZE, dtype=torch.uint8)
    labels[:3], labels[4] = 1, 255
    [axis] = affinity.pairs_of_pixel(PICTURE, labels, (2, 3), 8, 3).axes
    ends = {":": [], "-": [], "--": []}
    for line in axis.lines:
        (x0, x1), (y0, y1) = line.get_data()
        assert (y0, x0) == (20, 28)
        ends[line.get_linestyle()].append((int(y1 // 8), int(x1 // 8)))
    pairs = {(2 + s * dy, 3 + s * dx) for dy, dx in pair_offsets(3) for s in (1, -1)}
    assert set(ends["-"]) == {(y, x) for y, x in pairs if y < 3}
    assert set(ends["--"]) == {(y, x) for y, x in pairs if y == 3}
    assert set(ends[":"]) == {(y, x) for y, x in pairs if y == 4}
    assert sum(map(len, ends.values())) == len(pairs)
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["unknown", "same label", "different"]


def test_the_titles_of_both_borders_say_how_many_cells_are_alone():
    figure = affinity.border_figure(47, 63, 5)
    titles = [axis.get_title() for axis in figure.axes[:2]]
    assert titles == ["border 'official': 10 cells without any pair", "border 'full': 0 cells without any pair"]
    with pytest.raises(InputError, match="a grid of 3 × 63 features is too small"):
        affinity.border_figure(3, 63, 5)


def test_the_steps_of_the_lattice_keep_their_points():
    points = torch.from_numpy(recipe.array("figures/points", (2, 12)))
    values = torch.arange(12.0)
    axes = lattice.splat_blur_slice(points, values).axes
    dots = [next(c for c in axis.collections if len(np.asarray(c.get_offsets())) > 1) for axis in axes]
    places = [np.asarray(dot.get_offsets()) for dot in dots]
    np.testing.assert_allclose(places[0], points.t().numpy(), rtol=1e-6)
    np.testing.assert_array_equal(places[0], places[3])
    np.testing.assert_array_equal(places[1], places[2])
    np.testing.assert_allclose(np.asarray(dots[0].get_array())[1:], values[1:].numpy())
    np.testing.assert_allclose(np.asarray(dots[1].get_array()).sum(), values.sum().item(), rtol=1e-4)  # splat keeps it
    last = np.asarray(dots[3].get_array())
    assert 0 < last.min() < last.max() < 11  # a weighted mean of all


def test_the_histogram_counts_both_kinds_of_pairs():
    affinities = torch.tensor([[0.01, 0.02, 0.99, 0.99]])
    same = torch.tensor([[False, False, True, True]])
    [axis] = affinity.affinity_histogram(affinities, same, ~same).axes
    tops = [patch.get_xy() for patch in axis.patches]
    highest = {
        text.get_text(): xy[xy[:, 1].argmax(), 0] for text, xy in zip(axis.get_legend().get_texts(), tops, strict=True)
    }
    assert highest["same class"] > 0.9
    assert highest["different classes"] < 0.1


def test_the_histogram_of_no_pairs():
    none = torch.zeros(1, 2, dtype=torch.bool)
    [axis] = affinity.affinity_histogram(torch.tensor([[0.1, 0.2]]), none, none).axes
    assert not axis.patches
    [axis] = affinity.affinity_histogram(torch.tensor([[0.1, 0.2]]), ~none, none).axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["same class"]


def equal_affinities(data, index):
    """The affinities of a picture with cells of 8 pixels, all 0.5."""
    height, width = data.size(index)
    rows, columns = pair_count(-(-height // 8), -(-width // 8), 2, "full")
    return torch.full((len(pair_offsets(2)), rows * columns), 0.5)


def test_a_cell_is_chosen_by_its_row_and_column(monkeypatch):
    monkeypatch.setattr(widgets, "display", (shown := []).append)
    monkeypatch.setenv("WSSS_HEADLESS", "1")
    data = Pictures([(24, 40), (16, 20)], [[1, 0], [0, 1]])
    affinity.explore_affinities(data, equal_affinities, 8, 2, "full")
    axes = [axis for axis in shown[0].axes if axis.get_label() != "<colorbar>"]
    assert [axis.get_title() for axis in axes[:3]] == ["image and cell", "affinities of the\ncell", "true mask"]
    large, small = (np.asarray(axis.images[0].get_array()) for axis in axes[::3])
    changed = [(now != data.image(i)).any(-1) for i, now in enumerate((large, small))]
    assert [tuple(part.nonzero()[0][[0, -1]]) for part in changed] == [(8, 15), (8, 15)]  # row 1 of 3, row 1 of 2
    assert [tuple(np.unique(part.nonzero()[1])[[0, -1]]) for part in changed] == [(16, 23), (16, 19)]


def test_the_sliders_of_a_cell_cover_the_largest_picture(monkeypatch):
    monkeypatch.setattr(widgets, "display", (shown := []).append)
    monkeypatch.delenv("WSSS_HEADLESS", raising=False)
    monkeypatch.setenv("JPY_SESSION_NAME", "01.ipynb")
    data = Pictures([(24, 40), (16, 20)], [[1, 0], [0, 1]])
    affinity.explore_affinities(data, equal_affinities, 8, 2, "full")
    image, row, column, screen = shown[0].children
    assert [(one.min, one.max, one.value) for one in (row, column)] == [(0, 2, 1), (0, 4, 2)]
    before = bytes(screen.value)
    row.value = 0
    middle = bytes(screen.value)
    image.value = 1
    assert len({before, middle, bytes(screen.value)}) == 3
