"""Superpixel operators against the authors' code and against the plain formulas."""

import numpy as np
import pytest
import torch

from tests import recipe
from wsss_lib.errors import InputError
from wsss_lib.ops.superpixels import (
    merge,
    mix_neighbours,
    refine_on_superpixels,
    superpixel_adjacency,
    superpixel_pool,
    superpixel_upsample,
    tile,
)


def of_recipe(name, shape, scale=1.0):
    return torch.from_numpy(recipe.array(f"msal/ops/{name}", shape, scale))


@pytest.fixture
def inputs():
    return {
        "feat": of_recipe("feat", (1, 4, 64, 96)),
        "low": of_recipe("low", (1, 4, 4, 6)),
        "q": of_recipe("q", (1, 9, 64, 96), 1.5).softmax(1),
        "qlow": of_recipe("qlow", (1, 9, 4, 6), 1.5).softmax(1),
    }


def sampled(values, golden):
    """The places of a large array that a golden vector holds."""
    flat = values.detach().flatten().numpy()
    if flat.size == golden.size:
        return flat
    return flat[np.linspace(0, flat.size - 1, golden.size).astype(np.int64)]


def near(values, golden, rtol=1e-3, atol=1e-5):
    np.testing.assert_allclose(sampled(values, golden), golden.flatten(), rtol=rtol, atol=atol)


def test_official_operators(inputs):
    golden = recipe.golden("msal/spixel_ops")
    near(superpixel_pool(inputs["feat"], inputs["q"]), golden["poolfeat"])
    near(superpixel_upsample(inputs["low"], inputs["q"]), golden["upfeat"])
    near(superpixel_upsample(torch.ones(1, 1, 4, 6), inputs["q"]), golden["upfeat_ones"])
    near(superpixel_upsample(inputs["low"], inputs["qlow"], 1), golden["upfeat_scale1"])
    near(mix_neighbours(inputs["low"], inputs["qlow"]), golden["upfeat_scale1"])
    corner = (slice(None), slice(None), slice(48), slice(48))
    near(superpixel_pool(inputs["feat"][corner], inputs["q"][corner], 8), golden["poolfeat_8"])
    near(superpixel_adjacency(inputs["q"]), golden["affmat"])
    near(mix_neighbours(inputs["low"], superpixel_adjacency(inputs["q"])), golden["refine_step"])
    near(refine_on_superpixels(inputs["low"], inputs["q"], 5), golden["refine_q_5_low"])
    whole = torch.from_numpy(np.stack([recipe.smooth(f"msal/ops/seg/{i}", (4, 64, 96), 6) for i in range(1)]))
    near(refine_on_superpixels(whole, inputs["q"], 20), golden["refine_q_20_full"])


def test_official_gradients(inputs):
    golden = recipe.golden("msal/spixel_ops")
    feat, low, q = (inputs[name].requires_grad_() for name in ("feat", "low", "q"))
    pooled = (superpixel_pool(feat, q) * of_recipe("wp", (1, 4, 4, 6))).sum()
    of_feat, of_q = torch.autograd.grad(pooled, [feat, q])
    near(of_feat, golden["poolfeat_grad_feat"])
    near(of_q, golden["poolfeat_grad_q"])
    enlarged = (superpixel_upsample(low, q) * of_recipe("wu", (1, 4, 64, 96))).sum()
    of_low, of_q = torch.autograd.grad(enlarged, [low, q])
    near(of_low, golden["upfeat_grad_low"])
    near(of_q, golden["upfeat_grad_q"])


def test_official_tiles():
    golden = recipe.golden("msal/spixel_ops")
    np.testing.assert_array_equal(tile(of_recipe("tile", (1, 2, 10, 13)), 9), golden["tile_9"])
    even = of_recipe("even", (1, 2, 9, 12))
    assert torch.equal(merge(tile(even, 9), 9), even)


def test_tiles_of_several_images():
    maps = torch.randn(3, 2, 6, 8)
    tiles = tile(maps, 4)
    assert torch.equal(tiles[1 * 3 + 2], maps[2, :, :3, 4:])  # the second patch of the third image
    assert torch.equal(merge(tiles, 4), maps)


# ------------------------------------------------------------------------------------------------ the plain formulas


