"""Maps in the forms of other code: read with their own lines of code, and found again by ours."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pycocotools.coco import COCO

from tests.exchange import foreign
from tests.runs.small import sentence_of
from wsss_lib.data.files import voc_palette
from wsss_lib.exchange.maps import open_maps
from wsss_lib.use.on_maps import convert_maps


@pytest.fixture
def one(tmp_path):
    pictures = foreign.pictures(tmp_path)
    return open_maps(foreign.as_psa(tmp_path / "maps"), pictures, classes=foreign.CLASSES)


def labels_at(image_id, threshold):
    classes, maps = foreign.expected(image_id)
    planes = np.concatenate([np.full((1, *maps.shape[1:]), threshold, np.float32), maps])
    return np.array([0, *(k + 1 for k in classes)], np.uint8)[planes.argmax(0)]


def test_psa_reads_its_dictionaries(one, tmp_path):
    """The lines of psa's ``voc12/data.py`` and ``infer_aff.py``: a key is a class, a value its map."""
    convert_maps(one, tmp_path / "out", "npy")
    for image_id in foreign.SIZES:
        cam_dict = np.load(tmp_path / "out" / f"{image_id}.npy", allow_pickle=True).item()
        classes, maps = foreign.expected(image_id)
        cam_full_arr = np.zeros((5, *maps.shape[1:]), np.float32)
        for key, values in cam_dict.items():
            assert values.dtype == np.float32
            cam_full_arr[key + 1] = values
        np.testing.assert_array_equal(cam_full_arr[[k + 1 for k in classes]], maps)


def test_irn_reads_its_dictionaries(one, tmp_path):
    """The lines of IRN's ``cam_to_ir_label.py`` and ``make_sem_seg_labels.py``, the latter without CUDA."""
    convert_maps(one, tmp_path / "out", "irn")
    for image_id, size in foreign.SIZES.items():
        cam_dict = np.load(tmp_path / "out" / f"{image_id}.npy", allow_pickle=True).item()
        classes, maps = foreign.expected(image_id)
        cams = cam_dict["high_res"]
        keys = np.pad(cam_dict["keys"] + 1, (1, 0), mode="constant")
        fg_conf_cam = np.pad(cams, ((1, 0), (0, 0), (0, 0)), mode="constant", constant_values=0.3)
        np.testing.assert_array_equal(keys[np.argmax(fg_conf_cam, axis=0)], labels_at(image_id, 0.3))
        strided = tuple((side - 1) // 4 + 1 for side in size)
        downsized = cam_dict["cam"].cpu()
        assert downsized.dtype == torch.float32
        wanted = F.interpolate(torch.from_numpy(maps)[None], strided, mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(downsized, wanted)
        assert cam_dict["keys"].tolist() == classes


@pytest.mark.parametrize(
    ("to", "options"), [("npy", {"half": True}), ("irn", {"half": True}), ("pictures", {}), ("pictures", {"bits": 16})]
)
def test_maps_come_back(one, to, options, tmp_path):
    convert_maps(one, tmp_path / "out", to, **options)
    again = open_maps(tmp_path / "out", tmp_path / "pictures", classes=foreign.CLASSES)
    assert again.data.labels.equal(one.data.labels)
    for image_id in foreign.SIZES:
        torch.testing.assert_close(again.store.read(image_id)[1], one.store.read(image_id)[1], atol=3e-4, rtol=0)


def test_masks_in_vocs_colours(one, tmp_path):
    convert_maps(one, tmp_path / "out", "masks", threshold=0.4)
    for image_id in foreign.SIZES:
        with Image.open(tmp_path / "out" / f"{image_id}.png") as mask:
            np.testing.assert_array_equal(np.asarray(mask), labels_at(image_id, 0.4))
            np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), voc_palette()[np.asarray(mask)])


