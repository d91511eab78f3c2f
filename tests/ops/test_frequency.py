"""Filters on half a plane of frequencies against the whole, complex spectrum."""

import numpy as np
import pytest
import torch

from tests import recipe
from wsss_lib.ops.frequency import (
    apply_filter,
    half_plane,
    influence_maps,
    magnitude,
    probe_filters,
    with_magnitude,
)

SIZES = [(8, 8), (6, 10), (7, 9), (8, 5)]


def through_the_whole_plane(images, mask):
    """The oracle: multiply the centred spectrum, go back, and drop the imaginary part."""
    spectra = torch.fft.fftshift(torch.fft.fft2(images), dim=(-2, -1)) * mask
    return torch.fft.ifft2(torch.fft.ifftshift(spectra, dim=(-2, -1))).real


@pytest.mark.parametrize("size", SIZES)
def test_half_a_plane_does_what_a_whole_one_does(size, device):
    images, mask = torch.randn(2, 3, *size, device=device), torch.rand(3, *size, device=device)
    expected = through_the_whole_plane(images, mask)
    torch.testing.assert_close(apply_filter(images, half_plane(mask)), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_phases_with_their_own_magnitudes_are_the_image(size, device):
    images = torch.randn(2, 3, *size, device=device)
    torch.testing.assert_close(with_magnitude(images, magnitude(images)), images, atol=1e-5, rtol=1e-4)


def test_other_magnitudes(device):
    images, others = torch.randn(2, 3, 6, 6, device=device), torch.rand(2, 3, 6, 6, device=device)
    whole = torch.fft.fft2(images)
    expected = torch.fft.ifft2(torch.fft.fft2(others).abs() * torch.exp(1j * whole.angle())).real
    torch.testing.assert_close(with_magnitude(images, magnitude(others)), expected, atol=1e-5, rtol=1e-4)


def test_gradients_of_mixed_magnitudes():
    images = torch.randn(1, 2, 5, 6, dtype=torch.float64)

    def mixed(x):
        spectra = torch.fft.rfft2(x)
        return torch.fft.irfft2(torch.polar(0.3 * spectra.abs() + 0.7, spectra.angle()), s=(5, 6))

    assert torch.autograd.gradcheck(mixed, images.requires_grad_())
    torch.testing.assert_close(
        with_magnitude(images.float(), 0.3 * magnitude(images) + 0.7), mixed(images).float(), atol=1e-5, rtol=1e-4
    )


# --------------------------------------------------------------------------------------------------------------- probes


def official_mask(size, block, row, column):
    """What the authors zero for a probe, in the centred layout."""
    mask = torch.ones(size, size)
    mask[block * row : block * (row + 1), block * column : block * (column + 1)] = 0
    if row > 0 and column > 0:
        mask[size - block * row : size - block * row + block, size - block * column : size - block * column + block] = 0
    elif column > 0:
        mask[:block, size - block * column : size - block * column + block] = 0
    return mask


@pytest.mark.parametrize(("size", "block"), [(64, 16), (96, 16), (24, 8)])
def test_official_probes(size, block):
    filters, cells = probe_filters(size, block)
    blocks = size // block
    for probe, filled in zip(filters, cells, strict=True):
        row, column = filled[0]
        if column > blocks // 2:
            row, column = filled[1]
        torch.testing.assert_close(probe, half_plane(official_mask(size, block, row, column)))


@pytest.mark.parametrize(("size", "block"), [(64, 16), (48, 16), (24, 8)])
@pytest.mark.parametrize("mirror", ["official", "exact"])
def test_every_cell_is_filled_once_and_no_two_probes_are_alike(size, block, mirror):
    filters, cells = probe_filters(size, block, mirror)
    blocks = size // block
    assert sorted(cell for filled in cells for cell in filled) == [(r, c) for r in range(blocks) for c in range(blocks)]
    assert len({tuple(probe.flatten().tolist()) for probe in filters}) == len(filters)
    assert set(filters.unique().tolist()) <= {0.0, 0.5, 1.0}


def test_the_papers_number_of_probes():
    assert len(probe_filters(224, 16)[0]) == 106  # 112 there, 6 of them twice


def test_exact_probes_remove_what_official_ones_halve():
    official, exact = probe_filters(64, 16)[0], probe_filters(64, 16, "exact")[0]
    halved = (official == 0.5).flatten(1).sum(1)
    assert (halved > 100).all()
    assert not (exact == 0.5).any()
    assert (exact == 0).flatten(1).sum(1).float().mean() > 200
    assert ((official == 0).flatten(1).sum(1) <= 2).all()


# ------------------------------------------------------------------------------------------------------------ influence


def test_official_influence_maps():
    golden = recipe.golden("pcss/fim")
    highest = torch.zeros(20)
    for epoch in (2, 5):
        maps, highest = influence_maps(torch.from_numpy(golden[f"loss_e{epoch}"]), highest, 64)
        np.testing.assert_allclose(maps[::6, ::4, ::4], golden[f"mask_e{epoch}"], atol=1e-5)
        np.testing.assert_allclose(highest, golden[f"max_loss_e{epoch}"], rtol=1e-6)


def test_a_class_without_losses_has_no_influence():
    maps, highest = influence_maps(torch.stack([torch.zeros(4, 4), torch.rand(4, 4)]), torch.zeros(2), 16)
    assert not maps[0].any()
    assert highest[0] == 0
    assert 0 <= maps[1].min() < maps[1].max() <= 1


def test_falling_losses_fade():
    table = torch.rand(1, 4, 4) + 0.1
    first, highest = influence_maps(table, torch.zeros(1), 16)
    later, again = influence_maps(table / 2, highest, 16)
    assert torch.equal(highest, again)
    assert first.max() == 1
    assert later.max() < 0.5
