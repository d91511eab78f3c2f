"""Seeds, normalisation, and measures on maps."""

import pytest
import torch

from wsss_lib.ops.cam import activation_share, covered_share, merge_mirrored, normalise_maximum, seed, upsample


def test_seed_is_the_argmax_over_background_and_maps(device):
    scores = torch.rand(3, 9, 11, device=device)
    classes = torch.tensor([1, 4, 19], device=device)
    stack = torch.cat([torch.full((1, 9, 11), 0.5, device=device), scores])
    expected = torch.cat([torch.zeros(1, device=device), classes + 1])[stack.argmax(0)]
    assert torch.equal(seed(scores, classes, 0.5).long(), expected.long())


def test_seed_background_wins_ties_and_then_the_lower_class():
    scores = torch.tensor([[[0.5, 0.7, 0.7]], [[0.2, 0.7, 0.6]]])
    assert seed(scores, torch.tensor([2, 5]), 0.5).tolist() == [[0, 3, 3]]


def test_seed_of_an_image_without_classes_is_background():
    empty = seed(torch.empty(0, 4, 5), torch.empty(0, dtype=torch.int64), 0.2)
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


def test_shares():
    cam = torch.tensor([[0.0, 0.2], [0.6, 0.2]])
    region = torch.tensor([[False, False], [True, True]])
    assert activation_share(cam, region).item() == pytest.approx(0.8)
    assert covered_share(cam, region, 0.3).item() == pytest.approx(0.5)
    assert activation_share(torch.zeros(2, 2), region).isnan()
