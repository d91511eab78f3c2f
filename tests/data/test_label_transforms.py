"""Augmentation of images and labels against the two official codes."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from tests import recipe
from tests.scenes import label_map, picture
from wsss_lib.data.label_transforms import (
    ScaleChoice,
    UniformScale,
    nearest_as_opencv,
    nearest_as_pillow,
    resize_pixels,
)
from wsss_lib.data.transforms import to_tensor
from wsss_lib.models.backbone import Normalisation
from wsss_lib.models.resnet101 import CaffeResNet101

SIZE = (60, 83)
PLAIN = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), divisor=1.0)


class Scripted(random.Random):
    """Draws what it is told to; ``randint`` takes shares of its range."""

    def __init__(self, numbers=(), shares=()):
        super().__init__(0)
        self.numbers, self.shares = list(numbers), list(shares)

    def random(self):
        return self.numbers.pop(0)

    def randint(self, a, b):
        return round(a + self.shares.pop(0) * (b - a))


@pytest.fixture(scope="module")
def scene():
    name = "segmentation/seg_transforms"
    return Image.fromarray(picture(f"{name}/img", SIZE)), torch.from_numpy(label_map(f"{name}/label", SIZE, 6))


def test_official_resizing(scene):
    golden, (image, labels) = recipe.golden("segmentation/seg_transforms"), scene
    height, width = int(60 * 1.17), int(83 * 1.17)
    pixels = resize_pixels(to_tensor(image), height, width).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(pixels[::2, ::2], golden["scaled"], rtol=0, atol=3e-5)
    np.testing.assert_array_equal(nearest_as_opencv(labels, height, width).numpy(), golden["scaled_gt"])


def test_official_crop(scene):
    golden, (image, labels) = recipe.golden("segmentation/seg_transforms"), scene
    augment = UniformScale((0.7, 1.3), crop=40, padding_label=0)
    pixels, cut = augment.cut(image, labels, PLAIN, Scripted([0.3, 0.31, 0.77]), scale=1.17)
    np.testing.assert_allclose(pixels.permute(1, 2, 0).numpy()[::2, ::2], golden["crop"], rtol=0, atol=1e-3)
    np.testing.assert_array_equal(cut.numpy(), golden["crop_gt"])
    top, left = golden["origin"]
    np.testing.assert_array_equal(cut.numpy(), golden["scaled_gt"][top : top + 40, left : left + 40])


def test_official_mirroring(scene):
    golden, (image, labels) = recipe.golden("segmentation/seg_transforms"), scene
    augment = UniformScale((0.7, 1.3), crop=40, padding_label=0)
    rng = Scripted([0.7, 0.31, 14.5 / 57])
    _, cut = augment.cut(image, labels, PLAIN, rng, scale=1.17)  # of 97 columns, 43 to the left are 14 to the right
    np.testing.assert_array_equal(cut.numpy(), golden["flipped_gt"])


def test_official_batch():
    """Two images of one scale: the second mirrored, the first shorter than the square."""
    name = "segmentation/seg_loader"
    golden, description = recipe.golden(name), recipe.description(name)
    augment = UniformScale((0.7, 1.3), description["crop_size"], padding_label=0)
    scale, *mirrors = description["np_uniform_draws"]
    places = [[0.2], [0.6, 0.2]]
    for i, (image_id, size) in enumerate(zip(description["ids"], description["sizes"], strict=True)):
        image = Image.fromarray(picture(f"{name}/{image_id}", size))
        labels = torch.from_numpy(label_map(f"{name}/{image_id}/label", size, 6))
        rng = Scripted([mirrors[i], *places[i]])
        pixels, cut = augment.cut(image, labels, Normalisation(), rng, scale)
        assert not rng.numbers
        np.testing.assert_allclose(pixels.numpy()[:, ::3, ::3], golden["images"][i], rtol=0, atol=2e-4)
        np.testing.assert_array_equal(cut.numpy(), golden["labels"][i])


def test_official_deeplab_example():
    name = "segmentation/deeplab_augment"
    golden, description = recipe.golden(name), recipe.description(name)
    size = tuple(description["size"])
    image = Image.fromarray(picture(f"{name}/img", size)[..., ::-1].copy())  # given as BGR
    labels = torch.from_numpy(label_map(f"{name}/label", size, 6))
    augment = ScaleChoice((description["scale"],), description["crop"])
    rng = Scripted([description["random"]], shares=[0.3, 0.6])
    pixels, cut = augment.cut(image, labels, CaffeResNet101(0.125).normalisation, rng, description["scale"])
    np.testing.assert_allclose(pixels.numpy()[:, ::2, ::2], golden["image"], rtol=0, atol=1e-3)
    np.testing.assert_array_equal(cut.numpy(), golden["label"])


@pytest.mark.parametrize("kind", [UniformScale, ScaleChoice])
def test_image_and_labels_go_the_same_way(kind):
    """Where the labels say so the image is white, whatever was drawn; around it lies nothing."""
    labels = torch.zeros(40, 56, dtype=torch.uint8)
    labels[8:24, 16:40] = 1
    image = Image.fromarray((labels * 255).numpy()).convert("RGB")
    augment, seen = kind((0.5, 1.0, 2.0), crop=64), set()
    for number in range(12):
        pixels, cut = augment(image, labels, lambda x: x / 255 + 1, random.Random(number))
        assert (pixels.shape, pixels.dtype) == ((3, 64, 64), torch.float32)
        assert (cut.shape, cut.dtype) == ((64, 64), torch.uint8)
        assert torch.equal(cut == 255, pixels[0] == 0)
        agrees = (pixels[0] > 1.5) == (cut == 1)
        assert agrees[cut != 255].float().mean() > 0.95  # borders are blurred in one and not in the other
        seen.add(cut.numpy().tobytes())
    assert len(seen) > 4


def test_scales_are_drawn_as_each_code_does():
    between = [UniformScale((0.7, 1.3), 8).draw_scale(random.Random(i)) for i in range(50)]
    assert 0.7 <= min(between) < 0.8
    assert 1.2 < max(between) <= 1.3
    assert {ScaleChoice((0.5, 1.0, 1.5), 8).draw_scale(random.Random(i)) for i in range(50)} == {0.5, 1.0, 1.5}


@pytest.mark.parametrize("padding", [0, 255])
def test_what_is_padded_has_the_label_that_is_asked_for(padding):
    labels = torch.ones(20, 30, dtype=torch.uint8)
    augment = UniformScale((1.0, 1.0), 32, padding)
    _, cut = augment(Image.new("RGB", (30, 20)), labels, PLAIN, random.Random(0))
    assert torch.equal(cut[:20, :30], labels)
    assert (cut[20:] == padding).all()
    assert (cut[:, 30:] == padding).all()


def test_an_image_never_vanishes():
    _, cut = ScaleChoice((0.1,), 8)(
        Image.new("RGB", (40, 5)), torch.ones(5, 40, dtype=torch.uint8), PLAIN, random.Random(0)
    )
    assert (cut == 1).sum() == 4


@pytest.mark.parametrize(("before", "after"), [(7, 3), (3, 7), (321, 41), (10, 5), (64, 81)])
def test_the_two_nearest_rules(before, after):
    labels = torch.arange(before, dtype=torch.uint8 if before < 256 else torch.int32)[None].expand(2, -1).contiguous()
    opencv = [int(i * before / after + 1e-9) for i in range(after)]
    assert nearest_as_opencv(labels, 2, after)[0].tolist() == opencv
    pillow = [int((i + 0.5) * before / after) for i in range(after)]
    assert nearest_as_pillow(labels, 2, after)[0].tolist() == pillow
