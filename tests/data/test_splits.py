"""Which data a preset opens."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.data import trees
from wsss_lib.data.splits import open_splits
from wsss_lib.data.toy import ToyWorld
from wsss_lib.errors import InputError


def test_toy_needs_no_folder_and_limits_what_it_draws():
    splits = open_splits("toy", limit=5)
    assert isinstance(splits.fit, ToyWorld)
    assert [len(splits.fit), len(splits.scored["val"])] == [5, 5]
    assert splits.fit is splits.scored["train"]


def test_photos_in_voc_layout_train_on_train_aug_where_there_is_one(tmp_path):
    trees.voc_tree(tmp_path)
    lists = tmp_path / "ImageSets" / "Segmentation"
    assert open_splits("photos", tmp_path).fit.ids == open_splits("photos", tmp_path).scored["train"].ids
    everything = [*(lists / "train.txt").read_text().split(), *(lists / "val.txt").read_text().split()]
    (lists / "train_aug.txt").write_text("\n".join(everything))
    assert open_splits("photos", tmp_path).fit.ids == tuple(everything)
    assert len(open_splits("photos", tmp_path, limit=1).fit) == 1


def test_photos_in_a_folder_of_ones_own(tmp_path):
    trees.folder_tree(tmp_path)
    splits = open_splits("photos", tmp_path)
    assert set(splits.scored) == {"train", "val"}
    assert set(splits.with_masks) == {"train"}
    shutil.rmtree(tmp_path / "masks")
    assert open_splits("photos", tmp_path).with_masks == {}


def test_coco_is_trained_on_train2014(tmp_path):
    trees.coco_tree(tmp_path)  # has val2014 only
    with pytest.raises(InputError, match=r"instances_train2014\.json"):
        open_splits("coco14", tmp_path)
    for path in sorted(tmp_path.rglob("*val2014*"), reverse=True):
        copy = Path(str(path).replace("val2014", "train2014"))
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            copy.write_bytes(path.read_bytes())
    splits = open_splits("coco14", tmp_path)
    assert len(splits.classes) == 80
    assert splits.fit is splits.scored["train"]


@pytest.mark.parametrize(
    ("root", "sentence"), [(None, "give its folder as data_root"), ("absent", r"data_root .*absent is not a folder")]
)
def test_missing_folder(root, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        open_splits("voc12", root and tmp_path / root)


def test_voc12_insists_on_train_aug(tmp_path):
    trees.voc_tree(tmp_path)
    with pytest.raises(InputError, match="train_aug"):
        open_splits("voc12", tmp_path)


@pytest.mark.parametrize(
    ("labels", "change", "words"),
    [
        ("xml", ("helmet", "vest", "glove"), r"Annotations holds the names 'glove', 'helmet', 'vest'; .*'aeroplane', "),
        ("xml", ("", "", ""), "Annotations holds no names of objects"),
        ("txt", None, "image_labels.txt names no class behind their ids"),
        ("npy", None, "cls_labels.npy holds only zeros for them"),
    ],
)
def test_training_images_without_any_label(tmp_path, labels, change, words):
    trees.voc_tree(tmp_path, labels)
    if labels == "xml":
        for image_id, name in zip(trees.VOC_IDS, change, strict=False):
            xml = trees.voc_xml(name) if name else "<annotation/>"
            trees.write(tmp_path / "Annotations" / f"{image_id}.xml", xml)
    elif labels == "txt":
        trees.write(tmp_path / "image_labels.txt", "\n".join(trees.VOC_IDS))
    else:
        np.save(tmp_path / "cls_labels.npy", {image_id: np.zeros(20) for image_id in trees.VOC_IDS})
    with pytest.raises(InputError, match=rf"the 3 images of .* train have no labels: .*{words}"):
        open_splits("photos", tmp_path)


def test_training_images_without_any_label_in_other_layouts(tmp_path):
    trees.folder_tree(tmp_path / "own")
    trees.write(tmp_path / "own/classes.txt", "cat\nsofa\n")
    trees.write(tmp_path / "own/labels.csv", "image,labels,split\na cat.jpg,,train\nb.png,cat,val\nc.bmp,,train\n")
    with pytest.raises(InputError, match=r"the 2 images of own train have no labels: .*labels\.csv names no class"):
        open_splits("photos", tmp_path / "own")
    trees.coco_splits_tree(tmp_path / "coco")
    path = tmp_path / "coco/annotations/instances_train2014.json"
    trees.write(path, json.dumps(trees.instances([], [1, 2, 3])))
    with pytest.raises(InputError, match=f"the 3 images of COCO train2014 have no labels: {path} has no annotations"):
        open_splits("coco14", tmp_path / "coco")


def test_the_first_training_images_without_any_label(tmp_path):
    trees.folder_tree(tmp_path)
    trees.write(tmp_path / "labels.csv", "image,labels\na cat.jpg,\nb.png,cat\nc.bmp,cat\n")
    assert len(open_splits("photos", tmp_path, limit=2).fit) == 2
    with pytest.raises(InputError, match=r"\(first 1\) show no class; give a higher limit"):
        open_splits("photos", tmp_path, limit=1)


def test_labels_that_would_not_be_used(tmp_path):
    trees.folder_tree(tmp_path / "own")
    trees.coco_splits_tree(tmp_path / "coco")
    labels = trees.write(tmp_path / "labels.txt", "b cat\n")
    for preset, name, words in (("photos", "own", r"labels\.csv has those"), ("coco14", "coco", "instances JSON")):
        assert open_splits(preset, tmp_path / name).fit.labels.any()
        with pytest.raises(InputError, match=f"labels {labels} is given, but .*{words}.*; leave labels out"):
            open_splits(preset, tmp_path / name, labels)


def test_mask_values_reach_every_layout(tmp_path):
    trees.save_mask(tmp_path / "coco_splits_tree/coco_seg_anno/000000000007.png", np.zeros((40, 48), np.uint8))
    for preset, make in (("photos", trees.folder_tree), ("photos", trees.voc_tree), ("coco14", trees.coco_splits_tree)):
        root = make(tmp_path / make.__name__)
        with pytest.raises(InputError, match="mask_values 'all'"):
            open_splits(preset, root, mask_values="all")
        assert open_splits(preset, root, mask_values="255:1").fit.lookup[255] == 1


def test_mask_values_without_masks(tmp_path):
    trees.coco_splits_tree(tmp_path)
    with pytest.raises(InputError, match=f"mask_values 'raw' is given, but {tmp_path} has no files of masks"):
        open_splits("coco14", tmp_path, mask_values="raw")


def test_photos_in_voc_layout_without_a_list_of_val(tmp_path):
    trees.voc_tree(tmp_path)
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").unlink()
    splits = open_splits("photos", tmp_path)
    assert splits.scored["val"].ids == splits.scored["train"].ids == splits.fit.ids
    with pytest.raises(InputError, match=r"val\.txt"):
        open_splits("voc12", tmp_path)
