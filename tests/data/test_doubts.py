"""What is said about data that can be used, but whose numbers mean less than they seem to."""

import shutil

import numpy as np
import pytest
from PIL import Image

from tests.data import trees
from wsss_lib.data.splits import open_splits


def pets(root, rows, masks=None):
    """A folder of one's own: a row for each image, ``(labels, split)``; all images differ."""
    lines = ["image,labels,split"]
    for i, (labels, split) in enumerate(rows):
        trees.save_image(root / "images" / f"p{i}.png", (12, 16), seed=i)
        if masks is not None:
            trees.save_mask(root / "masks" / f"p{i}.png", np.full((12, 16), masks, np.uint8))
        lines.append(f"p{i}.png,{labels},{split}")
    trees.write(root / "labels.csv", "\n".join(lines))
    return root


GOOD = [("cat", "train"), ("dog", "train"), ("cat", "val"), ("dog", "val")]


def doubts(root, **changes):
    return open_splits("photos", root, **changes).doubts


def test_nothing_on_good_data(tmp_path):
    assert doubts(pets(tmp_path, GOOD, masks=1)) == ()
    assert open_splits("toy").doubts == ()


def test_classes_that_no_training_image_shows(tmp_path):
    lines = doubts(pets(tmp_path, [*GOOD, ("cow;emu", "val")]))
    assert lines == (
        "No training image shows 'cow', 'emu'.",
        "Images of val show 'cow', 'emu', which no training image shows.",
    )
    trees.write(tmp_path / "classes.txt", "cat\ndog\ncow\nemu\nyak\n")
    assert "No training image shows 'cow', 'emu', 'yak'." in doubts(tmp_path)


def test_a_class_that_every_training_image_shows(tmp_path):
    (line,) = doubts(pets(tmp_path, [("cat", "train"), ("cat;dog", "train"), ("dog", "val")]))
    assert line.startswith("Every training image shows 'cat'")


def test_val_without_any_class(tmp_path):
    assert doubts(pets(tmp_path, [*GOOD[:2], ("", "val")])) == ("No image of val shows any class.",)


def test_a_table_without_splits(tmp_path):
    trees.folder_tree(tmp_path, split_column=False)
    lines = doubts(tmp_path)
    assert "labels.csv has no column split, so train and val both have all images." in lines
    assert any(line.startswith("Every image of val: also among the training images") for line in lines)
    assert len(set(lines)) == len(lines)


@pytest.mark.parametrize("kind", ["copy", "link"])
def test_the_same_picture_under_another_name(tmp_path, kind):
    pets(tmp_path, GOOD)
    first, last = tmp_path / "images/p0.png", tmp_path / "images/p3.png"
    last.unlink()
    last.symlink_to(first) if kind == "link" else shutil.copy(first, last)
    (line,) = doubts(tmp_path)
    assert line.startswith("1 of the 2 images of val ('p3'): also among the training images")


def test_pictures_of_equal_size_that_differ_in_the_end(tmp_path):
    """Files without compression, of which only the last pixel differs."""
    pets(tmp_path, GOOD)
    for i in range(4):
        pixels = np.zeros((200, 200, 3), np.uint8)
        pixels[-1, -1] = i
        Image.fromarray(pixels).save(tmp_path / "images" / f"p{i}.png", compress_level=0)
    assert len({path.stat().st_size for path in (tmp_path / "images").iterdir()}) == 1
    assert doubts(tmp_path) == ()


def test_lists_that_overlap(tmp_path):
    trees.voc_tree(tmp_path)
    lists = tmp_path / "ImageSets/Segmentation"
    trees.write(lists / "train_aug.txt", "\n".join(trees.VOC_IDS))
    lines = doubts(tmp_path)
    assert any(line.startswith("Every image of val: also among the training images") for line in lines)
    assert not any("the images of train," in line for line in lines)
    trees.write(lists / "train.txt", "\n".join(trees.VOC_IDS[2:4]))
    assert any(
        "1 of the 2 images of val ('2008_000004'): also among the images of train," in x for x in doubts(tmp_path)
    )


def test_names_in_annotations_that_are_no_class(tmp_path):
    """Parts of a person, and the owner of a photograph, are not meant to be classes."""
    trees.voc_tree(tmp_path, "xml")
    quiet = doubts(tmp_path)
    assert not any("Annotations" in line for line in quiet)
    path = tmp_path / "Annotations" / f"{trees.VOC_IDS[0]}.xml"
    trees.write(path, trees.voc_xml("helmet").replace("<folder>", "<owner><name>Somebody</name></owner><folder>"))
    (line,) = set(doubts(tmp_path)) - {*quiet, "No training image shows 'aeroplane'."}
    assert line.startswith("Annotations holds names that are not classes and do not count, 'helmet': 1 of the 3 images")


def test_the_first_masks_are_looked_at(tmp_path):
    lines = doubts(pets(tmp_path, GOOD, masks=255))
    assert len(lines) == 2
    assert all("mask_values" in line for line in lines)
    assert doubts(tmp_path, mask_values="255:1") == ()
    Image.new("RGB", (16, 12)).save(tmp_path / "masks/p2.png")
    (line,) = doubts(tmp_path, mask_values="255:1")
    assert line.startswith("Masks of val cannot be scored as they are: ")
    assert "RGB pixels" in line


def test_images_that_are_turned(tmp_path):
    pets(tmp_path, GOOD, masks=1)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("RGB", (16, 12), 9).save(tmp_path / "images/p3.png", exif=exif)
    (line,) = doubts(tmp_path)
    assert line.startswith("An EXIF orientation turns or mirrors 1 images of val ('p3')")
