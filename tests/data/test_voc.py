"""VOC layout: lists in three forms, labels from four sources, masks from two folders."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.trees import VOC_IDS, save_image, voc_tree, voc_xml, write
from wsss_lib.data.voc import (
    VOC_CLASSES,
    labels_from_npy,
    labels_from_text,
    labels_from_xml,
    load_voc,
    read_ids,
)
from wsss_lib.errors import InputError

GOLDEN = Path(__file__).parents[1] / "golden" / "datasets"


def sentence(path: Path, *words: str) -> str:
    return re.escape(str(path)) + ".*" + ".*".join(words)


def names(labels) -> list[str]:
    return [VOC_CLASSES[index] for index in labels.nonzero()[:, 0].tolist()]


# ----------------------------------------------------------------------------------------------------------- lists


@pytest.mark.parametrize(
    "line",
    [
        "2007_000032",
        "  2007_000032\t",
        "/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png",
        "/JPEGImages/2007_000032.jpg",
        "2007_000032.jpg",
    ],
)
def test_forms_of_a_list(tmp_path, line):
    path = write(tmp_path / "list.txt", f"\ufeff{line}\r\n\r\nmy-dog.v2\n")
    assert read_ids(path) == ["2007_000032", "my-dog.v2"]


def test_list_that_cannot_be(tmp_path):
    path = write(tmp_path / "list.txt", "\n\n")
    with pytest.raises(InputError, match=sentence(path, "lists no image")):
        read_ids(path)
    write(path, "a\nb\n\n/JPEGImages/a.jpg\n")
    with pytest.raises(InputError, match=sentence(path, "line 4", "'a' is there already in line 1")):
        read_ids(path)
    for line in ("2007_000032 -1", "a cat", "/"):
        write(path, f"x\n{line}\n")
        with pytest.raises(InputError, match=sentence(path, f"line 2: '{line}' is neither")):
            read_ids(path)
    with pytest.raises(InputError, match=sentence(tmp_path / "no.txt", "does not exist")):
        read_ids(tmp_path / "no.txt")


# ---------------------------------------------------------------------------------------------------------- labels


def test_labels_from_xml_as_the_authors_read_them(tmp_path):
    documents = json.loads((GOLDEN / "labels_from_xml.json").read_text())["xml"]
    paths = [write(tmp_path / f"{index}.xml", text) for index, text in enumerate(documents)]
    labels = torch.stack([labels_from_xml(path) for path in paths])
    assert labels.dtype == torch.float32
    assert np.array_equal(labels.numpy(), np.load(GOLDEN / "labels_from_xml.npz")["labels"])


@pytest.mark.parametrize("name", ["Dog", "\n  dog\n", "DOG ", "\u00a0dog", "ｄｏｇ"])
@pytest.mark.parametrize("namespace", ["", ' xmlns="http://example.org/annotation"'])
def test_spelling_and_namespaces_in_xml(tmp_path, name, namespace):
    path = write(tmp_path / "x.xml", voc_xml(name).replace("<annotation", f"<annotation{namespace}"))
    assert names(labels_from_xml(path)) == ["dog"]
    assert names(labels_from_xml(write(path, voc_xml("dogs")))) == []


def test_xml_that_cannot_be_read(tmp_path):
    path = tmp_path / "x.xml"
    with pytest.raises(InputError, match=sentence(path, "does not exist")):
        labels_from_xml(path)
    write(path, voc_xml("dog")[:-20])
    with pytest.raises(InputError, match=sentence(path, "not valid XML")):
        labels_from_xml(path)
    with pytest.raises(InputError, match=sentence(tmp_path, "cannot be read")):
        labels_from_xml(tmp_path)


def test_labels_from_text(tmp_path):
    path = write(tmp_path / "labels.txt", "a dog person\n\nb\nc  dog dog\n")
    labels = labels_from_text(path)
    assert {key: names(value) for key, value in labels.items()} == {"a": ["dog", "person"], "b": [], "c": ["dog"]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a dog\nb wolf\n", "line 2: 'wolf' is not a class"),
        ("a dog\na cat\n", "line 2: the image 'a'"),
        ("", "empty"),
        ("a dog,cat\n", "'dog,cat' is not a class; separate classes by blanks, dog cat"),
    ],
)
def test_label_text_that_cannot_be(tmp_path, text, words):
    path = write(tmp_path / "labels.txt", text)
    with pytest.raises(InputError, match=sentence(path, words)):
        labels_from_text(path)


def test_spelling_in_text(tmp_path):
    path = write(tmp_path / "labels.txt", "ka\u0308fer Dog PERSON\n")
    assert {key: names(value) for key, value in labels_from_text(path).items()} == {"k\u00e4fer": ["dog", "person"]}


def test_labels_from_npy(tmp_path):
    vector = np.zeros(20, dtype=np.float32)
    vector[[0, 19]] = 1
    np.save(tmp_path / "x.npy", {"2007_000032": vector, np.int32(2008000033): vector.astype(np.float64), "own": vector})
    labels = labels_from_npy(tmp_path / "x.npy")
    assert list(labels) == ["2007_000032", "2008_000033", "own"]
    assert all(value.dtype == torch.float32 for value in labels.values())
    assert names(labels["2008_000033"]) == ["aeroplane", "tvmonitor"]


@pytest.mark.parametrize(
    "vector", [np.zeros(80), np.full(20, 0.5), np.full(20, np.nan), np.zeros((1, 20)), np.full(20, -1)]
)
def test_npy_that_holds_no_labels(tmp_path, vector):
    path = tmp_path / "x.npy"
    np.save(path, {"2007_000032": np.ones(20), "2007_000033": vector})
    with pytest.raises(InputError, match=sentence(path, "2007_000033", "20 values of 0 and 1")):
        labels_from_npy(path)


def test_npy_without_entries(tmp_path):
    np.save(tmp_path / "x.npy", {})
    with pytest.raises(InputError, match=sentence(tmp_path / "x.npy", "empty")):
        labels_from_npy(tmp_path / "x.npy")


# -------------------------------------------------------------------------------------------------------- data set


@pytest.mark.parametrize("source", ["txt", "xml", "npy"])
def test_load(tmp_path, source):
    root = voc_tree(tmp_path / "VOC2012", source)
    data = load_voc(root, "train")
    assert data.name == "VOC2012 train"
    assert data.ids == VOC_IDS[:3]
    assert data.classes == VOC_CLASSES
    assert data.has_masks
    assert [names(row) for row in data.labels] == [["person"], ["cat"], ["dog", "person"]]
    assert data.image(1).mode == "RGB"
    assert data.image(2).size == (24, 20)
    assert np.unique(data.mask(2)).tolist() == [0, 15, 255]  # the dog is in the labels only
    val = load_voc(root, "val")
    assert np.unique(val.mask(1)).tolist() == [0, 1, 255]  # from SegmentationClassAug
    assert val.mask(1).shape == (40, 50)


@pytest.mark.parametrize("parent", ["VOC2012", "VOCdevkit/VOC2012"])
def test_folder_around_the_data_set(tmp_path, parent):
    voc_tree(tmp_path / parent)
    assert len(load_voc(str(tmp_path), "val")) == 2


def test_sources_of_labels_and_their_order(tmp_path):
    root = voc_tree(tmp_path / "voc", "xml")
    np.save(root / "cls_labels.npy", {key: np.eye(20)[1] for key in VOC_IDS})
    assert names(load_voc(root, "train").labels[0]) == ["bicycle"]
    write(root / "image_labels.txt", "".join(f"{key} bird\n" for key in VOC_IDS))
    assert names(load_voc(root, "train").labels[0]) == ["bird"]
    assert names(load_voc(root, "train", labels=root / "cls_labels.npy").labels[0]) == ["bicycle"]
    assert names(load_voc(root, "train", labels=str(root / "Annotations")).labels[0]) == ["person"]


def test_labels_that_are_not_there(tmp_path):
    root = voc_tree(tmp_path / "voc", "none")
    with pytest.raises(InputError, match=sentence(root, "image_labels.txt", "cls_labels.npy", "Annotations")):
        load_voc(root, "train")
    with pytest.raises(InputError, match=sentence(tmp_path / "x.csv", "not a source of labels")):
        load_voc(root, "train", labels=tmp_path / "x.csv")
    with pytest.raises(InputError, match=sentence(tmp_path / "x.txt", "does not exist")):
        load_voc(root, "train", labels=tmp_path / "x.txt")
    path = write(root / "image_labels.txt", f"{VOC_IDS[0]} dog\n")
    with pytest.raises(InputError, match=sentence(path, f"no labels for the image '{VOC_IDS[1]}' .2 of 3")):
        load_voc(root, "train")
    write(root / "Annotations" / f"{VOC_IDS[0]}.xml", voc_xml("dog"))
    with pytest.raises(InputError, match=sentence(root / "Annotations" / f"{VOC_IDS[1]}.xml", "does not exist")):
        load_voc(root, "train", labels=root / "Annotations")


def test_list_or_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=sentence(tmp_path, "no folder JPEGImages")):
        load_voc(tmp_path, "train")
    root = voc_tree(tmp_path / "voc")
    with pytest.raises(InputError, match=sentence(root / "ImageSets/Segmentation/test.txt", "train, val")):
        load_voc(root, "test")


def test_image_that_is_not_there(tmp_path):
    root = voc_tree(tmp_path / "voc")
    (root / "JPEGImages" / f"{VOC_IDS[1]}.jpg").unlink()
    with pytest.raises(InputError, match=sentence(root / "JPEGImages" / f"{VOC_IDS[1]}.jpg", "missing")):
        load_voc(root, "train")


@pytest.mark.parametrize("ending", ["jpeg", "png", "JPG"])
def test_other_endings_of_images(tmp_path, ending):
    root = voc_tree(tmp_path / "voc")
    (root / "JPEGImages" / f"{VOC_IDS[1]}.jpg").unlink()
    save_image(root / "JPEGImages" / f"{VOC_IDS[1]}.{ending}", (40, 50))
    assert load_voc(root, "train").image(1).size == (50, 40)


@pytest.mark.parametrize("name", [f"{VOC_IDS[1]}_mask.png", f"{VOC_IDS[1]}.jpg"])
def test_masks_of_other_names_or_formats(tmp_path, name):
    root = voc_tree(tmp_path / "voc")
    for path in [*(root / "SegmentationClass").iterdir(), *(root / "SegmentationClassAug").iterdir()]:
        path.unlink()
    assert not load_voc(root, "train").has_masks
    save_image(root / "SegmentationClass" / name, (40, 50), "L")
    with pytest.raises(InputError, match=sentence(root / "SegmentationClass", name, f"{VOC_IDS[1]}.png")):
        load_voc(root, "train")


def test_values_of_masks(tmp_path):
    root = voc_tree(tmp_path / "voc")
    assert np.unique(load_voc(root, "train", mask_values="15:3").mask(0)).tolist() == [0, 3, 255]


def test_file_names_in_another_unicode_form(tmp_path):
    root = voc_tree(tmp_path / "voc", "xml")
    for folder, ending in (("JPEGImages", "jpg"), ("Annotations", "xml"), ("SegmentationClass", "png")):
        path = root / folder / f"{VOC_IDS[0]}.{ending}"
        path.rename(path.with_name(f"ka\u0308fer.{ending}"))
    write(root / "ImageSets/Segmentation/train.txt", "k\u00e4fer\n")
    data = load_voc(root, "train")
    assert data.image(0).size == (50, 40)
    assert names(data.labels[0]) == ["person"]
    assert data.mask(0).max() == 255


def test_masks_that_are_not_there(tmp_path):
    root = voc_tree(tmp_path / "voc")
    path = root / "SegmentationClass" / f"{VOC_IDS[1]}.png"
    path.unlink()
    data = load_voc(root, "train")
    assert data.mask(0).shape == (40, 50)
    assert data.masked == [0, 2]
    assert (data.mask(1) == 255).all()
    assert data.mask(1).shape == data.size(1)
    for name in ("SegmentationClass", "SegmentationClassAug"):
        (root / name).rename(root / f"no{name}")
    data = load_voc(root, "train")
    assert not data.has_masks
    with pytest.raises(InputError, match="voc train has no masks"):
        data.mask(0)


def test_train_aug(tmp_path):
    root = voc_tree(tmp_path / "voc")
    folder = root / "ImageSets/Segmentation"
    with pytest.raises(InputError, match=sentence(folder, "train_aug.txt", "sbd_root")):
        load_voc(root, "train_aug")
    write(folder / "train.txt", f"{VOC_IDS[2]}\n{VOC_IDS[0]}\n")
    write(tmp_path / "sbd/train.txt", f"{VOC_IDS[1]}\n{VOC_IDS[3]}\n")
    with pytest.raises(InputError, match=sentence(tmp_path / "sbd/val.txt", "does not exist")):
        load_voc(root, "train_aug", sbd_root=tmp_path / "sbd")
    write(tmp_path / "sbd/val.txt", f"{VOC_IDS[0]}\n")
    for split in ("train_aug", "trainaug"):
        assert load_voc(root, split, sbd_root=tmp_path / "sbd").ids == VOC_IDS[:3]
    write(root / "ImageSets/SegmentationAug/trainaug.txt", f"{VOC_IDS[1]}\n")
    assert load_voc(root, "train_aug").ids == (VOC_IDS[1],)
    write(folder / "train_aug.txt", f"/JPEGImages/{VOC_IDS[2]}.jpg /SegmentationClassAug/{VOC_IDS[2]}.png\n")
    assert load_voc(root, "trainaug").ids == (VOC_IDS[2],)


def test_classes_of_ones_own(tmp_path):
    root = voc_tree(tmp_path / "mine")
    write(root / "classes.txt", "wolf\nperson\n")
    write(root / "image_labels.txt", "".join(f"{key} wolf\n" for key in VOC_IDS))
    data = load_voc(root, "train")
    assert data.classes == ("wolf", "person")
    assert data.labels.tolist() == [[1, 0]] * 3
    with pytest.raises(InputError, match=sentence(root / "SegmentationClass" / f"{VOC_IDS[0]}.png", "value 15")):
        data.mask(0)


@pytest.mark.skipif("WSSS_REFERENCE" not in os.environ, reason="WSSS_REFERENCE names no folder with reference lists")
def test_real_train_aug_list_in_the_authors_form(tmp_path):
    numbers = np.load(Path(os.environ["WSSS_REFERENCE"]) / "datasets" / "voc12_lists.npz")["train_aug"]
    ids = [f"{number // 10**6}_{number % 10**6:06d}" for number in numbers.tolist()]
    lines = [f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png\n" for name in ids]
    assert read_ids(write(tmp_path / "train_aug.txt", "".join(lines))) == ids
    assert len(ids) == 10582
