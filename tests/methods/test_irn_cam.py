"""IRN's classifier against the official network, its items, three updates, its maps and their evaluation."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from PIL import Image

from tests import recipe
from wsss_lib.data.transforms import view
from wsss_lib.errors import InputError
from wsss_lib.methods.cam import classification_loss
from wsss_lib.methods.irn_cam import Config, IRNCam, official_key, official_maps
from wsss_lib.methods.method import Batch
from wsss_lib.ops.cam import cam_label, merge_mirrored, normalise_maximum
from wsss_lib.ops.metrics import class_mean, confusion_matrix, intersection_over_union


def filled(name, **changes):
    """The method with the made-up official checkpoint of a golden vector, in evaluation mode; and the checkpoint."""
    method = IRNCam(Config.preset("voc12").replace(**changes), 20)
    checkpoint = recipe.fill(recipe.shapes(f"irn/{name}"), f"irn/{name}")
    if name == "train_cam":
        checkpoint = {k: v * np.float32(0.2) if k.endswith("bn3.weight") else v for k, v in checkpoint.items()}
    checkpoint = {key: torch.from_numpy(value) for key, value in checkpoint.items()}
    method.load_official(checkpoint, "made up")
    method.train(False)
    return method, checkpoint


def statistics(values):
    return [values.mean(), values.std(), np.abs(values).max(), np.abs(values).sum()]


def relative_error(values, golden):
    return np.abs(values.numpy() - golden).max() / np.abs(golden).max()


def test_official_network():
    golden = recipe.golden("irn/cam_net")
    method, _ = filled("cam_net")
    images = torch.from_numpy(recipe.array("irn/cam_net/x", (2, 3, 64, 88)))
    with torch.no_grad():
        taps = method.backbone(images)
        cam = merge_mirrored(method.cam(torch.cat([images, images.flip(-1)])))
        assert relative_error(method.logits(images), golden["logits"]) < 1e-4
    assert relative_error(cam, golden["cam"]) < 1e-4
    for i in (1, 2, 3, 4):
        features = taps[f"layer{i}"]
        assert relative_error(features[:, :: features.shape[1] // 8][:, :8], golden[f"stage{i}"]) < 1e-4
        np.testing.assert_allclose(statistics(features.numpy()), golden[f"stage{i}_stat"], rtol=1e-3)


def test_every_official_key_is_known():
    golden = recipe.golden("irn/checkpoint_keys")
    method, checkpoint = filled("cam_net")
    keys = zip(map(str, golden["cam_keys"]), map(str, golden["cam_canonical"]), strict=True)
    report = method.load_official({key: checkpoint[canonical] for key, canonical in keys}, "made up")
    assert len(report.loaded) == len(method.network.state_dict()) == 319
    with pytest.raises(InputError, match=r"made up is probably for another network: .*missing"):
        method.load_official({"fc8.weight": torch.zeros(20, 4096, 1, 1)}, "made up")


@pytest.mark.slow
def test_three_updates_of_the_official_script():
    golden = recipe.golden("irn/train_cam")
    method, checkpoint = filled("train_cam", learning_rate=1e-3)
    method.setup(Fabric(accelerator="cpu", devices=1), total_steps=3)
    method.train()
    batches = []
    for t in range(3):
        images = torch.from_numpy(recipe.array(f"irn/train_cam/x{t}", (2, 3, 64, 64)))
        labels = torch.from_numpy(recipe.integers(f"irn/train_cam/y{t}", (2, 20), 0, 2)).float()
        batches.append(Batch(images, labels, torch.arange(2)))
        np.testing.assert_allclose(method.step(batches[-1])["loss"].item(), golden["loss"][t], rtol=1e-4)
    method.train(False)
    with torch.no_grad():
        loss = classification_loss(method.logits(batches[0].images), batches[0].labels)
    np.testing.assert_allclose(loss.item(), golden["val_loss"].item(), rtol=1e-4)
    state = method.network.state_dict()
    for key, wanted in zip(map(str, golden["keys"]), golden["delta_norm"], strict=True):
        change = (state[official_key(key)].double() - checkpoint[key].double()).norm().item()
        np.testing.assert_allclose(change, wanted, rtol=2e-3, atol=1e-6, err_msg=key)
        if f"new/{key}" in golden:
            new = state[official_key(key)].flatten()[:200].numpy()
            np.testing.assert_allclose(new, golden[f"new/{key}"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("draw", [0, 1, 2])
def test_official_items(draw):
    golden = recipe.golden("irn/cls_item")
    method = IRNCam(Config.preset("voc12").replace(min_long_side=40, max_long_side=100, crop_size=72), 20)
    image = Image.fromarray(golden["img"])
    pixels = method.config.augmentation()(image, method.backbone.normalisation, random.Random(draw))
    np.testing.assert_allclose(pixels[:, ::4, ::4].numpy(), golden[f"img_{draw}"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(statistics(pixels.numpy()), golden[f"img_stat_{draw}"], rtol=1e-4)


def test_official_maps_of_a_network():
    golden = recipe.golden("irn/make_cam")
    method, _ = filled("make_cam")
    image, keys = Image.fromarray(golden["img"]), torch.from_numpy(golden["keys"])
    maps = []
    with torch.no_grad():
        for scale in (1.0, 0.5, 1.5, 2.0):
            images = view(image, scale, method.backbone.normalisation)[None]
            maps.append(merge_mirrored(method.cam(torch.cat([images, images.flip(-1)])))[0, keys])
    strided, full = official_maps(maps, golden["img"].shape[:2])
    np.testing.assert_allclose(strided.numpy(), golden["cam"], rtol=0, atol=1e-3)
    np.testing.assert_allclose(full.numpy(), golden["high_res"], rtol=0, atol=1e-3)


def test_official_maps_of_a_linear_class_map():
    golden = recipe.golden("irn/colour")
    image, keys = Image.fromarray(golden["img"]), torch.from_numpy(golden["keys"])
    normalise = IRNCam(Config.preset("toy"), 3).backbone.normalisation
    weights, bias = torch.from_numpy(golden["proj"]), torch.from_numpy(golden["bias"]).view(-1, 1, 1)
    maps = []
    for scale in (1.0, 0.5, 1.5, 2.0):
        pixels = view(image, scale, normalise)
        both = []
        for x in (pixels, pixels.flip(-1)):
            means = F.avg_pool2d(x, 16, 16, ceil_mode=True)
            both.append((torch.tensordot(weights, means, 1) + bias).relu())
        maps.append((both[0] + both[1].flip(-1))[keys])
    strided, full = official_maps(maps, golden["img"].shape[:2])
    np.testing.assert_allclose(strided.numpy(), golden["cam"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(full.numpy(), golden["high_res"], rtol=0, atol=1e-4)


def test_official_maps_of_no_class():
    strided, full = official_maps([torch.zeros(0, 2, 3)] * 4, (30, 41))
    assert (strided.shape, full.shape) == ((0, 8, 11), (0, 30, 41))
    assert normalise_maximum(full).shape == (0, 30, 41)


def test_official_evaluation():
    golden = {key: torch.from_numpy(value) for key, value in recipe.golden("irn/evaluation").items()}
    cam, mask = torch.zeros(2, 21, 21, dtype=torch.int64)
    for i in range(3):
        truth, predicted = golden[f"gt{i}"], golden[f"pred{i}"]
        cam += confusion_matrix(truth, cam_label(golden[f"high_res{i}"], golden[f"keys{i}"], 0.15), 21)
        mask += confusion_matrix(truth, torch.where(predicted == 255, 0, predicted), 21)
    for name, confusion in (("cam", cam), ("sem", mask)):
        iou = intersection_over_union(confusion)
        np.testing.assert_allclose(iou.numpy(), golden[f"{name}_iou"].numpy(), rtol=1e-12)
        np.testing.assert_allclose(class_mean(iou).item(), golden[f"{name}_miou"].item(), rtol=1e-12)


def test_what_is_fixed():
    method = IRNCam(Config.preset("voc12"), 20)
    trained = {name.split(".")[1] for name, p in method.network.named_parameters() if p.requires_grad}
    assert trained == {"layer3", "layer4", "weight"}
    assert sum(p.numel() for p in method.network.parameters() if p.requires_grad) == pytest.approx(22.10e6, rel=1e-3)
    toy = Config.preset("toy")
    started, scratch = (IRNCam(toy.replace(pretrained=pretrained), 3).network for pretrained in (True, False))
    assert {n.split(".")[1] for n, p in started.named_parameters() if not p.requires_grad} == {
        *("conv1", "bn1", "layer1", "layer2"),
    }
    assert all(p.requires_grad for p in scratch.parameters())


def test_paper_settings():
    config = Config.preset("voc12")
    assert (config.epochs, config.batch_size, config.crop_size, config.momentum) == (5, 16, 512, 1e-4)
    assert (config.min_long_side, config.max_long_side, config.learning_rate, config.head_factor) == (320, 640, 0.1, 10)
    assert config.scales == (1.0, 0.5, 1.5, 2.0)
