"""Programs of torch.export: what they compute is what the network computes, at every size, without this library."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.runs.small import sentence_of
from tests.use.test_onnx import CLASSES, network
from wsss_lib.use.onnx import Portable, smooth_pixels
from wsss_lib.use.program import export_program

ALONE = """
import json, sys, numpy, torch
extra = {"classes.json": ""}
program = torch.export.load("net.pt2", extra_files=extra).module()
results = {f"arr_{i}": program(torch.from_numpy(x))[0].numpy() for i, x in enumerate(numpy.load("in.npz").values())}
numpy.savez("out.npz", **results)
print(json.loads(extra["classes.json"]), any(name.startswith("wsss_lib") for name in sys.modules))
"""


@pytest.mark.slow
def test_a_program_computes_what_the_network_computes(tmp_path):
    made = network("resnet101_caffe")
    export_program(made, made.backbone.normalisation, CLASSES, tmp_path / "net.pt2")
    pictures = [smooth_pixels(size) for size in ((1, 33, 47), (3, 70, 64), (1, 129, 90))]
    np.savez(tmp_path / "in.npz", *(picture.contiguous().numpy() for picture in pictures))
    result = subprocess.run([sys.executable, "-c", ALONE], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == f"{list(CLASSES)} False"
    with np.load(tmp_path / "out.npz") as found, torch.inference_mode():
        for i, picture in enumerate(pictures):
            wanted = Portable(made, made.backbone.normalisation)(picture)[0].numpy()
            np.testing.assert_allclose(found[f"arr_{i}"], wanted, atol=1e-5)


def test_what_is_refused(tmp_path, monkeypatch):
    made = network()

    def export(name="net.pt2", classes=CLASSES):
        return sentence_of(lambda: export_program(made, made.backbone.normalisation, classes, tmp_path / name))

    assert "must end with .pt2" in export("net.onnx")
    (tmp_path / "folder.pt2").mkdir()
    assert "is a folder" in export("folder.pt2")
    assert "4 classes are named" in export(classes=CLASSES[:4])

    def fail(*_, **__):
        raise RuntimeError("no way\nto do it")

    monkeypatch.setattr(torch.export, "export", fail)
    assert "PyTorch cannot export the network (no way)" in export()
    other = network(seed=1)

    class Other:
        def module(self):
            return Portable(other, other.backbone.normalisation)

    monkeypatch.setattr(torch.export, "export", lambda *_, **__: Other())
    assert "computes other probabilities than the network" in export()
    assert [path.name for path in tmp_path.iterdir()] == ["folder.pt2"]
