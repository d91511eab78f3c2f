"""MSAL's classification network against the authors', whose convolutions were given the right number of inputs."""

import numpy as np
import pytest
import torch

from tests import recipe
from tests.ops.test_superpixels import near
from wsss_lib.errors import InputError
from wsss_lib.models import create_backbone
from wsss_lib.models.classifier import MapClassifier
from wsss_lib.models.mobilenet_v2 import MobileNetV2
from wsss_lib.models.msal_net import MSALNet, mode_of
from wsss_lib.models.resnet50 import ResNet50
from wsss_lib.models.weights import load_into

MEAN, STD = (0.471, 0.448, 0.408), (0.234, 0.239, 0.242)


def state(shapes, prefix):
    """A made-up checkpoint; with smaller last scales of the blocks, or activations would explode."""
    values = recipe.fill(recipe.shapes(f"msal/{shapes}"), prefix)
    return {k: torch.from_numpy(v * np.float32(0.2) if k.endswith("bn3.weight") else v) for k, v in values.items()}


def noisy_images(name, count, height, width, mean=MEAN, std=STD):
    images = []
    for i in range(count):
        values = recipe.smooth(f"{name}/{i}", (3, height, width), 6)
        values = (values + 0.15 * recipe.array(f"{name}/{i}/n", (3, height, width))).clip(0, 1)
        images.append((values - np.array(mean).reshape(3, 1, 1)) / np.array(std).reshape(3, 1, 1))
    return torch.from_numpy(np.stack(images).astype(np.float32))


def association(name, count, height, width):
    return torch.from_numpy(recipe.array(name, (count, 9, height, width), 1.5)).softmax(1)


def paper(mode="concat"):
    backbone = ResNet50(dilated=False)
    backbone.freeze(first_layers=False, affine=False)
    return MSALNet(backbone, 20, mode)


@pytest.mark.slow
def test_official_baseline():
    """The classifier that the authors compare with: the same backbone, and no more."""
    golden = recipe.golden("msal/cam_baseline")
    weights = {k: v for k, v in state("cam_baseline", "msal/cam/w").items() if not k.startswith("ala")}  # of no use
    network = MapClassifier(ResNet50(dilated=False), 21)
    names = {"model": "backbone", "classifier": "head"}
    rename = {k: k.replace(k.split(".")[0], names[k.split(".")[0]], 1) for k in weights if not k.startswith("stage")}
    load_into(network, weights, source="x.pth", rename=rename.get)
    network.eval()
    with torch.no_grad():
        maps = network(noisy_images("msal/cam/image", 1, 90, 70))
    near(maps, golden["logits"], 2e-3, 5e-4)
    near(maps.mean((2, 3)), golden["logits_pooled"], 2e-3, 5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["concat", "noq"])
def test_official_network(mode):
    golden = recipe.golden(f"msal/cls_model_{mode}")
    network = paper(mode)
    load_into(network, state(f"cls_model_{mode}", f"msal/cls_{mode}/w"), source="x.pth", rename=network.official_key)
    network.eval()
    seen = {}
    for name in ("get_qfeats", "get_tran_conv4", "ala1", "get_tran_conv5", "ala2"):
        network.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
    images = noisy_images(f"msal/cls_{mode}/image", 1, 96, 96)
    q = association(f"msal/cls_{mode}/q", 1, 96, 96)
    with torch.no_grad():
        maps, pooled = network(images, q)
        near(maps, golden["logits"], 2e-3, 5e-4)
        near(pooled, golden["logits_pooled"], 2e-3, 5e-4)
        for name, values in seen.items():
            near(values, golden[name], 2e-3, 5e-4)
        near(network(images, q, 2, 0.92)[0], golden["logits_ap"], 2e-3, 5e-4)
        near(network(images, q, 8, 0.6)[0], golden["logits_ap8"], 2e-3, 5e-4)


def small(backbone="resnet50", mode="concat"):
    torch.manual_seed(0)
    net = ResNet50(0.25, dilated=False) if backbone == "resnet50" else create_backbone(backbone, width=0.5)
    return MSALNet(net, 3, mode, 0.25)


@pytest.mark.parametrize("backbone", ["resnet50", "efficientnet_lite0", "mobilenet_v2"])
@pytest.mark.parametrize("mode", ["concat", "noq", "off"])
def test_with_small_networks(backbone, mode):
    network = small(backbone, mode).eval()
    images, q = torch.randn(2, 3, 64, 96), torch.randn(2, 9, 64, 96).softmax(1)
    maps, pooled = network(images, q, 2)
    assert (maps.shape, pooled.shape) == ((2, 4, 4, 6), (2, 4))
    other = network(images, q.flip(1), 2)[0]
    assert torch.equal(other, maps) is (mode != "concat")


@pytest.mark.parametrize("backbone", ["resnet50", "efficientnet_lite0", "mobilenet_v2"])
def test_the_two_parts_of_a_backbone_are_the_whole(backbone):
    net = small(backbone).backbone.eval()
    images = torch.randn(1, 3, 64, 64)
    taps = list(net(images).values())
    assert torch.equal(net.until_last(images), taps[-2])
    assert torch.equal(net.last(taps[-2]), taps[-1])


def test_mixing_begins_where_it_is_told_to():
    """A network that is about to blur, and one that hardly mixes; nothing else differs."""
    images, q = torch.randn(2, 3, 64, 96), torch.randn(2, 9, 64, 96).softmax(1)
    results, states = [], []
    for own_weight in (0.0, 0.95):
        torch.manual_seed(0)
        network = MSALNet(MobileNetV2(0.5), 3, "concat", 0.25, own_weight).eval()
        states.append(network.state_dict())
        results.append(network.features_and_maps(images, q))
    blurred, kept = (result.weights.mean((0, 2, 3)) for result in results)
    assert (blurred - 1 / 9).abs().max() < 0.05
    assert abs(kept[4] - 0.95) < 0.01
    differing = [name for name in states[0] if not torch.equal(states[0][name], states[1][name])]
    assert differing == ["get_tran_conv4.1.0.bias", "get_tran_conv5.1.0.bias"]


def test_statistics_are_fixed_and_scales_are_not():
    network = small()
    network.backbone.freeze(first_layers=False, affine=False)
    network.train()
    before = network.backbone.bn1.running_mean.clone()
    maps, _ = network(torch.randn(2, 3, 64, 64), torch.randn(2, 9, 64, 64).softmax(1))
    maps.square().sum().backward()
    assert torch.equal(network.backbone.bn1.running_mean, before)
    assert network.backbone.bn1.weight.grad.abs().sum() > 0
    assert network.backbone.bn1.bias.grad.abs().sum() > 0


def test_without_dilation():
    dilations = {
        dilated: [m.dilation[0] for m in ResNet50(dilated=dilated).modules() if isinstance(m, torch.nn.Conv2d)]
        for dilated in (True, False)
    }
    assert max(dilations[False]) == 1
    assert max(dilations[True]) == 2


@pytest.mark.parametrize("mode", ["concat", "noq", "off"])
def test_a_checkpoint_tells_its_mode(mode):
    assert mode_of(small(mode=mode).state_dict()) == mode


def test_a_checkpoint_of_the_other_mode(tmp_path):
    network, other = small(), small(mode="noq").state_dict()
    with pytest.raises(InputError, match="probably for another network"):
        load_into(network, other, source=tmp_path / "x.pth")