def random_association(height, width, batch=2):
    return torch.randn(batch, 9, height, width, dtype=torch.float64).mul(1.5).softmax(1)


def pairs_of(association, cell):
    """Yield image, pixel, superpixel and probability, one by one."""
    batch, _, height, width = association.shape
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                for k in range(9):
                    r, c = i // cell + k // 3 - 1, j // cell + k % 3 - 1
                    if 0 <= r < height // cell and 0 <= c < width // cell:
                        yield b, i, j, r, c, association[b, k, i, j]


def test_pooling_and_upsampling_are_the_sums_in_the_formulas():
    cell, q = 4, random_association(12, 8)
    features, maps = torch.randn(2, 3, 12, 8, dtype=torch.float64), torch.randn(2, 3, 3, 2, dtype=torch.float64)
    sums, counts, enlarged = torch.zeros_like(maps), torch.zeros(2, 1, 3, 2).double(), torch.zeros_like(features)
    for b, i, j, r, c, value in pairs_of(q, cell):
        sums[b, :, r, c] += value * features[b, :, i, j]
        counts[b, :, r, c] += value
        enlarged[b, :, i, j] += value * maps[b, :, r, c]
    torch.testing.assert_close(superpixel_pool(features, q, cell), sums / counts, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(superpixel_upsample(maps, q, cell), enlarged)


def test_adjacency_is_the_sum_in_the_formula():
    cell, q = 4, random_association(12, 16, 1)
    of_pixel = torch.zeros(12, 16, 3, 4, dtype=torch.float64)
    for _, i, j, r, c, value in pairs_of(q, cell):
        of_pixel[i, j, r, c] = value
    ours = superpixel_adjacency(q, cell)[0]
    for r in range(3):
        for c in range(4):
            for k in range(25):
                y, x = r + k // 5 - 2, c + k % 5 - 2
                expected = 0.0
                if 0 <= y < 3 and 0 <= x < 4:
                    expected = (of_pixel[:, :, r, c] * of_pixel[:, :, y, x]).sum() / of_pixel[:, :, r, c].sum()
                assert ours[k, r, c].item() == pytest.approx(float(expected), abs=1e-6)


def test_rows_of_the_adjacency_sum_to_one_far_from_the_border():
    sums = superpixel_adjacency(random_association(56, 56, 1), 8).sum(1)[0]
    torch.testing.assert_close(sums[2:-2, 2:-2], torch.ones(3, 3).double())
    assert (sums < 1 + 1e-9).all()
    assert sums[0, 0] < 1


def test_a_hard_association_is_a_grid():
    q = torch.zeros(1, 9, 32, 48)
    q[:, 4] = 1
    features = torch.randn(1, 3, 32, 48)
    pooled = superpixel_pool(features, q)
    torch.testing.assert_close(pooled, torch.nn.functional.avg_pool2d(features, 16), rtol=1e-4, atol=1e-5)
    nearest = torch.nn.functional.interpolate(pooled, scale_factor=16)
    torch.testing.assert_close(superpixel_upsample(pooled, q), nearest)


def test_rows_behind_the_last_whole_cell_do_not_count():
    q, features = random_association(35, 50), torch.randn(2, 3, 35, 50, dtype=torch.float64)
    whole = superpixel_pool(features[:, :, :32, :48], q[:, :, :32, :48])
    assert torch.equal(superpixel_pool(features, q), whole)


@pytest.mark.parametrize("function", [superpixel_pool, superpixel_upsample])
def test_an_association_of_another_size(function):
    with pytest.raises(InputError, match=r"the association must have the shape \(B, 9, "):
        function(torch.zeros(1, 2, 32, 32), torch.zeros(1, 9, 16, 32))


@pytest.mark.parametrize("function", [superpixel_pool, superpixel_upsample, superpixel_adjacency])
def test_on_every_device(function, device):
    q = random_association(8, 8).float()
    side = 2 if function is superpixel_upsample else 8
    inputs = [q] if function is superpixel_adjacency else [torch.randn(2, 3, side, side), q]
    there = function(*(x.to(device) for x in inputs), cell=4)
    torch.testing.assert_close(there.cpu(), function(*inputs, cell=4), atol=1e-5, rtol=1e-4)
