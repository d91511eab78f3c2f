"""One's own data in COCO's form, in a folder for each class, in a table of 0 and 1; COCO 2017; COCO without JSON."""

import json

import numpy as np
import pytest

from tests.data.trees import COCO_IDS, annotation, coco_tree, save_image, save_mask, write
from wsss_lib.data.class_folders import load_class_folders
from wsss_lib.data.coco import load_coco
from wsss_lib.data.folder import load_folder
from wsss_lib.data.own_coco import load_coco_png, load_own_coco
from wsss_lib.data.splits import open_splits
from wsss_lib.errors import InputError


def sentence_of(call):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


# ----------------------------------------------------------------------------------------------- instances of one's own

SQUARE = [[4, 4, 14, 4, 14, 14, 4, 14]]


def own_instances(**changes):
    """Two categories with numbers of their own, in any order, and names of files in folders."""
    return {
        "images": [
            {"id": "first", "file_name": "a.png", "width": 30, "height": 20},
            {"id": 7, "file_name": "tour/b.png", "width": 30, "height": 20},
        ],
        "annotations": [annotation(1, "first", 40, SQUARE, 100.0), annotation(2, 7, 3, SQUARE, 100.0)],
        "categories": [{"id": 40, "name": "zebra crossing"}, {"id": 3, "name": "lamp"}],
        **changes,
    }


def own_tree(root, name="annotations/instances_train.json", **changes):
    save_image(root / "images" / "a.png", (20, 30))
    save_image(root / "images" / "tour" / "b.png", (20, 30), seed=1)
    write(root / name, json.dumps(own_instances(**changes)))
    return root


@pytest.mark.parametrize(
    "name", ["annotations/instances_train.json", "instances.json", "annotations/instances_default.json"]
)
def test_instances_with_own_categories(name, tmp_path):
    splits = open_splits("photos", own_tree(tmp_path, name))
    data = splits.fit
    assert data.classes == ("lamp", "zebra crossing")
    assert data.ids == ("a", "tour_b")
    assert data.labels.tolist() == [[0, 1], [1, 0]]
    assert splits.scored["val"].ids == data.ids
    assert "train and val both have all images" in data.notes[0]
    for index, value in enumerate((2, 1)):
        mask = data.own_mask(index)
        assert mask.shape == (20, 30)
        assert (mask[4:14, 4:14] == value).all()
        assert np.count_nonzero(mask) == 100
    assert data.has_masks
    assert "rendered from" in data.truth


def test_two_files_of_instances(tmp_path):
    own_tree(tmp_path)
    write(
        tmp_path / "annotations/instances_val2021.json",
        json.dumps(own_instances(images=own_instances()["images"][:1], annotations=[])),
    )
    splits = open_splits("photos", tmp_path)
    assert (len(splits.fit), len(splits.scored["val"])) == (2, 1)
    assert not splits.scored["val"].labels.any()


def test_boxes_alone_are_no_masks(tmp_path):
    boxes = [{**one, "segmentation": []} for one in own_instances()["annotations"]]
    data = load_own_coco(own_tree(tmp_path, annotations=boxes), "train")
    assert data.labels.tolist() == [[0, 1], [1, 0]]
    assert not data.has_masks
    assert "has no masks" in sentence_of(lambda: data.own_mask(0))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"images": []}, "has an annotation 1 of an image or category that it does not list"),
        ({"images": [], "annotations": []}, "lists no images"),
        ({"categories": [{"id": 3, "name": "lamp"}]}, "has an annotation 1 of an image or category"),
        ({"categories": [{"id": 3, "name": "x"}, {"id": 40, "name": "x"}]}, "names the class 'x' more than once"),
        ({"categories": 5}, "is not an instances file"),
        ({"images": [{"id": 7, "file_name": "../b.png"}], "annotations": []}, "names the picture '../b.png'"),
        ({"images": [{"id": 7, "file_name": "c.png"}], "annotations": []}, "names 'c.png', which is neither in"),
    ],
)
def test_instances_that_are_refused(changes, sentence, tmp_path):
    assert sentence in sentence_of(lambda: load_own_coco(own_tree(tmp_path, **changes), "train"))


def test_a_polygon_that_cannot_be_rendered(tmp_path):
    bad = [annotation(1, 7, 3, [[1, 2]], 1.0)]
    data = load_own_coco(own_tree(tmp_path, annotations=bad), "train")
    assert "the annotations of b.png cannot be rendered" in sentence_of(lambda: data.own_mask(1))


def test_no_instances_and_damaged_ones(tmp_path):
    assert "has no instances.json" in sentence_of(lambda: load_own_coco(tmp_path, "train"))
    write(tmp_path / "instances.json", "{")
    assert "is not valid JSON" in sentence_of(lambda: load_own_coco(tmp_path, "train"))


# ---------------------------------------------------------------------------------------------------------------- COCO


def test_coco_2017(tmp_path):
    coco_tree(tmp_path)
    (tmp_path / "annotations/instances_val2014.json").rename(tmp_path / "annotations/instances_val2017.json")
    (tmp_path / "val2014").rename(tmp_path / "val2017")
    for path in (tmp_path / "val2017").iterdir():
        path.rename(path.with_name(path.name.rpartition("_")[2]))
    for name in ("val", "val2017"):
        data = load_coco(tmp_path, name)
        assert data.name == "COCO val2017"
        assert data.ids == tuple(f"{number:012d}" for number in COCO_IDS)
        assert data.labels[0].nonzero().flatten().tolist() == [0, 16]