def test_coco_reads_the_masks(one, tmp_path):
    path = convert_maps(one, tmp_path / "out", "coco", threshold=0.5)
    coco = COCO(path)
    assert [entry["name"] for entry in coco.loadCats(coco.getCatIds())] == [*foreign.CLASSES]
    for number, image_id in zip(sorted(coco.imgs), foreign.SIZES, strict=True):
        assert coco.imgs[number]["file_name"] == f"{image_id}.png"
        found = np.zeros(foreign.SIZES[image_id], np.uint8)
        for entry in coco.loadAnns(coco.getAnnIds(number)):
            pixels = coco.annToMask(entry)
            assert entry["area"] == pixels.sum()
            assert not found[pixels > 0].any()
            left, top, width, height = map(int, entry["bbox"])
            assert pixels[top : top + height, left : left + width].sum() == pixels.sum()
            found[pixels > 0] = entry["category_id"]
        np.testing.assert_array_equal(found, labels_at(image_id, 0.5))


def test_every_region_is_an_annotation(tmp_path):
    pictures = foreign.pictures(tmp_path)
    mask = np.zeros((16, 16), np.uint8)
    mask[1:4, 1:4], mask[4, 4], mask[10:12, 10:12], mask[10:12, 2:5] = 1, 1, 1, 2
    (tmp_path / "labels").mkdir()
    Image.fromarray(mask).save(tmp_path / "labels" / "b.png")
    one = open_maps(tmp_path / "labels", pictures, classes=foreign.CLASSES)
    found = json.loads(convert_maps(one, tmp_path / "out", "coco").read_text())
    assert sorted((a["category_id"], a["area"]) for a in found["annotations"]) == [(1, 4), (1, 10), (2, 6)]


def test_the_archive_for_vocs_server(one, tmp_path):
    path = convert_maps(one, tmp_path / "out", "voc", competition="comp5")
    with tarfile.open(path) as archive:
        folder = "results/VOC2012/Segmentation/comp5_test_cls"
        assert archive.getnames() == [f"{folder}/{image_id}.png" for image_id in foreign.SIZES]
        content = archive.extractfile(f"{folder}/b.png").read()
    with Image.open(io.BytesIO(content)) as mask:
        np.testing.assert_array_equal(np.asarray(mask), labels_at("b", 0.2))


@pytest.mark.parametrize("to", ["npy", "pictures"])
def test_a_conversion_goes_on(one, to, tmp_path, capsys):
    out = tmp_path / "out"
    convert_maps(one, out, to)

    def times():
        return {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.name.startswith(("2", "b"))}

    before = times()
    next(path for path in sorted(out.iterdir()) if path.name.startswith("b")).unlink()
    convert_maps(one, out, to)
    after = times()
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] == after[name]} == {n for n in before if n.startswith("2")}
    assert "made again" not in capsys.readouterr().out
    foreign.as_psa(tmp_path / "maps", seed=3)
    convert_maps(open_maps(tmp_path / "maps", tmp_path / "pictures", classes=foreign.CLASSES), out, to)
    assert "made again" in capsys.readouterr().out
    again = open_maps(out, tmp_path / "pictures", classes=foreign.CLASSES)
    for image_id in foreign.SIZES:
        wanted = torch.from_numpy(foreign.expected(image_id, 3)[1])
        torch.testing.assert_close(again.store.read(image_id)[1], wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"to": "xml"}, "to 'xml' is unknown; choose one of npy, irn"),
        ({"to": "pictures", "bits": 12}, "bits 12 is unknown; choose one of 8, 16"),
        ({"to": "voc", "competition": "comp1"}, "competition 'comp1' is unknown"),
        ({"to": "masks", "threshold": 1.0}, "threshold 1.0 is out of range"),
    ],
)
def test_conversions_that_are_refused(one, tmp_path, options, sentence):
    assert sentence in sentence_of(lambda: convert_maps(one, tmp_path / "out", **options))
    assert not (tmp_path / "out").exists()


def test_maps_are_not_overwritten(one, tmp_path):
    assert "was not written by this run" in sentence_of(lambda: convert_maps(one, tmp_path / "maps", "npy"))
