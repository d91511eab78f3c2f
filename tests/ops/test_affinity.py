"""Pairs, their affinities and gradients, and their labels."""

import math

import numpy as np
import pytest
import torch

from tests import recipe
from tests.ops import oracles
from wsss_lib.errors import InputError
from wsss_lib.ops.affinity import (
    affinity_of_pixel,
    pair_affinities,
    pair_count,
    pair_labels,
    pair_offsets,
    pair_windows,
)

GRIDS = [
    (5, 9, 5, "official"),
    (7, 12, 5, "official"),
    (8, 8, 3, "official"),
    (7, 12, 5, "full"),
    (4, 4, 5, "full"),
    (3, 9, 5, "full"),
    (9, 2, 5, "full"),
    (1, 6, 5, "full"),
    (6, 7, 3, "full"),
]


def flat_pairs(height, width, radius=5, border="official"):
    """The "from" and "to" pixels of the windows, one row of flat indices per offset."""
    index = torch.arange(height * width).view(height, width)
    windows = [pair_windows(offset, height, width, radius, border) for offset in pair_offsets(radius)]
    return [index[*start].flatten() for start, _, _ in windows], [index[*end].flatten() for _, end, _ in windows]


def features(batch, height, width, channels=6, device="cpu"):
    """Some values are equal, so that differences of 0 occur."""
    return torch.randint(-9, 10, (batch, channels, height, width)).to(device) / 4


# ------------------------------------------------------------------------------------------------------------ golden


def test_golden_offsets():
    assert pair_offsets(5) == list(map(tuple, recipe.golden("psa/pairs")["offsets"].tolist()))


@pytest.mark.parametrize(("height", "width"), [(5, 9), (9, 12)])
def test_golden_pairs(height, width):
    golden = recipe.golden("psa/pairs")
    start, end = flat_pairs(height, width)
    for one in start:
        np.testing.assert_array_equal(one.numpy(), golden[f"from_{height}_{width}"])
    np.testing.assert_array_equal(torch.cat(end).numpy(), golden[f"to_{height}_{width}"])


@pytest.mark.parametrize(("height", "width"), [(5, 9), (9, 12), (56, 56)])
def test_golden_checksums(height, width):
    start, end = flat_pairs(height, width)
    to = torch.cat(end)
    ordered = int((to * torch.arange(len(to))).sum())
    count = math.prod(pair_count(height, width))
    sums = [count, 34 * count, int(start[0].sum()), int(to.sum()), ordered]
    assert sums == recipe.golden("psa/pairs")[f"sum_{height}_{width}"][:5].tolist()
    assert len(start[0]) == count


def test_golden_labels(device):
    golden = recipe.golden("psa/aff_labels")
    results = pair_labels(torch.from_numpy(golden["label"])[None].to(device))
    for name, result in zip(("bg", "fg", "neg"), results, strict=True):
        assert result.dtype == torch.bool
        np.testing.assert_array_equal(result[0].cpu().numpy(), golden[name].astype(bool), err_msg=name)


# ------------------------------------------------------------------------------------------------------- affinities


@pytest.mark.parametrize(("height", "width", "radius", "border"), GRIDS)
def test_affinities_and_gradients_against_gathering(height, width, radius, border, device):
    ours = features(2, height, width, device=device).requires_grad_()
    theirs = ours.detach().cpu().double().requires_grad_()
    result = pair_affinities(ours, radius, border)
    expected = oracles.pair_affinities(theirs, radius, border)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.detach().cpu().double(), expected.detach(), rtol=1e-5, atol=1e-7)
    weight = torch.randn_like(expected)
    (result * weight.float().to(device)).sum().backward()
    (expected * weight).sum().backward()
    assert theirs.grad.abs().max() > 0.01
    torch.testing.assert_close(ours.grad.cpu().double(), theirs.grad, rtol=1e-5, atol=1e-6)


def test_affinities_of_a_batch_are_those_of_its_images(device):
    batch = features(3, 8, 11, device=device)
    for border in ("official", "full"):
        together = pair_affinities(batch, border=border)
        assert together.shape == (3, 34, math.prod(pair_count(8, 11, border=border)))
        for i in range(3):
            assert torch.equal(together[i], pair_affinities(batch[i : i + 1], border=border)[0])


