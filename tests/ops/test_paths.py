"""Path affinities against the official arrays, and against gathering every path."""

import math

import numpy as np
import pytest
import torch

from tests import recipe
from tests.ops import oracles
from wsss_lib.errors import InputError
from wsss_lib.ops.affinity import pair_count, pair_offsets, pair_windows
from wsss_lib.ops.paths import official_order, path, path_affinities

GRIDS = [
    (5, 9, 5, "official"),
    (9, 14, 5, "official"),
    (10, 21, 10, "official"),
    (7, 9, 5, "full"),
    (4, 4, 5, "full"),
    (3, 4, 5, "full"),
    (3, 9, 5, "full"),
    (9, 2, 5, "full"),
    (1, 6, 5, "full"),
    (6, 1, 5, "full"),
    (1, 1, 5, "full"),
    (6, 7, 3, "full"),
    (12, 11, 7, "full"),
    (12, 11, 40, "full"),
    (3, 3, 2, "official"),
]


# ------------------------------------------------------------------------------------------------------------ golden


def official_paths(height, width, radius):
    """The official groups of flat indices, (paths, points, n) each."""
    index = torch.arange(height * width).view(height, width)
    rows, columns = pair_count(height, width, radius)
    groups = {}
    for offset in (pair_offsets(radius)[k] for k in official_order(radius)):
        cells = path(offset)
        left = radius - 1
        found = [index[y : y + rows, left + x : left + x + columns].flatten() for y, x in cells]
        groups.setdefault(len(cells), []).append(torch.stack(found))
    return [torch.stack(group) for group in groups.values()]


@pytest.mark.parametrize("key", [k for k in recipe.golden("irn/path_index") if k.startswith("offsets")])
def test_golden_paths(key):
    golden, radius = recipe.golden("irn/path_index"), int(key.rpartition("_")[2])
    offsets = [pair_offsets(radius)[k] for k in official_order(radius)]
    assert offsets == list(map(tuple, golden[key].tolist()))
    lengths = [len(path(offset)) for offset in offsets]
    groups = [[lengths.count(length), length] for length in sorted(set(lengths))]
    assert groups == golden[f"groups_{radius}"].tolist()
    if f"paths_{radius}" in golden:
        assert [cell for offset in offsets for cell in path(offset)] == [
            *map(tuple, golden[f"paths_{radius}"].tolist())
        ]


@pytest.mark.parametrize("key", [k for k in recipe.golden("irn/path_index") if k.startswith(("sum", "src"))])
def test_golden_indices(key):
    golden = recipe.golden("irn/path_index")
    radius, height, width = map(int, key.split("_")[1:])
    start, _, _ = pair_windows((0, 1), height, width, radius)
    source = torch.arange(height * width).view(height, width)[*start].flatten()
    groups = official_paths(height, width, radius)
    destination = torch.cat([group[:, 0] for group in groups])
    if key.startswith("src"):
        np.testing.assert_array_equal(source.numpy(), golden[key])
        np.testing.assert_array_equal(destination.numpy(), golden[f"dst_{radius}_{height}_{width}"])
        return
    flat = destination.flatten()
    sums = [len(source), len(destination), source.sum(), flat.sum(), (flat * torch.arange(len(flat)) % 9973).sum()]
    sums += [(g.flatten() * (1 + torch.arange(g.numel()) % 97)).sum() for g in groups]
    assert [int(value) for value in sums] == golden[key].tolist()


def test_golden_affinities_and_gradient(device):
    golden = recipe.golden("irn/affinities")
    edge = torch.from_numpy(recipe.uniform("irn/affinities/edge", (1, 1, 9, 14))).to(device).requires_grad_()
    weights = torch.from_numpy(recipe.array("irn/affinities/g", (1, 34, 30))).to(device)
    affinities = path_affinities(edge[:, 0], 5)[:, official_order(5)]
    (affinities * weights).sum().backward()
    np.testing.assert_allclose(affinities.detach().cpu().numpy(), golden["aff"], rtol=0, atol=1e-7)
    np.testing.assert_allclose(edge.grad.cpu().numpy(), golden["grad"], rtol=0, atol=1e-4)


