"""OC-CSE against the authors' network, update, optimiser and inference."""

import json

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import nn

from tests import recipe
from tests.methods import official
from wsss_lib.data.transforms import view
from wsss_lib.errors import InputError
from wsss_lib.methods.method import Batch
from wsss_lib.methods.oc_cse import OCCSE, Config, erase, erasing_mask, remaining_labels
from wsss_lib.methods.optimisers import create_optimizer, polynomial_schedule
from wsss_lib.models.backbone import Normalisation
from wsss_lib.models.classifier import Classifier
from wsss_lib.stages.infer import multi_scale_cam

FABRIC = Fabric(accelerator="cpu", devices=1)
SHAPES = "oc_cse/net_er"


def paper(**changes):
    return Config.preset("voc12").replace(backbone_options={"dropout": (0.0, 0.0)}, **changes)


def filled(name, network):
    """Fill a network with the made-up official checkpoint ``name``."""
    state = recipe.fill(recipe.shapes(SHAPES), name)
    state["fc8.weight"] = state["fc8.weight"] * np.float32(0.005)
    network.load_state_dict({network.official_key(key): torch.from_numpy(value) for key, value in state.items()})
    return network


@pytest.mark.slow
def test_official_network():
    golden = recipe.golden("oc_cse/net_er")
    method = OCCSE(paper(), 20)
    filled("oc_cse/net", method.network)
    method.train(False)
    images = official.smooth_images("oc_cse/net/image", 1, 64, 64)
    with torch.no_grad():
        cam, logits = method.cam(images), method.logits(images)
        conv6 = method.backbone(images)["conv6"][:, ::64, ::2, ::2]
    official.assert_close(cam, golden["cam"])
    official.assert_close(logits, golden["out"])
    official.assert_close(conv6, golden["conv6_slice"])


class Strided(nn.Module):
    """The stand-in for the ordinary classifier: one convolution of stride 8."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(recipe.array("oc_cse/tiny/cl_weight", (20, 3, 8, 8), 0.15)))

    def forward(self, images):
        return nn.functional.conv2d(images, self.weight, stride=8).mean(dim=(2, 3))


class Leaf(nn.Module):
    """A network whose output is its parameter."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self, _images):
        return self.value


def tiny_inputs():
    fields = [6 * (recipe.smooth(f"oc_cse/tiny/cam/{i}", (20, 6, 8), cells=5) - 0.4) for i in range(3)]
    maps = torch.from_numpy(np.stack(fields))
    maps[1, 7] = -maps[1, 7].abs() - 0.1
    images = official.smooth_images("oc_cse/tiny/image", 3, 48, 64)
    labels = official.labels([[0, 4, 14], [7], [2, 19]])
    return maps, images, labels, torch.tensor([4, 7, 19])


