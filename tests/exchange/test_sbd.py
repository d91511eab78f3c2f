"""SBD's MATLAB files, written here as SBD wrote them."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from tests.data.trees import save_mask, voc_mask
from tests.runs.small import sentence_of
from wsss_lib import __main__ as command
from wsss_lib.exchange.sbd import make_sbd_masks, read_sbd


def save_sbd(path, mask, kind=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"Boundaries": np.zeros((20, 1), object), "Segmentation": mask.astype(kind), "CategoriesPresent": [[1.0]]}
    savemat(path, {"GTcls": content}, do_compression=True)


@pytest.fixture
def trees(tmp_path):
    """Two masks of SBD, one of an image that has an official mask, too."""
    save_mask(tmp_path / "VOC2012" / "SegmentationClass" / "2007_000001.png", voc_mask((20, 30), (2, 3, 12, 14), 15))
    for number, image_id in enumerate(("2007_000001", "2008_000002")):
        mask = np.zeros((20, 30), np.uint8)
        mask[4:9, 5:20] = 7 + number
        save_sbd(tmp_path / "SBD" / "dataset" / "cls" / f"{image_id}.mat", mask)
    return tmp_path / "SBD", tmp_path / "VOC2012"


def test_masks_of_both(trees):
    sbd, voc = trees
    assert make_sbd_masks(sbd, voc) == (2, 0)
    with Image.open(voc / "SegmentationClassAug" / "2008_000002.png") as mask:
        assert mask.mode == "P"
        values = np.asarray(mask)
    assert (values[4:9, 5:20] == 8).all()
    assert np.count_nonzero(values) == 75
    with Image.open(voc / "SegmentationClassAug" / "2007_000001.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), voc_mask((20, 30), (2, 3, 12, 14), 15))
    (voc / "SegmentationClassAug" / "2008_000002.png").unlink()
    assert make_sbd_masks(sbd / "dataset", voc) == (1, 1)


def test_the_command(trees, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["wsss", "sbd", *map(str, trees)])
    assert command.main() == 0
    assert "2 masks made, 0 were there already" in capsys.readouterr().out


def test_numbers_of_matlab(tmp_path):
    save_sbd(tmp_path / "a.mat", np.full((3, 4), 20), np.float64)
    assert (read_sbd(tmp_path / "a.mat") == 20).all()


def test_files_that_are_refused(trees, tmp_path):
    sbd, voc = trees
    assert "has no folder cls with .mat files" in sentence_of(lambda: make_sbd_masks(voc, voc))
    assert "has no folder SegmentationClass with masks" in sentence_of(lambda: make_sbd_masks(sbd, sbd))
    savemat(tmp_path / "inst.mat", {"GTinst": {"Segmentation": np.zeros((2, 2))}})
    save_sbd(tmp_path / "many.mat", np.full((3, 4), 21))
    (tmp_path / "text.mat").write_text("no MATLAB file")
    for name, sentence in {
        "inst": "has no GTcls.Segmentation",
        "many": "does not hold a mask of VOC's 20 classes",
        "text": "cannot be read as a MATLAB file",
        "nothing": "does not exist",
    }.items():
        assert sentence in sentence_of(lambda name=name: read_sbd(tmp_path / f"{name}.mat"))
