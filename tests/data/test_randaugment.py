"""The augmentation of vision transformers."""

import math
import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from wsss_lib.data import randaugment
from wsss_lib.data.randaugment import FILL, OPERATIONS, CropAugmentation, erase_part, rand_augment, random_part
from wsss_lib.models.backbone import Normalisation


@pytest.fixture
def image():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8))


def parts(width, height, least, most, count=2000):
    return [random_part(width, height, least, most, random.Random(i)) for i in range(count)]


def test_parts_have_the_area_and_the_ratio_that_are_asked_for():
    for left, top, right, bottom in parts(400, 400, 0.2, 0.5):
        assert 0 <= left < right <= 400
        assert 0 <= top < bottom <= 400
        assert 0.195 < (right - left) * (bottom - top) / 400**2 < 0.505
        assert 0.74 < (right - left) / (bottom - top) < 1.36


def test_parts_larger_than_the_image_are_drawn_again():
    boxes = parts(300, 300, 0.6, 1.2)
    whole = sum(box == (0, 0, 300, 300) for box in boxes) / len(boxes)
    assert 0 < whole < 0.01  # ten draws in vain
    assert max((r - l) * (b - t) for l, t, r, b in boxes) <= 300**2  # noqa: E741


@pytest.mark.parametrize(("width", "height"), [(900, 100), (100, 900)])
def test_what_never_fits_is_cut_from_the_middle(width, height):
    left, top, right, bottom = random_part(width, height, 1.1, 1.2, random.Random(0))
    ratio = (right - left) / (bottom - top)
    assert ratio == pytest.approx(4 / 3 if width > height else 3 / 4, rel=0.02)
    assert abs((left + right) - width) <= 1
    assert abs((top + bottom) - height) <= 1


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("magnitude", [0.0, 8.7, 10.0])
def test_operations_keep_size_and_mode(image, name, magnitude):
    for sign in (-1.0, 1.0):
        result = OPERATIONS[name](image, magnitude, sign)
        assert (result.size, result.mode) == (image.size, "RGB")


def pixels_after(name, magnitude, sign=1.0, colour=(100, 150, 200)):
    image = Image.new("RGB", (40, 20), colour)
    return np.asarray(OPERATIONS[name](image, magnitude, sign))


def test_colours():
    assert pixels_after("Invert", 9)[0, 0].tolist() == [155, 105, 55]
    assert pixels_after("Posterize", 9)[0, 0].tolist() == [0, 128, 128]  # one bit
    assert pixels_after("Posterize", 10)[0, 0].tolist() == [0, 0, 0]
    assert pixels_after("Solarize", 9)[0, 0].tolist() == [155, 105, 55]  # all are above 256 - 230
    assert pixels_after("Solarize", 0)[0, 0].tolist() == [100, 150, 200]
    assert pixels_after("SolarizeAdd", 9)[0, 0].tolist() == [199, 150, 200]
    assert pixels_after("Brightness", 5)[0, 0].tolist() == [145, 217, 255]
    assert pixels_after("Brightness", 10, -1.0)[0, 0].tolist() == [10, 15, 20]  # not darker than a tenth


def test_moves():
    moved = pixels_after("TranslateX", 10)
    assert (moved[:, -18:] == FILL).all()
    assert (moved[:, :20] == (100, 150, 200)).all()
    assert (pixels_after("TranslateY", 10, -1.0)[:9] == FILL).all()
    assert (pixels_after("Rotate", 9)[0, 0] == FILL).all()


def test_two_of_fifteen_each_with_probability_one_half(image, monkeypatch):
    called = Counter()

    def counting(name):
        def operation(picture, magnitude, sign):
            assert 7 < magnitude <= 10
            called[name] += 1
            called[sign] += 1
            return picture

        return operation

    monkeypatch.setattr(randaugment, "OPERATIONS", {name: counting(name) for name in OPERATIONS})
    rng = random.Random(0)
    for _ in range(3000):
        rand_augment(image, 2, rng)
    counts = [called[name] for name in OPERATIONS]
    assert len(counts) == 15
    assert 2800 < sum(counts) < 3200
    assert min(counts) > 140
    assert abs(called[1.0] - called[-1.0]) < 250


def test_erasing():
    pixels = torch.zeros(3, 60, 80)
    shares = []
    for i in range(300):
        covered = erase_part(pixels.clone(), random.Random(i)) != 0
        assert torch.equal(covered[0], covered[1])
        shares.append(covered[0].float().mean().item())
    assert 0.015 < min(shares) < max(shares) < 0.35
    assert np.mean(shares) == pytest.approx((0.02 + 1 / 3) / 2, abs=0.03)


def test_the_same_draws_give_the_same_image(image):
    augment = CropAugmentation(32, 0.6, 1.2, 2, 0.5)
    first, again, other = (augment(image, Normalisation(), random.Random(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (3, 32, 32)


def test_half_of_the_images_are_mirrored():
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (64, 1, 3)))
    augment = CropAugmentation(16, 1.0, 1.0, 0)
    mirrored = sum(
        float(x[0, 0, 0] > x[0, 0, -1]) for x in (augment(ramp, float_of, random.Random(i)) for i in range(200))
    )
    assert 75 < mirrored < 125


def float_of(pixels):
    return pixels.float()


def test_parts_are_log_even_in_their_ratio():
    ratios = [math.log((r - l) / (b - t)) for l, t, r, b in parts(1000, 1000, 0.2, 0.5)]  # noqa: E741
    assert abs(np.mean(ratios)) < 0.02
    assert np.std(ratios) == pytest.approx(2 * math.log(4 / 3) / math.sqrt(12), rel=0.05)
