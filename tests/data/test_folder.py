"""A folder of one's own pictures with a table of labels."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from tests.data.trees import folder_tree, save_image, save_mask, write
from wsss_lib.data.dataset import DatasetView
from wsss_lib.data.folder import load_folder
from wsss_lib.errors import InputError


def sentence(path: Path, *words: str) -> str:
    return re.escape(str(path)) + ".*" + ".*".join(words)


@pytest.fixture
def root(tmp_path) -> Path:
    return folder_tree(tmp_path / "pets")


def test_load(root):
    data = load_folder(root, "all")
    assert data.name == "pets all"
    assert data.ids == ("a cat", "b", "c")
    assert data.classes == ("cat", "sofa")
    assert data.labels.tolist() == [[1, 1], [0, 1], [0, 0]]
    assert data.has_masks
    assert np.unique(data.mask(0)).tolist() == [0, 1, 255]
    assert all(data.image(index).mode == "RGB" for index in range(3))
    assert data.masked == [0]
    assert data.mask(1).shape == data.size(1)
    assert (data.mask(1) == 255).all()  # nothing is known about it


def test_splits(root):
    assert load_folder(str(root), "train").ids == ("a cat", "c")
    val = load_folder(root, "val")
    assert val.ids == ("b",)
    assert val.classes == ("cat", "sofa")
    assert not val.has_masks
    with pytest.raises(InputError, match="split 'test'"):
        load_folder(root, "test")


def test_without_a_row_of_val_it_is_the_same_as_train(root):
    text = (root / "labels.csv").read_text()
    write(root / "labels.csv", text.replace(",val", ",train"))
    assert load_folder(root, "val").ids == load_folder(root, "train").ids == ("a cat", "b", "c")
    path = write(root / "labels.csv", text.replace(",train", ",val"))
    with pytest.raises(InputError, match=sentence(path, "no image of the split 'train'")):
        load_folder(root, "train")


def test_a_part_has_masks_if_one_of_its_images_has_one(root):
    data = load_folder(root, "all")
    assert data.head(1).has_masks
    rest = DatasetView(data, "rest", [1, 2])
    assert not rest.has_masks
    assert rest.masked == []
    assert DatasetView(data, "turned", [2, 0]).masked == [1]


def test_without_a_split_column_every_split_is_everything(tmp_path):
    root = folder_tree(tmp_path / "pets", split_column=False)
    assert load_folder(root, "train").ids == load_folder(root, "val").ids == load_folder(root, "all").ids


def test_class_list(root):
    write(root / "classes.txt", "sofa\ndog\ncat\n")
    data = load_folder(root, "all")
    assert data.classes == ("sofa", "dog", "cat")
    assert data.labels.tolist() == [[1, 0, 1], [1, 0, 0], [0, 0, 0]]
    write(root / "classes.txt", "cat\n")
    with pytest.raises(InputError, match=sentence(root / "labels.csv", "label 'sofa' of 'a cat.jpg'", "classes.txt")):
        load_folder(root, "all")


def test_spelling_does_not_matter(root):
    write(root / "classes.txt", " Sofa \nPotted  Plant\nKa\u0308fer\n")
    write(
        root / "labels.csv",
        "Image,LABELS,split\na cat.jpg,sofa;potted plant,Train\nb.png,K\u00c4FER,VAL\nc.bmp,SOFA,train\n",
    )
    data = load_folder(root, "all")
    assert data.classes == ("Sofa", "Potted  Plant", "K\u00e4fer")
    assert data.labels.tolist() == [[1, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert load_folder(root, "train").ids == ("a cat", "c")


def test_classes_whose_names_hold_a_separator(root):
    """A file of classes says that they are one."""
    write(root / "classes.txt", "cat\nsofa\ncat, sofa\nwine/glass\n")
    write(root / "labels.csv", 'image,labels\na cat.jpg,"cat, sofa"\nb.png,wine/glass\nc.bmp,\n')
    assert load_folder(root, "all").labels.tolist() == [[0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    write(root / "labels.csv", "image,labels\na cat.jpg,cat|sofa\nb.png,wine/glass\nc.bmp,\n")
    with pytest.raises(InputError, match=sentence(root / "labels.csv", "'cat|sofa'", "semicolons, cat;sofa")):
        load_folder(root, "all")


def test_names_of_several_words_and_of_signs(root):
    write(root / "labels.csv", "image,labels\na cat.jpg,wine glass;a$\\b$c\nb.png,glass;b\nc.bmp,\n")
    assert load_folder(root, "all").classes == ("a$\\b$c", "b", "glass", "wine glass")


@pytest.mark.parametrize(("listed", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_file_names_in_another_unicode_form(root, listed, stored):
    names = {form: unicodedata.normalize(form, "käfer") for form in (listed, stored)}
    (root / "images" / "b.png").rename(root / "images" / f"{names[stored]}.png")
    (root / "masks" / "a cat.png").rename(root / "masks" / f"{names[stored]}.png")
    write(root / "labels.csv", f"image,labels\na cat.jpg,cat\n{names[listed]}.png,sofa\nc.bmp,\n")
    data = load_folder(root, "all")
    assert data.ids[1] == "k\u00e4fer"
    assert data.image(1).size == (30, 20)
    assert data.mask(1).max() == 255


@pytest.mark.parametrize("name", ["a cat_mask.png", "a cat.jpg", "mask_a cat.png", "a cat.tif"])
def test_masks_of_other_names_or_formats(root, name):
    (root / "masks" / "a cat.png").unlink()
    save_image(root / "masks" / name, (20, 30), "L")
    with pytest.raises(InputError, match=sentence(root / "masks", f"no mask of any image, but {name}", "a cat.png")):
        load_folder(root, "val")


def test_masks_among_the_pictures(root):
    save_image(root / "images" / "b_mask.png", (20, 30), "L")
    with pytest.raises(InputError, match=sentence(root / "images/b_mask.png", "if it is a mask, move it to", "masks")):
        load_folder(root, "all")


def test_values_of_masks(root):
    mask = np.zeros((20, 30), np.uint8)
    mask[:5] = 255
    save_mask(root / "masks" / "a cat.png", mask)
    assert np.unique(load_folder(root, "all", "255:2").mask(0)).tolist() == [0, 2]
    with pytest.raises(InputError, match=r"mask_values '255:3'.* a class number up to 2"):
        load_folder(root, "all", "255:3")


def test_table_saved_by_a_spreadsheet(root):
    text = (root / "labels.csv").read_text().replace("image,labels,split", "image, labels ,split").replace("\n", "\r\n")
    (root / "labels.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("a cat.jpg", '"a cat.jpg"').encode() + b"\r\n")
    assert load_folder(root, "all").ids == ("a cat", "b", "c")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "begins with ''"),
        ("image,labels\n", "no rows"),
        ("name,labels\na cat.jpg,cat\n", "begins with 'name,labels'"),
        ("image;labels\na cat.jpg;cat\n", "begins with 'image;labels'"),
        ("image,labels\na cat.jpg,cat,sofa\n", "line 2 has not as many cells"),
        ("image,labels\na cat.jpg,cat\nb.png\n", "line 3 has not as many cells"),
        ("image,labels,split\na cat.jpg,cat,test\n", "line 2: the split is 'test'"),
        ("image,labels\n../a cat.jpg,cat\n", "'../a cat.jpg' is not a file name"),
        ("image,labels\n,cat\n", "'' is not a file name"),
        ("image,labels\na cat.jpg,cat\na cat.jpg,sofa\n", "'a cat.jpg' is listed more than once"),
        ("image,labels\na cat.jpg,cat\na cat.png,sofa\n", "'a cat.png' has the same id as 'a cat.jpg'"),
        ("image,labels\na cat.jpg,cat\nd.jpg,cat\n", "'d.jpg', which is not an image in"),
        ("image,labels\nnotes.txt,cat\n", "'notes.txt', which is not an image in"),
        ("image,labels\na cat.jpg,\nb.png,\nc.bmp,\n", "names no class"),
        ("image,labels\na cat.jpg,background\nb.png,\nc.bmp,\n", "names 'background'"),
        ("image,labels\na cat.jpg,cat\nb.png,Cat\nc.bmp,\n", "names the classes 'Cat' and 'cat'"),
        ("image,labels\na cat.jpg,käfer\nb.png,ka\u0308fer\nc.bmp,\n", "Unicode form; write the name in one way"),
        ('image,labels\na cat.jpg,"cat,sofa"\nb.png,\nc.bmp,\n', "'cat,sofa' of 'a cat.jpg' looks like several"),
        ("image,labels\na cat.jpg,cat|sofa\nb.png,\nc.bmp,\n", "separate labels by semicolons, cat;sofa"),
        ("image,labels\na cat.jpg,cat/sofa\nb.png,cat\nc.bmp,sofa\n", "separate labels by semicolons, cat;sofa"),
        ("image,labels\na cat.jpg,sofa cat\nb.png,Cat\nc.bmp,sofa\n", "separate labels by semicolons, sofa;cat"),
        ("image,labels\na cat.jpg,cat + sofa\nb.png,cat\nc.bmp,sofa\n", "separate labels by semicolons, cat;sofa"),
        ("image,labels,split\na cat.jpg,cat,sofa\n", "the split is 'sofa'; write train or val, and separate several"),
        ("image,labels\n" + "x" * 200_000 + ",\n", "field larger than field limit"),
    ],
)
def test_table_that_cannot_be(root, text, words):
    path = write(root / "labels.csv", text)
    with pytest.raises(InputError, match=sentence(path, re.escape(words))):
        load_folder(root, "all")


def test_image_without_labels(root):
    save_image(root / "images" / "aa.jpg", (5, 5))
    save_image(root / "images" / "z.JPG", (5, 5))
    with pytest.raises(InputError, match=sentence(root / "images/aa.jpg", "no labels .2 of 5")):
        load_folder(root, "all")


def test_parts_that_are_not_there(root):
    (root / "images").rename(root / "pictures")
    with pytest.raises(InputError, match=sentence(root / "images", "does not exist")):
        load_folder(root, "all")
    (root / "labels.csv").unlink()
    with pytest.raises(InputError, match=sentence(root / "labels.csv", "does not exist")):
        load_folder(root, "all")


def test_table_of_another_encoding(root):
    (root / "labels.csv").write_bytes("image,labels\nkätzchen.jpg,cat\n".encode("latin-1"))
    with pytest.raises(InputError, match=sentence(root / "labels.csv", "not UTF-8")):
        load_folder(root, "all")
