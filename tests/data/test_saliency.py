"""Saliency maps from files, and how they follow the augmentation of their images."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from tests import recipe
from wsss_lib.data.saliency import SaliencyMaps
from wsss_lib.data.toy import ToyWorld
from wsss_lib.data.transforms import Augmentation
from wsss_lib.errors import InputError
from wsss_lib.methods.msal import saliency_canvas
from wsss_lib.models.backbone import Normalisation
from wsss_lib.ops.colour import rgb_to_lab

COCO = Normalisation((0.471, 0.448, 0.408), (0.234, 0.239, 0.242))
SIZES = [(60, 80), (85, 60), (64, 64)]


def picture(name, size, channels, cells):
    values = (255 * recipe.smooth(name, (channels, *size), cells)).astype(np.uint8)
    return Image.fromarray(values[0] if channels == 1 else values.transpose(1, 2, 0))


def sampled(values, golden):
    flat = np.ascontiguousarray(values).ravel()
    return flat[np.linspace(0, flat.size - 1, golden.size).astype(np.int64)]


@pytest.mark.parametrize("i", range(3))
def test_official_augmentation(i):
    golden = recipe.golden("msal/transforms")
    rgb = picture(f"msal/aug/rgb/{i}", SIZES[i], 3, 7)
    grey = picture(f"msal/aug/gray/{i}", SIZES[i], 1, 5)
    augmentation = Augmentation(48, 96, 64, 0.0, 0.0)
    image, saliency = augmentation.with_map(rgb, grey, COCO, random.Random(100 + i), saliency_canvas)
    np.testing.assert_allclose(sampled(image, golden[f"gray{i}_image"]), golden[f"gray{i}_image"], atol=0.05)
    np.testing.assert_array_equal(saliency[0], golden[f"gray{i}_mask"])

    image, colours = augmentation.with_map(rgb, rgb, Normalisation(), random.Random(100 + i), saliency_canvas)
    np.testing.assert_allclose(sampled(image, golden[f"rgb{i}_image"]), golden[f"rgb{i}_image"], atol=0.05)
    lab = 255 * rgb_to_lab(colours.float() / 255).permute(1, 2, 0).numpy()
    assert np.abs(sampled(lab, golden[f"rgb{i}_lab"]) - golden[f"rgb{i}_lab"]).max() <= 1.5  # OpenCV's, in 8 bits


def test_the_same_image_with_and_without_a_map():
    world = ToyWorld("train", 1)
    augmentation = Augmentation(60, 120, 80)
    image, mask = world.image(0), Image.fromarray(world.mask(0))
    alone = augmentation(image, Normalisation(), random.Random(3))
    together, followed = augmentation.with_map(image, mask, Normalisation(), random.Random(3))
    assert torch.equal(alone, together)
    assert followed.shape == (1, 80, 80)


def written(folder, world, size=None):
    for index, image_id in enumerate(world.ids):
        height, width = size or world.size(index)
        Image.new("L", (width, height), 7 * index).save(folder / f"{image_id}.png")
    return folder


def test_maps_from_a_folder(tmp_path):
    world = ToyWorld("train", 3)
    maps = SaliencyMaps(written(tmp_path, world), world)
    assert np.asarray(maps[2]).max() == 14
    before = maps.fingerprint()
    Image.effect_noise((96, 96), 50).save(maps.paths[1])
    assert maps.fingerprint() != before


def test_several_channels(tmp_path):
    world = ToyWorld("train", 1)
    Image.new("RGB", (96, 96), (9, 100, 200)).save(tmp_path / f"{world.ids[0]}.png")
    assert np.asarray(SaliencyMaps(tmp_path, world)[0]).max() == 9


def test_missing_maps(tmp_path):
    world = ToyWorld("train", 3)
    written(tmp_path, world)
    (tmp_path / f"{world.ids[1]}.png").unlink()
    with pytest.raises(InputError, match=rf"{world.ids[1]}.png is missing, as 1 of 3 saliency maps are; give a folder"):
        SaliencyMaps(tmp_path, world)


def test_maps_of_another_size(tmp_path):
    world = ToyWorld("train", 1)
    with pytest.raises(InputError, match=r"is 48 x 50 pixels but its image is 96 x 96; make one of the image's size"):
        SaliencyMaps(written(tmp_path, world, (48, 50)), world)[0]


def test_a_damaged_map(tmp_path):
    world = ToyWorld("train", 1)
    (tmp_path / f"{world.ids[0]}.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"not an image that Pillow can read"):
        SaliencyMaps(tmp_path, world)[0]