def test_official_update_of_stand_ins():
    golden = recipe.golden("oc_cse/update_tiny")
    maps, images, labels, targets = tiny_inputs()
    method = OCCSE(Config.preset("toy"), 20)
    method.engine, method.ordinary = FABRIC, Strided()
    leaf = method.forward = Leaf(maps)
    optimizer = torch.optim.SGD(leaf.parameters(), lr=0.0)
    method.optimizers["network"], method.schedules["network"] = optimizer, polynomial_schedule(optimizer, 1)
    method.config = Config()
    method.begin_epoch(2, [])
    assert method.erasing_weight == pytest.approx(golden["weight"].item())

    mask = method.mask(maps, labels, targets, (48, 64))
    np.testing.assert_allclose(mask, golden["mask"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(erase(images, mask)[:, :, ::4, ::4], golden["img_masked_slice"], rtol=1e-4, atol=1e-6)
    assert remaining_labels(labels, targets).tolist() == golden["label_remain"].tolist()
    losses = method.update(images, labels, targets)
    np.testing.assert_allclose(losses["classification"], golden["loss_all"], rtol=1e-4)
    np.testing.assert_allclose(losses["erasing"], golden["loss_select"], rtol=1e-4)
    np.testing.assert_allclose(losses["loss"], golden["loss_all"] + golden["loss_select"], rtol=1e-4)
    np.testing.assert_allclose(leaf.value.grad, golden["grad_cam_er"], rtol=1e-4, atol=1e-6)
    seen = torch.sigmoid(torch.from_numpy(golden["out_cl"]))[torch.arange(3), targets]
    np.testing.assert_allclose(losses["target_seen"], seen.mean(), rtol=1e-4)


@pytest.mark.slow
def test_official_update_of_whole_networks():
    golden, about = recipe.golden("oc_cse/update_full"), recipe.description("oc_cse/update_full")
    method = OCCSE(paper(), 20)
    filled("oc_cse/full/er", method.network)
    ordinary = filled("oc_cse/full/cl", Classifier(OCCSE(paper(), 20).backbone, 20)).eval().requires_grad_(False)
    method.ordinary = ordinary
    method.setup(FABRIC, total_steps=10)
    method.train()
    method.begin_epoch(3, [])
    images = official.smooth_images("oc_cse/full/image", 2, 64, 64)
    labels = official.labels([[0, 14], [7]])
    before = {name: value.detach().clone() for name, value in method.network.named_parameters()}
    losses = method.update(images, labels, torch.tensor([14, 7]))
    np.testing.assert_allclose(losses["classification"], golden["loss_all"], rtol=2e-3)
    np.testing.assert_allclose(losses["erasing"], golden["loss_select"], rtol=2e-3)

    parameters = dict(method.network.named_parameters())
    ours = method.network.official_key
    probed = [ours(name) for name in about["probed_parameters"]]
    np.testing.assert_allclose([parameters[n].grad.norm() for n in probed], golden["grad_norms"], rtol=2e-3)
    moved = [(parameters[n].detach() - before[n]).double().norm() for n in probed]
    np.testing.assert_allclose(moved, golden["update_norms"], rtol=2e-3)
    official.assert_close(parameters["head.weight"].grad[:, ::64], golden["fc8_grad_slice"], 2e-3)
    official.assert_close(parameters["head.weight"].detach()[:, ::64], golden["fc8_after_slice"], 2e-3)
    without = {name for name, value in parameters.items() if value.grad is None}
    theirs = {ours(name) for name in about["parameters_without_gradient"]}
    assert theirs - without == set()  # they do compute a gradient of conv1a, and step nothing with it
    assert all(value.grad is None for value in ordinary.parameters())


def test_official_optimizer():
    golden = recipe.golden("oc_cse/optimizer")
    parameters = [nn.Parameter(torch.from_numpy(recipe.array(f"oc_cse/opt/param/{i}", (6,)))) for i in range(4)]
    rates, decays = (0.01, 0.02, 0.1, 0.2), (5e-4, 0, 5e-4, 0)
    groups = [
        {"params": [p], "lr": rate, "weight_decay": decay}
        for p, rate, decay in zip(parameters, rates, decays, strict=True)
    ]
    optimizer = create_optimizer("sgd", groups, 0.01, Config().momentum)
    schedule = polynomial_schedule(optimizer, total_steps=5)
    assert [group["momentum"] for group in optimizer.param_groups] == golden["momentum"].tolist()
    for step in range(7):
        np.testing.assert_allclose(schedule.get_last_lr(), golden["lrs"][step], rtol=1e-6)
        for i, parameter in enumerate(parameters):
            parameter.grad = torch.from_numpy(recipe.array(f"oc_cse/opt/grad/{step}/{i}", (6,)))
        optimizer.step()
        schedule.step()
        now = torch.stack([p.detach() for p in parameters])
        np.testing.assert_allclose(now, golden["params"][step], rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_official_inference():
    golden = recipe.golden("oc_cse/infer")
    method = OCCSE(paper(), 20)
    filled("oc_cse/infer/er", method.network)
    method.train(False)
    image = official.picture("oc_cse/infer/image", 48, 61)
    views = [view(Image.fromarray(image), scale, Normalisation()) for scale in method.config.scales]
    assert [list(v.shape[1:]) for v in views for _ in range(2)] == golden["sizes"].tolist()
    for i, v in enumerate(views):
        np.testing.assert_allclose(v[:, ::4, ::4], golden[f"input_{2 * i}_slice"], atol=1e-6)
        np.testing.assert_allclose(v.flip(-1)[:, ::4, ::4], golden[f"input_{2 * i + 1}_slice"], atol=1e-6)
    with torch.inference_mode():
        [(classes, cams)] = multi_scale_cam(method, [v[None] for v in views], official.labels([[0, 14]]), (48, 61))
    assert classes.tolist() == golden["keys"].tolist()
    np.testing.assert_allclose(cams, golden["cam"], rtol=5e-4, atol=5e-4)


def test_masks():
    maps = torch.tensor([[[[2.0, -1.0], [0.0, 4.0]]], [[[1.0, 0.5], [-3.0, -3.0]]]])
    batch, image = (erasing_mask(maps, (4, 4), norm) for norm in ("batch", "image"))
    torch.testing.assert_close(batch.amax((1, 2, 3)), torch.tensor([1.0, 0.25]), atol=1e-4, rtol=0)
    torch.testing.assert_close(image.amax((1, 2, 3)), torch.tensor([1.0, 1.0]), atol=1e-4, rtol=0)
    assert batch[1, 0, 3, 0] == 0  # enlarged first, rectified then
    assert erasing_mask(-maps.abs(), (4, 4)).abs().max() == 0


def test_masks_over_processes_know_each_other():
    maps = torch.tensor([[[[2.0]]]])
    mask = erasing_mask(maps, (2, 2), "batch", lambda most: torch.stack([most, torch.tensor(8.0)]))
    torch.testing.assert_close(mask, torch.full((1, 1, 2, 2), 0.25))


def small(**changes):
    method = OCCSE(Config.preset("toy").replace(pretrained=False, **changes), 3)
    method.ordinary = nn.Sequential(nn.Conv2d(3, 3, 8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten()).requires_grad_(False)
    method.setup(FABRIC, total_steps=4)
    method.train()
    return method


@pytest.mark.parametrize("norm", ["batch", "image"])
def test_images_without_classes_have_nothing_erased(norm):
    method = small(mask_norm=norm)
    labels = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    losses = method.step(Batch(torch.randn(2, 3, 64, 64), labels, torch.arange(2)))
    assert all(torch.isfinite(value) for value in losses.values())
    mask = method.mask(torch.randn(2, 3, 8, 8) + 1, labels, torch.tensor([0, 2]), (64, 64))
    assert mask[0].abs().max() == 0
    assert mask[1].max() > 0.1


def test_without_an_ordinary_classifier():
    method = small()
    method.ordinary = None
    with pytest.raises(InputError, match="ordinary"):
        method.step(Batch(torch.randn(2, 3, 64, 64), torch.ones(2, 3), torch.arange(2)))


@pytest.mark.slow
def test_erasing_moves_the_map_to_what_the_ordinary_classifier_sees():
    """It sees the class by the left half of the image; the map must rise there."""
    torch.manual_seed(0)

    class LeftBrightness(nn.Module):
        def forward(self, images):
            return images[..., :32].mean(dim=(1, 2, 3))[:, None].expand(-1, 3) * 5

    method = small()
    method.ordinary = LeftBrightness()
    images = torch.randn(8, 3, 64, 64) * 0.1 + 1
    images[..., 32:] -= 2
    batch = Batch(images, torch.ones(8, 3), torch.arange(8))
    losses = [method.step(batch) for _ in range(25)]
    assert losses[-1]["target_seen"] < losses[0]["target_seen"] - 0.1
    method.train(False)
    with torch.no_grad():
        maps = method.cam(images).relu()
    assert maps[..., :4].mean() > 2 * maps[..., 4:].mean()


def test_official_checkpoints_load(tmp_path):
    source = OCCSE(Config.preset("toy", "resnet38d"), 3)
    state = {k.replace("backbone.", "").replace("head.", "fc8."): v for k, v in source.network.state_dict().items()}
    method = OCCSE(Config.preset("toy", "resnet38d"), 3)
    method.load_official(state, tmp_path / "014net_er.pth")
    official.assert_same(method.network, source.network)
    with pytest.raises(InputError, match="for another network"):
        method.load_official({**state, "fc9.weight": torch.zeros(3, 3, 1, 1)}, tmp_path / "acr.ckpt")


def test_paper_settings():
    config = Config.preset("voc12")
    assert (config.epochs, config.batch_size, config.crop_size, config.momentum) == (15, 8, 384, 5e-4)
    assert (config.min_long_side, config.max_long_side, config.learning_rate) == (256, 448, 0.01)
    assert (config.scales, config.alphas) == ((0.5, 1.0, 1.5, 2.0), (6.0, 10.0, 24.0))
    assert config.erasing_weight + 14 * config.erasing_slope == pytest.approx(1.0)
    assert json.dumps(config.to_dict())
