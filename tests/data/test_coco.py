"""COCO 2014: categories, labels and masks from annotations, masks from PNGs, images in three layouts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.trees import annotation, coco_annotations, coco_tree, instances, save_mask, write
from tests.recipe import integers, uniform
from wsss_lib.data import coco_annotations as reader
from wsss_lib.data.coco import canonical_id, category_lookup, labels_from_masks, load_coco, render_mask
from wsss_lib.data.coco_annotations import CATEGORY_IDS, COCO_CLASSES, read_instances
from wsss_lib.errors import InputError

GOLDEN = Path(__file__).parents[1] / "golden" / "datasets"
IDS = tuple(f"{number:012d}" for number in (9, 25, 30, 42))
POLYGON = [[2, 2, 22, 2, 22, 22]]


def sentence(path: Path, *words: str) -> str:
    return re.escape(str(path)) + ".*" + ".*".join(words)


def save_json(path: Path, content) -> Path:
    return write(path, json.dumps(content))


def test_categories():
    golden = np.load(GOLDEN / "coco_mapping.npz")
    assert np.array_equal(CATEGORY_IDS, golden["category_ids"])
    assert np.array_equal(category_lookup(), golden["lut"])
    assert category_lookup().dtype == np.uint8
    assert len(set(COCO_CLASSES)) == 80
    assert [COCO_CLASSES[index - 1] for index in (18, 38, 58, 80)] == ["horse", "surfboard", "couch", "toothbrush"]


def test_labels_from_masks_as_the_authors_find_them():
    masks = []
    golden = np.load(GOLDEN / "coco_labels_from_masks.npz")["labels"]
    for index in range(len(golden)):
        mask = integers(f"datasets/coco_labels_from_masks/{index}", (9, 11), 0, 6).astype(np.uint8)
        mask[uniform(f"datasets/coco_labels_from_masks/void{index}", (9, 11)) < 0.1] = 255
        masks.append(mask)
    assert np.array_equal(labels_from_masks(masks).numpy(), golden)
    assert labels_from_masks([np.zeros((2, 2), dtype=np.uint8)]).sum() == 0


@pytest.mark.parametrize("layout", ["official", "jpegimages"])
def test_load(tmp_path, layout):
    data = load_coco(coco_tree(tmp_path, layout), "val")
    assert data.name == "COCO val2014"
    assert data.ids == IDS
    assert data.classes == COCO_CLASSES
    names = [[COCO_CLASSES[index] for index in row.nonzero()[:, 0].tolist()] for row in data.labels]
    assert names == [["person", "dog"], ["toothbrush"], [], ["car"]]  # the car is a crowd
    assert int((data.labels.sum(1) == 0).sum()) == 1
    assert data.image(2).mode == "RGB"
    assert data.image(2).size == (40, 30)


def test_rendered_masks(tmp_path):
    data = load_coco(coco_tree(tmp_path), "val2014")
    assert data.has_masks
    assert "rendered from instances_val2014.json" in data.truth
    expected = np.zeros((30, 40), dtype=np.uint8)
    expected[:, 10:30] = 255
    expected[2:22, 2:22] = 1
    expected[6:12, 6:12] = 17
    assert data.mask(0).dtype == np.uint8
    assert np.array_equal(data.mask(0), expected)
    parts = np.zeros((30, 40), dtype=np.uint8)
    parts[6:12, 6:12] = parts[20:26, 20:26] = 80
    assert np.array_equal(data.mask(1), parts)
    assert not data.mask(2).any()
    assert np.unique(data.mask(3)).tolist() == [0, 255]


def test_compressed_run_lengths_equal_the_plain_ones():
    from pycocotools import mask as rle_tools

    crowd = coco_annotations()[2]
    code = rle_tools.frPyObjects(crowd["segmentation"], 30, 40)
    text = {"size": code["size"], "counts": code["counts"].decode()}
    masks = [render_mask([{**crowd, "segmentation": one}], (30, 40)) for one in (crowd["segmentation"], text)]
    assert np.array_equal(*masks)


def test_masks_of_png(tmp_path):
    root = coco_tree(tmp_path)
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[:5, :5], mask[5:8] = 80, 255
    save_mask(root / "coco_seg_anno" / f"{IDS[0]}.png", mask)
    data = load_coco(root, "val")
    assert np.array_equal(data.mask(0), mask)
    assert "coco_seg_anno (contiguous values)" in data.truth
    assert data.masked == [0]
    assert (data.mask(1) == 255).all()
    save_mask(root / "SegmentationClass/val2014" / f"COCO_val2014_{IDS[1]}.png", mask)
    data = load_coco(root, "val")
    assert np.array_equal(data.mask(1), mask)
    for folder in ("SegmentationClass", "SegmentationClass/val2014"):
        assert np.array_equal(load_coco(root, "val", masks=root / folder).mask(1), mask)
    with pytest.raises(InputError, match=sentence(root / "none", "not a folder")):
        load_coco(root, "val", masks=root / "none")


def test_masks_with_raw_category_ids(tmp_path):
    root = coco_tree(tmp_path)
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[:5, :5], mask[5:8], mask[9] = 90, 255, 13
    path = root / "raw" / f"{IDS[0]}.png"
    save_mask(path, mask)
    read = load_coco(root, "val", masks=root / "raw", mask_values="raw").mask(0)
    assert np.unique(read).tolist() == [0, 12, 80, 255]
    with pytest.raises(InputError, match=sentence(path, "value 90")):
        load_coco(root, "val", masks=root / "raw").mask(0)
    mask[9] = 12
    save_mask(path, mask)
    with pytest.raises(InputError, match=sentence(path, "value 12")):
        load_coco(root, "val", masks=root / "raw", mask_values="raw").mask(0)
    pairs = load_coco(root, "val", masks=root / "raw", mask_values="12:1,90:80").mask(0)
    assert np.unique(pairs).tolist() == [0, 1, 80, 255]
    with pytest.raises(InputError, match=r"mask_values 'both'.* or choose 'raw'"):
        load_coco(root, "val", mask_values="both")


def test_list_of_ids(tmp_path):
    root = coco_tree(tmp_path)
    path = write(root / "ids.txt", f"COCO_val2014_{IDS[3]}\n{IDS[0]}\n30\n")
    data = load_coco(root, "val", ids_file=path)
    assert data.ids == (IDS[3], IDS[0], IDS[2])
    assert data.labels.sum(1).tolist() == [1, 2, 0]
    assert np.unique(data.mask(1)).tolist() == [0, 1, 17, 255]
    write(path, "77\n")
    with pytest.raises(InputError, match=sentence(path, "'77'", "does not know")):
        load_coco(root, "val", ids_file=path)
    write(path, "cat\n")
    with pytest.raises(InputError, match="'cat' is not an id"):
        load_coco(root, "val", ids_file=path)
    write(path, f"9\n{IDS[0]}\n")
    with pytest.raises(InputError, match=f"{IDS[0]}.*more than once"):
        load_coco(root, "val", ids_file=path)


def test_forms_of_an_id():
    assert {canonical_id(name) for name in ("9", IDS[0], f"COCO_train2014_{IDS[0]}")} == {IDS[0]}


def test_images_that_are_not_there(tmp_path):
    root = coco_tree(tmp_path)
    path = root / "val2014" / f"COCO_val2014_{IDS[1]}.jpg"
    path.unlink()
    with pytest.raises(InputError, match=sentence(path, "missing .1 of 4")):
        load_coco(root, "val")
    (root / "val2014").rename(root / "elsewhere")
    with pytest.raises(InputError, match=sentence(root, "neither a folder val2014 nor JPEGImages")):
        load_coco(root, "val")
    with pytest.raises(InputError, match=sentence(root / "annotations/instances_train2014.json", "does not exist")):
        load_coco(root, "train")
    with pytest.raises(InputError, match="split 'val2019'"):
        load_coco(root, "val2019")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"annotations": [annotation(1, 7, 1, POLYGON, 1.0)]}, "annotation of image 7"),
        ({"annotations": [annotation(1, 9, 12, POLYGON, 1.0)]}, "category 12, which is not one"),
        ({"annotations": [annotation(1, 9, 300, POLYGON, 1.0)]}, "category 300, which is not one"),
        ({"annotations": [annotation(1, 9, -1, POLYGON, 1.0)]}, "category -1, which is not one"),
        ({"annotations": [{"image_id": 9, "caption": "a dog"}]}, "lacks a field"),
        ({"annotations": [annotation(1, "9", 1, POLYGON, 1.0)]}, "another type"),
        ({"annotations": [annotation(1, 10**30, 1, POLYGON, 1.0)]}, "another type"),
        ({"annotations": [7]}, "another type"),
        ({"annotations": {}}, "not valid JSON"),
        ({"images": []}, "no images"),
        ({"images": [{"id": 9}, {"id": 9}]}, "image 9 more than once"),
        ({"images": [{"file_name": "x.jpg"}]}, "lacks a field"),
        ({"images": [{"id": -3}]}, "image -3"),
    ],
)
def test_json_with_wrong_content(tmp_path, change, words):
    path = save_json(tmp_path / "x.json", instances() | change)
    with pytest.raises(InputError, match=sentence(path, words)):
        read_instances(path)


def with_categories(*named: tuple[int, str]) -> dict:
    return instances(images=[9]) | {
        "annotations": [annotation(1, 9, 2, POLYGON, 1.0)],
        "categories": [{"id": number, "name": name} for number, name in named],
    }


def test_categories_are_found_by_their_names(tmp_path, monkeypatch):
    """Tools that write such files number the categories as they like."""
    root = coco_tree(tmp_path)
    path = save_json(root / "x.json", with_categories((1, "dog"), (2, "Traffic Light")))
    for _ in range(2):  # from the file, and from its index
        data = load_coco(root, "val", annotations=path, masks=None)
        assert [COCO_CLASSES[k] for k in data.labels[0].nonzero().flatten().tolist()] == ["traffic light"]
        assert np.unique(data.mask(0)).tolist() == [0, 10]
        monkeypatch.setattr(reader, "_parse_instances", None)
    save_mask(root / "raw" / f"{IDS[0]}.png", np.eye(30, 40, dtype=np.uint8) * 2)
    data = load_coco(root, "val", annotations=path, masks=root / "raw", mask_values="raw")
    assert np.unique(data.mask(0)).tolist() == [0, 10]


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ([(2, "helmet")], r"category 2 \('helmet'\)"),
        ([(1, "dog")], "category 2, which is not one"),
        ([(1, "person"), (2, "velocipede")], r"category 2 \('velocipede'\)"),
    ],
)
def test_categories_that_are_none_of_coco(tmp_path, named, words):
    path = save_json(tmp_path / "x.json", with_categories(*named))
    with pytest.raises(InputError, match=sentence(path, words, "preset photos")):
        read_instances(path)


def test_categories_that_nothing_belongs_to_do_not_matter(tmp_path):
    read = read_instances(save_json(tmp_path / "x.json", with_categories((0, "none"), (2, "cat"))))
    assert [COCO_CLASSES[k] for k in read.labels[0].nonzero().flatten().tolist()] == ["cat"]


def test_masks_of_other_names(tmp_path):
    root = coco_tree(tmp_path)
    save_mask(root / "coco_seg_anno" / f"{IDS[0]}_mask.png", np.zeros((30, 40), dtype=np.uint8))
    with pytest.raises(InputError, match=sentence(root / "coco_seg_anno", "no mask of any image", f"{IDS[0]}.png")):
        load_coco(root, "val")


@pytest.mark.parametrize("text", ["", "[]", "7", "{", '{"images"', '{"images": [', '{"images": [{"id": 1}', "{1: 2}"])
def test_text_that_is_no_instances_json(tmp_path, text):
    path = write(tmp_path / "x.json", text)
    with pytest.raises(InputError, match=sentence(path, "not valid JSON")):
        read_instances(path)


@pytest.mark.parametrize("key", ["images", "annotations"])
def test_json_without_a_list(tmp_path, key):
    content = instances()
    del content[key]
    path = save_json(tmp_path / "x.json", content)
    with pytest.raises(InputError, match=sentence(path, f"no '{key}'")):
        read_instances(path)
    with pytest.raises(InputError, match=sentence(tmp_path, "cannot be read")):
        read_instances(tmp_path)


def test_the_second_reading_takes_the_index(tmp_path, monkeypatch):
    path = save_json(tmp_path / "x.json", instances())
    first = read_instances(path)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["x.json", "x.json.index.npz"]
    with monkeypatch.context() as patch:
        patch.setattr(reader, "_parse_instances", None)  # calling it would raise
        second = read_instances(path)
    assert second.ids == first.ids
    assert torch.equal(second.labels, first.labels)
    assert [second.annotations(row) for row in range(4)] == [first.annotations(row) for row in range(4)]


@pytest.mark.parametrize("harm", ["another file", "cut off", "not one", "another version"])
def test_an_index_that_does_not_fit_is_made_anew(tmp_path, harm, monkeypatch):
    path = save_json(tmp_path / "x.json", instances([]))
    read_instances(path)
    index = tmp_path / "x.json.index.npz"
    if harm == "another file":
        save_json(path, instances())
    elif harm == "cut off":
        index.write_bytes(index.read_bytes()[:-100])
    elif harm == "not one":
        index.write_text("x")
    else:
        monkeypatch.setattr(reader, "_INDEX_VERSION", reader._INDEX_VERSION + 1)
    expected = instances() if harm == "another file" else instances([])
    assert bool(read_instances(path).labels.any()) == bool(expected["annotations"])
    monkeypatch.setattr(reader, "_parse_instances", None)
    assert bool(read_instances(path).labels.any()) == bool(expected["annotations"])


def test_a_folder_that_cannot_be_written_to_needs_no_index(tmp_path, monkeypatch):
    def refuse(*_):
        raise InputError("no room")

    monkeypatch.setattr(reader, "write_atomically", refuse)
    assert read_instances(save_json(tmp_path / "x.json", instances())).ids == IDS
    assert [x.name for x in tmp_path.iterdir()] == ["x.json"]


def test_json_in_any_order_and_spacing(tmp_path):
    content = {key: instances()[key] for key in ("annotations", "categories", "images")}
    read = read_instances(write(tmp_path / "x.json", "\n " + json.dumps(content, indent=2).replace("\n", "\r\n")))
    assert read.ids == IDS
    assert [one["id"] for one in read.annotations(0)] == [1, 2, 3]
    assert read.annotations(2) == []
    assert read.annotations(3) == [coco_annotations()[4]]
    none = read_instances(save_json(tmp_path / "y.json", instances([])))
    assert torch.equal(none.labels, torch.zeros(4, 80))


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ([], "no polygon"),
        ([[1, 2, 3, 4]], "three points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "half a point"),
        ({"size": [20, 40], "counts": [800]}, "20, 40"),
        ({"size": [30, 40], "counts": [7]}, "7 pixels"),
        ({"size": [30, 40], "counts": [1300, -100]}, ""),
        ({"size": [30, 40]}, "counts"),
        ([["a"] * 6], ""),
        ("text", ""),
        (None, ""),
    ],
)
def test_segmentation_that_cannot_be_rendered(tmp_path, segmentation, words):
    root = coco_tree(tmp_path)
    path = save_json(root / "x.json", instances([annotation(1, 9, 1, segmentation, 1.0)]))
    data = load_coco(root, "val", annotations=path)
    with pytest.raises(InputError, match=sentence(path, f"image {IDS[0]} cannot be rendered", words)):
        data.mask(0)


def test_annotation_without_segmentation_still_labels(tmp_path):
    root = coco_tree(tmp_path)
    path = save_json(root / "x.json", instances([{"image_id": 9, "category_id": 1}]))
    data = load_coco(root, "val", annotations=path)
    assert data.labels[0, 0] == 1
    with pytest.raises(InputError, match=sentence(path, "area")):
        data.mask(0)


def test_json_that_changed_since(tmp_path):
    root = coco_tree(tmp_path)
    data = load_coco(root, "val")
    path = write(root / "annotations/instances_val2014.json", "{}")
    with pytest.raises(InputError, match=sentence(path, "cannot be rendered")):
        data.mask(0)
