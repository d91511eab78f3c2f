"""The reformulated first layer of ACR's decoder against the plain form."""

import pytest
import torch
import torch.nn.functional as F

from wsss_lib.ops.masked_convolution import doubled_convolution, enlargement_matrix, masked_convolution


def plain(features, mask, weight):
    enlarged = F.interpolate(features, size=mask.shape[2:], mode="bilinear", align_corners=False)
    return F.conv2d(mask * enlarged, weight, stride=2, padding=1)


def inputs(batch, channels, outputs, size, image, device):
    torch.manual_seed(0)
    features = torch.randn(batch, channels, *size, device=device, requires_grad=True)
    mask = torch.rand(batch, 1, *image, device=device, requires_grad=True)
    weight = torch.randn(outputs, channels, 4, 4, device=device, requires_grad=True)
    return features, mask, weight


@pytest.mark.parametrize(
    ("size", "image"), [((4, 4), (32, 32)), ((5, 7), (40, 56)), ((3, 6), (22, 48)), ((8, 8), (8, 8)), ((1, 1), (6, 2))]
)
def test_equals_the_plain_form_and_its_gradients(size, image, device):
    given = inputs(2, 6, 5, size, image, device)
    ours, wanted = masked_convolution(*given), plain(*given)
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)
    upstream = torch.randn_like(wanted)
    for one, other in zip(*(torch.autograd.grad(y, given, upstream) for y in (ours, wanted)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_gradient_in_double_precision():
    given = [x.detach().double().requires_grad_() for x in inputs(1, 2, 3, (2, 3), (6, 8), "cpu")]
    assert torch.autograd.gradcheck(masked_convolution, given)


@pytest.mark.parametrize("asked", [0, 1, 2])
def test_gradients_that_are_not_needed_are_not_computed(asked):
    given = [x.detach().requires_grad_(i == asked) for i, x in enumerate(inputs(1, 3, 2, (4, 4), (16, 16), "cpu"))]
    masked_convolution(*given).sum().backward()
    assert [x.grad is not None for x in given] == [i == asked for i in range(3)]


def test_complement_of_a_mask():
    features, mask, weight = inputs(1, 3, 4, (4, 4), (16, 16), "cpu")
    whole = masked_convolution(features, torch.ones_like(mask), weight)
    rest = whole - masked_convolution(features, mask, weight)
    torch.testing.assert_close(rest, masked_convolution(features, 1 - mask, weight), rtol=1e-4, atol=1e-4)


def test_enlargement_keeps_constants():
    matrix = enlargement_matrix(5, 12)
    assert matrix.shape == (12, 5)
    torch.testing.assert_close(matrix.sum(1), torch.ones(12))


def test_mixed_precision():
    given = inputs(1, 8, 4, (4, 4), (32, 32), "cpu")
    with torch.autocast("cpu", torch.bfloat16):
        mixed = masked_convolution(*given)
    gradients = torch.autograd.grad(mixed.float().sum(), given)
    assert all(torch.isfinite(g).all() and g.dtype == x.dtype for g, x in zip(gradients, given, strict=True))
    torch.testing.assert_close(mixed.float(), plain(*given), rtol=0.05, atol=0.3)


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 1), (2, 7)])
def test_convolution_of_repeated_pixels(size, device):
    torch.manual_seed(0)
    given = [torch.randn(*shape, device=device, requires_grad=True) for shape in ((2, 5, *size), (3, 5, 3, 3), (3,))]
    features, weight, bias = given
    wanted = F.conv2d(F.interpolate(features, scale_factor=2, mode="nearest"), weight, bias, padding=1)
    ours = doubled_convolution(*given)
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)
    upstream = torch.randn_like(wanted)
    for one, other in zip(*(torch.autograd.grad(y, given, upstream) for y in (ours, wanted)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
