"""IRN's augmentation against the official one."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from tests import recipe
from wsss_lib.data.scaled_crop import ScaledCrop
from wsss_lib.data.transforms import to_tensor


def normalise(image):
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    return (image / 255 - mean) / std


@pytest.mark.parametrize("draw", [0, 1, 2])
def test_official_items(draw):
    golden = recipe.golden("irn/aff_item")
    image, labels = Image.fromarray(golden["img"]), Image.fromarray(golden["label"])
    pixels, cells = ScaledCrop(0.5, 1.5, 96)(image, labels, normalise, random.Random(draw))
    np.testing.assert_allclose(pixels[:, ::5, ::5].numpy(), golden[f"img_{draw}"], rtol=0, atol=1e-5)
    values = pixels.numpy()
    stat = [values.mean(), values.std(), np.abs(values).max(), np.abs(values).sum()]
    np.testing.assert_allclose(stat, golden[f"img_stat_{draw}"], rtol=1e-4)
    assert cells.dtype == torch.uint8
    np.testing.assert_array_equal(cells.numpy(), golden[f"reduced_{draw}"])
    np.testing.assert_array_equal(cells.numpy(), golden[f"crop_label_{draw}"][2::4, 2::4])


def test_an_image_smaller_than_the_crop_is_surrounded_by_nothing_known():
    image = Image.new("RGB", (9, 5), (200, 30, 90))
    labels = Image.new("L", (9, 5), 3)
    pixels, cells = ScaledCrop(1.0, 1.0, 32)(image, labels, lambda x: x.float(), random.Random(0))
    assert int((pixels[0] > 0).sum()) == 45
    assert set(cells.unique().tolist()) == {3, 255}
    assert cells.shape == (8, 8)


def test_a_tiny_image_keeps_a_pixel():
    image, labels = Image.new("RGB", (1, 1), (9, 9, 9)), Image.new("L", (1, 1), 3)
    pixels, cells = ScaledCrop(0.1, 0.2, 6)(image, labels, lambda x: x.float(), random.Random(0))
    assert int((pixels[0] > 0).sum()) == 1
    assert cells.shape == (2, 2)


def test_image_and_labels_stay_together():
    values = np.random.default_rng(0).integers(0, 255, (40, 60), dtype=np.uint8)
    labels = Image.fromarray(values)
    for draw in range(5):
        pixels, cells = ScaledCrop(1.0, 1.0, 48)(labels.convert("RGB"), labels, to_float, random.Random(draw))
        inside = cells < 255
        assert torch.equal(pixels[0, 2::4, 2::4][inside], cells[inside].float())
        assert inside.any()


def to_float(image):
    return image.float()


def test_draws_are_those_of_the_generator():
    labels = Image.fromarray(np.arange(200, dtype=np.uint8).reshape(10, 20))
    one, other = (ScaledCrop(0.5, 1.5, 16)(labels.convert("RGB"), labels, to_float, random.Random(7)) for _ in range(2))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    assert to_tensor(labels).shape == (1, 10, 20)
