"""The networks of the final segmentation stage against the official ones."""

import numpy as np
import pytest
import torch
from torch import nn

from tests import recipe
from tests.scenes import deeplab_checkpoint, picture01, resnet38_checkpoint
from wsss_lib.errors import InputError
from wsss_lib.models import create_backbone
from wsss_lib.models.backbone import BatchNorm2d
from wsss_lib.models.pretrained import find_weights, load_backbone
from wsss_lib.models.segmentation_net import Aspp, JoinedHead, SegmentationNet, WideHead
from wsss_lib.models.weights import load_into

DEEPLAB, RESNET38 = "segmentation/deeplabv2", "segmentation/resnet38_seg"


def deeplab(width=1.0):
    backbone = create_backbone("resnet101_caffe", width=width)
    return SegmentationNet(backbone, Aspp(backbone.taps, 21), (0.5, 0.75))


def resnet38(width=1.0):
    backbone = create_backbone("resnet38d", width=width)
    return SegmentationNet(backbone, WideHead(backbone.taps, 21, width))


@pytest.mark.slow
def test_official_deeplab():
    golden, network = recipe.golden(DEEPLAB), deeplab().eval()
    state = deeplab_checkpoint(DEEPLAB)
    load_into(network, state, source="golden", rename=network.official_key)
    assert len(state) == len(network.state_dict()) == 632
    image = picture01(f"{DEEPLAB}/0", (65, 65))[::-1]  # the first channel is blue
    pixels = torch.from_numpy(image.copy() * 255)
    image = network.backbone.normalisation(pixels)[None]
    with torch.no_grad():
        outputs = network(image)
        features = network.backbone(image)["layer5"].numpy()
    np.testing.assert_allclose(outputs[0].numpy(), golden["base"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(outputs[-1].numpy(), golden["msc_max"], rtol=1e-3, atol=1e-4)
    stats = [features.mean(), features.std(), np.abs(features).max(), np.linalg.norm(features)]
    np.testing.assert_allclose(stats, golden["layer5_stats"], rtol=1e-3)
    sizes = [list(logits.shape[2:]) for logits in outputs]
    assert sizes == recipe.description(DEEPLAB)["logit_sizes"]


@pytest.mark.slow
def test_official_resnet38():
    golden, network = recipe.golden(RESNET38), resnet38().eval()
    state = resnet38_checkpoint(RESNET38)
    load_into(network, state, source="golden", rename=network.official_key)
    assert len(state) == len(network.state_dict()) == 232
    pixels = torch.from_numpy(picture01(f"{RESNET38}/0", (64, 64)) * 255)
    with torch.no_grad():
        [logits] = network(network.backbone.normalisation(pixels)[None])
    np.testing.assert_allclose(logits.numpy(), golden["logits"], rtol=5e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("side", "sides"), [(321, (81, 41)), (240, (61, 31)), (160, (41, 21)), (513, (129, 65)), (96, (25, 13))]
)
def test_caffe_rounds_up_when_it_pools(side, sides):
    network = create_backbone("resnet101_caffe", width=0.125).eval()
    with torch.no_grad():
        features = network(torch.randn(1, 3, side, 33))
    assert tuple(features[tap].shape[2] for tap in ("layer2", "layer3", "layer4", "layer5")) == (
        *sides,
        sides[1],
        sides[1],
    )
    assert [value.shape[1] for value in features.values()] == [tap.channels for tap in network.taps.values()]


def test_the_result_is_the_maximum_over_the_pyramid():
    class Levels(nn.Module):
        """Logits that tell how large the input was."""

        def forward(self, images):
            return images.new_full((len(images), 1, *(-(-s // 8) for s in images.shape[2:])), images.shape[2])

    network = SegmentationNet(Levels(), nn.Identity(), (0.5, 0.75))
    outputs = network(torch.zeros(2, 3, 321, 240))
    assert [tuple(x.shape[2:]) for x in outputs] == [(41, 30), (20, 15), (30, 23), (41, 30)]
    assert [x.unique().item() for x in outputs] == [321, 160, 240, 321]
    assert torch.equal(network.logits(torch.zeros(2, 3, 321, 240)), outputs[-1])


@pytest.mark.parametrize(
    ("name", "taps", "strides"),
    [
        ("efficientnet_lite0", ["blocks.2", "blocks.4", "head"], (4, 8, 16)),
        ("mobilenet_v2", ["features.3", "features.6", "features.18"], (4, 8, 16)),
        ("resnet50", ["layer1", "layer2", "layer4"], (4, 8, 16)),
        ("resnet101_caffe", ["layer2", "layer5"], (4, 8)),
        ("resnet38d", ["conv6"], (8,)),
    ],
)
def test_the_joined_head_takes_the_deepest_tap_of_every_stride(name, taps, strides):
    backbone = create_backbone(name, width=0.25)
    head = JoinedHead(backbone.taps, 5, channels=16)
    assert head.names == taps
    assert tuple(backbone.taps[tap].stride for tap in taps) == strides
    features = {tap: torch.randn(2, t.channels, 96 // t.stride, 64 // t.stride) for tap, t in backbone.taps.items()}
    logits = head.eval()(features)
    assert logits.shape == (2, 5, 96 // strides[0], 64 // strides[0])
    for tap in features:
        changed = head({**features, tap: features[tap] + 1})
        assert torch.equal(changed, logits) is (tap not in taps)


def test_frozen_norms_leave_the_convolutions_to_be_trained():
    network = deeplab(0.125)
    network.backbone.freeze()
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert not [m for m in network.modules() if isinstance(m, BatchNorm2d) and not m.frozen]
    assert {name.rpartition(".")[2] for name in trained if name.startswith("backbone.")} == {"weight"}
    assert not [name for name in trained if ".bn." in name]


def test_a_classifier_in_the_initial_weights_is_left_out(tmp_path):
    backbone = create_backbone("resnet101_caffe", width=0.125)
    state = {**backbone.state_dict(), "fc.weight": torch.zeros(91, 8, 1, 1), "fc.bias": torch.zeros(91)}
    torch.save(state, tmp_path / "init.pth")
    report = load_backbone(create_backbone("resnet101_caffe", width=0.125), tmp_path / "init.pth")
    assert report.unexpected == ("fc.weight", "fc.bias")
    assert not report.missing


def test_a_trained_deeplab_is_no_initial_network(tmp_path):
    """Starting from it by mistake gives a fifth of the score (issue 113 of the authors' repository)."""
    state = {
        f"base.{key}": value for key, value in create_backbone("resnet101_caffe", width=0.125).state_dict().items()
    }
    torch.save(state, tmp_path / "final.pth")
    with pytest.raises(InputError, match=r"final\.pth is probably for another network"):
        load_backbone(create_backbone("resnet101_caffe", width=0.125), tmp_path / "final.pth")


def test_the_initial_weights_are_asked_for_by_name(tmp_path):
    with pytest.raises(InputError, match=r"resnet101_caffe are missing: put deeplabv1_resnet101-coco\.pth into"):
        find_weights("resnet101_caffe", tmp_path)


def test_a_checkpoint_of_the_other_recipe_is_refused():
    network = resnet38(0.125)
    state = {f"base.{key}": value for key, value in deeplab(0.125).backbone.state_dict().items()}
    with pytest.raises(InputError, match=r"^other is probably for another network"):
        load_into(network, state, source="other", rename=network.official_key)
