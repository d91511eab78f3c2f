"""The permutohedral lattice: the filter of the C++ code, and what holds for any such filter."""

import numpy as np
import pytest
import torch

from tests import recipe
from tests.ops import oracles
from wsss_lib.errors import InputError
from wsss_lib.ops.permutohedral import Lattice

DIMENSIONS = [2, 5]


def points(d, count=400, spread=6.0):
    return torch.from_numpy(recipe.uniform(f"points/{d}", (d, count), 0.0, spread))


def values(count=400, columns=3):
    return torch.from_numpy(recipe.array("values", (count, columns)))


def image_features(sxy, srgb=None, side=24):
    """Positions of a square image, and its smooth colours."""
    grid = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy")
    features = torch.stack(grid).flatten(1) / sxy
    if srgb is None:
        return features
    colours = torch.from_numpy(recipe.smooth("image", (3, side, side), 4)).flatten(1) * 255
    return torch.cat([features, colours / srgb])


@pytest.mark.parametrize("name", ["filter_gauss", "filter_bilateral"])
def test_golden_filter(name, device):
    golden = recipe.golden(f"densecrf/{name}")
    lattice = Lattice(torch.from_numpy(golden["feat"]).to(device))
    given = torch.from_numpy(recipe.uniform(f"densecrf/{name}/val", (3, 1485))).t().to(device)
    results = {
        "out": lattice.filter(given),
        "out_reverse": lattice.filter(given, reverse=True),
        "ones": lattice.filter(torch.ones_like(given[:, :1])),
    }
    for key, result in results.items():
        np.testing.assert_allclose(result.t().cpu().numpy(), golden[key], rtol=1e-5, atol=1e-5, err_msg=key)
    assert np.abs(golden["out"] - golden["out_reverse"]).max() > 1e-2  # the order can be told apart


@pytest.mark.parametrize("d", [1, *DIMENSIONS])
def test_barycentric_weights(d, device):
    weights = Lattice(points(d).to(device)).slicing.weights
    assert weights.shape == (400, d + 1)
    assert weights.min() >= -1e-5
    torch.testing.assert_close(weights.sum(1), torch.ones(400, device=device))


@pytest.mark.parametrize("d", DIMENSIONS)
def test_every_point_is_the_mixture_of_its_corners(d, device):
    features = (points(d) - 2).to(device)
    lattice = Lattice(features)
    assert lattice.positions.shape == (d, lattice.size)
    corners = lattice.positions[:, lattice.slicing.columns.long()]  # (d, N, d + 1)
    torch.testing.assert_close((corners * lattice.slicing.weights).sum(2), features, rtol=0, atol=1e-4)


