"""Seeds, normalisation, and measures on maps."""

import pytest
import torch

from wsss_lib.errors import InputError
from wsss_lib.ops.cam import (
    activation_share,
    argmax,
    background_power,
    cam_label,
    covered_share,
    enlarged_bands,
    merge_mirrored,
    normalise_maximum,
    normalise_range,
    upsample,
)


def test_cam_seed_is_the_argmax_over_background_and_maps(device):
    scores = torch.rand(3, 9, 11, device=device)
    classes = torch.tensor([1, 4, 19], device=device)
    stack = torch.cat([torch.full((1, 9, 11), 0.5, device=device), scores])
    expected = torch.cat([torch.zeros(1, device=device), classes + 1])[stack.argmax(0)]
    assert torch.equal(cam_label(scores, classes, 0.5).long(), expected.long())


@pytest.mark.parametrize("size", [(31, 47), (7, 9), (4, 9), (7, 5), (70, 9), (1, 1), (300, 2)])
@pytest.mark.parametrize("channels", [0, 1, 3])
def test_bands_equal_the_whole_upsampled_maps(size, channels, device):
    maps = torch.rand(channels, 7, 9, device=device)
    expected = torch.zeros(0, *size, device=device) if channels == 0 else upsample(maps[None], size)[0]
    for values in (1, 200, 2**22):
        found, rows = torch.full_like(expected, torch.nan), 0
        for band, part in enlarged_bands(maps, size, values):
            assert band.start == rows
            assert part.numel() <= max(values, channels * size[1]) or size == (7, 9)
            found[:, band], rows = part, band.stop
        assert rows == size[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    [(_, same)] = enlarged_bands(maps, (7, 9))
    assert same is maps


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_argmax_returns_the_first_of_equal_scores(dim, device):
    scores = torch.randint(0, 4, (5, 6, 30), device=device).float()  # many are equal
    assert torch.equal(argmax(scores, dim), scores.argmax(dim))


def test_background_wins_ties_then_the_first_class():
    scores = torch.tensor([[[0.5, 0.7, 0.7]], [[0.2, 0.7, 0.6]]])
    assert cam_label(scores, torch.tensor([2, 5]), 0.5).tolist() == [[0, 3, 3]]


def test_cam_seed_of_an_image_without_classes_is_background():
    empty = cam_label(torch.empty(0, 4, 5), torch.empty(0, dtype=torch.int64), 0.2)
    assert empty.shape == (4, 5)
    assert empty.dtype == torch.uint8
    assert not empty.any()


def test_mirrored_maps_may_be_added_before_upsampling(device):
    maps = torch.rand(4, 3, 7, 9, device=device)  # two plain, two mirrored
    plain, mirrored = maps.chunk(2)
    slow = upsample(plain, (40, 61)) + upsample(mirrored, (40, 61)).flip(-1)
    torch.testing.assert_close(upsample(merge_mirrored(maps), (40, 61)), slow)


def test_normalised_maps(device):
    maps = torch.rand(2, 3, 5, 6, device=device) * 7
    result = normalise_maximum(maps)
    assert result.max() < 1
    torch.testing.assert_close(result * (maps.amax((2, 3), keepdim=True) + 1e-5), maps)
    assert not normalise_maximum(torch.zeros(1, 4, 4)).any()


def test_gradient_of_the_normalisation():
    assert torch.autograd.gradcheck(normalise_maximum, torch.rand(2, 3, 4, dtype=torch.double, requires_grad=True))


def test_maps_stretched_to_their_range(device):
    maps = torch.randn(2, 3, 5, 6, device=device) * 7
    maps[0, 0] = maps[0, 0].abs() + 2  # never 0
    result = normalise_range(maps)
    assert result.shape == maps.shape
    assert result.min() == 0
    assert result.max() < 1
    assert result.amax((2, 3)).min() > 0.999
    for one, other in zip(result.flatten(0, 1), maps.flatten(0, 1), strict=True):
        positive = other.clamp(min=0)
        low, high = positive.min(), positive.max()
        assert not one[positive == low].any()  # exactly, so that a pixel can be outside
        inside = positive > low + 1e-5
        torch.testing.assert_close(one[inside], ((positive - low - 1e-5) / (high - low + 1e-5))[inside])
        assert not one[~inside].any()


def test_values_within_eps_of_the_minimum_become_zero():
    result = normalise_range(torch.tensor([[[1.0, 1.0 + 5e-6, 1.0 + 3e-5, 2.0]]]))
    assert result[0, 0, :2].tolist() == [0, 0]
    assert 1.8e-5 < result[0, 0, 2] < 2.2e-5


@pytest.mark.parametrize("value", [-2.0, 0.0, 3.0])
def test_a_map_without_a_range_is_stretched_to_zero(value, device):
    maps = torch.full((2, 4, 5), value, device=device, requires_grad=True)
    result = normalise_range(maps)
    assert torch.equal(result, torch.zeros_like(result))
    result.sum().backward()
    assert not maps.grad.any()


def test_negative_maps_are_stretched_to_zero(device):
    maps = -torch.rand(2, 4, 5, device=device) - 0.1
    assert not normalise_range(maps).any()
    mixed = torch.cat([maps, -maps])
    assert not normalise_range(mixed)[:2].any()
    torch.testing.assert_close(normalise_range(mixed)[2:], normalise_range(-maps))  # each map by itself


def test_gradient_of_the_stretching():
    maps = torch.randn(2, 3, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(normalise_range, maps)
    ties = torch.tensor([[[0.0, 2.0, 2.0, 1.0]]], requires_grad=True)
    normalise_range(ties)[0, 0, 3].backward()
    assert ties.grad[0, 0, 1] == ties.grad[0, 0, 2] < 0
    assert ties.grad[0, 0, 3] > 0


def test_shares():
    cam = torch.tensor([[0.0, 0.2], [0.6, 0.2]])
    region = torch.tensor([[False, False], [True, True]])
    assert activation_share(cam, region).item() == pytest.approx(0.8)
    assert covered_share(cam, region, 0.3).item() == pytest.approx(0.5)
    assert activation_share(torch.zeros(2, 2), region).isnan()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_cam_seed_refuses_maps_that_are_not_finite(value):
    maps = torch.rand(2, 3, 4)
    maps[0, 1, 2] = value
    with pytest.raises(InputError, match="scores hold NaN or infinite values"):
        cam_label(maps, torch.tensor([0, 1]), 0.2)
    with pytest.raises(InputError, match="maps of 2 classes but 1 classes"):
        cam_label(maps, torch.tensor([0]), 0.2)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1.01, -0.01])
def test_background_power_refuses_values_outside_0_to_1(value):
    maps = torch.rand(2, 3, 4)
    maps[0, 1, 2] = 1 + 1e-7
    assert background_power(maps, 2.5)[0, 1, 2] == 0
    maps[0, 1, 2] = value
    with pytest.raises(InputError, match="maps hold negative or non-finite values or values above 1"):
        background_power(maps, 4)


def test_upsampling_zero_maps_gives_zero_maps():
    assert upsample(torch.zeros(2, 0, 3, 4), (6, 8)).shape == (2, 0, 6, 8)
    assert upsample(torch.zeros(0, 5, 3, 4), (6, 8)).shape == (0, 5, 6, 8)