def test_equal_features_have_the_affinity_one(device):
    same = torch.ones(1, 4, 6, 10, device=device)
    assert torch.equal(pair_affinities(same), torch.ones(1, 34, 4, device=device))
    inside = oracles.pair_affinities(same.cpu(), border="full")
    assert 0 < inside.mean() < 1
    assert torch.equal(pair_affinities(same, border="full").cpu(), inside)


def test_affinities_of_half_precision_features(device):
    half = features(1, 6, 10, device=device).half().requires_grad_()
    result = pair_affinities(half)
    assert result.dtype == torch.float32
    assert torch.equal(result, pair_affinities(half.detach().float()))
    result.sum().backward()
    assert half.grad.dtype == torch.float16


def test_a_smaller_radius():
    offsets = pair_offsets(3)
    assert len(offsets) == 12
    assert offsets == [offset for offset in pair_offsets(5) if math.hypot(*offset) < 3]
    assert pair_count(9, 12, 3) == (7, 8)


@pytest.mark.parametrize("radius", [2, 3, 5, 7])
def test_every_pair_occurs_once(radius):
    offsets = pair_offsets(radius)
    both = {*offsets, *((-dy, -dx) for dy, dx in offsets)}
    assert len(both) == 2 * len(offsets)
    reach = range(-radius, radius + 1)
    assert both == {(y, x) for y in reach for x in reach if 0 < y * y + x * x < radius * radius}


@pytest.mark.parametrize(("height", "width"), [(4, 9), (5, 8), (3, 3)])
def test_a_grid_that_is_too_small(height, width):
    for attempt in (
        lambda: pair_affinities(torch.rand(1, 2, height, width)),
        lambda: pair_labels(torch.zeros(1, height, width, dtype=torch.uint8)),
        lambda: pair_count(height, width),
    ):
        with pytest.raises(InputError, match=f"{height} × {width} features is too small.*5 rows and 9 columns"):
            attempt()
    assert pair_count(height, width, border="full") == (height, width)


# ------------------------------------------------------------------------------------------------------------ labels


@pytest.mark.parametrize(("height", "width", "radius", "border"), GRIDS)
def test_labels_one_pair_at_a_time(height, width, radius, border, device):
    labels = torch.tensor([0, 0, 1, 2, 255])[torch.randint(0, 5, (8, height, width))].to(torch.uint8)
    results = pair_labels(labels.to(device), radius, border)
    found, shape = oracles.pairs(height, width, radius, border)
    expected = torch.zeros(3, 8, *shape, dtype=torch.bool)
    for b, label in enumerate(labels.flatten(1).tolist()):
        for k, place, i, j in torch.stack(found, 1).tolist():
            one, other = label[i], label[j]
            if 255 not in (one, other):
                expected[2 if one != other else int(one > 0), b, k, place] = True
    assert expected.flatten(1).any(1).all()
    for result, wanted in zip(results, expected, strict=True):
        assert torch.equal(result.cpu(), wanted)


# ------------------------------------------------------------------------------------------------------- as a picture


@pytest.mark.parametrize(("height", "width", "radius", "border"), GRIDS)
def test_affinities_of_a_pixel(height, width, radius, border, device):
    affinities = pair_affinities(features(1, height, width, device=device), radius, border)[0]
    matrix = oracles.affinity_matrix(affinities, (height, width), radius, border, missing=torch.nan)
    assert border == "full" or matrix.isnan().any()
    for y in range(height):
        for x in range(width):
            result = affinity_of_pixel(affinities, (y, x), (height, width), radius, border)
            expected = matrix[y * width + x].view(height, width).float()
            torch.testing.assert_close(result, expected, rtol=0, atol=0, equal_nan=True)


def test_the_affinities_of_a_pixel_need_no_gradient():
    affinities = pair_affinities(features(1, 5, 9).requires_grad_())[0]
    assert not affinity_of_pixel(affinities, (0, 4), (5, 9)).requires_grad