@pytest.mark.parametrize("d", [1, *DIMENSIONS])
def test_all_simplices_have_the_same_edges(d):
    lattice = Lattice(points(d))
    corners = lattice.positions[:, lattice.slicing.columns.long()].permute(1, 2, 0)
    number = torch.arange(d + 1)
    apart = (number[:, None] - number).abs()
    expected = (1.5 * apart * (d + 1 - apart) / (d + 1)).sqrt()  # about the deviation of the kernel, which is 1
    torch.testing.assert_close(torch.cdist(corners, corners), expected.expand(400, -1, -1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("d", DIMENSIONS)
def test_every_corner_has_one_key(d, device):
    lattice = Lattice(points(d).to(device))
    assert lattice.keys.shape == (lattice.size,)
    assert (lattice.keys.diff() > 0).all()
    rounded = (lattice.positions * 1000).round()
    assert torch.unique(rounded, dim=1).shape[1] == lattice.size
    assert torch.equal(lattice.slicing.columns.unique().cpu(), torch.arange(lattice.size).int())


@pytest.mark.parametrize("d", DIMENSIONS)
def test_splatting_is_the_transpose_of_slicing(d, device):
    lattice = Lattice(points(d).to(device))
    given, corners = values().to(device), values(lattice.size).to(device)
    left = (lattice.splatting @ given * corners).double().sum()
    right = (given * (lattice.slicing @ corners)).double().sum()
    assert left.item() == pytest.approx(right.item(), rel=1e-5)


@pytest.mark.parametrize("d", DIMENSIONS)
def test_reverse_is_the_transposed_filter(d, device):
    lattice = Lattice(points(d).to(device))
    x, y = values(columns=6).double().to(device).chunk(2, 1)
    forward = (x * lattice.filter(y.float())).sum(0)
    torch.testing.assert_close((lattice.filter(x.float(), reverse=True) * y).sum(0), forward, rtol=1e-4, atol=1e-3)
    same_order = (lattice.filter(x.float()) * y).sum(0)
    assert (same_order - forward).abs().max() > 0.1


# The errors measured are about half of the bounds; random values are the hardest, as nothing of them is smooth.
@pytest.mark.parametrize(("sxy", "srgb", "bound"), [(3, None, 0.005), (6, None, 0.003), (6, 40, 0.008), (4, 30, 0.012)])
def test_against_exact_gaussian_sums(sxy, srgb, bound, device):
    features = image_features(sxy, srgb)
    given = torch.from_numpy(recipe.uniform("oracle", (576, 3)))
    lattice = Lattice(features.to(device))
    ones = torch.ones(576, 1, device=device)
    result = (lattice.filter(given.to(device)) / lattice.filter(ones)).cpu()

    def error(deviation):
        return (result - oracles.gaussian(features, given, deviation)).abs().mean().item()

    assert error(1.0) < bound
    assert error(0.5) > 2.5 * error(1.0)
    assert error(2.0) > 2.5 * error(1.0)


@pytest.mark.parametrize("d", DIMENSIONS)
def test_the_filter_is_linear(d, device):
    lattice = Lattice(points(d).to(device))
    x, y = values(columns=4).to(device).chunk(2, 1)
    torch.testing.assert_close(
        lattice.filter(2 * x - 3 * y), 2 * lattice.filter(x) - 3 * lattice.filter(y), rtol=1e-4, atol=1e-4
    )
    together = lattice.filter(torch.cat([x, y], 1))
    torch.testing.assert_close(together, torch.cat([lattice.filter(x), lattice.filter(y)], 1))


@pytest.mark.parametrize("d", DIMENSIONS)
def test_the_order_of_the_points_does_not_matter(d, device):
    features, given = points(d).to(device), values().to(device)
    order = torch.randperm(400, device=device)
    shuffled = Lattice(features[:, order]).filter(given[order])
    torch.testing.assert_close(shuffled, Lattice(features).filter(given)[order], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("d", DIMENSIONS)
def test_moving_by_a_lattice_vector_changes_nothing(d, device):
    features, given = points(d).to(device), values().to(device)
    lattice = Lattice(features)
    vector = (lattice.positions[:, -1] - lattice.positions[:, 0])[:, None]
    assert vector.abs().max() > 0.5
    torch.testing.assert_close(Lattice(features + vector).filter(given), lattice.filter(given), rtol=1e-4, atol=1e-4)


def test_moving_by_any_vector_changes_little():
    features, given = image_features(3), torch.from_numpy(recipe.uniform("oracle", (576, 3)))
    ones = torch.ones(576, 1)
    plain, moved = (
        lattice.filter(given) / lattice.filter(ones)
        for lattice in (Lattice(features), Lattice(features + torch.tensor([[0.37], [-0.61]])))
    )
    assert (moved - plain).abs().mean() < 0.005
    assert not torch.equal(moved, plain)


@pytest.mark.parametrize("d", DIMENSIONS)
def test_images_in_one_lattice_do_not_see_each_other(d, device):
    features, given = points(d).to(device), values().to(device)
    sizes = [150, 1, 249]
    batch = torch.arange(3, device=device).repeat_interleave(torch.tensor(sizes, device=device))
    together = Lattice(features, batch)
    parts = [Lattice(x) for x in features.split(sizes, 1)]
    assert together.size == sum(part.size for part in parts)
    alone = torch.cat([part.filter(x) for part, x in zip(parts, given.split(sizes), strict=True)])
    torch.testing.assert_close(together.filter(given), alone, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(together.positions, torch.cat([part.positions for part in parts], 1))
    assert not torch.allclose(Lattice(features).filter(given), alone, atol=1e-2)


def test_equal_from_run_to_run(device):
    features, given = points(5, 4000, 3.0).to(device), values(4000).to(device)
    first, second = Lattice(features), Lattice(features)
    assert torch.equal(first.keys, second.keys)
    assert torch.equal(first.filter(given), second.filter(given))


@pytest.mark.parametrize("value", [1e6, float("nan"), float("inf"), -float("inf")])
def test_errors_name_the_unusable_feature(value, device):
    features = points(5, 20).to(device)
    features[3, 7] = value
    with pytest.raises(InputError, match="feature 3"):
        Lattice(features)
    with pytest.raises(InputError, match="srgb of green"):
        Lattice(features, names=["sxy", "sxy", "srgb of red", "srgb of green", "srgb of blue"])


def test_too_many_cells_name_a_feature():
    with pytest.raises(InputError, match=r"standard deviation of feature \d is too small"):
        Lattice(points(5, 100, 1e5))


@pytest.mark.parametrize("widest", range(5))
def test_too_many_cells_name_the_widest_feature(widest):
    features = points(5, 100, 60.0)
    features[widest] *= 2000
    with pytest.raises(InputError, match=f"feature {widest}"):
        Lattice(features)
