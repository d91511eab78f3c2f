"""Augmentation and views against the official helpers."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from tests import recipe
from tests.methods.official import picture
from wsss_lib.data.transforms import (
    Augmentation,
    crop_to_canvas,
    jitter_colour,
    random_crop_box,
    resize_long_side,
    to_tensor,
    view,
    view_size,
)
from wsss_lib.models.backbone import Normalisation


@pytest.fixture(scope="module")
def golden():
    return recipe.golden("psa/helpers")


@pytest.mark.parametrize("seed", range(4))
def test_random_resize_and_flip_draw_as_the_official_code(golden, seed):
    image = Image.fromarray(golden["img"])
    rng = random.Random(seed)
    resized = np.asarray(resize_long_side(image, rng.randint(50, 100)))
    assert resized.shape == golden[f"resize_{seed}"].shape
    assert np.abs(resized.astype(int) - golden[f"resize_{seed}"]).max() <= 1
    assert random.Random(seed).getrandbits(1) == golden[f"flip_{seed}"].item()


@pytest.mark.parametrize("seed", range(4))
def test_random_crop_draws_as_the_official_code(golden, seed):
    image = torch.from_numpy(golden["img"]).permute(2, 0, 1)
    box = random_crop_box(*image.shape[1:], 48, random.Random(seed))
    crop = crop_to_canvas(image, box, 48).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(crop, golden[f"crop48_{seed}"])
    (top, left), (height, width) = box.canvas, box.size
    image_top, image_left = box.image
    expected = [top, top + height, left, left + width]
    expected += [image_top, image_top + height, image_left, image_left + width]
    assert expected == golden[f"box48_{seed}"].tolist()


def test_crop_of_a_larger_canvas_fills_with_the_given_value(golden):
    image = torch.from_numpy(golden["img"]).permute(2, 0, 1)
    box = random_crop_box(45, 60, 64, random.Random(5))
    np.testing.assert_array_equal(crop_to_canvas(image, box, 64).permute(1, 2, 0).numpy(), golden["rc_img"])
    np.testing.assert_array_equal(crop_to_canvas(image[:1], box, 64, fill=255)[0].numpy(), golden["rc_lab"])


CASES = [
    *(("oc_cse/transforms", i, *case) for i, case in enumerate([(60, 90, 72, 64), (90, 60, 72, 48), (50, 50, 31, 40)])),
    *(("acr/transforms", i, *case) for i, case in enumerate([(300, 400, 410, 256), (120, 90, 200, 256)])),
]


@pytest.mark.parametrize(
    ("width", "height", "long_side", "ratio", "factor"),
    [
        (500, 375, 334, (334, 250), (334, 251)),
        (375, 500, 334, (250, 334), (251, 334)),
        (480, 640, 338, (254, 338), (253, 338)),
        (80, 60, 82, (82, 62), (82, 61)),
    ],
)
def test_half_a_pixel_goes_where_the_authors_rounding_puts_it(width, height, long_side, ratio, factor):
    """The ratio of the sides is what most methods multiply by; MSAL's factor has a rounding of its own."""
    image = Image.new("RGB", (width, height))
    assert resize_long_side(image, long_side).size == ratio
    assert resize_long_side(image, long_side, by_factor=True).size == factor
    augment = Augmentation(long_side, long_side, 640, 0.0, 0.0, by_factor=True)
    content = augment(Image.new("RGB", (width, height), "white"), Normalisation(), random.Random(0))[0] > 0
    assert (int(content.any(0).sum()), int(content.any(1).sum())) == factor


@pytest.mark.parametrize(("name", "case", "height", "width", "long_side", "crop"), CASES)
def test_later_methods_prepare_images_alike(name, case, height, width, long_side, crop):
    golden, step = recipe.golden(name), 3 if name.startswith("oc_cse") else 4
    image = resize_long_side(Image.fromarray(picture(f"{name[:-10]}tf/image/{case}", height, width)), long_side)
    pixels = Normalisation()(to_tensor(image))
    assert list(pixels.shape[1:]) == golden[f"size_{case}"].tolist()
    if f"resized_{case}" in golden:
        np.testing.assert_array_equal(np.asarray(image)[::step, ::step], golden[f"resized_{case}"])
        np.testing.assert_allclose(pixels.permute(1, 2, 0)[::step, ::step], golden[f"norm_{case}"], atol=1e-6)
    box = random_crop_box(*pixels.shape[1:], crop, random.Random(case + 1))
    (canvas_top, canvas_left), (image_top, image_left) = box.canvas, box.image
    assert [canvas_left, image_left, canvas_top, image_top] == golden[f"xy_{case}"].tolist()
    cropped = crop_to_canvas(pixels, box, crop)
    np.testing.assert_allclose(cropped[:, ::step, ::step], golden[f"crop_{case}"], atol=1e-6)


def test_views_round_half_to_even():
    assert view_size(375, 500, 0.5) == (188, 250)
    assert view_size(375, 500, 1.5) == (562, 750)
    assert view_size(1, 1, 0.1) == (1, 1)


@pytest.mark.parametrize(("length", "snapped"), [(257, 257), (279, 273), (282, 289), (375, 369), (10, 17)])
def test_views_snap_to_a_multiple_plus_one(length, snapped):
    assert view_size(length, 257, 1.0, multiple=16) == (snapped, 257)


def test_view_of_the_same_size_is_the_image(golden):
    pixels = view(Image.fromarray(golden["img"]), 1.0, Normalisation())
    np.testing.assert_allclose(pixels.permute(1, 2, 0).numpy(), golden["norm_rgb"], atol=1e-5)


def test_augmentation_depends_on_its_seed_only(golden):
    augment = Augmentation(50, 100, 48)
    image = Image.fromarray(golden["img"])
    first, again = (augment(image, Normalisation(), random.Random("7/3/1")) for _ in range(2))
    assert first.shape == (3, 48, 48)
    assert first.dtype == torch.float32
    assert first.is_contiguous()
    assert torch.equal(first, again)
    assert not torch.equal(first, augment(image, Normalisation(), random.Random("7/3/2")))


def test_augmentation_pads_with_the_mean_colour(golden):
    padded = Augmentation(50, 50, 96)(Image.fromarray(golden["img"]), Normalisation(), random.Random(0))
    assert (padded == 0).all(0).float().mean() > 0.6


def test_jitter_without_strength_changes_nothing(golden):
    image = Image.fromarray(golden["img"])
    np.testing.assert_array_equal(np.asarray(jitter_colour(image, 0.0, 0.0, random.Random(0))), golden["img"])


def test_jitter_stays_within_its_strength():
    grey = Image.new("RGB", (8, 8), (100, 100, 100))
    values = [np.asarray(jitter_colour(grey, 0.3, 0.1, random.Random(i))).mean() for i in range(200)]
    assert 69 <= min(values) < 75
    assert 125 < max(values) <= 131


@pytest.mark.parametrize("size", [(2000, 1), (1, 2000)])
def test_a_sliver_keeps_one_pixel(size):
    assert min(resize_long_side(Image.new("RGB", size), 64).size) == 1
