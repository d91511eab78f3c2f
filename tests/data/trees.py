"""Tiny data sets on disk, one function per layout. Import as ``from tests.data.trees import voc_tree``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

VOC_IDS = ("2007_000001", "2007_000002", "2007_000003", "2008_000004", "2008_000005")
COCO_IDS = (9, 25, 30, 42)


def voc_mask(size, box, value):
    """A mask of one object with a border of 255, as VOC draws it."""
    mask = np.zeros(size, dtype=np.uint8)
    top, left, bottom, right = box
    mask[top:bottom, left:right] = 255
    mask[top + 1 : bottom - 1, left + 1 : right - 1] = value
    return mask


def save_mask(path: Path, mask: np.ndarray) -> None:
    """Save a palette PNG without the code under test."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(mask)
    picture.putpalette([channel for value in range(256) for channel in (value, 255 - value, value // 2)])
    picture.save(path)


def save_image(path: Path, size, mode="RGB", seed=0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = size if mode == "L" else (*size, 3)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def voc_xml(*names: str) -> str:
    objects = "".join(f"<object><name>{name}</name><part><name>head</name></part></object>" for name in names)
    return f"<annotation><folder>VOC2012</folder>{objects}</annotation>"


def voc_tree(root: Path, labels: str = "txt") -> Path:
    """Five images: three in train, two in val.

    2007_000002 is greyscale, 2007_000003 is smaller than the others and is tagged ``dog`` without a pixel of a dog,
    and the mask of 2008_000005 lies in SegmentationClassAug. ``labels`` is ``txt``, ``xml`` or ``npy``.
    """
    classes = {VOC_IDS[0]: 15, VOC_IDS[1]: 8, VOC_IDS[2]: 15, VOC_IDS[3]: 20, VOC_IDS[4]: 1}
    tags = dict(zip(VOC_IDS, (["person"], ["cat"], ["dog", "person"], ["tvmonitor"], ["aeroplane"]), strict=True))
    for seed, (image_id, value) in enumerate(classes.items()):
        size = (20, 24) if image_id == VOC_IDS[2] else (40, 50)
        save_image(root / "JPEGImages" / f"{image_id}.jpg", size, "L" if image_id == VOC_IDS[1] else "RGB", seed)
        folder = "SegmentationClassAug" if image_id == VOC_IDS[4] else "SegmentationClass"
        save_mask(root / folder / f"{image_id}.png", voc_mask(size, (4, 5, 16, 20), value))
    write(root / "ImageSets/Segmentation/train.txt", "\n".join(VOC_IDS[:3]) + "\n")
    write(root / "ImageSets/Segmentation/val.txt", "\n".join(VOC_IDS[3:]) + "\n")
    if labels == "txt":
        write(root / "image_labels.txt", "".join(f"{key} {' '.join(names)}\n" for key, names in tags.items()))
    if labels == "xml":
        for key, names in tags.items():
            write(root / "Annotations" / f"{key}.xml", voc_xml(*names))
    if labels == "npy":
        vectors = {key: np.zeros(20, dtype=np.float32) for key in tags}
        position = {"person": 14, "cat": 7, "dog": 11, "tvmonitor": 19, "aeroplane": 0}
        for key, names in tags.items():
            vectors[key][[position[name] for name in names]] = 1
        np.save(root / "cls_labels.npy", vectors)
    return root


def coco_annotations() -> list[dict]:
    """Image 9: a dog (category 18) on a person (1) beside a crowd; 25: a toothbrush (90) in two parts; 42: a crowd."""
    square = [2, 2, 22, 2, 22, 22, 2, 22]
    small = [6, 6, 12, 6, 12, 12, 6, 12]
    columns = [0] * (30 * 40)
    for column in range(10, 30):
        columns[column * 30 : column * 30 + 30] = [1] * 30
    crowd = {"size": [30, 40], "counts": run_lengths(columns)}
    return [
        annotation(1, 9, 1, [square], 400.0),
        annotation(2, 9, 18, [small], 36.0),
        annotation(3, 9, 1, crowd, 600.0, iscrowd=1),
        annotation(4, 25, 90, [small, [20, 20, 26, 20, 26, 26, 20, 26]], 72.0),
        annotation(5, 42, 3, crowd, 600.0, iscrowd=1),
    ]


def annotation(number, image, category, segmentation, area, iscrowd=0) -> dict:
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "area": area,
        "bbox": [0, 0, 1, 1],
        "iscrowd": iscrowd,
    }


def run_lengths(column_major) -> list[int]:
    """COCO's uncompressed code: lengths of runs in turn of 0 and 1, the first of 0."""
    runs, value = [0], 0
    for pixel in column_major:
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


def instances(annotations=None, images=COCO_IDS) -> dict:
    return {
        "info": {"description": "Größe"},
        "images": [
            {"id": number, "file_name": f"COCO_val2014_{number:012d}.jpg", "height": 30, "width": 40}
            for number in reversed(images)
        ],
        "licenses": [],
        "annotations": coco_annotations() if annotations is None else annotations,
        "categories": [{"id": 1, "name": "person"}],
    }


def coco_tree(root: Path, layout: str = "official") -> Path:
    """Four images of val2014, of which 30 has no annotation; ``layout`` is ``official`` or ``jpegimages``."""
    for number in COCO_IDS:
        name = f"val2014/COCO_val2014_{number:012d}" if layout == "official" else f"JPEGImages/{number:012d}"
        save_image(root / f"{name}.jpg", (30, 40), "L" if number == 30 else "RGB", number)
    write(root / "annotations/instances_val2014.json", json.dumps(instances(), ensure_ascii=False))
    return root


def folder_tree(root: Path, split_column: bool = True) -> Path:
    """Three images of one's own: a cat on a sofa with a mask, a sofa, and one without any class."""
    rows = [("a cat.jpg", "sofa; cat", "train"), ("b.png", "sofa", "val"), ("c.bmp", "", "train")]
    for seed, (name, _, _) in enumerate(rows):
        save_image(root / "images" / name, (20, 30), seed=seed)
    write(root / "images" / ".DS_Store", "not an image")
    write(root / "images" / "notes.txt", "not an image either")
    save_mask(root / "masks" / "a cat.png", voc_mask((20, 30), (2, 2, 12, 12), 1))
    header = "image,labels,split" if split_column else "image,labels"
    lines = [",".join(row if split_column else row[:2]) for row in rows]
    write(root / "labels.csv", "\n".join([header, *lines]) + "\n")
    return root


def coco_splits_tree(root: Path) -> Path:
    """Both splits of COCO: a dog, a toothbrush and an image without objects to train on, and a dog for validation."""
    box = [[4.0, 4.0, 24.0, 4.0, 24.0, 24.0, 4.0, 24.0]]
    for split, objects in {"train2014": {1: 18, 2: 90, 3: None}, "val2014": {7: 18}}.items():
        for number in objects:
            save_image(root / split / f"COCO_{split}_{number:012d}.jpg", (40, 48), seed=number)
        found = [annotation(n, n, category, box, 400.0) for n, category in objects.items() if category]
        write(root / "annotations" / f"instances_{split}.json", json.dumps(instances(found, list(objects))))
    return root
