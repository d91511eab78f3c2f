"""ONNX files: what onnxruntime computes with them is what PyTorch computes, at every size."""

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

from tests.runs.small import sentence_of
from wsss_lib.methods.segmentation import Config, create_network
from wsss_lib.models.backbone import Normalisation
from wsss_lib.ops.cam import upsample
from wsss_lib.use import onnx as use_onnx
from wsss_lib.use.onnx import export_onnx

CLASSES = ("cat", "dog", "größer", "a;b", "e")
SIZES = [(1, 33, 47), (3, 64, 64), (2, 130, 91), (1, 129, 200)]


def network(backbone="efficientnet_lite0", seed=0, **changes):
    """A small network whose batch normalisations have seen something and whose logits differ as trained ones do."""
    torch.manual_seed(seed)
    options = {"pretrained": False, "backbone_options": {"width": 0.25}}
    made = create_network(Config.preset("photos", backbone).replace(**options, **changes), len(CLASSES))
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    made.eval()
    with torch.no_grad():
        logits = made.logits(made.backbone.normalisation(torch.randint(0, 256, (2, 3, 65, 65))))
        for module in made.head.modules():
            if isinstance(module, nn.Conv2d) and module.out_channels == len(CLASSES) + 1:
                module.weight *= 3 / logits.std()
    return made


@pytest.fixture
def runtime():
    pytest.importorskip("onnx")
    return pytest.importorskip("onnxruntime")


@pytest.mark.parametrize(
    ("backbone", "changes"),
    [
        ("efficientnet_lite0", {}),
        ("mobilenet_v2", {}),
        ("mobilenet_v2", {"pyramid": (0.5, 0.75), "head": "aspp"}),
        ("resnet101_caffe", {}),
    ],
)
def test_the_file_computes_what_the_network_computes(backbone, changes, runtime, tmp_path):
    made = network(backbone, **changes)
    path = export_onnx(made, made.backbone.normalisation, CLASSES, tmp_path / "new" / "net.onnx")
    assert [file.name for file in path.parent.iterdir()] == ["net.onnx"]
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == list(CLASSES)
    rng = np.random.default_rng(0)
    for size in SIZES:
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        probabilities, labels = session.run(["probabilities", "labels"], {"pixels": pixels})
        images = made.backbone.normalisation(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        with torch.no_grad():
            wanted = upsample(made.logits(images), size[1:]).softmax(1).numpy()
        np.testing.assert_allclose(probabilities, wanted, rtol=0, atol=1e-4)
        assert wanted.std() > 0.1
        assert (labels.dtype, labels.shape) == (np.uint8, size)
        assert (np.take_along_axis(wanted, labels[:, None].astype(int), 1)[:, 0] > wanted.max(1) - 2e-4).all()


def test_the_network_stays_as_it_is(runtime, tmp_path):  # noqa: ARG001
    made = network().train().double()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    export_onnx(made, Normalisation(), CLASSES, tmp_path / "net.onnx")
    assert made.training
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    assert all(parameter.requires_grad for parameter in made.head.parameters())


@pytest.mark.parametrize("name", ["onnx", "onnxruntime"])
def test_without_the_packages(name, tmp_path, monkeypatch):
    for package in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, object())
    monkeypatch.setitem(sys.modules, name, None)
    said = sentence_of(lambda: export_onnx(network(), Normalisation(), CLASSES, tmp_path / "net.onnx"))
    assert said == f"the package {name} is missing, which an ONNX file needs: type pip install onnx onnxruntime."
    assert not list(tmp_path.iterdir())


def spoilt():
    made = network()
    next(made.head.parameters()).data.fill_(float("nan"))
    return made


@pytest.mark.parametrize(
    ("make", "classes", "name", "words"),
    [
        (network, CLASSES, "net.pt", "net.pt must end with .onnx"),
        (network, CLASSES, "there.onnx", "there.onnx is a folder"),
        (network, CLASSES[1:], "net.onnx", "4 classes are named, but the network has 5 and background"),
        (spoilt, CLASSES, "net.onnx", "the network is not finite in head."),
    ],
)
def test_what_cannot_be_exported(make, classes, name, words, runtime, tmp_path):  # noqa: ARG001
    (tmp_path / "there.onnx").mkdir()
    assert words in sentence_of(lambda: export_onnx(make(), Normalisation(), classes, tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == ["there.onnx"]


def test_a_file_that_computes_something_else_is_not_written(runtime, tmp_path, monkeypatch):  # noqa: ARG001
    """As an exporter with an error would make it; the earlier file of the name stays."""
    usual = use_onnx._traced
    monkeypatch.setattr(use_onnx, "_traced", lambda _: usual(use_onnx.Portable(network(seed=1), Normalisation())))
    (tmp_path / "net.onnx").write_bytes(b"earlier")
    said = sentence_of(lambda: export_onnx(network(), Normalisation(), CLASSES, tmp_path / "net.onnx"))
    assert "net.onnx was not written: onnxruntime computes other probabilities with it than PyTorch, by up to " in said
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"earlier"]


def test_a_file_that_fits_one_size_is_not_written(runtime, tmp_path, monkeypatch):  # noqa: ARG001
    def fixed(self, pixels):
        images = self.normalisation(pixels.permute(0, 3, 1, 2))
        logits = upsample(self.network.logits(images), (int(pixels.shape[1]), int(pixels.shape[2])))
        return logits.softmax(1), logits.argmax(1).to(torch.uint8)

    monkeypatch.setattr(use_onnx.Portable, "forward", fixed)
    said = sentence_of(lambda: export_onnx(network(), Normalisation(), CLASSES, tmp_path / "net.onnx"))
    assert "net.onnx was not written: onnxruntime " in said
    assert not list(tmp_path.iterdir())
