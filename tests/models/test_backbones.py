"""The networks against the official ones, and what all of them promise."""

import copy

import numpy as np
import pytest
import torch
from torchvision.models import resnet50

from tests import recipe
from wsss_lib.errors import InputError
from wsss_lib.methods.method import Config
from wsss_lib.models import create_backbone
from wsss_lib.models.backbone import BatchNorm2d, Normalisation
from wsss_lib.models.classifier import Classifier

SMALL = {
    "resnet38d": {"width": 0.125},
    "vgg16": {"width": 0.125},
    "resnet50": {"width": 0.25},
    "efficientnet_lite0": {"width": 0.5},
    "mobilenet_v2": {"width": 0.5},
}


def relative_error(ours, golden):
    return np.abs(ours - golden).max() / np.abs(golden).max()


def filled(backbone, name):
    """A classifier with the made-up official checkpoint of a golden vector."""
    model = Classifier(create_backbone(backbone), 20).eval()
    checkpoint = recipe.fill(recipe.shapes(name), name)
    state = {model.official_key(key): torch.from_numpy(value) for key, value in checkpoint.items()}
    model.load_state_dict(state, strict=True)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "name"), [("vgg16", "psa/vgg16_cls"), ("resnet38d", "psa/resnet38_cls")])
@pytest.mark.parametrize("frozen", [False, True])
def test_official_network(backbone, name, frozen):
    model = filled(backbone, name)
    if frozen:
        model.backbone.freeze()
    golden = recipe.golden(name)
    images = torch.from_numpy(recipe.array(f"{name}/x", (1, 3, 72, 88)))
    with torch.no_grad():
        assert relative_error(model(images).numpy(), golden["logits"]) < 1e-4
        assert relative_error(model.cam(images).numpy(), golden["cam"]) < 1e-4
        for tap, features in model.backbone(images).items():
            values = features.numpy()
            assert relative_error(values[:, :: values.shape[1] // 16][:, :16], golden[tap]) < 1e-4
            stat = [values.mean(), values.std(), np.abs(values).max(), np.abs(values).sum()]
            np.testing.assert_allclose(stat, golden[f"{tap}_stat"], rtol=1e-3)


@pytest.mark.parametrize("name", Config.backbones)
def test_taps_have_the_stated_channels_and_size(name, device):
    network = create_backbone(name, **SMALL[name]).to(device).eval()
    features = network(torch.randn(2, 3, 65, 90, device=device))
    assert list(features) == list(network.taps)
    for tap, value in features.items():
        stated = network.taps[tap]
        assert value.shape == (2, stated.channels, -(-65 // stated.stride), -(-90 // stated.stride))


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50"])
def test_output_stride_8_keeps_values_where_stride_16_samples(name):
    """Dilation replaces a stride exactly: every second feature of the dense output is the strided one."""
    coarse = create_backbone(name, output_stride=16, **SMALL[name]).eval()
    dense = create_backbone(name, output_stride=8, **SMALL[name]).eval()
    dense.load_state_dict(coarse.state_dict())
    images = torch.randn(1, 3, 129, 129)
    tap = "features.13" if name == "mobilenet_v2" else "layer3"
    with torch.no_grad():
        a, b = coarse(images)[tap], dense(images)[tap][..., ::2, ::2]
    inner = (..., slice(3, -3), slice(3, -3))  # the borders see another padding
    torch.testing.assert_close(a[inner], b[inner], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet38d", "vgg16", "resnet50", "resnet101_caffe"])
def test_width_is_a_factor_of_the_channels_of_all_taps(name):
    with torch.device("meta"):
        whole, quarter = create_backbone(name), create_backbone(name, width=0.25)
    assert [tap.channels for tap in quarter.taps.values()] == [tap.channels // 4 for tap in whole.taps.values()]


@pytest.mark.parametrize("stride", [8, 16])
def test_resnet50_is_that_of_torchvision(stride):
    """The names and the order of the weights, where there is dilation, and what comes out."""
    theirs = resnet50(replace_stride_with_dilation=[False, stride == 8, True]).eval()
    ours = create_backbone("resnet50", output_stride=stride).eval()
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict(state)
    images = torch.randn(1, 3, 65, 90)
    features = torch.nn.Sequential(*list(theirs.children())[:-2])
    with torch.no_grad():
        assert torch.equal(ours(images)["layer4"], features(images))


@pytest.mark.parametrize("name", Config.backbones)
def test_frozen_layers_and_norms_do_not_change(name):
    model = Classifier(create_backbone(name, **SMALL[name]), 3)
    model.backbone.freeze()
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    optimizer.step()
    frozen = tuple(f"backbone.{layer}." for layer in model.backbone.frozen_layers)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert not [key for key in changed if key.startswith(frozen) or "running" in key or ".bn" in key]


def test_frozen_batch_norm_equals_evaluation_mode():
    norm = BatchNorm2d(6)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    features = torch.randn(3, 6, 5, 4)
    expected = norm.eval()(features)
    norm.freeze()
    norm.train()
    torch.testing.assert_close(norm(features), expected, rtol=1e-5, atol=1e-6)


def test_frozen_batch_norm_keeps_half_precision():
    norm = BatchNorm2d(4)
    norm.freeze()
    assert norm(torch.randn(1, 4, 2, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_normalisations():
    golden = recipe.golden("psa/helpers")
    image = torch.from_numpy(golden["img"]).permute(2, 0, 1)
    for normalisation, name in ((Normalisation(), "norm_rgb"), (create_backbone("vgg16").normalisation, "norm_bgr")):
        ours = normalisation(image)
        np.testing.assert_allclose(ours.permute(1, 2, 0).numpy(), golden[name], atol=2e-5)
        assert torch.equal(normalisation.undo(ours), image)


def test_from_one_normalisation_to_another():
    image = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    caffe = create_backbone("vgg16").normalisation
    for one, other in ((Normalisation(), caffe), (caffe, Normalisation()), (caffe, caffe)):
        torch.testing.assert_close(one.convert(one(image), other), other(image), rtol=0, atol=2e-4)


def test_logits_are_the_mean_of_the_unrectified_maps():
    model = Classifier(create_backbone("resnet38d", width=0.125), 4).eval()
    images = torch.randn(2, 3, 48, 56)
    with torch.no_grad():
        maps = model.head(model.features(images))
        torch.testing.assert_close(model(images), maps.mean((2, 3)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.cam(images), maps.relu())


def test_unknown_backbone():
    with pytest.raises(InputError, match=r"resnet101.*resnet38d"):
        create_backbone("resnet101")


@pytest.mark.slow
@pytest.mark.parametrize("name", Config.backbones)
def test_training_a_narrow_network_on_contiguous_images(name):
    """Narrow strided 1×1 convolutions have crashed PyTorch's CPU kernels; ours must survive its smallest networks."""
    model = Classifier(create_backbone(name, **SMALL[name]), 3)
    for _ in range(2):
        model(torch.randn(4, 3, 64, 64)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "mobilenet_v2"])
def test_channels_are_side_by_side_through_the_whole_of_a_small_network(name):
    """Also after weights were loaded; the values are those of the plain order."""
    network = create_backbone(name, width=0.25).eval()
    network.load_state_dict({key: value.contiguous() for key, value in network.state_dict().items()})
    plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    images = torch.randn(2, 3, 65, 97, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = network(images), plain(images)
    for tap, features in ours.items():
        assert features.is_contiguous(memory_format=torch.channels_last), tap
        assert not theirs[tap].is_contiguous(memory_format=torch.channels_last), tap
        torch.testing.assert_close(features, theirs[tap], rtol=1e-3, atol=1e-4)