# -------------------------------------------------------------------------------------------------- against gathering


@pytest.mark.parametrize("levels", [0, 3, 1])
@pytest.mark.parametrize(("height", "width", "radius", "border"), GRIDS)
def test_affinities_and_gradients_of_gathered_paths(height, width, radius, border, levels, device):
    """With few levels many values are equal, and the first of them must get the gradient."""
    values = torch.rand(2, height, width)
    if levels:
        values = torch.randint(0, levels + 1, values.shape) / levels
    ours = values.detach().clone().to(device).requires_grad_()
    theirs = values.clone().requires_grad_()
    result, expected = path_affinities(ours, radius, border), oracles.path_affinities(theirs, radius, border)
    assert result.dtype == torch.float32
    assert torch.equal(result.detach().cpu(), expected.detach())
    weight = torch.randint(-8, 9, expected.shape) / 8  # sums of such weights are exact
    (result * weight.to(device)).sum().backward()
    (expected * weight).sum().backward()
    assert torch.equal(ours.grad.cpu(), theirs.grad)


def test_affinities_of_a_batch_are_those_of_its_images(device):
    batch = torch.rand(3, 8, 11, device=device)
    for border in ("official", "full"):
        together = path_affinities(batch, 5, border)
        assert together.shape == (3, 34, math.prod(pair_count(8, 11, border=border)))
        for i in range(3):
            assert torch.equal(together[i], path_affinities(batch[i : i + 1], 5, border)[0])


def test_a_wall_parts_all_pairs_that_it_lies_between(device):
    wall = torch.zeros(1, 7, 9, device=device)
    wall[:, :, 4] = 1
    affinities = path_affinities(wall, 5, "full")[0]
    matrix = oracles.affinity_matrix(affinities, (7, 9), 5, "full").view(7, 9, 7, 9)
    assert (matrix[:, :4, :, 5:] == 0).all()
    assert (matrix[3, 3, 1:6, 1:4] == 1).all()


def test_half_precision_and_nan(device):
    half = torch.rand(1, 6, 10, device=device).half().requires_grad_()
    result = path_affinities(half, 5)
    assert torch.equal(result, path_affinities(half.detach().float(), 5))
    result.sum().backward()
    assert half.grad.dtype == torch.float16
    for sign in (1.0, -1.0):  # the bits of either NaN must come out highest
        lost = torch.rand(1, 5, 9, device=device)
        lost[0, 0, 4] = torch.tensor(math.nan).copysign(torch.tensor(sign))
        assert path_affinities(lost, 5).isnan().all()
    nothing = torch.zeros(1, 5, 9, device=device)
    assert torch.equal(path_affinities(-nothing, 5), path_affinities(nothing, 5))


def test_maps_that_are_not_contiguous(device):
    large = torch.rand(2, 12, 20, device=device)
    assert torch.equal(path_affinities(large[:, ::2, ::2], 5), path_affinities(large[:, ::2, ::2].contiguous(), 5))


# --------------------------------------------------------------------------------------------------------- bad input


def test_a_radius_larger_than_the_map():
    with pytest.raises(InputError, match=r"6 × 30 features is too small for pairs of radius 10: it needs 10 rows"):
        path_affinities(torch.rand(1, 6, 30))
    with pytest.raises(InputError, match="radius is 1, which leaves no pairs; give at least 2"):
        path_affinities(torch.rand(1, 6, 30), 1)


@pytest.mark.parametrize("value", [-0.1, 1.5, math.inf])
def test_values_that_are_not_probabilities_are_refused(value):
    with pytest.raises(InputError, match="boundaries hold values below 0 or above 1; give probabilities"):
        path_affinities(torch.full((1, 5, 9), value), 5)


def test_maps_of_another_shape():
    with pytest.raises(InputError, match=r"boundaries have the shape \(1, 1, 5, 9\); give \(B, h, w\)"):
        path_affinities(torch.rand(1, 1, 5, 9), 5)