def png_tree(root, labels="cls_labels_coco.npy"):
    for split in ("train2014", "val2014"):
        for number in (9, 25, 30):
            save_image(root / split / f"COCO_{split}_{number:012d}.jpg", (20, 30), seed=number)
        mask = np.zeros((20, 30), np.uint8)
        mask[2:5, 2:8] = 80
        save_mask(root / "SegmentationClass" / split / f"COCO_{split}_{9:012d}.png", mask)
    np.save(root / labels, {9: np.eye(80)[79], 25: np.eye(80)[0] + np.eye(80)[4]})
    return root


@pytest.mark.parametrize("given", [True, False])
def test_coco_without_a_json(given, tmp_path):
    png_tree(tmp_path, "mine.npy" if given else "cls_labels_coco.npy")
    splits = open_splits("coco14", tmp_path, tmp_path / "mine.npy" if given else None)
    data = splits.fit
    assert data.ids == (f"{9:012d}", f"{25:012d}")
    assert [row.nonzero().flatten().tolist() for row in data.labels] == [[79], [0, 4]]
    assert data.masked == [0]
    assert (data.own_mask(0)[2:5, 2:8] == 80).all()
    assert "has no labels of 1 pictures" in data.notes[0]


def test_coco_without_a_json_that_is_refused(tmp_path):
    np.save(tmp_path / "labels.npy", {1: np.eye(80)[0]})
    assert "has no folder train2014 or train2017" in sentence_of(
        lambda: load_coco_png(tmp_path, "train", tmp_path / "labels.npy")
    )
    save_image(tmp_path / "train2017" / f"{9:012d}.jpg", (8, 8))
    assert "lists no picture of" in sentence_of(lambda: load_coco_png(tmp_path, "train", tmp_path / "labels.npy"))


def test_coco_with_both_takes_the_json(tmp_path):
    coco_tree(png_tree(tmp_path))
    write(
        tmp_path / "annotations/instances_train2014.json", (tmp_path / "annotations/instances_val2014.json").read_text()
    )
    assert "labels" in sentence_of(lambda: open_splits("coco14", tmp_path, tmp_path / "cls_labels_coco.npy"))


# --------------------------------------------------------------------------------------------- a folder for each class


def test_a_folder_for_each_class(tmp_path):
    for name in ("dog/a", "dog/c", "cat/b", "cat/c", "none/d"):
        save_image(tmp_path / f"{name}.png", (20, 30), seed=ord(name[-1]))
    save_mask(tmp_path / "masks" / "a.png", np.full((20, 30), 2, np.uint8))
    splits = open_splits("photos", tmp_path)
    data = splits.fit
    assert data.classes == ("cat", "dog")
    assert data.ids == ("a", "b", "c", "d")
    assert data.labels.tolist() == [[0, 1], [1, 0], [1, 1], [0, 0]]
    assert data.masked == [0]
    assert (data.own_mask(0) == 2).all()
    assert splits.scored["val"].ids == data.ids


def test_folders_of_classes_in_folders_of_splits(tmp_path):
    for name in ("train/dog/a", "train/cat/b", "val/cat/c"):
        save_image(tmp_path / f"{name}.png", (20, 30), seed=ord(name[-1]))
    splits = open_splits("photos", tmp_path)
    assert (splits.fit.ids, splits.scored["val"].ids) == (("a", "b"), ("c",))
    assert splits.scored["val"].labels.tolist() == [[1, 0]]
    assert splits.fit.notes == ()


def test_folders_that_are_refused(tmp_path):
    for name in ("dog/a", "cat/a"):
        save_image(tmp_path / f"{name}.png", (20, 30), seed=len(name) + ord(name[0]))
    assert "have the same name but are different pictures" in sentence_of(lambda: load_class_folders(tmp_path, "train"))
    (tmp_path / "empty").mkdir()
    assert "has no folder of pictures for each class" in sentence_of(
        lambda: load_class_folders(tmp_path / "empty", "train")
    )


# ------------------------------------------------------------------------------------------------- a table of 0 and 1


def table_tree(root, text):
    for seed, name in enumerate(("a.png", "b.png")):
        save_image(root / "images" / name, (20, 30), seed=seed)
    write(root / "labels.csv", text)
    return root


def test_a_column_for_every_class(tmp_path):
    data = load_folder(table_tree(tmp_path, "image,sofa,Cat,boat\na.png,1,1,0\nb.png,0,1.0,0\n"), "train")
    assert data.classes == ("sofa", "Cat", "boat")
    assert data.labels.tolist() == [[1, 1, 0], [0, 1, 0]]


def test_columns_with_splits_and_an_order_of_the_classes(tmp_path):
    root = table_tree(tmp_path, "Image,Split,sofa,cat\na.png,train,1,0\nb.png,val,0,1\n")
    write(root / "classes.txt", "cat\nsofa\n")
    assert load_folder(root, "train").labels.tolist() == [[0, 1]]
    assert load_folder(root, "val").labels.tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("image,sofa,cat\na.png,1,yes\nb.png,0,1\n", "the column 'cat' holds 'yes'; write 1"),
        ("image,sofa,cat\na.png,1\nb.png,0,1\n", "has not as many cells as the first line"),
        ("image,sofa,sofa\na.png,1,1\nb.png,0,1\n", "names the class 'sofa' more than once"),
        ("picture,sofa\na.png,1\n", "its first line must be"),
        ("image\na.png\n", "its first line must be"),
    ],
)
def test_columns_that_are_refused(text, sentence, tmp_path):
    assert sentence in sentence_of(lambda: load_folder(table_tree(tmp_path, text), "train"))
