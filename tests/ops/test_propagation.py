"""MSAL's affinity propagation against the authors' and against the formula."""

import numpy as np
import pytest
import torch

from tests import recipe
from tests.ops.test_superpixels import near
from wsss_lib.ops.propagation import propagate_affinity


@pytest.mark.parametrize(("iterations", "percent"), [(1, 60), (8, 60), (8, 85), (3, 95)])
def test_official_propagation(iterations, percent):
    golden, name = recipe.golden("msal/affinity_propagation"), f"i{iterations}_t{percent}"
    x = torch.from_numpy(np.stack([recipe.smooth("msal/ap/x/0", (16, 6, 8), 4) ** 2])).requires_grad_()
    maps = torch.from_numpy(recipe.array("msal/ap/maps", (1, 4, 6, 8))).requires_grad_()
    spread = propagate_affinity(maps, x, iterations, percent / 100)
    near(spread, golden[name])
    weight = torch.from_numpy(recipe.array("msal/ap/weight", (1, 4, 6, 8)))
    of_maps, of_x = torch.autograd.grad((spread * weight).sum(), [maps, x])
    near(of_maps, golden[f"{name}_grad_maps"])
    near(of_x, golden[f"{name}_grad_x"], atol=1e-4)


def test_a_constant_map_stays(device):
    features = torch.rand(2, 5, 4, 6, device=device)
    torch.testing.assert_close(
        propagate_affinity(torch.full((2, 3, 4, 6), 0.7, device=device), features, 8),
        torch.full((2, 3, 4, 6), 0.7, device=device),
    )


def test_zero_iterations_return_the_maps():
    maps = torch.randn(1, 2, 3, 3)
    assert propagate_affinity(maps, torch.randn(1, 4, 3, 3), 0) is maps


def test_features_that_are_zero_give_no_nan():
    features = torch.rand(1, 4, 3, 3)
    features[..., 1, 1] = 0
    features.requires_grad_()
    spread = propagate_affinity(torch.ones(1, 2, 3, 3), features, 3)
    assert not spread[..., 1, 1].any()
    spread.sum().backward()
    assert torch.isfinite(features.grad).all()
