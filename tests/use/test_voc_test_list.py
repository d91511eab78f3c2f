"""VOC's `test` list, whose pictures have no masks: from a run to the archive for VOC's server, in three commands.

The run has a network with the keys of DeepLab's code, as `deeplabv2_resnet101_msc-vocaug-20000.pth` has them.
"""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.trees import save_image, save_mask, voc_tree, write
from wsss_lib import __main__ as command
from wsss_lib.data.files import voc_palette
from wsss_lib.methods.segmentation import Config, Segmentation
from wsss_lib.runs.kinds import open_run
from wsss_lib.runs.parameters import read_parameters

IDS = ("2008_000006", "2008_000011", "2008_000010")
SIZES = ((33, 57), (48, 40), (40, 50))


@pytest.fixture
def voc(tmp_path, monkeypatch):
    """A tree in VOC's layout with a `test` list, and beside it the authors' file."""
    monkeypatch.chdir(tmp_path)
    root = voc_tree(tmp_path / "VOC2012")
    for number, (image_id, size) in enumerate(zip(IDS, SIZES, strict=True)):
        save_image(root / "JPEGImages" / f"{image_id}.jpg", size, seed=10 + number)
    write(root / "ImageSets/Segmentation/train_aug.txt", (root / "ImageSets/Segmentation/train.txt").read_text())
    write(root / "ImageSets/Segmentation/test.txt", "".join(f"{image_id}\n" for image_id in IDS))
    config = Config.preset("voc12", "resnet101_caffe").replace(backbone_options={"width": 0.125}, scales=(1.0,))
    monkeypatch.setattr(Config, "for_preset", classmethod(lambda *_: config))
    torch.manual_seed(0)
    network = Segmentation(config.replace(pretrained=False), 20).network
    for weight in network.head.parameters():
        torch.nn.init.normal_(weight)  # so that its masks show several classes
    keys = {key: key.replace("head.", "aspp.").replace("backbone.", "") for key in network.state_dict()}
    torch.save({f"base.{keys[key]}": value for key, value in network.state_dict().items()}, "deeplab.pth")
    return root


def test_from_a_run_to_the_archive(voc, tmp_path, monkeypatch, capsys):
    given = {"preset": "voc12", "data_root": str(voc), "checkpoint": "deeplab.pth", "out": "run", "accelerator": "cpu"}
    assert open_run(read_parameters("final", "segmentation", given)).is_trained

    def wsss(*words):
        monkeypatch.setattr("sys.argv", ["wsss", *words])
        assert command.main() == 0, capsys.readouterr().out

    wsss("save", "run", "deeplab.safetensors")
    wsss("predict", "deeplab.safetensors", "VOC2012/ImageSets/Segmentation/test.txt", "--out", "masks", "--device=cpu")
    predicted = {image_id: np.asarray(Image.open(tmp_path / "masks" / f"{image_id}.png")) for image_id in IDS}
    assert len({*np.unique(np.concatenate([mask.ravel() for mask in predicted.values()]))}) > 2
    predicted[IDS[1]] = np.zeros(SIZES[1], np.uint8)  # as if the network had found nothing
    save_mask(tmp_path / "masks" / f"{IDS[1]}.png", predicted[IDS[1]])
    wsss("convert", "masks", "VOC2012/JPEGImages", "--to", "voc", "--out", "server")
    with tarfile.open(tmp_path / "server" / "results.tar.gz") as archive:
        folder = "results/VOC2012/Segmentation/comp6_test_cls"
        assert sorted(archive.getnames()) == sorted(f"{folder}/{image_id}.png" for image_id in IDS)
        contents = {image_id: archive.extractfile(f"{folder}/{image_id}.png").read() for image_id in IDS}
    for image_id, size in zip(IDS, SIZES, strict=True):
        with Image.open(io.BytesIO(contents[image_id])) as mask:
            assert (mask.mode, mask.size[::-1]) == ("P", size)
            np.testing.assert_array_equal(np.asarray(mask), predicted[image_id])
            np.testing.assert_array_equal(np.reshape(mask.getpalette(), (-1, 3)), voc_palette())
