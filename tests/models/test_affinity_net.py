"""AffinityNet's network against the official ones."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests import recipe
from wsss_lib.models import create_backbone
from wsss_lib.models.affinity_net import AffinityNet
from wsss_lib.ops.affinity import pair_affinities

OPTIONS = {"vgg16": {"fc6_dilation": 4}, "resnet38d": {}}
GOLDEN = [("vgg16", "psa/vgg16_aff"), ("resnet38d", "psa/resnet38_aff")]


def filled(backbone, name):
    """The network with the made-up official checkpoint of a golden vector."""
    network = AffinityNet(create_backbone(backbone, **OPTIONS[backbone]), group_norm=backbone == "vgg16").eval()
    checkpoint = recipe.fill(recipe.shapes(name), name)
    if backbone == "resnet38d":
        checkpoint["f9.weight"] = checkpoint["f9.weight"] * np.float32(0.001)
    state = {network.official_key(key): torch.from_numpy(value) for key, value in checkpoint.items()}
    network.load_state_dict(state, strict=True)
    return network


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "name"), GOLDEN)
def test_official_network(backbone, name):
    network, golden = filled(backbone, name), recipe.golden(name)
    images = torch.from_numpy(recipe.array(f"{name}/x", (1, 3, 80, 104)))
    with torch.no_grad():
        joined = network.join(network.backbone(images))
        mixed = network.f9(joined)
        affinities = pair_affinities(network(images))
    for ours, key in ((joined, "cat"), (mixed, "f9_pre_elu")):
        values = ours.numpy()[:, ::28][:, :16]
        assert np.abs(values - golden[key]).max() < 1e-4 * np.abs(golden[key]).max()
    torch.testing.assert_close(affinities, pair_affinities(F.elu(mixed)))
    np.testing.assert_allclose(affinities.numpy(), golden["aff"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet38d", "vgg16", "resnet50", "efficientnet_lite0", "mobilenet_v2"])
@pytest.mark.parametrize("group_norm", [False, True])
def test_every_backbone_gives_448_features_at_its_stride(name, group_norm):
    options = {"width": 0.25} | ({"output_stride": 8} if name not in ("resnet38d", "vgg16") else {})
    network = AffinityNet(create_backbone(name, **options), group_norm).eval()
    assert network(torch.randn(2, 3, 64, 72)).shape == (2, 448, 8, 9)
    assert network.stride == 8
    assert len(network.group_norms) == (3 if group_norm else 0)
    assert len(network.new_layers) == 4


def test_coarser_taps_are_enlarged():
    network = AffinityNet(create_backbone("mobilenet_v2", output_stride=16), group_norm=True).eval()
    assert network.stride == 8
    assert network(torch.randn(1, 3, 64, 72)).shape == (1, 448, 8, 9)
